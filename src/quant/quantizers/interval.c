/* A uniform quantizer on a learned interval [l, u], as EWGS trains it. Lee, Kim, Ham, Network Quantization with Element-wise Gradient
 * Scaling, CVPR 2021, and its code.
 *   z = clip((x - l) / (u - l), 0, 1), q = round(n z) / n with n = 2^b - 1                                    (eq. 1, 2)
 *   weights |alpha| * (2 q - 1), activations q: the output of a convolution is |alpha| * conv(q_A, 2 q_W - 1)
 *   dL/dx = dL/dz / (u - l), dL/du = sum -dL/dz (x - l) / (u - l)^2, dL/dl = sum dL/dz (x - u) / (u - l)^2, all where
 *   0 <= (x - l) / (u - l) <= 1. The bounds belong to it: after a ReLU many x sit exactly at l.
 *   dL/dalpha = sgn(alpha) * sum dL/dxq * (2 q - 1)
 * The grid holds n z. 1-bit weights are the sign of 2 z - 1, so that its 0 is +1. An activation's value lives in [0, 1], not where x does. */
#define Q_MODES 2
#include "quant/quantizers/loops.h"

enum { L, SLOPE, ADD_BY_MUL }; /* of bwi_qk.v: l, (hi - lo) / (u - l), add / mul */

BWI_INLINE real q_raw(int mode, qc k, real x)
{
    (void)mode;
    return (x - k.v[L]) * k.v[SLOPE] + k.lo;
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    (void)mode;
    return (raw >= k.lo) & (raw <= k.hi);
}
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    (void)mode, (void)u;
    return k.v[SLOPE];
}
/* With u on the grid: (u - l) dL/dl, -(u - l) dL/du, |alpha| dL/d|alpha|. */
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)mode;
    return (qsums){gu * (u - k.hi), gu * (u - k.lo), gc * (c + k.v[ADD_BY_MUL])};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_interval_loops);
const bwi_qloops BWI_V(bwi_interval_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <math.h>

enum { LOWER, UPPER, ALPHA }; /* of theta */

static void init(bwi_quant *q, const bwi_qstats *stats)
{
    double half_normal = 1 - 2 / 3.14159265358979323846; /* variance of |x| for a standard normal x */
    if (q->role == BWI_WEIGHT) {
        q->theta[UPPER] = 3 * stats->std;
        q->theta[LOWER] = -q->theta[UPPER];
        q->theta[ALPHA] = 1;
    } else {
        q->theta[UPPER] = 3 * stats->std / sqrt(half_normal);
        q->theta[LOWER] = stats->min;
    }
}

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    (void)stats;
    const bool weight = q->role == BWI_WEIGHT;
    const double l = q->theta[LOWER], u = q->theta[UPPER], alpha = fabs(q->theta[ALPHA]), n = ldexp(1, q->bits) - 1;
    /* float loops need l, and the reciprocal of the width, to be finite in float too */
    if (!(u - l > 1e-30 && u - l < 1e30 && fabs(l) < 1e30))
        return bwi_fail(
            err, BW_NUMERIC,
            "interval: the interval [%g, %g] of %s is empty or not finite; all values may have been equal when it was "
            "set, or the learning rate of quantizers is too high",
            l, u, weight ? "the weights" : "the activations");
    if (weight && !(alpha > 1e-30 && alpha < 1e30))
        return bwi_fail(err, BW_NUMERIC,
                        "interval: the scale alpha of the weights is %g, it must be finite and not 0; the learning rate of "
                        "quantizers may be too high",
                        q->theta[ALPHA]);
    if (weight && q->bits == 1)
        q->k = (bwi_qk){.lo = -1, .hi = 1, .mul = 1, .scale = alpha, .mode = BWI_QMODE_SIGN};
    else if (weight)
        q->k = (bwi_qk){.hi = n, .mul = 2, .add = -n, .scale = alpha / n};
    else
        q->k = (bwi_qk){.hi = n, .mul = 1, .scale = 1 / n};
    q->k.unit = 1 / (q->k.hi - q->k.lo);
    q->k.v[L] = l;
    q->k.v[SLOPE] = (q->k.hi - q->k.lo) / (u - l);
    q->k.v[ADD_BY_MUL] = q->k.add / q->k.mul;
    return BW_OK;
}

static void finish(bwi_quant *q, const double *sums)
{
    double width = q->theta[UPPER] - q->theta[LOWER];
    q->dtheta[LOWER] = sums[0] / width;
    q->dtheta[UPPER] = -sums[1] / width;
    if (q->role == BWI_WEIGHT) q->dtheta[ALPHA] = sums[2] / q->theta[ALPHA]; /* sgn(alpha) / |alpha| */
}

static double latent(double x, double l, double u)
{
    return fmin(fmax((x - l) / (u - l), 0), 1);
}
static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    double n = ldexp(1, q->bits) - 1, z0 = latent(x_base, q->theta[LOWER], q->theta[UPPER]);
    double q0 = nearbyint(n * z0) / n;
    if (q->role == BWI_WEIGHT && q->bits == 1) q0 = z0 >= 0.5;
    double qs = q0 + factor * (latent(x, theta[LOWER], theta[UPPER]) - z0);
    return q->role == BWI_WEIGHT ? fabs(theta[ALPHA]) * (2 * qs - 1) : qs;
}

static void affine(const bwi_quant *q, float map[3])
{
    map[0] = (float)q->k.v[L], map[1] = (float)q->k.v[SLOPE], map[2] = (float)q->k.lo;
}

const bwi_quantizer bwi_quantizer_interval = {
    .name = "interval",
    .summary = "learned interval and output scale, uniform levels (the quantizer of EWGS)",
    .cite = "Lee et al., Network Quantization with Element-wise Gradient Scaling, CVPR 2021",
    .weight_bits = {1, 8},
    .activation_bits = {1, 8},
    .signed_activations = true,
    .n_params = 3,
    .param = {"l", "u", "alpha"},
    .output_scale = ALPHA,
    .init = init,
    .prepare = prepare,
    .finish = finish,
    .surrogate = surrogate,
    .affine = affine,
    .loops = BWI_VARIANT_TABLE(bwi_interval_loops),
};
#endif
