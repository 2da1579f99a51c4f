/* What winograd.h needs of AVX2. Sums of two products of bytes have 16 bits (block_avx2.h), so V is made unsigned by what it needs and no
 * more. With WIDE defined, V and U have 16 bits, and no bias but that of signed codes, which are read as codes + 128. */
#include "base/inline.h"
#include "kernels/block_avx2.h"
#include "kernels/conv/strip.h"
#include <immintrin.h>
#include <stdbool.h>

typedef __m256i vec;
#ifdef WIDE
typedef int16_t value;
#define setv(x)    _mm256_set1_epi16((short)(x))
#define addv(a, b) _mm256_add_epi16(a, b)
#define subv(a, b) _mm256_sub_epi16(a, b)
#else
typedef int8_t value;
#define setv(x)    _mm256_set1_epi8((char)(x))
#define addv(a, b) _mm256_add_epi8(a, b)
#define subv(a, b) _mm256_sub_epi8(a, b)
#endif
enum { VECTOR = 32, TILES = 16, LANES = BWK_LANES_AVX2, FLIP = 0, VALUE = sizeof(value), STEP = 4 / VALUE };
#define set32(x)     _mm256_set1_epi32(x)
#define xorv(a, b)   _mm256_xor_si256(a, b)
#define add32(a, b)  _mm256_add_epi32(a, b)
#define sub32(a, b)  _mm256_sub_epi32(a, b)
#define mul32(a, b)  _mm256_mullo_epi32(a, b)
#define sll32(a, n)  _mm256_slli_epi32(a, n)
#define sra32(a, n)  _mm256_srai_epi32(a, n)
#define load32(p)    _mm256_load_si256((const __m256i *)(p))
#define save32(p, a) _mm256_store_si256((__m256i *)(p), a)

/* Up to 32 bytes; all may be read, `n` are written. */
typedef struct bwk_some {
    enum { BWK_WHOLE, BWK_HALF, BWK_MASKED } kind;
    size_t n;
} bwk_some;

BWI_INLINE bwk_some first_bytes(size_t n)
{
    return (bwk_some){BWK_MASKED, n};
}

/* As many codes as there are values of n bytes. */
BWI_INLINE __m256i bwk_load(const uint8_t *from, const bwk_some n)
{
#ifdef WIDE
    (void)n;
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
#else
    if (n.kind == BWK_HALF) return _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)from));
    return _mm256_loadu_si256((const __m256i *)from);
#endif
}

BWI_INLINE void bwk_save(uint8_t *to, const bwk_some n, __m256i x)
{
    if (n.kind == BWK_WHOLE)
        _mm256_storeu_si256((__m256i *)to, x);
    else if (n.kind == BWK_HALF)
        _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(x));
    else {
        uint8_t some[32];
        _mm256_storeu_si256((__m256i *)some, x);
        memcpy(to, some, n.n);
    }
}

#ifndef WIDE
#define biased(v, bias)       addv(v, bias)
#define chunk_of(s, u, steps) steps_of_16_bits(u, steps, top_of(s))

static int top_of(const bwk_conv_spec *s); /* the greatest V + bias; the least is 0 */

/* Least and number of codes, less one. */
static inline int least_of(const bwk_conv_spec *s)
{
    return s->asigned ? -(1 << (s->abits - 1)) : 0;
}

static inline int range_of(const bwk_conv_spec *s)
{
    return (1 << s->abits) - 1;
}

/* Whether steps from .. to - 1 of u [steps][16][4] stay within 16 bits, whatever the input is. */
static inline bool chunk_fits(const int8_t *u, size_t from, size_t to, int top)
{
    for (size_t lane = 0; lane < 32; lane++) {
        int most = 0, least = 0;
        for (size_t k = from; k < to; k++)
            for (size_t b = 0; b < 2; b++) {
                const int of = u[k * 64 + lane * 2 + b];
                if (of > 0)
                    most += of;
                else
                    least += of;
            }
        if (most * top > INT16_MAX || least * top < INT16_MIN) return false;
    }
    return true;
}

/* Steps that are added up in 16 bits. Trained weights of both signs let many more pass than the worst ones would. */
static inline size_t steps_of_16_bits(const int8_t *u, size_t steps, int top)
{
    for (size_t n = 1;; n++) {
        const size_t chunk = (steps + n - 1) / n;
        size_t from = 0;
        while (from < steps && chunk_fits(u, from, from + chunk < steps ? from + chunk : steps, top)) from += chunk;
        if (from >= steps || chunk == 1) return chunk;
    }
}
#endif

static inline void products(const int8_t *u, const int32_t *start, const int32_t *chunk, const uint8_t *v, size_t n,
                            size_t values, int parts, int channels, int32_t *sums)
{
    const size_t blocks = (n + BWK_PIXELS_AVX2 - 1) / BWK_PIXELS_AVX2;
    bwk_block_16_fn *const *block_of = VALUE == 1 ? bwk_blocks_avx2 : bwk_blocks_wide_avx2;
    bwk_block_16 j = {.w = (const uint8_t *)u, .start = start, .steps = values / 4, .pixel = values, .kh = 1};
    (void)channels; /* 16 */
    for (int p = 0; p < parts; p++, j.w += values * LANES, j.start += LANES, v += n * values, sums += n * LANES) {
        j.fits = (size_t)chunk[p];
        for (size_t b = 0, at = 0, end; b < blocks; b++, at = end) {
            end = n * (b + 1) / blocks;
            block_of[end - at - 1](&j, v + at * values, sums + at * LANES);
        }
    }
}
