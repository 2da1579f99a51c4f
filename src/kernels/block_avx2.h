/* The inner loops of kernels on AVX2: sums of uint8 x int8 or, wide, of int16 x int16 products, of up to 4 pixels x 16 channels. vpmaddubsw
 * adds two products and saturates at 16 bits; so its results are added in 16 bits while the operands prove that they fit, and then in 32.
 * vpmaddwd adds two wide products in 32 bits. */
#ifndef BWK_BLOCK_AVX2_H
#define BWK_BLOCK_AVX2_H
#include <stddef.h>
#include <stdint.h>

enum { BWK_PIXELS_AVX2 = 4, BWK_LANES_AVX2 = 16 };

typedef struct bwk_block_16 {
    const uint8_t *w;     /* int8 [kh][steps][16][4] or int16 [kh][steps][16][2], 32-byte aligned */
    const int32_t *start; /* [16]: where sums start, 32-byte aligned */
    size_t steps, pitch;  /* of four bytes, of a run of a pixel's bytes; bytes from one of its kh runs to the next */
    size_t fits;          /* steps whose sums fit 16 bits, at least 1; unused by wide ones */
    size_t pixel;         /* bytes from one pixel to the next */
    int kh;
} bwk_block_16;

/* [n - 1] is the function for n pixels: acc [n][16], 32-byte aligned. */
typedef void bwk_block_16_fn(const bwk_block_16 *j, const uint8_t *in, int32_t *acc);
extern bwk_block_16_fn *const bwk_blocks_avx2[BWK_PIXELS_AVX2], *const bwk_blocks_wide_avx2[BWK_PIXELS_AVX2];
#endif
