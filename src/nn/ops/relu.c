/* max(x, 0). NaN stays NaN, so that a diverged run is noticed at the loss. May run in place. */
#include "nn/nn.h"
#include "nn/ops/elementwise.h"
#include <assert.h>

static bw_status relu_forward(bwi_call *c, bw_error *err)
{
    (void)err;
    const real *x = c->in[0].data;
    real *y = c->out.data;
    size_t n = (size_t)c->n * bwi_shape_size(c->out.shape);
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t end = bwi_chunk(n, BWI_LINE, (size_t)i + 1);
#pragma omp simd
        for (size_t k = bwi_chunk(n, BWI_LINE, (size_t)i); k < end; k++) y[k] = x[k] < 0 ? 0 : x[k];
    }
    return BW_OK;
}

static bw_status relu_backward(bwi_call *c, bw_error *err)
{
    (void)err;
    if (!c->in[0].grad) return BW_OK;
    assert(c->out.gscale == 1);
    const real *y = c->out.data, *gy = c->out.grad;
    real *gx = c->in[0].grad;
    size_t n = (size_t)c->n * bwi_shape_size(c->out.shape);
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t k = bwi_chunk(n, BWI_LINE, (size_t)i), end = bwi_chunk(n, BWI_LINE, (size_t)i + 1);
        if (c->in[0].acc)
#pragma omp simd
            for (size_t j = k; j < end; j++) gx[j] += y[j] > 0 ? gy[j] : 0;
        else
#pragma omp simd
            for (size_t j = k; j < end; j++) gx[j] = y[j] > 0 ? gy[j] : 0;
    }
    return BW_OK;
}

static bw_status relu_tangent(const bwi_call *c, bwi_call *t, bw_error *err)
{
    (void)err;
    const real *y = c->out.data, *rx = t->in[0].data;
    real *ry = t->out.data;
    size_t n = (size_t)c->n * bwi_shape_size(c->out.shape);
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t end = bwi_chunk(n, BWI_LINE, (size_t)i + 1);
#pragma omp simd
        for (size_t k = bwi_chunk(n, BWI_LINE, (size_t)i); k < end; k++) ry[k] = y[k] > 0 ? rx[k] : 0;
    }
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_relu_fns);
const bwi_op_fns BWI_V(bwi_relu_fns) = {.forward = relu_forward, .backward = relu_backward, .tangent = relu_tangent};

#if BWI_MAIN
static bw_status relu_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    (void)node, (void)err;
    *out = in[0];
    return BW_OK;
}

const bwi_op bwi_op_relu = {
    .name = "relu",
    .summary = "max(x, 0)",
    .n_in = 1,
    .sign = BWI_SIGN_NONNEGATIVE,
    .infer = relu_infer,
    .needs_out = true,
    .fns = BWI_VARIANT_TABLE(bwi_relu_fns),
};
#endif
