/* Weights on 2^b even levels between their least and largest value, times a learned factor. Wang et al., Automatic low-bit hybrid quantization
 * of neural networks through meta learning, 2020, equations 4 to 6.
 *   wq = gamma * (al * round(u) / n + be),  u = n (w - be) / al,  be = min w,  al = max w - min w,  n = 2^b - 1
 *   dL/dw = gamma * dL/dwq, al and be held constant;  dL/dgamma = sum dL/dwq * wq / gamma
 * be is no multiple of the distance of two levels, so codes c + n be / al are real numbers. */
#define Q_MODES 2
#include "quant/quantizers/loops.h"

enum { BE, INV_STEP, ADD }; /* of bwi_qk.v: be; n / al; n be / al */

BWI_INLINE real q_raw(int mode, qc k, real x)
{
    (void)mode;
    return (x - k.v[BE]) * k.v[INV_STEP];
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    (void)mode, (void)k, (void)raw;
    return 1; /* at most rounding leads past the grid */
}
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    (void)mode, (void)u;
    return k.v[INV_STEP];
}
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)mode, (void)u, (void)gu;
    return (qsums){gc * (c + k.v[ADD]), 0, 0};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_minmax_loops);
const bwi_qloops BWI_V(bwi_minmax_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <math.h>

static void init(bwi_quant *q, const bwi_qstats *stats)
{
    (void)stats;
    q->theta[0] = 1;
}

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    const double n = ldexp(1, q->bits) - 1, be = stats->min, gamma = q->theta[0];
    const double al = stats->max - be;
    if (!(al > 1e-12) || !isfinite(al))
        return bwi_fail(err, BW_NUMERIC,
                        "minmax: the weights span %g, it must be finite and not 0; the learning rate may be too high", al);
    if (!(fabs(gamma) > 1e-30) || !isfinite(gamma))
        return bwi_fail(err, BW_NUMERIC, "minmax: gamma is %g, it must be finite and not 0; the learning rate may be too high",
                        gamma);
    q->k = (bwi_qk){.hi = n,
                    .unit = 1 / n,
                    .mul = 1,
                    .add = n * be / al,
                    .scale = gamma * al / n,
                    .v = {[BE] = be, [INV_STEP] = n / al, [ADD] = n * be / al}};
    return BW_OK;
}

static void finish(bwi_quant *q, const double *sums)
{
    q->dtheta[0] = sums[0] / q->theta[0];
}

static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    const double be = q->k.v[BE], step = 1 / q->k.v[INV_STEP];
    return theta[0] * (step * nearbyint((x_base - be) / step) + be + factor * (x - x_base));
}

const bwi_quantizer bwi_quantizer_minmax = {
    .name = "minmax",
    .summary = "even levels between the least and the largest weight, times a learned factor",
    .cite = "Wang et al., Automatic low-bit hybrid quantization of neural networks through meta learning, 2020",
    .weight_bits = {1, 8},
    .n_params = 1,
    .param = {"gamma"},
    .real_codes = true,
    .needs_stats = true,
    .output_scale = -1,
    .init = init,
    .prepare = prepare,
    .finish = finish,
    .surrogate = surrogate,
    .loops = BWI_VARIANT_TABLE(bwi_minmax_loops),
};
#endif
