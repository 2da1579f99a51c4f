/* The engine's float layers: every instruction set gives the bits of the definition, which stands here. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "kernels/real.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { SHAPES = 400 };

static int below(bwi_rng *r, int n)
{
    return (int)bwi_rng_below(r, (uint32_t)n);
}

/* Any shape whose windows meet the map, now and then with groups; channels that fill vectors and that do not. */
static bwk_conv_spec shape(bwi_rng *r)
{
    static const int channels[] = {1, 3, 5, 8, 16, 20, 32, 45, 64, 70};
    const int groups = below(r, 3) ? 1 : 1 + below(r, 4), in = 1 + below(r, 9), out = channels[below(r, 10)];
    bwk_conv_spec s = {.kh = 1 + below(r, 7), .kw = 1 + below(r, 7), .stride = 1 + below(r, 3), .groups = groups};
    s.pad = below(r, (s.kh < s.kw ? s.kh : s.kw) / 2 + 1);
    s.ih = s.kh + below(r, 20), s.iw = s.kw + below(r, 20);
    s.oh = (s.ih + 2 * s.pad - s.kh) / s.stride + 1, s.ow = (s.iw + 2 * s.pad - s.kw) / s.stride + 1;
    s.ic = in * groups, s.oc = out * groups;
    return s;
}

static float *floats(bwi_rng *r, size_t n)
{
    float *v = bwi_malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++) v[i] = (float)bwi_rng_normal(r);
    return v;
}

/* The definition, one value at a time. */
static float conv_value(const bwk_conv_spec *s, const float *w, const float *x, float scale, int oy, int ox, int o)
{
    const int in = s->ic / s->groups, group = o / (s->oc / s->groups);
    float sum = 0;
    for (int ky = 0; ky < s->kh; ky++)
        for (int kx = 0; kx < s->kw; kx++)
            for (int c = 0; c < in; c++) {
                const int y = oy * s->stride + ky - s->pad, z = ox * s->stride + kx - s->pad;
                if (y < 0 || y >= s->ih || z < 0 || z >= s->iw) continue;
                const float product = x[(y * s->iw + z) * s->ic + group * in + c] * w[((ky * s->kw + kx) * in + c) * s->oc + o];
                sum = sum + product;
            }
    return sum * scale;
}

static float max_value(const bwk_conv_spec *s, const float *x, int oy, int ox, int c)
{
    float most = -INFINITY;
    for (int ky = 0; ky < s->kh; ky++)
        for (int kx = 0; kx < s->kw; kx++) {
            const int y = oy * s->stride + ky - s->pad, z = ox * s->stride + kx - s->pad;
            if (y < 0 || y >= s->ih || z < 0 || z >= s->iw) continue;
            const float v = x[(y * s->iw + z) * s->ic + c];
            most = v > most ? v : most;
        }
    return most;
}

static void same(const char *what, const bwk_real *row, const bwk_conv_spec *s, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg(
                "%s, %s: value %zu is %.9g, not %.9g: map %dx%dx%d, channels %d, kernel %dx%d, stride %d, pad %d, groups %d",
                row->name, what, i, (double)got[i], (double)want[i], s->ih, s->iw, s->ic, s->oc, s->kh, s->kw, s->stride,
                s->pad, s->groups);
}

static void test_windows(void **state)
{
    (void)state;
    for (uint64_t k = 0; k < SHAPES; k++) {
        bwi_rng r = bwi_rng_make(5, BWI_RNG_TEST, k, 0);
        const bwk_conv_spec s = shape(&r);
        const size_t row = (size_t)s.ow * (size_t)s.oc, pooled = (size_t)s.ow * (size_t)s.ic;
        float *x = floats(&r, (size_t)s.ih * (size_t)s.iw * (size_t)s.ic);
        float *w = floats(&r, (size_t)s.kh * (size_t)s.kw * (size_t)(s.ic / s.groups) * (size_t)s.oc);
        float *want = floats(&r, row > pooled ? row : pooled), *got = floats(&r, row > pooled ? row : pooled);
        const bwk_real *real;
        for (int oy = 0; oy < s.oh; oy++) {
            for (size_t i = 0; i < row; i++)
                want[i] = conv_value(&s, w, x, 0.3f, oy, (int)(i / (size_t)s.oc), (int)(i % (size_t)s.oc));
            for (size_t i = 0; (real = bwk_real_at(i)); i++) {
                if (real->needs & ~bwi_cpu_flags()) continue;
                memset(got, 0xff, row * sizeof *got);
                real->conv(&s, w, x, 0.3f, oy, got);
                same("convolution", real, &s, got, want, row);
            }
            bwk_conv_spec pool = s;
            pool.oc = s.ic;
            for (size_t i = 0; i < pooled; i++)
                want[i] = max_value(&pool, x, oy, (int)(i / (size_t)s.ic), (int)(i % (size_t)s.ic));
            for (size_t i = 0; (real = bwk_real_at(i)); i++) {
                if (real->needs & ~bwi_cpu_flags()) continue;
                real->max_pool(&pool, x, oy, got);
                same("max pool", real, &pool, got, want, pooled);
            }
        }
        bwi_free(x);
        bwi_free(w);
        bwi_free(want);
        bwi_free(got);
    }
}

enum { PIXELS = 9, CHANNELS = 70 };

typedef struct outputs {
    float real[PIXELS * CHANNELS];
    uint8_t code[2][PIXELS * CHANNELS];
} outputs;

/* Behind values that are whole numbers, what follows is what the integer kernels' finish makes of the same sums. */
static void test_finish(void **state)
{
    (void)state;
    static outputs want, got;
    static int32_t acc[PIXELS * CHANNELS];
    static float t[PIXELS * CHANNELS];
    const bwk_finish_row *ref = bwk_finish_at(0);
    for (size_t i = 0; bwk_finish_at(i); i++) ref = bwk_finish_at(i);
    for (uint64_t k = 0; k < SHAPES; k++) {
        bwi_rng r = bwi_rng_make(6, BWI_RNG_TEST, k, 0);
        const bwk_real *real;
        float *bias = floats(&r, CHANNELS), *a = floats(&r, CHANNELS), *b = floats(&r, CHANNELS);
        float *residual = floats(&r, PIXELS * CHANNELS);
        const int channels = 1 + below(&r, CHANNELS);
        const bwk_finish form = {
            .channels = channels,
            .sum_mul = 1,
            .scale = 1,
            .bias = below(&r, 2) ? bias : NULL,
            .a = k % 2 ? a : NULL,
            .b = k % 2 ? b : NULL,
            .residual = below(&r, 2) ? residual : NULL,
            .relu = below(&r, 2),
            .n_codes = 2,
            .codes = {{0, 0.37f, 0, 0, 15, NULL}, {1.5f, 0.5f, -0.5f, -128, 127, NULL}},
        };
        for (int i = 0; i < PIXELS * channels; i++) acc[i] = below(&r, 101) - 50;
        memset(&want, 0, sizeof want);
        bwk_finish f = form;
        f.real = want.real, f.codes[0].to = want.code[0], f.codes[1].to = want.code[1];
        ref->fn(&f, 0, PIXELS, 0, channels, acc, channels);
        for (size_t i = 0; (real = bwk_real_at(i)); i++) {
            if (real->needs & ~bwi_cpu_flags()) continue;
            for (int j = 0; j < PIXELS * channels; j++) t[j] = (float)acc[j];
            memset(&got, 0, sizeof got);
            f.real = got.real, f.codes[0].to = got.code[0], f.codes[1].to = got.code[1];
            real->finish(&f, 0, 2, t); /* in two parts: the second must find its place */
            real->finish(&f, 2, PIXELS - 2, t + 2 * channels);
            if (memcmp(&want, &got, sizeof want) != 0)
                fail_msg("%s: other values or codes behind %d channels", real->name, channels);
        }
        bwi_free(bias);
        bwi_free(a);
        bwi_free(b);
        bwi_free(residual);
    }
}

static void test_rows(void **state)
{
    (void)state;
    size_t n = 0;
    while (bwk_real_at(n)) n++;
    assert_true(n > 0);
    assert_string_equal(bwk_real_at(n - 1)->name, "ref");
    assert_int_equal(bwi_cpu_limit("ref", NULL), BW_OK);
    assert_ptr_equal(bwk_real_for_cpu(), bwk_real_at(n - 1));
    assert_int_equal(bwi_cpu_limit(NULL, NULL), BW_OK);
    assert_int_equal(bwk_real_for_cpu()->needs & ~bwi_cpu_flags(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
