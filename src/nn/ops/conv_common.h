/* What conv2d and linear share: a linear layer is a 1x1 convolution on a 1x1 map. For files that are compiled once per variant.
 *
 * With quantizers the compute table multiplies codes: value = S * conv(src, w), S = in.scale * (scale of the weight quantizer). So
 *   dL/d(code of w)   = S * corr(src, g)      and the weight quantizer's backward takes it from there,
 *   dL/d(code of src) = S * convT(g, w)       of which S stays outside as in.gscale, so that weights stay integers. */
#ifndef BWI_CONV_COMMON_H
#define BWI_CONV_COMMON_H
#include "base/par.h"
#include "base/status.h"
#include "nn/nn.h"
#include "nn/ops/elementwise.h"
#include <assert.h>
#include <string.h>

/* The operation's scratch begins behind the convolution's. */
static void *conv_own_scratch(const bwi_call *c)
{
    return (char *)c->scratch + (c->compute->conv_scratch(c->conv) + 63) / 64 * 64;
}

static double conv_scale(const bwi_call *c)
{
    return c->in[0].scale * (c->node->wq ? c->node->wq->k.scale : 1);
}

/* Whether the input holds codes; then the scale stays outside the input's gradient. */
static bool conv_takes_codes(const bwi_call *c)
{
    return c->in[0].type != BWI_REAL_DT || c->in[0].scale != 1;
}

static bw_status conv_failed(const bwi_call *c, bw_status st, const char *what, bw_error *err)
{
    return bwi_fail(err, st, "the %s of the convolution failed in %s", what, c->compute->name);
}

static bw_status conv_pack(bwi_call *c, bw_error *err)
{
    const bwi_param *w = &c->graph->param[c->node->param[0]];
    const bwi_quant *wq = c->node->wq;
    const void *codes = w->data;
    double start = bwi_now(), packed;
    if (wq) {
        void *own = conv_own_scratch(c);
        bwi_quant_codes(wq, w->data, w->dtype, w->numel, BWI_REAL_DT, own);
        codes = own;
    }
    packed = bwi_now();
    c->times->quantizers += packed - start;
    double scale = conv_scale(c);
    bw_status st = c->compute->conv_weights(c->conv, codes, scale, conv_takes_codes(c) ? 1 : scale, c->scratch);
    c->times->forward += bwi_now() - packed;
    return st == BW_OK ? BW_OK : conv_failed(c, st, "packing of the weights", err);
}

static size_t conv_rows(const bwi_call *c)
{
    return (size_t)c->n * (size_t)c->out.shape.h * (size_t)c->out.shape.w;
}

/* y [rows,oc] += bias [oc] */
static void conv_add_bias(const bwi_call *c, const real *restrict bias)
{
    size_t rows = conv_rows(c), oc = (size_t)c->out.shape.c;
    real *restrict y = c->out.data;
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++)
#pragma omp simd
            for (size_t k = 0; k < oc; k++) y[r * oc + k] += bias[k];
    }
}

static bw_status conv_forward(bwi_call *c, bw_error *err)
{
    if (c->repack) {
        bw_status packed = conv_pack(c, err);
        if (packed != BW_OK) return packed;
    }
    double start = bwi_now();
    bw_status st = c->compute->conv_forward(c->conv, c->in[0].data, c->out.data, c->scratch);
    if (st != BW_OK) return conv_failed(c, st, "forward pass", err);
    if (c->node->attr.bias) conv_add_bias(c, c->graph->param[c->node->param[1]].data);
    c->times->forward += bwi_now() - start;
    return BW_OK;
}

/* gb [oc] = sum over the rows of g [rows,oc], in double: partial sums [BWI_CHUNKS,oc] of the chunks, added in their order. */
static void conv_bias_gradient(const bwi_call *c, double *partial, real *gb)
{
    size_t rows = conv_rows(c), oc = (size_t)c->out.shape.c;
    BWI_PARALLEL_CHUNKS(i)
    {
        double *restrict sum = partial + (size_t)i * oc;
        memset(sum, 0, oc * sizeof *sum);
        for (size_t r = bwi_chunk(rows, 1, (size_t)i); r < bwi_chunk(rows, 1, (size_t)i + 1); r++) {
            const real *restrict g = (const real *)c->out.grad + r * oc;
#pragma omp simd
            for (size_t k = 0; k < oc; k++) sum[k] += (double)g[k];
        }
    }
    for (int i = 1; i < BWI_CHUNKS; i++)
        for (size_t k = 0; k < oc; k++) partial[k] += partial[(size_t)i * oc + k];
    for (size_t k = 0; k < oc; k++) gb[k] = (real)partial[k];
}

/* Images first .. first + n - 1 of the gradient of the output. */
static const void *conv_gdst(const bwi_call *c, int first, int n)
{
    if (c->behind) {
        c->behind->node->op->fns[c->variant]->backward_part(c->behind, first, n, c->part);
        return c->part;
    }
    return (const char *)c->out.grad + (size_t)first * bwi_shape_size(c->out.shape) * sizeof(real);
}

/* Both passes, a piece of the batch at a time. gsrc: NULL when nobody wants the input's gradient. */
static bw_status conv_backward_passes(bwi_call *c, real *gsrc, bw_error *err)
{
    const bwi_param *w = &c->graph->param[c->node->param[0]];
    const int piece = c->compute->conv_piece(c->conv);
    for (int first = 0; first < c->batch; first += piece) {
        const void *g = conv_gdst(c, first, piece);
        bw_status st = c->compute->conv_backward(c->conv, first, c->in[0].data, g, w->grad, gsrc, c->scratch);
        if (st != BW_OK) return conv_failed(c, st, "backward pass", err);
    }
    return BW_OK;
}

/* dL/d(quantized weight) of what the compute table left: value = scale * code, and the quantizer's scale is part of S. */
static void conv_weight_value_gradient(const bwi_call *c, const real *restrict g, size_t n, real *restrict out)
{
    const real scale = (real)c->in[0].scale;
#pragma omp simd
    for (size_t k = 0; k < n; k++) out[k] = scale * g[k];
}

/* Where the input's gradient is made: in its place, or aside when it is to be added. */
static real *conv_gsrc(const bwi_call *c)
{
    return c->in[0].grad && c->in[0].acc ? conv_own_scratch(c) : c->in[0].grad;
}

/* Brings what was made into place and into its units. */
static void conv_gsrc_done(bwi_call *c, const real *gsrc)
{
    bwi_buf *in = &c->in[0];
    double gscale = conv_takes_codes(c) ? conv_scale(c) : 1;
    if (in->grad && in->acc) {
        assert(in->gscale != 0);
        bwi_accumulate(in->grad, gsrc, (size_t)c->n * bwi_shape_size(in->shape), (real)(gscale / in->gscale));
    } else if (in->grad) {
        in->gscale = gscale;
    }
}

static bw_status conv_backward(bwi_call *c, bw_error *err)
{
    const bwi_param *w = &c->graph->param[c->node->param[0]];
    bwi_quant *wq = c->node->wq;
    double scale = conv_scale(c), start = bwi_now(), norm = c->times->norm;
    assert(c->out.gscale == 1);
    real *gsrc = conv_gsrc(c);
    bw_status st = conv_backward_passes(c, gsrc, err);
    if (st != BW_OK) return st;
    conv_gsrc_done(c, gsrc);
    if (c->node->attr.bias) conv_bias_gradient(c, conv_own_scratch(c), c->graph->param[c->node->param[1]].grad);
    double done = bwi_now();
    c->times->backward += done - start - (c->times->norm - norm); /* what stands behind counts for itself */
    if (wq) {
        if (wq->gxq) conv_weight_value_gradient(c, w->grad, w->numel, wq->gxq);
        bwi_quant_backward(wq, w->data, w->dtype, w->grad, scale, w->numel, w->grad);
    } else if (scale != 1) {
        real *g = w->grad;
#pragma omp simd
        for (size_t k = 0; k < w->numel; k++) g[k] *= (real)scale;
    }
    c->times->quantizers += bwi_now() - done;
    return BW_OK;
}

/* Weights and bias have no tangents of their own: hvp.c puts that of the weights in question into out itself. */
static bw_status conv_tangent(const bwi_call *c, bwi_call *t, bw_error *err)
{
    bw_status st = c->compute->conv_forward(c->conv, t->in[0].data, t->out.data, c->scratch);
    return st == BW_OK ? BW_OK : conv_failed(c, st, "tangent pass", err);
}

static bw_status conv_backward_tangent(const bwi_call *c, bwi_call *t, bw_error *err)
{
    real *gsrc = conv_gsrc(t);
    const int piece = c->compute->conv_piece(c->conv);
    for (int first = 0; gsrc && first < c->batch; first += piece) {
        bw_status st = c->compute->conv_backward(c->conv, first, NULL, conv_gdst(t, first, piece), NULL, gsrc, c->scratch);
        if (st != BW_OK) return conv_failed(c, st, "backward pass to the input", err);
    }
    conv_gsrc_done(t, gsrc);
    return BW_OK;
}

#if BWI_MAIN
static size_t conv_numel(const bwi_conv_spec *s)
{
    return (size_t)s->oc * (size_t)s->kh * (size_t)s->kw * (size_t)(s->ic / s->groups);
}

/* Weight codes in forward; partial sums of the bias, then the input's gradient before it is added, in backward. */
static size_t conv_scratch_of(const bwi_conv_spec *s, bwi_dtype real_type)
{
    size_t weights = conv_numel(s), input = (size_t)s->n * (size_t)s->ih * (size_t)s->iw * (size_t)s->ic;
    size_t values = (weights > input ? weights : input) * bwi_dtype_size(real_type);
    size_t sums = BWI_CHUNKS * (size_t)s->oc * sizeof(double);
    return values > sums ? values : sums;
}

/* weight: ndim 4 or 2, dim in PyTorch's order */
static bw_status conv_add_params(bwi_graph *g, bwi_node *node, const bwi_conv_spec *s, int ndim, bw_error *err)
{
    const int64_t dim[4] = {s->oc, s->ic / s->groups, s->kh, s->kw};
    int index[2] = {-1, -1};
    bw_status st = bwi_graph_add_param(g, node->name, "weight", BWI_PARAM_WEIGHT, ndim, dim, &index[0], err);
    if (st == BW_OK && node->attr.bias) st = bwi_graph_add_param(g, node->name, "bias", BWI_PARAM_BIAS, 1, dim, &index[1], err);
    node->param[0] = index[0];
    node->param[1] = index[1];
    return st;
}
#endif
#endif
