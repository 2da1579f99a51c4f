/* MetaQuant with MultiFC: a stack of layers sees the latent weight, m = f(wt) * dL/dwq; f = c * wt when it is linear, as in all published runs. */
#include "quant/metanet.h"

#if BWI_MAIN
const bwi_gradient bwi_gradient_multifc = {
    .name = "multifc",
    .summary = "MetaQuant: a stack of layers learns a factor on each weight's gradient from its latent value",
    .cite = "Chen, Wang, Pan, MetaQuant: Learning to Quantize by Learning to Penetrate Non-differentiable Quantization, "
            "NeurIPS 2019",
    .weights = true,
    .option = {BWI_META_OPTIONS,
               {.key = "layers", .doc = "layers", .def = 3, .min = 2, .max = BWI_META_LAYERS, .integer = true},
               {.key = "width", .doc = "values between layers", .def = 100, .min = 1, .max = BWI_META_WIDTH, .integer = true},
               {.key = "random_start", .doc = "1: start as PyTorch does; 0: at factor 1", .def = 1, .max = 1, .integer = true},
               {.key = "nonlinearity", .doc = "between layers: 0 none, 1 ReLU, 2 tanh", .max = 2, .integer = true}},
    .delta = -1,
    .meta = &bwi_metanet_multifc,
};
#endif
