/* What winograd.h needs of AVX512-VNNI. vpdpbusd adds to 32 bits whatever its bytes are, so V + 128 will do for all, and the transform makes
 * that of codes some of whose highest bits were flipped. */
#include "kernels/block_vnni.h"
#include "kernels/conv/some_avx512.h"
#include "kernels/conv/strip.h"

typedef __m512i vec;
typedef int8_t value;
enum { VECTOR = 64, TILES = BWK_PIXELS_32, LANES = BWK_LANES, FLIP = 0x80, VALUE = sizeof(value), STEP = 4 / VALUE };
#define setv(x)      _mm512_set1_epi8((char)(x))
#define set32(x)     _mm512_set1_epi32(x)
#define xorv(a, b)   _mm512_xor_si512(a, b)
#define addv(a, b)   _mm512_add_epi8(a, b)
#define subv(a, b)   _mm512_sub_epi8(a, b)
#define add32(a, b)  _mm512_add_epi32(a, b)
#define sub32(a, b)  _mm512_sub_epi32(a, b)
#define mul32(a, b)  _mm512_mullo_epi32(a, b)
#define sll32(a, n)  _mm512_slli_epi32(a, n)
#define sra32(a, n)  _mm512_srai_epi32(a, n)
#define load32(p)    _mm512_load_si512(p)
#define save32(p, a) _mm512_store_si512(p, a)

BWI_INLINE bwk_some first_bytes(size_t n)
{
    return (bwk_some){BWK_MASKED, ((__mmask64)1 << n) - 1};
}

static inline int bias_of(const bwk_conv_spec *s, size_t part)
{
    (void)s, (void)part;
    return 128;
}

static inline void products(const int8_t *u, const int32_t *start, const int32_t *chunk, const uint8_t *v, size_t n,
                            size_t values, int parts, int channels, int32_t *sums)
{
    const bwk_block j = {.w = u, .start = start, .step = values, .pixel = values, .part = n * values, .kh = 1, .parts = parts};
    (void)chunk;
    bwk_blocks_vnni[n - 1][channels / 16 - 1](&j, v, v + (n + 1) / 2 * values, sums);
}
