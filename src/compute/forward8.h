/* Forward passes of convolutions whose operands are bytes: exact sums of codes, by the kernels that deployment uses (kernels/conv.h). */
#ifndef BWI_FORWARD8_H
#define BWI_FORWARD8_H
#include "compute/compute.h"

typedef struct bwi_forward8 bwi_forward8;

/* spec: with a U8 source. BW_UNSUPPORTED, with the reason, where this CPU has nothing faster than plain C for it, or sums could overflow. */
BW_MUST_USE bw_status bwi_forward8_create(const bwi_conv_spec *spec, bwi_forward8 **out, bw_error *err);
void bwi_forward8_destroy(bwi_forward8 **f);
size_t bwi_forward8_scratch(const bwi_forward8 *f); /* bytes, 64-byte aligned, that run needs */
/* w: [oc,kh,kw,ic/groups] integers of the spec's width */
void bwi_forward8_weights(bwi_forward8 *f, const float *w, double scale);
/* src [n,ih,iw,ic], in; dst [n,oh,ow,oc] = scale * sums, out */
void bwi_forward8_run(const bwi_forward8 *f, const uint8_t *src, float *dst, void *scratch);
#endif
