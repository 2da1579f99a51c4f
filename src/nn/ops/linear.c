/* Fully connected layer on a 1x1 map, as PyTorch's Linear: weight [O,I], optional bias [O], optional weight quantizer. */
#include "nn/ops/conv_common.h"

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_linear_fns);
const bwi_op_fns BWI_V(bwi_linear_fns) = {
    .forward = conv_forward,
    .backward = conv_backward,
    .tangent = conv_tangent,
    .backward_tangent = conv_backward_tangent,
};

#if BWI_MAIN
static bw_status linear_spec(const bwi_node *node, int n, const bwi_shape *in, bwi_conv_spec *s)
{
    s->n = n;
    s->ih = s->iw = 1, s->ic = in->c;
    s->oc = node->attr.out, s->kh = s->kw = 1;
    s->stride = s->groups = 1;
    s->pad = 0;
    return BW_OK;
}

static bw_status linear_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    if (in->h != 1 || in->w != 1)
        return bwi_fail(err, BW_SHAPE,
                        "a linear layer takes a 1x1 map, found %dx%d with %d channels: pool it first, e.g. with global_pool",
                        in->h, in->w, in->c);
    if (node->attr.out < 1) return bwi_fail(err, BW_ARG, "a linear layer needs at least 1 output, found %d", node->attr.out);
    *out = (bwi_shape){1, 1, node->attr.out};
    return BW_OK;
}

static bw_status linear_params(bwi_graph *g, bwi_node *node, const bwi_shape *in, bw_error *err)
{
    bwi_conv_spec s = {0};
    linear_spec(node, 1, in, &s);
    return conv_add_params(g, node, &s, 2, err);
}

static size_t linear_scratch(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out, bwi_dtype real_type)
{
    (void)out;
    bwi_conv_spec s = {0};
    linear_spec(node, n, in, &s);
    return conv_scratch_of(&s, real_type);
}

const bwi_op bwi_op_linear = {
    .name = "linear",
    .summary = "fully connected layer on a 1x1 map (PyTorch's Linear)",
    .n_in = 1,
    .infer = linear_infer,
    .params = linear_params,
    .scratch_size = linear_scratch,
    .conv_spec = linear_spec,
    .needs_in = true,
    .fns = BWI_VARIANT_TABLE(bwi_linear_fns),
};
#endif
