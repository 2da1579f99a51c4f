/* Lowering: a trained graph as the layers of a packed file (deploy/run/net.h). Every convolution takes the batch norm, the residual, the
 * ReLU and the quantizers behind it along, in the form of kernels/finish.h, whose float operations are those of training's forward pass:
 * on exact integer sums it makes the very codes of training. */
#ifndef BWI_LOWER_H
#define BWI_LOWER_H
#include "data/data.h"
#include "deploy/run/net.h"
#include "io/io.h"
#include "nn/nn.h"

/* Makes the tensors and metadata of a packed file. normalize: what images go through. The graph's quantizers are prepared along the way.
 * Errors name the layer that cannot be packed and say why. */
BW_MUST_USE bw_status bwi_lower(bwi_tensors *out, bwi_graph *g, const bwi_normalize *normalize, bw_error *err);
#endif
