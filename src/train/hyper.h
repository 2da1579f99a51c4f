/* MetaQuantNet: every quantized layer's weights are made from its bit-width (Wang et al., Automatic low-bit hybrid quantization of neural
 * networks through meta learning, 2020, section 3.2; methods 4.2 to 4.4). A layer has a block of its own, for q bits
 *
 *   a1 = relu(w1 q/8 + b1)    [hidden]        W     = W3 a2 + b3   as the layer's weights lie in memory
 *   a2 = relu(W2 a1 + b2)     [hidden]        gamma = w4 a2 + b4   the factor behind the quantizer
 *
 * whose parameters live in the graph (role BWI_PARAM_HYPER, "LAYER.weight_block.fc1.weight" and so on), so that checkpoints and optimizers treat
 * them as any others. Weights are made in the place that the layer's have anyway, and W3's gradient, an outer product, is never stored:
 * beside the blocks themselves nothing grows. */
#ifndef BWI_HYPER_H
#define BWI_HYPER_H
#include "train/params.h"

#define BWI_HYPER_HIDDEN 1024 /* most hidden units */

/* BW_ARG when a recipe's hypernet keys and its quantizers do not go together. */
BW_MUST_USE bw_status bwi_hyper_check(const bw_recipe *r, bw_error *err);
/* Gives every layer of g whose weights are quantized a block; its parameters are 0. */
BW_MUST_USE bw_status bwi_hyper_attach(bwi_graph *g, int hidden, bw_error *err);
/* U(+-1/sqrt(inputs)) as PyTorch initialises linear layers, gamma near 1: w4 U(+-.01), b4 = 1; keyed by seed and name. */
void bwi_hyper_init(bwi_graph *g, uint64_t seed);
/* For a start from a trained network: b3 and b4 are the layer's weights and gamma, W3 and w4 are 0, so that every bit-width begins with
 * those. The rest stays. */
void bwi_hyper_adopt(bwi_graph *g);

/* The blocks of a graph. */
typedef struct bwi_hyper bwi_hyper;
/* *out is NULL when g has no blocks. g must outlive it. The bits that its quantizers have now are its own. */
BW_MUST_USE bw_status bwi_hyper_create(bwi_hyper **out, bwi_graph *g, bw_error *err);
void bwi_hyper_destroy(bwi_hyper **h);
/* Layers with a block, in the order of the graph. */
int bwi_hyper_layers(const bwi_hyper *h);
/* Makes all weights at bits [layers] (NULL: its own) in `to`: its graph, or one that is equal but for the blocks. Thread-safe for different `to`. */
void bwi_hyper_make(const bwi_hyper *h, const uint8_t *bits, bwi_graph *to);

/* Training. Afterwards params leaves all that blocks make or hold to the two functions below; params must outlive h. Every step draws each
 * layer's bits from r's hypernet.min_bits to max_bits, keyed by seed and step, or takes its own, as layers always do whose bits the policy
 * fixes (bwi_node.fixed). */
BW_MUST_USE bw_status bwi_hyper_train(bwi_hyper *h, bwi_params *params, const bw_recipe *r, bw_error *err);
/* Before forward: draws and makes. */
void bwi_hyper_before(bwi_hyper *h, int64_t epoch, int64_t step);
/* Behind backward: takes dL/dW and dL/dgamma through the blocks, one step of the optimizer on their parameters. */
void bwi_hyper_after(bwi_hyper *h, int64_t epoch, int64_t step);
#endif
