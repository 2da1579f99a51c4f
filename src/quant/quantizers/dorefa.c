/* DoReFa. Zhou et al., DoReFa-Net, 2016; weights at one bit without scale and with a constant maximum, as MetaQuant uses it (Chen et al.,
 * NeurIPS 2019).
 *   weights: t = tanh(w) / (2 M) + 1/2, M = max|tanh(w)| of the layer, held constant; wq = 2 round(n t) / n - 1, n = 2^b - 1
 *            dL/dw = dL/dwq * (1 - tanh(w)^2) / M
 *   activations: xq = round(n clip(x, 0, 1)) / n; dL/dx = dL/dxq where 0 <= x <= 1
 * 1-bit weights are the sign of w. Nothing is learned. */
#define Q_MODES 4
#include "quant/quantizers/loops.h"
#include "quant/tanh.h"

#define TANH 2                /* bit of bwi_qk.mode: weights */
enum { SLOPE, OFFSET, TO_T }; /* of bwi_qk.v: raw = SLOPE * (tanh(x) or x) + OFFSET; TO_T = 1 / SLOPE */

BWI_INLINE real q_raw(int mode, qc k, real x)
{
    return (mode & TANH ? q_tanh(x) : x) * k.v[SLOPE] + k.v[OFFSET];
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    if (mode & TANH) return 1; /* at most rounding leads past the grid */
    return (raw >= k.lo) & (raw <= k.hi);
}
/* tanh(x) is taken back from u, which saves a second call. */
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    real t = mode & TANH ? (u - k.v[OFFSET]) * k.v[TO_T] : 0;
    return k.v[SLOPE] * (1 - t * t);
}
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)mode, (void)k, (void)u, (void)c, (void)gc, (void)gu;
    return (qsums){0, 0, 0};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_dorefa_loops);
const bwi_qloops BWI_V(bwi_dorefa_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <math.h>

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    const double n = ldexp(1, q->bits) - 1;
    if (q->role == BWI_ACTIVATION) {
        q->k = (bwi_qk){.hi = n, .unit = 1 / n, .mul = 1, .scale = 1 / n, .v = {[SLOPE] = n}};
        return BW_OK;
    }
    const double max = tanh(stats->max_abs); /* tanh is monotone */
    if (!(max > 1e-30))
        return bwi_fail(err, BW_NUMERIC,
                        "dorefa: the largest weight is %g, it must be finite and not 0; the learning rate may be too high",
                        stats->max_abs);
    if (q->bits == 1)
        q->k = (bwi_qk){.lo = -1, .hi = 1, .mul = 1, .scale = 1, .v = {[SLOPE] = 1 / max}, .mode = TANH | BWI_QMODE_SIGN};
    else
        q->k = (bwi_qk){
            .hi = n, .mul = 2, .add = -n, .scale = 1 / n, .v = {[SLOPE] = n / 2 / max, [OFFSET] = n / 2}, .mode = TANH};
    q->k.v[TO_T] = 1 / q->k.v[SLOPE];
    q->k.unit = 1 / (q->k.hi - q->k.lo);
    return BW_OK;
}

static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    (void)theta;
    double n = ldexp(1, q->bits) - 1;
    if (q->role == BWI_ACTIVATION) {
        double a0 = fmin(fmax(x_base, 0), 1);
        return nearbyint(n * a0) / n + factor * (fmin(fmax(x, 0), 1) - a0);
    }
    /* M, which is a constant, from what prepare stored */
    double max = q->bits == 1 ? q->k.v[TO_T] : q->k.v[TO_T] * n / 2, t0 = tanh(x_base) / (2 * max) + 0.5;
    double q0 = q->bits == 1 ? x_base >= 0 : nearbyint(n * t0) / n;
    return 2 * (q0 + factor * (tanh(x) / (2 * max) + 0.5 - t0)) - 1;
}

static void affine(const bwi_quant *q, float map[3])
{
    map[0] = 0, map[1] = (float)q->k.v[SLOPE], map[2] = (float)q->k.v[OFFSET];
}

const bwi_quantizer bwi_quantizer_dorefa = {
    .name = "dorefa",
    .summary = "weights by normalised tanh, activations clipped to [0, 1]; nothing learned",
    .cite = "Zhou et al., DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients, 2016",
    .weight_bits = {1, 8},
    .activation_bits = {1, 8},
    .idempotent = {[BWI_ACTIVATION] = true},
    .needs_stats = true,
    .output_scale = -1,
    .prepare = prepare,
    .surrogate = surrogate,
    .affine = affine,
    .loops = BWI_VARIANT_TABLE(bwi_dorefa_loops),
};
#endif
