#if defined(__x86_64__)
#define WIDE
#include "kernels/conv/winograd_avx2.h"
#include "kernels/conv/winograd22.h"

/* Codes + 128 instead of codes: four times that where four are added, and nothing where two are subtracted from two. */
static int bias_of(const bwk_conv_spec *s, size_t part)
{
    return s->asigned && part == PART(1, 1) ? 4 * 128 : 0;
}

#include "kernels/conv/winograd.h"

/* Four times the output fits 32 bits. */
static bool accepts(const bwk_conv_spec *s)
{
    const int64_t most = ((int64_t)1 << s->abits) << (s->wbits - 1);
    return takes_shape(s) && 4 * 9 * most * s->ic <= INT32_MAX;
}

/* Of few bits the direct convolution multiplies bytes (direct_avx2.c). */
static bool pays_avx2(const bwk_conv_spec *s)
{
    const int most = 2 * ((1 << s->abits) - 1) * (1 << (s->wbits - 1));
    return (s->asigned || 4 * most > INT16_MAX) && s->ic >= 16 && s->oc >= 16;
}

WINOGRAD(bwk_conv_winograd22_wide_avx2, "winograd-2x2-wide", BWI_CPU_AVX2, pays_avx2,
         "exact Winograd F(2x2,3x3) in 16 bits, AVX2: 3x3, stride 1");
#endif
