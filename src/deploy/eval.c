/* Evaluation. What is quantized runs as it will be deployed: on the engine. Float models, and whoever asks for a precision, run the graph. */
#include "base/alloc.h"
#include "base/par.h"
#include "deploy/engine.h"
#include "deploy/lower.h"
#include "nn/loss.h"
#include "train/evaluate.h"
#include "train/model.h"
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64 };

/* ---- On the engine ------------------------------------------------------------------------------------------------------- */

static bw_status fits(const bwi_dataset *d, const bwi_engine *e, bw_error *err)
{
    const bwi_shape s = d->shape;
    if (s.h != e->info.height || s.w != e->info.width || s.c != e->info.channels)
        return bwi_fail(err, BW_SHAPE, "data set '%s' has images of %dx%dx%d, the network takes %dx%dx%d", d->row->name, s.h,
                        s.w, s.c, e->info.height, e->info.width, e->info.channels);
    if (d->classes > e->info.classes)
        return bwi_fail(err, BW_SHAPE, "data set '%s' has %d classes, the network only %d outputs", d->row->name, d->classes,
                        e->info.classes);
    return BW_OK;
}

static bw_status evaluate(bwi_engine *e, const bwi_dataset *d, bwi_split split, bw_eval_result *r, bw_error *err)
{
    const size_t image = bwi_shape_size(d->shape);
    const double start = bwi_now();
    double loss_sum = 0;
    int64_t top1_sum = 0, top5_sum = 0;
    int32_t labels[BATCH];
    uint8_t *pixels = bwi_malloc(BATCH * image);
    float *logits = bwi_malloc(BATCH * (size_t)e->info.classes * sizeof *logits);
    bw_status st = pixels && logits ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for a batch");
    const int n = d->n[split];
    for (int first = 0; first < n && !st; first += BATCH) {
        const int m = n - first < BATCH ? n - first : BATCH;
        double loss;
        int top1, top5;
        BWI_PARALLEL_CHUNKS(c)
        {
            for (size_t i = bwi_chunk((size_t)m, 1, (size_t)c); i < bwi_chunk((size_t)m, 1, (size_t)c + 1); i++)
                labels[i] = d->image(d, split, first + (int)i, pixels + i * image);
        }
        bw_net_run_pool(e->net, e->pool, pixels, m, logits, e->work);
        st = bwi_softmax_ce[bwi_variant_for(BWI_DT_F32)]->loss(logits, labels, m, e->info.classes, &loss, &top1, &top5, NULL,
                                                               err);
        loss_sum += loss * m;
        top1_sum += top1;
        top5_sum += top5;
    }
    const double seconds = bwi_now() - start;
    if (!st)
        *r = (bw_eval_result){.top1 = 100 * (double)top1_sum / n,
                              .top5 = 100 * (double)top5_sum / n,
                              .loss = loss_sum / n,
                              .images_per_s = seconds > 0 ? n / seconds : 0,
                              .images = n,
                              .engine = true};
    bwi_free(pixels);
    bwi_free(logits);
    return st;
}

static bw_status on_engine(bwi_engine *e, const char *source, bwi_split split, bw_eval_result *r, bw_error *err)
{
    bwi_dataset *data = NULL;
    bw_status st;
    BWI_TRY(bwi_open_data(&data, source, err));
    BWI_TRY(fits(data, e, err));
    BWI_TRY(evaluate(e, data, split, r, err));
fail:
    bwi_dataset_close(&data);
    return st;
}

static bw_status eval_packed(const char *path, const bw_eval_options *o, bw_eval_result *r, bw_error *err)
{
    bwi_engine e = {0};
    if (!o->data)
        return bwi_fail(err, BW_ARG, "%s: a packed file does not say what data it was trained on: name a data set", path);
    if (o->normalize) return bwi_fail(err, BW_ARG, "%s: a packed file brings its own normalisation", path);
    if (o->precision) return bwi_fail(err, BW_ARG, "%s: a packed file has no training graph, so it has no precision", path);
    bw_status st = bwi_engine_open(&e, path, o->threads, o->plan, err);
    if (!st) st = on_engine(&e, o->data, o->train_split ? BWI_TRAIN : BWI_TEST, r, err);
    bwi_engine_close(&e);
    return st;
}

/* ---- On the graph -------------------------------------------------------------------------------------------------------- */

static bw_status precision_of(const char *name, bwi_precision *out, bw_error *err)
{
    *out = BWI_PRECISION_F32;
    if (!name || !strcmp(name, "f32")) return BW_OK;
    *out = BWI_PRECISION_FAST;
    return strcmp(name, "fast") ? bwi_fail(err, BW_ARG, "precision '%s': expected f32 or fast", name) : BW_OK;
}

static bw_status on_graph(const bwi_model *m, const char *source, const bwi_normalize *normalize, const bw_eval_options *o,
                          bw_eval_result *r, bw_error *err)
{
    bwi_dataset *data = NULL;
    bwi_loader *loader = NULL;
    bwi_exec *e = NULL;
    const bool drawn = bwi_recipe_draws_bits(m->recipe);
    bwi_exec_options eo = {.batch = o->batch ? o->batch : 250, .calibrate = drawn};
    bw_status st;
    const bwi_loader_options lo = {.split = o->train_split ? BWI_TRAIN : BWI_TEST, .batch = eo.batch, .normalize = normalize};
    BWI_TRY(precision_of(o->precision, &eo.precision, err));
    BWI_TRY(bwi_open_data(&data, source, err));
    BWI_TRY(bwi_data_fits(data, m->graph, err));
    BWI_TRY(bwi_exec_create(&e, m->graph, &eo, NULL, err));
    BWI_TRY(bwi_loader_create(&loader, data, &lo, err));
    BWI_TRY(bwi_evaluate(e, m->graph, loader, drawn, r, err));
fail:
    bwi_loader_destroy(&loader);
    bwi_exec_destroy(&e);
    bwi_dataset_close(&data);
    return st;
}

static bool is_quantized(const bwi_graph *g)
{
    bwi_quant *q;
    const bwi_node *layer;
    return bwi_graph_quant(g, 0, &q, &layer);
}

bw_status bw_eval(const char *path, const bw_eval_options *o, bw_eval_result *result, bw_error *err)
{
    bwi_model m = {0};
    bwi_tensors lowered = {0};
    bwi_engine e = {0};
    bwi_precision precision;
    bool packed;
    bw_status st;
    *result = (bw_eval_result){0};
    if (err) *err = (bw_error){0};
    bwi_threads_set(o->threads);
    BWI_TRY(bwi_is_packed(&packed, path, err));
    if (packed) return eval_packed(path, o, result, err);
    BWI_TRY(precision_of(o->precision, &precision, err));
    BWI_TRY(bwi_model_open(&m, path, err));
    const char *source = o->data ? o->data : m.recipe->data.source, *name = o->normalize ? o->normalize : m.normalize;
    if (!*source) BWI_TRY(bwi_fail(err, BW_ARG, "%s does not say what data it was trained on: name a data set", path));
    BWI_TRY(bwi_normalize_check(name, err));
    const bwi_normalize *normalize = bwi_normalize_find(name);
    if (o->precision || !is_quantized(m.graph)) {
        st = on_graph(&m, source, normalize, o, result, err);
        goto fail;
    }
    st = bwi_lower(&lowered, m.graph, normalize, err);
    if (st == BW_UNSUPPORTED) { /* what cannot be packed can still be measured */
        st = on_graph(&m, source, normalize, o, result, err);
        goto fail;
    }
    if (!st) st = bwi_engine_from(&e, &lowered, o->threads, o->plan, err);
    if (!st) st = on_engine(&e, source, o->train_split ? BWI_TRAIN : BWI_TEST, result, err);
fail:
    bwi_engine_close(&e);
    bwi_tensors_free(&lowered);
    bwi_model_close(&m);
    return st;
}
