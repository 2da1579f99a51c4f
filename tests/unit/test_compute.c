/* Convolutions: the plain C table in double against its definition and against adjointness, every other table against it. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/par.h"
#include "base/rng.h"
#include "compute/compute.h"
#include "compute/spec.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* ---- Shapes -------------------------------------------------------------------------------------------------------------- */
/* Every combination of kernel, stride, padding, channels and map, and linear layers; n runs from 1 to 5. False past the end. */
static bool shape_at(int i, bwi_conv_spec *s)
{
    static const int channel[][3] = {{3, 10, 1}, {16, 16, 1}, {5, 7, 1}, {32, 64, 1}, {8, 12, 2}, {6, 6, 6}, {32, 32, 32}};
    static const int map[][2] = {{5, 7}, {8, 8}, {9, 16}};
    static const int linear[][2] = {{64, 10}, {64, 100}, {7, 3}};
    const int combinations = 3 * 2 * 2 * 7 * 3;
    *s = (bwi_conv_spec){
        .src = BWI_DT_F32, .operand = BWI_DT_F32, .train = true, .need_gsrc = true, .stride = 1, .groups = 1, .n = i % 5 + 1};
    s->wbits = s->abits = 8;
    if (i >= combinations) {
        i -= combinations;
        if (i >= 3) return false;
        s->ic = linear[i][0], s->oc = linear[i][1];
        s->ih = s->iw = s->kh = s->kw = 1;
        return true;
    }
    s->kh = s->kw = 1 + 2 * (i % 3), i /= 3;
    s->stride = 1 + i % 2, i /= 2;
    s->pad = i % 2, i /= 2;
    s->ic = channel[i % 7][0], s->oc = channel[i % 7][1], s->groups = channel[i % 7][2], i /= 7;
    s->ih = map[i][0], s->iw = map[i][1];
    return true;
}

/* Reports the shape before the failing assertion does. */
#define CHECK(s, condition, ...)                                                                                               \
    do {                                                                                                                       \
        if (!(condition)) {                                                                                                    \
            char text_[BWI_CONV_TEXT];                                                                                         \
            print_message("%s: ", bwi_conv_text(s, text_));                                                                    \
            print_message(__VA_ARGS__);                                                                                        \
            print_message("\n");                                                                                               \
            fail();                                                                                                            \
        }                                                                                                                      \
    } while (0)

/* ---- Buffers with guards ------------------------------------------------------------------------------------------------- */
enum { GUARD = 64 };
typedef struct buffer {
    unsigned char *base;
    size_t bytes;
    void *data; /* 64-byte aligned, bytes long, between two guards */
} buffer;

static buffer make(size_t bytes)
{
    buffer b = {bwi_malloc(bytes + 2 * GUARD), bytes, NULL};
    assert_non_null(b.base);
    memset(b.base, 0xa5, bytes + 2 * GUARD);
    b.data = b.base + GUARD;
    return b;
}

static void drop(const bwi_conv_spec *s, buffer *b)
{
    for (size_t i = 0; i < GUARD; i++)
        CHECK(s, b->base[i] == 0xa5 && b->base[GUARD + b->bytes + i] == 0xa5, "a write outside a buffer of %zu bytes",
              b->bytes);
    bwi_free(b->base);
    b->base = NULL;
}

/* ---- One convolution with its operands ----------------------------------------------------------------------------------- */
/* Operands are kept in double and given to a table in its types; results come back in double. */
typedef struct problem {
    bwi_conv_spec spec;
    size_t n_src, n_dst, n_w;
    double *src, *w, *gdst;  /* operands */
    double *dst, *gsrc, *gw; /* results */
    double scale, back_scale;
} problem;

static double *doubles(size_t n)
{
    double *p = bwi_calloc(n, sizeof *p);
    assert_non_null(p);
    return p;
}

static problem problem_make(const bwi_conv_spec *s)
{
    problem p = {.spec = *s,
                 .n_src = bwi_conv_src_size(s),
                 .n_dst = bwi_conv_dst_size(s),
                 .n_w = bwi_conv_weights_size(s),
                 .scale = 1,
                 .back_scale = 1};
    p.src = doubles(p.n_src), p.w = doubles(p.n_w), p.gdst = doubles(p.n_dst);
    p.dst = doubles(p.n_dst), p.gsrc = doubles(p.n_src), p.gw = doubles(p.n_w);
    return p;
}

static void problem_drop(problem *p)
{
    double *all[] = {p->src, p->w, p->gdst, p->dst, p->gsrc, p->gw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bwi_free(all[i]);
}

/* A problem of the same shape with absolute operands: its results bound the rounding errors. */
static problem problem_abs(const problem *p)
{
    problem a = problem_make(&p->spec);
    for (size_t i = 0; i < p->n_src; i++) a.src[i] = fabs(p->src[i]);
    for (size_t i = 0; i < p->n_w; i++) a.w[i] = fabs(p->w[i]);
    for (size_t i = 0; i < p->n_dst; i++) a.gdst[i] = fabs(p->gdst[i]);
    a.scale = fabs(p->scale), a.back_scale = fabs(p->back_scale);
    return a;
}

static void fill_real(double *v, size_t n, bwi_rng *r)
{
    for (size_t i = 0; i < n; i++) v[i] = (float)bwi_rng_normal(r); /* exact in every table */
}
static void fill_int(double *v, size_t n, int from, int to, bwi_rng *r)
{
    for (size_t i = 0; i < n; i++) v[i] = from + (int)bwi_rng_below(r, (uint32_t)(to - from + 1));
}

static void put(void *to, bwi_dtype type, const double *from, size_t n)
{
    for (size_t i = 0; i < n; i++) switch (type) {
        case BWI_DT_F64:
            ((double *)to)[i] = from[i];
            break;
        case BWI_DT_F32:
            ((float *)to)[i] = (float)from[i];
            break;
        default:
            ((uint8_t *)to)[i] = (uint8_t)from[i];
            break;
        }
}
static void get(double *to, bwi_dtype type, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = type == BWI_DT_F64 ? ((const double *)from)[i] : (double)((const float *)from)[i];
}

/* Runs every pass of p by a table, twice, and wants the same bytes both times. In the double table, F32 operands are F64. Returns
 * conv_create's status; anything but BW_OK leaves the results alone. */
static bw_status solve(problem *p, const bwi_compute *table)
{
    bwi_conv_spec s = p->spec;
    if (s.src == BWI_DT_F32) s.src = table->real;
    if (s.operand == BWI_DT_F32) s.operand = table->real;
    bw_error err = {0};
    bwi_conv *conv = NULL;
    bw_status st = table->conv_create(&s, &conv, &err);
    CHECK(&s, (st == BW_OK) == (conv != NULL), "status %d with %s convolution", st, conv ? "a" : "no");
    if (st != BW_OK) {
        CHECK(&s, err.status == st && strstr(err.msg, "convolution"), "message '%s'", err.msg);
        return st;
    }
    const size_t real = bwi_dtype_size(table->real);
    buffer src = make(p->n_src * bwi_dtype_size(s.src)), gdst = make(p->n_dst * real), w = make(p->n_w * real);
    buffer scratch = make(table->conv_scratch(conv)), other = make(p->n_w * real);
    buffer out[2][3];
    put(src.data, s.src, p->src, p->n_src);
    put(gdst.data, table->real, p->gdst, p->n_dst);
    put(w.data, table->real, p->w, p->n_w);
    memset(other.data, 0, other.bytes);
    for (int round = 0; round < 2; round++) {
        buffer *o = out[round];
        o[0] = make(p->n_dst * real), o[1] = make(p->n_src * real), o[2] = make(p->n_w * real);
        memset(scratch.data, round ? 0xff : 0, scratch.bytes);          /* what scratch holds must not matter */
        st = table->conv_weights(conv, other.data, 3, 5, scratch.data); /* replaced by the next call */
        if (st == BW_OK) st = table->conv_weights(conv, w.data, p->scale, p->back_scale, scratch.data);
        if (st == BW_OK) st = table->conv_forward(conv, src.data, o[0].data, scratch.data);
        const int piece = table->conv_piece(conv);
        CHECK(&s, piece > 0 && s.n % piece == 0, "pieces of %d images", piece);
        for (int first = 0; first < s.n && st == BW_OK; first += piece) {
            const char *g = (const char *)gdst.data + gdst.bytes / (size_t)s.n * (size_t)first;
            if (!s.train) break;
            if (round) /* both gradients, or each by itself */
                st = table->conv_backward(conv, first, src.data, g, o[2].data, s.need_gsrc ? o[1].data : NULL, scratch.data);
            else
                st = table->conv_backward(conv, first, src.data, g, o[2].data, NULL, scratch.data);
            if (!round && st == BW_OK && s.need_gsrc)
                st = table->conv_backward(conv, first, NULL, g, NULL, o[1].data, scratch.data);
        }
        CHECK(&s, st == BW_OK, "status %d of a pass", st);
    }
    for (int i = 0; i < 3; i++)
        CHECK(&s, !memcmp(out[0][i].data, out[1][i].data, out[0][i].bytes), "pass %d differs between two runs", i);
    get(p->dst, table->real, out[0][0].data, p->n_dst);
    if (s.need_gsrc) get(p->gsrc, table->real, out[0][1].data, p->n_src);
    if (s.train) get(p->gw, table->real, out[0][2].data, p->n_w);
    for (int i = 0; i < 6; i++) drop(&s, &out[i / 3][i % 3]);
    drop(&s, &src), drop(&s, &gdst), drop(&s, &w), drop(&s, &scratch), drop(&s, &other);
    table->conv_destroy(&conv);
    assert_null(conv);
    return BW_OK;
}

/* conv(src, w) by its definition, without the scale. */
static double definition(const problem *p, int n, int oy, int ox, int o)
{
    const bwi_conv_spec *s = &p->spec;
    const int icg = s->ic / s->groups, group = o / (s->oc / s->groups);
    double sum = 0;
    for (int ky = 0; ky < s->kh; ky++)
        for (int kx = 0; kx < s->kw; kx++)
            for (int i = 0; i < icg; i++) {
                int y = oy * s->stride + ky - s->pad, x = ox * s->stride + kx - s->pad;
                if (y < 0 || y >= s->ih || x < 0 || x >= s->iw) continue;
                sum += p->src[((n * s->ih + y) * s->iw + x) * s->ic + group * icg + i] *
                       p->w[((o * s->kh + ky) * s->kw + kx) * icg + i];
            }
    return sum;
}

static double inner(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* ---- The plain C table in double ----------------------------------------------------------------------------------------- */
static void reference_is_the_definition(void **state)
{
    (void)state;
    bwi_conv_spec s;
    for (int i = 0; shape_at(i, &s); i++) {
        problem p = problem_make(&s);
        bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, (uint64_t)i, 0);
        fill_real(p.src, p.n_src, &r), fill_real(p.w, p.n_w, &r), fill_real(p.gdst, p.n_dst, &r);
        p.scale = 0.75, p.back_scale = 0.5;
        assert_int_equal(solve(&p, &bwi_compute_reference_f64), BW_OK);
        int oh = bwi_conv_out(s.ih, s.kh, s.stride, s.pad), ow = bwi_conv_out(s.iw, s.kw, s.stride, s.pad);
        size_t at = 0;
        for (int n = 0; n < s.n; n++)
            for (int y = 0; y < oh; y++)
                for (int x = 0; x < ow; x++)
                    for (int o = 0; o < s.oc; o++, at++)
                        CHECK(&s, fabs(p.dst[at] - 0.75 * definition(&p, n, y, x, o)) < 1e-12, "forward at %zu: %g", at,
                              p.dst[at]);
        /* <conv(x, w), g> = <x, convT(g, w)> = <w, corr(x, g)> */
        double forward = inner(p.dst, p.gdst, p.n_dst) / 0.75, data = inner(p.src, p.gsrc, p.n_src) / 0.5,
               weights = inner(p.w, p.gw, p.n_w);
        problem a = problem_abs(&p);
        a.scale = 1;
        assert_int_equal(solve(&a, &bwi_compute_reference_f64), BW_OK);
        double bound = 1e-14 * inner(a.dst, a.gdst, a.n_dst);
        CHECK(&s, fabs(forward - data) <= bound, "backward data is not adjoint: %.17g, %.17g", forward, data);
        CHECK(&s, fabs(forward - weights) <= bound, "backward weights is not adjoint: %.17g, %.17g", forward, weights);
        problem_drop(&a), problem_drop(&p);
    }
}

/* ---- Float tables against it --------------------------------------------------------------------------------------------- */
/* |got - want| <= (terms + 3) 2^-24 sum|ab|: rounding of every product and sum in any order, of scale, scaled weight and result. */
static void within(const bwi_conv_spec *s, const char *pass, const double *got, const double *want, const double *sum, size_t n,
                   double terms)
{
    for (size_t i = 0; i < n; i++) {
        double bound = (terms + 3) * 0x1p-24 * sum[i];
        CHECK(s, fabs(got[i] - want[i]) <= bound, "%s at %zu: %.9g, wanted %.9g +- %.2g", pass, i, got[i], want[i], bound);
    }
}

static void compare_with_double(const problem *operands, const bwi_compute *table)
{
    const bwi_conv_spec *s = &operands->spec;
    problem got = *operands, want = problem_make(s), sum = problem_abs(operands);
    memcpy(want.src, got.src, got.n_src * sizeof(double));
    memcpy(want.w, got.w, got.n_w * sizeof(double));
    memcpy(want.gdst, got.gdst, got.n_dst * sizeof(double));
    want.scale = got.scale, want.back_scale = got.back_scale;
    const bool refused = table == &bwi_compute_onednn && s->kh * s->kw == 1 && s->stride > 1 && s->ic / s->groups < 16;
    const bw_status st = solve(&got, table);
    CHECK(s, st == (refused ? BW_UNSUPPORTED : BW_OK), "status %d", st);
    if (refused) {
        problem_drop(&want), problem_drop(&sum);
        return;
    }
    assert_int_equal(solve(&want, &bwi_compute_reference_f64), BW_OK);
    assert_int_equal(solve(&sum, &bwi_compute_reference_f64), BW_OK);
    double taps = (double)s->kh * s->kw / s->groups, places = (double)got.n_dst / s->oc;
    within(s, "forward", got.dst, want.dst, sum.dst, got.n_dst, taps * s->ic);
    within(s, "backward data", got.gsrc, want.gsrc, sum.gsrc, got.n_src, taps * s->oc);
    within(s, "backward weights", got.gw, want.gw, sum.gw, got.n_w, places);
    problem_drop(&want), problem_drop(&sum);
}

static void float_tables_are_within_rounding(void **state)
{
    (void)state;
    bwi_conv_spec s;
    const bwi_compute *table[] = {&bwi_compute_onednn, &bwi_compute_reference_f32};
    for (int t = 0; t < 2; t++)
        for (int i = 0; shape_at(i, &s); i++) {
            problem p = problem_make(&s);
            bwi_rng r = bwi_rng_make(2, BWI_RNG_TEST, (uint64_t)i, 0);
            fill_real(p.src, p.n_src, &r), fill_real(p.w, p.n_w, &r), fill_real(p.gdst, p.n_dst, &r);
            if (i % 2) p.scale = 0.37, p.back_scale = -2.3;
            compare_with_double(&p, table[t]);
            problem_drop(&p);
        }
}

/* ---- Integer codes ------------------------------------------------------------------------------------------------------- */
/* Whether the table multiplies bytes on this CPU: oneDNN's with AVX2, depthwise ones with AVX-512, and no other groups. */
static bool has_bytes(const bwi_compute *table, const bwi_conv_spec *s)
{
    if (table != &bwi_compute_onednn) return true;
    if (s->groups > 1) return (bwi_cpu_flags() & BWI_CPU_AVX512) && s->groups == s->ic && s->ic == s->oc;
    return bwi_cpu_flags() & BWI_CPU_AVX2;
}

static bool has_avx2(void)
{
    return bwi_cpu_flags() & BWI_CPU_AVX2;
}

/* Runs a test as the CPU is, and as if it had AVX2 and nothing newer: what multiplies integers differs. */
static void on_both(void (*test)(void))
{
    test();
    assert_int_equal(bwi_cpu_limit("avx2", NULL), BW_OK);
    test();
    assert_int_equal(bwi_cpu_limit(NULL, NULL), BW_OK);
}

static void sums_are_exact(void)
{
    bwi_conv_spec s;
    const bwi_compute *table[] = {&bwi_compute_onednn, &bwi_compute_reference_f32};
    static const int fill[][4] = {{0, 255, -128, 127}, {255, 255, 127, 127}, {255, 255, -128, -128},
                                  {0, 15, -8, 7},      {0, 7, -4, 3},        {0, 3, -2, 1},
                                  {1, 1, 1, 1}};
    static const int bits[] = {8, 8, 8, 4, 3, 2, 1};
    for (int t = 0; t < 2; t++)
        for (int i = 0; shape_at(i, &s); i++)
            for (int f = 0; f < 7; f++) {
                s.src = BWI_DT_U8, s.wbits = s.abits = bits[f];
                s.train = s.need_gsrc = false;
                problem p = problem_make(&s);
                bwi_rng r = bwi_rng_make(3, BWI_RNG_TEST, (uint64_t)i, (uint64_t)f);
                fill_int(p.src, p.n_src, fill[f][0], fill[f][1], &r), fill_int(p.w, p.n_w, fill[f][2], fill[f][3], &r);
                p.scale = i % 2 ? 0.0371 : 1;
                if (f == 6) /* one bit: 0 and 1, -1 and 1 */
                    for (size_t k = 0; k < p.n_src || k < p.n_w; k++) {
                        if (k < p.n_src) p.src[k] = bwi_rng_below(&r, 2);
                        if (k < p.n_w) p.w[k] = 2.0 * bwi_rng_below(&r, 2) - 1;
                    }
                const bw_status st = solve(&p, table[t]);
                CHECK(&s, st == (has_bytes(table[t], &s) ? BW_OK : BW_UNSUPPORTED), "status %d", st);
                int oh = bwi_conv_out(s.ih, s.kh, s.stride, s.pad), ow = bwi_conv_out(s.iw, s.kw, s.stride, s.pad);
                for (size_t at = 0; st == BW_OK && at < p.n_dst; at++) {
                    size_t pixel = at / (size_t)s.oc;
                    float sum = (float)definition(&p, (int)(pixel / (size_t)(oh * ow)), (int)(pixel / (size_t)ow) % oh,
                                                  (int)(pixel % (size_t)ow), (int)(at % (size_t)s.oc));
                    float want = sum * (float)p.scale;
                    CHECK(&s, p.dst[at] == (double)want, "%s, codes %d..%d, at %zu: %.9g, wanted %.9g", table[t]->name,
                          fill[f][0], fill[f][1], at, p.dst[at], (double)want);
                }
                problem_drop(&p);
            }
}

static void integer_sums_are_exact(void **state)
{
    (void)state;
    on_both(sums_are_exact);
}

/* Backward of a U8 source in float: the same bounds as for a float source. */
static void codes_against_double(const bwi_conv_spec *shape, const bwi_compute *table, int seed)
{
    bwi_conv_spec s = *shape;
    s.src = BWI_DT_U8, s.wbits = s.abits = 8;
    problem p = problem_make(&s);
    bwi_rng r = bwi_rng_make(4, BWI_RNG_TEST, (uint64_t)seed, 0);
    fill_int(p.src, p.n_src, 0, 255, &r), fill_int(p.w, p.n_w, -128, 127, &r), fill_real(p.gdst, p.n_dst, &r);
    p.scale = 0.37, p.back_scale = 1.7;
    compare_with_double(&p, table);
    problem_drop(&p);
}

static void codes_have_float_gradients(void **state)
{
    (void)state;
    bwi_conv_spec s;
    const bwi_compute *table[] = {&bwi_compute_onednn, &bwi_compute_reference_f32};
    for (int t = 0; t < 2; t++)
        for (int i = 0; shape_at(i, &s); i++)
            if (has_bytes(table[t], &s)) codes_against_double(&s, table[t], i);
}

/* ---- Operands of 16 bits ------------------------------------------------------------------------------------------------- */
static bool has_integers(const bwi_conv_spec *s)
{
    const int lanes = bwi_cpu_flags() & BWI_CPU_VNNI ? 16 : 8;
    return s->groups == 1 && s->ic % lanes == 0 && s->oc % lanes == 0;
}

static double largest(const double *v, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(v[i]));
    return most;
}
static void fill(double *v, size_t n, double x)
{
    for (size_t i = 0; i < n; i++) v[i] = x;
}
static double top_of(double terms, double other)
{
    return terms * other > 0 ? fmin(32767, floor(INT32_MAX / (terms * other))) : 32767;
}

/* Largest steps of what was rounded: half of one is what an operand may be off. */
typedef struct steps {
    double data, src;                  /* of the gradient for the source's gradient, of the source forward */
    double pair_gradient, pair_source; /* of both for the weights' gradient */
} steps;

static steps steps_of(const problem *p, double weight)
{
    const bwi_conv_spec *s = &p->spec;
    const bool real_src = s->src == BWI_DT_F32;
    const double ow = bwi_conv_out(s->iw, s->kw, s->stride, s->pad), row = ow > 257 ? 2 * ceil(ow / 2) : 257;
    const double taps = s->kh * s->kw, g = largest(p->gdst, p->n_dst), src = real_src ? largest(p->src, p->n_src) : 0;
    return (steps){g / top_of(taps * s->oc, weight), src / top_of(taps * s->ic, weight), g / top_of(row, real_src ? 2047 : 255),
                   src / 2047};
}

static void check_bounds(const problem *p, const char *what, const double *got, const double *want, const double *off,
                         const double *sum, double rounding, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK(&p->spec, fabs(got[i] - want[i]) <= off[i] + rounding * sum[i], "%s at %zu: %.9g, wanted %.9g +- %.2g", what, i,
              got[i], want[i], off[i]);
}

/* Sums are exact, so each is off by what rounding takes off its operands, and by the rounding of a few float operations. Steps are those of
 * the batch's largest values or finer. */
static void within_steps(const problem *got, steps step)
{
    const bwi_conv_spec *s = &got->spec;
    problem want = problem_make(s), sum = problem_abs(got), off = problem_abs(got), off_g = problem_abs(got),
            off_src = problem_abs(got);
    memcpy(want.src, got->src, got->n_src * sizeof(double));
    memcpy(want.w, got->w, got->n_w * sizeof(double));
    memcpy(want.gdst, got->gdst, got->n_dst * sizeof(double));
    want.scale = got->scale, want.back_scale = got->back_scale;
    fill(off.src, off.n_src, .50001 * step.src), fill(off.gdst, off.n_dst, .50001 * step.data);
    fill(off_g.gdst, off.n_dst, .50001 * step.pair_gradient), fill(off_src.src, off.n_src, .50001 * step.pair_source);
    for (size_t i = 0; i < off.n_src; i++) off_g.src[i] += .50001 * step.pair_source;
    problem *all[] = {&want, &sum, &off, &off_g, &off_src};
    for (int i = 0; i < 5; i++) assert_int_equal(solve(all[i], &bwi_compute_reference_f64), BW_OK);
    for (size_t i = 0; i < off.n_w; i++) off.gw[i] = off_g.gw[i] + off_src.gw[i];
    check_bounds(got, "forward", got->dst, want.dst, off.dst, sum.dst, 0x1p-21, got->n_dst);
    if (s->need_gsrc) check_bounds(got, "data", got->gsrc, want.gsrc, off.gsrc, sum.gsrc, 0x1p-21, got->n_src);
    check_bounds(got, "weights", got->gw, want.gw, off.gw, sum.gw, 0x1p-20, got->n_w);
    for (int i = 0; i < 5; i++) problem_drop(all[i]);
}

static void integers_against_double(const bwi_conv_spec *shape, int seed)
{
    static const int limits[][4] = {{0, 255, -128, 127}, {255, 255, -128, -128}, {0, 3, -2, 1}, {0, 15, 0, 0}};
    for (int f = 0; f < 8; f++) {
        bwi_conv_spec s = *shape;
        s.src = BWI_DT_U8, s.operand = BWI_DT_I16, s.wbits = s.abits = 8;
        problem p = problem_make(&s);
        bwi_rng r = bwi_rng_make(5, BWI_RNG_TEST, (uint64_t)seed, (uint64_t)f);
        const int *limit = limits[f % 4];
        fill_int(p.src, p.n_src, limit[0], limit[1], &r), fill_int(p.w, p.n_w, limit[2], limit[3], &r);
        fill_real(p.gdst, p.n_dst, &r);
        if (f >= 4) fill(p.gdst, p.n_dst, f & 1 ? 3e-5 : -1e7); /* the longest sums of the largest operands */
        p.back_scale = f & 2 ? 0.37 : 1;
        const bw_status st = solve(&p, &bwi_compute_onednn), expect = has_integers(&s) ? BW_OK : BW_UNSUPPORTED;
        CHECK(&s, st == expect, "status %d, wanted %d", st, expect);
        if (st == BW_OK) within_steps(&p, steps_of(&p, largest(p.w, p.n_w)));
        problem_drop(&p);
    }
}

/* A float source, and weights that are integers or lie beside them. */
static void reals_against_double(const bwi_conv_spec *shape, int seed)
{
    static const int fill_w[][2] = {{-128, 127}, {-1, 1}, {-127, -127}, {0, 255}, {1275, 1530}, {-40255, -40000}};
    for (int f = 0; f < 12; f++) {
        bwi_conv_spec s = *shape;
        s.src = BWI_DT_F32, s.operand = BWI_DT_I16;
        problem p = problem_make(&s);
        bwi_rng r = bwi_rng_make(8, BWI_RNG_TEST, (uint64_t)seed, (uint64_t)f);
        const int low = fill_w[f % 6][0], high = fill_w[f % 6][1];
        fill_real(p.src, p.n_src, &r), fill_real(p.gdst, p.n_dst, &r), fill_int(p.w, p.n_w, low, high, &r);
        if (f % 2) /* in multiples of 1 / 8, which are exact */
            for (size_t i = 0; i < p.n_w; i++) p.w[i] -= f + .375;
        if (f >= 6) fill(p.src, p.n_src, f & 1 ? 2e-6 : -3e5), fill(p.gdst, p.n_dst, f & 1 ? 3e-5 : -1e7);
        p.scale = 0.37, p.back_scale = f & 2 ? 1.7 : 1;
        const bw_status st = solve(&p, &bwi_compute_onednn), expect = has_integers(&s) ? BW_OK : BW_UNSUPPORTED;
        CHECK(&s, st == expect, "status %d, wanted %d", st, expect);
        if (st == BW_OK) within_steps(&p, steps_of(&p, fmin(fmax(fabs((double)low), fabs((double)high)), 128)));
        problem_drop(&p);
    }
}

static void operands_in_steps(void)
{
    if (!has_avx2()) return;
    bwi_conv_spec s;
    for (int i = 0; shape_at(i, &s); i++) integers_against_double(&s, i), reals_against_double(&s, i);
    static const bwi_conv_spec shape[] = {
        {.n = 9, .ih = 4, .iw = 4, .ic = 16, .oc = 48, .kh = 3, .kw = 3, .stride = 1, .pad = 1},   /* several images a chunk */
        {.n = 2, .ih = 19, .iw = 17, .ic = 48, .oc = 16, .kh = 3, .kw = 3, .stride = 1, .pad = 1}, /* several chunks an image */
        {.n = 1,
         .ih = 3,
         .iw = 300,
         .ic = 16,
         .oc = 16,
         .kh = 3,
         .kw = 3,
         .stride = 1,
         .pad = 1}, /* rows longer than a chunk */
        {.n = 3,
         .ih = 11,
         .iw = 9,
         .ic = 32,
         .oc = 32,
         .kh = 2,
         .kw = 5,
         .stride = 3,
         .pad = 2},                                                                    /* kernel positions of nine kinds */
        {.n = 3, .ih = 7, .iw = 1, .ic = 32, .oc = 16, .kh = 1, .kw = 1, .stride = 2}, /* pixels that nobody reads */
        {.n = 2,
         .ih = 6,
         .iw = 9,
         .ic = 24,
         .oc = 8,
         .kh = 3,
         .kw = 3,
         .stride = 1,
         .pad = 1}, /* half a block, where vectors have 8 */
        {.n = 2, .ih = 5, .iw = 7, .ic = 8, .oc = 40, .kh = 3, .kw = 3, .stride = 2, .pad = 1}, /* the same */
        {.n = 33, .ih = 1, .iw = 1, .ic = 64, .oc = 80, .kh = 1, .kw = 1, .stride = 1},         /* a linear layer */
        {.n = 1,
         .ih = 2,
         .iw = 2,
         .ic = 16,
         .oc = 16,
         .kh = 4,
         .kw = 4,
         .stride = 1,
         .pad = 1},                                                                      /* a kernel larger than the map */
        {.n = 1, .ih = 29, .iw = 29, .ic = 16, .oc = 16, .kh = 1, .kw = 1, .stride = 1}, /* blocks of unequal width */
        {.n = 2, .ih = 8, .iw = 8, .ic = 128, .oc = 128, .kh = 3, .kw = 3, .stride = 1, .pad = 1}, /* fewer than 16 bits */
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int wanted = 0; wanted < 2; wanted++) {
            s = shape[i];
            s.groups = 1, s.train = true, s.need_gsrc = wanted;
            integers_against_double(&s, 1000 + (int)i);
            reals_against_double(&s, 1000 + (int)i);
        }
    s.ic = s.oc = 256; /* its weights are more than a cache holds */
    s.src = BWI_DT_U8, s.operand = BWI_DT_I16, s.wbits = s.abits = 8;
    bwi_conv *conv = NULL;
    bw_error err = {0};
    assert_int_equal(bwi_compute_onednn.conv_create(&s, &conv, &err), BW_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "16-bit products"));
    assert_null(conv);
}

static void operands_of_16_bits(void **state)
{
    (void)state;
    on_both(operands_in_steps);
}

/* A layer of ResNet-20's, on codes. */
static bwi_conv_spec layer_of_bytes(int n, int map, bwi_dtype back)
{
    return (bwi_conv_spec){.n = n,
                           .ih = map,
                           .iw = map,
                           .ic = 16,
                           .oc = 16,
                           .kh = 3,
                           .kw = 3,
                           .stride = 1,
                           .pad = 1,
                           .groups = 1,
                           .src = BWI_DT_U8,
                           .wbits = 8,
                           .abits = 8,
                           .operand = back,
                           .train = true,
                           .need_gsrc = true};
}

/* No gradient is none, and one that is not finite makes none that looks as if it were. */
static void not_finite(void)
{
    if (!has_avx2()) return;
    static const double value[] = {0, 1e-40, INFINITY, -INFINITY, NAN};
    for (size_t v = 0; v < sizeof value / sizeof *value; v++) {
        const bwi_conv_spec s = layer_of_bytes(1, 5, BWI_DT_I16);
        problem p = problem_make(&s);
        bwi_rng r = bwi_rng_make(7, BWI_RNG_TEST, v, 0);
        fill_int(p.src, p.n_src, 1, 255, &r), fill_int(p.w, p.n_w, -128, -1, &r);
        if (value[v] > 0 && value[v] < 1)
            for (size_t i = 0; i < p.n_dst; i++) p.gdst[i] = value[v];
        p.gdst[77] = value[v];
        assert_int_equal(solve(&p, &bwi_compute_onednn), BW_OK);
        for (size_t i = 0; i < p.n_src; i++)
            CHECK(&s, isnan(p.gsrc[i]) || (fabs(value[v]) < 1 && p.gsrc[i] == 0), "data %g", p.gsrc[i]);
        for (size_t i = 0; i < p.n_w; i++)
            CHECK(&s, isnan(p.gw[i]) || (fabs(value[v]) < 1 && p.gw[i] == 0), "weights %g", p.gw[i]);
        problem_drop(&p);
    }
    for (size_t v = 0; v < sizeof value / sizeof *value; v++) { /* the same of a source */
        bwi_conv_spec s = layer_of_bytes(2, 5, BWI_DT_I16);
        s.src = BWI_DT_F32;
        problem p = problem_make(&s);
        fill(p.w, p.n_w, 1), fill(p.gdst, p.n_dst, 1);
        if (value[v] > 0 && value[v] < 1) fill(p.src, p.n_src, value[v]);
        p.src[77] = value[v];
        assert_int_equal(solve(&p, &bwi_compute_onednn), BW_OK);
        for (size_t i = 0; i < p.n_w; i++)
            CHECK(&s, isnan(p.gw[i]) || (fabs(value[v]) < 1 && p.gw[i] == 0), "weights %g", p.gw[i]);
        for (size_t i = 0; i < p.n_src; i++) CHECK(&s, p.gsrc[i] > 0, "data %g", p.gsrc[i]);
        for (size_t i = 0; i < p.n_dst; i++)
            CHECK(&s, p.dst[i] == 0 || (i < p.n_dst / 2 && isnan(p.dst[i]) && !(fabs(value[v]) < 1)), "forward %g", p.dst[i]);
        CHECK(&s, isnan(p.dst[77]) == !(fabs(value[v]) < 1), "forward %g", p.dst[77]);
        problem_drop(&p);
    }
}

static void operands_that_are_not_finite(void **state)
{
    (void)state;
    on_both(not_finite);
}

/* ---- Threads ----------------------------------------------------------------------------------------------------------- */
/* Everything above runs on one thread, since threads that wait for each other are slow where cores are shared. Here, larger shapes
 * on two: the passes split the work otherwise, and the weight gradient sums over threads and over pieces of the batch. */
static void threads_share_the_work(void **state)
{
    (void)state;
    static const bwi_conv_spec shape[] = {
        {.n = 8, .ih = 16, .iw = 16, .ic = 16, .oc = 32, .kh = 3, .kw = 3, .stride = 2, .pad = 1, .groups = 1},
        {.n = 7, .ih = 8, .iw = 8, .ic = 64, .oc = 64, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1},
        {.n = 9, .ih = 9, .iw = 9, .ic = 3, .oc = 16, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1},
        {.n = 50, .ih = 1, .iw = 1, .ic = 64, .oc = 10, .kh = 1, .kw = 1, .stride = 1, .pad = 0, .groups = 1},
        {.n = 20, .ih = 32, .iw = 32, .ic = 64, .oc = 3, .kh = 1, .kw = 1, .stride = 1, .pad = 0, .groups = 1},  /* in pieces */
        {.n = 48, .ih = 32, .iw = 32, .ic = 16, .oc = 16, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1}, /* too */
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        bwi_conv_spec s = shape[i];
        s.src = s.operand = BWI_DT_F32;
        s.train = s.need_gsrc = true;
        bwi_threads_set(2);
        problem p = problem_make(&s);
        bwi_rng r = bwi_rng_make(6, BWI_RNG_TEST, i, 0);
        fill_real(p.src, p.n_src, &r), fill_real(p.w, p.n_w, &r), fill_real(p.gdst, p.n_dst, &r);
        compare_with_double(&p, &bwi_compute_onednn);
        compare_with_double(&p, &bwi_compute_reference_f32);
        problem_drop(&p);
        if (has_avx2()) codes_against_double(&s, &bwi_compute_onednn, (int)i);
        if (has_avx2()) integers_against_double(&s, (int)i), reals_against_double(&s, (int)i);
    }
    bwi_threads_set(1);
}

/* ---- Creation ------------------------------------------------------------------------------------------------------------ */
static void creation_survives_lack_of_memory(void **state)
{
    (void)state;
    const bwi_compute *table[] = {&bwi_compute_onednn, &bwi_compute_reference_f32, &bwi_compute_reference_f64};
    for (int k = 0; k < 5; k++) {
        const int t = k < 3 ? k : 0;
        bwi_conv_spec s;
        assert_true(shape_at(100, &s));
        s.src = s.operand = table[t]->real;
        if (k > 2 && has_avx2()) s.ic = s.oc = 16, s.groups = 1, s.operand = BWI_DT_I16;
        if (k == 3 && has_avx2()) s.src = BWI_DT_U8;
        for (int64_t n = 0;; n++) {
            int64_t live = bwi_alloc_live_blocks();
            bwi_conv *conv = NULL;
            bw_error err = {0};
            bwi_alloc_fail_at(n, 0);
            bw_status st = table[t]->conv_create(&s, &conv, &err);
            bwi_alloc_fail_at(-1, 0);
            if (st == BW_OK) {
                assert_true(n >= 3); /* the object and its weights */
                table[t]->conv_destroy(&conv);
                assert_int_equal(bwi_alloc_live_blocks(), live);
                break;
            }
            assert_int_equal(st, BW_NOMEM);
            assert_int_equal(err.status, BW_NOMEM);
            assert_null(conv);
            assert_int_equal(bwi_alloc_live_blocks(), live);
        }
        bwi_conv *none = NULL;
        table[t]->conv_destroy(&none);
    }
}

/* Codes are never converted all at once when the batch is large. */
static void scratch_stays_small(void **state)
{
    (void)state;
    if (!has_avx2()) skip();
    for (int i = 0; i < 2; i++) {
        const bwi_conv_spec s = layer_of_bytes(128, 32, i ? BWI_DT_I16 : BWI_DT_F32);
        bwi_conv *conv = NULL;
        assert_int_equal(bwi_compute_onednn.conv_create(&s, &conv, NULL), BW_OK);
        assert_in_range(bwi_compute_onednn.conv_scratch(conv), 1, bwi_conv_src_size(&s) * sizeof(float) / 4);
        bwi_compute_onednn.conv_destroy(&conv);
    }
}

/* Changes one field of a good description and wants a refusal whose message contains `says`. */
#define REFUSED(change, expect, says)                                                                                          \
    do {                                                                                                                       \
        bwi_conv_spec s_ = good;                                                                                               \
        s_.change;                                                                                                             \
        bwi_conv *conv_ = NULL;                                                                                                \
        bw_error err_ = {0};                                                                                                   \
        bw_status st_ = table->conv_create(&s_, &conv_, &err_);                                                                \
        CHECK(&s_, st_ == (expect) && !conv_ && strstr(err_.msg, says), "%s gave %d '%s'", #change, st_, err_.msg);            \
    } while (0)

static void bad_descriptions_are_refused(void **state)
{
    (void)state;
    const bwi_compute *tables[] = {&bwi_compute_onednn, &bwi_compute_reference_f32, &bwi_compute_reference_f64};
    for (int t = 0; t < 3; t++) {
        const bwi_compute *table = tables[t];
        bwi_conv_spec good;
        assert_true(shape_at(100, &good));
        good.src = good.operand = table->real;
        REFUSED(n = 0, BW_SHAPE, "positive");
        REFUSED(ic = -3, BW_SHAPE, "positive");
        REFUSED(stride = 0, BW_SHAPE, "positive");
        REFUSED(groups = 5, BW_SHAPE, "multiples of groups");
        REFUSED(pad = -1, BW_SHAPE, "padding");
        REFUSED(pad = 2000000000, BW_SHAPE, "padding");
        REFUSED(kw = 100, BW_SHAPE, "kernel is larger");
        REFUSED(n = 2000000000; s_.ih = s_.iw = 2000000000, BW_SHAPE, "too large");
        REFUSED(src = BWI_DT_BF16, BW_ARG, "source must be");
        REFUSED(operand = BWI_DT_U8, BW_ARG, "operands");
        REFUSED(operand = table->real == BWI_DT_F32 ? BWI_DT_F64 : BWI_DT_F32, BW_ARG, "or I16");
        REFUSED(src = BWI_DT_U8; s_.wbits = 9, BW_ARG, "weights of 9 bits");
        REFUSED(src = BWI_DT_U8; s_.abits = 0, BW_ARG, "codes of 0");
        REFUSED(src = table->real == BWI_DT_F32 ? BWI_DT_F64 : BWI_DT_F32, BW_ARG, "source must be");
        REFUSED(operand = BWI_DT_I16; s_.codes = true, BW_ARG, "exact");
        if (table == &bwi_compute_onednn) {
            good = (bwi_conv_spec){.n = 1,
                                   .ih = 1,
                                   .iw = 1,
                                   .ic = 66000,
                                   .oc = 1,
                                   .kh = 1,
                                   .kw = 1,
                                   .stride = 1,
                                   .groups = 1,
                                   .src = BWI_DT_U8,
                                   .wbits = 8,
                                   .abits = 8,
                                   .operand = BWI_DT_F32};
            REFUSED(pad = 0, BW_UNSUPPORTED, "bytes");
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_is_the_definition),
        cmocka_unit_test(float_tables_are_within_rounding),
        cmocka_unit_test(integer_sums_are_exact),
        cmocka_unit_test(codes_have_float_gradients),
        cmocka_unit_test(operands_of_16_bits),
        cmocka_unit_test(operands_that_are_not_finite),
        cmocka_unit_test(threads_share_the_work),
        cmocka_unit_test(scratch_stays_small),
        cmocka_unit_test(creation_survives_lack_of_memory),
        cmocka_unit_test(bad_descriptions_are_refused),
    };
    bwi_threads_set(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
