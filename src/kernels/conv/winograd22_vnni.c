#if defined(__x86_64__)
#include "kernels/conv/winograd_vnni.h"
#include "kernels/conv/winograd22.h"

#include "kernels/conv/winograd.h"

static bool accepts(const bwk_conv_spec *s)
{
    return takes_shape(s) && s->wbits <= 4 && s->abits <= (s->asigned ? 6 : 5);
}

WINOGRAD(bwk_conv_winograd22_vnni, "winograd-2x2", BWI_CPU_AVX512 | BWI_CPU_VNNI, pays,
         "exact Winograd F(2x2,3x3), AVX512-VNNI: 3x3, stride 1, weights up to 4 bits, codes up to 5");
#endif
