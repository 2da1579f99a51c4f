/* Quantizers and gradient methods. The generic tests run over every row, role, bit-width and gradient method, so a new row is tested as it
 * is. A backward pass is compared with signed central differences of its surrogate; points at a kink are left out and counted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/par.h"
#include "base/rng.h"
#include "quant/quant.h"

#define N 3001 /* more than a block, not a multiple of any vector */

typedef struct fixture {
    bwi_quant q;
    double x[N], w[N];  /* values, dL/d(xq) */
    float xf[N], wf[N]; /* the same in float; x and w are exact in float */
    char what[128];
} fixture;

/* ---- Walking over all combinations ----------------------------------------------------------------------------------------- */
static void fill(fixture *f)
{
    bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        double v = bwi_rng_normal(&r);
        if (f->q.role == BWI_WEIGHT)
            v *= 0.5;
        else if (!f->q.is_signed)
            v = fabs(v) * 0.6 + 0.01;
        f->x[i] = f->xf[i] = (float)v;
        f->w[i] = f->wf[i] = (float)bwi_rng_normal(&r);
    }
}

static void prepare(fixture *f)
{
    bw_error err = {BW_OK, ""};
    if (bwi_quant_prepare(&f->q, f->x, BWI_DT_F64, N, &err) != BW_OK) fail_msg("%s: %s", f->what, err.msg);
}

static bool reaches_top(const fixture *f)
{
    static double u[N], c[N];
    f->q.q->loops[BWI_F64]->latents(&f->q.k, f->x, N, u, c);
    for (int i = 0; i < N; i++)
        if (u[i] >= f->q.k.hi * (1 - 1e-9)) return true;
    return false;
}

/* Calls run with each valid combination, with parameters some way from where init puts them. Returns how many there were. */
static int for_all(void (*run)(fixture *f))
{
    static fixture f;
    int n = 0;
    const bwi_quantizer *q;
    const bwi_gradient *g;
    for (size_t iq = 0; (q = bwi_quantizer_at(iq)); iq++)
        for (size_t ig = 0; (g = bwi_gradient_at(ig)); ig++)
            for (int role = BWI_WEIGHT; role <= BWI_ACTIVATION; role++)
                for (int sign = 0; sign <= (role == BWI_ACTIVATION && q->signed_activations); sign++) {
                    const int *bits = role == BWI_WEIGHT ? q->weight_bits : q->activation_bits;
                    if (!bits[1] || !(role == BWI_WEIGHT ? g->weights : g->activations)) continue;
                    for (int b = bits[0]; b <= bits[1]; b++) {
                        bw_error err;
                        memset(&f, 0, sizeof f);
                        snprintf(f.what, sizeof f.what, "%s, %s, %s%s, %d bits", q->name, g->name, sign ? "signed " : "",
                                 role == BWI_WEIGHT ? "weights" : "activations", b);
                        if (bwi_quant_make(&f.q, q->name, g->name, (bwi_role)role, b, sign, &err) != BW_OK)
                            fail_msg("%s", err.msg);
                        if (g->delta >= 0) f.q.delta = 0.3; /* strong enough to be seen */
                        f.q.features = 1500;
                        f.q.batch = 4;
                        fill(&f);
                        prepare(&f);
                        for (int p = 0; p < bwi_quant_n_params(&f.q); p++) f.q.theta[p] *= 0.7 + 0.05 * p;
                        prepare(&f);
                        while (bwi_quant_n_params(&f.q) && !reaches_top(&f)) { /* a start beyond the data would clip nothing */
                            for (int p = 0; p < bwi_quant_n_params(&f.q); p++) f.q.theta[p] /= 2;
                            prepare(&f);
                        }
                        run(&f);
                        n++;
                    }
                }
    return n;
}

static double value(const fixture *f, double code)
{
    return f->q.k.scale * code;
}
/* One block of backward in one variant. */
static void block(const bwi_quant *q, int variant, const void *x, const void *gcode, double gscale, size_t n, void *gx,
                  double *sums)
{
    q->q->loops[variant]->backward(&q->k, x, gcode, gscale, n, gx, sums);
}
static void backward(fixture *f, double *gx)
{
    bwi_quant_backward(&f->q, f->x, BWI_DT_F64, f->w, f->q.k.scale, N, gx);
}
/* Variants of float that this CPU can run. */
static bool can_run(int variant)
{
    if (variant == BWI_F32_AVX2) return bwi_cpu_flags() & BWI_CPU_AVX2;
    if (variant == BWI_F32_AVX512) return bwi_cpu_flags() & BWI_CPU_AVX512;
    return true;
}

/* ---- Backward against the surrogate ---------------------------------------------------------------------------------------- */
static double worst_x, worst_theta;
static int64_t points, kinks;

/* Central difference; *kink is set when the two one-sided ones differ by more than curvature explains. */
static double difference(double below, double base, double above, double h, bool *kink)
{
    double left = (base - below) / h, right = (above - base) / h;
    if (fabs(left - right) > 1e-3 * (fabs(left) + fabs(right)) + 1e-6) *kink = true;
    return (above - below) / (2 * h);
}

static void check_surrogate(fixture *f)
{
    static double u[N], c[N], codes[N], gx[N];
    const bwi_quant *q = &f->q;
    const double h = 1e-6, none[BWI_QPARAMS] = {0};
    const int n_params = bwi_quant_n_params(q);
    double want_x[N], want[BWI_QPARAMS] = {0}, size[BWI_QPARAMS] = {0};
    assert_true(n_params <= BWI_QPARAMS && !memcmp(none, q->dtheta, sizeof none));
    q->q->loops[BWI_F64]->latents(&q->k, f->x, N, u, c);
    bwi_quant_codes(q, f->x, BWI_DT_F64, N, BWI_DT_F64, codes);
    for (int i = 0; i < N; i++) {
        bool kink = false;
        double gc = q->k.mul * q->k.scale * f->w[i], d[BWI_QPARAMS] = {0};
        double factor = 1 + q->delta * ((gc > 0) - (gc < 0)) * (u[i] - c[i]) * q->k.unit;
        double base = q->q->surrogate(q, f->x[i], f->x[i], q->theta, factor);
        if (fabs(base - value(f, codes[i])) > 1e-12 * (1 + fabs(base)))
            fail_msg("%s: x %.17g: surrogate %.17g, forward %.17g", f->what, f->x[i], base, value(f, codes[i]));
        want_x[i] = difference(q->q->surrogate(q, f->x[i] - h, f->x[i], q->theta, factor), base,
                               q->q->surrogate(q, f->x[i] + h, f->x[i], q->theta, factor), h, &kink);
        for (int p = 0; p < n_params; p++) {
            double below[BWI_QPARAMS], above[BWI_QPARAMS];
            memcpy(below, q->theta, sizeof below);
            memcpy(above, q->theta, sizeof above);
            below[p] -= h;
            above[p] += h;
            d[p] = difference(q->q->surrogate(q, f->x[i], f->x[i], below, factor), base,
                              q->q->surrogate(q, f->x[i], f->x[i], above, factor), h, &kink);
        }
        points++;
        if (kink) kinks++, f->w[i] = 0;
        want_x[i] *= f->w[i];
        for (int p = 0; p < n_params; p++) want[p] += d[p] * f->w[i], size[p] += fabs(d[p] * f->w[i]);
    }
    backward(f, gx);
    for (int i = 0; i < N; i++) {
        double e = fabs(gx[i] - want_x[i]) / (1 + fabs(want_x[i]));
        worst_x = fmax(worst_x, e);
        if (!(e < 1e-7)) fail_msg("%s: x %.17g: dL/dx %.12g, surrogate %.12g", f->what, f->x[i], gx[i], want_x[i]);
    }
    for (int p = 0; p < n_params; p++) {
        double e = fabs(q->dtheta[p] - want[p]) / size[p];
        worst_theta = fmax(worst_theta, e);
        if (!(e < 1e-6)) fail_msg("%s: dL/d%s %.12g, surrogate %.12g", f->what, q->q->param[p], q->dtheta[p], want[p]);
        if (size[p] == 0) fail_msg("%s: %s has no gradient", f->what, q->q->param[p]);
    }
}

static void test_surrogate(void **state)
{
    (void)state;
    int n = for_all(check_surrogate);
    print_message("%d combinations, %lld points, %lld at kinks; worst error %.1e for x, %.1e for parameters\n", n,
                  (long long)points, (long long)kinks, worst_x, worst_theta);
    assert_true(n > 50);
    assert_true((double)kinks < 0.001 * (double)points);
}

/* ---- Forward ----------------------------------------------------------------------------------------------------------------- */
/* Float codes are the same bits in every variant and type, for any length and alignment. */
static void check_variants(fixture *f)
{
    static float a[N], b[N];
    static uint8_t u8[N];
    static int8_t i8[N];
    const size_t lengths[] = {1, 3, 16, 31, 65, 2049, N - 1};
    double low = f->q.k.mul * f->q.k.lo + f->q.k.add, high = f->q.k.mul * f->q.k.hi + f->q.k.add;
    f->xf[5] = NAN, f->xf[6] = INFINITY, f->xf[7] = -INFINITY, f->xf[8] = 1e38f, f->xf[9] = -1e38f, f->xf[10] = 0,
    f->xf[11] = -0.0f;
    f->q.q->loops[BWI_F32]->codes(&f->q.k, f->xf, N, BWI_DT_F32, a);
    for (int v = BWI_F32; v < BWI_VARIANTS; v++) {
        if (!can_run(v)) continue;
        const bwi_qloops *l = f->q.q->loops[v];
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            size_t n = lengths[k], from = n < N - 1 ? 3 : 1;
            b[from + n < N ? from + n : 0] = 77;
            l->codes(&f->q.k, f->xf + from, n, BWI_DT_F32, b + from);
            if (memcmp(a + from, b + from, n * sizeof *a)) fail_msg("%s: variant %d, length %zu differs", f->what, v, n);
            if (from + n < N) assert_true(b[from + n] == 77);
            if (low >= 0 && high <= UINT8_MAX && !f->q.q->real_codes) {
                l->codes(&f->q.k, f->xf + from, n, BWI_DT_U8, u8);
                for (size_t i = 0; i < n; i++)
                    if ((float)u8[i] != a[from + i]) fail_msg("%s: u8 code %d, float %g", f->what, u8[i], (double)a[from + i]);
            }
            if (low >= INT8_MIN && high <= INT8_MAX && !f->q.q->real_codes) {
                l->codes(&f->q.k, f->xf + from, n, BWI_DT_I8, i8);
                for (size_t i = 0; i < n; i++)
                    if ((float)i8[i] != a[from + i]) fail_msg("%s: i8 code %d, float %g", f->what, i8[i], (double)a[from + i]);
            }
        }
    }
}

/* Just as many levels as there are bits for, monotone, and the same again from their own values. */
static void check_levels(fixture *f)
{
    enum { M = 40001 };
    static double x[M], codes[M], again[M], xq[M];
    static float xqf[M], codesf[M], againf[M];
    bool seen[512] = {false};
    int levels = 0, max_levels = f->q.q->levels ? f->q.q->levels : 1 << f->q.bits;
    double low = f->q.k.mul * f->q.k.lo + f->q.k.add, high = f->q.k.mul * f->q.k.hi + f->q.k.add;
    for (int i = 0; i < M; i++) x[i] = (i - M / 2) / 1000.0;
    bwi_quant_codes(&f->q, x, BWI_DT_F64, M, BWI_DT_F64, codes);
    for (int i = 0; i < M; i++) {
        const double whole = f->q.q->real_codes ? nearbyint(codes[i] - f->q.k.add) : codes[i];
        if (!(codes[i] >= low && codes[i] <= high && whole == nearbyint(whole))) fail_msg("%s: code %g", f->what, codes[i]);
        if (f->q.q->real_codes && fabs(codes[i] - f->q.k.add - whole) > 1e-12 * high)
            fail_msg("%s: code %g", f->what, codes[i]);
        if (i && codes[i] < codes[i - 1]) fail_msg("%s: codes fall at %g", f->what, x[i]);
        int at = (int)whole + 256;
        levels += !seen[at];
        seen[at] = true;
        xq[i] = value(f, codes[i]);
        codesf[i] = (float)codes[i];
        xqf[i] = (float)f->q.k.scale * codesf[i];
    }
    if (levels != max_levels) fail_msg("%s: %d levels", f->what, levels);
    if (!f->q.q->idempotent[f->q.role]) return;
    bwi_quant_codes(&f->q, xq, BWI_DT_F64, M, BWI_DT_F64, again);
    bwi_quant_codes(&f->q, xqf, BWI_DT_F32, M, BWI_DT_F32, againf);
    if (memcmp(codes, again, sizeof codes) || memcmp(codesf, againf, sizeof codesf))
        fail_msg("%s: the codes of its own values differ", f->what);
}

/* Values that are not finite get a code of the grid, infinities the outermost, and a gradient that is finite. */
static void check_not_finite(fixture *f)
{
    const float x[] = {NAN, -NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
    enum { M = sizeof x / sizeof *x };
    float w[M], gx[M], codes[M];
    double low = f->q.k.mul * f->q.k.lo + f->q.k.add, high = f->q.k.mul * f->q.k.hi + f->q.k.add;
    if (f->q.q->real_codes) low = (double)(float)low, high = (double)((float)f->q.k.hi + (float)f->q.k.add);
    for (int i = 0; i < M; i++) w[i] = 1;
    for (int v = BWI_F32; v < BWI_VARIANTS; v++) {
        if (!can_run(v)) continue;
        double sums[BWI_QPARAMS + 1] = {0};
        f->q.q->loops[v]->codes(&f->q.k, x, M, BWI_DT_F32, codes);
        for (int i = 0; i < M; i++)
            if (!((double)codes[i] >= low && (double)codes[i] <= high))
                fail_msg("%s: code %g of %g", f->what, (double)codes[i], (double)x[i]);
        assert_true((double)codes[2] == high && (double)codes[3] == low && (double)codes[4] == high && (double)codes[5] == low);
        block(&f->q, v, x, w, 1, M, gx, sums);
        for (int i = 0; i < M; i++) assert_true(isfinite(gx[i]));
        for (int i = 0; i <= BWI_QPARAMS; i++) assert_true(isfinite(sums[i]));
    }
}

static void test_forward(void **state)
{
    (void)state;
    for_all(check_levels);
    for_all(check_variants);
    for_all(check_not_finite);
}

/* ---- Backward ---------------------------------------------------------------------------------------------------------------- */
/* Sums of the absolute terms of dL/dtheta: what the rounding error of the sums is measured by, for the sums themselves may be near 0. */
static void term_sizes(const fixture *f, double gscale, double size[BWI_QPARAMS])
{
    bwi_quant one = f->q;
    memset(size, 0, BWI_QPARAMS * sizeof *size);
    for (int i = 0; i < N; i++) {
        double g, sums[BWI_QPARAMS + 1] = {0};
        block(&one, BWI_F64, f->x + i, f->w + i, gscale, 1, &g, sums);
        bwi_quant_backward_end(&one, sums, 1);
        for (int p = 0; p < BWI_QPARAMS; p++) size[p] += fabs(one.dtheta[p]);
    }
}

/* Every float variant against double, in place; elements on which the two disagree about a code or the clip are left out. */
static void check_float(fixture *f)
{
    static double codes[N], gx[N];
    static float codesf[N], gxf[N];
    double each[BWI_QPARAMS], want[BWI_QPARAMS];
    int left_out = 0;
    backward(f, gx);
    bwi_quant_codes(&f->q, f->x, BWI_DT_F64, N, BWI_DT_F64, codes);
    bwi_quant_codes(&f->q, f->xf, BWI_DT_F32, N, BWI_DT_F32, codesf);
    bwi_quant_backward(&f->q, f->xf, BWI_DT_F32, f->wf, f->q.k.scale, N, gxf);
    for (int i = 0; i < N; i++)
        if (fabs(codes[i] - (double)codesf[i]) > .01 || (gx[i] == 0) != (gxf[i] == 0)) f->w[i] = f->wf[i] = 0, left_out++;
    if (left_out > N / 200) fail_msg("%s: float and double differ in %d codes", f->what, left_out);
    backward(f, gx);
    memcpy(want, f->q.dtheta, sizeof want);
    term_sizes(f, f->q.k.scale, each);
    for (int v = BWI_F32; v < BWI_VARIANTS; v++) {
        if (!can_run(v)) continue;
        double sums[BWI_QPARAMS + 1] = {0};
        memcpy(gxf, f->wf, sizeof gxf);
        for (size_t b = 0; b < N; b += BWI_QBLOCK)
            block(&f->q, v, f->xf + b, gxf + b, f->q.k.scale, N - b < BWI_QBLOCK ? N - b : BWI_QBLOCK, gxf + b, sums);
        bwi_quant_backward_end(&f->q, sums, N);
        for (int i = 0; i < N; i++)
            if (!(fabs((double)gxf[i] - gx[i]) <= 2e-4 * fabs(gx[i]) + 1e-7))
                fail_msg("%s: variant %d, x %.9g: dL/dx %.9g, double %.9g", f->what, v, f->x[i], (double)gxf[i], gx[i]);
        for (int p = 0; p < bwi_quant_n_params(&f->q); p++)
            if (!(fabs(f->q.dtheta[p] - want[p]) <= 1e-6 * each[p]))
                fail_msg("%s: variant %d: dL/d%s %.9g, double %.9g", f->what, v, f->q.q->param[p], f->q.dtheta[p], want[p]);
    }
}

/* gx, dtheta and the counters are the same bits for any number of threads, and equal to what blocks give. */
static void check_threads(fixture *f)
{
    static float gx[N], again[N];
    double sums[BWI_QPARAMS + 1] = {0}, size[BWI_QPARAMS];
    bwi_quant q = f->q, blocks = f->q;
    bwi_threads_set(1);
    bwi_quant_backward(&q, f->xf, BWI_DT_F32, f->wf, 0.5, N, gx);
    assert_true(q.seen == N && q.clipped >= 0 && q.clipped < N);
    for (int t = 2; t <= 3; t++) {
        bwi_quant other = f->q;
        bwi_threads_set(t);
        bwi_quant_backward(&other, f->xf, BWI_DT_F32, f->wf, 0.5, N, again);
        if (memcmp(gx, again, sizeof gx) || memcmp(q.dtheta, other.dtheta, sizeof q.dtheta) || q.clipped != other.clipped)
            fail_msg("%s: %d threads give another result", f->what, t);
    }
    bwi_threads_set(1);
    memset(again, 0, sizeof again);
    for (size_t b = 0; b < N; b += 500)
        block(&blocks, bwi_variant_for(BWI_DT_F32), f->xf + b, f->wf + b, 0.5, N - b < 500 ? N - b : 500, again + b, sums);
    bwi_quant_backward_end(&blocks, sums, N);
    if (memcmp(gx, again, sizeof gx) || q.clipped != blocks.clipped) fail_msg("%s: blocks differ from the whole", f->what);
    term_sizes(f, 0.5, size);
    for (int p = 0; p < bwi_quant_n_params(&q); p++)
        if (!(fabs(q.dtheta[p] - blocks.dtheta[p]) <= 1e-6 * size[p]))
            fail_msg("%s: dL/d%s %.9g, of blocks %.9g", f->what, q.q->param[p], q.dtheta[p], blocks.dtheta[p]);
    block(&blocks, BWI_F32, f->xf, f->wf, 0.5, 500, again, NULL); /* sums are optional */
    assert_memory_equal(gx, again, 500 * sizeof *gx);
}

static void test_backward(void **state)
{
    (void)state;
    for_all(check_float);
    for_all(check_threads);
}

/* EWGS without scaling is STE to the bit, in every variant. */
static void check_ewgs_zero(fixture *f)
{
    static double a[N], b[N];
    if (strcmp(f->q.g->name, "ewgs")) return;
    bwi_quant ste = f->q, ewgs = f->q, strong = f->q;
    bw_error err;
    if (bwi_quant_make(&ste, f->q.q->name, "ste", f->q.role, f->q.bits, f->q.is_signed, &err) != BW_OK) fail_msg("%s", err.msg);
    memcpy(ste.theta, f->q.theta, sizeof ste.theta);
    ste.ready = true;
    ste.features = f->q.features;
    ewgs.delta = 0;
    strong.delta = 0.5;
    bwi_quant *all[] = {&ste, &ewgs, &strong};
    for (int i = 0; i < 3; i++)
        if (bwi_quant_prepare(all[i], f->x, BWI_DT_F64, N, &err) != BW_OK) fail_msg("%s", err.msg);
    for (int i = 0; i < N; i += 7) f->w[i] = f->wf[i] = i % 2 ? 0.0f : -0.0f;
    for (int v = 0; v < BWI_VARIANTS; v++) {
        if (!can_run(v)) continue;
        const void *x = v == BWI_F64 ? (const void *)f->x : f->xf, *w = v == BWI_F64 ? (const void *)f->w : f->wf;
        double s[BWI_QPARAMS + 1] = {0}, t[BWI_QPARAMS + 1] = {0};
        memset(a, 0, sizeof a);
        memset(b, 0, sizeof b);
        block(&ste, v, x, w, 0.3, 2001, a, s);
        block(&ewgs, v, x, w, 0.3, 2001, b, t);
        if (memcmp(a, b, sizeof a) || memcmp(s, t, sizeof s))
            fail_msg("%s: variant %d: EWGS with delta 0 is not STE", f->what, v);
        block(&strong, v, x, w, 0.3, 2001, b, t);
        assert_true(memcmp(a, b, sizeof a) != 0);
    }
}

static void test_ewgs_zero(void **state)
{
    (void)state;
    for_all(check_ewgs_zero);
}

/* ---- Methods against their papers' formulas, by hand --------------------------------------------------------------------------- */
static bwi_quant make(const char *quantizer, const char *gradient, bwi_role role, int bits, bool is_signed)
{
    bwi_quant q;
    bw_error err;
    if (bwi_quant_make(&q, quantizer, gradient, role, bits, is_signed, &err) != BW_OK) fail_msg("%s", err.msg);
    return q;
}

static void expect_near(double a, double b)
{
    if (!(fabs(a - b) <= 1e-12 * (1 + fabs(b)))) fail_msg("%.17g, expected %.17g", a, b);
}

/* LSQ, 3-bit weights (-4..3), s = 0.5: v, vhat / s, dvhat/dv, dvhat/ds = round(v/s) - v/s inside, -4 and 3 outside. */
static void test_lsq_table(void **state)
{
    (void)state;
    static const double table[][4] = {
        {-3.0, -4, 0, -4}, {-2.0, -4, 0, -4},  {-1.9, -4, 1, -4 + 3.8}, {-0.75, -2, 1, -2 + 1.5}, {-0.25, 0, 1, 0.5},
        {0.0, 0, 1, 0},    {0.25, 0, 1, -0.5}, {0.3, 1, 1, 1 - 0.6},    {0.75, 2, 1, 0.5},        {1.25, 2, 1, 2 - 2.5},
        {1.4, 3, 1, 0.2},  {1.5, 3, 0, 3},     {9.0, 3, 0, 3},
    };
    bw_error err;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        bwi_quant q = make("lsq", "ste", BWI_WEIGHT, 3, false);
        double x = table[i][0], g = -1.7, gx, code;
        q.features = 48; /* gs = 1 / sqrt(48 * 3) = 1 / 12 */
        q.theta[0] = 0.5;
        q.ready = true;
        assert_int_equal(bwi_quant_prepare(&q, NULL, BWI_DT_F64, 0, &err), BW_OK);
        bwi_quant_codes(&q, &x, BWI_DT_F64, 1, BWI_DT_F64, &code);
        bwi_quant_backward(&q, &x, BWI_DT_F64, &g, q.k.scale, 1, &gx);
        expect_near(code, table[i][1]);
        expect_near(gx, g * table[i][2]);
        expect_near(q.dtheta[0], g * table[i][3] / 12);
        expect_near(q.clipped, x < -2 || x > 1.5); /* on the bounds -2 and 1.5 nothing was cut off */
    }
}

static void test_lsq_roles(void **state)
{
    (void)state;
    const double x[] = {-2, -1, 0, 0, 1, 3}; /* mean|x| 7/6 */
    const double g[] = {1, 1, 1, 1, 1, 1};
    static const struct {
        bwi_role role;
        int bits;
        bool is_signed;
        double lo, hi, step;
    } t[] = {
        {BWI_WEIGHT, 8, false, -128, 127, 7.0 / 3 / 11.269427669584644},
        {BWI_WEIGHT, 2, false, -2, 1, 7.0 / 3},
        {BWI_WEIGHT, 1, false, -1, 1, 7.0 / 6},
        {BWI_ACTIVATION, 8, false, 0, 255, 7.0 / 3 / 15.968719422671311},
        {BWI_ACTIVATION, 1, false, 0, 1, 7.0 / 3},
        {BWI_ACTIVATION, 8, true, -128, 127, 7.0 / 3 / 11.269427669584644},
        {BWI_ACTIVATION, 4, true, -8, 7, 7.0 / 3 / 2.6457513110645906},
    };
    bw_error err;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        bwi_quant q = make("lsq", NULL, t[i].role, t[i].bits, t[i].is_signed);
        assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 6, &err), BW_OK);
        assert_true(q.ready && q.k.lo == t[i].lo && q.k.hi == t[i].hi && q.theta0[0] == q.theta[0]);
        expect_near(q.theta[0], t[i].step);
    }
    /* one bit: -s and +s, sign(0) = +1, dL/ds = sum g * sign(x) / sqrt(N), dL/dx = g where |x| <= s */
    bwi_quant q = make("lsq", "ste", BWI_WEIGHT, 1, false);
    double codes[6], gx[6], want_gx[] = {0, 1, 1, 1, 1, 0}, want_codes[] = {-1, -1, 1, 1, 1, 1};
    q.features = 4;
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 6, &err), BW_OK);
    bwi_quant_codes(&q, x, BWI_DT_F64, 6, BWI_DT_F64, codes);
    bwi_quant_backward(&q, x, BWI_DT_F64, g, q.k.scale, 6, gx);
    for (int i = 0; i < 6; i++) expect_near(gx[i], want_gx[i]), expect_near(codes[i], want_codes[i]);
    expect_near(q.dtheta[0], 2.0 / 2);
    /* the batch counts as features only when asked for, and never for weights */
    double d[4];
    for (int i = 0; i < 4; i++) {
        q = make(i & 1 ? "lsq:nf_with_batch=1" : "lsq", "ste", i & 2 ? BWI_WEIGHT : BWI_ACTIVATION, 3, false);
        q.features = 10;
        q.batch = 16;
        assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 6, &err), BW_OK);
        bwi_quant_backward(&q, x, BWI_DT_F64, g, q.k.scale, 6, gx);
        d[i] = q.dtheta[0];
    }
    assert_true(d[0] != 0 && d[2] != 0);
    expect_near(d[1], d[0] / 4);
    expect_near(d[3], d[2]);
    /* a step size that is pushed to 0 or below comes back, a NaN is left to be reported */
    q.theta[0] = -1;
    assert_true(q.q->constrain(&q));
    expect_near(q.theta[0], 1e-5 * q.theta0[0]);
    assert_false(q.q->constrain(&q));
    q.theta[0] = NAN;
    assert_false(q.q->constrain(&q));
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 6, &err), BW_NUMERIC);
    assert_non_null(strstr(err.msg, "step size of the weights"));
}

/* Half goes to even, on the grid of each rounding quantizer; 1-bit weights of 0 are +1. */
static void test_ties(void **state)
{
    (void)state;
    const double x[] = {0.5, 1.5, 2.5, 3.5}, want[] = {0, 2, 2, 4};
    const float xf[] = {0.5f, 1.5f, 2.5f, 3.5f};
    const char *names[] = {"lsq", "interval"};
    bw_error err;
    for (int k = 0; k < 2; k++) {
        bwi_quant q = make(names[k], "ste", BWI_ACTIVATION, 4, false);
        double codes[4];
        float codesf[4];
        if (k)
            q.theta[0] = 0, q.theta[1] = 15;
        else
            q.theta[0] = 1;
        q.ready = true;
        assert_int_equal(bwi_quant_prepare(&q, NULL, BWI_DT_F64, 0, &err), BW_OK);
        bwi_quant_codes(&q, x, BWI_DT_F64, 4, BWI_DT_F64, codes);
        bwi_quant_codes(&q, xf, BWI_DT_F32, 4, BWI_DT_F32, codesf);
        for (int i = 0; i < 4; i++) assert_true(codes[i] == want[i] && (double)codesf[i] == want[i]);
    }
    const bwi_quantizer *r;
    for (size_t i = 0; (r = bwi_quantizer_at(i)); i++) {
        if (r->weight_bits[0] != 1 || r->real_codes) continue;
        bwi_quant q = make(r->name, "ste", BWI_WEIGHT, 1, false);
        const float w[] = {0, -0.0f, 0.25f, -0.25f, 1, -1};
        int8_t codes[6];
        assert_int_equal(bwi_quant_prepare(&q, w, BWI_DT_F32, 6, &err), BW_OK);
        bwi_quant_codes(&q, w, BWI_DT_F32, 6, BWI_DT_I8, codes);
        assert_true(codes[0] == 1 && codes[1] == 1 && codes[2] == 1 && codes[3] == -1 && codes[4] == 1 && codes[5] == -1);
    }
}

/* Values of the other quantizers, and their start. */
static void test_values(void **state)
{
    (void)state;
    const double x[] = {-1.5, -0.5, 0, 0.25, 1}, g[] = {1, 1, 1, 1, 1};
    double codes[5], gx[5];
    bw_error err;
    bwi_quant q = make("bwn", "ste", BWI_WEIGHT, 1, false);
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 5, &err), BW_OK);
    expect_near(q.k.scale, 3.25 / 5);
    bwi_quant_backward(&q, x, BWI_DT_F64, g, q.k.scale, 5, gx);
    for (int i = 0; i < 5; i++) expect_near(gx[i], i == 0 ? 0 : 0.65);

    q = make("twn", "ste", BWI_WEIGHT, 2, false); /* threshold .7 * .65; above it 1.5, .5 and 1 */
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 5, &err), BW_OK);
    expect_near(q.k.scale, 1);
    bwi_quant_codes(&q, x, BWI_DT_F64, 5, BWI_DT_F64, codes);
    const double ternary[] = {-1, -1, 0, 0, 1};
    for (int i = 0; i < 5; i++) assert_true(codes[i] == ternary[i]);
    bwi_quant_backward(&q, x, BWI_DT_F64, g, q.k.scale, 5, gx);
    for (int i = 0; i < 5; i++) expect_near(gx[i], 1);

    q = make("binaryconnect", "ste", BWI_WEIGHT, 1, false);
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 5, &err), BW_OK);
    expect_near(q.k.scale, 1);
    q.theta[0] = 2;
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 5, &err), BW_OK);
    bwi_quant_backward(&q, x, BWI_DT_F64, g, q.k.scale, 5, gx);
    for (int i = 0; i < 5; i++) expect_near(gx[i], 2); /* times the scale */
    expect_near(q.dtheta[0], 1);                       /* -1 - 1 + 1 + 1 + 1 */

    q = make("dorefa", "ste", BWI_WEIGHT, 2, false);
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 5, &err), BW_OK);
    bwi_quant_codes(&q, x, BWI_DT_F64, 5, BWI_DT_F64, codes);
    bwi_quant_backward(&q, x, BWI_DT_F64, g, q.k.scale, 5, gx);
    for (int i = 0; i < 5; i++) {
        double t = tanh(x[i]) / (2 * tanh(1.5)) + 0.5;
        expect_near(q.k.scale * codes[i], 2 * nearbyint(3 * t) / 3 - 1);
        expect_near(gx[i], (1 - tanh(x[i]) * tanh(x[i])) / tanh(1.5));
    }
    q = make("dorefa", "ste", BWI_ACTIVATION, 2, false);
    assert_int_equal(bwi_quant_prepare(&q, x, BWI_DT_F64, 5, &err), BW_OK);
    bwi_quant_codes(&q, x, BWI_DT_F64, 5, BWI_DT_F64, codes);
    bwi_quant_backward(&q, x, BWI_DT_F64, g, q.k.scale, 5, gx);
    const double want[] = {0, 0, 0, 1, 3}, inside[] = {0, 0, 1, 1, 1}; /* the bounds belong to the interval */
    for (int i = 0; i < 5; i++) expect_near(codes[i], want[i]), expect_near(gx[i], inside[i]);

    const double a[] = {0, 0, 1, 2, 7}; /* unbiased variance 8.5 */
    q = make("interval", "ste", BWI_ACTIVATION, 2, false);
    assert_int_equal(bwi_quant_n_params(&q), 2);
    assert_int_equal(bwi_quant_prepare(&q, a, BWI_DT_F64, 5, &err), BW_OK);
    expect_near(q.theta[0], 0);
    expect_near(q.theta[1], 3 * sqrt(8.5) / sqrt(1 - 2 / M_PI));
    /* zeros at l feed dL/dl: (x - u) / (u - l)^2 each, in units of x */
    bwi_quant_backward(&q, a, BWI_DT_F64, g, q.k.scale, 2, gx);
    expect_near(q.dtheta[0], -2 / q.theta[1]);
    expect_near(gx[0], 1 / q.theta[1]);
    q = make("interval", "ste", BWI_WEIGHT, 2, false);
    assert_int_equal(bwi_quant_n_params(&q), 3);
    assert_int_equal(bwi_quant_prepare(&q, a, BWI_DT_F64, 5, &err), BW_OK);
    expect_near(q.theta[0], -3 * sqrt(8.5));
    expect_near(q.theta[1], 3 * sqrt(8.5));
    expect_near(q.theta[2], 1);
    /* only |alpha| counts, and its sign turns the gradient */
    double d[2];
    for (int i = 0; i < 2; i++) {
        q.theta[2] = i ? -0.5 : 0.5;
        assert_int_equal(bwi_quant_prepare(&q, a, BWI_DT_F64, 5, &err), BW_OK);
        expect_near(q.k.scale, 0.5 / 3);
        bwi_quant_backward(&q, a, BWI_DT_F64, g, q.k.scale, 5, gx);
        d[i] = q.dtheta[2];
    }
    assert_true(d[0] != 0 && d[0] == -d[1]);
}

/* Tensors that no scale fits are reported, by every quantizer that takes its scale from the data. */
static void test_collapse(void **state)
{
    (void)state;
    const bwi_quantizer *r;
    const float bad[][4] = {{0, 0, 0, 0}, {1, NAN, 0, 1}, {1, INFINITY, 0, 1}};
    for (size_t i = 0; (r = bwi_quantizer_at(i)); i++)
        for (int k = 0; k < 3 && r->weight_bits[1]; k++) {
            bwi_quant q = make(r->name, "ste", BWI_WEIGHT, r->weight_bits[1], false);
            bw_error err = {BW_OK, ""};
            assert_int_equal(bwi_quant_prepare(&q, bad[k], BWI_DT_F32, 4, &err), BW_NUMERIC);
            assert_true(strlen(err.msg) > 20);
        }
    bwi_quant q = make("interval", "ste", BWI_WEIGHT, 2, false);
    bw_error err;
    q.ready = true;
    q.theta[0] = 1, q.theta[1] = 1, q.theta[2] = 1;
    assert_int_equal(bwi_quant_prepare(&q, NULL, BWI_DT_F32, 0, &err), BW_NUMERIC);
    q.theta[1] = 2, q.theta[2] = 0;
    assert_int_equal(bwi_quant_prepare(&q, NULL, BWI_DT_F32, 0, &err), BW_NUMERIC);
    assert_non_null(strstr(err.msg, "alpha"));
}

/* ---- Statistics ---------------------------------------------------------------------------------------------------------------- */
static void test_stats(void **state)
{
    (void)state;
    enum { M = 100003 };
    float *x = bwi_malloc(M * sizeof *x);
    double *d = bwi_malloc(M * sizeof *d), sum = 0, abs = 0, sq = 0, min = 1e9, max = -1e9;
    bwi_qstats one, more, dbl;
    assert_true(x && d);
    bwi_rng r = bwi_rng_make(2, BWI_RNG_TEST, 0, 0);
    for (int i = 0; i < M; i++) {
        d[i] = x[i] = (float)(bwi_rng_normal(&r) - 1000);
        sum += d[i], abs += fabs(d[i]), min = fmin(min, d[i]), max = fmax(max, d[i]);
    }
    for (int i = 0; i < M; i++) sq += (d[i] - sum / M) * (d[i] - sum / M);
    bwi_threads_set(1);
    bwi_qstats_of(x, BWI_DT_F32, M, &one);
    bwi_threads_set(3);
    bwi_qstats_of(x, BWI_DT_F32, M, &more);
    bwi_qstats_of(d, BWI_DT_F64, M, &dbl);
    bwi_threads_set(1);
    assert_memory_equal(&one, &more, sizeof one);
    assert_memory_equal(&one, &dbl, sizeof one);
    expect_near(one.mean, sum / M);
    expect_near(one.mean_abs, abs / M);
    assert_true(fabs(one.std - sqrt(sq / (M - 1))) < 1e-10);
    assert_true(one.n == M && one.min == min && one.max == max && one.max_abs == -min);
    x[M - 7] = NAN;
    bwi_qstats_of(x, BWI_DT_F32, M, &one);
    assert_true(isnan(one.mean) && isnan(one.max_abs) && isnan(one.min) && isnan(one.std));
    bwi_qstats_of(d, BWI_DT_F64, 1, &one);
    assert_true(one.std == 0 && one.mean == d[0] && one.max_abs == -d[0]);
    const float same[] = {0.1f, 0.1f, 0.1f};
    bwi_qstats_of(same, BWI_DT_F32, 3, &one);
    assert_true(one.std == 0);
    bwi_free(x);
    bwi_free(d);
}

/* ---- Parsing ------------------------------------------------------------------------------------------------------------------- */
static void test_parsing(void **state)
{
    (void)state;
    static const struct {
        const char *quantizer, *gradient;
        bwi_role role;
        int bits;
        bool is_signed;
        const char *says;
    } bad[] = {
        {"lsw", "ste", BWI_WEIGHT, 4, false, "did you mean 'lsq'"},
        {"", "ste", BWI_WEIGHT, 4, false, "unknown quantizer ''"},
        {"nonsense_of_a_name_that_is_far_longer_than_any_name_there_is", "ste", BWI_WEIGHT, 4, false, "known: lsq, interval"},
        {"lsq", "ewsg", BWI_WEIGHT, 4, false, "did you mean 'ewgs'"},
        {"lsq:nf_with_bach=1", "ste", BWI_WEIGHT, 4, false, "did you mean 'nf_with_batch'"},
        {"lsq:nf_with_batch", "ste", BWI_WEIGHT, 4, false, "key=value"},
        {"lsq:", "ste", BWI_WEIGHT, 4, false, "key=value"},
        {"lsq:nf_with_batch=", "ste", BWI_WEIGHT, 4, false, "a whole number from 0 to 1"},
        {"lsq:nf_with_batch=0.5", "ste", BWI_WEIGHT, 4, false, "a whole number from 0 to 1"},
        {"lsq:nf_with_batch=1,nf_with_batch=1", "ste", BWI_WEIGHT, 4, false, "given twice"},
        {"lsq:nf_with_batch=1,", "ste", BWI_WEIGHT, 4, false, "key=value"},
        {"bwn:x=1", "ste", BWI_WEIGHT, 1, false, "takes no options"},
        {"lsq", "ewgs:delta=abc", BWI_WEIGHT, 4, false, "'abc'"},
        {"lsq", "ewgs:delta=0.1x", BWI_WEIGHT, 4, false, "'0.1x'"},
        {"lsq", "ewgs:delta= 0.1", BWI_WEIGHT, 4, false, "a number from 0 to 1"},
        {"lsq", "ewgs:delta=nan", BWI_WEIGHT, 4, false, "a number from 0 to 1"},
        {"lsq", "ewgs:delta=-0.1", BWI_WEIGHT, 4, false, "a number from 0 to 1"},
        {"lsq", "ewgs:delta=1e999", BWI_WEIGHT, 4, false, "a number from 0 to 1"},
        {"lsq", "ste", BWI_WEIGHT, 9, false, "bits 9: lsq supports 1 to 8 for weights"},
        {"lsq", "ste", BWI_ACTIVATION, 0, false, "bits 0: lsq supports 1 to 8 for activations"},
        {"bwn", "ste", BWI_WEIGHT, 2, false, "bits 2: bwn supports only 1 for weights"},
        {"bwn", "ste", BWI_ACTIVATION, 1, false, "bwn does not quantize activations"},
        {"dorefa", "ste", BWI_ACTIVATION, 4, true, "values below 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bwi_quant q;
        bw_error err = {BW_OK, ""};
        assert_int_not_equal(
            bwi_quant_make(&q, bad[i].quantizer, bad[i].gradient, bad[i].role, bad[i].bits, bad[i].is_signed, &err), BW_OK);
        if (!strstr(err.msg, bad[i].says)) fail_msg("'%s' '%s' says: %s", bad[i].quantizer, bad[i].gradient, err.msg);
        assert_null(q.q);
        assert_int_not_equal(
            bwi_quant_make(&q, bad[i].quantizer, bad[i].gradient, bad[i].role, bad[i].bits, bad[i].is_signed, NULL), BW_OK);
    }
    bwi_quant q = make("lsq:nf_with_batch=1", "ewgs:delta=0.25", BWI_ACTIVATION, 3, true);
    assert_true(q.opt[0] == 1 && q.gopt[0] == 0.25 && q.bits == 3 && q.is_signed && !q.ready);
    q = make("lsq", NULL, BWI_WEIGHT, 3, true); /* signedness is of activations */
    assert_true(q.opt[0] == 0 && q.gopt[0] == 0 && !q.is_signed && !strcmp(q.g->name, "ste"));
    q = make("lsq", "ewgs", BWI_WEIGHT, 3, false);
    assert_true(q.gopt[0] == 1e-3);
}

/* Rows say all that help and checkpoints need, and find each other by name. */
static void test_rows(void **state)
{
    (void)state;
    const bwi_quantizer *q;
    const bwi_gradient *g;
    for (size_t i = 0; (q = bwi_quantizer_at(i)); i++) {
        assert_ptr_equal(bwi_quantizer_find(q->name), q);
        assert_true(q->summary && q->cite && q->prepare && q->surrogate && q->n_params <= BWI_QPARAMS);
        assert_true(!q->n_params || (q->init && q->finish));
        for (int p = 0; p < q->n_params; p++) assert_non_null(q->param[p]);
        /* activations drop the output scale, which therefore is the last parameter */
        assert_true(q->output_scale == -1 || q->output_scale == q->n_params - 1);
        for (int v = 0; v < BWI_VARIANTS; v++)
            assert_true(q->loops[v] && q->loops[v]->codes && q->loops[v]->latents && q->loops[v]->backward);
        for (int o = 0; o < BWI_OPTIONS && q->option[o].key; o++)
            assert_true(q->option[o].doc && q->option[o].def >= q->option[o].min && q->option[o].def <= q->option[o].max);
    }
    for (size_t i = 0; (g = bwi_gradient_at(i)); i++) {
        assert_ptr_equal(bwi_gradient_find(g->name), g);
        assert_true(g->summary && g->cite && (g->weights || g->activations));
        assert_true(g->delta < BWI_OPTIONS && (g->delta < 0 || g->option[g->delta].key));
    }
    assert_null(bwi_quantizer_find("no such"));
    assert_null(bwi_gradient_find("no such"));
}

/* Nothing here takes memory, so nothing can fail for want of it. */
static void check_no_memory(fixture *f)
{
    static double gx[N];
    bwi_alloc_fail_at(0, 1);
    f->q.ready = false;
    prepare(f);
    bwi_quant_codes(&f->q, f->x, BWI_DT_F64, N, BWI_DT_F64, gx);
    backward(f, gx);
    int64_t count = bwi_alloc_count();
    bwi_alloc_fail_at(-1, 0);
    assert_true(count == 0);
}
static void test_no_memory(void **state)
{
    (void)state;
    for_all(check_no_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_parsing),   cmocka_unit_test(test_stats),
        cmocka_unit_test(test_lsq_table), cmocka_unit_test(test_lsq_roles), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_values),    cmocka_unit_test(test_collapse),  cmocka_unit_test(test_forward),
        cmocka_unit_test(test_surrogate), cmocka_unit_test(test_backward),  cmocka_unit_test(test_ewgs_zero),
        cmocka_unit_test(test_no_memory),
    };
    bwi_threads_set(1); /* tensors here are small; those tests that are about threads say so */
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
