/* Assignments are evaluated side by side: every worker has a graph and executors of its own and computes with one thread, so that an
 * evaluation is the same sequence of operations whatever the number of workers. Images are decoded once. */
#include "search/candidates.h"
#include "base/alloc.h"
#include "base/par.h"
#include "base/rng.h"
#include "search/policy.h"
#include "search/search.h"
#include "train/evaluate.h"
#include "train/hyper.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EVAL_BATCH 8 /* its activations stay in cache */
/* The Hessian's trace, tensor by tensor: draws of signs on each of a few batches of training images. */
#define TRACE_BATCH   32
#define TRACE_BATCHES 8
#define TRACE_DRAWS   2

typedef struct images {
    float *x;        /* [n,h,w,c], normalised */
    int32_t *labels; /* [n] */
    int n;
} images;

typedef struct worker {
    bwi_graph *g;
    bwi_exec *calibrate, *evaluate;
} worker;

struct bwi_candidates {
    bwi_model model;
    bw_recipe *recipe; /* what workers build: without hypernetwork, a float model with quantized weights */
    bwi_dataset *data;
    bwi_hyper *hyper; /* NULL: the model's own weights */
    images calibrate, valid;
    int calibrate_batch;
    bool seen; /* the model was trained on the validation images */
    worker *worker;
    int n_workers;
    /* quantized layers, numbered as they come in the graph; those that are searched first, then those that keep their bits */
    int *node, *at, n, n_layers;    /* [n_layers] in the workers' graphs; number; searched ones; all */
    uint8_t own[BWI_SEARCH_LAYERS]; /* bits in the model, by number */
    int lo, hi;
};

/* ---- Images -------------------------------------------------------------------------------------------------------------- */

static bw_status read_images(images *to, const bwi_dataset *d, const bwi_loader_options *o, bw_error *err)
{
    const size_t pixels = bwi_shape_size(d->shape);
    bwi_loader *l = NULL;
    bwi_batch b;
    bw_status st;
    BWI_TRY(bwi_loader_create(&l, d, o, err));
    BWI_TRY(bwi_loader_start(l, 0, 0, err));
    to->x = bwi_calloc((size_t)o->limit, pixels * sizeof *to->x);
    to->labels = bwi_calloc((size_t)o->limit, sizeof *to->labels);
    if (!to->x || !to->labels) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for %d images", o->limit));
    while (to->n < o->limit) {
        BWI_TRY(bwi_loader_next(l, &b, err));
        if (!b.n) break;
        const int n = b.n < o->limit - to->n ? b.n : o->limit - to->n;
        memcpy(to->x + (size_t)to->n * pixels, b.x, (size_t)n * pixels * sizeof *b.x);
        memcpy(to->labels + to->n, b.labels, (size_t)n * sizeof *b.labels);
        to->n += n;
    }
fail:
    bwi_loader_destroy(&l);
    return st;
}

/* Whether the model's training saw the images that its recipe held out: through what it started from, unless that held out the same. */
static bool start_saw(const bw_recipe *r)
{
    bwi_model start = {0};
    if (!*r->init) return false;
    const bool unknown = bwi_model_open(&start, r->init, NULL) != BW_OK;
    const bool saw = unknown || start.recipe->data.holdout != r->data.holdout || *start.recipe->init;
    bwi_model_close(&start);
    return saw;
}

static bw_status open_images(bwi_candidates *c, const bwi_candidates_options *o, bw_error *err)
{
    const bw_recipe *r = c->model.recipe;
    const char *source = o->data ? o->data : r->data.source;
    bw_status st;
    if (!*source) return bwi_fail(err, BW_ARG, "the model does not say what it was trained on: name the data (--data)");
    BWI_TRY(bwi_open_data(&c->data, source, err));
    BWI_TRY(bwi_data_fits(c->data, c->worker[0].g, err));
    const int all = c->data->n[BWI_TRAIN], holdout = r->data.holdout ? r->data.holdout : all / 10;
    c->seen = !r->data.holdout || start_saw(r);
    c->calibrate_batch = o->calibrate_batch;
    int batches = o->calibrate_batches;
    if (c->calibrate_batch > all - holdout) c->calibrate_batch = all - holdout;
    if (batches > (all - holdout) / c->calibrate_batch) batches = (all - holdout) / c->calibrate_batch;
    bwi_loader_options l = {.split = BWI_TRAIN,
                            .batch = c->calibrate_batch,
                            .augment = r->data.augment,
                            .shuffle = true,
                            .normalize = bwi_normalize_find(c->model.normalize),
                            .holdout = holdout};
    if (!l.normalize) BWI_TRY(bwi_normalize_check(c->model.normalize, err));
    l.limit = batches * c->calibrate_batch;
    bwi_loader_options held = {.split = BWI_TRAIN,
                               .batch = EVAL_BATCH,
                               .normalize = l.normalize,
                               .holdout = holdout,
                               .held = true,
                               .limit = o->limit > 0 && o->limit < holdout ? o->limit : holdout};
    BWI_TRY(read_images(&c->calibrate, c->data, &l, err));
    BWI_TRY(read_images(&c->valid, c->data, &held, err));
fail:
    return st;
}

/* ---- Workers ------------------------------------------------------------------------------------------------------------- */

/* The model's parameters and quantizers, blocks aside: these stand behind all others. */
static void copy_network(bwi_graph *to, const bwi_graph *from)
{
    bwi_quant *q, *p;
    const bwi_node *layer, *same;
    for (int i = 0; i < to->n_params; i++) {
        const bwi_param *a = bwi_graph_param(from, to->param[i].name);
        if (a && a->role != BWI_PARAM_QUANT) memcpy(to->param[i].data, a->data, a->numel * bwi_dtype_size(a->dtype));
    }
    for (int i = 0; bwi_graph_quant(to, i, &q, &layer); i++) {
        q->ready = false;
        for (int k = 0; bwi_graph_quant(from, k, &p, &same); k++) {
            if (p->role != q->role || strcmp(layer->name, same->name) != 0 || p->q != q->q) continue;
            memcpy(q->theta, p->theta, sizeof q->theta);
            q->ready = p->ready;
        }
    }
    to->version++;
}

/* Everything is planned for one thread, as workers run in bwi_par_each: a primitive planned for more than it gets waits for them for ever. */
static bw_status worker_open(bwi_candidates *c, worker *w, bw_error *err)
{
    const bwi_exec_options calibrate = {.batch = c->calibrate_batch,
                                        .calibrate = true,
                                        .precision = BWI_PRECISION_FAST,
                                        .round_sources = true},
                           evaluate = {.batch = EVAL_BATCH, .precision = BWI_PRECISION_FAST, .round_sources = true};
    bw_status st;
    if (!w->g) BWI_TRY(bwi_recipe_graph(&w->g, c->recipe, 0, err));
    copy_network(w->g, c->model.graph);
    BWI_TRY(bwi_exec_create(&w->calibrate, w->g, &calibrate, NULL, err));
    BWI_TRY(bwi_exec_create(&w->evaluate, w->g, &evaluate, NULL, err));
    return BW_OK;
fail:
    return st;
}

typedef struct work {
    bwi_candidates *c;
    bw_status (*fn)(bwi_candidates *c, worker *w, int i, void *arg, bw_error *err);
    void *arg;
} work;

static bw_status on_worker(void *work_, int i, bw_error *err)
{
    const work *w = work_;
    return w->fn(w->c, &w->c->worker[bwi_thread()], i, w->arg, err);
}

static bw_status on_workers(bwi_candidates *c, int n,
                            bw_status (*fn)(bwi_candidates *c, worker *w, int i, void *arg, bw_error *err), void *arg,
                            bw_error *err)
{
    return bwi_par_each(n, c->n_workers, on_worker, &(work){c, fn, arg}, err);
}

static bw_status open_one(bwi_candidates *c, worker *w, int i, void *arg, bw_error *err)
{
    (void)w, (void)arg;
    return worker_open(c, &c->worker[i], err);
}

/* ---- Opening ------------------------------------------------------------------------------------------------------------- */

static void add_layers(bwi_candidates *c, const bwi_graph *g, bool fixed)
{
    for (int i = 0, number = 0; i < g->n_nodes; i++) {
        if (!g->node[i].wq) continue;
        if (g->node[i].fixed == fixed) c->node[c->n_layers] = i, c->at[c->n_layers++] = number;
        number++;
    }
}

static bw_status find_layers(bwi_candidates *c, bw_error *err)
{
    const bw_recipe *r = c->model.recipe;
    const bwi_graph *g = c->worker[0].g;
    c->lo = 1, c->hi = BWI_SEARCH_BITS;
    c->node = bwi_calloc((size_t)g->n_nodes, sizeof *c->node);
    c->at = bwi_calloc((size_t)g->n_nodes, sizeof *c->at);
    if (!c->node || !c->at) return bwi_fail(err, BW_NOMEM, "no memory for the layers");
    add_layers(c, g, false);
    c->n = c->n_layers;
    add_layers(c, g, true);
    if (c->n_layers > BWI_SEARCH_LAYERS)
        return bwi_fail(err, BW_UNSUPPORTED, "more than %d quantized layers cannot be searched", BWI_SEARCH_LAYERS);
    for (int i = 0; i < c->n_layers; i++) {
        const bwi_quant *q = g->node[c->node[i]].wq;
        c->own[c->at[i]] = (uint8_t)q->bits;
        if (q->q->weight_bits[0] > c->lo) c->lo = q->q->weight_bits[0];
        if (q->q->weight_bits[1] < c->hi) c->hi = q->q->weight_bits[1];
    }
    if (r->hypernet.min_bits) c->lo = r->hypernet.min_bits, c->hi = r->hypernet.max_bits;
    return BW_OK;
}

/* A float model's weights are quantized as the recipe that is searched for will do it; its activations stay what they are. */
static bw_status take_weights(bwi_candidates *c, const bwi_candidates_options *o, bw_error *err)
{
    static const char *const taken[] = {"quant.weight", "quant.weight_bits", "quant.policy"};
    bw_recipe *asked = NULL;
    bw_status st;
    BWI_TRY(bwi_recipe_asked(&asked, c->model.recipe, o->set, o->n_set, err));
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        const bwi_key *key = bwi_key_find(taken[i]);
        char *value = bwi_recipe_value(asked, key);
        st = value ? bwi_recipe_set(c->recipe, key, value, err) : bwi_fail(err, BW_NOMEM, "no memory for a recipe");
        bwi_free(value);
        if (st) goto fail;
    }
    st = bwi_recipe_override(c->recipe, "quant.weight_gradient=ste", err);
fail:
    bw_recipe_destroy(&asked);
    return st;
}

static bw_status make_recipe(bwi_candidates *c, const bwi_candidates_options *o, bw_error *err)
{
    bw_status st;
    BWI_TRY(bwi_recipe_copy(&c->recipe, c->model.recipe, err));
    if (!strcmp(c->recipe->quant.weight, "none")) BWI_TRY(take_weights(c, o, err));
    c->recipe->hypernet.hidden = 0;
    return BW_OK;
fail:
    return st;
}

bw_status bwi_candidates_open(bwi_candidates **out, const char *model, const bwi_candidates_options *o, bw_error *err)
{
    bw_status st;
    *out = NULL;
    bwi_candidates *c = bwi_calloc(1, sizeof *c);
    if (!c) return bwi_fail(err, BW_NOMEM, "no memory for a search");
    bwi_threads_set(o->threads);
    BWI_TRY(bwi_model_open(&c->model, model, err));
    BWI_TRY(make_recipe(c, o, err));
    c->worker = bwi_calloc((size_t)bwi_threads(), sizeof *c->worker);
    if (!c->worker) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for a search"));
    c->n_workers = bwi_threads();
    BWI_TRY(bwi_recipe_graph(&c->worker[0].g, c->recipe, 0, err));
    BWI_TRY(find_layers(c, err));
    BWI_TRY(open_images(c, o, err));
    BWI_TRY(bwi_hyper_create(&c->hyper, c->model.graph, err));
    BWI_TRY(on_workers(c, c->n_workers, open_one, NULL, err));
    *out = c;
    return BW_OK;
fail:
    bwi_candidates_close(&c);
    return st;
}

void bwi_candidates_close(bwi_candidates **cp)
{
    bwi_candidates *c = *cp;
    if (!c) return;
    for (int i = 0; i < c->n_workers; i++) {
        bwi_exec_destroy(&c->worker[i].calibrate);
        bwi_exec_destroy(&c->worker[i].evaluate);
        bwi_graph_destroy(&c->worker[i].g);
    }
    images *own[] = {&c->calibrate, &c->valid};
    for (int i = 0; i < 2; i++) bwi_free(own[i]->x), bwi_free(own[i]->labels);
    bw_recipe_destroy(&c->recipe);
    bwi_free(c->worker);
    bwi_free(c->node);
    bwi_free(c->at);
    bwi_hyper_destroy(&c->hyper);
    bwi_dataset_close(&c->data);
    bwi_model_close(&c->model);
    bwi_free(c);
    *cp = NULL;
}

bool bwi_candidates_layer(const bwi_candidates *c, int i, bwi_searched_layer *layer)
{
    if (i < 0 || i >= c->n_layers) return false;
    const bwi_graph *g = c->worker[0].g;
    const bwi_node *n = &g->node[c->node[i]];
    const bwi_param *w = &g->param[n->param[0]];
    const bwi_shape out = g->value[n->out].shape;
    const int from = g->value[n->in[0]].producer;
    const bwi_quant *aq = from >= 0 ? g->node[from].aq : NULL;
    *layer = (bwi_searched_layer){.name = n->name,
                                  .kept = n->fixed ? n->wq->bits : 0,
                                  .weights = (double)w->numel,
                                  .multiplications = (double)w->numel * out.h * out.w,
                                  .activation_bits = aq ? aq->bits : 0};
    return true;
}

void bwi_candidates_range(const bwi_candidates *c, int *lo, int *hi)
{
    *lo = c->lo;
    *hi = c->hi;
}

const bwi_model *bwi_candidates_model(const bwi_candidates *c)
{
    return &c->model;
}

int bwi_candidates_images(const bwi_candidates *c, bool *seen)
{
    *seen = c->seen;
    return c->valid.n;
}

/* ---- Evaluating ---------------------------------------------------------------------------------------------------------- */

/* Whether what q has learned fits other bits: a step size does not, a factor behind statistics of the weights does. */
static bool keeps_parameters(const bwi_quant *q, int bits)
{
    return q->ready && (q->bits == bits || q->q->needs_stats);
}

/* Layers take their bits; a quantizer with parameters that fit other bits starts anew from its weights. */
static void set_bits(const bwi_candidates *c, worker *w, const uint8_t *bits)
{
    if (c->hyper) {
        uint8_t all[BWI_SEARCH_LAYERS];
        memcpy(all, c->own, sizeof all);
        for (int i = 0; i < c->n; i++) all[c->at[i]] = bits[i];
        bwi_hyper_make(c->hyper, all, w->g);
        return;
    }
    copy_network(w->g, c->model.graph);
    for (int i = 0; i < c->n; i++) {
        bwi_quant *q = w->g->node[c->node[i]].wq;
        q->bits = c->own[c->at[i]];
        q->ready = keeps_parameters(q, bits[i]);
        q->bits = bits[i];
    }
}

static bw_status forward(bwi_exec *e, const bwi_candidates *c, const images *from, int first, int n, bool train, bw_error *err)
{
    const size_t pixels = bwi_shape_size(c->data->shape);
    memcpy(bwi_exec_input(e), from->x + (size_t)first * pixels, (size_t)n * pixels * sizeof(float));
    return bwi_exec_forward(e, n, train, NULL, err);
}

/* What an assignment before left may be no number, which no momentum takes away. */
static void clear_statistics(const bwi_graph *g)
{
    for (int i = 0; i < g->n_params; i++)
        if (g->param[i].role == BWI_PARAM_STATE)
            memset(g->param[i].data, 0, g->param[i].numel * bwi_dtype_size(g->param[i].dtype));
}

/* Running statistics become the plain average of the batches' (methods 4.5). */
static bw_status calibrate(const bwi_candidates *c, worker *w, bw_error *err)
{
    const int batch = c->calibrate_batch;
    clear_statistics(w->g);
    for (int k = 0; k * batch < c->calibrate.n; k++) {
        bwi_graph_momentum(w->g, 1.0 / (k + 1));
        const bw_status st = forward(w->calibrate, c, &c->calibrate, k * batch, batch, true, err);
        if (st) return st;
    }
    return BW_OK;
}

typedef struct job {
    const uint8_t *bits;
    double *error;
} job;

static bw_status evaluate_one(bwi_candidates *c, worker *w, int i, void *arg, bw_error *err)
{
    const job *j = arg;
    int64_t right = 0;
    bw_status st;
    set_bits(c, w, j->bits + (size_t)i * (size_t)c->n);
    BWI_TRY(calibrate(c, w, err));
    for (int first = 0; first < c->valid.n; first += EVAL_BATCH) {
        const int n = c->valid.n - first < EVAL_BATCH ? c->valid.n - first : EVAL_BATCH;
        double loss;
        int top1, top5;
        BWI_TRY(forward(w->evaluate, c, &c->valid, first, n, false, err));
        BWI_TRY(bwi_exec_loss(w->evaluate, c->valid.labels + first, &loss, &top1, &top5, err));
        right += top1;
    }
    j->error[i] = 100 - 100 * (double)right / c->valid.n;
fail:
    if (st != BW_NUMERIC) return st;
    j->error[i] = 100; /* a network that computes no numbers is wrong about every image, and no reason to stop */
    return BW_OK;
}

bw_status bwi_candidates_evaluate(void *candidates, const uint8_t *bits, int count, double *error, bw_error *err)
{
    return on_workers(candidates, count, evaluate_one, &(job){bits, error}, err);
}

/* ---- Sensitivity --------------------------------------------------------------------------------------------------------- */

/* Number of layer i's weights among the quantized tensors of the graph. */
static int tensor_of(const bwi_graph *g, const bwi_quant *wanted)
{
    bwi_quant *q;
    const bwi_node *layer;
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++)
        if (q == wanted) return i;
    return -1;
}

static size_t weights_of(const bwi_candidates *c, int i)
{
    const bwi_graph *g = c->worker[0].g;
    return g->param[g->node[c->node[i]].param[0]].numel;
}

static size_t largest_layer(const bwi_candidates *c)
{
    size_t most = 0;
    for (int i = 0; i < c->n; i++) most = weights_of(c, i) > most ? weights_of(c, i) : most;
    return most;
}

/* Mean curvature of the loss along a weight of every layer: trace / n, from products v'Hv in units of the grid, where the weight moves by
 * scale * mul / unit. Batch k's share; part [TRACE_BATCHES][BWI_SEARCH_LAYERS]. */
static bw_status trace_batch(bwi_candidates *c, worker *w, int k, void *part, bw_error *err)
{
    double *curvature = (double *)part + (size_t)k * BWI_SEARCH_LAYERS, loss;
    const int batch = c->calibrate.n < TRACE_BATCH ? c->calibrate.n : TRACE_BATCH;
    const bwi_exec_options o = {.batch = batch, .train = true, .second_order = true};
    bwi_graph *g = w->g;
    bwi_exec *e = NULL;
    float *v = NULL;
    uint8_t most[BWI_SEARCH_LAYERS];
    int top1, top5;
    bw_status st = BW_OK;
    if ((k + 1) * batch > c->calibrate.n) return BW_OK;
    memset(most, c->hi, sizeof most);
    set_bits(c, w, most);
    BWI_TRY(bwi_exec_create(&e, g, &o, NULL, err));
    if (!(v = bwi_calloc(largest_layer(c), sizeof *v))) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the Hessian"));
    BWI_TRY(forward(e, c, &c->calibrate, k * batch, batch, true, err));
    BWI_TRY(bwi_exec_loss(e, c->calibrate.labels + (size_t)k * (size_t)batch, &loss, &top1, &top5, err));
    BWI_TRY(bwi_exec_backward(e, err));
    for (int i = 0; i < c->n; i++) {
        const bwi_node *layer = &g->node[c->node[i]];
        const bwi_qk *q = &layer->wq->k;
        const size_t n = g->param[layer->param[0]].numel;
        const double step = q->scale * q->mul / q->unit;
        for (int d = 0; d < TRACE_DRAWS; d++) {
            bwi_rng r = bwi_rng_make(0, BWI_RNG_HESSIAN, (uint64_t)i, (uint64_t)(k * TRACE_DRAWS + d));
            double vhv;
            for (size_t j = 0; j < n; j++) v[j] = bwi_rng_u64(&r) & 1 ? 1.0f : -1.0f;
            BWI_TRY(bwi_exec_hvp(e, tensor_of(g, layer->wq), v, NULL, &vhv, err));
            curvature[i] += vhv / (step * step * (double)n * TRACE_DRAWS * TRACE_BATCHES);
        }
    }
fail:
    bwi_free(v);
    bwi_exec_destroy(&e);
    return st;
}

/* Batches side by side, added in their order. Of a network that is not at a minimum a trace may lie below 0; its size counts. */
static bw_status curvatures(bwi_candidates *c, double *curvature, bw_error *err)
{
    double *part = bwi_calloc((size_t)TRACE_BATCHES * BWI_SEARCH_LAYERS, sizeof *part);
    if (!part) return bwi_fail(err, BW_NOMEM, "no memory for the Hessian");
    const bw_status st = on_workers(c, TRACE_BATCHES, trace_batch, part, err);
    for (int k = 0; k < TRACE_BATCHES; k++)
        for (int i = 0; i < c->n; i++) curvature[i] += part[(size_t)k * BWI_SEARCH_LAYERS + (size_t)i];
    for (int i = 0; i < c->n; i++) curvature[i] = fabs(curvature[i]);
    bwi_free(part);
    return st;
}

/* The values that layer i's weights have in the worker's network, [numel]. */
static bw_status values_of(const bwi_candidates *c, const worker *w, int i, float *values, bw_error *err)
{
    const bwi_node *layer = &w->g->node[c->node[i]];
    const bwi_param *weight = &w->g->param[layer->param[0]];
    const bw_status st = bwi_quant_prepare(layer->wq, weight->data, weight->dtype, weight->numel, err);
    if (st) return st;
    bwi_quant_codes(layer->wq, weight->data, weight->dtype, weight->numel, weight->dtype, values);
    for (size_t k = 0; k < weight->numel; k++) values[k] *= (float)layer->wq->k.scale;
    return BW_OK;
}

static double squared_distance(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t k = 0; k < n; k++) sum += ((double)a[k] - (double)b[k]) * ((double)a[k] - (double)b[k]);
    return sum;
}

/* loss = 1/2 curvature * squared distance from the weights at the most bits (second-order Taylor expansion with the mean of the Hessian's
 * diagonal: Dong et al., HAWQ-V2, NeurIPS 2020). Weights at each bit-width are those that a network there has: a hypernetwork makes others. */
bw_status bwi_candidates_sensitivity(void *candidates, double (*loss)[BWI_SEARCH_BITS + 1], bw_error *err)
{
    bwi_candidates *c = candidates;
    worker *w = &c->worker[0];
    uint8_t all[BWI_SEARCH_LAYERS];
    double curvature[BWI_SEARCH_LAYERS] = {0};
    size_t total = 0;
    float *best = NULL, *values = NULL;
    bw_status st;
    for (int i = 0; i < c->n; i++) total += weights_of(c, i);
    best = bwi_calloc(total, sizeof *best);
    values = bwi_calloc(largest_layer(c), sizeof *values);
    if (!best || !values) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the sensitivities"));
    BWI_TRY(curvatures(c, curvature, err));
    for (int b = c->hi; b >= c->lo; b--) {
        float *at = best;
        memset(all, b, sizeof all);
        set_bits(c, w, all);
        for (int i = 0; i < c->n; at += weights_of(c, i++)) {
            BWI_TRY(values_of(c, w, i, b == c->hi ? at : values, err));
            loss[i][b] = b == c->hi ? 0 : curvature[i] * squared_distance(values, at, weights_of(c, i)) / 2;
        }
    }
fail:
    bwi_free(best);
    bwi_free(values);
    return st;
}
