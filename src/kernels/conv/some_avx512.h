/* Up to 64 bytes in a register: all, half, or those of a mask. Whole and half registers have instructions of their own, since what a masked
 * store wrote cannot be read again before it has left for the cache. */
#ifndef BWK_SOME_AVX512_H
#define BWK_SOME_AVX512_H
#include "base/inline.h"
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* Known when compiled, but for the mask of BWK_MASKED. */
typedef struct bwk_some {
    enum { BWK_WHOLE, BWK_HALF, BWK_MASKED } kind;
    __mmask64 m;
} bwk_some;

BWI_INLINE __m512i bwk_load(const uint8_t *from, const bwk_some n)
{
    if (n.kind == BWK_WHOLE) return _mm512_loadu_si512(from);
    if (n.kind == BWK_HALF) return _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_maskz_loadu_epi8(n.m, from);
}

BWI_INLINE void bwk_save(uint8_t *to, const bwk_some n, __m512i x)
{
    if (n.kind == BWK_WHOLE)
        _mm512_storeu_si512(to, x);
    else if (n.kind == BWK_HALF)
        _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(x));
    else
        _mm512_mask_storeu_epi8(to, n.m, x);
}
#endif
