/* The method whose delta comes from the Hessian's trace, for train/hessian.c, which sets it. */
#ifndef BWI_QUANT_HESSIAN_H
#define BWI_QUANT_HESSIAN_H
#include "quant/quant.h"

/* Options of the row. */
enum { BWI_HESSIAN_PERIOD, BWI_HESSIAN_BATCHES, BWI_HESSIAN_DRAWS, BWI_HESSIAN_RULE, BWI_HESSIAN_G, BWI_HESSIAN_BATCH };
enum { BWI_HESSIAN_BY_ERROR, BWI_HESSIAN_BY_CHANGE, BWI_HESSIAN_BY_SIGNED_CHANGE }; /* BWI_HESSIAN_RULE: when to stop drawing */
enum { BWI_HESSIAN_3_SD, BWI_HESSIAN_MAX, BWI_HESSIAN_MEAN };                       /* BWI_HESSIAN_G: of |gradient| */

extern const bwi_gradient bwi_gradient_ewgs_hessian;
#endif
