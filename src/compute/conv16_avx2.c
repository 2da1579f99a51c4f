#if defined(__x86_64__)
#include "base/inline.h"
#include <immintrin.h>

typedef __m256i ints;
typedef __m256 reals;
enum { LANES = 8, CHANNELS_1 = 8, CHANNELS_2 = 4 };
/* clang-format off */
#define PIXELS_2(X) X(1) X(2) X(3) X(4)
#define PIXELS_1(X) PIXELS_2(X)
/* clang-format on */
#define set_ints(x)        _mm256_set1_epi32(x)
#define load_ints(p)       _mm256_loadu_si256((const __m256i *)(p))
#define store_ints(p, a)   _mm256_storeu_si256((__m256i *)(p), a)
#define and_ints(a, b)     _mm256_and_si256(a, b)
#define add_ints(a, b)     _mm256_add_epi32(a, b)
#define max_ints(a, b)     _mm256_max_epi32(a, b)
#define pairs_of(a, b)     _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa) /* the lower halves, one of each */
#define store_shorts(p, a) _mm_storeu_si128((__m128i *)(p), lower_halves(a))
#define load_shorts(p)     _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define load_codes(p)      _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define set_reals(x)       _mm256_set1_ps(x)
#define load_reals(p)      _mm256_loadu_ps(p)
#define store_reals(p, a)  _mm256_storeu_ps(p, a)
#define add_reals(a, b)    _mm256_add_ps(a, b)
#define mul_reals(a, b)    _mm256_mul_ps(a, b)
#define round_reals(a)     _mm256_cvtps_epi32(a)
#define to_reals(a)        _mm256_cvtepi32_ps(a)

BWI_INLINE __m128i lower_halves(__m256i a)
{
    a = _mm256_blend_epi16(a, _mm256_setzero_si256(), 0xaa);
    return _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}

/* sum + a b, in place, as in conv16_vnni.c. */
BWI_INLINE ints add_products(ints sum, ints a, ints b)
{
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(a, b)));
    return sum;
}

/* The sum of each of v's elements. */
BWI_INLINE ints sums_of(const ints v[LANES])
{
    const ints a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    const ints b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return add_ints(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

#include "compute/conv16_loops.h"

const bwi_conv16_table bwi_conv16_avx2 = {create, destroy, scratch, weights, forward, backward};
#endif
