/* Parameter-free shortcut of ResNets for CIFAR (He et al., Deep Residual Learning for Image Recognition, section 4.2, option A): every
 * stride-th pixel, with zero channels added: (out - in) / 2 of them in front, the rest behind. */
#include "base/par.h"
#include "base/status.h"
#include "nn/nn.h"
#include <assert.h>
#include <string.h>

static inline int shortcut_stride(const bwi_attr *a)
{
    return a->stride ? a->stride : 1;
}

static bw_status shortcut_a_forward(bwi_call *c, bw_error *err)
{
    (void)err;
    const bwi_shape is = c->in[0].shape, os = c->out.shape;
    const size_t stride = (size_t)shortcut_stride(&c->node->attr), oh = (size_t)os.h, ow = (size_t)os.w;
    const size_t front = (size_t)(os.c - is.c) / 2, rows = (size_t)c->n * oh, ic = (size_t)is.c, oc = (size_t)os.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const real *x = (const real *)c->in[0].data + (r / oh * (size_t)is.h + r % oh * stride) * (size_t)is.w * ic;
            real *y = (real *)c->out.data + r * ow * oc;
            for (size_t ox = 0; ox < ow; ox++, y += oc, x += stride * ic) {
                memset(y, 0, front * sizeof *y);
                memcpy(y + front, x, ic * sizeof *y);
                memset(y + front + ic, 0, (oc - ic - front) * sizeof *y);
            }
        }
    }
    return BW_OK;
}

static bw_status shortcut_a_backward(bwi_call *c, bw_error *err)
{
    (void)err;
    bwi_buf *in = &c->in[0];
    if (!in->grad) return BW_OK;
    assert(c->out.gscale == 1);
    const bwi_shape is = in->shape, os = c->out.shape;
    const size_t stride = (size_t)shortcut_stride(&c->node->attr), ih = (size_t)is.h, iw = (size_t)is.w;
    const size_t front = (size_t)(os.c - is.c) / 2, rows = (size_t)c->n * ih, ic = (size_t)is.c, oc = (size_t)os.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            real *gx = (real *)in->grad + r * iw * ic;
            if (!in->acc) memset(gx, 0, iw * ic * sizeof *gx);
            if (r % ih % stride) continue;
            const real *gy = (const real *)c->out.grad + (r / ih * (size_t)os.h + r % ih / stride) * (size_t)os.w * oc + front;
            for (size_t ix = 0; ix < iw; ix += stride, gx += stride * ic, gy += oc)
#pragma omp simd
                for (size_t k = 0; k < ic; k++) gx[k] += gy[k];
        }
    }
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_shortcut_a_fns);
const bwi_op_fns BWI_V(bwi_shortcut_a_fns) = {.forward = shortcut_a_forward, .backward = shortcut_a_backward};

#if BWI_MAIN
static bw_status shortcut_a_infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    const int stride = shortcut_stride(&node->attr), oc = node->attr.out;
    if (stride < 1) return bwi_fail(err, BW_ARG, "a shortcut needs a stride of at least 1, found %d", stride);
    if (oc < in->c)
        return bwi_fail(err, BW_SHAPE,
                        "an option-A shortcut can only add channels: expected at least the %d of its input, found %d", in->c,
                        oc);
    *out = (bwi_shape){(in->h - 1) / stride + 1, (in->w - 1) / stride + 1, oc};
    return BW_OK;
}

const bwi_op bwi_op_shortcut_a = {
    .name = "shortcut_a",
    .summary = "every stride-th pixel with zero channels added (option A of CIFAR ResNets)",
    .n_in = 1,
    .sign = BWI_SIGN_KEEPS,
    .infer = shortcut_a_infer,
    .linear = true,
    .fns = BWI_VARIANT_TABLE(bwi_shortcut_a_fns),
};
#endif
