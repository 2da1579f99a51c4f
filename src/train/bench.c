/* Times training steps on a batch of random numbers: what data loading, evaluation and files cost stays out. */
#include "base/alloc.h"
#include "base/par.h"
#include "base/rng.h"
#include "train/meta.h"
#include "zoo/zoo.h"
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 3 };

typedef struct bench {
    bwi_graph *graph;
    bwi_exec *exec;
    bwi_params params;
    bwi_meta *meta; /* NULL: gradients are not learned */
    int batch;
    float *x;        /* [batch,h,w,c] */
    int32_t *labels; /* [batch] */
} bench;

static bw_status create(bench *b, const bw_recipe *r, const bw_bench_options *o, bw_error *err)
{
    bw_recipe own = *r; /* borrows every string */
    const bwi_family *family;
    bw_status st;
    if (o->net) own.net.family = (char *)(uintptr_t)o->net;
    b->batch = o->batch ? o->batch : 128;
    const bwi_exec_options eo = {.batch = b->batch, .train = true, .precision = bwi_recipe_precision(r)};
    BWI_TRY(bwi_family_find(&family, own.net.family, err));
    BWI_TRY(bwi_recipe_graph(&b->graph, &own, family->classes, err));
    bwi_graph_init(b->graph, (uint64_t)r->train.seed);
    BWI_TRY(bwi_exec_create(&b->exec, b->graph, &eo, NULL, err));
    BWI_TRY(bwi_params_create(&b->params, b->graph, r, 1000, err));
    BWI_TRY(bwi_meta_create(&b->meta, &b->params, (uint64_t)r->train.seed, err));
    const size_t n = (size_t)b->batch * bwi_shape_size(b->graph->value[0].shape);
    b->x = bwi_malloc(n * sizeof *b->x);
    b->labels = bwi_malloc((size_t)b->batch * sizeof *b->labels);
    if (!b->x || !b->labels) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for a batch"));
    bwi_rng rng = bwi_rng_make((uint64_t)r->train.seed, BWI_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++) b->x[i] = (float)bwi_rng_normal(&rng);
    for (int i = 0; i < b->batch; i++) b->labels[i] = i % b->graph->classes;
    return BW_OK;
fail:
    return st;
}

/* One step; adds the optimizer's seconds. */
static bw_status step(bench *b, int64_t i, double *optimizer, bw_error *err)
{
    double loss;
    int top1, top5;
    bw_status st;
    memcpy(bwi_exec_input(b->exec), b->x, (size_t)b->batch * bwi_shape_size(b->graph->value[0].shape) * sizeof *b->x);
    double start = bwi_now();
    if (b->meta) BWI_TRY(bwi_meta_before(b->meta, 0, i, err));
    *optimizer += bwi_now() - start;
    BWI_TRY(bwi_exec_forward(b->exec, b->batch, true, NULL, err));
    BWI_TRY(bwi_exec_loss(b->exec, b->labels, &loss, &top1, &top5, err));
    BWI_TRY(bwi_exec_backward(b->exec, err));
    start = bwi_now();
    if (b->meta) bwi_meta_after(b->meta, 0, i);
    bwi_params_step(&b->params, 0, i);
    *optimizer += bwi_now() - start;
    return BW_OK;
fail:
    return st;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bw_status bw_bench_train(bw_recipe *recipe, const bw_bench_options *options, bw_bench_result *result, bw_error *err)
{
    const int steps = options->steps ? options->steps : 20;
    bench b = {0};
    double *seconds = NULL, optimizer = 0, total = 0;
    bw_status st;
    *result = (bw_bench_result){0};
    if (err) *err = (bw_error){0};
    if (steps < 1 || options->batch < 0 || options->threads < 0)
        return bwi_fail(err, BW_ARG, "a benchmark of %d steps, batch %d, %d threads; none may be negative", steps,
                        options->batch, options->threads);
    bwi_threads_set(options->threads);
    BWI_TRY(create(&b, recipe, options, err));
    seconds = bwi_malloc((size_t)steps * sizeof *seconds);
    if (!seconds) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for %d times", steps));
    for (int i = 0; i < WARM_UP; i++) BWI_TRY(step(&b, i, &optimizer, err));
    bwi_exec_times_clear(b.exec);
    optimizer = 0;
    for (int i = 0; i < steps; i++) {
        const double start = bwi_now();
        BWI_TRY(step(&b, WARM_UP + i, &optimizer, err));
        total += seconds[i] = bwi_now() - start;
    }
    qsort(seconds, (size_t)steps, sizeof *seconds, by_size);
    const bwi_times *t = bwi_exec_times(b.exec);
    const double ms = 1e3 / steps, known = t->forward + t->backward + t->quantizers + t->norm + optimizer;
    *result = (bw_bench_result){
        .step_ms_min = 1e3 * seconds[0],
        .step_ms_median = 5e2 * (seconds[steps / 2] + seconds[(steps - 1) / 2]),
        .forward_ms = ms * t->forward,
        .backward_ms = ms * t->backward,
        .quantizer_ms = ms * t->quantizers,
        .norm_ms = ms * t->norm,
        .optimizer_ms = ms * optimizer,
        .other_ms = ms * (total - known),
        .peak_mb = bwi_peak_mb(),
        .planned_mb = (double)bwi_exec_bytes(b.exec) / (1 << 20),
    };
fail:
    bwi_free(seconds);
    bwi_free(b.x);
    bwi_free(b.labels);
    bwi_meta_destroy(&b.meta);
    bwi_params_destroy(&b.params);
    bwi_exec_destroy(&b.exec);
    bwi_graph_destroy(&b.graph);
    return st;
}
