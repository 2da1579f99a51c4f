/* Weights files: safetensors and PyTorch checkpoints, valid, damaged, hostile and cut short. The files are those of tests/fuzz/corpus, which
 * tests/fuzz/make_corpus.py writes. With BITWRIGHT_MODELS, a folder, published checkpoints in it are compared with what PyTorch reads. */
#include "base/alloc.h"
#include "io/io.h"
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>
#include <cmocka.h>

#define CORPUS "tests/fuzz/corpus/fuzz_"
static char folder[256], path[512];

static const bwi_format *format_named(const char *name)
{
    const bwi_format *f;
    for (size_t i = 0; (f = bwi_format_at(i)); i++)
        if (!strcmp(f->name, name)) return f;
    fail_msg("no format %s", name);
    return NULL;
}

/* Parses data[0..size) from a block of exactly that size. On success the tensors own the copy. */
static bw_status parse(const char *format, const uint8_t *data, size_t size, bwi_tensors *ts, bw_error *err)
{
    uint8_t *copy = bwi_malloc(size);
    memset(ts, 0, sizeof *ts);
    memset(err, 0, sizeof *err);
    if (!copy) return bwi_fail(err, BW_NOMEM, "no memory for the copy");
    if (size) memcpy(copy, data, size);
    bwi_file f = {.data = copy, .size = size};
    bw_status st = format_named(format)->read(&f, ts, err);
    if (st == BW_OK) {
        assert_null(f.data);
    } else {
        assert_int_equal(err->status, st);
        assert_true(err->msg[0]);
        assert_int_equal(ts->n, 0);
        assert_null(ts->own);
    }
    bwi_file_close(&f);
    return st;
}

static uint8_t *load(const char *format, const char *name, size_t *size)
{
    static uint8_t buffer[4096];
    char file[300];
    snprintf(file, sizeof file, CORPUS "%s/%s", format, name);
    FILE *f = fopen(file, "rb");
    if (!f) fail_msg("cannot open %s: run the tests in the root of the repository", file);
    *size = fread(buffer, 1, sizeof buffer, f);
    fclose(f);
    return buffer;
}

static bw_status parse_seed(const char *format, const char *name, bwi_tensors *ts, bw_error *err)
{
    size_t size;
    uint8_t *data = load(format, name, &size);
    return parse(format, data, size, ts, err);
}

static void check_tensor(const bwi_tensors *ts, const char *name, bwi_dtype dtype, const char *dims, int n,
                         const double *values)
{
    char text[BWI_DIMS_TEXT];
    const bwi_tensor *t = bwi_tensors_find(ts, name);
    if (!t) fail_msg("no tensor %s", name);
    assert_int_equal(t->dtype, dtype);
    assert_string_equal(bwi_dims_text(text, t->ndim, t->dim), dims);
    assert_int_equal(bwi_tensor_numel(t), n);
    assert_int_equal(t->bytes, (size_t)n * bwi_dtype_size(dtype));
    for (int i = 0; i < n; i++)
        if (bwi_tensor_at(t, (size_t)i) != values[i])
            fail_msg("%s[%d] is %g, expected %g", name, i, bwi_tensor_at(t, (size_t)i), values[i]);
}

static void check_meta(const bwi_tensors *ts, const char *key, const char *value)
{
    const char *have = bwi_tensors_meta(ts, key);
    if (!have) fail_msg("no metadata %s", key);
    assert_string_equal(have, value);
}

#define V(...)                                                                                                                 \
    (int)(sizeof((const double[]){__VA_ARGS__}) / sizeof(double)), (const double[])                                            \
    {                                                                                                                          \
        __VA_ARGS__                                                                                                            \
    }

/* ---- Elements and lists ---- */

static void test_elements(void **state)
{
    (void)state;
    static const struct {
        bwi_dtype dtype;
        uint8_t bytes[16];
        double value[2];
    } c[] = {
        {BWI_DT_F32, {0, 0, 0xc0, 0x3f, 0, 0, 0, 0x80}, {1.5, -0.0}},
        {BWI_DT_F64, {0, 0, 0, 0, 0, 0, 0xf8, 0xbf, 1}, {-1.5, 4.9406564584124654e-324}},
        {BWI_DT_F16, {0x00, 0xc0, 0xff, 0x7b}, {-2, 65504}},
        {BWI_DT_BF16, {0x80, 0x3f, 0x40, 0xc0}, {1, -3}},
        {BWI_DT_U8, {200, 0}, {200, 0}},
        {BWI_DT_I8, {200, 127}, {-56, 127}},
        {BWI_DT_I16, {0, 0x80, 1, 2}, {-32768, 513}},
        {BWI_DT_I32, {0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0}, {-1, 65536}},
        {BWI_DT_I64, {0, 0, 0, 0, 1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {4294967296.0, -2}},
        {BWI_DT_BOOL, {1, 0}, {1, 0}},
    };
    assert_int_equal(sizeof c / sizeof *c, BWI_DT_COUNT);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        uint8_t unaligned[17];
        memcpy(unaligned + 1, c[i].bytes, 16);
        bwi_tensor t = {
            .dtype = c[i].dtype, .ndim = 1, .dim = {2}, .data = unaligned + 1, .bytes = 2 * bwi_dtype_size(c[i].dtype)};
        for (size_t k = 0; k < 2; k++) assert_true(bwi_tensor_at(&t, k) == c[i].value[k]);
        assert_int_equal(bwi_tensor_numel(&t), 2);
    }
}

static void test_list(void **state)
{
    (void)state;
    bwi_tensors ts = {0};
    bw_error err;
    char name[20];
    const int64_t dim[] = {2, 3};
    const float data[6] = {0};
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "t%d", i);
        assert_int_equal(bwi_tensors_add(&ts, name, BWI_DT_F32, 2, dim, data, &err), BW_OK);
        assert_int_equal(bwi_tensors_add_meta(&ts, name, name + 1, &err), BW_OK);
    }
    assert_int_equal(ts.n, 100);
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "t%d", i);
        assert_ptr_equal(bwi_tensors_find(&ts, name), &ts.t[i]);
        assert_string_equal(bwi_tensors_meta(&ts, name), name + 1);
    }
    assert_null(bwi_tensors_find(&ts, "t"));
    assert_null(bwi_tensors_meta(&ts, "t"));
    assert_int_equal(bwi_tensors_unique(&ts, &err), BW_OK);
    assert_int_equal(bwi_tensors_add(&ts, "t7", BWI_DT_F32, 2, dim, data, &err), BW_OK);
    assert_int_equal(bwi_tensors_unique(&ts, &err), BW_FORMAT);
    assert_non_null(strstr(err.msg, "t7"));
    const int64_t bad[] = {-1}, big[] = {(int64_t)1 << 40, (int64_t)1 << 40}, edge[] = {INT64_MAX / 4 + 1};
    assert_int_equal(bwi_tensors_add(&ts, "x", BWI_DT_F32, 1, bad, data, &err), BW_FORMAT);
    assert_int_equal(bwi_tensors_add(&ts, "x", BWI_DT_F32, 2, big, data, &err), BW_FORMAT);
    assert_int_equal(bwi_tensors_add(&ts, "x", BWI_DT_F32, 1, edge, data, &err), BW_FORMAT);
    assert_int_equal(bwi_tensors_add(&ts, "x", BWI_DT_F32, BWI_MAX_DIMS + 1, dim, data, &err), BW_FORMAT);
    assert_int_equal(ts.n, 101);
    bwi_tensors_free(&ts);
    bwi_tensors_free(&ts);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

static void test_own(void **state)
{
    (void)state;
    void *chain = NULL;
    uint8_t *p[300];
    for (size_t i = 0; i < 300; i++) {
        size_t n = i % 10 == 9 ? 5000 + i : i;
        assert_non_null(p[i] = bwi_own_alloc(&chain, n));
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        memset(p[i], (int)i, n);
    }
    for (size_t i = 0; i < 300; i++)
        for (size_t k = 0, n = i % 10 == 9 ? 5000 + i : i; k < n; k++) assert_int_equal(p[i][k], (uint8_t)i);
    assert_true(bwi_alloc_live_blocks() < 60); /* small ones share blocks, and large ones in between do not end them */
    assert_null(bwi_own_alloc(&chain, SIZE_MAX));
    assert_null(bwi_own_alloc(&chain, SIZE_MAX / 2));
    bwi_own_free(&chain);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

/* ---- safetensors ---- */

static void test_safetensors_valid(void **state)
{
    (void)state;
    bwi_tensors ts;
    bw_error err;
    assert_int_equal(parse_seed("safetensors", "valid", &ts, &err), BW_OK);
    assert_int_equal(ts.n, 4);
    check_tensor(&ts, "a", BWI_DT_F32, "[2, 3]", V(0, 1, 2, 3, 4, 5));
    check_tensor(&ts, "b", BWI_DT_I64, "[2]", V(-1, 1099511627776.0));
    check_tensor(&ts, "empty", BWI_DT_F16, "[0, 3]", 0, NULL);
    check_tensor(&ts, "scalar", BWI_DT_BF16, "[]", V(1));
    assert_string_equal(ts.t[0].name, "b"); /* in the order of the header */
    check_meta(&ts, "text", "quote \" \\ \n \xc3\xa9");
    const uint8_t *a = bwi_tensors_find(&ts, "a")->data;
    assert_true(a >= ts.file.data && a + 24 <= ts.file.data + ts.file.size); /* not copied */
    bwi_tensors_free(&ts);
    assert_int_equal(parse_seed("safetensors", "padded", &ts, &err), BW_OK);
    bwi_tensors_free(&ts);
    assert_int_equal(parse_seed("safetensors", "no_tensors", &ts, &err), BW_OK);
    bwi_tensors_free(&ts);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

static void check_refused(const char *format, const char *name, bw_status status, const char *message)
{
    bwi_tensors ts;
    bw_error err;
    bw_status st = parse_seed(format, name, &ts, &err);
    if (st != status || !strstr(err.msg, message))
        fail_msg("%s: status %d, \"%s\"; expected %d, \"%s\"", name, st, err.msg, status, message);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

static void test_safetensors_hostile(void **state)
{
    (void)state;
    const char *f = "safetensors";
    check_refused(f, "long_header", BW_FORMAT, "9223372036854775808 bytes, but the file has only 97");
    check_refused(f, "header_overflow", BW_FORMAT, "cut short");
    check_refused(f, "negative_dim", BW_FORMAT, "tensor a has an impossible shape [-2, -3]");
    check_refused(f, "overflow", BW_FORMAT, "impossible shape");
    check_refused(f, "overlap", BW_FORMAT, "tensor b begins at byte 20");
    check_refused(f, "hole", BW_FORMAT, "tensor b begins at byte 16");
    check_refused(f, "too_short", BW_FORMAT, "outside of the 23 bytes");
    check_refused(f, "too_long", BW_FORMAT, "take 24 bytes, but the file has 25");
    check_refused(f, "wrong_size", BW_FORMAT, "takes 48 bytes, but the header gives it 24");
    check_refused(f, "backward", BW_FORMAT, "outside");
    check_refused(f, "huge_offsets", BW_FORMAT, "not valid JSON");
    check_refused(f, "unknown_dtype", BW_UNSUPPORTED, "F8_E4M3");
    check_refused(f, "same_name", BW_FORMAT, "duplicate");
    check_refused(f, "many_dims", BW_UNSUPPORTED, "10 dimensions");
    check_refused(f, "no_offsets", BW_FORMAT, "tensor a");
    check_refused(f, "metadata_number", BW_FORMAT, "metadata a");
    check_refused(f, "not_object", BW_FORMAT, "JSON");
    check_refused(f, "deep", BW_FORMAT, "JSON");
}

static const char *in_folder(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static uint8_t *slurp(const char *file, size_t *size)
{
    FILE *f = fopen(file, "rb");
    assert_non_null(f);
    uint8_t *data = malloc(65536);
    assert_non_null(data);
    *size = fread(data, 1, 65536, f);
    fclose(f);
    return data;
}

/* Some tensors to write. */
static void make_list(bwi_tensors *ts)
{
    static const float f[6] = {1, -2, 3.5f, 0, 1e-40f, 6};
    static const uint8_t b[3] = {1, 2, 255};
    static const double d = 0.1;
    bw_error err;
    memset(ts, 0, sizeof *ts);
    assert_int_equal(bwi_tensors_add(ts, "layer.weight", BWI_DT_F32, 2, (const int64_t[]){2, 3}, f, &err), BW_OK);
    assert_int_equal(bwi_tensors_add(ts, "bytes \"\\\x01\xe2\x82\xac", BWI_DT_U8, 1, (const int64_t[]){3}, b, &err), BW_OK);
    assert_int_equal(bwi_tensors_add(ts, "nothing", BWI_DT_F16, 2, (const int64_t[]){0, 4}, NULL, &err), BW_OK);
    assert_int_equal(bwi_tensors_add(ts, "d", BWI_DT_F64, 0, NULL, &d, &err), BW_OK);
    assert_int_equal(bwi_tensors_add_meta(ts, "z", "last letter", &err), BW_OK);
    assert_int_equal(bwi_tensors_add_meta(ts, "a", "line 1\nline 2\t\"quoted\"", &err), BW_OK);
}

static bw_status write_list(const char *file, const bwi_tensors *ts, bw_error *err)
{
    return bwi_safetensors_write(file, ts->t, ts->n, (const char *const *)ts->key, (const char *const *)ts->value, ts->n_meta,
                                 err);
}

static void test_write_read(void **state)
{
    (void)state;
    bwi_tensors ts, back;
    bw_error err;
    const bwi_format *format;
    make_list(&ts);
    assert_int_equal(write_list(in_folder("a.safetensors"), &ts, &err), BW_OK);
    assert_int_equal(bwi_tensors_read(&back, path, &format, &err), BW_OK);
    assert_string_equal(format->name, "safetensors");
    assert_int_equal(back.n, ts.n);
    for (size_t i = 0; i < ts.n; i++) {
        assert_string_equal(back.t[i].name, ts.t[i].name);
        assert_int_equal(back.t[i].dtype, ts.t[i].dtype);
        assert_int_equal(back.t[i].ndim, ts.t[i].ndim);
        assert_memory_equal(back.t[i].dim, ts.t[i].dim, sizeof ts.t[i].dim);
        assert_int_equal(back.t[i].bytes, ts.t[i].bytes);
        if (ts.t[i].bytes) assert_memory_equal(back.t[i].data, ts.t[i].data, ts.t[i].bytes);
    }
    assert_int_equal(back.n_meta, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(back.key[i], ts.key[i]);
        assert_string_equal(back.value[i], ts.value[i]);
    }
    assert_int_equal((uintptr_t)back.t[0].data % 64, 0);
    bwi_tensors_free(&back);
    bwi_tensors_free(&ts);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

/* The bytes of a file, written out by hand; twice the same. */
static void test_write_bytes(void **state)
{
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"z\":\"last letter\",\"a\":\"line 1\\u000aline 2\\u0009\\\"quoted\\\"\"},"
        "\"layer.weight\":{\"dtype\":\"F32\",\"shape\":[2, 3],\"data_offsets\":[0,24]},"
        "\"bytes \\\"\\\\\\u0001\xe2\x82\xac\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[24,27]},"
        "\"nothing\":{\"dtype\":\"F16\",\"shape\":[0, 4],\"data_offsets\":[27,27]},"
        "\"d\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[27,35]}}";
    bwi_tensors ts;
    bw_error err;
    size_t n[2], len = sizeof header - 1, padded = (8 + len + 63) / 64 * 64 - 8;
    uint8_t *data[2];
    make_list(&ts);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(write_list(in_folder(i ? "b.safetensors" : "a.safetensors"), &ts, &err), BW_OK);
        data[i] = slurp(path, &n[i]);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(data[0], data[1], n[0]);
    assert_int_equal(n[0], 8 + padded + 35);
    for (int i = 0; i < 8; i++) assert_int_equal(data[0][i], (uint8_t)(padded >> (8 * i)));
    assert_memory_equal(data[0] + 8, header, len);
    for (size_t i = len; i < padded; i++) assert_int_equal(data[0][8 + i], ' ');
    assert_memory_equal(data[0] + 8 + padded, ts.t[0].data, 24);
    assert_memory_equal(data[0] + 8 + padded + 24, ts.t[1].data, 3);
    assert_memory_equal(data[0] + 8 + padded + 27, ts.t[3].data, 8);
    free(data[0]);
    free(data[1]);
    bwi_tensors_free(&ts);
}

static void test_write_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\xff", "a\xc3",       "\xc0\x80", "\xed\xa0\x80", "\xe0\x80\x80", "\xf4\x90\x80\x80", "\xf0\x80\x80\x80",
        "\x80", "__metadata__"};
    const uint8_t byte = 0;
    bw_error err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bwi_tensors ts = {0};
        assert_int_equal(bwi_tensors_add(&ts, bad[i], BWI_DT_U8, 0, NULL, &byte, &err), BW_OK);
        assert_int_equal(write_list(in_folder("refused"), &ts, &err), BW_ARG);
        assert_non_null(strstr(err.msg, path));
        bwi_tensors_free(&ts);
    }
    bwi_tensors ts;
    make_list(&ts);
    assert_int_equal(bwi_tensors_add_meta(&ts, "z", "", &err), BW_OK);
    assert_int_equal(write_list(path, &ts, &err), BW_ARG); /* two keys z */
    ts.n_meta--;
    assert_int_equal(bwi_tensors_add(&ts, "d", BWI_DT_U8, 0, NULL, &byte, &err), BW_OK);
    assert_int_equal(write_list(path, &ts, &err), BW_FORMAT);
    ts.n--;
    assert_false(bwi_file_exists(path));
    assert_int_equal(write_list(in_folder("none/x"), &ts, &err), BW_IO);
    bwi_tensors_free(&ts);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

/* ---- PyTorch ---- */

static void test_pytorch_valid(void **state)
{
    (void)state;
    static const char *const name[] = {"valid.th", "valid.pt", "deflated.pt"};
    bwi_tensors ts;
    bw_error err;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(parse_seed("pytorch", name[i], &ts, &err), BW_OK);
        assert_int_equal(ts.n, 7);
        check_tensor(&ts, "state_dict.a", BWI_DT_F32, "[2, 3]", V(0, 1, 2, 3, 4, 5));
        check_tensor(&ts, "state_dict.t", BWI_DT_F32, "[3, 2]", V(0, 3, 1, 4, 2, 5));
        check_tensor(&ts, "state_dict.s", BWI_DT_I16, "[2, 2, 2]", V(4, 6, 8, 10, 16, 18, 20, 22));
        check_tensor(&ts, "state_dict.e", BWI_DT_F64, "[0, 3]", 0, NULL);
        check_tensor(&ts, "state_dict.p", BWI_DT_F16, "[2]", V(1.5, -2));
        check_tensor(&ts, "list.0", BWI_DT_BOOL, "[]", V(1));
        check_tensor(&ts, "list.1.0", BWI_DT_BF16, "[2]", V(1, 2));
        assert_int_equal(ts.n_meta, 4);
        check_meta(&ts, "epoch", "3");
        check_meta(&ts, "best", "0.5");
        check_meta(&ts, "tag", "x");
        check_meta(&ts, "list.1.1", "false");
        bwi_tensors_free(&ts);
    }
    assert_int_equal(parse_seed("pytorch", "tensor.pt", &ts, &err), BW_OK);
    check_tensor(&ts, "tensor", BWI_DT_F32, "[2]", V(1, 4));
    bwi_tensors_free(&ts);
    assert_int_equal(parse_seed("pytorch", "one.th", &ts, &err), BW_OK);
    check_tensor(&ts, "tensor", BWI_DT_F32, "[2, 2]", V(2, 3, 4, 5));
    bwi_tensors_free(&ts);
    assert_int_equal(parse_seed("pytorch", "any_stride.th", &ts, &err), BW_OK);
    check_tensor(&ts, "tensor", BWI_DT_F32, "[2, 1, 2]", V(2, 3, 4, 5));
    bwi_tensors_free(&ts);
    assert_int_equal(parse_seed("pytorch", "python2.th", &ts, &err), BW_OK);
    check_tensor(&ts, "w", BWI_DT_F32, "[1]", V(7));
    assert_int_equal(ts.n_meta, 3); /* bytes are dropped */
    check_meta(&ts, "size.0", "2");
    check_meta(&ts, "size.1", "3");
    check_meta(&ts, "-4", "ok");
    bwi_tensors_free(&ts);
    assert_int_equal(parse_seed("pytorch", "little_endian.pt", &ts, &err), BW_OK);
    bwi_tensors_free(&ts);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

static void test_pytorch_hostile(void **state)
{
    (void)state;
    const char *f = "pytorch";
    check_refused(f, "os_system.th", BW_UNSUPPORTED, "os.system");
    check_refused(f, "stack_global.th", BW_UNSUPPORTED, "builtins.eval");
    check_refused(f, "memo_loop.th", BW_FORMAT, "it holds itself");
    check_refused(f, "deep.th", BW_FORMAT, "nested more than 64 deep");
    check_refused(f, "laughs.th", BW_FORMAT, "more memory");
    check_refused(f, "long4.th", BW_FORMAT, "cut short");
    check_refused(f, "unicode8.th", BW_FORMAT, "cut short");
    check_refused(f, "memo_far.th", BW_FORMAT, "out of order");
    check_refused(f, "many_dims.th", BW_UNSUPPORTED, "9 dimensions");
    check_refused(f, "underflow.th", BW_FORMAT, "stack");
    check_refused(f, "persid.th", BW_FORMAT, "storage");
    check_refused(f, "outside.th", BW_FORMAT, "does not fit into its storage of 5 elements");
    check_refused(f, "negative_stride.th", BW_FORMAT, "stride");
    check_refused(f, "stride_overflow.th", BW_FORMAT, "does not fit into its storage");
    check_refused(f, "expanded.th", BW_FORMAT, "more memory");
    check_refused(f, "huge_dim.th", BW_FORMAT, "size or stride");
    check_refused(f, "huge_storage.th", BW_FORMAT, "4611686018427387905");
    check_refused(f, "no_storage.th", BW_FORMAT, "storage 0 is missing");
    check_refused(f, "key_twice.th", BW_FORMAT, "there twice");
    check_refused(f, "big_endian.th", BW_UNSUPPORTED, "big-endian");
    check_refused(f, "big_endian.pt", BW_UNSUPPORTED, "big-endian");
    check_refused(f, "bomb.pt", BW_FORMAT, "more memory");
    check_refused(f, "no_storage.pt", BW_FORMAT, "archive/data/0 is missing");
    check_refused(f, "no_pickle.pt", BW_FORMAT, "without data.pkl");
    check_refused(f, "short_storage.pt", BW_FORMAT, "it has 255 bytes");
}

/* ---- Every file, damaged in every way ---- */

static const struct {
    const char *format, *name;
} valid[] = {
    {"safetensors", "valid"}, {"safetensors", "padded"}, {"pytorch", "valid.th"},
    {"pytorch", "one.th"},    {"pytorch", "valid.pt"},   {"pytorch", "deflated.pt"},
};
#define N_VALID (sizeof valid / sizeof *valid)

static void test_truncated(void **state)
{
    (void)state;
    bwi_tensors ts;
    bw_error err;
    for (size_t i = 0; i < N_VALID; i++) {
        size_t size;
        const uint8_t *data = load(valid[i].format, valid[i].name, &size);
        for (size_t n = 0; n < size; n++) {
            format_named(valid[i].format)->probe(data, n);
            bw_status st = parse(valid[i].format, data, n, &ts, &err);
            if (st == BW_OK || st == BW_NOMEM) fail_msg("%s cut to %zu bytes: status %d", valid[i].name, n, st);
        }
        assert_int_equal(parse(valid[i].format, data, size, &ts, &err), BW_OK);
        bwi_tensors_free(&ts);
    }
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

/* No change of a byte may crash, leak or pass for lack of memory; what is still read must be readable. */
static void test_changed(void **state)
{
    (void)state;
    static const uint8_t change[] = {0x01, 0x80, 0xff};
    bwi_tensors ts;
    bw_error err;
    double sum = 0;
    for (size_t i = 0; i < N_VALID; i++) {
        size_t size;
        uint8_t *data = load(valid[i].format, valid[i].name, &size);
        for (size_t at = 0; at < size; at++)
            for (size_t c = 0; c < sizeof change; c++) {
                data[at] ^= change[c];
                bw_status st = parse(valid[i].format, data, size, &ts, &err);
                assert_int_not_equal(st, BW_NOMEM);
                for (size_t k = 0; k < ts.n; k++)
                    for (size_t e = 0; e < bwi_tensor_numel(&ts.t[k]); e++) sum += bwi_tensor_at(&ts.t[k], e);
                bwi_tensors_free(&ts);
                data[at] ^= change[c];
            }
    }
    assert_true(sum != 0);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

/* Fails the n-th allocation of reading a file, for every n. With `parser`, those of the JSON parser too, which does not always tell
 * lack of memory from bad input and can do without some; then all that is in the file must be there. */
static void read_without_memory(const char *format, const char *name, bool parser)
{
    bwi_tensors ts;
    bw_error err;
    size_t size;
    const uint8_t *data = load(format, name, &size);
    if (parser) json_set_alloc_funcs(bwi_malloc, bwi_free);
    for (int64_t n = 0;; n++) {
        bwi_alloc_fail_at(n, n % 2 == 1);
        bw_status st = parse(format, data, size, &ts, &err);
        bool reached = bwi_alloc_count() > n;
        bwi_alloc_fail_at(-1, 0);
        if (parser && reached && st == BW_OK) {
            assert_int_equal(ts.n, 4);
            assert_int_equal(ts.n_meta, 2);
            check_tensor(&ts, "b", BWI_DT_I64, "[2]", V(-1, 1099511627776.0));
        } else if (st != (reached ? BW_NOMEM : BW_OK) && !(parser && st == BW_FORMAT)) {
            fail_msg("%s, allocation %d: status %d, %s", name, (int)n, st, err.msg);
        }
        bwi_tensors_free(&ts);
        assert_int_equal(bwi_alloc_live_blocks(), 0);
        if (!reached) break;
        assert_true(n < 1000);
    }
    json_set_alloc_funcs(malloc, free);
}

static void test_no_memory(void **state)
{
    (void)state;
    bwi_tensors ts;
    bw_error err;
    for (size_t i = 0; i < N_VALID; i++) read_without_memory(valid[i].format, valid[i].name, false);
    read_without_memory("safetensors", "valid", true);
    make_list(&ts);
    int64_t live = bwi_alloc_live_blocks();
    for (int64_t n = 0;; n++) {
        unlink(in_folder("oom"));
        bwi_alloc_fail_at(n, 0);
        bw_status st = write_list(path, &ts, &err);
        bool reached = bwi_alloc_count() > n;
        bwi_alloc_fail_at(-1, 0);
        assert_int_equal(st, reached ? BW_NOMEM : BW_OK);
        assert_int_equal(bwi_file_exists(path), !reached);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        if (!reached) break;
    }
    for (int64_t n = 0;; n++) {
        bwi_tensors back;
        bwi_alloc_fail_at(n, 0);
        bw_status st = bwi_tensors_read(&back, path, NULL, &err);
        bool reached = bwi_alloc_count() > n;
        bwi_alloc_fail_at(-1, 0);
        assert_int_equal(st, reached ? BW_NOMEM : BW_OK);
        bwi_tensors_free(&back);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        if (!reached) break;
    }
    bwi_tensors_free(&ts);
}

/* ---- Opening by content ---- */

static void test_open(void **state)
{
    (void)state;
    bwi_tensors ts;
    bw_error err;
    const bwi_format *format;
    assert_int_equal(bwi_tensors_read(&ts, CORPUS "pytorch/valid.th", &format, &err), BW_OK);
    assert_string_equal(format->name, "pytorch");
    bwi_tensors_free(&ts);
    assert_int_equal(bwi_tensors_read(&ts, CORPUS "safetensors/hole", &format, &err), BW_FORMAT);
    assert_non_null(strstr(err.msg, CORPUS "safetensors/hole: tensor b"));
    assert_null(format);
    assert_int_equal(bwi_tensors_read(&ts, in_folder("missing"), NULL, &err), BW_IO);
    assert_non_null(strstr(err.msg, path));
    FILE *f = fopen(in_folder("empty"), "wb");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(bwi_tensors_read(&ts, path, NULL, &err), BW_FORMAT);
    assert_non_null(strstr(err.msg, "safetensors (.safetensors), pytorch (.th .pth .pt)"));
    assert_int_equal(bwi_tensors_read(&ts, "tests/unit/test_io.c", NULL, &err), BW_FORMAT);
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

/* ---- Published checkpoints ---- */

static uint64_t hash(uint64_t h, const void *data, size_t n)
{
    for (const uint8_t *p = data, *end = p + n; p < end; p++) h = (h ^ *p) * 0x100000001b3u;
    return h;
}

/* FNV-1a over name, type, shape and bytes of every tensor; the expected values were computed with PyTorch. */
static void test_models(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n;
        uint64_t hash;
    } model[] = {
        {"resnet20-12fca82f.th", 97, 0x557db31a61b9a895},
        {"resnet32-d509ac18.th", 157, 0x1b850e135934e882},
        {"ResNet20-CIFAR10-pretrain.pth", 128, 0xcf92fb70ec7e5799},
    };
    const char *models = getenv("BITWRIGHT_MODELS");
    if (!models) skip();
    for (size_t m = 0; m < sizeof model / sizeof *model; m++) {
        bwi_tensors ts;
        bw_error err;
        char file[1024], dims[BWI_DIMS_TEXT];
        snprintf(file, sizeof file, "%s/%s", models, model[m].name);
        if (bwi_tensors_read(&ts, file, NULL, &err) != BW_OK) fail_msg("%s", err.msg);
        assert_int_equal(ts.n, model[m].n);
        uint64_t h = 0xcbf29ce484222325u;
        for (size_t i = 0; i < ts.n; i++) {
            const bwi_tensor *t = &ts.t[i];
            const char *dtype = bwi_dtype_name(t->dtype);
            h = hash(h, t->name, strlen(t->name));
            h = hash(h, dtype, strlen(dtype));
            bwi_dims_text(dims, t->ndim, t->dim);
            h = hash(h, dims, strlen(dims));
            h = hash(h, t->data, t->bytes);
        }
        assert_true(h == model[m].hash);
        bwi_tensors_free(&ts);
    }
}

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bitwright-io-XXXXXX", base ? base : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const name[] = {"a.safetensors", "b.safetensors", "oom", "empty"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) unlink(in_folder(name[i]));
    return rmdir(folder); /* fails when a test left something else behind */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_own),
        cmocka_unit_test(test_safetensors_valid),
        cmocka_unit_test(test_safetensors_hostile),
        cmocka_unit_test(test_write_read),
        cmocka_unit_test(test_write_bytes),
        cmocka_unit_test(test_write_refused),
        cmocka_unit_test(test_pytorch_valid),
        cmocka_unit_test(test_pytorch_hostile),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
