/* Integer kernels: every convolution row against ref, bit for bit, and every finish row against the plain C one. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "kernels/conv.h"
#include "kernels/finish.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- Memory with walls --------------------------------------------------------------------------------------------------- */
/* Exactly `bytes` bytes that end (or begin) at a page that may not be touched, so that reading one byte too many is a fault. */
typedef struct walled {
    unsigned char *base, *data;
    size_t whole, bytes;
} walled;

static walled walled_make(size_t bytes, bool at_end)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (bytes + page - 1) / page * page;
    walled m = {.whole = inside + 2 * page, .bytes = bytes};
    m.base = mmap(NULL, m.whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(m.base != MAP_FAILED);
    assert_int_equal(mprotect(m.base, page, PROT_NONE), 0);
    assert_int_equal(mprotect(m.base + page + inside, page, PROT_NONE), 0);
    m.data = m.base + page + (at_end ? inside - bytes : 0);
    return m;
}

static void walled_drop(walled *m)
{
    assert_int_equal(munmap(m->base, m->whole), 0);
}

/* Bytes for a kernel to write, 64-byte aligned, between guards. */
enum { GUARD = 64 };
typedef struct guarded {
    unsigned char *base, *data;
    size_t bytes;
} guarded;

static guarded guarded_make(size_t bytes)
{
    guarded g = {bwi_malloc(bytes + 2 * GUARD), NULL, bytes};
    assert_non_null(g.base);
    memset(g.base, 0xa5, bytes + 2 * GUARD);
    g.data = g.base + GUARD;
    return g;
}

static bool guarded_drop(guarded *g)
{
    bool whole = true;
    for (size_t i = 0; i < GUARD; i++) whole = whole && g->base[i] == 0xa5 && g->base[GUARD + g->bytes + i] == 0xa5;
    bwi_free(g->base);
    return whole;
}

/* ---- One convolution ----------------------------------------------------------------------------------------------------- */
static const char *text(const bwk_conv *k, const bwk_conv_spec *s)
{
    static char line[200];
    snprintf(line, sizeof line,
             "%s: %dx%dx%d > %dx%dx%d, kernel %dx%d, stride %d, pad %d, groups %d, weights %d bits, %s %d bits", k->name, s->ih,
             s->iw, s->ic, s->oh, s->ow, s->oc, s->kh, s->kw, s->stride, s->pad, s->groups, s->wbits,
             s->asigned ? "signed codes" : "codes", s->abits);
    return line;
}

#define CHECK(k, s, condition, ...)                                                                                            \
    do {                                                                                                                       \
        if (!(condition)) {                                                                                                    \
            print_message("%s: ", text(k, s));                                                                                 \
            print_message(__VA_ARGS__);                                                                                        \
            print_message("\n");                                                                                               \
            fail();                                                                                                            \
        }                                                                                                                      \
    } while (0)

/* False when the map comes out empty. */
static bool complete(bwk_conv_spec *s)
{
    if (s->ih + 2 * s->pad < s->kh || s->iw + 2 * s->pad < s->kw) return false;
    s->oh = (s->ih + 2 * s->pad - s->kh) / s->stride + 1;
    s->ow = (s->iw + 2 * s->pad - s->kw) / s->stride + 1;
    return true;
}

typedef struct sums {
    const bwk_conv *k;
    const bwk_conv_spec *s;
    int first, last; /* pixels that this call may deliver */
    int32_t *value;  /* [pixels][oc] */
    uint8_t *times;  /* [pixels][oc] how often a sum came */
} sums;

static void collect(void *arg, int pixel, int pixels, int channel, int channels, const int32_t *acc, int stride)
{
    sums *r = arg;
    CHECK(r->k, r->s, (uintptr_t)acc % 64 == 0, "sums are not aligned");
    CHECK(r->k, r->s, pixels > 0 && channels > 0 && stride >= channels, "an empty block of sums");
    CHECK(r->k, r->s, pixel >= r->first && pixel + pixels <= r->last && channel >= 0 && channel + channels <= r->s->oc,
          "pixels %d to %d, channels %d to %d are not of these rows", pixel, pixel + pixels, channel, channel + channels);
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < channels; c++) {
            const size_t at = (size_t)(pixel + p) * r->s->oc + channel + c;
            r->value[at] = acc[(size_t)p * stride + c];
            r->times[at]++;
        }
}

/* Sums of all rows, `step` rows a call from the last to the first; 0: all at once. The caller frees them. */
static int32_t *convolve(const bwk_conv *k, const bwk_conv_spec *s, const int8_t *w, const void *x, int step)
{
    const size_t n = (size_t)s->oh * s->ow * s->oc;
    guarded packed = guarded_make(k->packed_size(s)), scratch = guarded_make(k->scratch_size(s));
    sums r = {.k = k, .s = s, .value = bwi_malloc(n * sizeof(int32_t)), .times = bwi_calloc(n, 1)};
    assert_true(r.value && r.times);
    k->pack(s, w, packed.data);
    if (!step) step = s->oh;
    for (int row = (s->oh - 1) / step * step; row >= 0; row -= step) {
        const int rows = s->oh - row < step ? s->oh - row : step;
        r.first = row * s->ow, r.last = (row + rows) * s->ow;
        memset(scratch.data, 0x5a, scratch.bytes);
        k->run(s, packed.data, x, row, rows, scratch.data, collect, &r);
    }
    for (size_t i = 0; i < n; i++)
        CHECK(k, s, r.times[i] == 1, "pixel %zu, channel %zu came %d times", i / s->oc, i % s->oc, r.times[i]);
    CHECK(k, s, guarded_drop(&packed), "a write outside the packed weights");
    CHECK(k, s, guarded_drop(&scratch), "a write outside the scratch memory");
    bwi_free(r.times);
    return r.value;
}

/* ---- Operands ------------------------------------------------------------------------------------------------------------ */
/* How operands are filled: at random, with the least or greatest code, with one of the two at random. */
enum { RANDOM, LEAST, GREATEST, EXTREME };
static const int fills[][2] = {{RANDOM, RANDOM}, {LEAST, GREATEST}, {GREATEST, GREATEST}, {LEAST, LEAST}, {EXTREME, EXTREME}};

static int code(bwi_rng *r, int how, int lo, int hi)
{
    if (how == EXTREME) how = bwi_rng_below(r, 2) ? LEAST : GREATEST;
    return how == LEAST ? lo : how == GREATEST ? hi : lo + (int)bwi_rng_below(r, (uint32_t)(hi - lo + 1));
}

static void fill_weights(const bwk_conv_spec *s, bwi_rng *r, int how, int8_t *w, size_t n)
{
    const int hi = (1 << (s->wbits - 1)) - 1, lo = -(1 << (s->wbits - 1));
    for (size_t i = 0; i < n; i++) w[i] = (int8_t)(s->wbits == 1 ? 2 * code(r, how, 0, 1) - 1 : code(r, how, lo, hi));
}

static void fill_codes(const bwk_conv_spec *s, bwi_rng *r, int how, uint8_t *x, size_t n)
{
    const int hi = s->asigned ? (1 << (s->abits - 1)) - 1 : (1 << s->abits) - 1, lo = s->asigned ? -(1 << (s->abits - 1)) : 0;
    for (size_t i = 0; i < n; i++) x[i] = (uint8_t)code(r, how, lo, hi);
}

/* The row against ref, in every fill of the first `n_fills`. */
static void compare(const bwk_conv *k, const bwk_conv_spec *s, uint64_t key, size_t n_fills)
{
    const size_t n_w = (size_t)s->oc * s->kh * s->kw * (s->ic / s->groups), n_x = (size_t)s->ih * s->iw * s->ic;
    for (size_t f = 0; f < n_fills; f++) {
        bwi_rng r = bwi_rng_make(3, BWI_RNG_TEST, key, f);
        walled x = walled_make(n_x, (key + f) % 4 != 0), w = walled_make(n_w, true);
        fill_weights(s, &r, fills[f][0], (int8_t *)w.data, n_w);
        fill_codes(s, &r, fills[f][1], x.data, n_x);
        int32_t *want = convolve(bwk_conv_find("ref"), s, (const int8_t *)w.data, x.data, 0);
        const int step = f % 2 ? k->row_grain * (1 + (int)(key % 3)) : 0;
        int32_t *got = convolve(k, s, (const int8_t *)w.data, x.data, step);
        for (size_t i = 0; i < (size_t)s->oh * s->ow * s->oc; i++)
            CHECK(k, s, got[i] == want[i], "fill %zu, row %zu, column %zu, channel %zu: %d instead of %d", f, i / s->oc / s->ow,
                  i / s->oc % s->ow, i % s->oc, got[i], want[i]);
        bwi_free(want);
        bwi_free(got);
        walled_drop(&x);
        walled_drop(&w);
    }
}

/* ---- Shapes -------------------------------------------------------------------------------------------------------------- */
static int pick(bwi_rng *r, const int *from, size_t n)
{
    return from[bwi_rng_below(r, (uint32_t)n)];
}
#define PICK(r, ...) pick(r, (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

static double work(const bwk_conv_spec *s)
{
    return (double)s->oh * s->ow * s->oc * s->kh * s->kw * (s->ic / s->groups);
}

/* A random shape; half of them are those that special kernels are for. */
static bwk_conv_spec shape(bwi_rng *r)
{
    static const int bits[][3] = {{8, 8, 0}, {8, 8, 1}, {4, 4, 0}, {3, 3, 0}, {2, 2, 0}, {1, 2, 0}, {1, 1, 0}, {4, 4, 1}};
    for (;;) {
        bwk_conv_spec s = {.stride = 1, .groups = 1, .kh = 3, .kw = 3};
        s.ic = PICK(r, 1, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 128, 129, 192);
        s.oc = PICK(r, 1, 7, 8, 10, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65);
        s.ih = 1 + (int)bwi_rng_below(r, 18);
        s.iw = bwi_rng_below(r, 8) ? 1 + (int)bwi_rng_below(r, 33) : 50 + (int)bwi_rng_below(r, 80);
        s.pad = (int)bwi_rng_below(r, 2);
        if (bwi_rng_below(r, 2)) {
            s.kh = PICK(r, 1, 2, 3, 5, 7, 1, 3);
            s.kw = PICK(r, 1, 2, 3, 5, 7);
            if (bwi_rng_below(r, 3)) s.kw = s.kh;
            s.stride = PICK(r, 1, 1, 2, 2, 3);
            s.pad = PICK(r, 0, s.kh / 2, s.kw / 2, 1, 2);
            if (bwi_rng_below(r, 4) == 0) s.groups = s.oc = s.ic;
            if (bwi_rng_below(r, 8) == 0 && s.ic % 4 == 0 && s.oc % 4 == 0) s.groups = 4;
        }
        const int *b = bits[bwi_rng_below(r, COUNT(bits))];
        s.wbits = b[0], s.abits = b[1], s.asigned = b[2];
        if (bwi_rng_below(r, 2)) {
            s.wbits = 1 + (int)bwi_rng_below(r, 8), s.abits = 1 + (int)bwi_rng_below(r, 8);
            s.asigned = bwi_rng_below(r, 3) == 0;
        }
        if (complete(&s) && work(&s) < 4e5) return s;
    }
}

static void test_random_shapes(void **state)
{
    (void)state;
    const bwk_conv *k;
    for (size_t i = 0; (k = bwk_conv_at(i)); i++) {
        int tested = 0;
        if (!strcmp(k->name, "ref") || (k->needs & ~bwi_cpu_flags())) continue;
        for (uint64_t key = 0; key < 6000 && tested < 120; key++) {
            bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, i, key);
            const bwk_conv_spec s = shape(&r);
            if (!bwk_conv_usable(k, &s)) continue;
            compare(k, &s, key, COUNT(fills));
            tested++;
        }
        print_message("%s: %d shapes\n", k->name, tested);
        assert_int_equal(tested, 120);
    }
}

/* All widths that a row takes, at shapes with tails everywhere. */
static void test_all_bits(void **state)
{
    (void)state;
    static const bwk_conv_spec base[] = {
        {.ih = 7, .iw = 6, .ic = 20, .oc = 18, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1},
        {.ih = 5, .iw = 9, .ic = 19, .oc = 19, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 19},
    };
    const bwk_conv *k;
    for (size_t i = 0; (k = bwk_conv_at(i)); i++) {
        int tested = 0;
        for (int n = 0; n < 2 * 8 * 8 * 2 && strcmp(k->name, "ref"); n++) {
            bwk_conv_spec s = base[n & 1];
            s.asigned = n >> 1 & 1, s.wbits = 1 + (n >> 2) % 8, s.abits = 1 + (n >> 2) / 8;
            if (!complete(&s) || !bwk_conv_usable(k, &s)) continue;
            compare(k, &s, (uint64_t)n, COUNT(fills));
            tested++;
        }
        print_message("%s: %d widths\n", k->name, tested);
    }
}

/* The longest sums of common networks, at the greatest widths that a row takes. */
static void test_long_sums(void **state)
{
    (void)state;
    const bwk_conv *k;
    for (size_t i = 0; (k = bwk_conv_at(i)); i++)
        for (int n = 0; n < 8 * 8 * 2 && strcmp(k->name, "ref"); n++) {
            bwk_conv_spec s = {.ih = 4, .iw = 2, .ic = 512, .oc = 17, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1};
            s.asigned = n & 1, s.wbits = 8 - (n >> 1) % 8, s.abits = 8 - (n >> 1) / 8;
            if (!complete(&s) || !bwk_conv_usable(k, &s)) continue;
            compare(k, &s, (uint64_t)n, COUNT(fills));
            if (++n > 2) break;
        }
}

/* Weights beyond a second-level cache, which some kernels keep in bits: every bit-width, extreme codes, blocks of 16 and of 32 channels. */
static void test_many_weights(void **state)
{
    (void)state;
    static const int sizes[][3] = {{3, 400, 304}, {1, 1030, 1040}}; /* kernel, channels in and out */
    const bwk_conv *k;
    for (size_t i = 0; (k = bwk_conv_at(i)); i++)
        for (int n = 0; n < 2 * 2 * 8 && strcmp(k->name, "ref"); n++) {
            const int *size = sizes[n & 1];
            bwk_conv_spec s = {.ih = 3, .iw = 2, .ic = size[1], .oc = size[2], .stride = 1, .groups = 1};
            s.kh = s.kw = size[0], s.pad = size[0] / 2;
            s.asigned = n >> 1 & 1, s.wbits = 1 + (n >> 2), s.abits = 8;
            if (complete(&s) && bwk_conv_usable(k, &s)) compare(k, &s, (uint64_t)n, 2);
        }
}

/* Every width of a map around the sizes of tiles and blocks. */
static void test_map_sizes(void **state)
{
    (void)state;
    static const int bits[][2] = {{8, 8}, {4, 4}, {2, 2}, {1, 1}};
    const bwk_conv *k;
    for (size_t i = 0; (k = bwk_conv_at(i)); i++)
        for (int n = 1; n <= 34 && strcmp(k->name, "ref"); n++)
            for (size_t b = 0; b < COUNT(bits); b++) {
                bwk_conv_spec s = {
                    .ih = n, .iw = 35 - n, .ic = 5, .oc = 3, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1};
                s.wbits = bits[b][0], s.abits = bits[b][1];
                s.oc = n % 3 ? 3 : 34;
                if (complete(&s) && bwk_conv_usable(k, &s)) {
                    compare(k, &s, (uint64_t)n, 2);
                    break; /* the greatest width is enough */
                }
            }
}

/* ref itself, against sums that were made by hand. */
static void test_reference(void **state)
{
    (void)state;
    const bwk_conv *ref = bwk_conv_find("ref");
    const int8_t w[9] = {1, 2, 3, 4, 5, 6, 7, 8, -128};
    const uint8_t x[4] = {255, 1, 2, 3};
    bwk_conv_spec s = {
        .ih = 2, .iw = 2, .ic = 1, .oc = 1, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1, .wbits = 8, .abits = 8};
    assert_true(complete(&s));
    int32_t *y = convolve(ref, &s, w, x, 1);
    const int32_t unsigned_sums[4] = {5 * 255 + 6 * 1 + 8 * 2 - 128 * 3, 4 * 255 + 5 * 1 + 7 * 2 + 8 * 3,
                                      2 * 255 + 3 * 1 + 5 * 2 + 6 * 3, 1 * 255 + 2 * 1 + 4 * 2 + 5 * 3};
    assert_memory_equal(y, unsigned_sums, sizeof unsigned_sums);
    bwi_free(y);
    s.asigned = true; /* 255 is now -1 */
    y = convolve(ref, &s, w, x, 1);
    const int32_t signed_sums[4] = {-5 + 6 + 16 - 384, -4 + 5 + 14 + 24, -2 + 3 + 10 + 18, -1 + 2 + 8 + 15};
    assert_memory_equal(y, signed_sums, sizeof signed_sums);
    bwi_free(y);
    /* Two groups of two channels each, 1x1, stride 2. */
    const int8_t gw[4] = {1, -1, 1, 1};
    const uint8_t gx[4 * 3] = {1, 2, 3, 4, 9, 9, 9, 9, 5, 6, 7, 9};
    s = (bwk_conv_spec){.ih = 1, .iw = 3, .ic = 4, .oc = 2, .kh = 1, .kw = 1, .stride = 2, .groups = 2, .wbits = 1, .abits = 4};
    assert_true(complete(&s));
    y = convolve(ref, &s, gw, gx, 0);
    const int32_t grouped[4] = {-1, 7, -1, 16};
    assert_memory_equal(y, grouped, sizeof grouped);
    bwi_free(y);
}

static void test_rows(void **state)
{
    (void)state;
    bwk_conv_spec s = {
        .ih = 8, .iw = 8, .ic = 64, .oc = 64, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1, .wbits = 1, .abits = 1};
    assert_true(complete(&s));
    static const struct {
        const char *limit;
        unsigned has;
    } limits[] = {{"ref", 0}, {"avx2", BWI_CPU_AVX2}, {"native", ~0u}};
    for (size_t l = 0; l < COUNT(limits); l++) {
        assert_int_equal(bwi_cpu_limit(limits[l].limit, NULL), BW_OK);
        size_t i = 0;
        for (const bwk_conv *k; (k = bwk_conv_at(i)); i++) {
            assert_ptr_equal(bwk_conv_find(k->name), k);
            assert_true(k->row_grain >= 1 && k->summary[0]);
            if (k->needs & ~limits[l].has) assert_false(bwk_conv_usable(k, &s));
        }
        assert_true(i > 0);
        assert_string_equal(bwk_conv_at(i - 1)->name, "ref");
        assert_true(bwk_conv_usable(bwk_conv_at(i - 1), &s));
        const bwk_finish_row *row = bwk_finish_at(0);
        for (size_t f = 0; bwk_finish_at(f); f++) {
            row = bwk_finish_at(f);
            if ((row->needs & ~bwi_cpu_flags()) == 0) break;
        }
        assert_true(bwk_finish_for_cpu() == row->fn && (row->needs & ~limits[l].has) == 0);
    }
    assert_int_equal(bwi_cpu_limit(NULL, NULL), BW_OK);
    assert_null(bwk_conv_find("vnnj"));
}

/* ---- Finish -------------------------------------------------------------------------------------------------------------- */
enum { PIXELS = 11, CHANNELS = 77, STRIDE = 64, RUNS = 4000 };

static float uniform(bwi_rng *r, double lo, double hi)
{
    return (float)(lo + (hi - lo) * bwi_rng_uniform(r));
}

/* Values as they occur, whole and half ones that tie, or the largest that there are. */
static void fill_floats(bwi_rng *r, int how, float *v, size_t n)
{
    static const float large[] = {-3e38f, 3e38f, 0, -0.0f, 1e-40f, 16777215, 2147483520.0f};
    for (size_t i = 0; i < n; i++)
        v[i] = how == 0   ? uniform(r, -20, 20)
               : how == 1 ? (float)((int)bwi_rng_below(r, 81) - 40) / 2
                          : large[bwi_rng_below(r, COUNT(large))];
}

static void fill_sums(bwi_rng *r, int how, int32_t *acc, size_t n)
{
    static const int32_t large[] = {INT32_MIN, INT32_MAX, 16777217, -16777219, 0, 1, -1};
    for (size_t i = 0; i < n; i++)
        acc[i] =
            how == 2 ? large[bwi_rng_below(r, COUNT(large))] : (int32_t)bwi_rng_below(r, how ? 81 : 4001) - (how ? 40 : 2000);
}

/* What one finish writes. */
typedef struct outputs {
    float real[PIXELS * CHANNELS];
    uint8_t code[BWK_MAX_CODES][PIXELS * CHANNELS];
} outputs;

static void test_finish(void **state)
{
    (void)state;
    static outputs want, got;
    static float bias[CHANNELS], a[CHANNELS], b[CHANNELS], residual[PIXELS * CHANNELS];
    static int32_t window[PIXELS * CHANNELS];
    static const float range[][2] = {{0, 15}, {0, 255}, {0, 1}, {-128, 127}, {-8, 7}, {0, 0}};
    size_t rows = 0;
    while (bwk_finish_at(rows)) rows++;
    assert_string_equal(bwk_finish_at(rows - 1)->name, "ref");
    int32_t *acc = bwi_malloc(sizeof *acc * PIXELS * STRIDE);
    for (uint64_t run = 0; run < RUNS; run++) {
        bwi_rng r = bwi_rng_make(2, BWI_RNG_TEST, run, 0);
        const int how = (int)(run % 3);
        bwk_finish f = {.sum_mul = how < 2 ? 1 + (int)bwi_rng_below(&r, 3) : 1,
                        .scale = how == 1 ? 0.5f : uniform(&r, -0.1, 0.1)};
        /* The forms that have code of their own, at maps of as many channels as a store has bytes or any number. */
        const bool usual = bwi_rng_below(&r, 2);
        f.channels = bwi_rng_below(&r, 2) ? PICK(&r, 16, 32, 64) : 1 + (int)bwi_rng_below(&r, CHANNELS);
        if (how < 2 && bwi_rng_below(&r, 2)) {
            f.window = window;
            f.sum_add = (int)bwi_rng_below(&r, 9) - 4;
            if (bwi_rng_below(&r, 2)) f.sum_shift = how ? 0.25f : uniform(&r, -9, 9);
            if (bwi_rng_below(&r, 3) == 0) f.group = f.channels % 4 ? 1 : 4;
        }
        if (bwi_rng_below(&r, 2)) f.bias = bias;
        if (bwi_rng_below(&r, 2)) f.a = a, f.b = b;
        f.relu = bwi_rng_below(&r, 2);
        if (usual)
            f.sum_mul = 1, f.window = NULL, f.sum_add = 0, f.sum_shift = 0, f.bias = NULL, f.a = a, f.b = b, f.relu = true;
        const bool with_residual = bwi_rng_below(&r, 2), in_place = bwi_rng_below(&r, 2), with_real = bwi_rng_below(&r, 3);
        /* Products and sums of the largest values would not be numbers. */
        fill_floats(&r, how % 2, a, CHANNELS), fill_floats(&r, how % 2, b, CHANNELS);
        fill_floats(&r, with_residual || f.a ? how % 2 : how, bias, CHANNELS);
        fill_floats(&r, f.a || f.bias ? how % 2 : how, residual, PIXELS * CHANNELS);
        fill_sums(&r, how, acc, PIXELS * STRIDE);
        for (int p = 0; p < PIXELS * CHANNELS; p++) window[p] = (int32_t)bwi_rng_below(&r, 2001);
        f.n_codes = usual ? 1 : (int)bwi_rng_below(&r, BWK_MAX_CODES + 1);
        for (int i = 0; i < f.n_codes; i++) {
            const float *lim = range[bwi_rng_below(&r, COUNT(range))];
            f.codes[i] = (bwk_codes){.sub = bwi_rng_below(&r, 2) ? 0
                                            : how == 1           ? 0.5f
                                                                 : uniform(&r, -1, 1),
                                     .mul = how == 1 ? 1 : uniform(&r, 0.01, 3),
                                     .add = bwi_rng_below(&r, 2) ? 0
                                            : how == 1           ? 1
                                                                 : uniform(&r, -1, 1),
                                     .lo = lim[0],
                                     .hi = lim[1]};
        }
        if (usual) f.codes[0].sub = f.codes[0].add = 0;
        /* A block somewhere in the map. */
        const int pixel = (int)bwi_rng_below(&r, PIXELS), pixels = 1 + (int)bwi_rng_below(&r, (uint32_t)(PIXELS - pixel));
        const int first = usual ? 0 : (int)bwi_rng_below(&r, (uint32_t)f.channels);
        int channels = usual && f.channels <= STRIDE ? f.channels : 1 + (int)bwi_rng_below(&r, (uint32_t)(f.channels - first));
        if (channels > STRIDE) channels = STRIDE;
        for (size_t i = rows; i-- > 0;) { /* ref, the last, is what the others are compared with */
            const bwk_finish_row *row = bwk_finish_at(i);
            outputs *out = i == rows - 1 ? &want : &got;
            if (row->needs & ~bwi_cpu_flags()) continue;
            memset(out, 0xa5, sizeof *out);
            if (with_residual && in_place) memcpy(out->real, residual, sizeof residual);
            f.residual = with_residual ? in_place ? out->real : residual : NULL;
            f.real = with_real || in_place ? out->real : NULL;
            for (int c = 0; c < f.n_codes; c++) f.codes[c].to = out->code[c];
            row->fn(&f, pixel, pixels, first, channels, acc, STRIDE);
            if (out == &got && memcmp(&want, &got, sizeof want)) {
                for (size_t at = 0; at < COUNT(want.real); at++)
                    if (memcmp(&want.real[at], &got.real[at], sizeof(float)))
                        print_message("real %zu: %a instead of %a\n", at, (double)got.real[at], (double)want.real[at]);
                print_message("finish %s differs from ref in run %d\n", row->name, (int)run);
                fail();
            }
        }
    }
    bwi_free(acc);
}

/* The form itself: roundings of ties, clipping, the sign of zero. */
static void test_finish_by_hand(void **state)
{
    (void)state;
    static const int32_t acc[16] __attribute__((aligned(64))) = {1, 3, 5, -1, -3, 600, -600, 0, 7, 8};
    static const int8_t codes[10] = {0, 2, 2, 0, -2, 127, -128, 0, 4, 4};
    static const uint8_t relu_codes[10] = {0, 2, 2, 0, 0, 255, 0, 0, 4, 4};
    for (size_t i = 0; bwk_finish_at(i); i++) {
        const bwk_finish_row *row = bwk_finish_at(i);
        int8_t to[10];
        uint8_t to_relu[10];
        float real[10];
        if (row->needs & ~bwi_cpu_flags()) continue;
        bwk_finish f = {.channels = 10, .sum_mul = 1, .scale = 0.5f, .real = real, .n_codes = 1};
        f.codes[0] = (bwk_codes){.mul = 1, .lo = -128, .hi = 127, .to = to};
        row->fn(&f, 0, 1, 0, 10, acc, 16);
        assert_memory_equal(to, codes, sizeof codes);
        f.relu = true, f.codes[0] = (bwk_codes){.mul = 1, .lo = 0, .hi = 255, .to = to_relu};
        row->fn(&f, 0, 1, 0, 10, acc, 16);
        assert_memory_equal(to_relu, relu_codes, sizeof relu_codes);
        assert_true(real[4] == 0 && !signbit(real[4]) && real[8] == 3.5f);
        f.scale = -1; /* 0 * -1 is -0, which is not less than 0 */
        row->fn(&f, 0, 1, 0, 10, acc, 16);
        assert_true(real[7] == 0 && signbit(real[7]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),           cmocka_unit_test(test_reference), cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_all_bits),       cmocka_unit_test(test_long_sums), cmocka_unit_test(test_map_sizes),
        cmocka_unit_test(test_finish_by_hand), cmocka_unit_test(test_finish),    cmocka_unit_test(test_many_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
