#if defined(__x86_64__)
#include "kernels/conv/winograd_vnni.h"
#include "kernels/conv/winograd42.h"

#include "kernels/conv/winograd.h"

static bool accepts(const bwk_conv_spec *s)
{
    return takes_shape(s) && s->wbits <= 3 && s->abits <= 3;
}

WINOGRAD(bwk_conv_winograd42_vnni, "winograd-4x2", BWI_CPU_AVX512 | BWI_CPU_VNNI, pays,
         "exact Winograd F(4,3) x F(2,3), AVX512-VNNI: 3x3, stride 1, weights and codes up to 3 bits");
#endif
