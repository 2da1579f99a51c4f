/* EWGS: element-wise gradient scaling. Lee, Kim, Ham, Network Quantization with Element-wise Gradient Scaling, CVPR 2021, eq. 4:
 *   dL/du = dL/dc * (1 + delta * sign(dL/dc) * (u - c))
 * with u - c in units of a grid on [0, 1], whatever grid the quantizer has. delta = 0 is STE to the bit. */
#include "quant/quant.h"

BWI_PASS_DECLARE(bwi_ewgs_pass);
void BWI_V(bwi_ewgs_pass)(const bwi_qk *k, const double *opt, const void *gcode, double gscale, const void *u, const void *c,
                          size_t n, void *gu)
{
    const real gs = (real)(k->mul * gscale), delta = (real)(opt[0] * k->unit);
    const real *restrict g = gcode, *restrict ui = u, *restrict ci = c;
    real *restrict out = gu;
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        real gc = gs * g[i], d = delta * (ui[i] - ci[i]);
        out[i] = gc * (1 + (gc < 0 ? -d : d)); /* where gc = 0 the sign does not matter */
    }
}

#if BWI_MAIN
static double factor(const bwi_qk *k, const double *opt, double gc, double u, double c)
{
    return 1 + opt[0] * ((gc > 0) - (gc < 0)) * (u - c) * k->unit;
}

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
    .pass = BWI_VARIANT_TABLE(bwi_ewgs_pass),
    .factor = factor,
};
#endif
