/* Activation quantizer: real values in, codes out. The executor prepares the quantizer and sets out.scale; where it can, it runs the
 * quantizer inside batch_norm's loop instead of this operation. */
#include "base/par.h"
#include "nn/nn.h"
#include "nn/ops/elementwise.h"

static bw_status quantize_forward(bwi_call *c, bw_error *err)
{
    (void)err;
    double start = bwi_now();
    size_t n = (size_t)c->n * bwi_shape_size(c->in[0].shape);
    bwi_quant_codes(c->node->aq, c->in[0].data, BWI_REAL_DT, n, c->out.type, c->out.data);
    c->times->quantizers += bwi_now() - start;
    return BW_OK;
}

/* Runs for the quantizer's own parameters even when nobody wants the input's gradient (the network's input). */
static bw_status quantize_backward(bwi_call *c, bw_error *err)
{
    (void)err;
    double start = bwi_now();
    bwi_buf *in = &c->in[0];
    size_t n = (size_t)c->n * bwi_shape_size(in->shape);
    real *gx = in->grad && !in->acc ? in->grad : c->scratch;
    bwi_quant_backward(c->node->aq, in->data, BWI_REAL_DT, c->out.grad, c->out.gscale, n, gx);
    if (in->grad && in->acc) bwi_accumulate(in->grad, gx, n, 1);
    c->times->quantizers += bwi_now() - start;
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_quantize_fns);
const bwi_op_fns BWI_V(bwi_quantize_fns) = {.forward = quantize_forward, .backward = quantize_backward};

#if BWI_MAIN
static bw_status quantize_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    (void)node, (void)err;
    *out = in[0];
    return BW_OK;
}

static size_t quantize_scratch(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out, bwi_dtype real_type)
{
    (void)node, (void)out;
    return (size_t)n * bwi_shape_size(*in) * bwi_dtype_size(real_type);
}

const bwi_op bwi_op_quantize = {
    .name = "quantize",
    .summary = "activation quantizer",
    .n_in = 1,
    .sign = BWI_SIGN_KEEPS,
    .infer = quantize_infer,
    .scratch_size = quantize_scratch,
    .needs_in = true,
    .fns = BWI_VARIANT_TABLE(bwi_quantize_fns),
};
#endif
