/* What quantization did to a model. Weights come from the file; activations from test images, in evaluation mode, as every quantize node
 * sees them; gradients from training images, in training mode, of the labels' loss alone. The network is a copy of the file's: running
 * statistics that training mode moves are gone with it, and they are moved only after the test images were seen. */
#include "train/analyze.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/par.h"
#include "train/evaluate.h"
#include "train/model.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- One tensor ---------------------------------------------------------------------------------------------------------- */

static bool is_sign(const bwi_quant *q)
{
    return q->k.mode & BWI_QMODE_SIGN;
}

bw_status bwi_analyzed_add(bwi_analyzed *t, const float *x, size_t n, bw_error *err)
{
    const bwi_qk *k = &t->q->k;
    const bwi_qloops *loops = t->q->q->loops[bwi_variant_for(BWI_DT_F32)];
    const double apart = is_sign(t->q) ? 2 : 1;
    static const float no_gradient[BWI_QBLOCK];
    float u[BWI_QBLOCK], c[BWI_QBLOCK];
    double sums[BWI_QPARAMS + 1] = {0};
    bw_status st = bwi_histogram_add(&t->values, x, n, err);
    if (st) return bwi_fail_in(err, st, "layer %s, %s", t->layer->name, t->q->role == BWI_WEIGHT ? "weights" : "input");
    t->n_codes = (int)((k->hi - k->lo) / apart) + 1;
    if (t->n_codes > BWI_CODES) t->n_codes = BWI_CODES;
    for (size_t at = 0; at < n; at += BWI_QBLOCK) {
        const size_t m = n - at < BWI_QBLOCK ? n - at : BWI_QBLOCK;
        loops->latents(k, x + at, m, u, c);
        for (size_t i = 0; i < m; i++) {
            const int index = (int)(((double)c[i] - k->lo) / apart);
            t->code[index < t->n_codes ? index : t->n_codes - 1] += 1;
        }
        loops->backward(k, x + at, no_gradient, 1, m, u, sums); /* for its count of clipped values, as training logs it */
    }
    t->clipped += sums[BWI_QPARAMS];
    return BW_OK;
}

static double norm(const bwi_param *p, const void *data)
{
    double sum = 0;
    for (size_t i = 0; i < p->numel; i++) {
        const double v = bwi_real_get(p->dtype, data, i);
        sum += v * v;
    }
    return sqrt(sum);
}

void bwi_analyzed_add_ratio(bwi_analyzed *t, const bwi_param *w)
{
    const double n = t->q->features, qp = t->q->k.hi, step = t->q->theta[0];
    const double scale[BWI_RATIOS] = {1, 1 / sqrt(n), 1 / sqrt(n * qp)};
    const double raw = fabs(t->q->dtheta[0]) / scale[2]; /* training uses the last one; it is divided out */
    const double weights = norm(w, w->grad) / norm(w, w->data);
    for (int i = 0; i < BWI_RATIOS; i++) t->ratio[i] += scale[i] * raw / step / weights;
}

void bwi_analyzed_levels(const bwi_analyzed *t, double *x)
{
    const bwi_qk *k = &t->q->k;
    const bwi_qloops *loops = t->q->q->loops[BWI_F64];
    const double reach = 4 * fmax(fabs(t->values.min), fabs(t->values.max)), apart = is_sign(t->q) ? 2 : 1;
    for (int i = 0; i < t->n_codes; i++) {
        const double level = k->lo + apart * i;
        double a = -reach, b = reach, u, c;
        for (int step = 0; step < 60; step++) { /* u rises with x; the lowest level is where it begins to */
            const double middle = (a + b) / 2;
            loops->latents(k, &middle, 1, &u, &c);
            if (i == 0 ? u <= level : u < level)
                a = middle;
            else
                b = middle;
        }
        x[i] = a > -reach && b < reach ? b : NAN;
    }
}

bw_status bwi_analysis_create(bwi_analysis *a, bwi_graph *g, bw_error *err)
{
    bwi_quant *q;
    const bwi_node *layer;
    bw_status st;
    *a = (bwi_analysis){.graph = g};
    while (bwi_graph_quant(g, a->n, &q, &layer)) a->n++;
    if (!a->n)
        return bwi_fail(err, BW_UNSUPPORTED,
                        "the network has no quantized layers; train it with quant.weight or quant.activation first");
    a->tensor = bwi_calloc((size_t)a->n, sizeof *a->tensor);
    if (!a->tensor) return bwi_fail(err, BW_NOMEM, "no memory to analyze %d tensors", a->n);
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++) {
        bwi_analyzed *t = &a->tensor[i];
        *t = (bwi_analyzed){.layer = layer, .q = q, .best = {NAN, NAN, NAN}};
        BWI_TRY(bwi_histogram_create(&t->values, err));
    }
    return BW_OK;
fail:
    bwi_analysis_destroy(a);
    return st;
}

void bwi_analysis_destroy(bwi_analysis *a)
{
    for (int i = 0; a->tensor && i < a->n; i++) bwi_histogram_destroy(&a->tensor[i].values);
    bwi_free(a->tensor);
    *a = (bwi_analysis){0};
}

/* ---- Passes over the data ------------------------------------------------------------------------------------------------ */

/* What the passes share. */
typedef struct session {
    bwi_analysis analysis;
    const bwi_dataset *data;
    const bw_recipe *recipe;
    const bwi_normalize *normalize;
    int batches, batch;
    bw_status st; /* of the observer */
    bw_error *err;
} session;

static void observe(void *observer, const bwi_call *step)
{
    session *s = observer;
    if (!step->node->aq) return;
    for (int i = 0; i < s->analysis.n && !s->st; i++) {
        bwi_analyzed *t = &s->analysis.tensor[i];
        if (t->q != step->node->aq) continue;
        s->st = bwi_analyzed_add(t, step->in[0].data, (size_t)step->n * bwi_shape_size(step->in[0].shape), s->err);
    }
}

/* Runs batches of a split through e until there are enough or the epoch ends; *seen counts them. */
static bw_status run_batches(session *s, bwi_exec *e, bwi_split split, int *seen, bw_error *err)
{
    const bool train = split == BWI_TRAIN;
    const bwi_loader_options o = {
        .split = split,
        .batch = s->batch,
        .augment = train && s->recipe->data.augment,
        .shuffle = train,
        .seed = (uint64_t)s->recipe->train.seed,
        .normalize = s->normalize,
    };
    bwi_loader *loader = NULL;
    bwi_batch batch;
    double loss;
    int top1, top5;
    bw_status st;
    BWI_TRY(bwi_loader_create(&loader, s->data, &o, err));
    BWI_TRY(bwi_loader_start(loader, 0, 0, err));
    for (*seen = 0; *seen < s->batches; ++*seen) {
        BWI_TRY(bwi_loader_next(loader, &batch, err));
        if (!batch.n) break;
        memcpy(bwi_exec_input(e), batch.x, (size_t)batch.n * bwi_shape_size(s->data->shape) * sizeof(float));
        BWI_TRY(bwi_exec_forward(e, batch.n, train, NULL, err));
        BWI_TRY(s->st);
        if (!train) continue;
        BWI_TRY(bwi_exec_loss(e, batch.labels, &loss, &top1, &top5, err));
        BWI_TRY(bwi_exec_backward(e, err));
        for (int i = 0; i < s->analysis.n; i++) {
            bwi_analyzed *t = &s->analysis.tensor[i];
            if (t->q->role == BWI_WEIGHT && bwi_is_lsq(t->q))
                bwi_analyzed_add_ratio(t, &s->analysis.graph->param[t->layer->param[0]]);
        }
    }
fail:
    bwi_loader_destroy(&loader);
    return st;
}

static bw_status see_activations(session *s, bw_error *err)
{
    const bwi_exec_options o = {.batch = s->batch, .no_fusion = true, .observe = observe, .observer = s};
    bwi_exec *e = NULL;
    bw_status st;
    BWI_TRY(bwi_exec_create(&e, s->analysis.graph, &o, NULL, err));
    st = run_batches(s, e, BWI_TEST, &s->analysis.test_batches, err);
fail:
    bwi_exec_destroy(&e);
    return st;
}

/* Weights are counted behind the forward passes, which prepared their quantizers. */
static bw_status see_weights(session *s, bw_error *err)
{
    bw_status st = BW_OK;
    for (int i = 0; i < s->analysis.n && !st; i++) {
        bwi_analyzed *t = &s->analysis.tensor[i];
        const bwi_param *w = &s->analysis.graph->param[t->layer->param[0]];
        if (t->q->role == BWI_WEIGHT) st = bwi_analyzed_add(t, w->data, w->numel, err);
    }
    return st;
}

static bw_status see_gradients(session *s, bw_error *err)
{
    const bwi_exec_options o = {.batch = s->batch, .train = true};
    bwi_exec *e = NULL;
    bw_status st;
    BWI_TRY(bwi_exec_create(&e, s->analysis.graph, &o, NULL, err));
    st = run_batches(s, e, BWI_TRAIN, &s->analysis.train_batches, err);
fail:
    bwi_exec_destroy(&e);
    return st;
}

static bw_status fit(session *s, bw_error *err)
{
    bw_status st = BW_OK;
    for (int i = 0; i < s->analysis.n && !st; i++) {
        bwi_analyzed *t = &s->analysis.tensor[i];
        const bwi_levels levels = {(int)t->q->k.lo, (int)t->q->k.hi, is_sign(t->q)};
        if (bwi_is_lsq(t->q)) st = bwi_histogram_fit(&t->values, levels, t->q->theta[0], t->best, err);
    }
    return st;
}

/* ---- Output -------------------------------------------------------------------------------------------------------------- */

static bw_status write_file(const char *folder, const char *name, const char *text, bw_error *err)
{
    char *path = bwi_asprintf("%s/%s", folder, name);
    const bw_status st =
        path && text ? bwi_file_write(path, text, strlen(text), err) : bwi_fail(err, BW_NOMEM, "no memory for %s", name);
    bwi_free(path);
    return st;
}

/* analysis.json and the pictures. */
static bw_status write_files(const json_t *analysis, const char *folder, bw_error *err)
{
    char name[BWI_PICTURE_NAME], *svg = NULL, *text = json_dumps(analysis, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    bw_status st;
    BWI_TRY(bwi_make_dir(folder, err));
    BWI_TRY(write_file(folder, "analysis.json", text, err));
    for (int i = 0; bwi_analysis_picture(analysis, i, name, &svg); i++) {
        BWI_TRY(write_file(folder, name, svg, err));
        bwi_free(svg);
        svg = NULL;
    }
fail:
    free(text);
    bwi_free(svg);
    return st;
}

/* The folder of path. NULL on lack of memory. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? bwi_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : bwi_strdup(".");
}

static bw_status read_history(const char *path, const char *run, json_t **history, bw_error *err)
{
    char *folder = run ? bwi_strdup(run) : folder_of(path);
    if (!folder) return bwi_fail(err, BW_NOMEM, "no memory to read the log");
    const bw_status st = bwi_log_read(folder, run != NULL, history, err);
    bwi_free(folder);
    return st;
}

/* *text of the analysis, which is taken over; NULL counts as lack of memory. */
static bw_status give(json_t *analysis, const char *path, const bw_analyze_options *o, bool json, char **text, bw_error *err)
{
    bwi_text t = {0};
    bw_status st;
    if (!analysis || json_object_set_new(analysis, "file", json_string(path)))
        BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the analysis"));
    if (o->out) BWI_TRY(write_files(analysis, o->out, err));
    if (json) {
        char *dump = json_dumps(analysis, JSON_COMPACT | JSON_REAL_PRECISION(9));
        *text = dump ? bwi_strdup(dump) : NULL;
        free(dump);
    } else {
        bwi_analysis_text(analysis, &t);
        if (o->out) bwi_text_add(&t, "written to %s\n", o->out);
        *text = bwi_text_take(&t);
    }
    st = *text ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for the analysis");
fail:
    json_decref(analysis);
    return st;
}

bw_status bw_analyze(const char *path, const bw_analyze_options *o, bool json, char **text, bw_error *err)
{
    bwi_model m = {0};
    bwi_dataset *data = NULL;
    json_t *history = NULL;
    session s = {.batches = o->batches ? o->batches : 8, .batch = o->batch ? o->batch : 128, .err = err};
    bw_status st;
    *text = NULL;
    if (err) *err = (bw_error){0};
    bwi_threads_set(o->threads);
    if (s.batches < 1) BWI_TRY(bwi_fail(err, BW_ARG, "analysis of %d batches: at least 1 is needed", s.batches));
    BWI_TRY(bwi_model_open(&m, path, err));
    if ((st = bwi_analysis_create(&s.analysis, m.graph, err))) {
        bwi_fail_in(err, st, "%s", path);
        goto fail;
    }
    const char *source = o->data ? o->data : m.recipe->data.source, *normalize = o->normalize ? o->normalize : m.normalize;
    if (!*source) BWI_TRY(bwi_fail(err, BW_ARG, "%s does not say what data it was trained on: name a data set", path));
    BWI_TRY(bwi_normalize_check(normalize, err));
    BWI_TRY(read_history(path, o->run, &history, err)); /* before the long work */
    BWI_TRY(bwi_open_data(&data, source, err));
    BWI_TRY(bwi_data_fits(data, m.graph, err));
    s.data = data;
    s.recipe = m.recipe;
    s.normalize = bwi_normalize_find(normalize);
    BWI_TRY(see_activations(&s, err));
    BWI_TRY(see_weights(&s, err));
    BWI_TRY(see_gradients(&s, err));
    BWI_TRY(fit(&s, err));
    st = give(bwi_analysis_json(&s.analysis, history), path, o, json, text, err);
    history = NULL;
fail:
    json_decref(history);
    bwi_analysis_destroy(&s.analysis);
    bwi_dataset_close(&data);
    bwi_model_close(&m);
    return st;
}
