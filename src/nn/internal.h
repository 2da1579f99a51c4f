/* What the files of this room share among themselves. */
#ifndef BWI_NN_INTERNAL_H
#define BWI_NN_INTERNAL_H
#include "nn/nn.h"

/* Registers the learned parameters of a quantizer as parameters of the graph, named LAYER.weight_quant.NAME or LAYER.input_quant.NAME. */
BW_MUST_USE bw_status bwi_graph_add_quant_params(bwi_graph *g, const char *layer, bwi_quant *q, bw_error *err);
#endif
