/* Lists of named tensors: building, finding, freeing, and opening a file by what it holds. */
#include "io/io.h"
#include "base/alloc.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(name) extern const bwi_format bwi_format_##name;
#include "io/formats.def"
#undef ROW
static const bwi_format *const rows[] = {
#define ROW(name) &bwi_format_##name,
#include "io/formats.def"
#undef ROW
};
#define N_ROWS (sizeof rows / sizeof *rows)

const bwi_format *bwi_format_at(size_t i)
{
    return i < N_ROWS ? rows[i] : NULL;
}

/* ---- Chain of buffers ---- */

/* Small requests share a block, the head of the chain; a large one gets a block of its own behind it. */
#define BLOCK_BYTES ((size_t)4032)
#define SMALL_BYTES ((size_t)1024)
typedef struct block {
    struct block *next;
    size_t size, used;
    uint8_t align[40]; /* so that what follows stays 64-byte aligned */
} block;

void *bwi_own_alloc(void **chain, size_t bytes)
{
    block *head = *chain;
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t need = (bytes + 15) & ~(size_t)15;
    if (!head || head->size - head->used < need) {
        size_t size = need < SMALL_BYTES ? BLOCK_BYTES : need;
        block *b = bwi_malloc(sizeof *b + size);
        if (!b) return NULL;
        *b = (block){.size = size};
        if (head && need >= SMALL_BYTES) {
            b->next = head->next;
            head->next = b;
        } else {
            b->next = head;
            *chain = b;
        }
        head = b;
    }
    void *p = (uint8_t *)(head + 1) + head->used;
    head->used += need;
    return p;
}

void bwi_own_free(void **chain)
{
    for (block *b = *chain, *next; b; b = next) {
        next = b->next;
        bwi_free(b);
    }
    *chain = NULL;
}

static char *own_strdup(void **chain, const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = bwi_own_alloc(chain, n);
    return copy ? memcpy(copy, s, n) : NULL;
}

/* ---- Lists ---- */

/* Makes room for one more in an array of n elements: the capacity is always the next power of two, so it need not be stored. */
static bool grow(void *array, size_t n, size_t element)
{
    if (n & (n - 1)) return true;
    void *old, *p;
    memcpy(&old, array, sizeof old);
    size_t bytes;
    if (!bwi_mul(n ? 2 * n : 1, element, &bytes) || !(p = bwi_realloc(old, bytes))) return false;
    memcpy(array, &p, sizeof p);
    return true;
}

bw_status bwi_tensors_add(bwi_tensors *ts, const char *name, bwi_dtype dtype, int ndim, const int64_t *dim, const void *data,
                          bw_error *err)
{
    if (ndim < 0 || ndim > BWI_MAX_DIMS)
        return bwi_fail(err, BW_FORMAT, "tensor %s has %d dimensions, at most %d are supported", name, ndim, BWI_MAX_DIMS);
    bwi_tensor t = {.dtype = dtype, .ndim = ndim, .data = data, .bytes = bwi_dtype_size(dtype)};
    for (int i = 0; i < ndim; i++) {
        t.dim[i] = dim[i];
        if (dim[i] < 0 || !bwi_mul(t.bytes, (size_t)dim[i], &t.bytes) || t.bytes > INT64_MAX) {
            char text[BWI_DIMS_TEXT];
            return bwi_fail(err, BW_FORMAT, "tensor %s has an impossible shape %s", name, bwi_dims_text(text, ndim, dim));
        }
    }
    if (!grow(&ts->t, ts->n, sizeof *ts->t) || !(t.name = own_strdup(&ts->own, name)))
        return bwi_fail(err, BW_NOMEM, "out of memory for tensor %s", name);
    ts->t[ts->n++] = t;
    return BW_OK;
}

bw_status bwi_tensors_add_meta(bwi_tensors *ts, const char *key, const char *value, bw_error *err)
{
    char *k, *v;
    if (!grow(&ts->key, ts->n_meta, sizeof *ts->key) || !grow(&ts->value, ts->n_meta, sizeof *ts->value) ||
        !(k = own_strdup(&ts->own, key)) || !(v = own_strdup(&ts->own, value)))
        return bwi_fail(err, BW_NOMEM, "out of memory for metadata %s", key);
    ts->key[ts->n_meta] = k;
    ts->value[ts->n_meta++] = v;
    return BW_OK;
}

void bwi_tensors_free(bwi_tensors *ts)
{
    bwi_free(ts->t);
    bwi_free(ts->key);
    bwi_free(ts->value);
    bwi_own_free(&ts->own);
    bwi_file_close(&ts->file);
    memset(ts, 0, sizeof *ts);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bw_status bwi_tensors_unique(const bwi_tensors *ts, bw_error *err)
{
    bw_status st = BW_OK;
    const char **name = bwi_malloc(ts->n * sizeof *name);
    if (!name) return bwi_fail(err, BW_NOMEM, "out of memory for %zu tensor names", ts->n);
    for (size_t i = 0; i < ts->n; i++) name[i] = ts->t[i].name;
    qsort(name, ts->n, sizeof *name, by_name);
    for (size_t i = 1; i < ts->n && st == BW_OK; i++)
        if (!strcmp(name[i - 1], name[i])) st = bwi_fail(err, BW_FORMAT, "two tensors have the name %s", name[i]);
    bwi_free(name);
    return st;
}

const bwi_tensor *bwi_tensors_find(const bwi_tensors *ts, const char *name)
{
    for (size_t i = 0; i < ts->n; i++)
        if (!strcmp(ts->t[i].name, name)) return &ts->t[i];
    return NULL;
}

const char *bwi_tensors_meta(const bwi_tensors *ts, const char *key)
{
    for (size_t i = 0; i < ts->n_meta; i++)
        if (!strcmp(ts->key[i], key)) return ts->value[i];
    return NULL;
}

bw_status bwi_tensors_read(bwi_tensors *ts, const char *path, const bwi_format **format, bw_error *err)
{
    bwi_file f = {0};
    memset(ts, 0, sizeof *ts);
    if (format) *format = NULL;
    bw_status st = bwi_file_open(&f, path, err);
    if (st != BW_OK) return st;
    const bwi_format *row = NULL;
    for (size_t i = 0; i < N_ROWS && !row; i++)
        if (rows[i]->probe(f.data, f.size)) row = rows[i];
    if (!row) {
        bwi_text known = {0};
        for (size_t i = 0; i < N_ROWS; i++) bwi_text_add(&known, "%s%s (%s)", i ? ", " : "", rows[i]->name, rows[i]->suffixes);
        st = bwi_fail(err, BW_FORMAT, "%s: not a weights file of a known format: %s", path, known.failed ? "" : known.s);
        bwi_free(known.s);
    } else if ((st = row->read(&f, ts, err)) != BW_OK) {
        st = bwi_fail_in(err, st, "%s", path);
    } else if (format) {
        *format = row;
    }
    bwi_file_close(&f);
    return st;
}

/* ---- Elements ---- */

const char *bwi_dims_text(char text[BWI_DIMS_TEXT], int ndim, const int64_t *dim)
{
    size_t at = 0;
    text[at++] = '[';
    for (int i = 0; i < ndim && i < BWI_MAX_DIMS; i++) /* at most 22 characters each */
        at += (size_t)snprintf(text + at, BWI_DIMS_TEXT - at, "%s%" PRId64, i ? ", " : "", dim[i]);
    memcpy(text + at, "]", 2);
    return text;
}

size_t bwi_tensor_numel(const bwi_tensor *t)
{
    return t->bytes / bwi_dtype_size(t->dtype);
}

double bwi_tensor_at(const bwi_tensor *t, size_t i)
{
    union {
        float f32;
        double f64;
        uint16_t u16;
        uint8_t u8;
        int8_t i8;
        int16_t i16;
        int32_t i32;
        int64_t i64;
    } v;
    size_t size = bwi_dtype_size(t->dtype);
    memcpy(&v, (const uint8_t *)t->data + i * size, size);
    switch (t->dtype) {
    case BWI_DT_F32:
        return v.f32;
    case BWI_DT_F64:
        return v.f64;
    case BWI_DT_F16:
        return bwi_f16_to_f32(v.u16);
    case BWI_DT_BF16:
        return bwi_bf16_to_f32(v.u16);
    case BWI_DT_U8:
        return v.u8;
    case BWI_DT_I8:
        return v.i8;
    case BWI_DT_I16:
        return v.i16;
    case BWI_DT_I32:
        return v.i32;
    case BWI_DT_I64:
        return (double)v.i64;
    case BWI_DT_BOOL:
        return v.u8 != 0;
    case BWI_DT_COUNT:
        break;
    }
    return 0;
}
