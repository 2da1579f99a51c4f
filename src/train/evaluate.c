#include "train/evaluate.h"
#include "base/alloc.h"
#include "base/par.h"
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
        return bwi_fail(
            err, BW_SHAPE,
            "data set '%s' has images of %dx%dx%d, the network takes %dx%dx%d; recipe key net.image gives their size",
            d->row->name, have.h, have.w, have.c, want.h, want.w, want.c);
    if (d->classes > g->classes)
        return bwi_fail(err, BW_SHAPE, "data set '%s' has %d classes, the network only %d outputs; set net.classes to 0 or %d",
                        d->row->name, d->classes, g->classes, d->classes);
    return BW_OK;
}

bw_status bwi_evaluate(bwi_exec *e, bwi_graph *g, bwi_loader *loader, bool own_statistics, bw_eval_result *result,
                       bw_error *err)
{
    const double start = bwi_now(), momentum = own_statistics ? bwi_graph_momentum(g, 0) : 0;
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
        BWI_TRY(bwi_exec_forward(e, batch.n, own_statistics, NULL, err));
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
fail:
    if (own_statistics) bwi_graph_momentum(g, momentum);
    return st == BW_NUMERIC ? bwi_fail_in(err, st, "evaluation") : st;
}
