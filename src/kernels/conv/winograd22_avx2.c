#if defined(__x86_64__)
#include "kernels/conv/winograd_avx2.h"
#include "kernels/conv/winograd22.h"

/* The middle part alone is a sum of four codes, all others are two less two: either way V + bias goes from 0 to 4 (hi - lo). */
static int bias_of(const bwk_conv_spec *s, size_t part)
{
    return part == PART(1, 1) ? -4 * least_of(s) : 2 * range_of(s);
}

static int top_of(const bwk_conv_spec *s)
{
    return 4 * range_of(s);
}

#include "kernels/conv/winograd.h"

static bool accepts(const bwk_conv_spec *s)
{
    return takes_shape(s) && s->wbits <= 4 && s->abits <= 6 && 2 * top_of(s) * (9 << (s->wbits - 1)) <= INT16_MAX;
}

/* Look-ups are faster for weights of one bit; and for two, half a byte each, where reading the transformed ones takes the time. Of three and
 * more bits even those are worth it. */
static bool pays_avx2(const bwk_conv_spec *s)
{
    return s->wbits == 2 ? pays(s) : s->wbits > 2 && s->ic >= 32 && s->oc >= 32;
}

WINOGRAD(bwk_conv_winograd22_avx2, "winograd-2x2-avx2", BWI_CPU_AVX2, pays_avx2,
         "exact Winograd F(2x2,3x3), AVX2: 3x3, stride 1, weights up to 4 bits, codes up to 6, not both");
#endif
