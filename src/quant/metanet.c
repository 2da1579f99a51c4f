/* Stacks of fully connected layers without bias, for FCGrad and MultiFC; see metanet.h.
 *
 * phi: w_1 [width], W_2 .. W_{L-1} [width,width] row by row, w_L [width]; one layer is a single number. Linear: c = w_L W_{L-1} .. W_2 w_1,
 * and with S = dL/dc the gradients are S times the outer products of what stands left and right of a matrix (methods 1.4). With a
 * nonlinearity the stack runs for each coordinate. */
#include "quant/metanet.h"
#include "quant/tanh.h"
#include <string.h>

enum { LANES = BWI_META_LANES };

static inline size_t layers_of(const double *opt)
{
    return (size_t)opt[BWI_FC_LAYERS];
}
static inline size_t width_of(const double *opt)
{
    return (size_t)opt[BWI_FC_WIDTH];
}
static inline bool is_linear(const double *opt)
{
    return opt[BWI_FC_NONLINEARITY] == BWI_FC_LINEAR;
}
static size_t n_phi_of(const double *opt)
{
    const size_t layers = layers_of(opt), width = width_of(opt);
    return layers == 1 ? 1 : 2 * width + (layers - 2) * width * width;
}

/* ---- Linear: one number ---------------------------------------------------------------------------------------------------- */

/* right[j] = W_{j+1} .. W_2 w_1 [width] for j = 0 .. layers - 2; returns c. */
static double collapse(const double *opt, const double *phi, double right[BWI_META_LAYERS][BWI_META_WIDTH])
{
    const size_t layers = layers_of(opt), width = width_of(opt);
    const double *w = phi + width;
    double c = 0;
    if (layers == 1) return phi[0];
    memcpy(right[0], phi, width * sizeof *phi);
    for (size_t j = 1; j + 1 < layers; j++, w += width * width)
        for (size_t r = 0; r < width; r++) {
            right[j][r] = 0;
            for (size_t k = 0; k < width; k++) right[j][r] += w[r * width + k] * right[j - 1][k];
        }
    for (size_t k = 0; k < width; k++) c += w[k] * right[layers - 2][k];
    return c;
}

static void fcgrad_forward(const double *opt, const void *work, const void *wt, const void *state, size_t n, void *f)
{
    (void)opt, (void)wt, (void)state;
    const real c = *(const real *)work;
    for (size_t i = 0; i < n; i++) ((real *)f)[i] = c;
}

static void fcgrad_backward(const double *opt, const void *work, const void *wt, const void *a, size_t n, void *state,
                            double *sums)
{
    (void)opt, (void)work, (void)wt, (void)state;
    const real *g = a;
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (size_t i = 0; i < n; i++) s += (double)g[i];
    sums[0] += s;
}

static void linear_prepare(const double *opt, const double *phi, void *work)
{
    double right[BWI_META_LAYERS][BWI_META_WIDTH];
    *(real *)work = (real)collapse(opt, phi, right);
}

/* ---- A network for each coordinate ----------------------------------------------------------------------------------------- */

/* Values of LANES coordinates behind a layer. */
typedef real tile[BWI_META_WIDTH][LANES];

static inline real activate(bool relu, real v)
{
    return relu ? (v > 0 ? v : 0) : q_tanh(v);
}
/* Its derivative, from its value. */
static inline real activate_slope(bool relu, real y)
{
    return relu ? (y > 0 ? R(1.0) : 0) : 1 - y * y;
}

/* h[j], behind layer j + 1 and its nonlinearity, for j = 0 .. layers - 2; out [LANES] the network's result. */
static void stack_forward(const double *opt, const real *w, const real *x, tile *h, real *out)
{
    const size_t layers = layers_of(opt), width = width_of(opt);
    const bool relu = opt[BWI_FC_NONLINEARITY] == BWI_FC_RELU;
    for (size_t r = 0; r < width; r++)
        for (size_t l = 0; l < LANES; l++) h[0][r][l] = activate(relu, w[r] * x[l]);
    w += width;
    for (size_t j = 1; j + 1 < layers; j++, w += width * width)
        for (size_t r = 0; r < width; r++) {
            real sum[LANES] = {0};
            for (size_t k = 0; k < width; k++)
                for (size_t l = 0; l < LANES; l++) sum[l] += w[r * width + k] * h[j - 1][k][l];
            for (size_t l = 0; l < LANES; l++) h[j][r][l] = activate(relu, sum[l]);
        }
    memset(out, 0, LANES * sizeof *out);
    for (size_t k = 0; k < width; k++)
        for (size_t l = 0; l < LANES; l++) out[l] += w[k] * h[layers - 2][k][l];
}

/* sums [n_phi] += dL/dphi for a = dL/dout [LANES]; h as stack_forward left it. */
static void stack_backward(const double *opt, const real *phi, const real *x, const real *a, tile *h, double *sums)
{
    const size_t layers = layers_of(opt), width = width_of(opt);
    const bool relu = opt[BWI_FC_NONLINEARITY] == BWI_FC_RELU;
    size_t at = n_phi_of(opt) - width;
    tile g, below;
    for (size_t k = 0; k < width; k++) {
        sums[at + k] += bwi_dot_lanes(a, h[layers - 2][k]);
        for (size_t l = 0; l < LANES; l++) g[k][l] = phi[at + k] * a[l] * activate_slope(relu, h[layers - 2][k][l]);
    }
    for (size_t j = layers - 2; j > 0; j--) {
        at -= width * width;
        memset(below, 0, width * sizeof *below);
        for (size_t r = 0; r < width; r++)
            for (size_t k = 0; k < width; k++) {
                sums[at + r * width + k] += bwi_dot_lanes(g[r], h[j - 1][k]);
                for (size_t l = 0; l < LANES; l++) below[k][l] += phi[at + r * width + k] * g[r][l];
            }
        for (size_t k = 0; k < width; k++)
            for (size_t l = 0; l < LANES; l++) g[k][l] = below[k][l] * activate_slope(relu, h[j - 1][k][l]);
    }
    for (size_t r = 0; r < width; r++) sums[r] += bwi_dot_lanes(g[r], x);
}

/* ---- MultiFC ----------------------------------------------------------------------------------------------------------------- */

static void multifc_prepare(const double *opt, const double *phi, void *work)
{
    if (is_linear(opt)) {
        linear_prepare(opt, phi, work);
        return;
    }
    for (size_t i = 0; i < n_phi_of(opt); i++) ((real *)work)[i] = (real)phi[i];
}

static void multifc_forward(const double *opt, const void *work, const void *wt, const void *state, size_t n, void *f)
{
    (void)state;
    const real *w = work, *x = wt;
    real *out = f;
    if (is_linear(opt)) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) out[i] = w[0] * x[i];
        return;
    }
    for (size_t at = 0; at < n; at += LANES) {
        const size_t m = n - at < LANES ? n - at : LANES;
        tile h[BWI_META_LAYERS - 1];
        real lanes[LANES], result[LANES];
        bwi_load_lanes(lanes, x + at, m);
        stack_forward(opt, w, lanes, h, result);
        memcpy(out + at, result, m * sizeof *out);
    }
}

static void multifc_backward(const double *opt, const void *work, const void *wt, const void *a, size_t n, void *state,
                             double *sums)
{
    (void)state;
    const real *w = work, *x = wt, *g = a;
    if (is_linear(opt)) {
        double s = 0;
#pragma omp simd reduction(+ : s)
        for (size_t i = 0; i < n; i++) s += (double)g[i] * (double)x[i];
        sums[0] += s;
        return;
    }
    for (size_t at = 0; at < n; at += LANES) {
        const size_t m = n - at < LANES ? n - at : LANES;
        tile h[BWI_META_LAYERS - 1];
        real lanes[LANES], result[LANES], grad[LANES];
        bwi_load_lanes(lanes, x + at, m);
        bwi_load_lanes(grad, g + at, m);
        stack_forward(opt, w, lanes, h, result);
        stack_backward(opt, w, lanes, grad, h, sums);
    }
}

BWI_VARIANT_DECLARE(bwi_metanet_fns, bwi_fcgrad_fns);
const bwi_metanet_fns BWI_V(bwi_fcgrad_fns) = {linear_prepare, fcgrad_forward, fcgrad_backward};
BWI_VARIANT_DECLARE(bwi_metanet_fns, bwi_multifc_fns);
const bwi_metanet_fns BWI_V(bwi_multifc_fns) = {multifc_prepare, multifc_forward, multifc_backward};

#if BWI_MAIN
static size_t one(const double *opt)
{
    (void)opt;
    return 1;
}
static size_t n_sums(const double *opt)
{
    return is_linear(opt) ? 1 : n_phi_of(opt);
}

/* PyTorch's default, uniform within 1 / sqrt(fan in); or symmetric: every layer but the last 1 / width, the last 1, so that c = 1. The
 * published FCGrad runs began like that (methods 1.3). */
static void init(const double *opt, bwi_rng *r, double *phi)
{
    const size_t n = n_phi_of(opt), width = width_of(opt), layers = layers_of(opt);
    for (size_t i = 0; i < n; i++) {
        const size_t first = layers > 1 ? width : 1, last = n - first;
        const double bound = i < first ? 1 : 1 / sqrt((double)width), draw = bound * (2 * bwi_rng_uniform(r) - 1);
        phi[i] = opt[BWI_FC_START] ? draw : i >= last ? 1 : 1 / (double)width;
    }
}

static void finish(const double *opt, const double *phi, const double *sums, double *dphi)
{
    const size_t n = n_phi_of(opt), width = width_of(opt), layers = layers_of(opt);
    double right[BWI_META_LAYERS][BWI_META_WIDTH], left[BWI_META_WIDTH], next[BWI_META_WIDTH];
    const double s = sums[0];
    if (!is_linear(opt) || layers == 1) {
        memcpy(dphi, sums, n * sizeof *dphi);
        return;
    }
    collapse(opt, phi, right);
    size_t at = n - width;
    for (size_t k = 0; k < width; k++) {
        left[k] = phi[at + k];
        dphi[at + k] = s * right[layers - 2][k];
    }
    for (size_t j = layers - 2; j > 0; j--) {
        at -= width * width;
        memset(next, 0, sizeof next);
        for (size_t r = 0; r < width; r++)
            for (size_t k = 0; k < width; k++) {
                dphi[at + r * width + k] = s * left[r] * right[j - 1][k];
                next[k] += left[r] * phi[at + r * width + k];
            }
        memcpy(left, next, sizeof left);
    }
    for (size_t k = 0; k < width; k++) dphi[k] = s * left[k];
}

const bwi_metanet bwi_metanet_fcgrad = {
    .n_phi = n_phi_of,
    .n_work = one,
    .n_sums = n_sums,
    .init = init,
    .finish = finish,
    .fns = BWI_VARIANT_TABLE(bwi_fcgrad_fns),
};
const bwi_metanet bwi_metanet_multifc = {
    .sees_weight = true,
    .n_phi = n_phi_of,
    .n_work = n_phi_of,
    .n_sums = n_sums,
    .init = init,
    .finish = finish,
    .fns = BWI_VARIANT_TABLE(bwi_multifc_fns),
};
#endif
