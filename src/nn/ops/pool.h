/* What avg_pool and max_pool share: windows and shapes, as PyTorch's (floor mode, padding of at most half the kernel). For files that are
 * compiled once per variant. Backward gathers (each input position asks the windows that cover it), so that threads never write to the
 * same place and the order of the sums is fixed. */
#ifndef BWI_POOL_H
#define BWI_POOL_H
#include "base/par.h"
#include "base/status.h"
#include "nn/nn.h"
#include <assert.h>
#include <string.h>

typedef struct pool_range {
    int lo, hi; /* lo <= i < hi */
} pool_range;

/* Input positions [0, in) under output o. */
static inline pool_range pool_window(int o, int k, int stride, int pad, int in)
{
    int lo = o * stride - pad, hi = lo + k;
    return (pool_range){lo > 0 ? lo : 0, hi < in ? hi : in};
}

/* Outputs [0, out) whose windows cover input position i. */
static inline pool_range pool_cover(int i, int k, int stride, int pad, int out)
{
    int first = i + pad - k + 1, last = (i + pad) / stride;
    return (pool_range){first > 0 ? (first + stride - 1) / stride : 0, last < out - 1 ? last + 1 : out};
}

static inline int pool_stride(const bwi_attr *a)
{
    return a->stride ? a->stride : 1;
}

#if BWI_MAIN
static bw_status pool_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    const bwi_attr *a = &node->attr;
    int stride = pool_stride(a);
    if (a->kh < 1 || a->kw < 1 || stride < 1 || a->pad < 0)
        return bwi_fail(
            err, BW_ARG,
            "pooling needs a kernel of at least 1x1, a stride of at least 1 and padding of at least 0, found a %dx%d kernel, "
            "stride %d, padding %d",
            a->kh, a->kw, stride, a->pad);
    if (a->pad > a->kh / 2 || a->pad > a->kw / 2)
        return bwi_fail(err, BW_ARG, "padding %d is more than half of the %dx%d kernel", a->pad, a->kh, a->kw);
    if ((int64_t)in->h + 2 * (int64_t)a->pad < a->kh || (int64_t)in->w + 2 * (int64_t)a->pad < a->kw)
        return bwi_fail(err, BW_SHAPE, "%dx%d kernel with padding %d does not fit a %dx%d map", a->kh, a->kw, a->pad, in->h,
                        in->w);
    *out = (bwi_shape){bwi_conv_out(in->h, a->kh, stride, a->pad), bwi_conv_out(in->w, a->kw, stride, a->pad), in->c};
    return BW_OK;
}
#endif
#endif
