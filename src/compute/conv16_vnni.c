#if defined(__x86_64__)
#include "base/inline.h"
#include <immintrin.h>

typedef __m512i ints;
typedef __m512 reals;
enum { LANES = 16, CHANNELS_1 = 16, CHANNELS_2 = 8 };
/* clang-format off */
#define PIXELS_2(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#define PIXELS_1(X) PIXELS_2(X) X(15) X(16)
/* clang-format on */
#define set_ints(x)        _mm512_set1_epi32(x)
#define load_ints(p)       _mm512_loadu_si512(p)
#define store_ints(p, a)   _mm512_storeu_si512(p, a)
#define and_ints(a, b)     _mm512_and_si512(a, b)
#define max_ints(a, b)     _mm512_max_epi32(a, b)
#define pairs_of(a, b)     _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)) /* the lower halves, one of each */
#define store_shorts(p, a) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtepi32_epi16(a))
#define load_codes(p)      _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define set_reals(x)       _mm512_set1_ps(x)
#define load_reals(p)      _mm512_loadu_ps(p)
#define store_reals(p, a)  _mm512_storeu_ps(p, a)
#define add_reals(a, b)    _mm512_add_ps(a, b)
#define mul_reals(a, b)    _mm512_mul_ps(a, b)
#define round_reals(a)     _mm512_cvtps_epi32(a)
#define to_reals(a)        _mm512_cvtepi32_ps(a)

/* sum + a b, in place: with the intrinsic gcc 12 copies sums from register to register in nested loops, which costs a third of the time. */
BWI_INLINE ints add_products(ints sum, ints a, ints b)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

#include "compute/conv16_loops.h"

const bwi_conv16_table bwi_conv16_vnni = {create, destroy, scratch, weights, forward, backward};
#endif
