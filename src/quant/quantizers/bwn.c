/* Binary weights with one scale a layer. Rastegari et al., XNOR-Net, ECCV 2016; per layer and with the scale held constant, as MetaQuant
 * uses it (Chen et al., NeurIPS 2019).
 *   wq = a * sign(w), a = mean|w|, sign(0) = +1
 *   dL/dw = a * dL/dwq where |w| <= 1 */
#define Q_MODES 2
#include "quant/quantizers/loops.h"

BWI_INLINE real q_raw(int mode, qc k, real x)
{
    (void)mode, (void)k;
    return x;
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    (void)mode;
    return (raw >= k.lo) & (raw <= k.hi);
}
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    (void)mode, (void)k, (void)u;
    return 1;
}
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)mode, (void)k, (void)u, (void)c, (void)gc, (void)gu;
    return (qsums){0, 0, 0};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_bwn_loops);
const bwi_qloops BWI_V(bwi_bwn_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <math.h>

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    double a = stats->mean_abs;
    if (!(a > 1e-30))
        return bwi_fail(err, BW_NUMERIC,
                        "bwn: the mean absolute weight is %g, it must be finite and not 0; the learning rate may be too high",
                        a);
    q->k = (bwi_qk){.lo = -1, .hi = 1, .unit = 0.5, .mul = 1, .scale = a, .direct = true, .mode = BWI_QMODE_SIGN};
    return BW_OK;
}

static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    (void)theta;
    double u0 = fmin(fmax(x_base, -1), 1);
    return q->k.scale * ((x_base >= 0 ? 1 : -1) + factor * (fmin(fmax(x, -1), 1) - u0));
}

const bwi_quantizer bwi_quantizer_bwn = {
    .name = "bwn",
    .summary = "binary weights times their mean magnitude; nothing learned",
    .cite = "Rastegari et al., XNOR-Net, ECCV 2016",
    .weight_bits = {1, 1},
    .idempotent = {[BWI_WEIGHT] = true},
    .needs_stats = true,
    .output_scale = -1,
    .prepare = prepare,
    .surrogate = surrogate,
    .loops = BWI_VARIANT_TABLE(bwi_bwn_loops),
};
#endif
