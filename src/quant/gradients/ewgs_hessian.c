/* EWGS whose strength follows the curvature. Lee, Kim, Ham, Network Quantization with Element-wise Gradient Scaling, CVPR 2021, section 3.3:
 *   delta = max(0, (Tr(H) / N) / G)
 * with H the Hessian of the loss by the rounded values of the tensor on [0, 1], N their number and G a typical size of the gradient
 * (eq. 9: three standard deviations). delta is 0, so STE, until train/hessian.c sets it for the first time. */
#include "quant/hessian.h"

#if BWI_MAIN
const bwi_gradient bwi_gradient_ewgs_hessian = {
    .name = "ewgs-hessian",
    .summary = "element-wise gradient scaling whose strength is set from the Hessian's trace every few epochs",
    .cite = "Lee et al., Network Quantization with Element-wise Gradient Scaling, CVPR 2021",
    .weights = true,
    .activations = true,
    .option =
        {
            [BWI_HESSIAN_PERIOD] = {"period", "epochs between updates; the first is after so many", 10, 1, 1e6, true},
            [BWI_HESSIAN_BATCHES] = {"batches", "training batches that an update averages over", 3, 1, 1000, true},
            [BWI_HESSIAN_DRAWS] = {"draws", "most random directions for a tensor and batch", 50, 2, 10000, true},
            [BWI_HESSIAN_RULE] =
                {"rule",
                 "when to stop drawing: 0 at a standard error of delta of 20 % or 0.002, 1 when the mean moves by less "
                 "than 0.1 % (the paper), 2 the same, or at a negative mean (its code)",
                 BWI_HESSIAN_BY_ERROR, 0, 2, true},
            [BWI_HESSIAN_G] = {"g", "size of the gradient: 0 three standard deviations, 1 its maximum, 2 its mean magnitude",
                               BWI_HESSIAN_3_SD, 0, 2, true},
            [BWI_HESSIAN_BATCH] = {"batch", "images of such a batch; 0: train.batch", 0, 0, 65536, true},
        },
    .delta = -1,
};
#endif
