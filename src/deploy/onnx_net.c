#include "deploy/onnx_net.h"
#include "base/alloc.h"
#include <string.h>

/* Of ONNX 1.8, in every ONNX Runtime since 1.6; and of ONNX 1.16, the first one with INT4. Everything here means the same in both. */
enum { OPSET = 13, OPSET_INT4 = 21 };

typedef struct walk {
    bwi_onnx o;
    const bwi_onnx_style *style;
    const bwi_graph *g;
    const bwr_plan *p;
    char *value[BWR_MAX_VALUES]; /* name of the tensor that holds it; of codes as floats */
} walk;

/* ---- Layers -------------------------------------------------------------------------------------------------------------- */

/* Appends op(x, with) as LAYER/step; with may be NULL. */
static char *then(walk *w, const bwr_layer *l, const char *op, const char *step, char *x, char *with)
{
    return bwi_onnx_node(&w->o, "", op, bwi_onnx_text(&w->o, "%s/%s", l->name, step), (char *[]){x, with, NULL});
}

static bool is_conv(const bwr_layer *l)
{
    return l->kind == BWR_conv || l->kind == BWR_conv_real;
}

/* The classifier is a matrix product, of [N,c] instead of [N,c,1,1]. */
static bool is_matrix(const walk *w, const bwr_layer *l)
{
    const bwr_value *in = is_conv(l) ? &w->p->value[l->in] : NULL;
    return in && l == &w->p->layer[w->p->n_layers - 1] && in->h == 1 && in->w == 1 && l->kh == 1 && l->kw == 1 && !l->pad &&
           l->groups == 1 && l->residual < 0;
}

/* Constants of the channels, one for each. */
static char *channels(walk *w, const bwr_layer *l, const char *what, const float *v)
{
    const int64_t dim[3] = {l->c, 1, 1};
    return bwi_onnx_tensor(&w->o, bwi_onnx_text(&w->o, "%s.%s", l->name, what), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT,
                           is_matrix(w, l) ? 1 : 3, dim, v);
}

/* [c][kh][kw][ic/groups], as a packed file has them, become [c][ic/groups][kh][kw], the order of ONNX. */
static char *weights(walk *w, const bwr_layer *l)
{
    const size_t taps = (size_t)l->kh * (size_t)l->kw, group = (size_t)(w->p->value[l->in].c / l->groups);
    const int64_t dim[4] = {l->c, (int64_t)group, l->kh, l->kw};
    const int ndim = is_matrix(w, l) ? 2 : 4;
    const size_t n = (size_t)l->c * group * taps;
    void *data = bwi_onnx_alloc(&w->o, n * (l->wbits ? 1 : sizeof(float)));
    int8_t *code = data;
    float *real = data;
    for (size_t i = 0; data && i < n; i++) {
        const size_t from = i / (group * taps) * group * taps + i % taps * group + i / taps % group;
        if (l->wbits)
            code[i] = (int8_t)bwr_code(l->weight, l->wbits, from);
        else
            real[i] = l->real_weight[from];
    }
    if (l->wbits) return data ? w->style->weights(&w->o, l, ndim, dim, code) : NULL;
    return bwi_onnx_tensor(&w->o, bwi_onnx_text(&w->o, "%s.weight", l->name), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, ndim, dim,
                           data);
}

/* The window of a convolution or pool that was appended last. */
static void window(walk *w, const bwr_layer *l)
{
    bwi_onnx_ints(&w->o, "kernel_shape", 2, (int64_t[]){l->kh, l->kw});
    bwi_onnx_ints(&w->o, "strides", 2, (int64_t[]){l->stride, l->stride});
    bwi_onnx_ints(&w->o, "pads", 4, (int64_t[]){l->pad, l->pad, l->pad, l->pad});
}

/* x by weights: a convolution or a matrix product. */
static char *multiply(walk *w, const bwr_layer *l, const char *step, char *x, char *weight, int groups)
{
    if (is_matrix(w, l)) {
        x = then(w, l, "Gemm", step, x, weight);
        bwi_onnx_int(&w->o, "transB", 1);
        return x;
    }
    x = then(w, l, "Conv", step, x, weight);
    window(w, l);
    bwi_onnx_int(&w->o, "group", groups);
    return x;
}

/* Sums of the codes under the kernel, by weights of 1: one for all channels, or in groups one for each. */
static char *window_sums(walk *w, const bwr_layer *l, char *x)
{
    const int group = w->p->value[l->in].c / l->groups;
    const int64_t dim[4] = {l->groups == 1 ? 1 : l->c, group, l->kh, l->kw};
    const size_t n = (size_t)dim[0] * (size_t)group * (size_t)l->kh * (size_t)l->kw;
    float *ones = bwi_onnx_alloc(&w->o, n * sizeof *ones);
    for (size_t i = 0; ones && i < n; i++) ones[i] = 1;
    if (!ones) return x;
    char *weight = bwi_onnx_tensor(&w->o, bwi_onnx_text(&w->o, "%s.ones", l->name), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT,
                                   is_matrix(w, l) ? 2 : 4, dim, ones);
    return multiply(w, l, "window", x, weight, l->groups);
}

static char *convolve(walk *w, const bwr_layer *l, char *x)
{
    char *weight = weights(w, l);
    if (!weight) return x; /* no memory */
    const bool shift = l->sum_shift != 0;
    if (shift && l->kind == BWR_conv_real)
        weight = then(w, l, "Add", "weight_shift", weight, bwi_onnx_scalar(&w->o, l->sum_shift));
    if (is_matrix(w, l)) x = then(w, l, "Flatten", "flat", x, NULL);
    char *sums = multiply(w, l, is_matrix(w, l) ? "product" : "conv", x, weight, l->groups);
    if (!shift || l->kind == BWR_conv_real) return sums;
    return then(w, l, "Add", "shifted", sums,
                then(w, l, "Mul", "shift", window_sums(w, l, x), bwi_onnx_scalar(&w->o, l->sum_shift)));
}

/* Every stride-th pixel, zero channels around (option A of He et al.). */
static char *shortcut(walk *w, const bwr_layer *l, char *x)
{
    const int64_t more = l->c - w->p->value[l->in].c, front = more / 2;
    bwi_onnx *o = &w->o;
    if (l->stride > 1)
        x = bwi_onnx_node(
            o, "", "Slice", bwi_onnx_text(o, "%s/pixels", l->name),
            (char *[]){x, bwi_onnx_list(o, bwi_onnx_text(o, "%s.starts", l->name), 2, (int64_t[]){0, 0}),
                       bwi_onnx_list(o, bwi_onnx_text(o, "%s.ends", l->name), 2, (int64_t[]){INT64_MAX, INT64_MAX}),
                       bwi_onnx_list(o, bwi_onnx_text(o, "%s.axes", l->name), 2, (int64_t[]){2, 3}),
                       bwi_onnx_list(o, bwi_onnx_text(o, "%s.steps", l->name), 2, (int64_t[]){l->stride, l->stride}), NULL});
    if (more)
        x = then(w, l, "Pad", "channels", x,
                 bwi_onnx_list(o, bwi_onnx_text(o, "%s.pads", l->name), 8, (int64_t[]){0, front, 0, 0, 0, more - front, 0, 0}));
    return x;
}

/* What the layer makes before anything follows. */
static char *compute(walk *w, const bwr_layer *l)
{
    char *x = l->in < 0 ? NULL : w->value[l->in];
    switch (l->kind) {
    case BWR_input:
        return bwi_onnx_text(&w->o, "image");
    case BWR_conv:
    case BWR_conv_real:
        return convolve(w, l, x);
    case BWR_global_pool:
        return then(w, l, "GlobalAveragePool", "mean", x, NULL);
    case BWR_avg_pool:
        x = then(w, l, "AveragePool", "mean", x, NULL);
        window(w, l);
        bwi_onnx_int(&w->o, "count_include_pad", 1);
        return x;
    case BWR_max_pool:
        x = then(w, l, "MaxPool", "max", x, NULL);
        window(w, l);
        return x;
    case BWR_shortcut_a:
        return shortcut(w, l, x);
    case BWR_map:
    case BWR_N_KINDS:
        break;
    }
    return x;
}

/* Codes of t: round(clip((t - sub) * mul + add, lo, hi)), as the engine computes them. */
static void quantize(walk *w, const bwr_codes *q, char *t)
{
    const char *name = w->g->node[w->g->value[q->value].producer].name;
    bwi_onnx *o = &w->o;
    if (q->sub != 0)
        t = bwi_onnx_node(o, "", "Sub", bwi_onnx_text(o, "%s/above", name), (char *[]){t, bwi_onnx_scalar(o, q->sub), NULL});
    if (q->mul != 1)
        t = bwi_onnx_node(o, "", "Mul", bwi_onnx_text(o, "%s/steps", name), (char *[]){t, bwi_onnx_scalar(o, q->mul), NULL});
    if (q->add != 0)
        t = bwi_onnx_node(o, "", "Add", bwi_onnx_text(o, "%s/latent", name), (char *[]){t, bwi_onnx_scalar(o, q->add), NULL});
    w->value[q->value] = w->style->codes(o, name, t, q);
}

/* The logits get their name and lose their map. */
static char *end(walk *w, const bwr_layer *l, char *t)
{
    char *logits = bwi_onnx_text(&w->o, "logits");
    if (!is_matrix(w, l)) return bwi_onnx_node(&w->o, "", "Flatten", logits, (char *[]){t, NULL});
    if (w->o.failed) return logits;
    Onnx__NodeProto *last = w->o.graph.node[w->o.graph.n_node - 1];
    last->output[0] = last->name = logits;
    return logits;
}

static void add_layer(walk *w, const bwr_layer *l)
{
    char *t = compute(w, l);
    if (l->scale != 1) t = then(w, l, "Mul", "scaled", t, bwi_onnx_scalar(&w->o, l->scale));
    if (l->bias) t = then(w, l, "Add", "biased", t, channels(w, l, "bias", l->bias));
    if (l->a) {
        t = then(w, l, "Mul", "norm_a", t, channels(w, l, "norm_a", l->a));
        t = then(w, l, "Add", "norm", t, channels(w, l, "norm_b", l->b));
    }
    if (l->residual >= 0) t = then(w, l, "Add", "sum", t, w->value[l->residual]);
    if (l->relu) t = then(w, l, "Relu", "relu", t, NULL);
    if (l == &w->p->layer[w->p->n_layers - 1]) t = end(w, l, t);
    if (l->out >= 0) w->value[l->out] = t;
    for (int i = 0; i < l->n_codes; i++) quantize(w, &l->codes[i], t);
}

/* ---- Metadata ------------------------------------------------------------------------------------------------------------ */

static void add_floats(walk *w, const char *key, const float *v, int n)
{
    char *text = bwi_onnx_text(&w->o, "%.9g", (double)v[0]);
    for (int i = 1; i < n; i++) text = bwi_onnx_text(&w->o, "%s %.9g", text, (double)v[i]);
    bwi_onnx_meta(&w->o, key, text);
}

/* Every quantized layer: its name, then for weights and activations role, bits (z: signed activations) and the trained scale:
 * value = scale * code, as in "conv1 w8 0.0103 a8z 0.0173". */
static void add_scales(walk *w)
{
    char *text = NULL;
    for (int i = 0; i < w->g->n_nodes; i++) {
        const bwi_node *n = &w->g->node[i];
        if (!n->op->conv_spec || !n->wq) continue;
        const int producer = w->g->value[n->in[0]].producer;
        const bwi_quant *aq = producer < 0 ? NULL : w->g->node[producer].aq;
        text =
            bwi_onnx_text(&w->o, "%s%s%s w%d %.9g", text ? text : "", text ? "; " : "", n->name, n->wq->bits, n->wq->k.scale);
        if (aq) text = bwi_onnx_text(&w->o, "%s a%d%s %.9g", text, aq->bits, aq->k.lo < 0 ? "z" : "", aq->k.scale);
    }
    if (text) bwi_onnx_meta(&w->o, "bitwright.scales", text);
}

static void add_meta(walk *w, const bwi_tensors *lowered)
{
    static const char *const keys[] = {"bitwright.family", "bitwright.normalize"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *v = bwi_tensors_meta(lowered, keys[i]);
        if (v) bwi_onnx_meta(&w->o, keys[i], bwi_onnx_text(&w->o, "%s", v));
    }
    bwi_onnx_meta(&w->o, "bitwright.classes", bwi_onnx_text(&w->o, "%d", w->p->layer[w->p->n_layers - 1].c));
    add_floats(w, "bitwright.mean", w->p->layer[0].mean, w->p->image_c);
    add_floats(w, "bitwright.std", w->p->layer[0].deviation, w->p->image_c);
    add_scales(w);
}

/* ---- The whole ----------------------------------------------------------------------------------------------------------- */

static bool has_few_bits(const bwr_plan *p)
{
    bool any = false;
    for (int i = 0; i < p->n_layers; i++) any |= p->layer[i].wbits > 0 && p->layer[i].wbits <= 4;
    return any;
}

static void build(walk *w, const bwi_tensors *lowered)
{
    const bwr_plan *p = w->p;
    bwi_onnx_opset(&w->o, "", w->style->four_bits && has_few_bits(p) ? OPSET_INT4 : OPSET);
    if (w->style->domain) bwi_onnx_opset(&w->o, w->style->domain, 1);
    w->o.graph.name = bwi_onnx_text(&w->o, "%s", *w->g->family ? w->g->family : "network");
    w->o.model.doc_string =
        bwi_onnx_text(&w->o, "image [N,channels,height,width]: (v / 255 - mean) / std with bitwright.mean and "
                             "bitwright.std; tensors between quantizers and convolutions are integer codes");
    bwi_onnx_input(&w->o, bwi_onnx_text(&w->o, "image"), 4, (int64_t[]){-1, p->image_c, p->image_h, p->image_w});
    for (int i = 0; i < p->n_layers; i++) add_layer(w, &p->layer[i]);
    bwi_onnx_output(&w->o, bwi_onnx_text(&w->o, "logits"), 2, (int64_t[]){-1, p->layer[p->n_layers - 1].c});
    add_meta(w, lowered);
}

bw_status bwi_onnx_export(const bwi_onnx_style *style, const bwi_model *m, const bwi_tensors *lowered, const char *path,
                          bw_error *err)
{
    uint8_t *image = NULL;
    size_t size;
    bwr_plan *p = bwi_calloc(1, sizeof *p);
    walk *w = bwi_calloc(1, sizeof *w);
    bw_status st;
    if (!p || !w) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for an ONNX model"));
    BWI_TRY(bwi_safetensors_image(&image, &size, lowered, err));
    BWI_TRY(bwr_plan_read(p, image, size, err));
    w->style = style, w->g = m->graph, w->p = p;
    bwi_onnx_init(&w->o);
    build(w, lowered);
    st = bwi_onnx_write(&w->o, path, err);
    bwi_onnx_free(&w->o);
fail:
    bwi_free(image);
    bwi_free(w);
    bwi_free(p);
    return st;
}
