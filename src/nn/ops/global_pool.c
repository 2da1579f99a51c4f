/* Mean over the whole map: [n,h,w,c] -> [n,1,1,c]. */
#include "base/par.h"
#include "nn/nn.h"
#include <assert.h>
#include <string.h>

static bw_status global_pool_forward(bwi_call *c, bw_error *err)
{
    (void)err;
    const size_t ch = (size_t)c->in[0].shape.c, map = (size_t)c->in[0].shape.h * (size_t)c->in[0].shape.w;
    const real factor = 1 / (real)map;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t image = bwi_chunk((size_t)c->n, 1, (size_t)i); image < bwi_chunk((size_t)c->n, 1, (size_t)i + 1); image++) {
            const real *restrict x = (const real *)c->in[0].data + image * map * ch;
            real *restrict y = (real *)c->out.data + image * ch;
            memset(y, 0, ch * sizeof *y);
            for (size_t r = 0; r < map; r++)
#pragma omp simd
                for (size_t k = 0; k < ch; k++) y[k] += x[r * ch + k];
#pragma omp simd
            for (size_t k = 0; k < ch; k++) y[k] *= factor;
        }
    }
    return BW_OK;
}

static bw_status global_pool_backward(bwi_call *c, bw_error *err)
{
    (void)err;
    bwi_buf *in = &c->in[0];
    if (!in->grad) return BW_OK;
    assert(c->out.gscale == 1);
    const size_t ch = (size_t)in->shape.c, map = (size_t)in->shape.h * (size_t)in->shape.w, rows = (size_t)c->n * map;
    const real factor = 1 / (real)map;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const real *restrict gy = (const real *)c->out.grad + r / map * ch;
            real *restrict gx = (real *)in->grad + r * ch;
            if (!in->acc) memset(gx, 0, ch * sizeof *gx);
#pragma omp simd
            for (size_t k = 0; k < ch; k++) gx[k] += factor * gy[k];
        }
    }
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_global_pool_fns);
const bwi_op_fns BWI_V(bwi_global_pool_fns) = {.forward = global_pool_forward, .backward = global_pool_backward};

#if BWI_MAIN
static bw_status global_pool_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    (void)node, (void)err;
    *out = (bwi_shape){1, 1, in->c};
    return BW_OK;
}

const bwi_op bwi_op_global_pool = {
    .name = "global_pool",
    .summary = "mean over the whole map",
    .n_in = 1,
    .sign = BWI_SIGN_KEEPS,
    .infer = global_pool_infer,
    .linear = true,
    .fns = BWI_VARIANT_TABLE(bwi_global_pool_fns),
};
#endif
