#include "base/file.h"
#include "base/alloc.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool bwi_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
bool bwi_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

bool bwi_file_exists(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
}

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = open(path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------------ */

/* Reads fd to its end into fresh memory: pipes, and files whose size is not known beforehand. */
static bw_status slurp(bwi_file *f, int fd, bw_error *err)
{
    uint8_t *data = NULL;
    size_t size = 0, cap = 0;
    bw_status st;
    for (;;) {
        if (size == cap) {
            size_t more = cap ? 2 * cap : 1 << 16;
            uint8_t *p = bwi_realloc(data, more);
            if (!p) {
                st = bwi_fail(err, BW_NOMEM, "%s: out of memory after reading %zu bytes", f->path, size);
                goto fail;
            }
            data = p;
            cap = more;
        }
        ssize_t n = read(fd, data + size, cap - size);
        if (n == 0) break;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            st = bwi_fail(err, BW_IO, "%s: cannot read: %s", f->path, strerror(errno));
            goto fail;
        }
        size += (size_t)n;
    }
    f->data = data;
    f->size = size;
    return BW_OK;
fail:
    bwi_free(data);
    return st;
}

/* A mapped file must not be shortened in place while it is open (reading behind its new end is a SIGBUS). Files written by this library
 * never are: bwi_writer replaces them as a whole, and the mapping keeps the old one. */
bw_status bwi_file_open(bwi_file *f, const char *path, bw_error *err)
{
    bw_status st = BW_OK;
    struct stat s;
    *f = (bwi_file){0};
    int fd = open_retry(path, O_RDONLY, 0);
    if (fd < 0) return bwi_fail(err, BW_IO, "%s: cannot open: %s", path, strerror(errno));
    f->path = bwi_strdup(path);
    if (!f->path) {
        st = bwi_fail(err, BW_NOMEM, "%s: out of memory", path);
        goto fail;
    }
    if (fstat(fd, &s) != 0) {
        st = bwi_fail(err, BW_IO, "%s: cannot read: %s", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(s.st_mode) && !S_ISFIFO(s.st_mode)) {
        st = bwi_fail(err, BW_IO, "%s: expected a file, found a %s", path, S_ISDIR(s.st_mode) ? "folder" : "device");
        goto fail;
    }
    if (S_ISREG(s.st_mode) && s.st_size > 0) {
        void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p != MAP_FAILED) {
            f->data = p;
            f->size = (size_t)s.st_size;
            f->mapped = true;
            close(fd);
            return BW_OK;
        }
    }
    BWI_TRY(slurp(f, fd, err));
    close(fd);
    return BW_OK;
fail:
    close(fd);
    bwi_file_close(f);
    return st;
}

void bwi_file_close(bwi_file *f)
{
    if (f->mapped)
        munmap((void *)(uintptr_t)f->data, f->size);
    else
        bwi_free((void *)(uintptr_t)f->data);
    bwi_free(f->path);
    *f = (bwi_file){0};
}

const uint8_t *bwi_read_bytes(bwi_reader *r, size_t n)
{
    if (r->bad || r->at > r->size || n > r->size - r->at) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += n;
    return p;
}

static uint64_t read_le(bwi_reader *r, int bytes)
{
    const uint8_t *p = bwi_read_bytes(r, (size_t)bytes);
    uint64_t v = 0;
    for (int i = 0; p && i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t bwi_read_u8(bwi_reader *r)
{
    return (uint8_t)read_le(r, 1);
}
uint16_t bwi_read_u16(bwi_reader *r)
{
    return (uint16_t)read_le(r, 2);
}
uint32_t bwi_read_u32(bwi_reader *r)
{
    return (uint32_t)read_le(r, 4);
}
uint64_t bwi_read_u64(bwi_reader *r)
{
    return read_le(r, 8);
}

/* ---- Writing ------------------------------------------------------------------------------------------------------------------ */

enum { BUFFER = 1 << 16 };

struct bwi_writer {
    char *path, *temporary, *folder;
    int fd;
    int failed; /* errno of the first failed write: the file is not worth committing */
    size_t used;
    uint8_t buffer[BUFFER];
};

static void writer_free(bwi_writer **w)
{
    bwi_free((*w)->path);
    bwi_free((*w)->temporary);
    bwi_free((*w)->folder);
    bwi_free(*w);
    *w = NULL;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return bwi_strdup(".");
    return slash == path ? bwi_strdup("/") : bwi_strndup(path, (size_t)(slash - path));
}

bw_status bwi_writer_open(bwi_writer **out, const char *path, bw_error *err)
{
    *out = NULL;
    bwi_writer *w = bwi_calloc(1, sizeof *w);
    if (w) {
        w->path = bwi_strdup(path);
        w->temporary = bwi_asprintf("%s.tmp", path);
        w->folder = folder_of(path);
    }
    if (!w || !w->path || !w->temporary || !w->folder) {
        if (w) writer_free(&w);
        return bwi_fail(err, BW_NOMEM, "%s: out of memory", path);
    }
    w->fd = open_retry(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0666);
    if (w->fd < 0) {
        bw_status st = bwi_fail(err, BW_IO, "%s: cannot write %s: %s", path, w->temporary, strerror(errno));
        writer_free(&w);
        return st;
    }
    *out = w;
    return BW_OK;
}

static bw_status write_failed(bwi_writer *w, int error, bw_error *err)
{
    w->failed = error;
    bool full = error == ENOSPC || error == EDQUOT;
    return bwi_fail(err, BW_IO, "%s: cannot write: %s%s", w->path, strerror(error),
                    full ? "; free some space on its disk or write elsewhere" : "");
}

static bw_status write_all(bwi_writer *w, const uint8_t *p, size_t n, bw_error *err)
{
    while (n) {
        ssize_t done = write(w->fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return write_failed(w, done ? errno : EIO, err);
        p += done;
        n -= (size_t)done;
    }
    return BW_OK;
}

bw_status bwi_writer_add(bwi_writer *w, const void *data, size_t n, bw_error *err)
{
    if (w->failed) return write_failed(w, w->failed, err);
    if (n > BUFFER - w->used) {
        bw_status st = write_all(w, w->buffer, w->used, err);
        w->used = 0;
        if (st != BW_OK) return st;
        if (n >= BUFFER) return write_all(w, data, n, err);
    }
    if (n) memcpy(w->buffer + w->used, data, n);
    w->used += n;
    return BW_OK;
}

/* Makes a rename durable. File systems that cannot sync a folder, and folders that may not be read, are left to themselves. */
static bw_status sync_folder(const bwi_writer *w, bw_error *err)
{
    int fd = open_retry(w->folder, O_RDONLY | O_DIRECTORY, 0), error = 0;
    if (fd < 0) return BW_OK;
    while (fsync(fd) != 0) {
        error = errno;
        if (error != EINTR) break;
        error = 0;
    }
    close(fd);
    if (error == 0 || error == EINVAL || error == ENOTSUP || error == EROFS) return BW_OK;
    return bwi_fail(err, BW_IO, "%s: cannot sync its folder: %s", w->path, strerror(error));
}

bw_status bwi_writer_commit(bwi_writer **writer, bw_error *err)
{
    bwi_writer *w = *writer;
    bw_status st = w->failed ? write_failed(w, w->failed, err) : write_all(w, w->buffer, w->used, err);
    while (st == BW_OK && fsync(w->fd) != 0)
        if (errno != EINTR) st = write_failed(w, errno, err);
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0 && st == BW_OK && errno != EINTR) st = write_failed(w, errno, err);
    if (st == BW_OK && rename(w->temporary, w->path) != 0)
        st = bwi_fail(err, BW_IO, "%s: cannot rename %s to it: %s", w->path, w->temporary, strerror(errno));
    if (st != BW_OK) {
        bwi_writer_abandon(writer);
        return st;
    }
    st = sync_folder(w, err);
    writer_free(writer);
    return st;
}

void bwi_writer_abandon(bwi_writer **w)
{
    if (!*w) return;
    if ((*w)->fd >= 0) close((*w)->fd);
    unlink((*w)->temporary);
    writer_free(w);
}

bw_status bwi_file_write(const char *path, const void *data, size_t n, bw_error *err)
{
    bwi_writer *w = NULL;
    bw_status st;
    BWI_TRY(bwi_writer_open(&w, path, err));
    BWI_TRY(bwi_writer_add(w, data, n, err));
    st = bwi_writer_commit(&w, err);
fail:
    bwi_writer_abandon(&w);
    return st;
}

bw_status bwi_make_dir(const char *path, bw_error *err)
{
    struct stat s;
    char *p = bwi_strdup(path);
    if (!p) return bwi_fail(err, BW_NOMEM, "%s: out of memory", path);
    bw_status st = BW_OK;
    for (size_t i = 1, n = strlen(p); n && i <= n && st == BW_OK; i++) {
        if (p[i] != '/' && p[i] != 0) continue;
        char end = p[i];
        p[i] = 0;
        /* Not mkdir's errno: an existing folder may also answer EROFS or EACCES. */
        if (mkdir(p, 0777) != 0) {
            int error = errno;
            if (stat(p, &s) != 0)
                st = bwi_fail(err, BW_IO, "%s: cannot create folder %s: %s", path, p, strerror(error));
            else if (!S_ISDIR(s.st_mode))
                st = bwi_fail(err, BW_IO, "%s: cannot create the folder: %s is a file", path, p);
        }
        p[i] = end;
    }
    if (!path[0]) st = bwi_fail(err, BW_IO, "cannot create a folder without a name");
    bwi_free(p);
    return st;
}

/* ---- Listing a folder ---------------------------------------------------------------------------------------------------------- */

static bool add_name(bwi_names *names, const char *name)
{
    if (names->n == names->room) {
        const size_t room = names->room ? 2 * names->room : 32;
        char **more = bwi_realloc(names->name, room * sizeof *more);
        if (!more) return false;
        names->name = more;
        names->room = room;
    }
    char *copy = bwi_strdup(name);
    if (copy) names->name[names->n++] = copy;
    return copy;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bw_status bwi_list_dir(bwi_names *names, const char *path, bw_error *err)
{
    const struct dirent *e;
    bw_status st = BW_OK;
    DIR *d = opendir(path);
    if (!d) return bwi_fail(err, BW_IO, "%s: cannot read the folder: %s", path, strerror(errno));
    while (!st && (errno = 0, e = readdir(d)))
        if (e->d_name[0] != '.' && !add_name(names, e->d_name))
            st = bwi_fail(err, BW_NOMEM, "%s: no memory for the names in the folder", path);
    if (!st && errno) st = bwi_fail(err, BW_IO, "%s: cannot read the folder: %s", path, strerror(errno));
    closedir(d);
    if (!st && names->n) qsort(names->name, names->n, sizeof *names->name, by_name);
    return st;
}

void bwi_names_free(bwi_names *names)
{
    for (size_t i = 0; i < names->n; i++) bwi_free(names->name[i]);
    bwi_free(names->name);
    *names = (bwi_names){0};
}
