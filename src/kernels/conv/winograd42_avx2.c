#if defined(__x86_64__)
#include "kernels/conv/winograd_avx2.h"
#include "kernels/conv/winograd42.h"

/* The second row of the middle columns goes from 4 lo - 16 hi to 4 hi - 16 lo, all others from -10 (hi - lo) to 10 (hi - lo). */
static int bias_of(const bwk_conv_spec *s, size_t part)
{
    return part == PART(1, 1) ? 16 * range_of(s) + 12 * least_of(s) : 10 * range_of(s);
}

static int top_of(const bwk_conv_spec *s)
{
    return 20 * range_of(s);
}

#include "kernels/conv/winograd.h"

static bool accepts(const bwk_conv_spec *s)
{
    return takes_shape(s) && s->wbits <= 3 && s->abits <= 3;
}

/* Look-ups are faster for weights of one bit. */
static bool pays_avx2(const bwk_conv_spec *s)
{
    return s->wbits > 1 && pays(s);
}

WINOGRAD(bwk_conv_winograd42_avx2, "winograd-4x2-avx2", BWI_CPU_AVX2, pays_avx2,
         "exact Winograd F(4,3) x F(2,3), AVX2: 3x3, stride 1, weights and codes up to 3 bits");
#endif
