/* MetaQuant with FCGrad: a stack of linear layers sees the gradient, m = w_2 w_1 * dL/dwq = c * dL/dwq. So it is one learned number: gradient
 * descent on a global learning rate by the inner product of successive gradients. One layer makes that explicit. */
#include "quant/metanet.h"

#if BWI_MAIN
const bwi_gradient bwi_gradient_fcgrad = {
    .name = "fcgrad",
    .summary = "MetaQuant: linear layers learn one factor on the gradients of all weights",
    .cite = "Chen, Wang, Pan, MetaQuant: Learning to Quantize by Learning to Penetrate Non-differentiable Quantization, "
            "NeurIPS 2019",
    .weights = true,
    .option =
        {BWI_META_OPTIONS,
         {.key = "layers", .doc = "layers; 1: a single number", .def = 2, .min = 1, .max = BWI_META_LAYERS, .integer = true},
         {.key = "width", .doc = "values between layers", .def = 100, .min = 1, .max = BWI_META_WIDTH, .integer = true},
         {.key = "random_start", .doc = "1: start as PyTorch does; 0: at factor 1", .max = 1, .integer = true}},
    .delta = -1,
    .meta = &bwi_metanet_fcgrad,
};
#endif
