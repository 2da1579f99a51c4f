#if defined(__x86_64__)
#include "base/inline.h"
#include "kernels/block_vnni.h"
#include <immintrin.h>
#include <string.h>

/* Four bytes at `at` of each pixel times 64 * halves weights. */
BWI_INLINE void four(__m512i sum[][2], const uint8_t *a, const uint8_t *b, size_t px, size_t at, const int8_t *w, const int n,
                     const int halves)
{
    const int first = (n + 1) / 2;
    __m512i weights[2];
    BWI_UNROLL for (int h = 0; h < halves; h++) weights[h] = _mm512_load_si512(w + 64 * h);
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        int32_t bytes;
        memcpy(&bytes, (i < first ? a + (size_t)i * px : b + (size_t)(i - first) * px) + at, 4);
        const __m512i codes = _mm512_set1_epi32(bytes);
        BWI_UNROLL for (int h = 0; h < halves; h++) sum[i][h] = _mm512_dpbusd_epi32(sum[i][h], codes, weights[h]);
    }
}

/* Two steps at a time: the additions of a loop would take slots from the products. */
BWI_INLINE const int8_t *part(const bwk_block *j, const uint8_t *a, const uint8_t *b, const int8_t *w, const int32_t *start,
                              int32_t *acc, const int n, const int halves)
{
    const size_t px = j->pixel, step = j->step;
    __m512i sum[BWK_PIXELS][2];
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        BWI_UNROLL for (int h = 0; h < halves; h++) sum[i][h] = _mm512_load_si512(start + 16 * h);
    }
    for (int ky = 0; ky < j->kh; ky++, a += j->pitch, b += j->pitch) {
        size_t k = 0;
        for (; k + 8 <= step; k += 8, w += 128 * halves) {
            four(sum, a, b, px, k, w, n, halves);
            four(sum, a, b, px, k + 4, w + 64 * halves, n, halves);
        }
        if (k < step) {
            four(sum, a, b, px, k, w, n, halves);
            w += 64 * halves;
        }
    }
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        BWI_UNROLL for (int h = 0; h < halves; h++) _mm512_store_si512(acc + (size_t)i * BWK_LANES + 16 * h, sum[i][h]);
    }
    return w;
}

BWI_INLINE void block(const bwk_block *j, const uint8_t *a, const uint8_t *b, int32_t *acc, const int n, const int halves)
{
    const int8_t *w = j->w;
    const int32_t *start = j->start;
    for (int p = 0; p < j->parts; p++, a += j->part, b += j->part, start += 16 * halves, acc += n * BWK_LANES)
        w = part(j, a, b, w, start, acc, n, halves);
}

#define NARROW(n)                                                                                                              \
    static void block_##n##x16(const bwk_block *j, const uint8_t *a, const uint8_t *b, int32_t *acc)                           \
    {                                                                                                                          \
        block(j, a, b, acc, n, 1);                                                                                             \
    }
#define WIDE(n)                                                                                                                \
    static void block_##n##x32(const bwk_block *j, const uint8_t *a, const uint8_t *b, int32_t *acc)                           \
    {                                                                                                                          \
        block(j, a, b, acc, n, 2);                                                                                             \
    }
/* clang-format off */
#define SIZES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
SIZES(NARROW) NARROW(15) NARROW(16) SIZES(WIDE)
#define PAIR(n) {block_##n##x16, block_##n##x32},
bwk_block_fn *const bwk_blocks_vnni[BWK_PIXELS][2] = {SIZES(PAIR) {block_15x16, NULL}, {block_16x16, NULL}};
/* clang-format on */
#endif
