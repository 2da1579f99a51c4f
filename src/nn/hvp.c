/* Products with the Hessian of the loss by Pearlmutter's R-operator (nn.h, second derivatives; methods: 2.3): one pass forward that carries
 * tangents from the tensor in question to the logits, one pass back that carries the tangents of the gradients to it. No finite
 * differences, so the products are exact to rounding. What does not lie behind the tensor is never touched: a product for the last layer costs
 * a small part of one for the first. */
#include "nn/internal.h"
#include "nn/loss.h"
#include "base/par.h"
#include <string.h>

/* A quantized tensor as the executor sees it. */
typedef struct probe {
    const bwi_quant *q;
    bwi_step *step; /* of the layer that multiplies it */
    int value;      /* where tangents begin: the codes of an activation, the result of a layer whose weights are asked for */
    size_t n;
    double unit; /* d(code) / d(xq) */
} probe;

static bool find_probe(const bwi_exec *e, int i, probe *p)
{
    bwi_quant *q;
    const bwi_node *layer;
    if (!bwi_graph_quant(e->g, i, &q, &layer)) return false;
    const bool weight = q->role == BWI_WEIGHT;
    *p = (probe){.q = q, .value = weight ? layer->out : layer->in[0], .unit = q->k.mul / q->k.unit};
    p->n = weight ? e->g->param[layer->param[0]].numel : (size_t)e->n * bwi_shape_size(e->g->value[p->value].shape);
    p->step = &e->step[e->value[layer->out].step];
    return true;
}

size_t bwi_exec_tensor_size(const bwi_exec *e, int i)
{
    probe p;
    return find_probe(e, i, &p) ? p.n : 0;
}

static bw_status get_probe(const bwi_exec *e, int i, probe *p, bw_error *err)
{
    if (!e->second_order) return bwi_fail(err, BW_ARG, "second derivatives on an executor that was not made for them");
    if (!e->differentiated)
        return bwi_fail(err, BW_ARG, "second derivatives need a training forward, its loss and its backward first");
    if (!find_probe(e, i, p)) return bwi_fail(err, BW_ARG, "there is no quantized tensor %d", i);
    return BW_OK;
}

/* ---- Whole tensors ---------------------------------------------------------------------------------------------------------- */
static void scale_into(bwi_dtype type, const void *x, double factor, size_t n, void *to)
{
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t from = bwi_chunk(n, 16, (size_t)i), end = bwi_chunk(n, 16, (size_t)i + 1);
        const double *d = x;
        const float *f = x;
        if (type == BWI_DT_F64)
            for (size_t k = from; k < end; k++) ((double *)to)[k] = factor * d[k];
        else
            for (size_t k = from; k < end; k++) ((float *)to)[k] = (float)factor * f[k];
    }
}

static double dot(bwi_dtype type, const void *x, const void *y, size_t n)
{
    double part[BWI_CHUNKS], sum = 0;
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t from = bwi_chunk(n, 16, (size_t)i), end = bwi_chunk(n, 16, (size_t)i + 1);
        double s = 0;
        if (type == BWI_DT_F64) {
            const double *a = x, *b = y;
#pragma omp simd reduction(+ : s)
            for (size_t k = from; k < end; k++) s += a[k] * b[k];
        } else {
            const float *a = x, *b = y;
#pragma omp simd reduction(+ : s)
            for (size_t k = from; k < end; k++) s += (double)a[k] * (double)b[k];
        }
        part[i] = s;
    }
    for (int i = 0; i < BWI_CHUNKS; i++) sum += part[i];
    return sum;
}

/* ---- Weights ---------------------------------------------------------------------------------------------------------------- */
/* Behind the convolution's own scratch: room for its weights. */
static void *spare(const bwi_call *c)
{
    return (char *)c->scratch + (c->compute->conv_scratch(c->conv) + 63) / 64 * 64;
}

static double scale_of(const bwi_call *c)
{
    return c->in[0].scale * c->node->wq->k.scale;
}

/* out = scale * conv(input, w) for weight codes w [numel] real other than the layer's own. */
static bw_status convolve_with(const bwi_call *c, const void *w, void *out, bw_error *err)
{
    const bwi_param *own = &c->graph->param[c->node->param[0]];
    const double scale = scale_of(c), back = c->in[0].scale != 1 ? 1 : scale;
    bw_status st = c->compute->conv_weights(c->conv, w, scale, back, c->scratch);
    if (!st) st = c->compute->conv_forward(c->conv, c->in[0].data, out, c->scratch);
    bwi_quant_codes(c->node->wq, own->data, own->dtype, own->numel, own->dtype, spare(c));
    if (!st) st = c->compute->conv_weights(c->conv, spare(c), scale, back, c->scratch);
    return st ? bwi_fail(err, st, "layer %s: the convolution failed in %s", c->node->name, c->compute->name) : BW_OK;
}

/* corr(input, g) into the spare scratch: the gradient of the weight codes but for scale_of. g: gradient of the layer's result, or its tangent. */
static bw_status correlate(const bwi_call *c, const void *g, bw_error *err)
{
    const size_t image = bwi_shape_size(c->out.shape) * bwi_dtype_size(c->graph->real);
    const int piece = c->compute->conv_piece(c->conv);
    for (int first = 0; first < c->batch; first += piece) {
        bw_status st = c->compute->conv_backward(c->conv, first, c->in[0].data, (const char *)g + (size_t)first * image,
                                                 spare(c), NULL, c->scratch);
        if (st) return bwi_fail(err, st, "layer %s: the convolution failed in %s", c->node->name, c->compute->name);
    }
    return BW_OK;
}

/* ---- Passes ------------------------------------------------------------------------------------------------------------------ */
static void *tangent_of(const bwi_exec *e, const void *p)
{
    return p ? e->tangents + ((const char *)p - e->arena) : NULL;
}

/* The call of a step with R{data} and R{grad} in place of data and grad. */
static bwi_call tangent_call(const bwi_exec *e, const bwi_step *p)
{
    bwi_call t = p->call;
    for (int k = 0; k < p->n_in; k++) {
        t.in[k].data = tangent_of(e, t.in[k].data);
        t.in[k].grad = e->active[p->in[k]] ? tangent_of(e, t.in[k].grad) : NULL;
    }
    t.out.data = tangent_of(e, t.out.data);
    t.out.grad = tangent_of(e, t.out.grad);
    return t;
}

/* Whether tangents reach the step. */
static bool is_reached(const bwi_exec *e, const bwi_step *p)
{
    return e->active[p->in[0]] || (p->n_in > 1 && e->active[p->in[1]]);
}

static bw_status tangent_step(bwi_exec *e, const bwi_step *p, bw_error *err)
{
    const bwi_op_fns *fns = p->call.node->op->fns[e->variant];
    bwi_call t = tangent_call(e, p);
    if (!fns->tangent && !p->call.node->op->linear)
        return bwi_fail(err, BW_UNSUPPORTED, "layer %s: %s has no second derivatives", p->call.node->name,
                        p->call.node->op->name);
    for (int k = 0; k < p->n_in; k++)
        if (!e->active[p->in[k]])
            memset(t.in[k].data, 0, (size_t)e->n * bwi_shape_size(t.in[k].shape) * bwi_dtype_size(e->g->real));
    bw_status st = fns->tangent ? fns->tangent(&p->call, &t, err) : fns->forward(&t, err);
    if (st) return bwi_fail_in(err, st, "layer %s", p->call.node->name);
    bwi_zero_tail(e, t.out.data, t.out.type, t.out.shape);
    e->active[p->out] = true;
    return BW_OK;
}

static bw_status backward_tangent_step(bwi_exec *e, const bwi_step *p, bw_error *err)
{
    const bwi_op_fns *fns = p->call.node->op->fns[e->variant];
    bwi_call t = tangent_call(e, p);
    bw_status st;
    if (fns->backward_tangent) {
        st = fns->backward_tangent(&p->call, &t, err);
    } else {
        for (int k = 0; k < p->n_in; k++) t.in[k].data = p->call.in[k].data;
        t.out.data = p->call.out.data;
        st = fns->backward(&t, err);
    }
    if (st) return bwi_fail_in(err, st, "layer %s", p->call.node->name);
    for (int k = 0; k < p->n_in; k++) bwi_zero_tail(e, t.in[k].grad, e->g->real, t.in[k].shape);
    return BW_OK;
}

/* Both passes: from the tangent of the value in question to that of its gradient. */
static bw_status run(bwi_exec *e, const probe *p, bw_error *err)
{
    const bwi_slot_info *out = &e->value[e->g->output];
    const int first = p->q->role == BWI_WEIGHT ? (int)(p->step - e->step) + 1 : (int)(p->step - e->step);
    bw_status st = BW_OK;
    memset(e->active, 0, (size_t)e->g->n_values * sizeof *e->active);
    e->active[p->value] = true;
    for (int s = first; s < e->n_steps && !st; s++)
        if (is_reached(e, &e->step[s])) st = tangent_step(e, &e->step[s], err);
    if (st) return st;
    if (!e->active[e->g->output]) return bwi_fail(err, BW_ARG, "layer %s: its result is not used", p->step->call.node->name);
    void *rgrad = tangent_of(e, bwi_buffer_at(e, out->grad));
    bwi_softmax_ce[e->variant]->tangent(bwi_buffer_at(e, out->data), tangent_of(e, bwi_buffer_at(e, out->data)), e->n,
                                        e->g->classes, rgrad);
    bwi_zero_tail(e, rgrad, e->g->real, e->g->value[e->g->output].shape);
    for (int s = e->n_steps - 1; s >= first && !st; s--)
        if (is_reached(e, &e->step[s])) st = backward_tangent_step(e, &e->step[s], err);
    return st;
}

/* ---- Questions --------------------------------------------------------------------------------------------------------------- */
bw_status bwi_exec_hvp(bwi_exec *e, int i, const void *v, void *hv, double *vhv, bw_error *err)
{
    probe p;
    bw_status st;
    *vhv = 0;
    BWI_TRY(get_probe(e, i, &p, err));
    const bwi_dtype real = e->g->real;
    const bwi_call *c = &p.step->call;
    const bool weight = p.q->role == BWI_WEIGHT;
    const void *h;
    double factor = p.unit;
    if (weight) {
        scale_into(real, v, p.unit, p.n, spare(c));
        BWI_TRY(convolve_with(c, spare(c), tangent_of(e, c->out.data), err));
    } else {
        scale_into(real, v, p.unit, p.n, tangent_of(e, c->in[0].data));
        bwi_zero_tail(e, tangent_of(e, c->in[0].data), real, c->in[0].shape);
    }
    BWI_TRY(run(e, &p, err));
    if (weight) {
        BWI_TRY(correlate(c, tangent_of(e, c->out.grad), err));
        factor *= scale_of(c);
        h = spare(c);
    } else {
        factor *= e->value[p.value].gscale;
        h = tangent_of(e, c->in[0].grad);
    }
    *vhv = factor * dot(real, v, h, p.n);
    if (hv) scale_into(real, h, factor, p.n, hv);
fail:
    return st;
}

bw_status bwi_exec_code_gradient(bwi_exec *e, int i, bwi_qstats *stats, bw_error *err)
{
    probe p;
    bw_status st;
    *stats = (bwi_qstats){0};
    BWI_TRY(get_probe(e, i, &p, err));
    const bwi_call *c = &p.step->call;
    const bool weight = p.q->role == BWI_WEIGHT;
    if (weight) BWI_TRY(correlate(c, c->out.grad, err));
    bwi_qstats_of(weight ? spare(c) : c->in[0].grad, e->g->real, p.n, stats);
    const double factor = p.unit * (weight ? scale_of(c) : e->value[p.value].gscale), size = factor < 0 ? -factor : factor;
    const double a = factor * stats->min, b = factor * stats->max;
    *stats = (bwi_qstats){.n = stats->n,
                          .mean = factor * stats->mean,
                          .mean_abs = size * stats->mean_abs,
                          .std = size * stats->std,
                          .min = a < b ? a : b,
                          .max = a < b ? b : a,
                          .max_abs = size * stats->max_abs};
fail:
    return st;
}
