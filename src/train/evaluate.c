#include "train/evaluate.h"
#include "base/alloc.h"
#include "base/par.h"
#include "train/model.h"
#include <stdlib.h>
#include <string.h>

bw_status bwi_open_data(bwi_dataset **out, const char *source, bw_error *err)
{
    const char *folder = getenv("BITWRIGHT_DATA");
    const bwi_dataset_row *row;
    *out = NULL;
    for (size_t i = 0; (row = bwi_dataset_at(i)) && strcmp(row->name, source);) i++;
    if (!row || !row->needs_path) return bwi_dataset_open(out, source, err);
    if (!folder || !*folder)
        return bwi_fail(err, BW_ARG,
                        "data set '%s' needs a folder: write %s:FOLDER, or set the environment variable BITWRIGHT_DATA", source,
                        source);
    char *spec = bwi_asprintf("%s:%s", source, folder);
    if (!spec) return bwi_fail(err, BW_NOMEM, "no memory to open data set '%s'", source);
    bw_status st = bwi_dataset_open(out, spec, err);
    bwi_free(spec);
    return st ? bwi_fail_in(err, st, "BITWRIGHT_DATA") : BW_OK;
}

bw_status bwi_data_fits(const bwi_dataset *d, const bwi_graph *g, bw_error *err)
{
    const bwi_shape want = g->value[0].shape, have = d->shape;
    if (want.h != have.h || want.w != have.w || want.c != have.c)
        return bwi_fail(err, BW_SHAPE, "data set '%s' has images of %dx%dx%d, the network takes %dx%dx%d", d->row->name, have.h,
                        have.w, have.c, want.h, want.w, want.c);
    if (d->classes > g->classes)
        return bwi_fail(err, BW_SHAPE, "data set '%s' has %d classes, the network only %d outputs; set net.classes to 0 or %d",
                        d->row->name, d->classes, g->classes, d->classes);
    return BW_OK;
}

bw_status bwi_evaluate(bwi_exec *e, const bwi_graph *g, bwi_loader *loader, bw_eval_result *result, bw_error *err)
{
    const double start = bwi_now();
    double loss_sum = 0;
    int64_t images = 0, top1_sum = 0, top5_sum = 0;
    bwi_batch batch;
    bw_status st;
    BWI_TRY(bwi_loader_start(loader, 0, 0, err));
    for (;;) {
        double loss;
        int top1, top5;
        BWI_TRY(bwi_loader_next(loader, &batch, err));
        if (!batch.n) break;
        memcpy(bwi_exec_input(e), batch.x, (size_t)batch.n * bwi_shape_size(g->value[0].shape) * sizeof(float));
        BWI_TRY(bwi_exec_forward(e, batch.n, false, NULL, err));
        BWI_TRY(bwi_exec_loss(e, batch.labels, &loss, &top1, &top5, err));
        loss_sum += loss * batch.n;
        top1_sum += top1;
        top5_sum += top5;
        images += batch.n;
    }
    const double n = images ? (double)images : 1, seconds = bwi_now() - start;
    *result = (bw_eval_result){
        .top1 = 100 * (double)top1_sum / n,
        .top5 = 100 * (double)top5_sum / n,
        .loss = loss_sum / n,
        .images_per_s = seconds > 0 ? (double)images / seconds : 0,
        .images = images,
    };
    return BW_OK;
fail:
    return st == BW_NUMERIC ? bwi_fail_in(err, st, "evaluation") : st;
}

static bw_status precision_of(const char *name, bwi_precision *out, bw_error *err)
{
    *out = BWI_PRECISION_F32;
    if (!name || !strcmp(name, "f32")) return BW_OK;
    *out = BWI_PRECISION_FAST;
    return strcmp(name, "fast") ? bwi_fail(err, BW_ARG, "precision '%s': expected f32 or fast", name) : BW_OK;
}

bw_status bw_eval(const char *path, const bw_eval_options *options, bw_eval_result *result, bw_error *err)
{
    bwi_model m = {0};
    bwi_dataset *data = NULL;
    bwi_loader *loader = NULL;
    bwi_exec *e = NULL;
    bwi_exec_options eo = {.batch = options->batch ? options->batch : 250};
    bw_status st;
    *result = (bw_eval_result){0};
    if (err) *err = (bw_error){0};
    bwi_threads_set(options->threads);
    BWI_TRY(precision_of(options->precision, &eo.precision, err));
    BWI_TRY(bwi_model_open(&m, path, err));
    const char *source = options->data ? options->data : m.recipe->data.source,
               *normalize = options->normalize ? options->normalize : m.normalize;
    if (!*source) BWI_TRY(bwi_fail(err, BW_ARG, "%s does not say what data it was trained on: name a data set", path));
    BWI_TRY(bwi_normalize_check(normalize, err));
    bwi_loader_options lo = {
        .split = options->train_split ? BWI_TRAIN : BWI_TEST, .batch = eo.batch, .normalize = bwi_normalize_find(normalize)};
    BWI_TRY(bwi_open_data(&data, source, err));
    BWI_TRY(bwi_data_fits(data, m.graph, err));
    BWI_TRY(bwi_exec_create(&e, m.graph, &eo, NULL, err));
    BWI_TRY(bwi_loader_create(&loader, data, &lo, err));
    BWI_TRY(bwi_evaluate(e, m.graph, loader, result, err));
fail:
    bwi_loader_destroy(&loader);
    bwi_exec_destroy(&e);
    bwi_dataset_close(&data);
    bwi_model_close(&m);
    return st;
}
