/* Checkpoints: a model file with what training needs beside it.
 *   optim.PARAMETER.STATE  the optimizer's arrays, as they lie in memory (convolutions OHWI)
 *   meta.*                 MetaQuant: phi, its Adam, and what it keeps of every weight tensor
 *   quant.LAYER.ROLE       F64: ready, clipped, seen, constrained, delta, then theta0, the values right after initialisation
 *   train.* metadata       bwi_progress, doubles with all their digits
 * Nothing in them depends on time, so that a resumed run ends in the same bytes as one that was never stopped. */
#include "base/alloc.h"
#include "train/model.h"
#include "train/run.h"
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Progress as metadata ------------------------------------------------------------------------------------------------ */

static const struct field {
    const char *key;
    bool real;
    size_t offset;
} fields[] = {
#define WHOLE(name)                                                                                                            \
    {                                                                                                                          \
        "train." #name, false, offsetof(bwi_progress, name)                                                                    \
    }
#define REAL(name)                                                                                                             \
    {                                                                                                                          \
        "train." #name, true, offsetof(bwi_progress, name)                                                                     \
    }
    WHOLE(epoch),     WHOLE(step),      WHOLE(images),   WHOLE(top1),     REAL(loss_sum),
    REAL(train_loss), REAL(train_top1), REAL(test_loss), REAL(test_top1), REAL(best_top1),
};
#define N_FIELDS (sizeof fields / sizeof *fields)
static const char steps_key[] = "train.steps"; /* per epoch: another number means other data */

static bw_status add_progress(bwi_tensors *ts, const bwi_run *run, bw_error *err)
{
    char text[40];
    bw_status st;
    for (size_t i = 0; i < N_FIELDS; i++) {
        const char *member = (const char *)&run->at + fields[i].offset;
        if (!fields[i].real)
            snprintf(text, sizeof text, "%lld", (long long)*(const int64_t *)(const void *)member);
        else if (isnan(*(const double *)(const void *)member))
            snprintf(text, sizeof text, "nan"); /* never its sign */
        else
            snprintf(text, sizeof text, "%.17g", *(const double *)(const void *)member);
        BWI_TRY(bwi_tensors_add_meta(ts, fields[i].key, text, err));
    }
    snprintf(text, sizeof text, "%lld", (long long)run->steps);
    st = bwi_tensors_add_meta(ts, steps_key, text, err);
fail:
    return st;
}

static bw_status meta_number(const bwi_tensors *ts, const char *key, double *out, bw_error *err)
{
    const char *text = bwi_tensors_meta(ts, key);
    char *end;
    if (!text) return bwi_fail(err, BW_FORMAT, "its metadata lacks %s", key);
    *out = strtod(text, &end);
    if (end == text || *end) return bwi_fail(err, BW_FORMAT, "%s is '%.40s', not a number", key, text);
    return BW_OK;
}

static bw_status get_progress(const bwi_tensors *ts, bwi_run *run, bw_error *err)
{
    bwi_progress at;
    double x = 0;
    bw_status st;
    for (size_t i = 0; i < N_FIELDS; i++) {
        char *member = (char *)&at + fields[i].offset;
        BWI_TRY(meta_number(ts, fields[i].key, &x, err));
        if (!fields[i].real && !(x >= 0 && x < 9e15 && x == floor(x)))
            return bwi_fail(err, BW_FORMAT, "%s is %g, not a whole number", fields[i].key, x);
        if (fields[i].real)
            *(double *)(void *)member = x;
        else
            *(int64_t *)(void *)member = (int64_t)x;
    }
    BWI_TRY(meta_number(ts, steps_key, &x, err));
    if (x != (double)run->steps)
        return bwi_fail(err, BW_ARG,
                        "it was written in epochs of %.0f steps, now an epoch has %lld: the training images have changed", x,
                        (long long)run->steps);
    if (at.epoch > run->recipe->train.epochs || (at.epoch == run->recipe->train.epochs && at.step))
        return bwi_fail(err, BW_ARG, "it is in epoch %lld, behind the end of a run of train.epochs: %d",
                        (long long)at.epoch + 1, run->recipe->train.epochs);
    if (at.step > run->steps)
        return bwi_fail(err, BW_FORMAT, "its position, step %lld, lies outside of an epoch", (long long)at.step);
    run->at = at;
    return BW_OK;
fail:
    return st;
}

/* ---- Optimizer ----------------------------------------------------------------------------------------------------------- */

/* Calls for every state array of every slot, by its name in the file. */
static char *state_name(const bwi_params *p, int slot, int state)
{
    return bwi_asprintf("optim.%s.%s", p->slot[slot].name, p->optimizer->state_name[state]);
}

static bw_status add_optimizer(bwi_tensors *ts, const bwi_run *run, bw_error *err)
{
    const bwi_params *p = &run->params;
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->optimizer->n_states; k++) {
            const bwi_param *param = &run->graph->param[p->param[i]];
            const int64_t *d = param->dim, memory[4] = {d[0], d[2], d[3], d[1]};
            char *name = state_name(p, i, k);
            if (!name) return bwi_fail(err, BW_NOMEM, "no memory for a checkpoint");
            const bw_status st = bwi_tensors_add(ts, name, p->slot[i].dtype, param->ndim, param->ndim == 4 ? memory : d,
                                                 p->slot[i].state[k], err);
            bwi_free(name);
            if (st) return st;
        }
    return BW_OK;
}

/* A tensor of the file into an array; name is freed. */
static bw_status get_array(const bwi_tensors *ts, char *name, bwi_dtype dtype, size_t n, void *data, bw_error *err)
{
    if (!name) return bwi_fail(err, BW_NOMEM, "no memory for a checkpoint");
    const bwi_tensor *t = bwi_tensors_find(ts, name);
    bw_status st = BW_OK;
    if (!t || t->dtype != dtype || bwi_tensor_numel(t) != n)
        st = bwi_fail(err, BW_FORMAT, "%s: expected %zu values of %s, found %s", name, n, bwi_dtype_name(dtype),
                      t ? "a tensor of another shape or type" : "nothing");
    else
        memcpy(data, t->data, n * bwi_dtype_size(dtype));
    bwi_free(name);
    return st;
}

static bw_status get_optimizer(const bwi_tensors *ts, bwi_run *run, bw_error *err)
{
    const bwi_params *p = &run->params;
    bw_status st = BW_OK;
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->optimizer->n_states && !st; k++)
            st = get_array(ts, state_name(p, i, k), p->slot[i].dtype, p->slot[i].n, p->slot[i].state[k], err);
    return st;
}

/* ---- MetaQuant ----------------------------------------------------------------------------------------------------------- */

static bw_status add_meta(bwi_tensors *ts, const bwi_run *run, bw_error *err)
{
    bwi_meta_array a;
    bw_status st = BW_OK;
    for (int i = 0; run->meta && !st && bwi_meta_state(run->meta, i, &a); i++) {
        const int64_t dim[] = {(int64_t)a.n};
        st = bwi_tensors_add(ts, a.name, a.dtype, 1, dim, a.data, err);
    }
    return st;
}

static bw_status get_meta(const bwi_tensors *ts, bwi_run *run, bw_error *err)
{
    bwi_meta_array a;
    bw_status st = BW_OK;
    for (int i = 0; run->meta && !st && bwi_meta_state(run->meta, i, &a); i++)
        st = get_array(ts, bwi_strdup(a.name), a.dtype, a.n, a.data, err);
    return st;
}

/* ---- Quantizers ---------------------------------------------------------------------------------------------------------- */

enum { READY, CLIPPED, SEEN, CONSTRAINED, DELTA, THETA0, QUANT_VALUES = THETA0 + BWI_QPARAMS };

static char *quant_name(const bwi_quant *q, const bwi_node *layer)
{
    return bwi_asprintf("quant.%s.%s", layer->name, q->role == BWI_WEIGHT ? "weight" : "input");
}

static bw_status add_quantizers(bwi_tensors *ts, const bwi_run *run, bw_error *err)
{
    static const int64_t dim[] = {QUANT_VALUES};
    bwi_quant *q;
    const bwi_node *layer;
    for (int i = 0; bwi_graph_quant(run->graph, i, &q, &layer); i++) {
        char *name = quant_name(q, layer);
        double *v = bwi_own_alloc(&ts->own, QUANT_VALUES * sizeof *v);
        bw_status st = name && v ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for a checkpoint");
        if (!st) {
            v[READY] = q->ready;
            v[CLIPPED] = q->clipped;
            v[SEEN] = q->seen;
            v[CONSTRAINED] = (double)q->constrained;
            v[DELTA] = q->delta;
            memcpy(v + THETA0, q->theta0, sizeof q->theta0);
            st = bwi_tensors_add(ts, name, BWI_DT_F64, 1, dim, v, err);
        }
        bwi_free(name);
        if (st) return st;
    }
    return BW_OK;
}

static bw_status get_quantizers(const bwi_tensors *ts, bwi_run *run, bw_error *err)
{
    bwi_quant *q;
    const bwi_node *layer;
    for (int i = 0; bwi_graph_quant(run->graph, i, &q, &layer); i++) {
        char *name = quant_name(q, layer);
        if (!name) return bwi_fail(err, BW_NOMEM, "no memory for a checkpoint");
        const bwi_tensor *t = bwi_tensors_find(ts, name);
        bw_status st = BW_OK;
        if (!t || t->dtype != BWI_DT_F64 || bwi_tensor_numel(t) != QUANT_VALUES)
            st = bwi_fail(err, BW_FORMAT, "%s: expected %d values of F64", name, QUANT_VALUES);
        else if ((bwi_tensor_at(t, READY) != 0) != q->ready && bwi_quant_n_params(q))
            st = bwi_fail(err, BW_FORMAT, "%s: its parameters and its state do not agree", name);
        bwi_free(name);
        if (st) return st;
        q->ready = bwi_tensor_at(t, READY) != 0;
        q->clipped = bwi_tensor_at(t, CLIPPED);
        q->seen = bwi_tensor_at(t, SEEN);
        q->constrained = (int64_t)bwi_tensor_at(t, CONSTRAINED);
        q->delta = bwi_tensor_at(t, DELTA);
        for (size_t k = 0; k < BWI_QPARAMS; k++) q->theta0[k] = bwi_tensor_at(t, THETA0 + k);
    }
    return BW_OK;
}

/* ---- Files --------------------------------------------------------------------------------------------------------------- */

/* Tensors and metadata that models and checkpoints share; materialised: without the blocks that made the weights, in the recipe too. A state that
 * is out of range is not worth a file. */
static bw_status add_network(bwi_tensors *ts, const bwi_run *run, const char *kind, bool materialised, bw_error *err)
{
    const char *what, *bad = bwi_params_out_of_range(&run->params, false, &what);
    const int hidden = run->recipe->hypernet.hidden;
    bw_status st;
    if (materialised) run->recipe->hypernet.hidden = 0;
    const char *recipe = bw_recipe_text(run->recipe);
    run->recipe->hypernet.hidden = hidden;
    if (bad) return bwi_fail(err, BW_NUMERIC, "a %s was to be saved, but a value of %s is out of range", kind, bad);
    if (!recipe) return bwi_fail(err, BW_NOMEM, "no memory for the resolved recipe");
    BWI_TRY(bwi_export_params(run->graph, !materialised, ts, err));
    BWI_TRY(bwi_export_meta(ts, kind, recipe, run->recipe->data.normalize, err));
    BWI_TRY(bwi_export_classes(ts, run->data->class_name, run->data->classes, err));
    return BW_OK;
fail:
    return st;
}

static bw_status write_file(const char *path, const bwi_tensors *ts, bw_error *err)
{
    return bwi_safetensors_write(path, ts->t, ts->n, (const char *const *)ts->key, (const char *const *)ts->value, ts->n_meta,
                                 err);
}

bw_status bwi_model_save(const bwi_run *run, const char *path, bw_error *err)
{
    bwi_tensors ts = {0};
    bw_status st;
    BWI_TRY(add_network(&ts, run, BWI_KIND_MODEL, !bwi_recipe_draws_bits(run->recipe), err));
    BWI_TRY(write_file(path, &ts, err));
fail:
    bwi_tensors_free(&ts);
    return st;
}

bw_status bwi_checkpoint_save(bwi_run *run, bw_error *err)
{
    bwi_tensors ts = {0};
    bw_status st;
    BWI_TRY(add_network(&ts, run, BWI_KIND_CHECKPOINT, false, err));
    BWI_TRY(add_optimizer(&ts, run, err));
    BWI_TRY(add_meta(&ts, run, err));
    BWI_TRY(add_quantizers(&ts, run, err));
    BWI_TRY(add_progress(&ts, run, err));
    BWI_TRY(write_file(run->checkpoint, &ts, err));
    run->saved = run->at;
fail:
    bwi_tensors_free(&ts);
    return st;
}

bw_status bwi_checkpoint_load(bwi_run *run, bw_error *err)
{
    bwi_tensors ts = {0};
    bw_recipe *stored = NULL;
    bwi_text report = {0};
    int missing, extra;
    bw_status st;
    BWI_TRY(bwi_tensors_read(&ts, run->checkpoint, NULL, err));
    const char *kind = bwi_tensors_meta(&ts, BWI_META_KIND), *recipe = bwi_tensors_meta(&ts, BWI_META_RECIPE);
    if (!kind || strcmp(kind, BWI_KIND_CHECKPOINT) || !recipe)
        BWI_TRY(bwi_fail(err, BW_FORMAT, "%s is not a checkpoint", run->checkpoint));
    BWI_TRY(bwi_recipe_parse(&stored, run->checkpoint, recipe, err));
    st = bwi_recipe_same(stored, run->recipe, err);
    if (!st) st = bwi_import_params(run->graph, &ts, &report, &missing, &extra, err);
    if (!st && missing) st = bwi_fail(err, BW_FORMAT, "%d parameters are missing", missing);
    if (!st) st = get_optimizer(&ts, run, err);
    if (!st) st = get_meta(&ts, run, err);
    if (!st) st = get_quantizers(&ts, run, err);
    if (!st) st = get_progress(&ts, run, err);
    if (st) {
        bwi_fail_in(err, st, "cannot resume from %s", run->checkpoint);
        goto fail;
    }
    run->saved = run->at;
fail:
    bwi_free(report.s);
    bw_recipe_destroy(&stored);
    bwi_tensors_free(&ts);
    return st;
}
