/* MetaQuant's step (Chen, Wang, Pan, NeurIPS 2019, algorithm 1): a network M with parameters phi makes the gradient of the quantized weights.
 *
 *   iteration 0   forward and backward; nothing is updated
 *   before        d = cal(W) * G, u = f(wt; phi) * d, W = W - alpha * pi(u)            G = dL/dwq and wt = A(W) of the iteration before
 *   forward, backward at W; the straight-through gradient s = dL/dW
 *   after         dL/dphi = sum s * (-alpha) * d * df/dphi, a step of Adam on phi; G, wt, and the network's state are kept
 *
 * pi is the recipe's optimizer, whose moments advance once; its part of dW/dphi is left out, as in the paper. So W is always committed
 * when nobody is inside a step, and evaluation and checkpoints see what the paper tests. Biases and batch norm take their ordinary steps.
 * Option stale_lookahead follows the released code instead: the forward point is W - alpha * pi(u) of the iteration before, and phi's
 * gradient is taken there (methods 1.7; biases do not look ahead here). */
#ifndef BWI_META_H
#define BWI_META_H
#include "quant/metanet.h"
#include "train/params.h"

/* One weight tensor whose gradient is learned. Arrays are [n] in the graph's type. */
typedef struct bwi_meta_tensor {
    int slot;     /* of params */
    bwi_quant *q; /* NULL: not quantized, A is the identity; for checks */
    size_t n;
    void *g, *d;             /* dL/dwq of the last backward; cal * g of the step under way */
    void *wt;                /* networks that see weights */
    void *state;             /* networks that have one: [n rounded up][n_state] */
    void *committed, *moved; /* stale_lookahead: W behind this step; pi(u) of the step before */
} bwi_meta_tensor;

/* An array that belongs in a checkpoint. */
typedef struct bwi_meta_array {
    char name[BWI_NAME + 24];
    bwi_dtype dtype;
    size_t n;
    void *data;
} bwi_meta_array;

typedef struct bwi_meta {
    const bwi_metanet *net;
    const double *opt; /* of the gradient method */
    double *own_opt;   /* opt, where no quantizer holds them */
    bwi_params *params;
    bwi_dtype real;
    int variant;
    size_t n_phi, n_sums;
    double *phi, *dphi, *sums; /* sums: [BWI_CHUNKS][n_sums] */
    bwi_slot slot;             /* phi, for its Adam */
    void *work;
    bwi_meta_tensor *tensor;
    int n;
} bwi_meta;

/* *out is NULL when no weight quantizer of the graph learns its gradient. Weights that do are taken out of bwi_params_step. `params` must
 * outlive it. */
BW_MUST_USE bw_status bwi_meta_create(bwi_meta **out, bwi_params *params, uint64_t seed, bw_error *err);
/* The network of `gradient` on weights that are not quantized: what central differences can check. */
BW_MUST_USE bw_status bwi_meta_create_identity(bwi_meta **out, bwi_params *params, const char *gradient, uint64_t seed,
                                               bw_error *err);
void bwi_meta_destroy(bwi_meta **m);
/* Around forward and backward of the training step at (epoch, step), counted from 0. BW_NUMERIC: a quantizer collapsed. */
BW_MUST_USE bw_status bwi_meta_before(bwi_meta *m, int64_t epoch, int64_t step, bw_error *err);
void bwi_meta_after(bwi_meta *m, int64_t epoch, int64_t step);
/* The factor that the network puts on gradients now, over all weights that it serves: its mean, least and largest value. */
void bwi_meta_factor(const bwi_meta *m, double *mean, double *min, double *max);
/* State number i for checkpoints; false past the end. */
bool bwi_meta_state(const bwi_meta *m, int i, bwi_meta_array *out);
#endif
