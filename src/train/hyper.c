#include "train/hyper.h"
#include "base/alloc.h"
#include "base/par.h"
#include "base/rng.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The parameters of a block, in the order of the graph. */
enum { FC1_WEIGHT, FC1_BIAS, FC2_WEIGHT, FC2_BIAS, FC3_WEIGHT, FC3_BIAS, GAMMA_WEIGHT, GAMMA_BIAS, N_PARAMS };
static const char *const suffix[N_PARAMS] = {"fc1.weight", "fc1.bias", "fc2.weight",   "fc2.bias",
                                             "fc3.weight", "fc3.bias", "gamma.weight", "gamma.bias"};
#define INPUT(bits) ((bits) / 8.0) /* qn */
#define PART        8192           /* elements of W3 whose gradient is made at a time: they stay in cache */

typedef struct block {
    int node;            /* of the layer */
    int param[N_PARAMS]; /* in the graph */
    int slot[N_PARAMS];  /* in params; training */
    size_t n;            /* weights */
    uint8_t own, bits;   /* bit-widths: its own; of the weights made last */
    bool fixed;          /* never draws others */
} block;

struct bwi_hyper {
    bwi_graph *g;
    block *b;
    int n, hidden;
    /* training */
    bwi_params *params;
    uint64_t seed;
    int min_bits, max_bits; /* 0: its own */
    char *part;             /* [BWI_CHUNKS][PART or a row] real */
    double *sums;           /* [BWI_CHUNKS][hidden] */
    char *small;            /* [hidden * (hidden + 8)] real: gradients of all but W3 and b3 */
};

/* ---- Getting ready ------------------------------------------------------------------------------------------------------- */

bw_status bwi_hyper_check(const bw_recipe *r, bw_error *err)
{
    const int low = r->hypernet.min_bits, high = r->hypernet.max_bits;
    bwi_quant q;
    bw_status st;
    if (!r->hypernet.hidden) {
        if (low || high) return bwi_fail(err, BW_ARG, "hypernet.min_bits and max_bits need hypernet.hidden, such as 32");
        return BW_OK;
    }
    if (!strcmp(r->quant.weight, "none"))
        return bwi_fail(err, BW_ARG, "hypernet.hidden: there are no quantized weights to make; set quant.weight to minmax");
    if ((!low) != (!high) || low > high)
        return bwi_fail(err, BW_ARG, "hypernet: min_bits is %d and max_bits %d; expected a range, or 0 for both", low, high);
    BWI_TRY(bwi_quant_make(&q, r->quant.weight, r->quant.weight_gradient, BWI_WEIGHT, r->quant.weight_bits, true, err));
    if (q.q->n_params != 1 || strcmp(q.q->param[0], "gamma") != 0)
        return bwi_fail(err, BW_ARG,
                        "hypernet.hidden: made weights need a quantizer whose one parameter is gamma, such as minmax, not %s",
                        q.q->name);
    if (q.g->meta)
        return bwi_fail(err, BW_ARG, "hypernet.hidden: made weights take no steps of their own, so %s cannot learn them",
                        q.g->name);
    if (low && (low < q.q->weight_bits[0] || high > q.q->weight_bits[1]))
        return bwi_fail(err, BW_ARG, "hypernet: bits %d to %d: %s supports %d to %d", low, high, q.q->name, q.q->weight_bits[0],
                        q.q->weight_bits[1]);
    return BW_OK;
fail:
    return st;
}

bw_status bwi_hyper_attach(bwi_graph *g, int hidden, bw_error *err)
{
    bw_status st;
    for (int i = 0; i < g->n_nodes; i++) {
        if (!g->node[i].wq) continue;
        const int64_t n = (int64_t)g->param[g->node[i].param[0]].numel, h = hidden;
        const int64_t dim[N_PARAMS][2] = {{h, 1}, {h}, {h, h}, {h}, {n, h}, {n}, {1, h}, {1}};
        for (int k = 0; k < N_PARAMS; k++) {
            char name[32];
            int index;
            snprintf(name, sizeof name, "weight_block.%s", suffix[k]);
            BWI_TRY(bwi_graph_add_param(g, g->node[i].name, name, BWI_PARAM_HYPER, 2 - k % 2, dim[k], &index, err));
        }
    }
    return BW_OK;
fail:
    return st;
}

static int find_param(const bwi_graph *g, const bwi_node *layer, int k)
{
    char name[2 * BWI_NAME];
    snprintf(name, sizeof name, "%s.weight_block.%s", layer->name, suffix[k]);
    const bwi_param *p = bwi_graph_param(g, name);
    return p ? (int)(p - g->param) : -1;
}

bw_status bwi_hyper_create(bwi_hyper **out, bwi_graph *g, bw_error *err)
{
    *out = NULL;
    bwi_hyper *h = bwi_calloc(1, sizeof *h);
    if (h) h->b = bwi_calloc((size_t)g->n_nodes + 1, sizeof *h->b);
    if (!h || !h->b) {
        bwi_hyper_destroy(&h);
        return bwi_fail(err, BW_NOMEM, "no memory for the networks that make weights");
    }
    h->g = g;
    for (int i = 0; i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        if (!n->wq || find_param(g, n, 0) < 0) continue;
        block *b = &h->b[h->n++];
        *b = (block){.node = i,
                     .n = g->param[n->param[0]].numel,
                     .own = (uint8_t)n->wq->bits,
                     .bits = (uint8_t)n->wq->bits,
                     .fixed = n->fixed};
        for (int k = 0; k < N_PARAMS; k++) b->param[k] = find_param(g, n, k);
        h->hidden = (int)g->param[b->param[FC1_BIAS]].numel;
    }
    if (!h->n) bwi_hyper_destroy(&h);
    *out = h;
    return BW_OK;
}

void bwi_hyper_destroy(bwi_hyper **hp)
{
    bwi_hyper *h = *hp;
    if (!h) return;
    bwi_free(h->b);
    bwi_free(h->part);
    bwi_free(h->sums);
    bwi_free(h->small);
    bwi_free(h);
    *hp = NULL;
}

int bwi_hyper_layers(const bwi_hyper *h)
{
    return h->n;
}

static void put(bwi_param *p, size_t i, double x)
{
    bwi_real_put(p->dtype, p->data, i, x);
}

static double get(const bwi_param *p, size_t i)
{
    return bwi_real_get(p->dtype, p->data, i);
}

static void fill_uniform(bwi_param *p, uint64_t seed, double range)
{
    bwi_rng r = bwi_rng_make(seed, BWI_RNG_INIT, bwi_hash_str(p->name), 0);
    for (size_t i = 0; i < p->numel; i++) put(p, i, range * (2 * bwi_rng_uniform(&r) - 1));
}

void bwi_hyper_init(bwi_graph *g, uint64_t seed)
{
    for (int i = 0; i < g->n_nodes; i++) {
        if (!g->node[i].wq || find_param(g, &g->node[i], 0) < 0) continue;
        bwi_param *p[N_PARAMS];
        for (int k = 0; k < N_PARAMS; k++) p[k] = &g->param[find_param(g, &g->node[i], k)];
        const double inputs = (double)p[FC1_BIAS]->numel;
        for (int k = FC1_WEIGHT; k <= FC1_BIAS; k++) fill_uniform(p[k], seed, 1);
        for (int k = FC2_WEIGHT; k <= FC3_BIAS; k++) fill_uniform(p[k], seed, 1 / sqrt(inputs));
        fill_uniform(p[GAMMA_WEIGHT], seed, .01);
        put(p[GAMMA_BIAS], 0, 1);
    }
}

void bwi_hyper_adopt(bwi_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        bwi_node *n = &g->node[i];
        if (!n->wq || find_param(g, n, 0) < 0) continue;
        bwi_param *w3 = &g->param[find_param(g, n, FC3_WEIGHT)], *b3 = &g->param[find_param(g, n, FC3_BIAS)];
        bwi_param *w4 = &g->param[find_param(g, n, GAMMA_WEIGHT)], *b4 = &g->param[find_param(g, n, GAMMA_BIAS)];
        const bwi_param *w = &g->param[n->param[0]];
        memset(w3->data, 0, w3->numel * bwi_dtype_size(w3->dtype));
        memset(w4->data, 0, w4->numel * bwi_dtype_size(w4->dtype));
        memcpy(b3->data, w->data, w->numel * bwi_dtype_size(w->dtype));
        put(b4, 0, n->wq->ready ? n->wq->theta[0] : 1);
    }
}

/* ---- Loops over W3 ------------------------------------------------------------------------------------------------------- */

#define LOOPS(T)                                                                                                               \
    /* w [rows] = W3 [rows,h] a + b3 */                                                                                        \
    static void make_rows_##T(const T *restrict w3, const T *restrict b3, const double *a, size_t h, size_t rows,              \
                              T *restrict w)                                                                                   \
    {                                                                                                                          \
        T v[BWI_HYPER_HIDDEN];                                                                                                 \
        for (size_t j = 0; j < h; j++) v[j] = (T)a[j];                                                                         \
        for (size_t r = 0; r < rows; r++) {                                                                                    \
            T sum = 0;                                                                                                         \
            BWI_PRAGMA(omp simd reduction(+ : sum))                                                                            \
            for (size_t j = 0; j < h; j++) sum += w3[r * h + j] * v[j];                                                        \
            w[r] = b3[r] + sum;                                                                                                \
        }                                                                                                                      \
    }                                                                                                                          \
    /* gw3 [rows,h] = g a'; ga [h] += W3' g */                                                                                 \
    static void back_rows_##T(const T *restrict w3, const T *restrict g, const double *a, size_t h, size_t rows,               \
                              T *restrict gw3, double *ga)                                                                     \
    {                                                                                                                          \
        T v[BWI_HYPER_HIDDEN], sum[BWI_HYPER_HIDDEN] = {0};                                                                    \
        for (size_t j = 0; j < h; j++) v[j] = (T)a[j];                                                                         \
        for (size_t r = 0; r < rows; r++) BWI_PRAGMA(omp simd)                                                                 \
        for (size_t j = 0; j < h; j++) {                                                                                       \
            gw3[r * h + j] = g[r] * v[j];                                                                                      \
            sum[j] += g[r] * w3[r * h + j];                                                                                    \
        }                                                                                                                      \
        for (size_t j = 0; j < h; j++) ga[j] += (double)sum[j];                                                                \
    }
LOOPS(float)
LOOPS(double)

static char *at(const void *p, bwi_dtype real, size_t i)
{
    return (char *)(uintptr_t)p + i * bwi_dtype_size(real);
}

/* ---- Making weights ------------------------------------------------------------------------------------------------------ */

typedef struct activations {
    double a1[BWI_HYPER_HIDDEN], a2[BWI_HYPER_HIDDEN], gamma;
} activations;

static void activate(const bwi_hyper *h, const block *b, int bits, activations *a)
{
    const bwi_param *p[N_PARAMS];
    const size_t n = (size_t)h->hidden;
    for (int k = 0; k < N_PARAMS; k++) p[k] = &h->g->param[b->param[k]];
    for (size_t i = 0; i < n; i++) a->a1[i] = fmax(get(p[FC1_WEIGHT], i) * INPUT(bits) + get(p[FC1_BIAS], i), 0);
    a->gamma = get(p[GAMMA_BIAS], 0);
    for (size_t i = 0; i < n; i++) {
        double z = get(p[FC2_BIAS], i);
        for (size_t j = 0; j < n; j++) z += get(p[FC2_WEIGHT], i * n + j) * a->a1[j];
        a->a2[i] = fmax(z, 0);
        a->gamma += get(p[GAMMA_WEIGHT], i) * a->a2[i];
    }
}

static void make_block(const bwi_hyper *h, const block *b, int bits, bwi_graph *to)
{
    const bwi_node *layer = &to->node[b->node];
    const bwi_param *w = &to->param[layer->param[0]];
    const void *w3 = h->g->param[b->param[FC3_WEIGHT]].data, *b3 = h->g->param[b->param[FC3_BIAS]].data;
    const size_t hidden = (size_t)h->hidden;
    const bwi_dtype real = h->g->real;
    activations a;
    activate(h, b, bits, &a);
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t from = bwi_chunk(b->n, 1, (size_t)i), rows = bwi_chunk(b->n, 1, (size_t)i + 1) - from;
        void *out = at(w->data, real, from);
        if (real == BWI_DT_F64)
            make_rows_double((const double *)w3 + from * hidden, (const double *)b3 + from, a.a2, hidden, rows, out);
        else
            make_rows_float((const float *)w3 + from * hidden, (const float *)b3 + from, a.a2, hidden, rows, out);
    }
    layer->wq->bits = bits;
    layer->wq->theta[0] = a.gamma;
    layer->wq->ready = true;
}

void bwi_hyper_make(const bwi_hyper *h, const uint8_t *bits, bwi_graph *to)
{
    for (int i = 0; i < h->n; i++) make_block(h, &h->b[i], bits ? bits[i] : h->b[i].own, to);
    to->version++;
}

/* ---- Training ------------------------------------------------------------------------------------------------------------ */

bw_status bwi_hyper_train(bwi_hyper *h, bwi_params *params, const bw_recipe *r, bw_error *err)
{
    const size_t hidden = (size_t)h->hidden, size = bwi_dtype_size(h->g->real);
    h->params = params;
    h->seed = (uint64_t)r->train.seed;
    h->min_bits = r->hypernet.min_bits;
    h->max_bits = r->hypernet.max_bits;
    h->part = bwi_calloc(BWI_CHUNKS * (size_t)PART, size);
    h->sums = bwi_calloc(BWI_CHUNKS * hidden, sizeof *h->sums);
    h->small = bwi_calloc(hidden * (hidden + 8), size);
    if (!h->part || !h->sums || !h->small) return bwi_fail(err, BW_NOMEM, "no memory for the networks that make weights");
    for (int i = 0; i < h->n; i++) {
        block *b = &h->b[i];
        const bwi_node *layer = &h->g->node[b->node];
        for (int s = 0; s < params->n; s++) {
            const bwi_param *p = &h->g->param[params->param[s]];
            for (int k = 0; k < N_PARAMS; k++)
                if (params->param[s] == b->param[k]) b->slot[k] = s, params->deferred[s] = true;
            if (params->param[s] == layer->param[0] || p->data == &layer->wq->theta[0]) params->deferred[s] = true;
        }
    }
    return BW_OK;
}

void bwi_hyper_before(bwi_hyper *h, int64_t epoch, int64_t step)
{
    const uint64_t t = (uint64_t)(epoch * h->params->position.steps + step);
    bwi_rng r = bwi_rng_make(h->seed, BWI_RNG_METHOD, bwi_hash_str("hypernet.bits"), t);
    for (int i = 0; i < h->n; i++) {
        block *b = &h->b[i];
        b->bits = b->own;
        if (h->min_bits && !b->fixed)
            b->bits = (uint8_t)(h->min_bits + (int)bwi_rng_below(&r, (uint32_t)(h->max_bits - h->min_bits + 1)));
        make_block(h, b, b->bits, h->g);
    }
    h->g->version++;
}

/* One step on W3, a part at a time, right behind its gradient; adds W3' g to ga. */
static void step_w3(bwi_hyper *h, const block *b, const void *g, const double *a2, double *ga, int64_t epoch, int64_t step)
{
    const size_t hidden = (size_t)h->hidden, most = PART / hidden;
    const void *w3 = h->g->param[b->param[FC3_WEIGHT]].data;
    const bwi_dtype real = h->g->real;
    memset(h->sums, 0, BWI_CHUNKS * hidden * sizeof *h->sums);
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t end = bwi_chunk(b->n, 1, (size_t)i + 1);
        void *gw3 = at(h->part, real, (size_t)i * PART);
        double *sum = h->sums + (size_t)i * hidden;
        for (size_t from = bwi_chunk(b->n, 1, (size_t)i), rows; from < end; from += rows) {
            rows = end - from < most ? end - from : most;
            if (real == BWI_DT_F64)
                back_rows_double((const double *)w3 + from * hidden, (const double *)g + from, a2, hidden, rows, gw3, sum);
            else
                back_rows_float((const float *)w3 + from * hidden, (const float *)g + from, a2, hidden, rows, gw3, sum);
            bwi_params_step_part(h->params, b->slot[FC3_WEIGHT], from * hidden, rows * hidden, gw3, epoch, step);
        }
    }
    for (int i = 0; i < BWI_CHUNKS; i++)
        for (size_t j = 0; j < hidden; j++) ga[j] += h->sums[(size_t)i * hidden + j];
}

/* A gradient in double becomes the next piece of h->small, and the slot takes its step. */
static void step_small(bwi_hyper *h, const block *b, int k, const double *grad, size_t n, int64_t epoch, int64_t step)
{
    for (size_t i = 0; i < n; i++) bwi_real_put(h->g->real, h->small, i, grad[i]);
    bwi_params_step_part(h->params, b->slot[k], 0, n, h->small, epoch, step);
}

static void step_block(bwi_hyper *h, const block *b, int64_t epoch, int64_t step)
{
    const bwi_graph *g = h->g;
    const bwi_node *layer = &g->node[b->node];
    const void *gw = g->param[layer->param[0]].grad;
    const double ggamma = layer->wq->dtheta[0];
    const size_t n = (size_t)h->hidden;
    const bwi_param *w2 = &g->param[b->param[FC2_WEIGHT]], *w4 = &g->param[b->param[GAMMA_WEIGHT]];
    activations a;
    double ga2[BWI_HYPER_HIDDEN], ga1[BWI_HYPER_HIDDEN] = {0}, row[BWI_HYPER_HIDDEN];
    activate(h, b, b->bits, &a);
    for (size_t i = 0; i < n; i++) ga2[i] = ggamma * get(w4, i);
    step_w3(h, b, gw, a.a2, ga2, epoch, step);
    bwi_params_step_part(h->params, b->slot[FC3_BIAS], 0, b->n, gw, epoch, step);

    for (size_t i = 0; i < n; i++) row[i] = ggamma * a.a2[i];
    step_small(h, b, GAMMA_WEIGHT, row, n, epoch, step);
    step_small(h, b, GAMMA_BIAS, &ggamma, 1, epoch, step);

    for (size_t i = 0; i < n; i++) {
        if (!(a.a2[i] > 0)) ga2[i] = 0;
        for (size_t j = 0; j < n; j++) ga1[j] += get(w2, i * n + j) * ga2[i];
    }
    for (size_t i = 0; i < n; i++) /* behind W2's last use */
        for (size_t j = 0; j < n; j++) bwi_real_put(g->real, h->small, i * n + j, ga2[i] * a.a1[j]);
    bwi_params_step_part(h->params, b->slot[FC2_WEIGHT], 0, n * n, h->small, epoch, step);
    step_small(h, b, FC2_BIAS, ga2, n, epoch, step);

    for (size_t i = 0; i < n; i++) {
        if (!(a.a1[i] > 0)) ga1[i] = 0;
        row[i] = ga1[i] * INPUT(b->bits);
    }
    step_small(h, b, FC1_WEIGHT, row, n, epoch, step);
    step_small(h, b, FC1_BIAS, ga1, n, epoch, step);
}

void bwi_hyper_after(bwi_hyper *h, int64_t epoch, int64_t step)
{
    for (int i = 0; i < h->n; i++) step_block(h, &h->b[i], epoch, step);
}
