/* 2-D convolution with zero padding, as PyTorch's Conv2d: weight [O,I/groups,Kh,Kw], optional bias [O], optional weight quantizer. */
#include "nn/ops/conv_common.h"

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_conv2d_fns);
const bwi_op_fns BWI_V(bwi_conv2d_fns) = {
    .forward = conv_forward,
    .backward = conv_backward,
    .tangent = conv_tangent,
    .backward_tangent = conv_backward_tangent,
};

#if BWI_MAIN
static bw_status conv2d_spec(const bwi_node *node, int n, const bwi_shape *in, bwi_conv_spec *s)
{
    const bwi_attr *a = &node->attr;
    s->n = n;
    s->ih = in->h, s->iw = in->w, s->ic = in->c;
    s->oc = a->out, s->kh = a->kh, s->kw = a->kw;
    s->stride = a->stride ? a->stride : 1;
    s->pad = a->pad;
    s->groups = a->groups ? a->groups : 1;
    return BW_OK;
}

static bw_status conv2d_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    bwi_conv_spec s = {0};
    conv2d_spec(node, 1, in, &s);
    if (s.oc < 1 || s.kh < 1 || s.kw < 1 || s.stride < 1 || s.groups < 1 || s.pad < 0)
        return bwi_fail(
            err, BW_ARG,
            "a convolution needs at least 1 output channel, a kernel of at least 1x1, stride and groups of at least 1 and "
            "padding of at least 0, found %d output channels, a %dx%d kernel, stride %d, %d groups, padding %d",
            s.oc, s.kh, s.kw, s.stride, s.groups, s.pad);
    if (s.ic % s.groups || s.oc % s.groups)
        return bwi_fail(err, BW_SHAPE, "%d groups do not divide %d input and %d output channels", s.groups, s.ic, s.oc);
    if ((int64_t)s.ih + 2 * (int64_t)s.pad < s.kh || (int64_t)s.iw + 2 * (int64_t)s.pad < s.kw)
        return bwi_fail(err, BW_SHAPE, "%dx%d kernel with padding %d does not fit a %dx%d map", s.kh, s.kw, s.pad, s.ih, s.iw);
    *out = (bwi_shape){bwi_conv_out(s.ih, s.kh, s.stride, s.pad), bwi_conv_out(s.iw, s.kw, s.stride, s.pad), s.oc};
    return BW_OK;
}

static bw_status conv2d_params(bwi_graph *g, bwi_node *node, const bwi_shape *in, bw_error *err)
{
    bwi_conv_spec s = {0};
    conv2d_spec(node, 1, in, &s);
    return conv_add_params(g, node, &s, 4, err);
}

static size_t conv2d_scratch(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out, bwi_dtype real_type)
{
    (void)out;
    bwi_conv_spec s = {0};
    conv2d_spec(node, n, in, &s);
    return conv_scratch_of(&s, real_type);
}

const bwi_op bwi_op_conv2d = {
    .name = "conv2d",
    .summary = "convolution with zero padding (PyTorch's Conv2d)",
    .n_in = 1,
    .infer = conv2d_infer,
    .params = conv2d_params,
    .scratch_size = conv2d_scratch,
    .conv_spec = conv2d_spec,
    .needs_in = true,
    .fns = BWI_VARIANT_TABLE(bwi_conv2d_fns),
};
#endif
