/* From a graph to steps with memory: fusion, element types, convolutions, lifetimes, places. */
#include "nn/internal.h"
#include "base/file.h"
#include <limits.h>
#include <math.h>
#include <string.h>

/* ---- Steps ---------------------------------------------------------------------------------------------------------------- */
static int count_readers(const bwi_graph *g, int value, int *last)
{
    int n = 0;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->node[i].n_in; k++)
            if (g->node[i].in[k] == value) {
                n++;
                *last = i;
            }
    return n;
}

/* The only node that reads a value, if it is of operation `op` and the value is not the network's output; otherwise -1. */
static int only_reader(const bwi_graph *g, int value, const char *op)
{
    int reader = -1;
    if (value == g->output || count_readers(g, value, &reader) != 1) return -1;
    return g->node[reader].op == bwi_op_find(op) ? reader : -1;
}

/* Builds the step headed by node i and marks the nodes that it takes over. *at: the node in whose place it runs, since a residual has to
 * exist by then. */
static bwi_step make_step(const bwi_exec *e, int i, bool *taken, int *at)
{
    const bwi_graph *g = e->g;
    const bwi_node *n = &g->node[i];
    bwi_step s = {.node = i, .in = {n->in[0], n->in[1]}, .n_in = n->n_in, .out = n->out};
    *at = i;
    taken[i] = true;
    if (!e->fused || n->op != bwi_op_find("batch_norm")) return s;
    int add = only_reader(g, s.out, "add");
    /* a value added to itself, or to its own normalisation, would have two gradients in one step */
    if (add >= 0 && !taken[add] && g->node[add].in[0] != g->node[add].in[1] && g->node[add].in[0] != n->in[0] &&
        g->node[add].in[1] != n->in[0]) {
        s.residual = true;
        s.n_in = 2;
        s.in[1] = g->node[add].in[0] == s.out ? g->node[add].in[1] : g->node[add].in[0];
        s.out = g->node[add].out;
        *at = add;
        taken[add] = true;
    }
    int relu = only_reader(g, s.out, "relu");
    if (relu >= 0) {
        s.relu = true;
        s.out = g->node[relu].out;
        *at = relu;
        taken[relu] = true;
    }
    for (int k = 0; k < g->n_nodes && s.n_q < BWI_MAX_FUSED; k++)
        if (g->node[k].aq && g->node[k].in[0] == s.out) {
            s.q_node[s.n_q++] = k;
            taken[k] = true;
        }
    return s;
}

static int compare_place(const int *a, const int *b)
{
    return *a - *b;
}

bw_status bwi_plan_steps(bwi_exec *e, bw_error *err)
{
    const bwi_graph *g = e->g;
    struct placed {
        int at;
        bwi_step step;
    } *list = bwi_calloc((size_t)g->n_nodes + 1, sizeof *list);
    bool *taken = bwi_calloc((size_t)g->n_nodes + 1, sizeof *taken);
    e->step = bwi_calloc((size_t)g->n_nodes + 1, sizeof *e->step);
    e->value = bwi_calloc((size_t)g->n_values, sizeof *e->value);
    bw_status st = BW_OK;
    if (!list || !taken || !e->step || !e->value) {
        st = bwi_fail(err, BW_NOMEM, "no memory to plan the network");
    } else {
        int n = 0;
        for (int i = 0; i < g->n_nodes; i++)
            if (!taken[i]) {
                list[n].step = make_step(e, i, taken, &list[n].at);
                n++;
            }
        /* by the node in whose place each runs: insertion sort, few elements, nearly sorted */
        for (int i = 1; i < n; i++) {
            struct placed p = list[i];
            int k = i;
            for (; k > 0 && compare_place(&list[k - 1].at, &p.at) > 0; k--) list[k] = list[k - 1];
            list[k] = p;
        }
        for (int i = 0; i < n; i++) e->step[i] = list[i].step;
        e->n_steps = n;
    }
    bwi_free(list);
    bwi_free(taken);
    return st;
}

/* ---- What each value needs -------------------------------------------------------------------------------------------------- */
static bool node_trains(const bwi_graph *g, const bwi_node *n)
{
    for (int i = 0; i < 4; i++)
        if (n->param[i] >= 0 && g->param[n->param[i]].grad) return true;
    return (n->aq && bwi_quant_n_params(n->aq) > 0) || (n->wq && bwi_quant_n_params(n->wq) > 0);
}

/* Fills producer, readers, gradient needs and types of every value. */
static void describe_values(bwi_exec *e)
{
    const bwi_graph *g = e->g;
    for (int v = 0; v < g->n_values; v++) {
        bool is_output = v == g->output;
        e->value[v] = (bwi_slot_info){.step = -1,
                                      .first_use = -1,
                                      .last_use = -1,
                                      .stored = v == 0 || is_output,
                                      .type = g->real,
                                      .data = -1,
                                      .grad = -1,
                                      .gscale = 1};
    }
    for (int s = 0; s < e->n_steps; s++) {
        bwi_step *p = &e->step[s];
        bool trains = node_trains(g, &g->node[p->node]);
        for (int k = 0; k < p->n_in; k++) {
            bwi_slot_info *in = &e->value[p->in[k]];
            if (in->first_use < 0) in->first_use = s;
            in->last_use = s;
            in->stored = true;
            trains = trains || in->needs_grad;
        }
        bwi_slot_info *out = &e->value[p->out];
        out->step = s;
        out->needs_grad = trains || (e->second_order && g->node[p->node].aq); /* it may be asked for */
        if (g->node[p->node].aq) out->aq = g->node[p->node].aq;
        /* Backward needs the sum for its masks, and quantizers read it: their own loops know no residual. */
        if (p->residual && (e->train || p->n_q)) out->stored = true;
        for (int k = 0; k < p->n_q; k++) {
            const bwi_node *q = &g->node[p->q_node[k]];
            bwi_slot_info *codes = &e->value[q->out];
            codes->step = s;
            codes->stored = true;
            codes->needs_grad = trains || bwi_quant_n_params(q->aq) > 0;
            codes->aq = q->aq;
        }
    }
}

/* ---- Convolutions --------------------------------------------------------------------------------------------------------- */
/* Bits of the integers that a weight quantizer produces, found on a copy with made-up statistics; 0: more than 8. */
static int bits_of(const bwi_quant *wq)
{
    bwi_quant q = *wq;
    bwi_qstats made_up = {.n = 100, .mean_abs = .5, .mean_large = .7, .std = .5, .min = -1, .max = 1, .max_abs = 1};
    if (!q.ready && q.q->init) q.q->init(&q, &made_up);
    if (q.q->prepare(&q, &made_up, NULL)) return 0;
    const double a = q.k.mul * q.k.lo + q.k.add, b = q.k.mul * q.k.hi + q.k.add;
    if (q.k.mode & BWI_QMODE_SIGN) return 1;
    int bits = 2;
    while (fmin(a, b) < -(1 << (bits - 1)) || fmax(a, b) > (1 << (bits - 1)) - 1) bits++;
    return bits <= 8 ? bits : 0;
}

/* Whether the layer can multiply bytes: unsigned input codes and weight codes that fit int8, whose bits go to spec. *why: otherwise, the
 * reason. */
static bool can_use_codes(const bwi_exec *e, const bwi_step *s, bwi_conv_spec *spec, const char **why)
{
    const bwi_node *n = &e->g->node[s->node];
    const bwi_quant *aq = e->value[s->in[0]].aq;
    if (!aq || !n->wq)
        *why = "weights or input are not quantized";
    else if (aq->is_signed)
        *why = "signed input codes";
    else if (aq->bits > 8)
        *why = "input codes above 8 bits";
    else if (n->wq->q->real_codes)
        *why = "weight codes that are not integers";
    else if (!(spec->wbits = bits_of(n->wq)))
        *why = "weight codes beyond int8";
    else {
        spec->abits = aq->bits;
        return true;
    }
    return false;
}

/* Creates the convolution of step s, in floats what the table cannot do in integers; err is never NULL. */
static bw_status create_conv(bwi_exec *e, bwi_step *s, bwi_conv_spec *spec, bw_error *err)
{
    const bwi_node *n = &e->g->node[s->node];
    const bwi_conv_spec asked = *spec;
    bw_status st = e->compute->conv_create(spec, &s->conv, err);
    while (st == BW_UNSUPPORTED && (spec->operand == BWI_DT_I16 || spec->src == BWI_DT_U8)) {
        if (spec->operand == BWI_DT_I16)
            spec->operand = e->g->real;
        else
            spec->src = e->g->real;
        st = e->compute->conv_create(spec, &s->conv, err);
    }
    if (st) return bwi_fail_in(err, st, "layer %s", n->name);
    if (e->note && (spec->src != asked.src || spec->operand != asked.operand)) /* err still says why */
        bwi_text_add(e->note, "fast: %s: float %s instead: %s\n", n->name,
                     asked.src == BWI_DT_U8 && spec->src == asked.src ? "gradients" : "convolution", err->msg);
    return BW_OK;
}

/* Chooses the integers of `fast` for step s, if there are any. In evaluation a float source stays as it is, unless the caller
 * says that so much is not needed: it is the model that is measured. */
static void choose_integers(const bwi_exec *e, const bwi_step *s, bwi_conv_spec *spec)
{
    const bwi_node *n = &e->g->node[s->node];
    const char *why = NULL;
    if (can_use_codes(e, s, spec, &why)) {
        spec->src = BWI_DT_U8;
        if (e->train) spec->operand = BWI_DT_I16;
        return;
    }
    if (!spec->codes && n->wq) {
        const bool small = n->wq->q->real_codes || bits_of(n->wq);
        if ((e->train || e->round_sources) && small) spec->operand = BWI_DT_I16;
        why = small ? NULL : "weight codes beyond int8";
    }
    if (e->note && why)
        bwi_text_add(e->note, "fast: %s: in float%s (%s)\n", n->name, spec->codes ? ", forward exact on codes" : "", why);
}

/* Layers, and how many of them multiply bytes, have float sources of 16 bits, and gradients of 16 bits. */
enum { LAYERS, BYTES, SOURCES_16, GRADIENTS_16, COUNTS };

static bw_status plan_conv(bwi_exec *e, bwi_step *s, int count[COUNTS], bw_error *err)
{
    const bwi_graph *g = e->g;
    const bwi_node *n = &g->node[s->node];
    bwi_slot_info *in = &e->value[s->in[0]];
    bwi_conv_spec spec = {0};
    bw_status st = n->op->conv_spec(n, e->batch, &g->value[s->in[0]].shape, &spec);
    if (st) return bwi_fail(err, st, "layer %s: its shape does not fit a convolution", n->name);
    spec.src = spec.operand = g->real;
    spec.codes = in->aq && n->wq;
    spec.train = e->train;
    spec.need_gsrc = e->train && in->needs_grad;
    if (e->precision == BWI_PRECISION_FAST) choose_integers(e, s, &spec);
    st = create_conv(e, s, &spec, err);
    if (st) return st;
    if (in->aq) in->type = spec.src;
    count[LAYERS]++;
    count[BYTES] += spec.src == BWI_DT_U8;
    count[SOURCES_16] += spec.src != BWI_DT_U8 && spec.operand == BWI_DT_I16;
    count[GRADIENTS_16] += spec.operand == BWI_DT_I16;
    size_t scratch = e->compute->conv_scratch(s->conv);
    if (scratch > e->conv_scratch) e->conv_scratch = scratch;
    return BW_OK;
}

bw_status bwi_plan_convs(bwi_exec *e, bw_error *err)
{
    int count[COUNTS] = {0};
    bw_error local = {0}; /* the reason of a fallback is wanted for the note even when the caller gives no err */
    describe_values(e);
    for (int s = 0; s < e->n_steps; s++) {
        if (!e->g->node[e->step[s].node].op->conv_spec) continue;
        bw_status st = plan_conv(e, &e->step[s], count, err ? err : &local);
        if (st) return st;
    }
    if (e->precision == BWI_PRECISION_FAST && e->note) {
        bwi_text_add(e->note, "fast: %d of %d layers multiply bytes forward (u8 x s8, exact)", count[BYTES], count[LAYERS]);
        if (count[SOURCES_16]) bwi_text_add(e->note, ", %d float activations of 16 bits", count[SOURCES_16]);
        if (e->train) bwi_text_add(e->note, "; %d have gradients of 16 bits", count[GRADIENTS_16]);
        bwi_text_add(e->note, "\n");
    }
    return BW_OK;
}

/* Whether step s can make its input's gradient a piece at a time inside the backward of the convolution before it: that is the next
 * to run, and the only one that wants it. */
static bool can_go_by_parts(const bwi_exec *e, int s)
{
    const bwi_graph *g = e->g;
    const bwi_step *p = &e->step[s];
    const bwi_slot_info *in = &e->value[p->in[0]];
    return e->train && e->fused && g->node[p->node].op->fns[e->variant]->backward_part && e->step[s - 1].conv &&
           e->step[s - 1].out == p->in[0] && !g->node[e->step[s - 1].node].attr.bias && in->needs_grad && in->first_use == s &&
           in->last_use == s && p->in[0] != g->output;
}

static void plan_parts(bwi_exec *e)
{
    for (int s = 1; s < e->n_steps; s++) {
        bwi_step *p = &e->step[s];
        p->by_parts = can_go_by_parts(e, s);
        if (!p->by_parts) continue;
        size_t images = (size_t)e->compute->conv_piece(e->step[s - 1].conv),
               image = bwi_shape_size(e->g->value[p->in[0]].shape);
        size_t bytes = images * image * bwi_dtype_size(e->g->real);
        if (bytes > e->part_bytes) e->part_bytes = bytes;
    }
}

/* ---- Memory --------------------------------------------------------------------------------------------------------------- */
static bw_status add_buffer(bwi_exec *e, size_t elements, bwi_dtype type, int first, int last, int *index, bw_error *err)
{
    size_t bytes;
    if (!bwi_mul(elements, (size_t)e->batch * bwi_dtype_size(type), &bytes) || bytes > SIZE_MAX / 4)
        return bwi_fail(err, BW_SHAPE, "an activation of %zu elements times a batch of %d does not fit memory", elements,
                        e->batch);
    void *p = bwi_realloc(e->buffer, (size_t)(e->n_buffers + 1) * sizeof *e->buffer);
    if (!p) return bwi_fail(err, BW_NOMEM, "no memory to plan the network");
    e->buffer = p;
    if (e->second_order) first = 0, last = INT_MAX; /* everything lives as long as the executor */
    e->buffer[e->n_buffers] = (bwi_buffer){(bytes + 63) / 64 * 64, 0, first, last};
    *index = e->n_buffers++;
    return BW_OK;
}

/* Time: forward of step s at s + 1, the loss at S + 1, backward of step s at 2 S + 1 - s. The input exists from 0. */
static int time_back(const bwi_exec *e, int step)
{
    return 2 * e->n_steps + 1 - step;
}

/* When step s has read in backward all that it reads. */
static int time_done(const bwi_exec *e, int s)
{
    return time_back(e, s >= 0 && e->step[s].by_parts ? s - 1 : s);
}

/* The last time at which a value's data is read. */
static int data_until(const bwi_exec *e, int v)
{
    const bwi_graph *g = e->g;
    const bwi_slot_info *p = &e->value[v];
    int last = p->step + 1;
    if (v == g->output) last = time_back(e, 0);
    for (int s = 0; s < e->n_steps; s++)
        for (int k = 0; k < e->step[s].n_in; k++) {
            if (e->step[s].in[k] != v) continue;
            bool back = e->train && g->node[e->step[s].node].op->needs_in && !(e->step[s].residual && k == 1);
            int t = back ? time_done(e, s) : s + 1;
            if (t > last) last = t;
        }
    if (e->train && p->step >= 0) { /* the producer's own backward */
        const bwi_step *s = &e->step[p->step];
        if (g->node[s->node].op->needs_out || s->relu || s->n_q) {
            int t = time_done(e, p->step);
            if (t > last) last = t;
        }
    }
    return last;
}

static bw_status plan_value(bwi_exec *e, int v, bw_error *err)
{
    const bwi_graph *g = e->g;
    bwi_slot_info *p = &e->value[v];
    size_t elements = bwi_shape_size(g->value[v].shape);
    bw_status st = BW_OK;
    if (p->step < 0 && v != 0) return BW_OK; /* inside a chain */
    if (p->stored) st = add_buffer(e, elements, p->type, v == 0 ? 0 : p->step + 1, data_until(e, v), &p->data, err);
    bool by_parts = p->first_use >= 0 && e->step[p->first_use].by_parts && e->step[p->first_use].in[0] == v;
    bool wanted = e->train && p->needs_grad && (p->first_use >= 0 || v == g->output) && !by_parts;
    if (!st && wanted) {
        int first = v == g->output ? e->n_steps + 1 : time_back(e, p->last_use), last = time_done(e, p->step);
        st = add_buffer(e, elements, g->real, first, last, &p->grad, err);
    }
    return st;
}

/* A residual's gradient is the chain's own after masking: when nobody wrote it before, it takes over the buffer of the chain's result. */
static void share_residual_gradients(bwi_exec *e)
{
    for (int s = e->n_steps - 1; s >= 0; s--) {
        bwi_step *p = &e->step[s];
        if (!p->residual) continue;
        bwi_slot_info *in = &e->value[p->in[1]], *out = &e->value[p->out];
        if (in->grad < 0 || out->grad < 0 || in->last_use != s) continue;
        bwi_buffer *from = &e->buffer[in->grad], *to = &e->buffer[out->grad];
        if (from->size != to->size) continue;
        if (from->last > to->last) to->last = from->last;
        from->size = 0;
        in->grad = out->grad;
    }
}

static bool overlap(const bwi_buffer *a, const bwi_buffer *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* First fit, largest first: each buffer goes to the lowest place that is free during its whole life. */
static bw_status place(bwi_exec *e, bw_error *err)
{
    int n = e->n_buffers;
    int *order = bwi_calloc((size_t)n + 1, sizeof *order);
    if (!order) return bwi_fail(err, BW_NOMEM, "no memory to plan the network");
    for (int i = 0; i < n; i++) {
        int k = i;
        for (; k > 0 && e->buffer[order[k - 1]].size < e->buffer[i].size; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    for (int i = 0; i < n; i++) {
        bwi_buffer *b = &e->buffer[order[i]];
        size_t at = 0;
        for (bool moved = b->size > 0; moved;) {
            moved = false;
            for (int k = 0; k < i; k++) {
                const bwi_buffer *o = &e->buffer[order[k]];
                if (o->size && overlap(o, b) && at < o->offset + o->size && o->offset < at + b->size) {
                    at = o->offset + o->size;
                    moved = true;
                }
            }
        }
        b->offset = at;
        if (at + b->size > e->arena_bytes) e->arena_bytes = at + b->size;
    }
    bwi_free(order);
    return BW_OK;
}

bw_status bwi_plan_memory(bwi_exec *e, bw_error *err)
{
    const bwi_graph *g = e->g;
    plan_parts(e);
    for (int v = 0; v < g->n_values; v++) {
        bw_status st = plan_value(e, v, err);
        if (st) return st;
    }
    share_residual_gradients(e);
    bw_status st = place(e, err);
    if (st) return st;
    size_t save = 0;
    for (int s = 0; s < e->n_steps; s++) {
        const bwi_node *n = &g->node[e->step[s].node];
        bwi_shape in[2];
        for (int k = 0; k < e->step[s].n_in; k++) in[k] = g->value[e->step[s].in[k]].shape;
        const bwi_shape *out = &g->value[e->step[s].out].shape;
        size_t scratch = n->op->scratch_size ? n->op->scratch_size(n, e->batch, in, out, g->real) : 0;
        if (n->op->conv_spec) scratch = (scratch + 63) / 64 * 64 + e->conv_scratch;
        size_t *most = e->step[s].by_parts ? &e->part_scratch : &e->scratch_bytes;
        if (scratch > *most) *most = scratch;
        if (n->op->save_size) save += (n->op->save_size(n, e->batch, in, out, g->real) + 63) / 64 * 64;
    }
    e->save_bytes = save;
    e->arena = bwi_calloc(e->arena_bytes + 64, 1);
    if (e->second_order) {
        e->tangents = bwi_calloc(e->arena_bytes + 64, 1);
        e->active = bwi_calloc((size_t)g->n_values, sizeof *e->active);
    }
    e->scratch = bwi_calloc(e->scratch_bytes + 64, 1);
    e->saves = bwi_calloc(save + 64, 1);
    e->part_scratch = (e->part_scratch + 63) / 64 * 64;
    e->parts = bwi_calloc(e->part_scratch + e->part_bytes + 64, 1);
    if (!e->arena || !e->scratch || !e->saves || !e->parts || (e->second_order && !(e->tangents && e->active)))
        return bwi_fail(err, BW_NOMEM, "no memory for a batch of %d: the plan needs %.0f MiB", e->batch,
                        (double)bwi_exec_bytes(e) / 1048576);
    return BW_OK;
}
