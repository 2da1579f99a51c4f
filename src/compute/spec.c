#include "compute/spec.h"
#include <limits.h>
#include <stdio.h>

const char *bwi_conv_text(const bwi_conv_spec *s, char buf[BWI_CONV_TEXT])
{
    snprintf(buf, BWI_CONV_TEXT,
             "convolution %dx%d of %d to %d channels, stride %d, pad %d, groups %d, on [%d,%d,%d,%d], source %s, operands %s",
             s->kh, s->kw, s->ic, s->oc, s->stride, s->pad, s->groups, s->n, s->ih, s->iw, s->ic, bwi_dtype_name(s->src),
             bwi_dtype_name(s->operand));
    return buf;
}

/* a * b * c * d * 8 (the widest element) fits an int64_t; all factors are positive ints. */
static bool product_fits(int a, int b, int c, int d)
{
    int64_t p = (int64_t)a * b, q = (int64_t)c * d;
    return p <= INT64_MAX / 8 / q;
}

bw_status bwi_conv_check(const bwi_conv_spec *s, bwi_dtype real, bw_error *err)
{
    char text[BWI_CONV_TEXT];
    bwi_conv_text(s, text);
    if (s->n < 1 || s->ih < 1 || s->iw < 1 || s->ic < 1 || s->oc < 1 || s->kh < 1 || s->kw < 1 || s->stride < 1 ||
        s->groups < 1)
        return bwi_fail(err, BW_SHAPE, "%s: sizes, stride and groups must be positive", text);
    if (s->pad < 0 || s->pad > (INT_MAX - (s->ih > s->iw ? s->ih : s->iw)) / 2)
        return bwi_fail(err, BW_SHAPE, "%s: the padding must be 0 or more and small", text);
    if (s->ic % s->groups || s->oc % s->groups)
        return bwi_fail(err, BW_SHAPE, "%s: both channel counts must be multiples of groups", text);
    if (s->kh > s->ih + 2 * s->pad || s->kw > s->iw + 2 * s->pad)
        return bwi_fail(err, BW_SHAPE, "%s: the kernel is larger than the padded map", text);
    int oh = bwi_conv_out(s->ih, s->kh, s->stride, s->pad), ow = bwi_conv_out(s->iw, s->kw, s->stride, s->pad);
    if (!product_fits(s->n, s->ih, s->iw, s->ic) || !product_fits(s->n, oh, ow, s->oc) ||
        !product_fits(s->oc, s->kh, s->kw, s->ic / s->groups))
        return bwi_fail(err, BW_SHAPE, "%s: too large", text);
    if ((s->src != real && s->src != BWI_DT_U8) || (s->operand != real && s->operand != BWI_DT_I16))
        return bwi_fail(err, BW_ARG, "%s: the source must be %s or U8, operands %s or I16", text, bwi_dtype_name(real),
                        bwi_dtype_name(real));
    if (s->src != BWI_DT_U8 && s->operand == BWI_DT_I16 && s->codes)
        return bwi_fail(err, BW_ARG, "%s: codes held as reals are exact and take no operands of I16", text);
    if (s->src == BWI_DT_U8 && (s->wbits < 1 || s->wbits > 8 || s->abits < 1 || s->abits > 8))
        return bwi_fail(err, BW_ARG, "%s: weights of %d bits and codes of %d, not 1 to 8", text, s->wbits, s->abits);
    return BW_OK;
}
