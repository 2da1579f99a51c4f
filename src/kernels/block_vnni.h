/* The inner loop of kernels on AVX512-VNNI: sums of uint8 x int8 products in registers, of up to 14 pixels x 32 channels or 16 x 16. */
#ifndef BWK_BLOCK_VNNI_H
#define BWK_BLOCK_VNNI_H
#include <stddef.h>
#include <stdint.h>

enum {
    BWK_PIXELS = 16,    /* of a block of 16 channels, at most */
    BWK_PIXELS_32 = 14, /* of 32 channels: 28 registers of sums, 2 of weights, 1 of codes */
    BWK_LANES = 32      /* channels of a block, and int32 between the sums of one pixel and of the next */
};

/* `parts` times the same with other operands. A pixel's bytes are `kh` runs of `step` bytes; step is a multiple of 4. */
typedef struct bwk_block {
    const int8_t *w;      /* [parts][kh][step / 4][half][16][4], 64-byte aligned */
    const int32_t *start; /* [parts][half][16]: where sums start, 64-byte aligned */
    size_t step, pitch;   /* bytes: of a run, from one run to the next */
    size_t pixel;         /* bytes from one pixel to the next */
    size_t part;          /* bytes from the pixels of one part to those of the next */
    int kh, parts;
} bwk_block;

/* The first (n + 1) / 2 of n pixels begin at a, the others at b. acc [parts][n][32], 64-byte aligned. */
typedef void bwk_block_fn(const bwk_block *j, const uint8_t *a, const uint8_t *b, int32_t *acc);
/* [n - 1][halves - 1] is the function for n pixels and halves * 16 channels. */
extern bwk_block_fn *const bwk_blocks_vnni[BWK_PIXELS][2];
#endif
