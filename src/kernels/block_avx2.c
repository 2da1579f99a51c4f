#if defined(__x86_64__)
#include "kernels/block_avx2.h"
#include "base/inline.h"
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

enum { PIXELS = BWK_PIXELS_AVX2, LANES = BWK_LANES_AVX2 }; /* 8 registers of sums, 2 of weights, 1 of codes */

BWI_INLINE __m256i four_bytes(const uint8_t *at)
{
    int32_t bytes;
    memcpy(&bytes, at, 4);
    return _mm256_set1_epi32(bytes);
}

/* Adds pairs of 16-bit sums to eight sums in memory. */
BWI_INLINE void widen(__m256i sum, int32_t *acc)
{
    const __m256i pairs = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    _mm256_store_si256((__m256i *)acc, _mm256_add_epi32(_mm256_load_si256((const __m256i *)acc), pairs));
}

/* Products of four bytes of n pixels at `in` and 16 channels: what sums are, or are increased by. */
BWI_INLINE void step(__m256i sum[PIXELS][2], const uint8_t *in, size_t pixel, const uint8_t *w, const int n, const bool first)
{
    const __m256i w0 = _mm256_load_si256((const __m256i *)w), w1 = _mm256_load_si256((const __m256i *)(w + 32));
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        const __m256i codes = four_bytes(in + (size_t)i * pixel);
        const __m256i p0 = _mm256_maddubs_epi16(codes, w0), p1 = _mm256_maddubs_epi16(codes, w1);
        sum[i][0] = first ? p0 : _mm256_add_epi16(sum[i][0], p0);
        sum[i][1] = first ? p1 : _mm256_add_epi16(sum[i][1], p1);
    }
}

BWI_INLINE void block(const bwk_block_16 *j, const uint8_t *in, int32_t *acc, const int n)
{
    const size_t pixel = j->pixel;
    const uint8_t *w = j->w;
    for (int i = 0; i < n; i++) memcpy(acc + (size_t)i * LANES, j->start, LANES * sizeof *acc);
    for (int ky = 0; ky < j->kh; ky++, in += j->pitch)
        for (size_t from = 0; from < j->steps; from += j->fits) {
            const size_t to = j->steps - from < j->fits ? j->steps : from + j->fits;
            __m256i sum[PIXELS][2];
            step(sum, in + 4 * from, pixel, w, n, true);
            size_t k = from + 1;
            for (; k + 2 <= to; k += 2, w += 128) {
                step(sum, in + 4 * k, pixel, w + 64, n, false);
                step(sum, in + 4 * k + 4, pixel, w + 128, n, false);
            }
            if (k < to) {
                step(sum, in + 4 * k, pixel, w + 64, n, false);
                w += 64;
            }
            w += 64;
            BWI_UNROLL for (int i = 0; i < n; i++)
            {
                widen(sum[i][0], acc + (size_t)i * LANES);
                widen(sum[i][1], acc + (size_t)i * LANES + 8);
            }
            __asm__ volatile("" ::: "memory"); /* sums in 32 bits stay where they are: there are no registers for them */
        }
}

BWI_INLINE void step_wide(__m256i sum[PIXELS][2], const uint8_t *in, size_t pixel, const uint8_t *w, const int n)
{
    const __m256i w0 = _mm256_load_si256((const __m256i *)w), w1 = _mm256_load_si256((const __m256i *)(w + 32));
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        const __m256i pair = four_bytes(in + (size_t)i * pixel);
        sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(pair, w0));
        sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(pair, w1));
    }
}

BWI_INLINE void block_wide(const bwk_block_16 *j, const uint8_t *in, int32_t *acc, const int n)
{
    const size_t pixel = j->pixel;
    const uint8_t *w = j->w;
    __m256i sum[PIXELS][2];
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        BWI_UNROLL for (int h = 0; h < 2; h++) sum[i][h] = _mm256_load_si256((const __m256i *)(j->start + 8 * h));
    }
    for (int ky = 0; ky < j->kh; ky++, in += j->pitch) {
        size_t k = 0;
        for (; k + 2 <= j->steps; k += 2, w += 128) {
            step_wide(sum, in + 4 * k, pixel, w, n);
            step_wide(sum, in + 4 * k + 4, pixel, w + 64, n);
        }
        if (k < j->steps) {
            step_wide(sum, in + 4 * k, pixel, w, n);
            w += 64;
        }
    }
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        BWI_UNROLL for (int h = 0; h < 2; h++) _mm256_store_si256((__m256i *)(acc + (size_t)i * LANES + 8 * h), sum[i][h]);
    }
}

#define BLOCK(n)                                                                                                               \
    static void block_##n(const bwk_block_16 *j, const uint8_t *in, int32_t *acc)                                              \
    {                                                                                                                          \
        block(j, in, acc, n);                                                                                                  \
    }                                                                                                                          \
    static void wide_##n(const bwk_block_16 *j, const uint8_t *in, int32_t *acc)                                               \
    {                                                                                                                          \
        block_wide(j, in, acc, n);                                                                                             \
    }
/* clang-format off */
BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4)
bwk_block_16_fn *const bwk_blocks_avx2[PIXELS] = {block_1, block_2, block_3, block_4};
bwk_block_16_fn *const bwk_blocks_wide_avx2[PIXELS] = {wide_1, wide_2, wide_3, wide_4};
/* clang-format on */
#endif
