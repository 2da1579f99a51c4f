/* LSQ: a learned step size. Esser et al., Learned Step Size Quantization, ICLR 2020.
 *   u = clip(x / s, -Qn, Qp), c = round(u), xq = s * c                                                       (eq. 1, 2)
 *   dL/dx = dL/dxq where -Qn < x/s < Qp, else 0                                                              (eq. 5)
 *   dL/ds = gs * sum dL/dxq * (c - x/s inside, c outside), gs = 1 / sqrt(N * Qp)                              (eq. 3, section 2.2)
 * Unsigned activations: Qn = 0, Qp = 2^b - 1. Weights and signed activations: Qn = 2^(b-1), Qp = 2^(b-1) - 1. N is the number of
 * weights, or of features of one image: the gradient of a mean loss over the batch already shrinks with the batch.
 * One bit with a sign has Qp = 0, which the paper does not cover: levels -s and +s, s0 = mean|x|, Qp := 1 in gs,
 * dL/ds = gs * sum dL/dxq * sign(x), dL/dx = dL/dxq where |x| <= s. */
#define Q_MODES 2
#include "quant/quantizers/loops.h"

enum { INV_STEP }; /* of bwi_qk.v */

/* x * (1/s): with a division codes take twice as long. Training and evaluation both come through here, so they agree. */
BWI_INLINE real q_raw(int mode, qc k, real x)
{
    (void)mode;
    return x * k.v[INV_STEP];
}
BWI_INLINE int q_inside(int mode, qc k, real raw)
{
    return mode & BWI_QMODE_SIGN ? (raw >= k.lo) & (raw <= k.hi) : (raw > k.lo) & (raw < k.hi);
}
BWI_INLINE real q_slope(int mode, qc k, real u)
{
    (void)mode, (void)u;
    return k.v[INV_STEP];
}
/* s * dL/ds is gc * c, through the scale of xq, minus gu * u, through the latent. The latent of a sign does not see s. */
BWI_INLINE qsums q_terms(int mode, qc k, real u, real c, real gc, real gu)
{
    (void)k;
    return (qsums){mode & BWI_QMODE_SIGN ? gc * c : gc * c - gu * u, 0, 0};
}

BWI_VARIANT_DECLARE(bwi_qloops, bwi_lsq_loops);
const bwi_qloops BWI_V(bwi_lsq_loops) = BWI_QLOOPS;

#if BWI_MAIN
#include <assert.h>
#include <math.h>

static bool is_sign(const bwi_quant *q)
{
    return q->bits == 1 && (q->role == BWI_WEIGHT || q->is_signed);
}
static double level_min(const bwi_quant *q) /* -Qn */
{
    if (is_sign(q)) return -1;
    return q->role == BWI_WEIGHT || q->is_signed ? -ldexp(1, q->bits - 1) : 0;
}
static double level_max(const bwi_quant *q) /* Qp */
{
    if (is_sign(q)) return 1;
    return ldexp(1, q->role == BWI_WEIGHT || q->is_signed ? q->bits - 1 : q->bits) - 1;
}
/* gs */
static double gradient_scale(const bwi_quant *q)
{
    double n = q->features;
    if (q->role == BWI_ACTIVATION && q->opt[0] != 0) n *= q->batch;
    assert(n > 0);
    return 1 / sqrt(n * level_max(q));
}

static void init(bwi_quant *q, const bwi_qstats *stats)
{
    q->theta[0] = is_sign(q) ? stats->mean_abs : 2 * stats->mean_abs / sqrt(level_max(q));
}

static bw_status prepare(bwi_quant *q, const bwi_qstats *stats, bw_error *err)
{
    (void)stats;
    double s = q->theta[0];
    /* float loops need the reciprocal to be finite in float too */
    if (!(s > 1e-30 && s < 1e30))
        return bwi_fail(err, BW_NUMERIC,
                        "lsq: the step size of %s is %g, it must be positive and finite; "
                        "all values may have been 0 when it was set, or the learning rate is too high",
                        q->role == BWI_WEIGHT ? "the weights" : "the activations", s);
    q->k = (bwi_qk){.lo = level_min(q), .hi = level_max(q), .mul = 1, .scale = s, .v = {[INV_STEP] = 1 / s}};
    q->k.unit = 1 / (q->k.hi - q->k.lo);
    q->k.mode = is_sign(q) ? BWI_QMODE_SIGN : 0;
    return BW_OK;
}

static void finish(bwi_quant *q, const double *sums)
{
    q->dtheta[0] = gradient_scale(q) * sums[0] / q->theta[0];
}

/* A step size that is not positive has no meaning, and the gradient can push it there. */
static bool constrain(bwi_quant *q)
{
    double floor = 1e-5 * q->theta0[0];
    if (!(q->theta[0] < floor)) return false; /* NaN stays, for prepare to report */
    q->theta[0] = floor;
    return true;
}

static double latent(const bwi_quant *q, double x, double s)
{
    return fmin(fmax(x / s, level_min(q)), level_max(q));
}
static double surrogate(const bwi_quant *q, double x, double x_base, const double *theta, double factor)
{
    double s0 = q->theta[0], s = s0 + gradient_scale(q) * (theta[0] - s0);
    double u0 = latent(q, x_base, s0), c0 = is_sign(q) ? (x_base >= 0 ? 1 : -1) : nearbyint(u0);
    return s * (c0 + factor * (latent(q, x, is_sign(q) ? s0 : s) - u0));
}

static void affine(const bwi_quant *q, float map[3])
{
    map[0] = 0, map[1] = (float)q->k.v[INV_STEP], map[2] = 0;
}

const bwi_quantizer bwi_quantizer_lsq = {
    .name = "lsq",
    .summary = "learned step size, uniform levels",
    .cite = "Esser et al., Learned Step Size Quantization, ICLR 2020",
    .weight_bits = {1, 8},
    .activation_bits = {1, 8},
    .signed_activations = true,
    .idempotent = {true, true},
    .n_params = 1,
    .param = {"step"},
    .option =
        {{.key = "nf_with_batch",
          .doc = "1: the gradient scale of activation steps counts the batch as features too, as public re-implementations do",
          .def = 0,
          .min = 0,
          .max = 1,
          .integer = true}},
    .output_scale = -1,
    .init = init,
    .prepare = prepare,
    .finish = finish,
    .constrain = constrain,
    .surrogate = surrogate,
    .affine = affine,
    .loops = BWI_VARIANT_TABLE(bwi_lsq_loops),
};
#endif
