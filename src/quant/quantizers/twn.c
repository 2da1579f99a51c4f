/* Ternary weights. Li et al., Ternary Weight Networks, 2016; backward as in its released code.
 *   wq = a * t,  t = sign(w) where |w| > h, otherwise 0;  h = .7 mean|w|,  a = mean of the |w| above h, both of the layer and held constant
 *   dL/dw = dL/dwq */
#define Q_MODES 2
#include "quant/quantizers/loops.h"

enum { TO_U, SLOPE }; /* of bwi_qk.v: .5 / h, so that u rounds to 0 up to h; 1 / a */

BWI_INLINE real q_raw(int mode, qc k, real x)
{
    (void)mode;
    return x * k.v[TO_U];
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    (void)mode, (void)k, (void)raw;
    return 1;
}
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    (void)mode, (void)u;
    return k.v[SLOPE];
}
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)mode, (void)k, (void)u, (void)c, (void)gc, (void)gu;
    return (qsums){0, 0, 0};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_twn_loops);
const bwi_qloops BWI_V(bwi_twn_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <math.h>

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    const double h = .7 * stats->mean_abs, a = stats->mean_large;
    if (!(h > 1e-30) || !(a > 0) || !isfinite(a))
        return bwi_fail(err, BW_NUMERIC,
                        "twn: the mean absolute weight is %g, it must be finite and not 0; the learning rate may be too high",
                        stats->mean_abs);
    q->k = (bwi_qk){.lo = -1, .hi = 1, .unit = 0.5, .mul = 1, .scale = a, .v = {[TO_U] = .5 / h, [SLOPE] = 1 / a}};
    return BW_OK;
}

static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    (void)theta;
    const double h = .5 / q->k.v[TO_U];
    return q->k.scale * (x_base > h ? 1 : x_base < -h ? -1 : 0) + factor * (x - x_base);
}

const bwi_quantizer bwi_quantizer_twn = {
    .name = "twn",
    .summary = "ternary weights: -a, 0 and a by a threshold on their magnitude; nothing learned",
    .cite = "Li et al., Ternary Weight Networks, 2016",
    .weight_bits = {2, 2},
    .levels = 3,
    .large = .7,
    .needs_stats = true,
    .output_scale = -1,
    .prepare = prepare,
    .surrogate = surrogate,
    .loops = BWI_VARIANT_TABLE(bwi_twn_loops),
};
#endif
