/* What every compute table asks of a convolution's description. */
#ifndef BWI_COMPUTE_SPEC_H
#define BWI_COMPUTE_SPEC_H
#include "compute/compute.h"

#define BWI_CONV_TEXT 200
/* Writes a description of spec for messages: shape, types and geometry; returns buf. */
const char *bwi_conv_text(const bwi_conv_spec *spec, char buf[BWI_CONV_TEXT]);
/* BW_SHAPE or BW_ARG, with the spec in the message, unless all sizes are positive and fit each other, every tensor's size fits
 * a size_t, src is `real` or U8, and operand is `real` or, unless the source holds codes as reals, I16. */
BW_MUST_USE bw_status bwi_conv_check(const bwi_conv_spec *spec, bwi_dtype real, bw_error *err);

/* Bytes of a part of scratch, so that the next one is aligned. */
static inline size_t bwi_conv_round(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}
/* Elements of the tensors of a checked spec. */
static inline size_t bwi_conv_src_size(const bwi_conv_spec *s)
{
    return (size_t)s->n * (size_t)s->ih * (size_t)s->iw * (size_t)s->ic;
}
static inline size_t bwi_conv_dst_size(const bwi_conv_spec *s)
{
    size_t oh = (size_t)bwi_conv_out(s->ih, s->kh, s->stride, s->pad),
           ow = (size_t)bwi_conv_out(s->iw, s->kw, s->stride, s->pad);
    return (size_t)s->n * oh * ow * (size_t)s->oc;
}
static inline size_t bwi_conv_weights_size(const bwi_conv_spec *s)
{
    return (size_t)s->oc * (size_t)s->kh * (size_t)s->kw * (size_t)(s->ic / s->groups);
}
#endif
