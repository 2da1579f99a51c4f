/* The straight-through estimator: dL/du = dL/dc. Bengio, Leonard, Courville, Estimating or Propagating Gradients Through Stochastic Neurons, 2013. */
#include "quant/quant.h"

#if BWI_MAIN
const bwi_gradient bwi_gradient_ste = {
    .name = "ste",
    .summary = "straight-through: the gradient passes the rounding unchanged",
    .cite = "Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation, 2013",
    .weights = true,
    .activations = true,
    .delta = -1,
};
#endif
