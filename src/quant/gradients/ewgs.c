/* EWGS: element-wise gradient scaling. Lee, Kim, Ham, Network Quantization with Element-wise Gradient Scaling, CVPR 2021, eq. 4:
 *   dL/du = dL/dc * (1 + delta * sign(dL/dc) * (u - c))
 * with u - c in units of a grid on [0, 1], whatever grid the quantizer has. delta = 0 is STE to the bit. */
#include "quant/quant.h"

#if BWI_MAIN
const bwi_gradient bwi_gradient_ewgs = {
    .name = "ewgs",
    .summary = "element-wise gradient scaling: larger where the rounding moved against the gradient",
    .cite = "Lee et al., Network Quantization with Element-wise Gradient Scaling, CVPR 2021",
    .weights = true,
    .activations = true,
    .option = {{.key = "delta",
                .doc = "strength of the scaling; 0 is STE, 0.1 and more can diverge",
                .def = 1e-3,
                .min = 0,
                .max = 1}},
    .delta = 0,
};
#endif
