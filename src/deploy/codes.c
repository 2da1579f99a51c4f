#include "deploy/codes.h"
#include "base/alloc.h"
#include <stdlib.h>

bw_status bwi_codes_create(bwi_codes *c, const bwi_graph *g, int most, bw_error *err)
{
    const size_t room = (size_t)64 << 20;
    size_t image = 0, at = 0;
    *c = (bwi_codes){.batch = most};
    for (int i = 0; i < g->n_nodes; i++)
        if (g->node[i].aq) c->n++, image += bwi_shape_size(g->value[g->node[i].out].shape);
    if (!c->n) return BW_OK;
    if (image * (size_t)most > room) c->batch = room / image > 1 ? (int)(room / image) : 1;
    c->tensor = bwi_calloc((size_t)c->n, sizeof *c->tensor);
    c->all = bwi_malloc(image * (size_t)c->batch);
    if (!c->tensor || !c->all) {
        bwi_codes_destroy(c);
        return bwi_fail(err, BW_NOMEM, "no memory for the codes of %d images", most);
    }
    for (int i = 0, k = 0; i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        if (!n->aq) continue;
        bwi_code_tensor *t = &c->tensor[k++];
        *t = (bwi_code_tensor){.node = n, .n = bwi_shape_size(g->value[n->out].shape), .graph = c->all + at};
        at += t->n * (size_t)c->batch;
    }
    return BW_OK;
}

void bwi_codes_destroy(bwi_codes *c)
{
    bwi_free(c->tensor);
    bwi_free(c->all);
    *c = (bwi_codes){0};
}

/* n codes of any type to bytes, as the engine has them. */
static void to_bytes(const bwi_buf *from, size_t n, uint8_t *restrict to)
{
    const uint8_t *byte = from->data;
    const float *real = from->data;
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t end = bwi_chunk(n, 64, (size_t)i + 1);
        if (from->type == BWI_DT_F32)
            for (size_t k = bwi_chunk(n, 64, (size_t)i); k < end; k++) to[k] = (uint8_t)(int)real[k];
        else
            for (size_t k = bwi_chunk(n, 64, (size_t)i); k < end; k++) to[k] = byte[k];
    }
}

static void take(bwi_codes *c, const bwi_quant *q, const bwi_buf *codes, int images)
{
    for (int i = 0; i < c->n; i++)
        if (c->tensor[i].node->aq == q) to_bytes(codes, c->tensor[i].n * (size_t)images, c->tensor[i].graph);
}

void bwi_codes_take(void *codes, const bwi_call *step)
{
    if (step->node->aq) take(codes, step->node->aq, &step->out, step->n);
    for (int k = 0; k < step->n_q; k++) take(codes, step->aq[k], &step->q[k], step->n);
}

typedef struct comparison {
    bwi_codes *codes;
    int image, chunk;
} comparison;

static void compare(const bwi_code_tensor *t, const uint8_t *graph, const uint8_t *engine, bwi_code_counts *counts)
{
    const bool is_signed = t->node->aq->k.lo < 0;
    int64_t differing = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (graph[i] == engine[i]) continue;
        const int by = is_signed ? (int8_t)graph[i] - (int8_t)engine[i] : graph[i] - engine[i];
        counts->largest = abs(by) > counts->largest ? abs(by) : counts->largest;
        differing++;
    }
    counts->codes += (int64_t)t->n;
    counts->differing += differing;
    counts->images += differing > 0;
}

static void observe(void *observer, const bwr_plan *plan, int layer, const char *values)
{
    const comparison *x = observer;
    const bwr_layer *l = &plan->layer[layer];
    for (int k = 0; k < l->n_codes; k++)
        for (int i = 0; i < x->codes->n; i++) {
            bwi_code_tensor *t = &x->codes->tensor[i];
            if (t->node->out != l->codes[k].value) continue;
            compare(t, t->graph + (size_t)x->image * t->n, (const uint8_t *)values + plan->value[t->node->out].offset,
                    &t->counts[x->chunk]);
        }
}

void bwi_codes_compare(bwi_codes *c, const bw_net *net, const uint8_t *pixels, int image, int chunk, float *logits, void *work)
{
    comparison x = {c, image, chunk};
    bwr_run_observed(net, pixels, logits, work, observe, &x);
}

bw_verify_layer bwi_codes_layer(const bwi_codes *c, int i)
{
    const bwi_code_tensor *t = &c->tensor[i];
    bw_verify_layer l = {.name = t->node->name, .bits = t->node->aq->bits};
    for (int k = 0; k < BWI_CHUNKS; k++) {
        const bwi_code_counts *x = &t->counts[k];
        l.codes += x->codes;
        l.differing_codes += x->differing;
        l.differing_images += x->images;
        l.largest_difference = x->largest > l.largest_difference ? x->largest : l.largest_difference;
    }
    return l;
}
