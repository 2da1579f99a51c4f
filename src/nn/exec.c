/* Runs a planned graph: forward, loss, backward. */
#include "nn/internal.h"
#include "nn/loss.h"
#include "base/cpu.h"
#include "base/par.h"
#include <math.h>
#include <string.h>

/* ---- Create and destroy ----------------------------------------------------------------------------------------------------- */
/* Points the call of every step at its buffers, once and for all. */
static void bind(bwi_exec *e)
{
    const bwi_graph *g = e->g;
    char *save = e->saves;
    for (int s = 0; s < e->n_steps; s++) {
        bwi_step *p = &e->step[s];
        const bwi_node *n = &g->node[p->node];
        bwi_shape in[2];
        p->call = (bwi_call){.node = n,
                             .graph = e->g,
                             .compute = e->compute,
                             .conv = p->conv,
                             .variant = e->variant,
                             .residual = p->residual,
                             .relu = p->relu,
                             .n_q = p->n_q,
                             .batch = e->batch,
                             .by_parts = p->by_parts,
                             .scratch = p->by_parts ? e->parts : e->scratch,
                             .times = &e->times};
        if (s + 1 < e->n_steps && e->step[s + 1].by_parts) {
            p->call.behind = &e->step[s + 1].call;
            p->call.part = e->parts + e->part_scratch;
        }
        for (int k = 0; k < p->n_in; k++) {
            bwi_slot_info *v = &e->value[p->in[k]];
            in[k] = g->value[p->in[k]].shape;
            p->call.in[k] = (bwi_buf){.data = bwi_buffer_at(e, v->data),
                                      .type = v->type,
                                      .scale = 1,
                                      .grad = bwi_buffer_at(e, v->grad),
                                      .gscale = 1,
                                      .acc = v->last_use != s,
                                      .shape = in[k]};
        }
        const bwi_slot_info *out = &e->value[p->out];
        p->call.out = (bwi_buf){.data = bwi_buffer_at(e, out->data),
                                .type = out->type,
                                .scale = 1,
                                .grad = bwi_buffer_at(e, out->grad),
                                .gscale = 1,
                                .shape = g->value[p->out].shape};
        for (int k = 0; k < p->n_q; k++) {
            const bwi_node *q = &g->node[p->q_node[k]];
            const bwi_slot_info *codes = &e->value[q->out];
            p->call.aq[k] = q->aq;
            p->call.q[k] = (bwi_buf){.data = bwi_buffer_at(e, codes->data),
                                     .type = codes->type,
                                     .scale = 1,
                                     .grad = bwi_buffer_at(e, codes->grad),
                                     .gscale = 1,
                                     .shape = g->value[q->out].shape};
        }
        if (n->op->save_size) {
            p->call.save = save;
            save += (n->op->save_size(n, e->batch, in, &p->call.out.shape, g->real) + 63) / 64 * 64;
        }
    }
}

bw_status bwi_exec_create(bwi_exec **out, bwi_graph *g, const bwi_exec_options *o, char **note, bw_error *err)
{
    *out = NULL;
    if (note) *note = NULL;
    if (o->batch < 1) return bwi_fail(err, BW_ARG, "the batch is %d; it must be at least 1", o->batch);
    if (g->n_nodes < 1) return bwi_fail(err, BW_ARG, "the network has no layers");
    bwi_exec *e = bwi_calloc(1, sizeof *e);
    if (!e) return bwi_fail(err, BW_NOMEM, "no memory for an executor");
    bw_status st;
    bwi_text text = {0};
    e->g = g;
    e->compute = o->compute ? o->compute : g->real == BWI_DT_F64 ? &bwi_compute_reference_f64 : &bwi_compute_onednn;
    e->batch = o->batch;
    e->train = o->train;
    e->calibrate = o->calibrate;
    e->second_order = o->second_order;
    e->fused = !o->no_fusion && !o->second_order;
    e->observe = o->observe;
    e->observer = o->observer;
    e->precision = g->real == BWI_DT_F32 && !o->second_order ? o->precision : BWI_PRECISION_F32;
    e->round_sources = o->round_sources;
    e->variant = bwi_variant_for(g->real);
    e->note = note ? &text : NULL;
    BWI_TRY(bwi_plan_steps(e, err));
    BWI_TRY(bwi_plan_convs(e, err));
    BWI_TRY(bwi_plan_memory(e, err));
    e->init_x = bwi_calloc((size_t)g->n_values, sizeof *e->init_x);
    e->init_owned = bwi_calloc((size_t)g->n_values, sizeof *e->init_owned);
    e->scale_pending = bwi_calloc((size_t)g->n_nodes, sizeof *e->scale_pending);
    if (!e->init_x || !e->init_owned || !e->scale_pending) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for an executor"));
    for (int i = 0; e->train && !e->second_order && i < g->n_nodes; i++) /* the batch that trains is the one that counts */
        if (g->node[i].aq) g->node[i].aq->batch = e->batch;
    bind(e);
    e->note = NULL;
    if (note) *note = text.s;
    *out = e;
    return BW_OK;
fail:
    bwi_free(text.s);
    bwi_exec_destroy(&e);
    return st;
}

static void drop_init_values(bwi_exec *e)
{
    for (int v = 0; e->init_x && e->init_owned && v < e->g->n_values; v++) {
        if (e->init_owned[v]) bwi_free((void *)(uintptr_t)e->init_x[v]);
        e->init_owned[v] = false;
        e->init_x[v] = NULL;
    }
}

void bwi_exec_destroy(bwi_exec **ep)
{
    bwi_exec *e = *ep;
    if (!e) return;
    drop_init_values(e);
    for (int s = 0; e->step && s < e->n_steps; s++)
        if (e->step[s].conv) e->compute->conv_destroy(&e->step[s].conv);
    bwi_free(e->step);
    bwi_free(e->value);
    bwi_free(e->buffer);
    bwi_free(e->arena);
    bwi_free(e->tangents);
    bwi_free(e->active);
    bwi_free(e->scratch);
    bwi_free(e->saves);
    bwi_free(e->parts);
    bwi_free(e->init_x);
    bwi_free(e->init_owned);
    bwi_free(e->scale_pending);
    bwi_free(e);
    *ep = NULL;
}

void *bwi_exec_input(bwi_exec *e)
{
    return bwi_buffer_at(e, e->value[0].data);
}
const bwi_times *bwi_exec_times(const bwi_exec *e)
{
    return &e->times;
}
void bwi_exec_times_clear(bwi_exec *e)
{
    e->times = (bwi_times){0};
}
size_t bwi_exec_bytes(const bwi_exec *e)
{
    return e->arena_bytes * (e->second_order ? 2 : 1) + e->scratch_bytes + e->save_bytes + e->part_scratch + e->part_bytes;
}

/* ---- Quantizers ------------------------------------------------------------------------------------------------------------- */
/* The layer that reads a quantize node's codes, for messages. */
static const char *layer_of(const bwi_exec *e, const bwi_node *quantize)
{
    const bwi_slot_info *v = &e->value[quantize->out];
    return v->first_use >= 0 ? e->g->node[e->step[v->first_use].node].name : quantize->name;
}

static bw_status prepare_weights(bwi_exec *e, bw_error *err)
{
    double start = bwi_now();
    for (int i = 0; i < e->g->n_nodes; i++) {
        const bwi_node *n = &e->g->node[i];
        if (!n->wq) continue;
        const bwi_param *w = &e->g->param[n->param[0]];
        if (!n->wq->ready && n->wq->q->output_scale >= 0) e->scale_pending[i] = true;
        bw_status st = bwi_quant_prepare(n->wq, w->data, w->dtype, w->numel, err);
        if (st) return bwi_fail_in(err, st, "layer %s, weights", n->name);
    }
    e->times.quantizers += bwi_now() - start;
    return BW_OK;
}

/* Constants of activation quantizers that are initialised; the others wait for their first batch. */
static bw_status prepare_activations(bwi_exec *e, bool train, bw_error *err)
{
    for (int i = 0; i < e->g->n_nodes; i++) {
        const bwi_node *n = &e->g->node[i];
        if (!n->aq) continue;
        if (!n->aq->ready) {
            if (train) continue;
            return bwi_fail(
                err, BW_ARG,
                "layer %s: the %s quantizer of its input was never initialised; train the model for at least one step first",
                layer_of(e, n), n->aq->q->name);
        }
        bw_status st = bwi_quant_prepare(n->aq, NULL, e->g->real, 0, err);
        if (st) return bwi_fail_in(err, st, "layer %s, input", layer_of(e, n));
    }
    return BW_OK;
}

static bw_status init_quantizer(bwi_exec *e, const bwi_node *q, const void *x, size_t n, bw_error *err)
{
    bw_status st = bwi_quant_prepare(q->aq, x, e->g->real, n, err);
    return st ? bwi_fail_in(err, st, "layer %s, input (first batch)", layer_of(e, q)) : BW_OK;
}

/* First training batch of a chain whose quantizers are new: the values are needed as floats before there can be codes. They are kept
 * until the layers behind them have set their output scales. */
static bw_status forward_and_init(bwi_exec *e, bwi_step *p, bw_error *err)
{
    bwi_call *c = &p->call;
    size_t n = (size_t)c->n * bwi_shape_size(c->out.shape);
    void *kept = c->out.data, *own = NULL;
    if (!kept) own = c->out.data = bwi_malloc(n * bwi_dtype_size(e->g->real));
    if (!c->out.data) return bwi_fail(err, BW_NOMEM, "no memory to initialise the quantizers behind layer %s", c->node->name);
    c->n_q = 0;
    bw_status st = c->node->op->fns[e->variant]->forward(c, err);
    c->n_q = p->n_q;
    const void *x = c->out.data;
    c->out.data = kept;
    for (int k = 0; k < p->n_q && !st; k++) {
        const bwi_node *q = &e->g->node[p->q_node[k]];
        st = init_quantizer(e, q, x, n, err);
        if (!st) bwi_quant_codes(q->aq, x, e->g->real, n, c->q[k].type, c->q[k].data);
        e->init_x[q->out] = x;
    }
    if (own && p->n_q) e->init_owned[e->g->node[p->q_node[0]].out] = true;
    return st;
}

static double mean_abs(const void *x, bwi_dtype type, size_t n)
{
    bwi_qstats s;
    bwi_qstats_of(x, type, n, &s);
    return s.mean_abs;
}

/* EWGS: output scale = mean|conv(x, w)| / mean|conv(xq, wq)| on the first batch (methods: 2.2). The step's forward has just run. */
static bw_status init_output_scale(bwi_exec *e, bwi_step *p, bw_error *err)
{
    bwi_call *c = &p->call;
    const bwi_node *n = c->node;
    bwi_quant *wq = n->wq;
    size_t out = (size_t)c->n * bwi_shape_size(c->out.shape);
    const void *x = e->init_x[p->in[0]] ? e->init_x[p->in[0]] : c->in[0].data;
    bwi_conv *conv = NULL;
    bwi_conv_spec spec = {0};
    bw_status st = n->op->conv_spec(n, c->n, &c->in[0].shape, &spec);
    spec.src = spec.operand = e->g->real;
    void *y = bwi_malloc(out * bwi_dtype_size(e->g->real)), *scratch = NULL;
    if (st || !y) BWI_TRY(bwi_fail(err, BW_NOMEM, "layer %s: no memory to initialise its output scale", n->name));
    BWI_TRY(e->compute->conv_create(&spec, &conv, err));
    scratch = bwi_malloc(e->compute->conv_scratch(conv) + 64);
    if (!scratch) BWI_TRY(bwi_fail(err, BW_NOMEM, "layer %s: no memory to initialise its output scale", n->name));
    BWI_TRY(e->compute->conv_weights(conv, e->g->param[n->param[0]].data, 1, 1, scratch));
    BWI_TRY(e->compute->conv_forward(conv, x, y, scratch));
    int i = wq->q->output_scale;
    double quantized = mean_abs(c->out.data, e->g->real, out), ratio = mean_abs(y, e->g->real, out) / quantized;
    if (!(quantized > 0) || !isfinite(ratio))
        BWI_TRY(bwi_fail(
            err, BW_NUMERIC,
            "layer %s: its quantized output is all zero on the first batch, so it has no output scale; use more bits for it",
            n->name));
    wq->theta0[i] = wq->theta[i] = fabs(wq->theta[i]) * ratio;
    e->scale_pending[p->node] = false;
    BWI_TRY(bwi_quant_prepare(wq, e->g->param[n->param[0]].data, e->g->real, e->g->param[n->param[0]].numel, err));
    c->repack = true;
    st = n->op->fns[e->variant]->forward(c, err);
fail:
    if (conv) e->compute->conv_destroy(&conv);
    bwi_free(y);
    bwi_free(scratch);
    return st;
}

/* ---- Forward ---------------------------------------------------------------------------------------------------------------- */
/* Convolutions always run on the whole planned batch: rows behind image n must be zero, so that they add nothing to weight gradients. */
void bwi_zero_tail(const bwi_exec *e, void *data, bwi_dtype type, bwi_shape shape)
{
    size_t image = bwi_shape_size(shape) * bwi_dtype_size(type);
    if (data && e->n < e->batch) memset((char *)data + (size_t)e->n * image, 0, (size_t)(e->batch - e->n) * image);
}

static bw_status forward_step(bwi_exec *e, bwi_step *p, bool train, bool repack, bw_error *err)
{
    bwi_call *c = &p->call;
    const bwi_op_fns *fns = c->node->op->fns[e->variant];
    bool fresh = false;
    c->n = e->n;
    c->train = train;
    c->repack = repack;
    for (int k = 0; k < p->n_in; k++) c->in[k].scale = e->value[p->in[k]].aq ? e->value[p->in[k]].aq->k.scale : 1;
    for (int k = 0; k < p->n_q; k++) fresh = fresh || !c->aq[k]->ready;
    bw_status st = BW_OK;
    if (c->node->aq && !c->node->aq->ready) {
        st = init_quantizer(e, c->node, c->in[0].data, (size_t)c->n * bwi_shape_size(c->in[0].shape), err);
        e->init_x[p->out] = c->in[0].data;
    }
    if (st) return st;
    st = fresh ? forward_and_init(e, p, err) : fns->forward(c, err);
    if (st) return bwi_fail_in(err, st, "layer %s", c->node->name);
    if (e->scale_pending[p->node]) st = init_output_scale(e, p, err);
    bwi_zero_tail(e, c->out.data, c->out.type, c->out.shape);
    for (int k = 0; k < p->n_q; k++) bwi_zero_tail(e, c->q[k].data, c->q[k].type, c->q[k].shape);
    return st;
}

bw_status bwi_exec_forward(bwi_exec *e, int n, bool train, const void **logits, bw_error *err)
{
    if (logits) *logits = NULL;
    if (n < 1 || n > e->batch)
        return bwi_fail(err, BW_ARG, "a batch of %d images on an executor made for 1 to %d", n, e->batch);
    if (train && !e->train && !e->calibrate) return bwi_fail(err, BW_ARG, "a training step on an executor made for evaluation");
    double start = bwi_now();
    bwi_times before = e->times;
    bool repack = (train && e->train) || e->packed != e->g->version;
    bw_status st = BW_OK;
    e->n = n;
    e->trained = e->have_loss = e->differentiated = false;
    if (repack) st = prepare_weights(e, err);
    if (!st) st = prepare_activations(e, train, err);
    if (!st) bwi_zero_tail(e, bwi_exec_input(e), e->value[0].type, e->g->value[0].shape);
    for (int s = 0; s < e->n_steps && !st; s++) {
        st = forward_step(e, &e->step[s], train, repack, err);
        if (!st && e->observe) e->observe(e->observer, &e->step[s].call);
    }
    drop_init_values(e);
    e->packed = st ? 0 : e->g->version;
    e->trained = train && e->train && !st;
    if (logits && !st) *logits = bwi_buffer_at(e, e->value[e->g->output].data);
    double known = e->times.forward - before.forward + e->times.norm - before.norm + e->times.quantizers - before.quantizers;
    e->times.other += bwi_now() - start - known;
    return st;
}

/* ---- Loss and backward ------------------------------------------------------------------------------------------------------ */
static bw_status loss_of(bwi_exec *e, const int32_t *labels, const void *teacher, double *loss, int *top1, int *top5,
                         bw_error *err)
{
    if (!e->n) return bwi_fail(err, BW_ARG, "a loss before any forward pass");
    const bwi_slot_info *out = &e->value[e->g->output];
    const bwi_loss_fns *fns = bwi_softmax_ce[e->variant];
    const void *logits = bwi_buffer_at(e, out->data);
    void *grad = e->trained ? bwi_buffer_at(e, out->grad) : NULL;
    bw_status st = teacher ? fns->distill(logits, teacher, labels, e->n, e->g->classes, loss, top1, top5, grad, err)
                           : fns->loss(logits, labels, e->n, e->g->classes, loss, top1, top5, grad, err);
    e->have_loss = grad && !st;
    return st;
}

bw_status bwi_exec_loss(bwi_exec *e, const int32_t *labels, double *loss, int *top1, int *top5, bw_error *err)
{
    return loss_of(e, labels, NULL, loss, top1, top5, err);
}

bw_status bwi_exec_distill(bwi_exec *e, const int32_t *labels, const void *teacher, double *loss, int *top1, int *top5,
                           bw_error *err)
{
    return loss_of(e, labels, teacher, loss, top1, top5, err);
}

static bw_status backward_step(bwi_exec *e, bwi_step *p, bw_error *err)
{
    bwi_call *c = &p->call;
    const bwi_slot_info *out = &e->value[p->out];
    if (!out->needs_grad && !p->n_q) return BW_OK;
    c->out.gscale = out->gscale;
    bool any = c->out.grad || c->behind;
    for (int k = 0; k < p->n_q; k++) {
        c->q[k].gscale = e->value[e->g->node[p->q_node[k]].out].gscale;
        any = any || c->q[k].grad;
    }
    if (!any) return BW_OK;
    for (int k = 0; k < p->n_in; k++) c->in[k].gscale = c->in[k].acc ? e->value[p->in[k]].gscale : 1;
    bw_status st = c->node->op->fns[e->variant]->backward(c, err);
    if (st) return bwi_fail_in(err, st, "layer %s", c->node->name);
    for (int k = 0; k < p->n_in; k++) {
        e->value[p->in[k]].gscale = c->in[k].gscale;
        bwi_zero_tail(e, c->in[k].grad, e->g->real, c->in[k].shape);
    }
    return BW_OK;
}

bw_status bwi_exec_backward(bwi_exec *e, bw_error *err)
{
    if (!e->have_loss) return bwi_fail(err, BW_ARG, "a backward pass needs a training forward and its loss first");
    double start = bwi_now();
    bwi_times before = e->times;
    const bwi_slot_info *out = &e->value[e->g->output];
    bw_status st = BW_OK;
    bwi_zero_tail(e, bwi_buffer_at(e, out->grad), e->g->real, e->g->value[e->g->output].shape);
    for (int s = e->n_steps - 1; s >= 0 && !st; s--) st = backward_step(e, &e->step[s], err);
    e->have_loss = false;
    e->differentiated = !st;
    e->g->version++;
    double known = e->times.backward - before.backward + e->times.norm - before.norm + e->times.quantizers - before.quantizers;
    e->times.other += bwi_now() - start - known;
    return st;
}

bw_status bwi_exec_backward_from(bwi_exec *e, const void *glogits, bw_error *err)
{
    if (!e->trained) return bwi_fail(err, BW_ARG, "a backward pass needs a training forward first");
    void *grad = bwi_buffer_at(e, e->value[e->g->output].grad);
    if (!grad) return bwi_fail(err, BW_ARG, "the network has no parameters to train");
    memcpy(grad, glogits, (size_t)e->n * (size_t)e->g->classes * bwi_dtype_size(e->g->real));
    e->have_loss = true;
    return bwi_exec_backward(e, err);
}
