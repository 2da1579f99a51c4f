/* tanh for loops that must vectorize; in double it is the library's. For files that are compiled once per variant. */
#ifndef BWI_QUANT_TANH_H
#define BWI_QUANT_TANH_H
#include "base/inline.h"
#include "base/variant.h"
#include <stdint.h>

#if BWI_VARIANT == BWI_F64
#define q_tanh tanh
#else
/* tanh in float within 3 units in the last place, and the same bits on every CPU: a call of the library's would be 98 % of the time of
 * these loops. tanh|x| = e / (e + 2) with e = exp(2|x|) - 1 = 2^k (exp(r) - 1) + (2^k - 1), 2|x| = k log 2 + r, |r| <= log(2) / 2, and
 * exp(r) - 1 by its series. A NaN counts as infinity. */
BWI_INLINE float q_tanh(float x)
{
    float y = 2 * fabsf(x);
    y = y < 18.5f ? y : 18.5f;                                                             /* tanh is 1 in float from 9.02 on */
    float k = bwi_round(y * 1.44269504f), r = (y - k * 0.693359375f) + k * 2.12194440e-4f; /* log 2 in two parts */
    float p = 1 / 120.0f + r * (1 / 720.0f + r * (1 / 5040.0f));
    p = r + r * r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * p)));
    union {
        int32_t i;
        float f;
    } two_k = {((int32_t)k + 127) * (1 << 23)};
    float e = two_k.f * p + (two_k.f - 1), t = e / (e + 2);
    return x < 0 ? -t : t;
}
#endif
#endif
