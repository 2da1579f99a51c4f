/* bw_info and bw_describe: files and recipes, told as text or as JSON. */
#include "data/data.h"
#include "train/describe.h"
#include "train/evaluate.h"
#include "train/model.h"
#include "zoo/zoo.h"
#include <stdlib.h>
#include <string.h>

/* Gives out what `t` or `object` holds, whichever is asked for, as a string of ours. Takes over both. */
static bw_status give(bool json, json_t *object, bwi_text *t, char **text, bw_error *err)
{
    if (json) {
        char *dump = object ? json_dumps(object, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
        *text = dump ? bwi_strdup(dump) : NULL;
        free(dump);
        bwi_free(t->s);
    } else {
        *text = object ? bwi_text_take(t) : NULL;
    }
    json_decref(object);
    return *text ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for a description");
}

/* ---- Files --------------------------------------------------------------------------------------------------------------- */

static json_t *describe_tensor(const bwi_tensor *tensor)
{
    json_t *shape = json_array();
    for (int i = 0; shape && i < tensor->ndim; i++)
        if (json_array_append_new(shape, json_integer(tensor->dim[i]))) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:s, s:o, s:I}", "name", tensor->name, "dtype", bwi_dtype_name(tensor->dtype), "shape", shape,
                     "bytes", (json_int_t)tensor->bytes);
}

/* Weights of somebody else's: what tensors there are. */
static bw_status info_foreign(const bwi_tensors *ts, const bwi_format *format, const char *path, bool json, char **text,
                              bw_error *err)
{
    bwi_text t = {0};
    char dims[BWI_DIMS_TEXT];
    size_t bytes = 0, values = 0;
    json_t *list = json_array();
    for (size_t i = 0; list && i < ts->n; i++) {
        const bwi_tensor *x = &ts->t[i];
        bytes += x->bytes;
        values += bwi_tensor_numel(x);
        bwi_text_add(&t, "%-48s %-5s %s\n", x->name, bwi_dtype_name(x->dtype), bwi_dims_text(dims, x->ndim, x->dim));
        if (json_array_append_new(list, describe_tensor(x))) {
            json_decref(list);
            list = NULL;
        }
    }
    bwi_text_add(&t, "%s: weights in format %s, %zu tensors, %zu values, %zu bytes; import them to evaluate or train\n", path,
                 format->name, ts->n, values, bytes);
    json_t *object = json_pack("{s:s, s:s, s:s, s:o, s:I, s:I}", "file", path, "kind", "weights", "format", format->name,
                               "tensors", list, "values", (json_int_t)values, "bytes", (json_int_t)bytes);
    return give(json, object, &t, text, err);
}

/* What training left in the metadata of a checkpoint, or nothing. */
static bool add_progress(json_t *object, const bwi_tensors *ts, bwi_text *t)
{
    static const char prefix[] = "train.";
    json_t *progress = json_object();
    bool good = progress;
    for (size_t i = 0; good && i < ts->n_meta; i++) {
        if (strncmp(ts->key[i], prefix, sizeof prefix - 1)) continue;
        const char *value = ts->value[i];
        const bool whole = value[strspn(value, "0123456789")] == 0;
        json_t *number = whole ? json_integer(strtoll(value, NULL, 10)) : bwi_json_number(strtod(value, NULL));
        good = !json_object_set_new(progress, ts->key[i] + sizeof prefix - 1, number);
        bwi_text_add(t, "%s: %s\n", ts->key[i], ts->value[i]);
    }
    if (good && json_object_size(progress)) return !json_object_set_new(object, "progress", progress);
    json_decref(progress);
    return good;
}

static bw_status info_model(const bwi_model *m, const char *path, bool json, char **text, bw_error *err)
{
    bwi_text t = {0};
    const char *version = bwi_tensors_meta(&m->file, BWI_META_VERSION), *recipe = bw_recipe_text(m->recipe);
    json_t *network = recipe ? bwi_describe(m->graph) : NULL;
    bwi_text_add(&t, "%s: %s by bitwright %s, normalisation %s\n", path, m->kind, version ? version : "of unknown version",
                 m->normalize);
    if (network) bwi_describe_text(network, &t);
    json_t *object = json_pack("{s:s, s:s, s:s*, s:s, s:o, s:s}", "file", path, "kind", m->kind, "version", version,
                               "normalize", m->normalize, "network", network, "recipe", recipe ? recipe : "");
    if (object && !add_progress(object, &m->file, &t)) {
        json_decref(object);
        object = NULL;
    }
    bwi_text_add(&t, "recipe:\n%s", recipe ? recipe : "");
    return give(json, object, &t, text, err);
}

bw_status bw_info(const char *path, bool json, char **text, bw_error *err)
{
    bwi_tensors ts = {0};
    bwi_model m = {0};
    const bwi_format *format = NULL;
    bw_status st;
    *text = NULL;
    if (err) *err = (bw_error){0};
    BWI_TRY(bwi_tensors_read(&ts, path, &format, err));
    if (!bwi_tensors_meta(&ts, BWI_META_KIND)) {
        st = info_foreign(&ts, format, path, json, text, err);
        goto fail;
    }
    BWI_TRY(bwi_model_from(&m, &ts, path, err));
    BWI_TRY(info_model(&m, path, json, text, err));
fail:
    bwi_model_close(&m);
    bwi_tensors_free(&ts);
    return st;
}

/* ---- Recipes ------------------------------------------------------------------------------------------------------------- */

bw_status bw_describe(bw_recipe *recipe, bool json, char **text, bw_error *err)
{
    bwi_graph *g = NULL;
    bwi_dataset *data = NULL;
    bwi_text t = {0};
    const bwi_family *family;
    int classes = recipe->net.classes;
    bw_status st;
    *text = NULL;
    if (err) *err = (bw_error){0};
    BWI_TRY(bwi_family_find(&family, recipe->net.family, err));
    if (!classes && bwi_open_data(&data, recipe->data.source, NULL) == BW_OK) classes = data->classes;
    if (!classes)
        bwi_text_add(&t, "net.classes is 0 and data set '%s' cannot be opened here: shown for %d classes\n",
                     recipe->data.source, family->classes);
    BWI_TRY(bwi_recipe_graph(&g, recipe, classes ? classes : family->classes, err));
    json_t *network = bwi_describe(g);
    if (network) bwi_describe_text(network, &t);
    st = give(json, network, &t, text, err);
    t = (bwi_text){0};
fail:
    bwi_free(t.s);
    bwi_dataset_close(&data);
    bwi_graph_destroy(&g);
    return st;
}
