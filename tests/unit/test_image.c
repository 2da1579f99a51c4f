/* Decoders of images, and how images are fitted to a network. With --corpus FOLDER it writes the corpus of fuzz_image instead. */
#include "base/alloc.h"
#include "io/image.h"
#include "images.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

enum { W = 13, H = 9, MOST = 1 << 20 };

/* Colours of the test image, any depth up to 16 bits: smooth, so that JPEG keeps them. */
static int level(int x, int y, int c, int top)
{
    const double v = c == 0 ? x / (W - 1.0) : c == 1 ? y / (H - 1.0) : 1 - (x + y) / (W + H - 2.0);
    return (int)(v * top + 0.5);
}

static void expect_pixel(const bwi_image *m, int x, int y, int c, int want, int most)
{
    const int got = m->pixel[((size_t)y * (size_t)m->w + (size_t)x) * 3 + (size_t)c];
    if (abs(got - want) > most) fail_msg("pixel %d,%d channel %d: %d, expected %d", x, y, c, got, want);
}

static void decode(bwi_image *m, const made_file *f)
{
    bw_error err = {0};
    if (bwi_image_decode(m, f->data, f->size, MOST, &err) != BW_OK) fail_msg("%s", err.msg);
    assert_int_equal(m->w, W);
    assert_int_equal(m->h, H);
}

static const struct kind {
    const char *name;
    int depth, colour, interlace;
} kinds[] = {
    {"gray1", 1, PNG_COLOR_TYPE_GRAY, 0},
    {"gray2", 2, PNG_COLOR_TYPE_GRAY, 1},
    {"gray4", 4, PNG_COLOR_TYPE_GRAY, 0},
    {"gray8", 8, PNG_COLOR_TYPE_GRAY, 0},
    {"gray16", 16, PNG_COLOR_TYPE_GRAY, 0},
    {"gray_alpha8", 8, PNG_COLOR_TYPE_GRAY_ALPHA, 0},
    {"gray_alpha16", 16, PNG_COLOR_TYPE_GRAY_ALPHA, 1},
    {"rgb8", 8, PNG_COLOR_TYPE_RGB, 0},
    {"rgb8_interlaced", 8, PNG_COLOR_TYPE_RGB, 1},
    {"rgb16", 16, PNG_COLOR_TYPE_RGB, 0},
    {"rgba8", 8, PNG_COLOR_TYPE_RGB_ALPHA, 0},
    {"rgba16", 16, PNG_COLOR_TYPE_RGB_ALPHA, 0},
    {"palette4", 4, PNG_COLOR_TYPE_PALETTE, 0},
    {"palette8", 8, PNG_COLOR_TYPE_PALETTE, 1},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static int channels(const struct kind *k)
{
    return k->colour == PNG_COLOR_TYPE_PALETTE ? 1 : (k->colour & 2 ? 3 : 1) + (k->colour & 4 ? 1 : 0);
}

static int alpha_at(int x, int y, int top)
{
    return (x + y) % 3 == 0 ? 0 : (x + y) % 3 == 1 ? top : top / 5;
}

/* A file of this kind; palette entry i is gray 17 i, transparent in part. */
static made_file make_kind(const struct kind *k)
{
    const int n = channels(k), top = (1 << k->depth) - 1;
    const size_t line = ((size_t)W * (size_t)n * (size_t)k->depth + 7) / 8;
    uint8_t *rows = calloc(H, line), alpha[16];
    png_color palette[16];
    const bool indexed = k->colour == PNG_COLOR_TYPE_PALETTE;
    assert_non_null(rows);
    for (int i = 0; i < 16; i++) {
        palette[i] = (png_color){(uint8_t)(17 * i), (uint8_t)(255 - 17 * i), 40};
        alpha[i] = (uint8_t)alpha_at(i, 0, 255);
    }
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < n; c++) {
                const bool is_alpha = (k->colour & 4) && c == n - 1;
                const int v = indexed ? (x + 2 * y) % 16 : is_alpha ? alpha_at(x, y, top) : level(x, y, c, top);
                const size_t at = ((size_t)x * (size_t)n + (size_t)c) * (size_t)k->depth;
                uint8_t *p = rows + (size_t)y * line + at / 8;
                if (k->depth == 16)
                    p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v;
                else
                    *p = (uint8_t)(*p | v << (8 - k->depth - (int)(at % 8)));
            }
    made_file f = make_png(W, H, k->depth, k->colour, k->interlace, rows, indexed ? palette : NULL, indexed ? alpha : NULL);
    free(rows);
    return f;
}

static int on_white(int v, double alpha)
{
    return (int)(v * alpha + 255 * (1 - alpha) + 0.5);
}

static void test_png(void **state)
{
    (void)state;
    for (int i = 0; i < KINDS; i++) {
        const struct kind *k = &kinds[i];
        const int n = channels(k), top = (1 << k->depth) - 1, colours = n > 2 ? 3 : 1;
        made_file f = make_kind(k);
        bwi_image m;
        decode(&m, &f);
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++)
                for (int c = 0; c < 3; c++) {
                    const int e = (x + 2 * y) % 16, entry[] = {17 * e, 255 - 17 * e, 40};
                    const int v = (int)(level(x, y, colours == 3 ? c : 0, top) * 255.0 / top + 0.5);
                    const double alpha = n % 2 ? 1 : alpha_at(x, y, top) / (double)top;
                    const int want = k->colour == PNG_COLOR_TYPE_PALETTE ? on_white(entry[c], alpha_at(e, 0, 255) / 255.0)
                                                                         : on_white(v, alpha);
                    expect_pixel(&m, x, y, c, want, k->depth == 16 || n % 2 == 0);
                }
        bwi_image_free(&m);
        free(f.data);
    }
}

/* ---- JPEG ---------------------------------------------------------------------------------------------------------------- */

static made_file make_colour(int format, int subsampling, int flags)
{
    uint8_t pixels[H * W * 4];
    const int n = tjPixelSize[format];
    for (int i = 0; i < H * W; i++)
        for (int c = 0; c < n; c++) pixels[i * n + c] = (uint8_t)(c == 3 ? 200 : level(i % W, i / W, c, 255));
    return make_jpeg(W, H, format, subsampling, flags, pixels);
}

static made_file make_gray_jpeg(void)
{
    uint8_t pixels[H * W];
    for (int i = 0; i < H * W; i++) pixels[i] = (uint8_t)level(i % W, i / W, 0, 255);
    return make_jpeg(W, H, TJPF_GRAY, TJSAMP_GRAY, 0, pixels);
}

static void expect_jpeg(made_file f, int colours, int black)
{
    bwi_image m;
    decode(&m, &f);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < 3; c++) expect_pixel(&m, x, y, c, level(x, y, colours == 3 ? c : 0, 255) * black / 255, 9);
    bwi_image_free(&m);
    free(f.data);
}

static void test_jpeg(void **state)
{
    (void)state;
    expect_jpeg(make_gray_jpeg(), 1, 255);
    expect_jpeg(make_colour(TJPF_RGB, TJSAMP_444, 0), 3, 255);
    expect_jpeg(make_colour(TJPF_RGB, TJSAMP_444, TJFLAG_PROGRESSIVE), 3, 255);
    expect_jpeg(make_colour(TJPF_CMYK, TJSAMP_444, 0), 3, 200); /* 200 of 255 is not covered by black */
}

/* ---- Damaged files ------------------------------------------------------------------------------------------------------- */

/* Decodes what may be damaged from memory of exactly its size. */
static bw_status try_bytes(const uint8_t *data, size_t n, bw_error *err)
{
    bwi_image m;
    uint8_t *exact = malloc(n ? n : 1);
    assert_non_null(exact);
    if (n) memcpy(exact, data, n);
    *err = (bw_error){0};
    const bw_status st = bwi_image_decode(&m, exact, n, MOST, err);
    if (st) {
        assert_null(m.pixel);
        assert_int_equal(err->status, st);
        assert_true(err->msg[0]);
    }
    bwi_image_free(&m);
    free(exact);
    return st;
}

static void try_damaged(made_file f, bool cut_everywhere)
{
    const int64_t live = bwi_alloc_live_blocks();
    bw_error err;
    assert_int_equal(try_bytes(f.data, f.size, &err), BW_OK);
    for (size_t n = 0; n < f.size; n++) {
        const bw_status st = try_bytes(f.data, n, &err);
        if (st == BW_OK && cut_everywhere) fail_msg("%zu of %zu bytes are enough", n, f.size);
    }
    for (size_t at = 0; at < f.size; at++)
        for (int bit = 0; bit < 8; bit++) {
            f.data[at] ^= (uint8_t)(1 << bit);
            const bw_status st = try_bytes(f.data, f.size, &err);
            if (st != BW_OK && st != BW_FORMAT && st != BW_UNSUPPORTED) fail_msg("status %d: %s", (int)st, err.msg);
            f.data[at] ^= (uint8_t)(1 << bit);
        }
    assert_int_equal(bwi_alloc_live_blocks(), live);
    free(f.data);
}

static void test_damaged(void **state)
{
    (void)state;
    try_damaged(make_kind(&kinds[7]), true);
    try_damaged(make_kind(&kinds[12]), true);
    try_damaged(make_colour(TJPF_RGB, TJSAMP_420, 0), true);
    try_damaged(make_colour(TJPF_CMYK, TJSAMP_444, TJFLAG_PROGRESSIVE), true);
}

/* What a header claims is checked before memory is asked for. */
static void test_limits(void **state)
{
    (void)state;
    bw_error err;
    made_file jpeg = make_colour(TJPF_RGB, TJSAMP_444, 0), png = make_kind(&kinds[7]);
    claim_sides(&jpeg, 65000, 65000);
    assert_int_equal(try_bytes(jpeg.data, jpeg.size, &err), BW_UNSUPPORTED);
    assert_string_equal(err.msg, "an image of 65000 x 65000 pixels; at most 1048576 are read");
    claim_png_sides(&png, 1000000, 1000000);
    assert_int_equal(try_bytes(png.data, png.size, &err), BW_UNSUPPORTED);
    assert_string_equal(err.msg, "an image of 1000000 x 1000000 pixels; at most 1048576 are read");
    claim_png_sides(&png, 0x7fffffff, 0x7fffffff);
    assert_int_equal(try_bytes(png.data, png.size, &err), BW_FORMAT);
    assert_non_null(strstr(err.msg, "a damaged PNG file: "));
    assert_int_equal(try_bytes((const uint8_t *)"GIF89a", 6, &err), BW_FORMAT);
    assert_string_equal(err.msg, "not an image of a known format: png (.png), jpeg (.jpg .jpeg)");
    free(jpeg.data);
    free(png.data);
}

/* Every allocation fails in turn: no leak, and the message says memory. */
static void test_memory(void **state)
{
    (void)state;
    made_file files[] = {make_kind(&kinds[8]), make_kind(&kinds[13]), make_colour(TJPF_RGB, TJSAMP_444, 0)};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        int failures = 0;
        for (int n = 0;; n++) {
            const int64_t live = bwi_alloc_live_blocks();
            bwi_image m;
            bw_error err = {0};
            uint8_t window[5 * 5 * 3];
            bwi_alloc_fail_at(n, 1);
            bw_status st = bwi_image_decode(&m, files[i].data, files[i].size, MOST, &err);
            if (!st) st = bwi_image_fit(&m, 5, 5, window, &err);
            bwi_alloc_fail_at(-1, 0);
            bwi_image_free(&m);
            assert_int_equal(bwi_alloc_live_blocks(), live);
            if (!st) break;
            assert_int_equal(st, BW_NOMEM);
            failures++;
        }
        assert_true(failures > 4);
        free(files[i].data);
    }
}

/* ---- Fitting ------------------------------------------------------------------------------------------------------------- */

static bwi_image blank(int w, int h)
{
    bwi_image m;
    bw_error err;
    assert_int_equal(bwi_image_alloc(&m, h, w, 3, (size_t)1 << 30, &err), BW_OK);
    memset(m.pixel, 0, (size_t)w * (size_t)h * 3);
    return m;
}

static void fit(const bwi_image *m, int h, int w, uint8_t *out)
{
    bw_error err = {0};
    if (bwi_image_fit(m, h, w, out, &err) != BW_OK) fail_msg("%s", err.msg);
}

static void test_fit(void **state)
{
    (void)state;
    static uint8_t out[224 * 224 * 3];
    /* As large as the window: the same bytes. */
    bwi_image m = blank(32, 32);
    for (size_t i = 0; i < 32 * 32 * 3; i++) m.pixel[i] = (uint8_t)(i * 7 + i / 5);
    fit(&m, 32, 32, out);
    assert_memory_equal(m.pixel, out, 32 * 32 * 3);
    bwi_image_free(&m);
    /* Wider: the middle of it. */
    m = blank(48, 32);
    for (size_t i = 0; i < 48 * 32; i++) m.pixel[3 * i] = (uint8_t)(i % 48);
    fit(&m, 32, 32, out);
    for (size_t i = 0; i < 32 * 32; i++) assert_int_equal(out[3 * i], 8 + i % 32);
    bwi_image_free(&m);
    /* Half as large: the triangle over four pixels has weights 1 3 3 1; at the edge 3 3 1. */
    m = blank(8, 8);
    for (size_t i = 0; i < 64; i++) m.pixel[3 * i + 1] = (uint8_t)(i % 8 == 3 ? 240 : 0);
    fit(&m, 4, 4, out);
    const int want[4] = {0, 90, 30, 0};
    for (size_t i = 0; i < 16; i++) assert_int_equal(out[3 * i + 1], want[i % 4]);
    bwi_image_free(&m);
    /* Twice as large: three quarters of the nearer pixel. */
    m = blank(2, 2);
    m.pixel[0] = m.pixel[6] = 100;
    fit(&m, 4, 4, out);
    const int grown[4] = {100, 75, 25, 0};
    for (size_t i = 0; i < 16; i++) assert_int_equal(out[3 * i], grown[i % 4]);
    bwi_image_free(&m);
    /* ImageNet's window: 256 first, and 16 of it are cut off on every side. */
    m = blank(300, 256);
    for (size_t i = 0; i < 300 * 256; i++)
        m.pixel[3 * i] = (uint8_t)(i / 300), m.pixel[3 * i + 2] = (uint8_t)(i % 300 < 255 ? i % 300 : 255);
    fit(&m, 224, 224, out);
    for (size_t y = 0; y < 224; y++)
        for (size_t x = 0; x < 224; x++) {
            assert_int_equal(out[(y * 224 + x) * 3], y + 16);
            assert_int_equal(out[(y * 224 + x) * 3 + 2], x + 38 < 255 ? x + 38 : 255);
        }
    bwi_image_free(&m);
    /* Extreme shapes stay in their memory, and one colour stays that colour. */
    static const int sides[][2] = {{1, 1}, {1, 900}, {900, 1}, {7, 1000}, {1023, 31}, {2000, 3}};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        m = blank(sides[i][0], sides[i][1]);
        memset(m.pixel, 201, (size_t)m.w * (size_t)m.h * 3);
        fit(&m, 32, 24, out);
        for (size_t k = 0; k < 32 * 24 * 3; k++) assert_int_equal(out[k], 201);
        bwi_image_free(&m);
    }
}

/* ---- The corpus ---------------------------------------------------------------------------------------------------------- */

static void put(const char *folder, const char *name, made_file f)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(f.data, 1, f.size, out) != f.size || fclose(out)) {
        perror(path);
        exit(1);
    }
    free(f.data);
}

static int write_corpus(const char *folder)
{
    char name[64];
    for (int i = 0; i < KINDS; i++) {
        snprintf(name, sizeof name, "%s.png", kinds[i].name);
        put(folder, name, make_kind(&kinds[i]));
    }
    put(folder, "gray.jpg", make_gray_jpeg());
    put(folder, "colour.jpg", make_colour(TJPF_RGB, TJSAMP_420, 0));
    put(folder, "progressive.jpg", make_colour(TJPF_RGB, TJSAMP_422, TJFLAG_PROGRESSIVE));
    put(folder, "cmyk.jpg", make_colour(TJPF_CMYK, TJSAMP_444, 0));
    made_file f = make_colour(TJPF_RGB, TJSAMP_444, 0);
    f.size -= 60;
    put(folder, "short.jpg", f);
    f = make_colour(TJPF_RGB, TJSAMP_444, 0);
    claim_sides(&f, 65000, 65000);
    put(folder, "huge.jpg", f);
    f = make_colour(TJPF_RGB, TJSAMP_444, TJFLAG_PROGRESSIVE);
    claim_sides(&f, 900, 900);
    put(folder, "larger.jpg", f);
    f = make_kind(&kinds[7]);
    f.size -= 20;
    put(folder, "short.png", f);
    f = make_kind(&kinds[8]);
    claim_png_sides(&f, 900, 900);
    put(folder, "larger.png", f);
    f = make_kind(&kinds[7]);
    claim_png_sides(&f, 1000000, 1000000);
    put(folder, "huge.png", f);
    f = make_kind(&kinds[7]);
    f.data[f.size / 2] ^= 4;
    put(folder, "checksum.png", f);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--corpus")) return write_corpus(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png),    cmocka_unit_test(test_jpeg),   cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_memory), cmocka_unit_test(test_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
