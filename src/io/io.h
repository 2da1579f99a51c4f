/* File formats of tensors: one file a format, one row in formats.def. Parsers trust nothing: every count, offset and product is checked against the
 * bytes that are there, and an error names the file and the entry. */
#ifndef BWI_IO_H
#define BWI_IO_H
#include "base/file.h"
#include "tensor/tensor.h"

/* Tensors of a file or on their way to one, with string metadata. Data read from a file need not be aligned to its element: take it out
 * with memcpy or bwi_tensor_at. */
typedef struct bwi_tensors {
    bwi_tensor *t;
    size_t n;
    char **key, **value;
    size_t n_meta; /* safetensors' __metadata__ */
    bwi_file file; /* what tensor data may point into */
    void *own;     /* chain of buffers that hold names, metadata and data that is not in the file */
} bwi_tensors;
/* Appends a tensor; the name is copied, data [product of dim] is borrowed and stays valid as long as ts (say, bwi_own_alloc(&ts->own, ...)). */
BW_MUST_USE bw_status bwi_tensors_add(bwi_tensors *ts, const char *name, bwi_dtype dtype, int ndim, const int64_t *dim,
                                      const void *data, bw_error *err);
/* Appends metadata; both strings are copied. */
BW_MUST_USE bw_status bwi_tensors_add_meta(bwi_tensors *ts, const char *key, const char *value, bw_error *err);
/* BW_FORMAT naming the first name that two tensors share. */
BW_MUST_USE bw_status bwi_tensors_unique(const bwi_tensors *ts, bw_error *err);
void bwi_tensors_free(bwi_tensors *ts); /* accepts a zeroed struct */
const bwi_tensor *bwi_tensors_find(const bwi_tensors *ts, const char *name);
const char *bwi_tensors_meta(const bwi_tensors *ts, const char *key); /* NULL: absent */

typedef struct bwi_format {
    const char *name, *summary, *suffixes;           /* ".th .pth .pt" */
    bool (*probe)(const uint8_t *data, size_t size); /* by content, not by name */
    /* Parses f into ts, zeroed before, which takes f over on success: ts->file = *f, *f zeroed. On failure ts is empty again. Messages do not
     * name the file: bwi_tensors_read puts that before them. */
    bw_status (*read)(bwi_file *f, bwi_tensors *ts, bw_error *err);
} bwi_format;
const bwi_format *bwi_format_at(size_t i);
/* Opens a weights file of any format, by content. *format (may be NULL) gets the row. */
BW_MUST_USE bw_status bwi_tensors_read(bwi_tensors *ts, const char *path, const bwi_format **format, bw_error *err);

/* Writes a safetensors file atomically. Tensors in the given order, data 64-byte aligned, header padded with spaces; metadata keys in the
 * given order: the same input gives the same bytes. */
BW_MUST_USE bw_status bwi_safetensors_write(const char *path, const bwi_tensor *t, size_t n, const char *const *key,
                                            const char *const *value, size_t n_meta, bw_error *err);

/* The same file in memory, freed with bwi_free. */
BW_MUST_USE bw_status bwi_safetensors_image(uint8_t **out, size_t *size, const bwi_tensors *ts, bw_error *err);

/* Memory in a chain that is freed as a whole: 16-byte aligned, not zeroed; NULL on failure. *chain starts as NULL. */
void *bwi_own_alloc(void **chain, size_t bytes);
void bwi_own_free(void **chain);

#define BWI_DIMS_TEXT 200
/* "[16, 3, 3, 3]" into text. Returns text. */
const char *bwi_dims_text(char text[BWI_DIMS_TEXT], int ndim, const int64_t *dim);
/* Element i of any numeric tensor as double. */
double bwi_tensor_at(const bwi_tensor *t, size_t i);
size_t bwi_tensor_numel(const bwi_tensor *t);
#endif
