/* PACT: a learned clipping value for activations. Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018.
 *   y = clip(x, 0, a), xq = round(y * n / a) * a / n with n = 2^b - 1
 *   dL/dx = dL/dxq where 0 <= x < a, else 0;  dL/da = sum of dL/dxq over x >= a
 * One a per layer, started at 10, decayed like a weight (optim.quant_weight_decay). The rounding residual counts as a constant in real
 * units, so inside the range a gets no gradient: that is where LSQ differs. The paper's weights are DoReFa's. */
#define Q_MODES 2
#include "quant/quantizers/loops.h"

enum { INV_STEP }; /* of bwi_qk.v: n / a */

BWI_INLINE real q_raw(int mode, qc k, real x)
{
    (void)mode;
    return x * k.v[INV_STEP];
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    (void)mode;
    return (raw >= k.lo) & (raw < k.hi);
}
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    (void)mode, (void)u;
    return k.v[INV_STEP];
}
/* dL/dc of what is at the upper bound; finish turns it into dL/dxq. */
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)mode, (void)c, (void)gu;
    return (qsums){u >= k.hi ? gc : 0, 0, 0};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_pact_loops);
const bwi_qloops BWI_V(bwi_pact_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <math.h>

static void init(bwi_quant *q, const bwi_qstats *stats)
{
    (void)stats;
    q->theta[0] = q->opt[0];
}

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    (void)stats;
    const double n = ldexp(1, q->bits) - 1, a = q->theta[0];
    if (!(a > 1e-30 && a < 1e30))
        return bwi_fail(
            err, BW_NUMERIC,
            "pact: the clipping value of the activations is %g, it must be positive and finite; the learning rate or the "
            "weight decay of quantizers may be too high",
            a);
    q->k = (bwi_qk){.hi = n, .unit = 1 / n, .mul = 1, .scale = a / n, .v = {[INV_STEP] = n / a}};
    return BW_OK;
}

static void finish(bwi_quant *q, const double *sums)
{
    q->dtheta[0] = sums[0] / q->k.scale;
}

/* Decay must not push the range through zero. */
static bool constrain(bwi_quant *q)
{
    double floor = 1e-5 * q->theta0[0];
    if (!(q->theta[0] < floor)) return false; /* NaN stays, for prepare to report */
    q->theta[0] = floor;
    return true;
}

static double clip(double x, double a)
{
    return fmin(fmax(x, 0), a);
}
static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    const double n = ldexp(1, q->bits) - 1, a0 = q->theta[0], y0 = clip(x_base, a0), q0 = nearbyint(y0 * n / a0) * a0 / n;
    return q0 + factor * (clip(x, a0) - y0) + (x_base >= a0 ? theta[0] - a0 : 0);
}

static void affine(const bwi_quant *q, float map[3])
{
    map[0] = 0, map[1] = (float)q->k.v[INV_STEP], map[2] = 0;
}

const bwi_quantizer bwi_quantizer_pact = {
    .name = "pact",
    .summary = "activations clipped at a learned value, uniform levels",
    .cite = "Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018",
    .activation_bits = {1, 8},
    .idempotent = {true, true},
    .n_params = 1,
    .param = {"a"},
    .option = {{.key = "start", .doc = "clipping value at the start", .def = 10, .min = 0.01, .max = 1000}},
    .output_scale = -1,
    .init = init,
    .prepare = prepare,
    .finish = finish,
    .constrain = constrain,
    .surrogate = surrogate,
    .affine = affine,
    .loops = BWI_VARIANT_TABLE(bwi_pact_loops),
};
#endif
