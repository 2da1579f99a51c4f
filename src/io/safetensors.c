/* safetensors: u64 length of the header, the header as JSON, then the data of all tensors without holes.
 * {"__metadata__": {"key": "text"}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}} */
#include "io/io.h"
#include "base/alloc.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX ((uint64_t)100000000) /* the limit of the format's reference implementation */
#define DATA_ALIGN ((size_t)64)

static bool probe(const uint8_t *data, size_t size)
{
    return size > 8 && data[8] == '{';
}

/* ---- Reading ---- */

typedef struct extent {
    uint64_t begin, end;
    const char *name;
} extent;

static int by_begin(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Every byte of the data belongs to exactly one tensor. */
static bw_status check_extents(extent *e, size_t n, uint64_t size, bw_error *err)
{
    uint64_t at = 0;
    qsort(e, n, sizeof *e, by_begin);
    for (size_t i = 0; i < n; at = e[i++].end)
        if (e[i].begin != at)
            return bwi_fail(err, BW_FORMAT,
                            "tensor %s begins at byte %" PRIu64 " of the data, but the one before it ends at %" PRIu64,
                            e[i].name, e[i].begin, at);
    if (at != size)
        return bwi_fail(err, BW_FORMAT, "the tensors take %" PRIu64 " bytes, but the file has %" PRIu64 " bytes of data%s", at,
                        size, at > size ? ": it was cut short" : "");
    return BW_OK;
}

static bw_status read_metadata(json_t *object, bwi_tensors *ts, bw_error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object)) return bwi_fail(err, BW_FORMAT, "__metadata__ in the header is not an object of strings");
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value)) return bwi_fail(err, BW_FORMAT, "metadata %s in the header is not a string", key);
        bw_status st = bwi_tensors_add_meta(ts, key, json_string_value(value), err);
        if (st != BW_OK) return st;
    }
    return BW_OK;
}

/* Adds the tensor that one entry of the header describes, and its place in data [size]. */
static bw_status read_entry(const char *name, json_t *entry, const uint8_t *data, uint64_t size, bwi_tensors *ts, extent *e,
                            bw_error *err)
{
    json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
    json_t *offsets = json_object_get(entry, "data_offsets");
    json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_string(dtype) || !json_is_array(shape) || json_array_size(offsets) != 2 || !json_is_integer(begin) ||
        !json_is_integer(end))
        return bwi_fail(err, BW_FORMAT, "tensor %s: its entry in the header lacks dtype, shape or data_offsets", name);
    int type = bwi_dtype_from_name(json_string_value(dtype), json_string_length(dtype));
    if (type < 0)
        return bwi_fail(err, BW_UNSUPPORTED, "tensor %s: type %.40s is not supported", name, json_string_value(dtype));
    json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > size)
        return bwi_fail(err, BW_FORMAT,
                        "tensor %s: bytes %" PRId64 " to %" PRId64 " are outside of the %" PRIu64 " bytes of data in the file",
                        name, (int64_t)from, (int64_t)to, size);
    int64_t dim[BWI_MAX_DIMS];
    size_t ndim = json_array_size(shape);
    if (ndim > BWI_MAX_DIMS)
        return bwi_fail(err, BW_UNSUPPORTED, "tensor %s has %zu dimensions, at most %d are supported", name, ndim,
                        BWI_MAX_DIMS);
    for (size_t i = 0; i < ndim; i++) {
        json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d)) return bwi_fail(err, BW_FORMAT, "tensor %s: dimension %zu is not an integer", name, i);
        dim[i] = json_integer_value(d);
    }
    bw_status st = bwi_tensors_add(ts, name, (bwi_dtype)type, (int)ndim, dim, data + from, err);
    if (st != BW_OK) return st;
    const bwi_tensor *t = &ts->t[ts->n - 1];
    if (t->bytes != (uint64_t)(to - from)) {
        char text[BWI_DIMS_TEXT];
        return bwi_fail(err, BW_FORMAT, "tensor %s: %s of %s takes %zu bytes, but the header gives it %" PRId64, name,
                        bwi_dims_text(text, t->ndim, t->dim), bwi_dtype_name(t->dtype), t->bytes, (int64_t)(to - from));
    }
    *e = (extent){(uint64_t)from, (uint64_t)to, t->name};
    return BW_OK;
}

static bw_status parse_header(const uint8_t *text, size_t len, json_t **out, bw_error *err)
{
    json_error_t e;
    *out = json_loadb((const char *)text, len, JSON_REJECT_DUPLICATES, &e);
    if (*out && json_is_object(*out)) return BW_OK;
    if (*out) return bwi_fail(err, BW_FORMAT, "the header is not a JSON object");
    /* Lack of memory for the parser itself comes without a message. */
    if (!e.text[0] || json_error_code(&e) == json_error_out_of_memory)
        return bwi_fail(err, BW_NOMEM, "out of memory for a header of %zu bytes", len);
    return bwi_fail(err, BW_FORMAT, "the header is not valid JSON at byte %d: %s", e.position, e.text);
}

static bw_status read_file(bwi_file *f, bwi_tensors *ts, bw_error *err)
{
    bw_status st;
    json_t *header = NULL, *entry;
    extent *extents = NULL;
    const char *name;
    bwi_reader r = {.data = f->data, .size = f->size};
    uint64_t len = bwi_read_u64(&r);
    if (r.bad || len > f->size - 8)
        return bwi_fail(err, BW_FORMAT,
                        "the header should take %" PRIu64 " bytes, but the file has only %zu: it is damaged or cut short", len,
                        f->size);
    if (len > HEADER_MAX) return bwi_fail(err, BW_FORMAT, "a header of %" PRIu64 " bytes is too long", len);
    BWI_TRY(parse_header(f->data + 8, (size_t)len, &header, err));
    const uint8_t *data = f->data + 8 + len;
    uint64_t size = f->size - 8 - len;
    if (!(extents = bwi_malloc(json_object_size(header) * sizeof *extents))) {
        st = bwi_fail(err, BW_NOMEM, "out of memory for %zu tensors", json_object_size(header));
        goto fail;
    }
    json_object_foreach(header, name, entry)
    {
        if (!strcmp(name, "__metadata__"))
            BWI_TRY(read_metadata(entry, ts, err));
        else
            BWI_TRY(read_entry(name, entry, data, size, ts, &extents[ts->n], err));
    }
    BWI_TRY(check_extents(extents, ts->n, size, err));
    ts->file = *f;
    memset(f, 0, sizeof *f);
fail:
    if (st != BW_OK) bwi_tensors_free(ts);
    bwi_free(extents);
    json_decref(header);
    return st;
}

/* ---- Writing ---- */

/* Length of the UTF-8 character at s, 0 when it is not one. s ends with NUL. */
static size_t utf8_len(const unsigned char *s)
{
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90)) return 0; /* longer than needed */
    if ((s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0; /* surrogate, beyond Unicode */
    return n;
}

/* Appends s as a JSON string. */
static bw_status add_string(bwi_text *t, const char *s, bw_error *err)
{
    bwi_text_add(t, "\"");
    const unsigned char *p = (const unsigned char *)s;
    while (*p) {
        size_t n = 0, len;
        while (p[n] >= 0x20 && p[n] != '"' && p[n] != '\\') {
            if (!(len = utf8_len(p + n))) return bwi_fail(err, BW_ARG, "not valid UTF-8, so a file cannot hold it: %.80s", s);
            n += len;
        }
        bwi_text_add(t, "%.*s", (int)n, (const char *)p);
        p += n;
        if (*p == '"' || *p == '\\')
            bwi_text_add(t, "\\%c", *p++);
        else if (*p)
            bwi_text_add(t, "\\u%04x", *p++);
    }
    bwi_text_add(t, "\"");
    return BW_OK;
}

static bw_status make_header(bwi_text *h, const bwi_tensor *t, size_t n, const char *const *key, const char *const *value,
                             size_t n_meta, bw_error *err)
{
    bw_status st;
    uint64_t at = 0;
    bwi_text_add(h, "{\"__metadata__\":{");
    for (size_t i = 0; i < n_meta; i++) {
        for (size_t j = 0; j < i; j++)
            if (!strcmp(key[i], key[j])) return bwi_fail(err, BW_ARG, "two metadata entries have the key %s", key[i]);
        if (i) bwi_text_add(h, ",");
        BWI_TRY(add_string(h, key[i], err));
        bwi_text_add(h, ":");
        BWI_TRY(add_string(h, value[i], err));
    }
    bwi_text_add(h, "}");
    for (size_t i = 0; i < n; i++) {
        char dims[BWI_DIMS_TEXT];
        if (!strcmp(t[i].name, "__metadata__")) return bwi_fail(err, BW_ARG, "a tensor cannot have the name __metadata__");
        bwi_text_add(h, ",");
        BWI_TRY(add_string(h, t[i].name, err));
        bwi_text_add(h, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                     bwi_dtype_name(t[i].dtype), bwi_dims_text(dims, t[i].ndim, t[i].dim), at, at + t[i].bytes);
        at += t[i].bytes;
    }
    bwi_text_add(h, "}");
    while (!h->failed && (8 + h->len) % DATA_ALIGN) bwi_text_add(h, " ");
    if (h->failed)
        st = bwi_fail(err, BW_NOMEM, "out of memory for the header");
    else if (h->len > HEADER_MAX)
        st = bwi_fail(err, BW_ARG, "the header would take %zu bytes, more than the format allows", h->len);
    else
        st = BW_OK;
fail:
    return st;
}

/* Length and header: what stands before the tensors' data. */
static bw_status make_front(bwi_text *front, const bwi_tensor *t, size_t n, const char *const *key, const char *const *value,
                            size_t n_meta, uint8_t length[8], bw_error *err)
{
    const bwi_tensors list = {.t = (bwi_tensor *)(uintptr_t)t, .n = n};
    bw_status st;
    BWI_TRY(bwi_tensors_unique(&list, err));
    BWI_TRY(make_header(front, t, n, key, value, n_meta, err));
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)front->len >> (8 * i));
fail:
    return st;
}

bw_status bwi_safetensors_write(const char *path, const bwi_tensor *t, size_t n, const char *const *key,
                                const char *const *value, size_t n_meta, bw_error *err)
{
    bw_status st;
    bwi_text header = {0};
    bwi_writer *w = NULL;
    uint8_t length[8];
    st = make_front(&header, t, n, key, value, n_meta, length, err);
    if (st != BW_OK) {
        st = bwi_fail_in(err, st, "%s", path);
        goto fail;
    }
    BWI_TRY(bwi_writer_open(&w, path, err));
    BWI_TRY(bwi_writer_add(w, length, sizeof length, err));
    BWI_TRY(bwi_writer_add(w, header.s, header.len, err));
    for (size_t i = 0; i < n; i++) BWI_TRY(bwi_writer_add(w, t[i].data, t[i].bytes, err));
    bwi_free(header.s);
    return bwi_writer_commit(&w, err);
fail:
    bwi_writer_abandon(&w);
    bwi_free(header.s);
    return st;
}

bw_status bwi_safetensors_image(uint8_t **out, size_t *size, const bwi_tensors *ts, bw_error *err)
{
    bwi_text header = {0};
    uint8_t length[8];
    bw_status st;
    *out = NULL;
    BWI_TRY(make_front(&header, ts->t, ts->n, (const char *const *)ts->key, (const char *const *)ts->value, ts->n_meta, length,
                       err));
    *size = sizeof length + header.len;
    for (size_t i = 0; i < ts->n; i++) *size += ts->t[i].bytes;
    uint8_t *at = *out = bwi_malloc(*size);
    if (!at) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for a file of %zu bytes", *size));
    memcpy(at, length, sizeof length);
    memcpy(at + sizeof length, header.s, header.len);
    at += sizeof length + header.len;
    for (size_t i = 0; i < ts->n; i++) {
        memcpy(at, ts->t[i].data, ts->t[i].bytes);
        at += ts->t[i].bytes;
    }
fail:
    bwi_free(header.s);
    return st;
}

const bwi_format bwi_format_safetensors = {
    .name = "safetensors",
    .summary = "tensors with a JSON header, the format of models and checkpoints",
    .suffixes = ".safetensors",
    .probe = probe,
    .read = read_file,
};
