#include "deploy/lower.h"
#include "base/alloc.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* How far a layer's result has come: what may still be attached to it. */
typedef enum stage { SUMS, NORMALISED, ADDED, CLIPPED } stage;

typedef struct lowered {
    bwr_layer l;
    stage stage;
    int value;            /* the graph's value that it makes */
    const bwi_node *node; /* conv */
    float *bias, *a, *b;  /* in out->own */
} lowered;

typedef struct lowering {
    bwi_graph *g;
    bwi_tensors *out;
    lowered *layer;
    int n;
    int *order;       /* [graph nodes] in which they become layers */
    int *maker;       /* [graph values] layer that makes it */
    int *uses, *real; /* [graph values] readers; those that are not quantizers, and the network's output */
} lowering;

static bw_status no_memory(bw_error *err)
{
    return bwi_fail(err, BW_NOMEM, "no memory to pack the network");
}

/* ---- Layers -------------------------------------------------------------------------------------------------------------- */

static lowered *new_layer(lowering *w, bwr_kind kind, const char *name, int in, int value)
{
    const bwi_shape s = w->g->value[value].shape;
    lowered *x = &w->layer[w->n];
    *x = (lowered){.value = value};
    x->l = (bwr_layer){.kind = kind,
                       .in = in,
                       .residual = -1,
                       .out = value,
                       .h = s.h,
                       .w = s.w,
                       .c = s.c,
                       .kh = 1,
                       .kw = 1,
                       .stride = 1,
                       .groups = 1,
                       .sum_mul = 1,
                       .scale = 1};
    snprintf(x->l.name, sizeof x->l.name, "%s", name);
    w->maker[value] = w->n++;
    return x;
}

/* The layer that makes `value`, if nobody else reads it and it has not come further than `most`; NULL otherwise. */
static lowered *open_layer(lowering *w, int value, stage most)
{
    lowered *x = &w->layer[w->maker[value]];
    return w->uses[value] == 1 && x->stage <= most && x->value == value ? x : NULL;
}

/* A layer whose result becomes value `to`: the open one that makes `from`, or a new map of it. */
static lowered *extend(lowering *w, const bwi_node *n, int from, stage most)
{
    lowered *x = open_layer(w, from, most);
    if (!x) return new_layer(w, BWR_map, n->name, from, n->out);
    w->maker[n->out] = (int)(x - w->layer);
    x->value = x->l.out = n->out;
    return x;
}

static float *own_floats(lowering *w, size_t n)
{
    return bwi_own_alloc(&w->out->own, n * sizeof(float));
}

/* Weights are mul * c + add with c from lo on. Packed are numbers v: with one bit -1 and +1, else from -2^(b-1) on; so weights are
 * sum_mul * v + sum_add, and + sum_shift when add is no integer. Without a sign c = (v + 1) / 2 of one bit: twice the weights, at half the
 * scale. A sum of codes wants one small sum_shift, which loses least; float weights the two that training adds, which then loses nothing. */
static void lower_weights(bwr_layer *l, const bwi_quant *wq)
{
    const bwi_qk *k = &wq->k;
    const bool sign = k->mode & BWI_QMODE_SIGN, half = wq->bits == 1 && !sign;
    const int mul = (int)k->mul, lo = (int)k->lo, offset = sign ? 0 : mul * (half ? 2 * lo + 1 : lo + (1 << (wq->bits - 1)));
    const double add = half ? 2 * k->add : k->add, all = offset + add;
    l->sum_mul = mul;
    if (half) l->scale = l->scale / 2;
    if (all == floor(all) && all >= 0 && all <= 255) {
        l->sum_add = (int)all;
        return;
    }
    l->sum_add = l->kind == BWR_conv ? 0 : offset;
    l->sum_shift = (float)(all - l->sum_add);
}

static bw_status lower_conv(lowering *w, const bwi_node *n, bw_error *err)
{
    const bwi_value *v = &w->g->value[n->in[0]];
    const bwi_node *from = v->producer < 0 ? NULL : &w->g->node[v->producer];
    const bwi_quant *aq = from ? from->aq : NULL, *wq = n->wq;
    bwi_conv_spec s = {0};
    bw_status st = n->op->conv_spec(n, 1, &v->shape, &s);
    if (st) return st;
    if (aq && !wq)
        return bwi_fail(err, BW_UNSUPPORTED, "layer %s has float weights on quantized activations; quantize its weights too",
                        n->name);
    if (aq && (aq->k.mul != 1 || aq->k.add != 0))
        return bwi_fail(err, BW_UNSUPPORTED, "layer %s: activations of the quantizer %s cannot be packed", n->name,
                        aq->q->name);
    lowered *x = new_layer(w, aq ? BWR_conv : BWR_conv_real, n->name, n->in[0], n->out);
    x->node = n;
    x->l.kh = s.kh, x->l.kw = s.kw, x->l.stride = s.stride, x->l.pad = s.pad, x->l.groups = s.groups;
    x->l.wbits = wq ? wq->bits : 0;
    x->l.abits = aq ? aq->bits : 0;
    x->l.asigned = aq && aq->k.lo < 0;
    x->l.scale = (float)((aq ? aq->k.scale : 1) * (wq ? wq->k.scale : 1));
    if (wq) lower_weights(&x->l, wq);
    if (!n->attr.bias) return BW_OK;
    const bwi_param *bias = &w->g->param[n->param[1]];
    if (!(x->bias = own_floats(w, bias->numel))) return no_memory(err);
    memcpy(x->bias, bias->data, bias->numel * sizeof(float));
    return BW_OK;
}

/* a and b as evaluation computes them (nn/ops/batch_norm.c). */
static bw_status lower_norm(lowering *w, const bwi_node *n, bw_error *err)
{
    const float *p[4];
    lowered *x = extend(w, n, n->in[0], SUMS);
    const size_t c = (size_t)x->l.c;
    for (int i = 0; i < 4; i++) p[i] = w->g->param[n->param[i]].data;
    x->a = own_floats(w, c);
    x->b = own_floats(w, c);
    if (!x->a || !x->b) return no_memory(err);
    for (size_t i = 0; i < c; i++) {
        const double istd = 1 / sqrt((double)p[3][i] + n->attr.eps), a = (double)p[0][i] * istd;
        x->a[i] = (float)a;
        x->b[i] = (float)((double)p[1][i] - a * (double)p[2][i]);
    }
    x->stage = NORMALISED;
    return BW_OK;
}

/* The later of the two layers takes the other's result along. */
static void lower_add(lowering *w, const bwi_node *n)
{
    const int later = w->maker[n->in[0]] > w->maker[n->in[1]] ? 0 : 1;
    lowered *x = extend(w, n, n->in[later], NORMALISED);
    x->l.residual = n->in[1 - later];
    x->stage = ADDED;
}

static bw_status lower_quantize(lowering *w, const bwi_node *n, bw_error *err)
{
    lowered *x = &w->layer[w->maker[n->in[0]]];
    const bwi_quant *q = n->aq;
    float map[3];
    if (!q->q->affine) return bwi_fail(err, BW_UNSUPPORTED, "%s: the quantizer %s cannot be packed", n->name, q->q->name);
    if (q->k.mode & BWI_QMODE_SIGN)
        return bwi_fail(err, BW_UNSUPPORTED, "%s: signed codes of one bit cannot be packed; give this input at least 2 bits",
                        n->name);
    if (x->l.n_codes == BWK_MAX_CODES)
        return bwi_fail(err, BW_UNSUPPORTED, "%s: more than %d quantizers take the same value", n->name, BWK_MAX_CODES);
    q->q->affine(q, map);
    x->l.codes[x->l.n_codes++] = (bwr_codes){.value = n->out,
                                             .is_signed = q->k.lo < 0,
                                             .sub = map[0],
                                             .mul = map[1],
                                             .add = map[2],
                                             .lo = (float)q->k.lo,
                                             .hi = (float)q->k.hi};
    x->stage = CLIPPED;
    return BW_OK;
}

static bw_status lower_node(lowering *w, const bwi_node *n, bw_error *err)
{
    const char *op = n->op->name;
    if (n->op->conv_spec) return lower_conv(w, n, err);
    if (n->aq) return lower_quantize(w, n, err);
    if (!strcmp(op, "batch_norm")) return lower_norm(w, n, err);
    if (!strcmp(op, "add")) {
        lower_add(w, n);
        return BW_OK;
    }
    if (!strcmp(op, "relu")) {
        lowered *x = extend(w, n, n->in[0], ADDED);
        x->l.relu = true;
        x->stage = CLIPPED;
        return BW_OK;
    }
    static const bwr_kind kinds[] = {BWR_global_pool, BWR_avg_pool, BWR_max_pool, BWR_shortcut_a};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(op, bwr_kind_name[kinds[i]]) != 0) continue;
        lowered *x = new_layer(w, kinds[i], n->name, n->in[0], n->out);
        x->l.stride = n->attr.stride ? n->attr.stride : kinds[i] == BWR_shortcut_a ? 1 : n->attr.kh;
        if (kinds[i] == BWR_avg_pool || kinds[i] == BWR_max_pool)
            x->l.kh = n->attr.kh, x->l.kw = n->attr.kw, x->l.pad = n->attr.pad;
        if (kinds[i] == BWR_global_pool) x->l.stride = 1;
        return BW_OK;
    }
    return bwi_fail(err, BW_UNSUPPORTED, "layer %s: the operation %s cannot be packed", n->name, op);
}

/* ---- Tensors and text ---------------------------------------------------------------------------------------------------- */

/* Growing contents of the two tensors. */
typedef struct bytes {
    uint8_t *data;
    size_t n, room;
} bytes;

static bw_status add(bytes *b, const void *data, size_t n, bw_error *err)
{
    if (b->n + n > b->room) {
        const size_t room = 2 * b->room + n;
        uint8_t *more = bwi_realloc(b->data, room);
        if (!more) return no_memory(err);
        b->data = more;
        b->room = room;
    }
    memcpy(b->data + b->n, data, n);
    b->n += n;
    return BW_OK;
}

static bw_status add_floats(bytes *b, const float *data, size_t n, bw_error *err)
{
    return data ? add(b, data, n * sizeof *data, err) : BW_OK;
}

/* Codes mul * c + add, given as floats, at their bits; zeros in `to` before. */
static void pack_codes(const bwi_quant *wq, const float *code, size_t n, uint8_t *to)
{
    for (size_t i = 0; i < n; i++) {
        const int c = (int)lrint(((double)code[i] - wq->k.add) / wq->k.mul);
        const unsigned bits = wq->k.mode & BWI_QMODE_SIGN ? c > 0 : (unsigned)(c - (int)wq->k.lo);
        const size_t at = i * (size_t)wq->bits;
        to[at / 8] = (uint8_t)(to[at / 8] | bits << (at % 8));
        if (at % 8 + (size_t)wq->bits > 8) to[at / 8 + 1] = (uint8_t)(to[at / 8 + 1] | bits >> (8 - at % 8));
    }
}

static bw_status add_codes(const lowering *w, const lowered *x, bytes *codes, bw_error *err)
{
    const bwi_param *p = &w->g->param[x->node->param[0]];
    const size_t n = (p->numel * (size_t)x->l.wbits + 7) / 8;
    uint8_t *packed = bwi_calloc(n, 1);
    float *real = bwi_malloc(p->numel * sizeof *real);
    bw_status st = packed && real ? BW_OK : no_memory(err);
    if (!st) {
        bwi_quant_codes(x->node->wq, p->data, p->dtype, p->numel, BWI_DT_F32, real);
        pack_codes(x->node->wq, real, p->numel, packed);
        st = add(codes, packed, n, err);
    }
    bwi_free(packed);
    bwi_free(real);
    return st;
}

static bw_status add_layer(const lowering *w, const lowered *x, bytes *floats, bytes *codes, bw_error *err)
{
    const size_t c = (size_t)x->l.c;
    bw_status st;
    BWI_TRY(add_floats(floats, &x->l.scale, 1, err));
    if (x->l.sum_shift != 0) BWI_TRY(add_floats(floats, &x->l.sum_shift, 1, err));
    for (int i = 0; i < x->l.n_codes; i++) {
        const bwr_codes *q = &x->l.codes[i];
        BWI_TRY(add_floats(floats, (const float[]){q->sub, q->mul, q->add, q->lo, q->hi}, 5, err));
    }
    BWI_TRY(add_floats(floats, x->bias, c, err));
    BWI_TRY(add_floats(floats, x->a, c, err));
    BWI_TRY(add_floats(floats, x->b, c, err));
    if (x->node && x->l.wbits) return add_codes(w, x, codes, err);
    if (x->node) {
        const bwi_param *p = &w->g->param[x->node->param[0]];
        BWI_TRY(add_floats(floats, p->data, p->numel, err));
    }
    return BW_OK;
fail:
    return st;
}

/* newest: the value that was made last; in_channels: of what the layer reads. */
static void describe(const bwr_layer *l, int newest, int in_channels, bool bias, bool norm, bwi_text *t)
{
    const bool conv = l->kind == BWR_conv || l->kind == BWR_conv_real;
    bwi_text_add(t, "%s%s %s", t->len ? ";" : "", bwr_kind_name[conv ? BWR_conv : l->kind], l->name);
    if (l->kind == BWR_input) bwi_text_add(t, " h%dx%d", l->h, l->w);
    if (l->in >= 0 && l->in != newest) bwi_text_add(t, " i%d", l->in);
    if (l->residual >= 0) bwi_text_add(t, " r%d", l->residual);
    if (l->out >= 0) bwi_text_add(t, " o%d", l->out);
    if (l->c != in_channels) bwi_text_add(t, " c%d", l->c);
    if (l->kh != 1 || l->kw != 1) bwi_text_add(t, l->kh == l->kw ? " k%d" : " k%dx%d", l->kh, l->kw);
    if (l->stride != 1) bwi_text_add(t, " s%d", l->stride);
    if (l->pad != bwr_usual_pad(l)) bwi_text_add(t, " p%d", l->pad);
    if (l->groups != 1) bwi_text_add(t, " g%d", l->groups);
    if (l->wbits) bwi_text_add(t, " w%d", l->wbits);
    if (l->abits) bwi_text_add(t, " a%d%s", l->abits, l->asigned ? "z" : "");
    if (l->sum_mul != 1) bwi_text_add(t, " m%d", l->sum_mul);
    if (l->sum_add) bwi_text_add(t, " t%d", l->sum_add);
    bwi_text_add(t, "%s%s%s%s", l->sum_shift != 0 ? " T" : "", bias ? " B" : "", norm ? " N" : "", l->relu ? " R" : "");
    for (int i = 0; i < l->n_codes; i++) bwi_text_add(t, " q%d%s", l->codes[i].value, l->codes[i].is_signed ? "z" : "");
}

static bw_status add_tensor(lowering *w, const char *name, bwi_dtype dtype, const bytes *b, bw_error *err)
{
    void *own = bwi_own_alloc(&w->out->own, b->n);
    if (!own) return no_memory(err);
    if (b->n) memcpy(own, b->data, b->n);
    return bwi_tensors_add(w->out, name, dtype, 1, (const int64_t[]){(int64_t)(b->n / bwi_dtype_size(dtype))}, own, err);
}

static bw_status emit(lowering *w, const bwi_normalize *normalize, bw_error *err)
{
    bwi_text layers = {0};
    bytes floats = {0}, codes = {0};
    int newest = -1;
    bw_status st;
    const size_t channels = (size_t)w->layer[0].l.c;
    if (channels > sizeof normalize->mean / sizeof *normalize->mean)
        BWI_TRY(bwi_fail(err, BW_UNSUPPORTED, "images of %zu channels have no normalisation", channels));
    BWI_TRY(add_floats(&floats, normalize->mean, channels, err));
    BWI_TRY(add_floats(&floats, normalize->std, channels, err));
    for (int i = 0; i < w->n; i++) {
        lowered *x = &w->layer[i];
        if (!w->real[x->value]) x->l.out = -1;
        describe(&x->l, newest, x->l.in < 0 ? 0 : w->g->value[x->l.in].shape.c, x->bias, x->a, &layers);
        newest = x->l.n_codes ? x->l.codes[x->l.n_codes - 1].value : x->l.out;
        BWI_TRY(add_layer(w, x, &floats, &codes, err));
    }
    if (layers.failed) BWI_TRY(no_memory(err));
    BWI_TRY(add_tensor(w, "floats", BWI_DT_F32, &floats, err));
    BWI_TRY(add_tensor(w, "codes", BWI_DT_U8, &codes, err));
    BWI_TRY(bwi_tensors_add_meta(w->out, "bitwright.kind", "packed", err));
    BWI_TRY(bwi_tensors_add_meta(w->out, "bitwright.packed", BWR_VERSION, err));
    BWI_TRY(bwi_tensors_add_meta(w->out, "bitwright.family", w->g->family, err));
    BWI_TRY(bwi_tensors_add_meta(w->out, "bitwright.normalize", normalize->name, err));
    BWI_TRY(bwi_tensors_add_meta(w->out, "bitwright.layers", layers.s, err));
fail:
    bwi_free(layers.s);
    bwi_free(floats.data);
    bwi_free(codes.data);
    return st;
}

/* ---- The whole ----------------------------------------------------------------------------------------------------------- */

static bw_status prepare(bwi_graph *g, bw_error *err)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        bw_status st = BW_OK;
        if (n->aq && !n->aq->ready)
            return bwi_fail(err, BW_ARG, "%s was never initialised; train the model for at least one step first", n->name);
        if (n->wq) {
            const bwi_param *p = &g->param[n->param[0]];
            st = bwi_quant_prepare(n->wq, p->data, p->dtype, p->numel, err);
        }
        if (n->aq) st = bwi_quant_prepare(n->aq, NULL, g->real, 0, err);
        if (st) return bwi_fail_in(err, st, "layer %s", n->name);
    }
    return BW_OK;
}

static void count_uses(lowering *w)
{
    for (int i = 0; i < w->g->n_nodes; i++)
        for (int k = 0; k < w->g->node[i].n_in; k++) {
            const int v = w->g->node[i].in[k];
            w->uses[v]++;
            w->real[v] += !w->g->node[i].aq;
        }
    w->uses[w->g->output]++;
    w->real[w->g->output]++;
}

/* Nodes by their distance from the input, so that a shortcut comes before the longer way that it is added to, whose convolution then takes
 * it along. */
static bw_status order_nodes(lowering *w, bw_error *err)
{
    int *depth = bwi_calloc((size_t)w->g->n_values, sizeof *depth), n = 0;
    if (!depth) return no_memory(err);
    for (int i = 0; i < w->g->n_nodes; i++) {
        const bwi_node *x = &w->g->node[i];
        for (int k = 0; k < x->n_in; k++)
            depth[x->out] = depth[x->in[k]] >= depth[x->out] ? depth[x->in[k]] + 1 : depth[x->out];
    }
    for (int d = 1; n < w->g->n_nodes; d++)
        for (int i = 0; i < w->g->n_nodes; i++)
            if (depth[w->g->node[i].out] == d) w->order[n++] = i;
    bwi_free(depth);
    return BW_OK;
}

bw_status bwi_lower(bwi_tensors *out, bwi_graph *g, const bwi_normalize *normalize, bw_error *err)
{
    lowering w = {.g = g, .out = out};
    bw_status st;
    *out = (bwi_tensors){0};
    if (g->real != BWI_DT_F32) return bwi_fail(err, BW_UNSUPPORTED, "only networks in float can be packed");
    if (g->n_nodes >= BWR_MAX_LAYERS || g->n_values > BWR_MAX_VALUES)
        return bwi_fail(err, BW_UNSUPPORTED, "the network has %d layers; at most %d can be packed", g->n_nodes,
                        BWR_MAX_LAYERS - 1);
    for (int i = 0; i < g->n_params; i++)
        if (g->param[i].role == BWI_PARAM_HYPER)
            return bwi_fail(err, BW_UNSUPPORTED,
                            "this network still makes its weights from bits: search for bits, train at them, and take the "
                            "model.safetensors of that run");
    w.layer = bwi_calloc((size_t)g->n_nodes + 1, sizeof *w.layer);
    w.order = bwi_calloc((size_t)g->n_nodes, sizeof *w.order);
    w.maker = bwi_calloc((size_t)g->n_values, sizeof *w.maker);
    w.uses = bwi_calloc((size_t)g->n_values, sizeof *w.uses);
    w.real = bwi_calloc((size_t)g->n_values, sizeof *w.real);
    if (!w.layer || !w.order || !w.maker || !w.uses || !w.real) BWI_TRY(no_memory(err));
    BWI_TRY(prepare(g, err));
    BWI_TRY(order_nodes(&w, err));
    count_uses(&w);
    new_layer(&w, BWR_input, "input", -1, 0);
    w.layer[0].stage = CLIPPED;
    for (int i = 0; i < g->n_nodes; i++) BWI_TRY(lower_node(&w, &g->node[w.order[i]], err));
    if (w.maker[g->output] != w.n - 1) BWI_TRY(bwi_fail(err, BW_UNSUPPORTED, "the logits are not what the last layer makes"));
    BWI_TRY(emit(&w, normalize, err));
fail:
    bwi_free(w.layer);
    bwi_free(w.order);
    bwi_free(w.maker);
    bwi_free(w.uses);
    bwi_free(w.real);
    if (st) bwi_tensors_free(out);
    return st;
}
