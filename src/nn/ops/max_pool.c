/* Largest value of each window; the first one of equals gets the gradient and NaN wins, as PyTorch's MaxPool2d. Padding is never chosen.
 * `save` holds the choice as a position in the window, uint8 [n,oh,ow,c]. */
#include "nn/ops/pool.h"

static bw_status max_pool_forward(bwi_call *c, bw_error *err)
{
    (void)err;
    const bwi_attr *a = &c->node->attr;
    const bwi_shape is = c->in[0].shape, os = c->out.shape;
    const int stride = pool_stride(a);
    const real *x = c->in[0].data;
    const size_t rows = (size_t)c->n * (size_t)os.h, ch = (size_t)is.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const real *image = x + r / (size_t)os.h * bwi_shape_size(is);
            const int oy = (int)(r % (size_t)os.h);
            pool_range wy = pool_window(oy, a->kh, stride, a->pad, is.h);
            for (int ox = 0; ox < os.w; ox++) {
                pool_range wx = pool_window(ox, a->kw, stride, a->pad, is.w);
                size_t at = (r * (size_t)os.w + (size_t)ox) * ch;
                real *restrict y = (real *)c->out.data + at;
                uint8_t *restrict choice = (uint8_t *)c->save + at;
                for (size_t k = 0; k < ch; k++) y[k] = (real)-INFINITY;
                for (int iy = wy.lo; iy < wy.hi; iy++)
                    for (int ix = wx.lo; ix < wx.hi; ix++) {
                        const real *restrict v = image + ((size_t)iy * (size_t)is.w + (size_t)ix) * ch;
                        /* the first value is taken whatever it is, so that a window of -inf has a choice, too */
                        const bool first = iy == wy.lo && ix == wx.lo;
                        const uint8_t here = (uint8_t)((iy - (oy * stride - a->pad)) * a->kw + ix - (ox * stride - a->pad));
#pragma omp simd
                        for (size_t k = 0; k < ch; k++) {
                            bool take = first | (v[k] > y[k]) | (v[k] != v[k]);
                            y[k] = take ? v[k] : y[k];
                            choice[k] = take ? here : choice[k];
                        }
                    }
            }
        }
    }
    return BW_OK;
}

static bw_status max_pool_backward(bwi_call *c, bw_error *err)
{
    (void)err;
    bwi_buf *in = &c->in[0];
    if (!in->grad) return BW_OK;
    assert(c->out.gscale == 1);
    const bwi_attr *a = &c->node->attr;
    const bwi_shape is = in->shape, os = c->out.shape;
    const int stride = pool_stride(a);
    const size_t rows = (size_t)c->n * (size_t)is.h, ch = (size_t)is.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const size_t image = r / (size_t)is.h * bwi_shape_size(os);
            const int iy = (int)(r % (size_t)is.h);
            pool_range cy = pool_cover(iy, a->kh, stride, a->pad, os.h);
            for (int ix = 0; ix < is.w; ix++) {
                pool_range cx = pool_cover(ix, a->kw, stride, a->pad, os.w);
                real *restrict g = (real *)in->grad + (r * (size_t)is.w + (size_t)ix) * ch;
                if (!in->acc) memset(g, 0, ch * sizeof *g);
                for (int oy = cy.lo; oy < cy.hi; oy++)
                    for (int ox = cx.lo; ox < cx.hi; ox++) {
                        size_t at = image + ((size_t)oy * (size_t)os.w + (size_t)ox) * ch;
                        const real *restrict v = (const real *)c->out.grad + at;
                        const uint8_t *restrict choice = (const uint8_t *)c->save + at;
                        const uint8_t here = (uint8_t)((iy - (oy * stride - a->pad)) * a->kw + ix - (ox * stride - a->pad));
#pragma omp simd
                        for (size_t k = 0; k < ch; k++) g[k] += choice[k] == here ? v[k] : 0;
                    }
            }
        }
    }
    return BW_OK;
}

static bw_status max_pool_tangent(const bwi_call *c, bwi_call *t, bw_error *err)
{
    (void)err;
    const bwi_attr *a = &c->node->attr;
    const bwi_shape is = c->in[0].shape, os = c->out.shape;
    const int stride = pool_stride(a);
    const size_t rows = (size_t)c->n * (size_t)os.h, ch = (size_t)is.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const real *image = (const real *)t->in[0].data + r / (size_t)os.h * bwi_shape_size(is);
            const int oy = (int)(r % (size_t)os.h);
            for (int ox = 0; ox < os.w; ox++) {
                const size_t at = (r * (size_t)os.w + (size_t)ox) * ch;
                const uint8_t *choice = (const uint8_t *)c->save + at;
                real *ry = (real *)t->out.data + at;
                for (size_t k = 0; k < ch; k++) {
                    const int iy = oy * stride - a->pad + choice[k] / a->kw, ix = ox * stride - a->pad + choice[k] % a->kw;
                    ry[k] = image[((size_t)iy * (size_t)is.w + (size_t)ix) * ch + k];
                }
            }
        }
    }
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_max_pool_fns);
const bwi_op_fns BWI_V(bwi_max_pool_fns) = {
    .forward = max_pool_forward, .backward = max_pool_backward, .tangent = max_pool_tangent};

#if BWI_MAIN
static bw_status max_pool_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    bw_status st = pool_infer(node, in, out, err);
    if (st == BW_OK && (int64_t)node->attr.kh * node->attr.kw > 256)
        return bwi_fail(err, BW_UNSUPPORTED, "max_pool takes kernels of at most 256 positions, found %dx%d", node->attr.kh,
                        node->attr.kw);
    return st;
}

static size_t max_pool_save(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out, bwi_dtype real_type)
{
    (void)node, (void)in, (void)real_type;
    return (size_t)n * bwi_shape_size(*out);
}

const bwi_op bwi_op_max_pool = {
    .name = "max_pool",
    .summary = "largest value of each window (PyTorch's MaxPool2d)",
    .n_in = 1,
    .sign = BWI_SIGN_KEEPS,
    .infer = max_pool_infer,
    .save_size = max_pool_save,
    .fns = BWI_VARIANT_TABLE(bwi_max_pool_fns),
};
#endif
