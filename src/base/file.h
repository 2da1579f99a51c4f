/* Files. Reading is bounded: a reader never goes past its end and says so. Writing is atomic: temporary file, sync, rename. */
#ifndef BWI_FILE_H
#define BWI_FILE_H
#include "base/status.h"

/* A file mapped read-only, or read into memory when it cannot be mapped. Empty files are valid (size 0). */
typedef struct bwi_file {
    const uint8_t *data;
    size_t size;
    bool mapped;
    char *path;
} bwi_file;
BW_MUST_USE bw_status bwi_file_open(bwi_file *f, const char *path, bw_error *err);
void bwi_file_close(bwi_file *f); /* accepts a zeroed struct */

/* Little-endian cursor over a buffer. After the first read past the end, `bad` stays set and every read gives 0. */
typedef struct bwi_reader {
    const uint8_t *data;
    size_t size, at;
    bool bad;
} bwi_reader;
const uint8_t *bwi_read_bytes(bwi_reader *r, size_t n); /* NULL past the end */
uint8_t bwi_read_u8(bwi_reader *r);
uint16_t bwi_read_u16(bwi_reader *r);
uint32_t bwi_read_u32(bwi_reader *r);
uint64_t bwi_read_u64(bwi_reader *r);

/* A file being written beside its final place as PATH.tmp; commit syncs file and folder and renames. A crash at any moment leaves
 * either the old file or the new one. Errors (full disk, read-only folder) name the path. */
typedef struct bwi_writer bwi_writer;
BW_MUST_USE bw_status bwi_writer_open(bwi_writer **w, const char *path, bw_error *err);
BW_MUST_USE bw_status bwi_writer_add(bwi_writer *w, const void *data, size_t n, bw_error *err);
/* Frees w in every case; removes the temporary file on failure. */
BW_MUST_USE bw_status bwi_writer_commit(bwi_writer **w, bw_error *err);
/* All of these with n bytes. */
BW_MUST_USE bw_status bwi_file_write(const char *path, const void *data, size_t n, bw_error *err);
/* Removes the temporary file; *w may be NULL. */
void bwi_writer_abandon(bwi_writer **w);

BW_MUST_USE bw_status bwi_make_dir(const char *path, bw_error *err); /* with parents; an existing folder is fine */
bool bwi_file_exists(const char *path);

/* Names of files, or of anything else. */
typedef struct bwi_names {
    char **name; /* [n] */
    size_t n, room;
} bwi_names;
/* What a folder holds, by strcmp, but for names that begin with a dot. names: zeroed before; to be freed in every case. BW_IO, BW_NOMEM name
 * the folder. */
BW_MUST_USE bw_status bwi_list_dir(bwi_names *names, const char *path, bw_error *err);
void bwi_names_free(bwi_names *names); /* accepts a zeroed struct */
/* a * b and a + b with overflow check: false on overflow. */
bool bwi_mul(size_t a, size_t b, size_t *out);
bool bwi_add(size_t a, size_t b, size_t *out);
#endif
