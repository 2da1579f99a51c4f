/* Convolutions in 16-bit integers, whose sums are exact: of weights that are integers and of a float operand that is rounded to integers, with
 * a scale of its own for each image or few small images. An instruction of AVX512-VNNI makes twice as many such products as one in
 * float; with AVX2 an addition comes on top.
 *   U8 source     both backward passes: products of the codes that the forward pass multiplied and of the gradient, rounded to 16 bits
 *   F32 source    all passes: the forward one multiplies the source, rounded to 16 bits, the source's gradient the gradient, the same; the
 *                 weights' gradient is made of both, the source in 12 bits and the gradient in 13, signs included */
#ifndef BWI_CONV16_H
#define BWI_CONV16_H
#include "compute/compute.h"

typedef struct bwi_conv16 bwi_conv16;

typedef struct bwi_conv16_table {
    /* BW_UNSUPPORTED, with the reason, unless it has one group, multiples of 16 channels (AVX2: 8) on both sides, and sums that leave float operands
     * 10 bits at least and fit a cache. */
    bw_status (*create)(const bwi_conv_spec *spec, bwi_conv16 **out, bw_error *err);
    void (*destroy)(bwi_conv16 **b);
    size_t (*scratch)(const bwi_conv16 *b); /* bytes, 64-byte aligned, that a pass needs */
    /* w: [oc,kh,kw,ic] integers in [-128,127], or numbers on a grid of distance 1 that spans no more; scales as bwi_compute's conv_weights
     * takes them */
    void (*weights)(bwi_conv16 *b, const float *w, double scale, double back_scale);
    void (*forward)(const bwi_conv16 *b, const float *src, float *dst, void *scratch); /* F32 source */
    /* Images first .. first + n - 1, in pieces as bwi_compute's conv_backward takes them, and with its arguments. */
    void (*backward)(bwi_conv16 *b, int first, int n, const void *src, const float *gdst, float *gw, float *gsrc,
                     void *scratch);
} bwi_conv16_table;

extern const bwi_conv16_table bwi_conv16_vnni, bwi_conv16_avx2;
const bwi_conv16_table *bwi_conv16_find(void); /* the fastest for this CPU; NULL: it has none */
#endif
