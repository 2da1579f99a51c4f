/* Average over windows; padding counts as zeros, as PyTorch's default count_include_pad=True. */
#include "nn/ops/pool.h"

static bw_status avg_pool_forward(bwi_call *c, bw_error *err)
{
    (void)err;
    const bwi_attr *a = &c->node->attr;
    const bwi_shape is = c->in[0].shape, os = c->out.shape;
    const int stride = pool_stride(a);
    const real *x = c->in[0].data;
    const real factor = 1 / ((real)a->kh * (real)a->kw);
    const size_t rows = (size_t)c->n * (size_t)os.h, ch = (size_t)is.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const real *image = x + r / (size_t)os.h * bwi_shape_size(is);
            pool_range wy = pool_window((int)(r % (size_t)os.h), a->kh, stride, a->pad, is.h);
            for (int ox = 0; ox < os.w; ox++) {
                pool_range wx = pool_window(ox, a->kw, stride, a->pad, is.w);
                real *restrict y = (real *)c->out.data + (r * (size_t)os.w + (size_t)ox) * ch;
                memset(y, 0, ch * sizeof *y);
                for (int iy = wy.lo; iy < wy.hi; iy++)
                    for (int ix = wx.lo; ix < wx.hi; ix++) {
                        const real *restrict v = image + ((size_t)iy * (size_t)is.w + (size_t)ix) * ch;
#pragma omp simd
                        for (size_t k = 0; k < ch; k++) y[k] += v[k];
                    }
#pragma omp simd
                for (size_t k = 0; k < ch; k++) y[k] *= factor;
            }
        }
    }
    return BW_OK;
}

static bw_status avg_pool_backward(bwi_call *c, bw_error *err)
{
    (void)err;
    bwi_buf *in = &c->in[0];
    if (!in->grad) return BW_OK;
    assert(c->out.gscale == 1);
    const bwi_attr *a = &c->node->attr;
    const bwi_shape is = in->shape, os = c->out.shape;
    const int stride = pool_stride(a);
    const real *gy = c->out.grad;
    const real factor = 1 / ((real)a->kh * (real)a->kw);
    const size_t rows = (size_t)c->n * (size_t)is.h, ch = (size_t)is.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const real *image = gy + r / (size_t)is.h * bwi_shape_size(os);
            pool_range cy = pool_cover((int)(r % (size_t)is.h), a->kh, stride, a->pad, os.h);
            for (int ix = 0; ix < is.w; ix++) {
                pool_range cx = pool_cover(ix, a->kw, stride, a->pad, os.w);
                real *restrict g = (real *)in->grad + (r * (size_t)is.w + (size_t)ix) * ch;
                if (!in->acc) memset(g, 0, ch * sizeof *g);
                for (int oy = cy.lo; oy < cy.hi; oy++)
                    for (int ox = cx.lo; ox < cx.hi; ox++) {
                        const real *restrict v = image + ((size_t)oy * (size_t)os.w + (size_t)ox) * ch;
#pragma omp simd
                        for (size_t k = 0; k < ch; k++) g[k] += factor * v[k];
                    }
            }
        }
    }
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_avg_pool_fns);
const bwi_op_fns BWI_V(bwi_avg_pool_fns) = {.forward = avg_pool_forward, .backward = avg_pool_backward};

#if BWI_MAIN
const bwi_op bwi_op_avg_pool = {
    .name = "avg_pool",
    .summary = "average over windows, padding counted as zeros (PyTorch's AvgPool2d)",
    .n_in = 1,
    .sign = BWI_SIGN_KEEPS,
    .infer = pool_infer,
    .linear = true,
    .fns = BWI_VARIANT_TABLE(bwi_avg_pool_fns),
};
#endif
