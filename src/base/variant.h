/* Code that is compiled several times. Element loops (nn/ops, quant/quantizers, quant/gradients, compute/reference) are plain C written
 * against `real`; the Makefile compiles each such file once per variant with -DBWI_VARIANT=...: double for the gradient checks, float
 * for any CPU, and float for AVX2 and AVX-512. BWI_V(name) gives a name its variant's suffix. The descriptor of a row is compiled in
 * variant F32 only (#if BWI_MAIN) and refers to all of them through BWI_VARIANT_TABLE. */
#ifndef BWI_VARIANT_H
#define BWI_VARIANT_H
#include "tensor/tensor.h"

#define BWI_F64        0
#define BWI_F32        1
#define BWI_F32_AVX2   2
#define BWI_F32_AVX512 3
#define BWI_VARIANTS   4

#if defined(__x86_64__)
#define BWI_VARIANT_TABLE(name)                                                                                                \
    {                                                                                                                          \
        &name##__f64, &name##__f32, &name##__avx2, &name##__avx512                                                             \
    }
#define BWI_VARIANT_DECLARE(type, name) extern const type name##__f64, name##__f32, name##__avx2, name##__avx512
#else
#define BWI_VARIANT_TABLE(name)                                                                                                \
    {                                                                                                                          \
        &name##__f64, &name##__f32, &name##__f32, &name##__f32                                                                 \
    }
#define BWI_VARIANT_DECLARE(type, name) extern const type name##__f64, name##__f32
#endif

/* The variant that serves dtype (BWI_DT_F64 or BWI_DT_F32) on this CPU under the current mask. */
int bwi_variant_for(bwi_dtype dtype);

#ifdef BWI_VARIANT
#include <math.h>
#if BWI_VARIANT == BWI_F64
typedef double real;
#define BWI_V(name) name##__f64
#define R(x)        x
#define BWI_REAL_DT BWI_DT_F64
/* Round half to even, |x| < 2^51. The one rounding rule of all codes; needs the default rounding mode, no fast-math. */
static inline real bwi_round(real x)
{
    return (x + 6755399441055744.0) - 6755399441055744.0;
}
#define r_tanh tanh
#define r_exp  exp
#define r_log  log
#define r_sqrt sqrt
#define r_fabs fabs
#else
typedef float real;
#if BWI_VARIANT == BWI_F32
#define BWI_V(name) name##__f32
#elif BWI_VARIANT == BWI_F32_AVX2
#define BWI_V(name) name##__avx2
#else
#define BWI_V(name) name##__avx512
#endif
#define R(x)        x##f
#define BWI_REAL_DT BWI_DT_F32
static inline real bwi_round(real x)
{
    return (x + 12582912.0f) - 12582912.0f;
} /* half to even, |x| < 2^22 */
#define r_tanh      tanhf
#define r_exp       expf
#define r_log       logf
#define r_sqrt      sqrtf
#define r_fabs      fabsf
#endif
#define BWI_MAIN (BWI_VARIANT == BWI_F32)
#endif
#endif
