/* Heavy float math behind one table. A device or a library is a new table; operations see nothing else of it.
 *
 * Only convolution is heavy here; a linear layer is a 1x1 convolution on a 1x1 map. Operands are "codes": integers when the tensor is
 * quantized, plain values otherwise; scales stay outside the sums, so integer sums are exact.
 *   forward     dst  = scale * conv(src, w)              (+ nothing: bias is the operation's)
 *   backward    gsrc = back_scale * convT(gdst, w)
 *               gw   = corr(src, gdst)                    (the caller multiplies by what its operands left out) */
#ifndef BWI_COMPUTE_H
#define BWI_COMPUTE_H
#include "base/status.h"
#include "tensor/tensor.h"

typedef struct bwi_conv_spec {
    int n, ih, iw, ic; /* [n,ih,iw,ic] source */
    int oc, kh, kw;    /* weights [oc,kh,kw,ic/groups] */
    int stride, pad, groups;
    bwi_dtype src; /* F32 (F64 in the double table): values or codes held as reals. U8: codes */
    /* Of a U8 source, 1 to 8 bits: codes are 0 .. 2^abits - 1; weights -2^(wbits-1) .. 2^(wbits-1) - 1, with one bit -1 and 1. */
    int wbits, abits;
    /* What float operands may be rounded to: F32 (F64): to nothing. I16: to 16-bit integers with a scale for each image or few, where the other
     * operand is integers; that is gdst and, forward, a source that is not U8, of which the weights' gradient is then made of 12 bits and of 13 of
     * gdst. Weights are integers of 8 bits, or with a float source all on a grid of distance 1 that spans no more. Not with codes as reals. */
    bwi_dtype operand;
    bool codes;     /* source and weights hold integers: the scale multiplies their sums, which are then exact below 2^24 */
    bool train;     /* backward weights needed */
    bool need_gsrc; /* backward data needed */
} bwi_conv_spec;

typedef struct bwi_conv bwi_conv; /* primitives and packed weights of one convolution; not thread-safe */

typedef struct bwi_compute {
    const char *name;
    bwi_dtype real; /* F32 or F64 */
    /* Creates a convolution; err says the spec when it cannot be done. */
    bw_status (*conv_create)(const bwi_conv_spec *spec, bwi_conv **out, bw_error *err);
    void (*conv_destroy)(bwi_conv **conv);
    size_t (*conv_scratch)(
        const bwi_conv *conv); /* bytes of 64-byte aligned scratch that each call below needs; shared among convolutions */
    /* Packs weights for every pass of the coming step. w: [oc,kh,kw,ic/groups] real, in; integers of wbits if src is U8. */
    bw_status (*conv_weights)(bwi_conv *conv, const void *w, double scale, double back_scale, void *scratch);
    /* src [n,ih,iw,ic] spec.src, in; dst [n,oh,ow,oc] real, out */
    bw_status (*conv_forward)(bwi_conv *conv, const void *src, void *dst, void *scratch);
    /* The backward pass takes the batch in pieces of conv_piece images, a divisor of n: first = 0, piece, 2 * piece ... in this order. So the
     * caller can make gdst a piece at a time and have it used while it is in cache. */
    int (*conv_piece)(const bwi_conv *conv);
    /* src [n,ih,iw,ic] as in forward; gdst [piece,oh,ow,oc] real, in; gw [oc,kh,kw,ic/groups] real, out, written with the last piece; gsrc
     * [n,ih,iw,ic] real, of which the piece's images are written. gw or gsrc NULL: not wanted. */
    bw_status (*conv_backward)(bwi_conv *conv, int first, const void *src, const void *gdst, void *gw, void *gsrc,
                               void *scratch);
} bwi_compute;

extern const bwi_compute bwi_compute_onednn;        /* real F32 */
extern const bwi_compute bwi_compute_reference_f32; /* plain C */
extern const bwi_compute bwi_compute_reference_f64; /* plain C, for gradient checks */
static inline int bwi_conv_out(int in, int k, int stride, int pad)
{
    return (in + 2 * pad - k) / stride + 1;
}
#endif
