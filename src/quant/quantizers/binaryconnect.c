/* Binary weights. Courbariaux et al., BinaryConnect: Training Deep Neural Networks with binary weights during propagations, NeurIPS 2015.
 *   wq = s * sign(w), sign(0) = +1
 *   dL/dw = s * dL/dwq; the optimizer keeps w in [-1, 1];  dL/ds = sum dL/dwq * sign(w)
 * One factor s a layer, 1 at the start, is learned, as in the binary rows of Wang et al. 2020; with a rate of 0 for quantizer parameters this is
 * BinaryConnect itself. */
#define Q_MODES 2
#include "quant/quantizers/loops.h"

BWI_INLINE real q_raw(int mode, qc k, real x)
{
    (void)mode, (void)k;
    return x;
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    (void)mode, (void)k, (void)raw;
    return 1;
}
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    (void)mode, (void)k, (void)u;
    return 1;
}
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)mode, (void)k, (void)u, (void)gu;
    return (qsums){gc * c, 0, 0};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_binaryconnect_loops);
const bwi_qloops BWI_V(bwi_binaryconnect_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <math.h>

static void init(bwi_quant *q, const bwi_qstats *stats)
{
    (void)stats;
    q->theta[0] = 1;
}

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    const double s = q->theta[0];
    if (!(stats->mean_abs > 1e-30) || !(fabs(s) > 1e-30) || !isfinite(s))
        return bwi_fail(err, BW_NUMERIC,
                        "binaryconnect: the mean absolute weight is %g and the scale %g; both must be finite and not 0; "
                        "the learning rate may be too high",
                        stats->mean_abs, s);
    q->k = (bwi_qk){.lo = -1, .hi = 1, .unit = 0.5, .mul = 1, .scale = s, .mode = BWI_QMODE_SIGN};
    return BW_OK;
}

static void finish(bwi_quant *q, const double *sums)
{
    q->dtheta[0] = sums[0] / q->theta[0];
}

static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    (void)q;
    return theta[0] * ((x_base >= 0 ? 1 : -1) + factor * (x - x_base));
}

const bwi_quantizer bwi_quantizer_binaryconnect = {
    .name = "binaryconnect",
    .summary = "the sign of weights that are kept in [-1, 1], times a learned factor",
    .cite = "Courbariaux et al., BinaryConnect: Training Deep Neural Networks with binary weights during propagations, NeurIPS "
            "2015",
    .weight_bits = {1, 1},
    .n_params = 1,
    .param = {"scale"},
    .weight_bound = 1,
    .needs_stats = true,
    .output_scale = -1,
    .init = init,
    .prepare = prepare,
    .finish = finish,
    .surrogate = surrogate,
    .loops = BWI_VARIANT_TABLE(bwi_binaryconnect_loops),
};
#endif
