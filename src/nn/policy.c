/* Which layers are quantized, with how many bits: a named policy, then rules by layer name. */
#include "nn/nn.h"
#include "nn/internal.h"
#include "base/alloc.h"
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static const bwi_policy policies[] = {
#define POLICY(name, first, last, shortcuts, summary) {name, summary, first, last, shortcuts},
#include "nn/policy.def"
#undef POLICY
};
#define N_POLICIES (sizeof policies / sizeof *policies)

const bwi_policy *bwi_policy_at(size_t i)
{
    return i < N_POLICIES ? &policies[i] : NULL;
}

static bw_status find_policy(const char *name, const bwi_policy **out, bw_error *err)
{
    const char *names[N_POLICIES];
    for (size_t i = 0; i < N_POLICIES; i++) {
        names[i] = policies[i].name;
        if (!strcmp(name, names[i])) {
            *out = &policies[i];
            return BW_OK;
        }
    }
    const char *near = bwi_nearest(name, names, N_POLICIES);
    return bwi_fail(err, BW_ARG, "there is no quantization policy '%s'; %s%s", name,
                    near ? "did you mean " : "see the list of policies", near ? near : "");
}

static bool has_weight(const bwi_graph *g, const bwi_node *n)
{
    return n->param[0] >= 0 && g->param[n->param[0]].role == BWI_PARAM_WEIGHT;
}

/* Whether a value can be negative: decides between signed and unsigned activation codes. */
static bool may_be_negative(const bwi_graph *g, int value)
{
    int producer = g->value[value].producer;
    if (producer < 0) return true;
    const bwi_node *n = &g->node[producer];
    switch (n->op->sign) {
    case BWI_SIGN_NONNEGATIVE:
        return false;
    case BWI_SIGN_KEEPS:
        for (int i = 0; i < n->n_in; i++)
            if (may_be_negative(g, n->in[i])) return true;
        return false;
    default:
        return true;
    }
}

/* A shortcut convolution ends in the same addition as the main path, with no ReLU on its way. */
static bool is_shortcut(const bwi_graph *g, const bwi_node *conv)
{
    int v = conv->out;
    bool block_has_other = false;
    for (int i = (int)(conv - g->node) + 1; i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        if (n->in[0] == v && n->n_in == 1 && n->op->sign == BWI_SIGN_ANY && !has_weight(g, n)) v = n->out; /* its batch norm */
        if (n->n_in == 2 && n->in[1] == v) block_has_other = true;
    }
    return block_has_other;
}

static bw_status new_quant(bwi_graph *g, const bwi_quant_spec *s, bwi_role role, int bits, bool is_signed, double features,
                           const char *layer, bwi_quant **out, bw_error *err)
{
    bool weight = role == BWI_WEIGHT;
    bwi_quant *q = *out = bwi_calloc(1, sizeof *q);
    if (!q) return bwi_fail(err, BW_NOMEM, "no memory for the quantizer of layer %s", layer);
    bw_status st = bwi_quant_make(q, weight ? s->weight_quantizer : s->activation_quantizer,
                                  weight ? s->weight_gradient : s->activation_gradient, role, bits, is_signed, err);
    if (st) return bwi_fail_in(err, st, "layer %s, %s", layer, weight ? "weights" : "input");
    q->features = features;
    q->batch = 1;
    return bwi_graph_add_quant_params(g, layer, q, err);
}

static bool is_none(const char *name)
{
    return !name || !*name || !strcmp(name, "none");
}

typedef struct layer_bits {
    int weight, activation; /* -1: float */
    bool fixed;             /* weight is the policy's */
} layer_bits;

/* Resolves policy and rules for every layer. bits: [n_nodes], out. */
static bw_status resolve(const bwi_graph *g, const bwi_quant_spec *s, layer_bits *bits, bw_error *err)
{
    const bwi_policy *policy = NULL;
    bw_status st = find_policy(s->policy && *s->policy ? s->policy : "all", &policy, err);
    if (st) return st;
    int first = -1, last = -1;
    for (int i = 0; i < g->n_nodes; i++)
        if (has_weight(g, &g->node[i])) {
            if (first < 0) first = i;
            last = i;
        }
    for (int i = 0; i < g->n_nodes; i++) {
        int forced = i == first ? policy->first_bits : i == last ? policy->last_bits : 0;
        if (!policy->shortcuts && has_weight(g, &g->node[i]) && is_shortcut(g, &g->node[i])) forced = -1;
        bits[i].weight = is_none(s->weight_quantizer) ? -1 : forced ? forced : s->weight_bits;
        bits[i].activation = is_none(s->activation_quantizer) ? -1 : forced ? forced : s->activation_bits;
        bits[i].fixed = forced != 0;
    }
    for (int r = 0; r < s->n_rules; r++) {
        const bwi_layer_rule *rule = &s->rule[r];
        int hits = 0;
        for (int i = 0; i < g->n_nodes; i++) {
            if (!has_weight(g, &g->node[i]) || fnmatch(rule->match, g->node[i].name, 0)) continue;
            hits++;
            if (rule->weight_bits) bits[i].weight = rule->weight_bits, bits[i].fixed = false;
            if (rule->activation_bits) bits[i].activation = rule->activation_bits;
            if (bits[i].weight > 0 && is_none(s->weight_quantizer))
                return bwi_fail(err, BW_ARG,
                                "quant.layers rule '%s' asks for %d-bit weights, but no weight quantizer is chosen",
                                rule->match, bits[i].weight);
            if (bits[i].activation > 0 && is_none(s->activation_quantizer))
                return bwi_fail(err, BW_ARG,
                                "quant.layers rule '%s' asks for %d-bit activations, but no activation quantizer is chosen",
                                rule->match, bits[i].activation);
        }
        if (!hits)
            return bwi_fail(err, BW_ARG, "quant.layers rule '%s' matches no convolution or linear layer; the first is named %s",
                            rule->match, first >= 0 ? g->node[first].name : "(there is none)");
    }
    return BW_OK;
}

/* Rebuilds node list and value numbers with a quantize node in front of every layer whose input is quantized. */
static bw_status insert(bwi_graph *g, const bwi_quant_spec *s, const layer_bits *bits, bw_error *err)
{
    int n_old = g->n_nodes, n_new = n_old;
    for (int i = 0; i < n_old; i++) n_new += has_weight(g, &g->node[i]) && bits[i].activation > 0;
    bwi_node *nodes = bwi_calloc((size_t)n_new, sizeof *nodes);
    bwi_value *values = bwi_realloc(g->value, (size_t)(g->n_values + n_new - n_old) * sizeof *values);
    if (values) g->value = values;
    if (!nodes || !values) {
        bwi_free(nodes);
        return bwi_fail(err, BW_NOMEM, "no memory to quantize the network");
    }
    int at = 0;
    bw_status st = BW_OK;
    for (int i = 0; i < n_old; i++) {
        bwi_node *n = &g->node[i];
        bool weighted = has_weight(g, n);
        if (weighted && bits[i].activation > 0 && !st) {
            bwi_shape shape = g->value[n->in[0]].shape;
            bwi_node *q = &nodes[at];
            *q = (bwi_node){
                .op = bwi_op_find("quantize"), .in = {n->in[0]}, .n_in = 1, .out = g->n_values, .param = {-1, -1, -1, -1}};
            snprintf(q->name, sizeof q->name, "%.80s.input_quant", n->name);
            st = new_quant(g, s, BWI_ACTIVATION, bits[i].activation, may_be_negative(g, n->in[0]),
                           (double)bwi_shape_size(shape), n->name, &q->aq, err);
            g->value[g->n_values++] = (bwi_value){shape, 0};
            n->in[0] = q->out;
            at++;
        }
        if (weighted && bits[i].weight > 0 && !st)
            st = new_quant(g, s, BWI_WEIGHT, bits[i].weight, true, (double)g->param[n->param[0]].numel, n->name, &n->wq, err);
        n->fixed = n->wq && bits[i].fixed;
        nodes[at++] = *n;
    }
    /* may_be_negative reads the old list, so producers are renumbered only now; on failure too, so that destroy sees every quantizer. */
    bwi_free(g->node);
    g->node = nodes;
    g->n_nodes = at;
    for (int i = 0; i < at; i++) g->value[nodes[i].out].producer = i;
    return st;
}

bw_status bwi_graph_quantize(bwi_graph *g, const bwi_quant_spec *s, bw_error *err)
{
    layer_bits *bits = bwi_calloc((size_t)g->n_nodes + 1, sizeof *bits);
    if (!bits) return bwi_fail(err, BW_NOMEM, "no memory to quantize the network");
    bw_status st = resolve(g, s, bits, err);
    if (!st) st = insert(g, s, bits, err);
    bwi_free(bits);
    return st;
}
