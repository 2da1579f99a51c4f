/* Networks that learn the gradient through a quantizer. Chen, Wang, Pan, MetaQuant: Learning to Quantize by Learning to Penetrate
 * Non-differentiable Quantization, NeurIPS 2019.
 *
 * One small network with parameters phi serves all layers. It sees one weight at a time and scales its gradient:
 *   m = f(wt; phi) * dL/dwq,    wt = A(w) (bwi_qloops.calibrate)
 * A linear network is collapsed into one number a step, exactly: f = c (FCGrad) or c * wt (MultiFC), c the product of its matrices. An LSTM
 * without a state is collapsed into few Chebyshev coefficients, up to rounding (gradients/lstmfc.c). The
 * step that uses m, and phi's own, are in train/meta.c. A network is a row of gradients.def whose descriptor points here. */
#ifndef BWI_METANET_H
#define BWI_METANET_H
#include "base/rng.h"
#include "quant/quant.h"

/* Options that every network's row begins with, in this order. */
enum { BWI_META_LR, BWI_META_NO_DECAY, BWI_META_EQ8, BWI_META_STALE, BWI_META_OWN };
#define BWI_META_OPTIONS                                                                                                       \
    {.key = "lr", .doc = "learning rate of the network's Adam", .def = 1e-3, .min = 0, .max = 1},                              \
        {.key = "no_decay", .doc = "1: keep it while the weights' rate falls (the released code)", .max = 1, .integer = true}, \
        {.key = "eq8",                                                                                                         \
         .doc = "1: the network's own gradient, not STE, reaches it (the paper's eq. 8)",                                      \
         .max = 1,                                                                                                             \
         .integer = true},                                                                                                     \
    {                                                                                                                          \
        .key = "stale_lookahead",                                                                                              \
        .doc = "1: forward with the step of the iteration before (the released code, and the published FCGrad runs)",          \
        .max = 1, .integer = true                                                                                              \
    }

/* Loops of a network in one variant. wt, f, a [n] real. work: what prepare made. state: of these n coordinates, or NULL. */
typedef struct bwi_metanet_fns {
    /* work [n_work] real from phi; once a step */
    void (*prepare)(const double *opt, const double *phi, void *work);
    void (*forward)(const double *opt, const void *work, const void *wt, const void *state, size_t n, void *f);
    /* sums [n_sums] += what dL/dphi is made of, where a = dL/df; then the state moves on to the next step. */
    void (*backward)(const double *opt, const void *work, const void *wt, const void *a, size_t n, void *state, double *sums);
} bwi_metanet_fns;

typedef struct bwi_metanet {
    bool sees_weight; /* f depends on wt */
    size_t (*n_phi)(const double *opt);
    size_t (*n_work)(const double *opt);
    size_t (*n_sums)(const double *opt);
    size_t (*n_state)(const double *opt); /* values kept a coordinate; NULL: none */
    void (*init)(const double *opt, bwi_rng *r, double *phi);
    /* dphi [n_phi] from sums */
    void (*finish)(const double *opt, const double *phi, const double *sums, double *dphi);
    const bwi_metanet_fns *fns[BWI_VARIANTS];
} bwi_metanet;

/* Chunks of coordinates begin at multiples of this, and so do their states; the last one is padded. */
#define BWI_META_LANES 32

#ifdef BWI_VARIANT
#include <string.h>
/* n <= BWI_META_LANES values, zeros behind them. */
static inline void bwi_load_lanes(real *lanes, const real *from, size_t n)
{
    memset(lanes, 0, BWI_META_LANES * sizeof *lanes);
    memcpy(lanes, from, n * sizeof *lanes);
}
static inline double bwi_dot_lanes(const real *restrict a, const real *restrict b)
{
    real s = 0;
#pragma omp simd reduction(+ : s)
    for (size_t l = 0; l < BWI_META_LANES; l++) s += a[l] * b[l];
    return (double)s;
}
#endif

/* Stacks of fully connected layers without bias, 1 -> width -> .. -> width -> 1: FCGrad and MultiFC (metanet.c). */
#define BWI_META_LAYERS 6   /* most */
#define BWI_META_WIDTH  256 /* most */
enum { BWI_FC_LAYERS = BWI_META_OWN, BWI_FC_WIDTH, BWI_FC_START, BWI_FC_NONLINEARITY };
enum { BWI_FC_LINEAR, BWI_FC_RELU, BWI_FC_TANH };
extern const bwi_metanet bwi_metanet_fcgrad, bwi_metanet_multifc;

/* Of lstmfc.c, whose numbers of phi [n_phi] and layout of sums [n_sums] these are; in double for all variants: sums += dL/dphi from those of
 * sums that belong to its Chebyshev polynomials. */
void bwi_lstmfc_nodes_backward(const double *phi, double *sums);
#endif
