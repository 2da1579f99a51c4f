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

/* R{code}: the rounding passed as the identity, then what straight-through backward multiplies by, too: mask of the clip and slope. Activation
 * quantizers are piecewise linear, so the slope itself has no tangent. */
static bw_status quantize_tangent(const bwi_call *c, bwi_call *t, bw_error *err)
{
    (void)err;
    const bwi_qloops *loops = c->node->aq->q->loops[c->variant];
    const real *x = c->in[0].data, *rx = t->in[0].data;
    real *ry = t->out.data;
    const size_t n = (size_t)c->n * bwi_shape_size(c->in[0].shape);
    bwi_qk straight = c->node->aq->k;
    straight.delta = 0;
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t from = bwi_chunk(n, BWI_QBLOCK, (size_t)i), to = bwi_chunk(n, BWI_QBLOCK, (size_t)i + 1);
        if (from < to) loops->backward(&straight, x + from, rx + from, 1, to - from, ry + from, NULL);
    }
    return BW_OK;
}

/* R{gx} = R{gc} * (1 + delta * sign(gc) * (u - c)) * mask * slope: the residual u - c is a constant, and a sign has no derivative. */
static bw_status quantize_backward_tangent(const bwi_call *c, bwi_call *t, bw_error *err)
{
    (void)err;
    const bwi_qloops *loops = c->node->aq->q->loops[c->variant];
    const real *x = c->in[0].data, *g = c->out.grad, *rg = t->out.grad;
    real *to = t->in[0].grad;
    const size_t n = (size_t)c->n * bwi_shape_size(c->in[0].shape);
    const bwi_qk *k = &c->node->aq->k;
    const real delta = (real)(k->mul * c->out.gscale < 0 ? -k->delta : k->delta);
    bwi_qk straight = *k;
    straight.delta = 0;
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t end = bwi_chunk(n, BWI_QBLOCK, (size_t)i + 1);
        real u[BWI_QBLOCK], code[BWI_QBLOCK], scaled[BWI_QBLOCK];
        for (size_t at = bwi_chunk(n, BWI_QBLOCK, (size_t)i); at < end; at += BWI_QBLOCK) {
            const size_t m = end - at < BWI_QBLOCK ? end - at : BWI_QBLOCK;
            loops->latents(k, x + at, m, u, code);
            for (size_t j = 0; j < m; j++) {
                const real d = delta * (u[j] - code[j]), sign = g[at + j] > 0 ? R(1.0) : g[at + j] < 0 ? R(-1.0) : R(0.0);
                scaled[j] = rg[at + j] * (1 + sign * d);
            }
            loops->backward(&straight, x + at, scaled, c->out.gscale, m, t->in[0].acc ? scaled : to + at, NULL);
            for (size_t j = 0; j < m && t->in[0].acc; j++) to[at + j] += scaled[j];
        }
    }
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_quantize_fns);
const bwi_op_fns BWI_V(bwi_quantize_fns) = {
    .forward = quantize_forward,
    .backward = quantize_backward,
    .tangent = quantize_tangent,
    .backward_tangent = quantize_backward_tangent,
};

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
