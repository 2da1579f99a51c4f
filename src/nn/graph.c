/* The graph: nodes in topological order, the values between them, and the parameters. */
#include "nn/nn.h"
#include "base/alloc.h"
#include "base/rng.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

bw_status bwi_graph_create(bwi_graph **out, bwi_dtype real, bwi_shape input, bw_error *err)
{
    *out = NULL;
    if (input.h < 1 || input.w < 1 || input.c < 1)
        return bwi_fail(err, BW_SHAPE, "the network's input is %dx%dx%d; every dimension must be at least 1", input.h, input.w,
                        input.c);
    bwi_graph *g = bwi_calloc(1, sizeof *g);
    bwi_value *v = bwi_calloc(1, sizeof *v);
    if (!g || !v) {
        bwi_free(g);
        bwi_free(v);
        return bwi_fail(err, BW_NOMEM, "no memory for a graph");
    }
    g->real = real;
    g->value = v;
    g->n_values = 1;
    v->shape = input;
    v->producer = -1;
    g->version = 1;
    *out = g;
    return BW_OK;
}

void bwi_graph_destroy(bwi_graph **gp)
{
    bwi_graph *g = *gp;
    if (!g) return;
    for (int i = 0; i < g->n_params; i++) {
        if (g->param[i].role == BWI_PARAM_QUANT) continue; /* points into a bwi_quant */
        bwi_free(g->param[i].data);
        bwi_free(g->param[i].grad);
    }
    for (int i = 0; i < g->n_nodes; i++) {
        bwi_free(g->node[i].wq);
        bwi_free(g->node[i].aq);
    }
    bwi_free(g->param);
    bwi_free(g->node);
    bwi_free(g->value);
    bwi_free(g);
    *gp = NULL;
}

static bw_status grow(void **array, int n, size_t size)
{
    void *p = bwi_realloc(*array, (size_t)(n + 1) * size);
    if (!p) return BW_NOMEM;
    memset((char *)p + (size_t)n * size, 0, size);
    *array = p;
    return BW_OK;
}

/* Appends an empty parameter named "node.suffix"; data is the caller's to fill. */
static bw_status new_param(bwi_graph *g, const char *node, const char *suffix, bwi_param_role role, int *index, bw_error *err)
{
    void *array = g->param;
    if (grow(&array, g->n_params, sizeof *g->param))
        return bwi_fail(err, BW_NOMEM, "no memory for parameter %s.%s", node, suffix);
    g->param = array;
    bwi_param *p = &g->param[g->n_params];
    int len = snprintf(p->name, sizeof p->name, "%s.%s", node, suffix);
    if (len < 0 || len >= (int)sizeof p->name)
        return bwi_fail(err, BW_ARG, "layer %s: the name of its %s is too long", node, suffix);
    p->role = role;
    p->dtype = g->real;
    *index = g->n_params++;
    return BW_OK;
}

bw_status bwi_graph_add_param(bwi_graph *g, const char *node, const char *suffix, bwi_param_role role, int ndim,
                              const int64_t *dim, int *index, bw_error *err)
{
    bw_status st = new_param(g, node, suffix, role, index, err);
    if (st) return st;
    bwi_param *p = &g->param[*index];
    p->ndim = ndim;
    p->numel = 1;
    for (int i = 0; i < ndim; i++) {
        p->dim[i] = dim[i];
        p->numel *= (size_t)dim[i];
    }
    p->data = bwi_calloc(p->numel, bwi_dtype_size(g->real));
    const bool has_grad = role != BWI_PARAM_STATE && role != BWI_PARAM_HYPER;
    if (has_grad) p->grad = bwi_calloc(p->numel, bwi_dtype_size(g->real));
    if (!p->data || (has_grad && !p->grad))
        return bwi_fail(err, BW_NOMEM, "no memory for parameter %s (%zu elements)", p->name, p->numel);
    return BW_OK;
}

bw_status bwi_graph_add(bwi_graph *g, const char *op, const char *name, const int *in, int n_in, const bwi_attr *attr,
                        int *value, bw_error *err)
{
    const bwi_op *o = bwi_op_find(op);
    if (!o) return bwi_fail(err, BW_ARG, "layer %s: there is no operation named '%s'", name, op);
    if (n_in != o->n_in) return bwi_fail(err, BW_ARG, "layer %s: %s takes %d inputs, got %d", name, op, o->n_in, n_in);
    for (int i = 0; i < g->n_nodes; i++)
        if (!strcmp(g->node[i].name, name))
            return bwi_fail(err, BW_ARG, "layer %s: there is a layer of this name already", name);
    bwi_node node = {.op = o, .n_in = n_in, .param = {-1, -1, -1, -1}};
    bwi_shape shape[2] = {{0}}, result;
    if (snprintf(node.name, sizeof node.name, "%s", name) >= (int)sizeof node.name / 2)
        return bwi_fail(err, BW_ARG, "layer %s: the name is longer than %zu characters", name, sizeof node.name / 2 - 1);
    for (int i = 0; i < n_in; i++) {
        if (in[i] < 0 || in[i] >= g->n_values)
            return bwi_fail(err, BW_ARG, "layer %s: input %d is value %d, which does not exist", name, i, in[i]);
        node.in[i] = in[i];
        shape[i] = g->value[in[i]].shape;
    }
    if (attr) node.attr = *attr;
    bw_status st = o->infer(&node, shape, &result, err);
    if (st) return bwi_fail_in(err, st, "layer %s (%s)", name, op);
    if (o->params && (st = o->params(g, &node, shape, err))) return st;
    void *values = g->value, *nodes = g->node;
    if (grow(&values, g->n_values, sizeof *g->value)) goto nomem;
    g->value = values;
    if (grow(&nodes, g->n_nodes, sizeof *g->node)) goto nomem;
    g->node = nodes;
    g->value[g->n_values] = (bwi_value){result, g->n_nodes};
    node.out = g->n_values++;
    g->node[g->n_nodes++] = node;
    g->output = node.out;
    *value = node.out;
    return BW_OK;
nomem:
    return bwi_fail(err, BW_NOMEM, "no memory for layer %s", name);
}

bwi_param *bwi_graph_param(const bwi_graph *g, const char *name)
{
    for (int i = 0; i < g->n_params; i++)
        if (!strcmp(g->param[i].name, name)) return &g->param[i];
    return NULL;
}

double bwi_graph_momentum(bwi_graph *g, double momentum)
{
    double before = momentum;
    for (int i = 0; i < g->n_nodes; i++) {
        if (strcmp(g->node[i].op->name, "batch_norm") != 0) continue;
        before = g->node[i].attr.momentum;
        g->node[i].attr.momentum = momentum;
    }
    return before;
}

void bwi_graph_init(bwi_graph *g, uint64_t seed)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        bwi_param *w = n->param[0] >= 0 ? &g->param[n->param[0]] : NULL, *b = n->param[1] >= 0 ? &g->param[n->param[1]] : NULL;
        if (!w || w->role != BWI_PARAM_WEIGHT) continue;
        double fan_in = (double)(w->numel / (size_t)w->dim[0]);
        bwi_rng r = bwi_rng_make(seed, BWI_RNG_INIT, bwi_hash_str(n->name), 0);
        for (size_t k = 0; k < w->numel; k++) bwi_real_put(w->dtype, w->data, k, bwi_rng_normal(&r) * sqrt(2 / fan_in));
        for (size_t k = 0; b && k < b->numel; k++)
            bwi_real_put(b->dtype, b->data, k, (2 * bwi_rng_uniform(&r) - 1) / sqrt(fan_in));
    }
    g->version++;
}

/* The parameters of a quantizer: one double each, living in the bwi_quant. */
bw_status bwi_graph_add_quant_params(bwi_graph *g, const char *layer, bwi_quant *q, bw_error *err)
{
    for (int i = 0; i < bwi_quant_n_params(q); i++) {
        char suffix[BWI_NAME];
        int index = -1;
        snprintf(suffix, sizeof suffix, "%s.%s", q->role == BWI_WEIGHT ? "weight_quant" : "input_quant", q->q->param[i]);
        bw_status st = new_param(g, layer, suffix, BWI_PARAM_QUANT, &index, err);
        if (st) return st;
        bwi_param *p = &g->param[index];
        p->ndim = 1;
        p->dim[0] = 1;
        p->numel = 1;
        p->dtype = BWI_DT_F64;
        p->data = &q->theta[i];
        p->grad = &q->dtheta[i];
    }
    return BW_OK;
}

/* The quantize node in front of a layer, or NULL. */
static const bwi_node *input_quantizer(const bwi_graph *g, const bwi_node *layer)
{
    int producer = g->value[layer->in[0]].producer;
    return producer >= 0 && g->node[producer].aq ? &g->node[producer] : NULL;
}

bool bwi_graph_quant(const bwi_graph *g, int i, bwi_quant **q, const bwi_node **layer)
{
    for (int k = 0; k < g->n_nodes; k++) {
        const bwi_node *n = &g->node[k], *a;
        if (n->param[0] < 0 || g->param[n->param[0]].role != BWI_PARAM_WEIGHT) continue;
        *layer = n;
        if (n->wq && i-- == 0) {
            *q = n->wq;
            return true;
        }
        if ((a = input_quantizer(g, n)) && i-- == 0) {
            *q = a->aq;
            return true;
        }
    }
    return false;
}

/* Running statistics do not count: deployment folds them into the two arrays of a batch norm. */
uint64_t bwi_graph_bytes(const bwi_graph *g, uint64_t *float_bytes)
{
    uint64_t bits = 0, numel = 0;
    for (int i = 0; i < g->n_params; i++) {
        if (g->param[i].role == BWI_PARAM_STATE || g->param[i].role == BWI_PARAM_HYPER) continue;
        if (g->param[i].role == BWI_PARAM_QUANT) {
            bits += 32;
            continue;
        }
        bits += 32 * (uint64_t)g->param[i].numel;
        numel += g->param[i].numel;
    }
    for (int i = 0; i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        if (n->wq) bits -= (uint64_t)(32 - n->wq->bits) * (uint64_t)g->param[n->param[0]].numel;
    }
    if (float_bytes) *float_bytes = 4 * numel;
    return (bits + 7) / 8;
}
