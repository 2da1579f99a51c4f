/* Both backward passes of a convolution in 16-bit integers: exact sums of the codes that the forward pass multiplied and of a gradient that
 * is rounded to 16 bits, with a scale of its own for each image or few small images. An instruction of AVX512-VNNI makes twice as many
 * such products as one in float; with AVX2 an addition comes on top. */
#ifndef BWI_BACKWARD16_H
#define BWI_BACKWARD16_H
#include "compute/compute.h"

typedef struct bwi_back16 bwi_back16;

typedef struct bwi_back16_table {
    /* spec: with a U8 source. BW_UNSUPPORTED, with the reason, unless it has one group, multiples of 16 channels (AVX2: 8) on both sides, and sums that
     * leave the gradient 10 bits at least and fit a cache. */
    bw_status (*create)(const bwi_conv_spec *spec, bwi_back16 **out, bw_error *err);
    void (*destroy)(bwi_back16 **b);
    size_t (*scratch)(const bwi_back16 *b); /* bytes, 64-byte aligned, that run needs */
    /* w: [oc,kh,kw,ic] integers in [-128,127]; scale: of the source's gradient */
    void (*weights)(bwi_back16 *b, const float *w, double scale);
    /* Images first .. first + n - 1, in pieces as bwi_compute's conv_backward takes them, and with its arguments. */
    void (*run)(bwi_back16 *b, int first, int n, const uint8_t *src, const float *gdst, float *gw, float *gsrc, void *scratch);
} bwi_back16_table;

extern const bwi_back16_table bwi_back16_vnni, bwi_back16_avx2;
const bwi_back16_table *bwi_back16_find(void); /* the fastest for this CPU; NULL: it has none */
#endif
