/* Classifies images of files or of a data set. As in evaluation, what is quantized runs on the engine, the rest as the training graph. */
#include "base/alloc.h"
#include "base/par.h"
#include "deploy/engine.h"
#include "deploy/lower.h"
#include "io/image.h"
#include "train/evaluate.h"
#include "train/model.h"
#include <math.h>
#include <string.h>

enum { BATCH = 16 };

typedef struct classifier {
    bwi_engine engine;
    bwi_model m;
    bwi_exec *exec; /* NULL: the engine runs */
    const bwi_normalize *normalize;
    bwi_shape in;
    int classes;
    char *names;       /* text, cut where they end */
    const char **name; /* [classes] in names; NULL: unknown */
    bwi_dataset *data;
    uint8_t *pixels; /* [BATCH] images */
    float *logits;   /* [BATCH][classes] */
    int32_t labels[BATCH];
} classifier;

/* ---- Opening ------------------------------------------------------------------------------------------------------------- */

static bw_status open_graph(classifier *c, bw_error *err)
{
    const bwi_exec_options o = {.batch = BATCH};
    c->normalize = bwi_normalize_find(c->m.normalize);
    c->in = c->m.graph->value[0].shape;
    c->classes = c->m.graph->classes;
    return bwi_exec_create(&c->exec, c->m.graph, &o, NULL, err);
}

static bw_status open_trained(classifier *c, const char *path, const bw_run_options *o, bw_error *err)
{
    bwi_tensors lowered = {0};
    bwi_quant *q;
    const bwi_node *layer;
    bw_status st = bwi_model_open(&c->m, path, err);
    if (st) return st;
    if (!bwi_graph_quant(c->m.graph, 0, &q, &layer)) return open_graph(c, err);
    st = bwi_lower(&lowered, c->m.graph, bwi_normalize_find(c->m.normalize), err);
    if (st == BW_UNSUPPORTED) return open_graph(c, err); /* what cannot be packed can still be run */
    if (!st) st = bwi_engine_from(&c->engine, &lowered, o->threads, o->plan, err);
    bwi_tensors_free(&lowered);
    return st ? bwi_fail_in(err, st, "%s", path) : BW_OK;
}

static bw_status open_network(classifier *c, const char *path, const bw_run_options *o, bw_error *err)
{
    bool packed;
    bw_status st = bwi_is_packed(&packed, path, err);
    if (st) return st;
    st = packed ? bwi_engine_open(&c->engine, path, o->threads, o->plan, err) : open_trained(c, path, o, err);
    if (st) return st;
    if (c->engine.net) {
        const bw_net_info *i = &c->engine.info;
        c->in = (bwi_shape){i->height, i->width, i->channels};
        c->classes = i->classes;
    }
    if (c->in.c != 3)
        return bwi_fail(err, BW_UNSUPPORTED, "%s takes images of %d channels, not of three colours", path, c->in.c);
    if (packed) st = bwi_tensors_read(&c->m.file, path, NULL, err); /* for its metadata */
    return st;
}

/* Cuts c->names at the separators; more than there are classes are left out. Returns how many there are. */
static int cut_names(classifier *c, const char *separator)
{
    int n = 0;
    for (char *at = c->names; at && *at; n++) {
        char *end = at + strcspn(at, separator), *next = *end ? end + 1 : end;
        if (end > at && end[-1] == '\r') end--;
        *end = 0;
        if (n < c->classes) c->name[n] = at;
        at = next;
    }
    return n;
}

static bw_status read_names(classifier *c, const char *path, bw_error *err)
{
    bwi_file f = {0};
    if (!(c->name = bwi_calloc((size_t)c->classes, sizeof *c->name)))
        return bwi_fail(err, BW_NOMEM, "no memory for the names of classes");
    const char *stored = path ? NULL : bwi_tensors_meta(&c->m.file, BWI_META_CLASSES);
    for (int i = 0; c->data && c->data->class_name && i < c->data->classes && i < c->classes; i++)
        c->name[i] = c->data->class_name[i];
    if (!path && !stored) return BW_OK;
    const bw_status st = path ? bwi_file_open(&f, path, err) : BW_OK;
    if (st) return st;
    c->names = path ? bwi_strndup((const char *)f.data, f.size) : bwi_strdup(stored);
    bwi_file_close(&f);
    if (!c->names) return bwi_fail(err, BW_NOMEM, "no memory for the names of classes");
    const int n = cut_names(c, path ? "\n" : "|");
    if (!path) return BW_OK;
    if (n != c->classes)
        return bwi_fail(err, BW_ARG, "%s has %d lines; the network has %d classes, and each has a line with its name", path, n,
                        c->classes);
    for (int i = 0; i < n; i++)
        if (!bwi_recipe_printable(c->name[i]))
            return bwi_fail(err, BW_ARG, "%s: line %d is not text in UTF-8 without control characters", path, i + 1);
    return BW_OK;
}

static bw_status open_data(classifier *c, const char *source, bw_error *err)
{
    bw_status st = bwi_open_data(&c->data, source, err);
    if (st) return st;
    const bwi_shape s = c->data->shape;
    if (s.h != c->in.h || s.w != c->in.w || s.c != c->in.c)
        return bwi_fail(err, BW_SHAPE, "data set '%s' has images of %dx%dx%d, the network takes %dx%dx%d", c->data->row->name,
                        s.h, s.w, s.c, c->in.h, c->in.w, c->in.c);
    return BW_OK;
}

static void release(classifier *c)
{
    bwi_engine_close(&c->engine);
    bwi_exec_destroy(&c->exec);
    bwi_model_close(&c->m);
    bwi_dataset_close(&c->data);
    bwi_free(c->names);
    bwi_free(c->name);
    bwi_free(c->pixels);
    bwi_free(c->logits);
}

/* ---- Running ------------------------------------------------------------------------------------------------------------- */

static bw_status forward(classifier *c, int n, bw_error *err)
{
    const size_t image = bwi_shape_size(c->in);
    const void *logits;
    if (!c->exec) {
        bw_net_run_pool(c->engine.net, c->engine.pool, c->pixels, n, c->logits, c->engine.work);
        return BW_OK;
    }
    float *x = bwi_exec_input(c->exec);
    for (size_t i = 0; i < (size_t)n * image; i++) x[i] = bwi_normalized(c->normalize, (int)(i % 3), c->pixels[i]);
    const bw_status st = bwi_exec_forward(c->exec, n, false, &logits, err);
    if (!st) memcpy(c->logits, logits, (size_t)n * (size_t)c->classes * sizeof *c->logits);
    return st;
}

/* The most probable classes of one image, by repeated search: there are few to find. */
static void choose(const classifier *c, const float *logits, bw_prediction *p)
{
    double sum = 0, most = -INFINITY;
    for (int k = 0; k < c->classes; k++) most = fmax(most, (double)logits[k]);
    for (int k = 0; k < c->classes; k++) sum += exp((double)logits[k] - most);
    p->n = c->classes < BW_TOP ? c->classes : BW_TOP;
    for (int i = 0; i < p->n; i++) {
        int best = -1;
        for (int k = 0; k < c->classes; k++) {
            bool taken = false;
            for (int j = 0; j < i; j++) taken |= p->best[j].index == k;
            if (!taken && (best < 0 || logits[k] > logits[best])) best = k;
        }
        p->best[i].index = best;
        p->best[i].name = c->name[best];
        p->best[i].probability = exp((double)logits[best] - most) / sum;
    }
}

/* Numbers first .. first + n - 1; right counts the labels that are the best class, and those among the best five. */
static bw_status report(classifier *c, const char *const *path, int64_t first, int n, int64_t right[2], bw_prediction_fn *fn,
                        void *user, bw_error *err)
{
    const bw_status st = n ? forward(c, n, err) : BW_OK;
    if (st) return st;
    for (int i = 0; i < n; i++) {
        const int label = c->data ? c->labels[i] : -1;
        bw_prediction p = {.image = path ? path[first + i] : NULL, .number = first + i, .label = label};
        if (label >= 0 && c->data->class_name) p.label_name = c->data->class_name[label];
        choose(c, c->logits + (size_t)i * (size_t)c->classes, &p);
        right[0] += p.best[0].index == label;
        for (int k = 0; k < p.n; k++) right[1] += p.best[k].index == label;
        if (fn) fn(user, &p);
    }
    return BW_OK;
}

static bw_status read_file(const classifier *c, const char *path, uint8_t *to, bw_error *err)
{
    bwi_image image;
    bw_status st = bwi_image_read(&image, path, err);
    if (st) return st;
    st = bwi_image_fit(&image, c->in.h, c->in.w, to, err);
    bwi_image_free(&image);
    return st ? bwi_fail_in(err, st, "%s", path) : BW_OK;
}

/* Images first .. first + *n - 1 into c->pixels. Where one cannot be read, *n becomes the number of those before it. */
static bw_status gather(classifier *c, const char *const *path, int64_t first, int *n, bw_error *err)
{
    const size_t image = bwi_shape_size(c->in);
    for (int i = 0; i < *n; i++) {
        uint8_t *to = c->pixels + (size_t)i * image;
        if (c->data) {
            c->labels[i] = c->data->image(c->data, BWI_TEST, (int)first + i, to);
            continue;
        }
        const bw_status st = read_file(c, path[first + i], to, err);
        if (!st) continue;
        *n = i;
        return st;
    }
    return BW_OK;
}

bw_status bw_run(const char *model, const char *const *path, size_t n, const bw_run_options *o, bw_prediction_fn *fn,
                 void *user, bw_run_result *result, bw_error *err)
{
    classifier c = {0};
    int64_t right[2] = {0, 0};
    bw_status st;
    *result = (bw_run_result){0};
    if (err) *err = (bw_error){0};
    if (!o->data == !n) return bwi_fail(err, BW_ARG, "name either files of images or a data set");
    bwi_threads_set(o->threads);
    BWI_TRY(open_network(&c, model, o, err));
    if (o->data) BWI_TRY(open_data(&c, o->data, err));
    BWI_TRY(read_names(&c, o->classes, err));
    c.pixels = bwi_malloc(BATCH * bwi_shape_size(c.in));
    c.logits = bwi_malloc(BATCH * (size_t)c.classes * sizeof *c.logits);
    if (!c.pixels || !c.logits) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for a batch of images"));
    int64_t images = c.data ? c.data->n[BWI_TEST] : (int64_t)n;
    if (c.data && o->limit > 0 && o->limit < images) images = o->limit;
    for (int64_t i = 0; i < images; i += BATCH) {
        int m = images - i < BATCH ? (int)(images - i) : BATCH;
        const bw_status gathered = gather(&c, c.data ? NULL : path, i, &m, err);
        BWI_TRY(report(&c, c.data ? NULL : path, i, m, right, fn, user, gathered ? NULL : err));
        result->images += m;
        BWI_TRY(gathered);
    }
    result->engine = !c.exec;
    result->top1 = c.data ? 100 * (double)right[0] / (double)images : NAN;
    result->top5 = c.data ? 100 * (double)right[1] / (double)images : NAN;
fail:
    if (st) *result = (bw_run_result){0};
    release(&c);
    return st;
}
