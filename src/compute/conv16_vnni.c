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
#define add_ints(a, b)     _mm512_add_epi32(a, b)
#define max_ints(a, b)     _mm512_max_epi32(a, b)
#define pairs_of(a, b)     _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)) /* the lower halves, one of each */
#define store_shorts(p, a) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtepi32_epi16(a))
#define load_shorts(p)     _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(p)))
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

/* Neighbours added: in each 128 bits two sums of a, then two of b. */
BWI_INLINE ints add_neighbours(ints a, ints b)
{
    const __m512 x = _mm512_castsi512_ps(a), y = _mm512_castsi512_ps(b);
    return add_ints(_mm512_castps_si512(_mm512_shuffle_ps(x, y, 0x88)), _mm512_castps_si512(_mm512_shuffle_ps(x, y, 0xdd)));
}

/* The sum of each of v's elements. */
BWI_INLINE ints sums_of(const ints v[LANES])
{
    ints four[4]; /* of four elements: a part of each sum in every 128 bits */
    BWI_UNROLL for (int i = 0; i < 4; i++) four[i] =
        add_neighbours(add_neighbours(v[4 * i], v[4 * i + 1]), add_neighbours(v[4 * i + 2], v[4 * i + 3]));
    const ints a = add_ints(_mm512_shuffle_i32x4(four[0], four[1], 0x44), _mm512_shuffle_i32x4(four[0], four[1], 0xee));
    const ints b = add_ints(_mm512_shuffle_i32x4(four[2], four[3], 0x44), _mm512_shuffle_i32x4(four[2], four[3], 0xee));
    return add_ints(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

#include "compute/conv16_loops.h"

const bwi_conv16_table bwi_conv16_vnni = {create, destroy, scratch, weights, forward, backward};
#endif
