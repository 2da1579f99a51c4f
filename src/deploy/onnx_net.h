/* Packed networks as ONNX graphs, shared by the exporters `onnx` and `qonnx`.
 *
 * The graph is the engine's arithmetic, node by node (kernels/finish.h): a convolution takes codes and weight codes, both as floats that hold whole
 * numbers, and what follows, the product of the two trained scales first, comes in the engine's order. Sums of codes below 2^24 are exact in float
 * whatever order a runtime adds in, so behind quantized layers a runtime makes the engine's very codes, where scales inside of the convolution would
 * round every product and move some codes by one. That is why quantizers in the graph have a scale of 1: the trained one stands next to them, as
 * a Mul in front (its inverse) and one behind the convolution. Each layer's scales are listed in the metadata too.
 *
 * Input `image` [N,c,h,w] float, normalised as bitwright.mean and bitwright.std in the metadata say: (v / 255 - mean) / std. Output `logits` [N,classes]. */
#ifndef BWI_ONNX_NET_H
#define BWI_ONNX_NET_H
#include "deploy/export.h"
#include "deploy/onnx_proto.h"

/* How quantized tensors are written. */
typedef struct bwi_onnx_style {
    const char *domain; /* of its own operators, or NULL */
    bool four_bits;     /* weights of 4 bits and less are INT4, which needs operator set 21 */
    /* Rounds x to codes clipped to q->lo .. q->hi, as floats; returns their name, which begins with `name`. */
    char *(*codes)(bwi_onnx *o, const char *name, char *x, const bwr_codes *q);
    /* The integers sum_mul * code + sum_add of a layer's weights, as floats. code [product of dim], as packed, may be overwritten and stays
     * as long as o. */
    char *(*weights)(bwi_onnx *o, const bwr_layer *l, int ndim, const int64_t *dim, int8_t *code);
} bwi_onnx_style;

/* Builds the graph of a packed network and writes it: an exporter's `write`. */
BW_MUST_USE bw_status bwi_onnx_export(const bwi_onnx_style *style, const bwi_model *m, const bwi_tensors *lowered,
                                      const char *path, bw_error *err);
#endif
