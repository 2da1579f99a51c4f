#include "train/import.h"
#include "data/data.h"
#include "train/hyper.h"
#include "zoo/zoo.h"
#include <string.h>

/* ---- Which tensor of a file belongs to a parameter ---- */

static const char *const wrappers[] = {"state_dict.", "model_state_dict.", "model.", "net.", "network.", "module."};

/* Layers that go by several names. */
static const struct {
    const char *theirs, *ours;
    bool first /* only as the first part of a name */;
} renames[] = {
    {"fc", "linear", false}, {"classifier", "linear", false}, {"shortcut", "downsample", false}, {"norm", "bn", false},
    {"norm1", "bn1", false}, {"norm2", "bn2", false},         {"bn2", "bn_last", true},
};

typedef struct source {
    const char *name; /* without wrappers, inside of the tensor's name */
    char *renamed;    /* with the names of layers that we use */
    bool used;
} source;
typedef struct sources {
    const bwi_tensors *ts;
    source *s; /* [ts->n] */
} sources;

static const char *unwrap(const char *name)
{
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers;) {
        size_t n = strlen(wrappers[i]);
        if (strncmp(name, wrappers[i], n)) {
            i++;
        } else { /* again from the first: they nest in any order */
            name += n;
            i = 0;
        }
    }
    return name;
}

/* NULL on lack of memory. */
static char *rename_layers(const char *name)
{
    bwi_text t = {0};
    for (const char *part = name; part;) {
        const char *dot = strchr(part, '.'), *to = NULL;
        size_t len = dot ? (size_t)(dot - part) : strlen(part);
        for (size_t i = 0; i < sizeof renames / sizeof *renames && !to; i++)
            if (strlen(renames[i].theirs) == len && !memcmp(renames[i].theirs, part, len) &&
                (part == name || !renames[i].first))
                to = renames[i].ours;
        bwi_text_add(&t, "%s%.*s", part == name ? "" : ".", to ? (int)strlen(to) : (int)len, to ? to : part);
        part = dot ? dot + 1 : NULL;
    }
    if (!t.failed) return t.s;
    bwi_free(t.s);
    return NULL;
}

static void sources_free(sources *s)
{
    for (size_t i = 0; s->s && i < s->ts->n; i++) bwi_free(s->s[i].renamed);
    bwi_free(s->s);
    s->s = NULL;
}

static bw_status sources_make(sources *s, const bwi_tensors *ts, bw_error *err)
{
    *s = (sources){ts, bwi_calloc(ts->n, sizeof(source))};
    for (size_t i = 0; s->s && i < ts->n; i++) {
        s->s[i].name = unwrap(ts->t[i].name);
        if ((s->s[i].renamed = rename_layers(s->s[i].name))) continue;
        sources_free(s);
    }
    return s->s ? BW_OK : bwi_fail(err, BW_NOMEM, "out of memory for the names of %zu tensors", ts->n);
}

/* The tensor of parameter `name`, marked as used, or NULL. The closer its name, the better. */
static const bwi_tensor *sources_find(sources *s, const char *name)
{
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < s->ts->n; i++) {
            source *c = &s->s[i];
            if (c->used || strcmp(round == 0 ? s->ts->t[i].name : round == 1 ? c->name : c->renamed, name)) continue;
            c->used = true;
            return &s->ts->t[i];
        }
    return NULL;
}

/* ---- Loading ---- */

/* Dimensions of 1 do not count: [10, 64, 1, 1] fits [10, 64], and [] fits [1]. */
static bool same_shape(const bwi_param *p, const bwi_tensor *t)
{
    int i = 0, j = 0;
    for (;;) {
        while (i < p->ndim && p->dim[i] == 1) i++;
        while (j < t->ndim && t->dim[j] == 1) j++;
        if (i == p->ndim || j == t->ndim) return i == p->ndim && j == t->ndim;
        if (p->dim[i++] != t->dim[j++]) return false;
    }
}

/* Index into p's memory of element k in file order: OIHW in files, OHWI in memory; elsewhere the same. */
static size_t memory_index(const bwi_param *p, size_t k)
{
    if (p->ndim != 4) return k;
    size_t ic = (size_t)p->dim[1], area = (size_t)p->dim[2] * (size_t)p->dim[3];
    size_t o = k / (ic * area), i = k / area % ic, at = k % area;
    return (o * area + at) * ic + i;
}

static void load(bwi_param *p, const bwi_tensor *t)
{
    for (size_t k = 0; k < p->numel; k++) bwi_real_put(p->dtype, p->data, memory_index(p, k), bwi_tensor_at(t, k));
}

/* Whether all parameters of q are among those that were loaded [g->n_params]. */
static bool all_loaded(const bwi_graph *g, const bwi_quant *q, const bool *loaded)
{
    for (int j = 0; j < bwi_quant_n_params(q); j++) {
        bool found = false;
        for (int i = 0; i < g->n_params; i++) found = found || (loaded[i] && g->param[i].data == &q->theta[j]);
        if (!found) return false;
    }
    return true;
}

/* Whether the file has no block of any layer: the network that made weights was another, or none. */
static bool lacks_blocks(const bwi_graph *g, const sources *s)
{
    for (int i = 0; i < g->n_params; i++)
        for (size_t k = 0; g->param[i].role == BWI_PARAM_HYPER && k < s->ts->n; k++)
            if (!strcmp(s->s[k].name, g->param[i].name)) return false;
    return true;
}

/* Loads what is there and describes it, one line a parameter. */
static void load_params(bwi_graph *g, sources *s, bool *loaded, bwi_text *report, int *found, int *missing)
{
    char want[BWI_DIMS_TEXT], have[BWI_DIMS_TEXT];
    bwi_text lacking = {0};
    int unset = 0, blocks = 0;
    const bool no_blocks = lacks_blocks(g, s);
    for (int i = 0; i < g->n_params; i++) {
        bwi_param *p = &g->param[i];
        const bwi_tensor *t = sources_find(s, p->name);
        bwi_dims_text(want, p->ndim, p->dim);
        if (t && same_shape(p, t)) {
            load(p, t);
            loaded[i] = true;
            bwi_text_add(report, "found: %s %s", p->name, want);
            bwi_text_add(report, strcmp(t->name, p->name) ? " as %s\n" : "\n", t->name);
            ++*found;
        } else if (t) {
            bwi_text_add(&lacking, "missing: %s %s: the file's %s is %s\n", p->name, want, t->name,
                         bwi_dims_text(have, t->ndim, t->dim));
            ++*missing;
        } else if (p->role == BWI_PARAM_QUANT) {
            unset++;
        } else if (p->role == BWI_PARAM_HYPER && no_blocks) {
            blocks++;
        } else {
            bwi_text_add(&lacking, "missing: %s %s\n", p->name, want);
            ++*missing;
        }
    }
    bwi_text_add(report, "%s", lacking.s ? lacking.s : "");
    if (lacking.failed) report->failed = 1;
    bwi_free(lacking.s);
    if (blocks) bwi_text_add(report, "%d parameters of blocks are not in the file: they start from its weights\n", blocks);
    if (unset) bwi_text_add(report, "%d quantizer parameters are not in the file: they will be set from data\n", unset);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static void list_extra(const sources *s, bwi_text *report, int *extra)
{
    char dims[BWI_DIMS_TEXT];
    for (size_t i = 0; i < s->ts->n; i++) {
        const bwi_tensor *t = &s->ts->t[i];
        if (s->s[i].used || ends_with(t->name, "num_batches_tracked")) continue;
        bwi_text_add(report, "left over: %s %s\n", t->name, bwi_dims_text(dims, t->ndim, t->dim));
        ++*extra;
    }
}

bw_status bwi_import_params(bwi_graph *g, const bwi_tensors *ts, bwi_text *report, int *missing, int *extra, bw_error *err)
{
    bw_status st;
    sources s = {0};
    bwi_text lines = {0};
    bwi_quant *q;
    const bwi_node *layer;
    int found = 0;
    *missing = *extra = 0;
    bool *loaded = bwi_calloc((size_t)g->n_params, sizeof *loaded);
    if (!loaded) return bwi_fail(err, BW_NOMEM, "out of memory for %d parameters", g->n_params);
    BWI_TRY(sources_make(&s, ts, err));
    load_params(g, &s, loaded, &lines, &found, missing);
    g->version++;
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++)
        if (all_loaded(g, q, loaded)) {
            q->ready = true;
            memcpy(q->theta0, q->theta, sizeof q->theta0);
        }
    if (lacks_blocks(g, &s)) bwi_hyper_adopt(g);
    list_extra(&s, &lines, extra);
    bwi_text_add(report, "%d of %d parameters of %s found, %d missing, %d tensors left over\n%s", found, g->n_params, g->family,
                 *missing, *extra, lines.s ? lines.s : "");
    if (lines.failed || report->failed) st = bwi_fail(err, BW_NOMEM, "out of memory for the report");
fail:
    bwi_free(lines.s);
    bwi_free(loaded);
    sources_free(&s);
    return st;
}

/* The first line of a report that says so, for an error message. */
static bw_status fail_missing(const char *path, const bwi_graph *g, int missing, const char *report, bw_error *err)
{
    const char *line = strstr(report, "\nmissing: ");
    line = line ? line + strlen("\nmissing: ") : "";
    return bwi_fail(
        err, BW_SHAPE,
        "%s does not fit network %s: %d parameters are missing, the first is %.*s; is it another network or shortcut?", path,
        g->family, missing, (int)strcspn(line, "\n"), line);
}

/* Whether g has a parameter whose name begins with the same part ("layer1") as name; the batch norm that g may have been built without counts. */
static bool has_part(const bwi_graph *g, const char *name)
{
    size_t n = strcspn(name, ".") + 1;
    for (int i = 0; i < g->n_params; i++)
        if (!strncmp(g->param[i].name, name, n)) return true;
    return !strncmp("bn_last.", name, n);
}

/* A file with more layers of g's kind than g has is of another network, even if it has all that g needs: BW_SHAPE. */
static bw_status check_layers(const char *path, const bwi_graph *g, const bwi_tensors *ts, bw_error *err)
{
    sources s;
    bw_status st = sources_make(&s, ts, err);
    if (st != BW_OK) return st;
    for (size_t i = 0; i < ts->n && st == BW_OK; i++) {
        const char *name = s.s[i].renamed;
        if (ends_with(name, ".weight") && has_part(g, name) && !bwi_graph_param(g, name))
            st = bwi_fail(
                err, BW_SHAPE,
                "%s does not fit network %s, which has no use for its %s; is it of another depth, shortcut or last_bn?", path,
                g->family, ts->t[i].name);
    }
    sources_free(&s);
    return st;
}

bw_status bwi_import_file(bwi_graph *g, const char *path, char **report, bw_error *err)
{
    bw_status st;
    bwi_tensors ts = {0};
    bwi_text text = {0};
    int missing, extra;
    *report = NULL;
    BWI_TRY(bwi_tensors_read(&ts, path, NULL, err));
    BWI_TRY(bwi_import_params(g, &ts, &text, &missing, &extra, err));
    if (missing) {
        st = fail_missing(path, g, missing, text.s, err);
        goto fail;
    }
    BWI_TRY(check_layers(path, g, &ts, err));
    *strchr(text.s, '\n') = 0;
    if (!(*report = bwi_asprintf("%s: %s", path, text.s))) st = bwi_fail(err, BW_NOMEM, "out of memory for the report");
fail:
    bwi_free(text.s);
    bwi_tensors_free(&ts);
    return st;
}

/* ---- Saving ---- */

/* Whether p belongs to a quantizer that has not seen data yet. */
static bool is_unset(const bwi_graph *g, const bwi_param *p)
{
    bwi_quant *q;
    const bwi_node *layer;
    if (p->role != BWI_PARAM_QUANT) return false;
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++)
        for (int j = 0; j < bwi_quant_n_params(q); j++)
            if (p->data == &q->theta[j]) return !q->ready;
    return false;
}

bw_status bwi_export_params(const bwi_graph *g, bool blocks, bwi_tensors *ts, bw_error *err)
{
    bw_status st = BW_OK;
    for (int i = 0; i < g->n_params; i++) {
        const bwi_param *p = &g->param[i];
        if (is_unset(g, p) || (p->role == BWI_PARAM_HYPER && !blocks)) continue;
        size_t size = bwi_dtype_size(p->dtype);
        uint8_t *copy = bwi_own_alloc(&ts->own, p->numel * size);
        if (!copy) return bwi_fail(err, BW_NOMEM, "out of memory for parameter %s", p->name);
        for (size_t k = 0; k < p->numel; k++)
            memcpy(copy + k * size, (const uint8_t *)p->data + memory_index(p, k) * size, size);
        BWI_TRY(bwi_tensors_add(ts, p->name, p->dtype, p->ndim, p->dim, copy, err));
    }
fail:
    return st;
}

bw_status bwi_export_meta(bwi_tensors *ts, const char *kind, const char *recipe, const char *normalize, bw_error *err)
{
    bw_status st;
    BWI_TRY(bwi_tensors_add_meta(ts, BWI_META_FORMAT, "pt", err));
    BWI_TRY(bwi_tensors_add_meta(ts, BWI_META_VERSION, BW_VERSION, err));
    BWI_TRY(bwi_tensors_add_meta(ts, BWI_META_KIND, kind, err));
    BWI_TRY(bwi_tensors_add_meta(ts, BWI_META_RECIPE, recipe, err));
    BWI_TRY(bwi_tensors_add_meta(ts, BWI_META_NORMALIZE, normalize, err));
fail:
    return st;
}

bw_status bwi_export_classes(bwi_tensors *ts, const char *const *name, int n, bw_error *err)
{
    bwi_text text = {0};
    if (!name) return BW_OK;
    for (int i = 0; i < n; i++) bwi_text_add(&text, "%s%s", i ? "|" : "", name[i]);
    const bw_status st = text.failed ? bwi_fail(err, BW_NOMEM, "out of memory for the names of classes")
                                     : bwi_tensors_add_meta(ts, BWI_META_CLASSES, text.s, err);
    bwi_free(text.s);
    return st;
}

/* ---- bw_import ---- */

/* Outputs of the network's last layer in the file: the first dimension of its weights. */
static bw_status find_classes(const bwi_tensors *ts, const char *net, bwi_net_options *o, bw_error *err)
{
    bw_status st;
    bwi_graph *g = NULL;
    sources s = {0};
    const bwi_param *last = NULL;
    o->classes = 10; /* for now: the names of layers do not depend on it */
    BWI_TRY(bwi_net_create(&g, net, o, BWI_DT_F32, err));
    for (int i = 0; i < g->n_params; i++)
        if (g->param[i].role == BWI_PARAM_WEIGHT) last = &g->param[i];
    BWI_TRY(sources_make(&s, ts, err));
    const bwi_tensor *t = last ? sources_find(&s, last->name) : NULL;
    if (!t || t->ndim < 1 || t->dim[0] < 2 || t->dim[0] > 1000000)
        st =
            bwi_fail(err, BW_SHAPE,
                     "cannot tell the number of classes: there is no tensor that fits %s; is this a %s? If so, give the number",
                     last ? last->name : "a last layer", net);
    else
        o->classes = (int)t->dim[0];
fail:
    sources_free(&s);
    bwi_graph_destroy(&g);
    return st;
}

/* The part of a recipe that describes the network; its names have been checked, so they need no quotes. */
static char *make_recipe(const bwi_graph *g, const bwi_net_options *o, const char *normalize)
{
    return bwi_asprintf("name: %s\nnet:\n  family: %s\n  shortcut: %s\n  classes: %d\n  last_bn: %s\ndata:\n  normalize: %s\n",
                        g->family, g->family, o->shortcut, o->classes, o->last_bn ? "true" : "false", normalize);
}

static bw_status write_model(const char *path, const bwi_graph *g, const bwi_net_options *o, const char *normalize,
                             bw_error *err)
{
    bw_status st;
    bwi_tensors ts = {0};
    char *recipe = make_recipe(g, o, normalize);
    if (!recipe) return bwi_fail(err, BW_NOMEM, "out of memory for the recipe");
    BWI_TRY(bwi_export_params(g, true, &ts, err));
    BWI_TRY(bwi_export_meta(&ts, "model", recipe, normalize, err));
    BWI_TRY(
        bwi_safetensors_write(path, ts.t, ts.n, (const char *const *)ts.key, (const char *const *)ts.value, ts.n_meta, err));
fail:
    bwi_free(recipe);
    bwi_tensors_free(&ts);
    return st;
}

bw_status bw_import(const char *in, const char *out, const bw_import_options *options, char **report, bw_error *err)
{
    bw_status st;
    bwi_tensors ts = {0};
    bwi_graph *g = NULL;
    bwi_text text = {0};
    int missing, extra;
    *report = NULL;
    const char *normalize = options->normalize ? options->normalize : "cifar";
    bwi_net_options o = {
        .shortcut = options->shortcut ? options->shortcut : "A", .last_bn = options->last_bn, .classes = options->classes};
    if (!options->net) return bwi_fail(err, BW_ARG, "%s: import needs the name of the network that the weights belong to", in);
    BWI_TRY(bwi_normalize_check(normalize, err));
    BWI_TRY(bwi_tensors_read(&ts, in, NULL, err));
    if (!o.classes && (st = find_classes(&ts, options->net, &o, err)) != BW_OK) {
        st = bwi_fail_in(err, st, "%s", in);
        goto fail;
    }
    BWI_TRY(bwi_net_create(&g, options->net, &o, BWI_DT_F32, err));
    bwi_graph_init(g, 0);
    BWI_TRY(bwi_import_params(g, &ts, &text, &missing, &extra, err));
    if (missing == g->n_params || (missing && !options->allow_missing)) {
        st = fail_missing(in, g, missing, text.s, err);
        goto fail;
    }
    BWI_TRY(check_layers(in, g, &ts, err));
    BWI_TRY(write_model(out, g, &o, normalize, err));
fail:
    *report = text.s; /* also when parameters are missing: it says which */
    bwi_graph_destroy(&g);
    bwi_tensors_free(&ts);
    return st;
}
