/* Loops of a quantizer, made from its scalar functions, in the variant that is being compiled.
 *
 * A quantizer's file defines Q_MODES, includes this header and defines the functions declared here. They must be free of branches on
 * data, so that the loops vectorize. `mode` is a constant wherever they are inlined.
 *
 * Sums are kept in float only over BWI_QBLOCK elements. gx and gcode may be the same array: element by element, which `omp simd`
 * allows. */
#ifndef BWI_QUANT_LOOPS_H
#define BWI_QUANT_LOOPS_H
#include "base/inline.h"
#include "base/par.h"
#include "quant/quant.h"

/* bwi_qk as `real`. */
typedef struct qc {
    real lo, hi, delta, v[6];
} qc;
/* Terms of one element in the parameters' sums. */
typedef struct qsums {
    real s0, s1, s2;
} qsums;
_Static_assert(BWI_QPARAMS == 3, "qsums has as many terms as there are parameters");

/* Modes are 0 .. Q_MODES - 1 (bwi_qk.mode). */
#if Q_MODES != 2 && Q_MODES != 4
#error "Q_MODES: 2 or 4"
#endif
/* A before it is clipped to the grid; may be anything, also NaN, when x is not finite. */
BWI_INLINE real q_raw(int mode, qc k, real x);
/* 1: the gradient passes the clip. */
BWI_INLINE int q_inside(int mode, qc k, real raw);
/* du/dx where q_inside. */
BWI_INLINE real q_slope(int mode, qc k, real u);
/* gc = dL/dc; gu = dL/du, 0 where not q_inside. */
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu);

BWI_INLINE qc consts(const bwi_qk *k)
{
    qc q = {(real)k->lo, (real)k->hi, (real)k->delta, {0}};
    for (int i = 0; i < 6; i++) q.v[i] = (real)k->v[i];
    return q;
}

/* u of raw. A NaN becomes lo, so that no code ever leaves the grid and no conversion to an integer is undefined. */
BWI_INLINE real q_clip(real raw, real lo, real hi)
{
    raw = raw > lo ? raw : lo;
    return raw < hi ? raw : hi;
}

/* D: c of u, where a sign may be taken of raw. Adding 0 turns -0 into 0, whose sign is +1; compilers make a branch of a comparison here. */
BWI_INLINE real q_grid(int mode, real raw, real u)
{
#if BWI_VARIANT == BWI_F64
    return mode & BWI_QMODE_SIGN ? copysign(1.0, raw + 0.0) : bwi_round(u);
#else
    return mode & BWI_QMODE_SIGN ? copysignf(1.0f, raw + 0.0f) : bwi_round(u);
#endif
}

/* dL/du: how the gradient passes D. With delta 0 that is gc to the bit, so loops leave it out then (scaled is a constant in them). Where
 * gc is 0 its sign does not matter. */
BWI_INLINE real q_pass(bool scaled, qc k, real gc, real u, real c)
{
    if (!scaled) return gc;
    real d = k.delta * (u - c);
    return gc * (1 + (gc < 0 ? -d : d));
}

/* y of a chain, from x itself when there is no affine map. A NaN stays one. */
BWI_INLINE real chain_y(bool affine, const real *x, const real *a, const real *b, size_t i)
{
    return affine ? x[i] * a[i] + b[i] : x[i];
}

BWI_INLINE void codes_as(const int mode, const bool affine, const bwi_qk *k, const real *restrict x, const real *restrict a,
                         const real *restrict b, real floor, size_t n, bwi_dtype type, void *codes)
{
    const qc q = consts(k);
    const real mul = (real)k->mul, add = (real)k->add;
#define CODES(T, CAST)                                                                                                         \
    do {                                                                                                                       \
        T *restrict out = codes;                                                                                               \
        BWI_PRAGMA(omp simd) for (size_t i = 0; i < n; i++)                                                                    \
        {                                                                                                                      \
            real y = chain_y(affine, x, a, b, i);                                                                              \
            if (affine) y = y < floor ? floor : y;                                                                             \
            real raw = q_raw(mode, q, y);                                                                                      \
            out[i] = CAST(mul * q_grid(mode, raw, q_clip(raw, q.lo, q.hi)) + add);                                             \
        }                                                                                                                      \
    } while (0)
    if (type == BWI_DT_U8)
        CODES(uint8_t, (uint8_t)(int32_t));
    else if (type == BWI_DT_I8)
        CODES(int8_t, (int8_t)(int32_t));
    else
        CODES(real, (real));
#undef CODES
}

BWI_INLINE void latents_as(const int mode, const bwi_qk *k, const real *restrict x, size_t n, real *restrict u,
                           real *restrict c)
{
    const qc q = consts(k);
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        real raw = q_raw(mode, q, x[i]), v = q_clip(raw, q.lo, q.hi);
        u[i] = v;
        c[i] = q_grid(mode, raw, v);
    }
}

BWI_INLINE void calibrate_as(const int mode, const bwi_qk *k, const real *restrict x, size_t n, real *restrict wt,
                             real *restrict cal)
{
    const qc q = consts(k);
    const real unit = (real)k->unit, value = (real)(k->mul * k->scale);
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        real raw = q_raw(mode, q, x[i]), u = q_clip(raw, q.lo, q.hi);
        wt[i] = (u - q.lo) * unit;
        cal[i] = q_inside(mode, q, raw) ? value * q_slope(mode, q, u) : 0;
    }
}

/* One pass for everything: gx and the sums. gscale: what turns gcode into dL/dc. */
BWI_INLINE void backward_as(const int mode, const bwi_qk *k, const real *x, const real *gcode, real gscale, size_t n, real *gx,
                            double *sums)
{
    const qc q = consts(k);
    for (size_t at = 0; at < n; at += BWI_QBLOCK) {
        size_t end = n - at < BWI_QBLOCK ? n : at + BWI_QBLOCK;
        real s0 = 0, s1 = 0, s2 = 0, clipped = 0;
#pragma omp simd reduction(+ : s0, s1, s2, clipped)
        for (size_t i = at; i < end; i++) {
            real raw = q_raw(mode, q, x[i]), u = q_clip(raw, q.lo, q.hi), c = q_grid(mode, raw, u);
            real gc = gscale * gcode[i], g = q_inside(mode, q, raw) ? q_pass(true, q, gc, u, c) : 0;
            gx[i] = g * q_slope(mode, q, u);
            qsums t = q_terms(mode, q, u, c, gc, g);
            s0 += t.s0;
            s1 += t.s1;
            s2 += t.s2;
            clipped += u == raw ? R(0.0) : R(1.0); /* on the bound is not clipped: zeros behind a ReLU do not count */
        }
        if (sums) sums[0] += s0, sums[1] += s1, sums[2] += s2, sums[BWI_QPARAMS] += clipped;
    }
}

/* backward in one loop with what stands between the quantizer and memory (bwi_chain). */
BWI_INLINE void chain_backward_as(const int mode, const bool scaled, const bool affine, const bool summed, const bwi_qk *k,
                                  const bwi_chain *chain, const real *gcode, real gcode_scale, size_t n, real *gx, double *sums)
{
    static const real nothing[BWI_QBLOCK];
    const qc q = consts(k);
    const real *x = chain->x, *a = chain->a, *b = chain->b, *other = chain->other ? chain->other : nothing;
    const real floor = (real)chain->floor;
    real s0 = 0, s1 = 0, s2 = 0, clipped = 0;
#pragma omp simd reduction(+ : s0, s1, s2, clipped)
    for (size_t i = 0; i < n; i++) {
        real y = chain_y(affine, x, a, b, i);
        if (affine) y = y < floor ? floor : y;
        real raw = q_raw(mode, q, y), u = q_clip(raw, q.lo, q.hi), c = q_grid(mode, raw, u), gc = gcode_scale * gcode[i];
        real g = q_inside(mode, q, raw) ? q_pass(scaled, q, gc, u, c) : 0, v = g * q_slope(mode, q, u);
        if (!affine) v += other[i];
        gx[i] = y > floor ? v : 0;
        if (!summed) continue; /* decided at compile time */
        qsums t = q_terms(mode, q, u, c, gc, g);
        s0 += t.s0;
        s1 += t.s1;
        s2 += t.s2;
        clipped += u == raw ? R(0.0) : R(1.0);
    }
    if (summed) sums[0] += s0, sums[1] += s1, sums[2] += s2, sums[BWI_QPARAMS] += clipped;
}

/* Picks the mode once a call: inside the loops it is a constant. */
#define MODES(CALL)                                                                                                            \
    do {                                                                                                                       \
        if (k->mode == 0)                                                                                                      \
            CALL(0);                                                                                                           \
        else if (k->mode == 1 || Q_MODES == 2)                                                                                 \
            CALL(1);                                                                                                           \
        else if (k->mode == 2)                                                                                                 \
            CALL(2 % Q_MODES);                                                                                                 \
        else                                                                                                                   \
            CALL(3 % Q_MODES);                                                                                                 \
    } while (0)

static void loop_codes(const bwi_qk *k, const void *x, size_t n, bwi_dtype type, void *codes)
{
#define CALL(mode) codes_as(mode, false, k, x, NULL, NULL, 0, n, type, codes)
    MODES(CALL);
#undef CALL
}

static void loop_chain_codes(const bwi_qk *k, const bwi_chain *chain, size_t n, bwi_dtype type, void *codes)
{
#define CALL(mode) codes_as(mode, true, k, chain->x, chain->a, chain->b, (real)chain->floor, n, type, codes)
    MODES(CALL);
#undef CALL
}

static void loop_latents(const bwi_qk *k, const void *x, size_t n, void *u, void *c)
{
#define CALL(mode) latents_as(mode, k, x, n, u, c)
    MODES(CALL);
#undef CALL
}

static void loop_calibrate(const bwi_qk *k, const void *x, size_t n, void *wt, void *cal)
{
    const real *xs = x;
    real *w = wt, *c = cal, unused[BWI_QBLOCK / 8];
    for (size_t at = 0; at < n; at += BWI_QBLOCK / 8) {
        const size_t m = n - at < BWI_QBLOCK / 8 ? n - at : BWI_QBLOCK / 8;
        if (k->direct) {
            for (size_t i = 0; i < m; i++) {
                if (w) w[at + i] = xs[at + i];
                if (c) c[at + i] = 1;
            }
            continue;
        }
#define CALL(mode) calibrate_as(mode, k, xs + at, m, w ? w + at : unused, c ? c + at : unused)
        MODES(CALL);
#undef CALL
    }
}

static void loop_backward(const bwi_qk *k, const void *x, const void *gcode, double gscale, size_t n, void *gx, double *sums)
{
    const real gs = (real)(k->mul * gscale);
#define CALL(mode) backward_as(mode, k, x, gcode, gs, n, gx, sums)
    MODES(CALL);
#undef CALL
}

static void loop_chain_backward(const bwi_qk *k, const bwi_chain *chain, const void *gcode, double gscale, size_t n, void *gx,
                                double *sums)
{
    const real gs = (real)(k->mul * gscale);
    double unused[BWI_QPARAMS + 1] = {0};
#define LINK(mode, scaled)                                                                                                     \
    do {                                                                                                                       \
        if (chain->a && sums)                                                                                                  \
            chain_backward_as(mode, scaled, true, true, k, chain, gcode, gs, n, gx, sums);                                     \
        else if (chain->a)                                                                                                     \
            chain_backward_as(mode, scaled, true, false, k, chain, gcode, gs, n, gx, NULL);                                    \
        else                                                                                                                   \
            chain_backward_as(mode, scaled, false, true, k, chain, gcode, gs, n, gx, sums ? sums : unused);                    \
    } while (0)
#define CALL(mode)                                                                                                             \
    do {                                                                                                                       \
        if (k->delta == 0)                                                                                                     \
            LINK(mode, false);                                                                                                 \
        else                                                                                                                   \
            LINK(mode, true);                                                                                                  \
    } while (0)
    MODES(CALL);
#undef CALL
#undef LINK
}
#undef MODES

#define BWI_QLOOPS                                                                                                             \
    {                                                                                                                          \
        .codes = loop_codes, .latents = loop_latents, .calibrate = loop_calibrate, .backward = loop_backward,                  \
        .chain_codes = loop_chain_codes, .chain_backward = loop_chain_backward                                                 \
    }
#endif
