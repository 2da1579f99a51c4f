/* Sum of two values of one shape: the residual connection. May run in place. */
#include "base/status.h"
#include "nn/nn.h"
#include "nn/ops/elementwise.h"
#include <assert.h>

static bw_status add_forward(bwi_call *c, bw_error *err)
{
    (void)err;
    const real *a = c->in[0].data, *b = c->in[1].data;
    real *y = c->out.data;
    size_t n = (size_t)c->n * bwi_shape_size(c->out.shape);
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t end = bwi_chunk(n, BWI_LINE, (size_t)i + 1);
#pragma omp simd
        for (size_t k = bwi_chunk(n, BWI_LINE, (size_t)i); k < end; k++) y[k] = a[k] + b[k];
    }
    return BW_OK;
}

static bw_status add_backward(bwi_call *c, bw_error *err)
{
    (void)err;
    assert(c->out.gscale == 1);
    const real *gy = c->out.grad;
    size_t n = (size_t)c->n * bwi_shape_size(c->out.shape);
    for (int j = 0; j < 2; j++) {
        bwi_buf *in = &c->in[j];
        real *gx = in->grad;
        if (!gx) continue;
        if (in->acc || (j == 1 && gx == c->in[0].grad)) { /* the latter: both inputs are one value */
            bwi_accumulate(gx, gy, n, 1);
            continue;
        }
        if (gx == gy) continue; /* the input's gradient shares the output's memory */
        BWI_PARALLEL_CHUNKS(i)
        {
            size_t end = bwi_chunk(n, BWI_LINE, (size_t)i + 1);
#pragma omp simd
            for (size_t k = bwi_chunk(n, BWI_LINE, (size_t)i); k < end; k++) gx[k] = gy[k];
        }
    }
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_add_fns);
const bwi_op_fns BWI_V(bwi_add_fns) = {.forward = add_forward, .backward = add_backward};

#if BWI_MAIN
static bw_status add_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    (void)node;
    if (in[0].h != in[1].h || in[0].w != in[1].w || in[0].c != in[1].c)
        return bwi_fail(err, BW_SHAPE,
                        "only values of one shape can be added, found %dx%d with %d channels and %dx%d with %d channels",
                        in[0].h, in[0].w, in[0].c, in[1].h, in[1].w, in[1].c);
    *out = in[0];
    return BW_OK;
}

const bwi_op bwi_op_add = {
    .name = "add",
    .summary = "sum of two values of one shape (residual connection)",
    .n_in = 2,
    .sign = BWI_SIGN_KEEPS,
    .infer = add_infer,
    .linear = true,
    .fns = BWI_VARIANT_TABLE(bwi_add_fns),
};
#endif
