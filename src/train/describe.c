#include "train/describe.h"
#include <math.h>
#include <string.h>

const char *bwi_json_text(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

double bwi_json_at(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

json_t *bwi_json_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

char *bwi_text_take(bwi_text *t)
{
    char *s = t->s;
    if (t->failed) {
        bwi_free(s);
        s = NULL;
    }
    *t = (bwi_text){0};
    return s;
}

static const bwi_quant *quantizer_of(const bwi_graph *g, const bwi_node *layer, bwi_role role)
{
    bwi_quant *q;
    const bwi_node *owner;
    for (int i = 0; bwi_graph_quant(g, i, &q, &owner); i++)
        if (owner == layer && q->role == role) return q;
    return NULL;
}

/* {"bits": 4, "quantizer": "lsq", "gradient": "ste", "signed": true, "params": {"step": 0.1}}; 32 bits and no quantizer for float. */
static json_t *quantizer(const bwi_quant *q)
{
    if (!q) return json_pack("{s:i, s:n}", "bits", 32, "quantizer");
    json_t *params = json_object();
    for (int i = 0; q->ready && i < bwi_quant_n_params(q); i++)
        if (json_object_set_new(params, q->q->param[i], bwi_json_number(q->theta[i]))) {
            json_decref(params);
            return NULL;
        }
    return json_pack("{s:i, s:s, s:s, s:b, s:o}", "bits", q->bits, "quantizer", q->q->name, "gradient", q->g->name, "signed",
                     q->role == BWI_WEIGHT || q->is_signed, "params", params);
}

static json_t *layer(const bwi_graph *g, const bwi_node *n)
{
    const bwi_param *w = &g->param[n->param[0]];
    const bwi_quant *wq = quantizer_of(g, n, BWI_WEIGHT), *aq = quantizer_of(g, n, BWI_ACTIVATION);
    const bwi_shape in = g->value[n->in[0]].shape, out = g->value[n->out].shape;
    json_t *shape = json_array();
    for (int i = 0; shape && i < w->ndim; i++)
        if (json_array_append_new(shape, json_integer(w->dim[i]))) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:s, s:[iii], s:[iii], s:o, s:I, s:I, s:o, s:o}", "name", n->name, "operation", n->op->name,
                     "input", in.h, in.w, in.c, "output", out.h, out.w, out.c, "shape", shape, "weights", (json_int_t)w->numel,
                     "bytes", (json_int_t)((w->numel * (size_t)(wq ? wq->bits : 32) + 7) / 8), "weight", quantizer(wq),
                     "activation", quantizer(aq));
}

json_t *bwi_describe(const bwi_graph *g)
{
    uint64_t float_bytes, parameters = 0, blocks = 0;
    const uint64_t bytes = bwi_graph_bytes(g, &float_bytes);
    json_t *layers = json_array();
    for (int i = 0; i < g->n_params; i++)
        if (g->param[i].role == BWI_PARAM_HYPER)
            blocks += g->param[i].numel;
        else if (g->param[i].role != BWI_PARAM_STATE && g->param[i].role != BWI_PARAM_QUANT)
            parameters += g->param[i].numel;
    for (int i = 0; layers && i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        if (n->param[0] < 0 || g->param[n->param[0]].role != BWI_PARAM_WEIGHT) continue;
        if (json_array_append_new(layers, layer(g, n))) {
            json_decref(layers);
            return NULL;
        }
    }
    return json_pack("{s:s, s:i, s:o, s:I, s:I, s:I, s:I, s:f}", "network", g->family, "classes", g->classes, "layers", layers,
                     "parameters", (json_int_t)parameters, "hypernet_parameters", (json_int_t)blocks, "bytes",
                     (json_int_t)bytes, "float_bytes", (json_int_t)float_bytes, "ratio",
                     bytes ? (double)float_bytes / (double)bytes : 0);
}

/* "4 bit lsq/ste step 0.0123" */
static void quantizer_text(const json_t *q, char *out, size_t size)
{
    const json_t *name = json_object_get(q, "quantizer"), *value;
    const char *param;
    snprintf(out, size, "float");
    if (!json_is_string(name)) return;
    size_t at =
        (size_t)snprintf(out, size, "%d bit %s", (int)json_integer_value(json_object_get(q, "bits")), json_string_value(name));
    const char *gradient = json_string_value(json_object_get(q, "gradient"));
    if (at < size && strcmp(gradient, "ste")) at += (size_t)snprintf(out + at, size - at, "/%s", gradient);
    json_object_foreach((json_t *)(uintptr_t)json_object_get(q, "params"), param, value)
    {
        if (at < size) at += (size_t)snprintf(out + at, size - at, " %s %.4g", param, json_number_value(value));
    }
}

static int dimension(const json_t *layer, const char *key, size_t i)
{
    return (int)json_integer_value(json_array_get(json_object_get(layer, key), i));
}

void bwi_describe_text(const json_t *d, bwi_text *t)
{
    const json_t *layers = json_object_get(d, "layers"), *l;
    char weight[128], activation[128], shape[64];
    size_t i;
    bwi_text_add(t, "%s, %d classes\n%-24s %-12s %9s %9s  %-30s %s\n", json_string_value(json_object_get(d, "network")),
                 (int)json_integer_value(json_object_get(d, "classes")), "layer", "output", "weights", "bytes", "weights",
                 "input");
    json_array_foreach(layers, i, l)
    {
        quantizer_text(json_object_get(l, "weight"), weight, sizeof weight);
        quantizer_text(json_object_get(l, "activation"), activation, sizeof activation);
        snprintf(shape, sizeof shape, "%dx%dx%d", dimension(l, "output", 0), dimension(l, "output", 1),
                 dimension(l, "output", 2));
        bwi_text_add(t, "%-24s %-12s %9lld %9lld  %-30s %s\n", json_string_value(json_object_get(l, "name")), shape,
                     (long long)json_integer_value(json_object_get(l, "weights")),
                     (long long)json_integer_value(json_object_get(l, "bytes")), weight, activation);
    }
    const long long bytes = json_integer_value(json_object_get(d, "bytes")),
                    float_bytes = json_integer_value(json_object_get(d, "float_bytes"));
    bwi_text_add(t, "%lld parameters; %lld bytes (%.3f MB), float %lld (%.3f MB), ratio %.2f\n",
                 (long long)json_integer_value(json_object_get(d, "parameters")), bytes, (double)bytes / 1e6, float_bytes,
                 (double)float_bytes / 1e6, json_real_value(json_object_get(d, "ratio")));
    const long long blocks = (long long)json_integer_value(json_object_get(d, "hypernet_parameters"));
    if (blocks) bwi_text_add(t, "%lld parameters more make the weights from their bits\n", blocks);
}
