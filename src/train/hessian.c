/* Hutchinson's estimate of the Hessian's trace, tensor by tensor: the mean of v'Hv over random directions of signs, whose tangents start at the
 * tensor itself, so that one costs little for the last layers (nn/hvp.c). Directions through all tensors at once would be unbiased, too, but
 * on ResNet-20 their spread is 2 to 40 times as large. */
#include "train/hessian.h"
#include "base/alloc.h"
#include "base/par.h"
#include "base/rng.h"
#include "quant/hessian.h"
#include "train/describe.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Rule BWI_HESSIAN_BY_ERROR: the standard error of delta, relative or absolute, that is good enough. */
#define RELATIVE_ERROR 0.2
#define ABSOLUTE_ERROR 0.002
/* The paper's code: the relative change of the mean, and what keeps its denominator from 0. */
#define CHANGE     1e-3
#define CHANGE_EPS 1e-6

/* One quantized tensor during an update, in units of delta. */
typedef struct estimate {
    bwi_quant *q;
    const char *layer;
    int index;         /* in bwi_graph_quant */
    double sum;        /* of the batches' means */
    double squares;    /* of deviations from these means */
    double inverse;    /* sum of 1 / draws over the batches */
    int freedom, done; /* degrees of freedom in squares; batches in sum */
} estimate;

typedef struct update {
    bwi_run *run;
    bwi_exec *exec;
    bwi_loader *loader;
    estimate *tensor;
    int n;
    int batch, batches; /* images; the most that a tensor asks for */
    float *direction;
    size_t size; /* of direction */
    int64_t products;
    char *kept; /* see exchange */
} update;

static double option(const estimate *t, int i)
{
    return t->q->gopt[i];
}

/* ---- What must stay ------------------------------------------------------------------------------------------------------- */

/* Running statistics of batch norms, and counters and gradients of quantizers, which training passes move: saved, or put back. (The paper's code lets its passes
 * move the statistics.) Returns the bytes. */
static size_t exchange(const bwi_graph *g, char *kept, bool restore)
{
    bwi_quant *q;
    const bwi_node *layer;
    size_t at = 0;
#define EXCHANGE(p, bytes)                                                                                                     \
    do {                                                                                                                       \
        const size_t bytes_ = (bytes);                                                                                         \
        if (kept && restore) memcpy((p), kept + at, bytes_);                                                                   \
        if (kept && !restore) memcpy(kept + at, (p), bytes_);                                                                  \
        at += bytes_;                                                                                                          \
    } while (0)
    for (int i = 0; i < g->n_params; i++)
        if (g->param[i].role == BWI_PARAM_STATE)
            EXCHANGE(g->param[i].data, g->param[i].numel * bwi_dtype_size(g->param[i].dtype));
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++) {
        EXCHANGE(&q->clipped, sizeof q->clipped);
        EXCHANGE(&q->seen, sizeof q->seen);
        EXCHANGE(&q->gxq, sizeof q->gxq); /* MetaQuant's input is the gradient of the step before */
        if (kept && !restore) q->gxq = NULL;
    }
#undef EXCHANGE
    return at;
}

/* ---- One tensor, one batch ------------------------------------------------------------------------------------------------ */

/* Signs for all n elements, from a stream of their own for seed, epoch, batch, tensor and draw. */
static void draw(const update *u, const estimate *t, int batch, int number, size_t n)
{
    const bwi_run *run = u->run;
    bwi_rng r = bwi_rng_make((uint64_t)run->recipe->train.seed, BWI_RNG_HESSIAN,
                             (uint64_t)run->at.epoch << 32 | (uint64_t)batch, (uint64_t)t->index << 32 | (uint64_t)number);
    for (size_t i = 0; i < n; i += 64) {
        const uint64_t word = bwi_rng_u64(&r);
        const size_t end = n - i < 64 ? n - i : 64;
        for (size_t k = 0; k < end; k++) u->direction[i + k] = word >> k & 1 ? 1.0f : -1.0f;
    }
}

/* Whether the batch's mean over n draws, with its sum of squared deviations, is good enough. The batches share what is known about the spread, so
 * that later ones need fewer draws, and each has its share of the error of delta. A mean below 0 by two standard errors is good enough: delta
 * is 0. */
static bool precise(const estimate *t, int batches, int n, double mean, double squares)
{
    const int freedom = t->freedom + n - 1;
    if (freedom < 2) return false;
    const double delta = (t->sum + mean) / (t->done + 1), spread = (t->squares + squares) / freedom;
    const double wanted = fmax(delta > 0 ? RELATIVE_ERROR * delta : -delta / 2, ABSOLUTE_ERROR);
    const double error2 = spread * (t->inverse + 1.0 / n) / ((double)batches * batches),
                 share = (double)(t->done + 1) / batches;
    return error2 <= wanted * wanted * share;
}

static bool unchanged(double mean, double before, bool is_signed)
{
    const double change = fabs(mean - before) / ((is_signed ? before : fabs(before)) + CHANGE_EPS);
    return change < CHANGE;
}

/* Adds the batch's mean of v'Hv / (N G) to t. */
static bw_status estimate_trace(update *u, estimate *t, int batch, bw_error *err)
{
    const size_t n = bwi_exec_tensor_size(u->exec, t->index);
    const int rule = (int)option(t, BWI_HESSIAN_RULE), most = (int)option(t, BWI_HESSIAN_DRAWS);
    const int batches = (int)option(t, BWI_HESSIAN_BATCHES), size = (int)option(t, BWI_HESSIAN_G);
    bwi_qstats g;
    double mean = 0, squares = 0, vhv;
    int k = 0;
    bw_status st;
    BWI_TRY(bwi_exec_code_gradient(u->exec, t->index, &g, err));
    const double gradient = size == BWI_HESSIAN_3_SD ? 3 * g.std : size == BWI_HESSIAN_MAX ? g.max_abs : g.mean_abs;
    const double unit = (double)n * (gradient + 1e-12); /* a tensor without a gradient has no delta */
    for (bool good = false; k < most && !good;) {
        draw(u, t, batch, k, n);
        BWI_TRY(bwi_exec_hvp(u->exec, t->index, u->direction, NULL, &vhv, err));
        u->products++;
        k++;
        const double before = mean, x = vhv / unit;
        mean += (x - mean) / k;
        squares += (x - before) * (x - mean);
        if (!isfinite(squares))
            BWI_TRY(bwi_fail(err, BW_NUMERIC, "layer %s: the curvature of its %s is not finite", t->layer,
                             t->q->role == BWI_WEIGHT ? "weights" : "input"));
        if (rule == BWI_HESSIAN_BY_ERROR)
            good = precise(t, batches, k, mean, squares);
        else
            good = k > 1 && unchanged(mean * unit, before * unit, rule == BWI_HESSIAN_BY_SIGNED_CHANGE);
    }
    t->sum += mean;
    t->squares += squares;
    t->inverse += 1.0 / k;
    t->freedom += k - 1;
    t->done++;
fail:
    return st;
}

/* ---- An update ------------------------------------------------------------------------------------------------------------ */

/* Finds the tensors whose update is due; u->n stays 0 when there are none. */
static bw_status find_tensors(update *u, bw_error *err)
{
    const int64_t epoch = u->run->at.epoch;
    bwi_quant *q;
    const bwi_node *layer;
    int all = 0;
    while (bwi_graph_quant(u->run->graph, all, &q, &layer)) all++;
    if (!(u->tensor = bwi_calloc((size_t)all, sizeof *u->tensor))) return bwi_fail(err, BW_NOMEM, "no memory for the Hessian");
    for (int i = 0; i < all; i++) {
        bwi_graph_quant(u->run->graph, i, &q, &layer);
        if (q->g != &bwi_gradient_ewgs_hessian || epoch < 1 || epoch % (int64_t)q->gopt[BWI_HESSIAN_PERIOD]) continue;
        estimate *t = &u->tensor[u->n++];
        *t = (estimate){.q = q, .layer = layer->name, .index = i};
        if (option(t, BWI_HESSIAN_BATCHES) > u->batches) u->batches = (int)option(t, BWI_HESSIAN_BATCHES);
        if (option(t, BWI_HESSIAN_BATCH) > u->batch) u->batch = (int)option(t, BWI_HESSIAN_BATCH);
    }
    return BW_OK;
}

static bw_status prepare(update *u, bw_error *err)
{
    bwi_run *run = u->run;
    const bw_recipe *r = run->recipe;
    bwi_rng own = bwi_rng_make((uint64_t)r->train.seed, BWI_RNG_HESSIAN, UINT64_MAX, 0);
    const int there = run->data->n[BWI_TRAIN] - r->data.holdout;
    const int images = r->data.limit > 0 && r->data.limit < there ? r->data.limit : there;
    bw_status st;
    if (!u->batch) u->batch = r->train.batch;
    if (u->batch > images) u->batch = images;
    const bwi_loader_options o = {
        .split = BWI_TRAIN,
        .batch = u->batch,
        .augment = r->data.augment,
        .shuffle = true,
        .drop_last = true,
        .seed = bwi_rng_u64(&own), /* not the order of the run, which goes on as if nothing had happened */
        .normalize = bwi_normalize_find(r->data.normalize),
        .limit = r->data.limit,
        .holdout = r->data.holdout,
    };
    BWI_TRY(bwi_loader_create(&u->loader, run->data, &o, err));
    BWI_TRY(bwi_loader_start(u->loader, run->at.epoch, 0, err));
    const bwi_exec_options e = {.batch = u->batch, .train = true, .second_order = true};
    BWI_TRY(bwi_exec_create(&u->exec, run->graph, &e, NULL, err));
    u->kept = bwi_malloc(exchange(run->graph, NULL, false));
    if (!u->kept) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the Hessian"));
    exchange(run->graph, u->kept, false);
fail:
    return st;
}

/* One batch: its gradients, then its share of every tensor that wants it. */
static bw_status run_batch(update *u, int number, bw_error *err)
{
    bwi_run *run = u->run;
    bwi_batch batch;
    double loss;
    int top1, top5;
    bw_status st;
    BWI_TRY(bwi_loader_next(u->loader, &batch, err));
    if (!batch.n) { /* a small set: from its beginning */
        BWI_TRY(bwi_loader_start(u->loader, run->at.epoch, 0, err));
        BWI_TRY(bwi_loader_next(u->loader, &batch, err));
    }
    memcpy(bwi_exec_input(u->exec), batch.x, (size_t)batch.n * bwi_shape_size(run->data->shape) * sizeof(float));
    BWI_TRY(bwi_exec_forward(u->exec, batch.n, true, NULL, err));
    BWI_TRY(bwi_exec_loss(u->exec, batch.labels, &loss, &top1, &top5, err));
    BWI_TRY(bwi_exec_backward(u->exec, err));
    for (int i = 0; i < u->n; i++) {
        const size_t size = bwi_exec_tensor_size(u->exec, u->tensor[i].index);
        char doing[80];
        snprintf(doing, sizeof doing, "Hessian: batch %d/%d, tensor %d/%d", number + 1, u->batches, i + 1, u->n);
        if (bwi_run_poll(u->run, doing)) return BW_INTERRUPTED;
        if (number >= option(&u->tensor[i], BWI_HESSIAN_BATCHES)) continue;
        if (size > u->size) {
            bwi_free(u->direction);
            u->size = 0;
            if (!(u->direction = bwi_malloc(size * sizeof *u->direction)))
                BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the Hessian"));
            u->size = size;
        }
        BWI_TRY(estimate_trace(u, &u->tensor[i], number, err));
    }
fail:
    return st;
}

/* All at once: until then the roundings further down have had the delta of before. */
static char *set_deltas(update *u, double seconds)
{
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
    static const char *const of[2] = {"weights", "activations"};
    bwi_text text = {0};
    for (int i = 0; i < u->n; i++) {
        const estimate *t = &u->tensor[i];
        const int role = t->q->role == BWI_ACTIVATION;
        t->q->delta = fmax(t->sum / t->done, 0);
        low[role] = fmin(low[role], t->q->delta);
        high[role] = fmax(high[role], t->q->delta);
    }
    bwi_text_add(&text, "Hessian update: %lld products, %.1f s; delta", (long long)u->products, seconds);
    for (int role = 0; role < 2; role++)
        if (low[role] <= high[role])
            bwi_text_add(&text, "%s %s %.4g..%.4g", role && low[0] <= high[0] ? "," : "", of[role], low[role], high[role]);
    return bwi_text_take(&text);
}

bw_status bwi_hessian_update(bwi_run *run, char **text, bw_error *err)
{
    update u = {.run = run};
    const double start = bwi_now();
    bw_status st;
    *text = NULL;
    BWI_TRY(find_tensors(&u, err));
    if (!u.n) goto fail;
    BWI_TRY(prepare(&u, err));
    for (int i = 0; i < u.batches; i++) BWI_TRY(run_batch(&u, i, err));
    *text = set_deltas(&u, bwi_now() - start);
    if (!*text) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for a message"));
fail:
    if (u.kept) exchange(run->graph, u.kept, true);
    bwi_free(u.kept);
    bwi_free(u.direction);
    bwi_free(u.tensor);
    bwi_loader_destroy(&u.loader);
    bwi_exec_destroy(&u.exec);
    return st;
}
