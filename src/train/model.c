#include "train/model.h"
#include <string.h>

bw_status bwi_model_from(bwi_model *m, bwi_tensors *tensors, const char *path, bw_error *err)
{
    bwi_text report = {0};
    int missing = 0, extra = 0;
    bw_status st;
    *m = (bwi_model){.file = *tensors};
    *tensors = (bwi_tensors){0};
    m->kind = bwi_tensors_meta(&m->file, BWI_META_KIND);
    m->normalize = bwi_tensors_meta(&m->file, BWI_META_NORMALIZE);
    const char *recipe = bwi_tensors_meta(&m->file, BWI_META_RECIPE);
    if (m->kind && !strcmp(m->kind, "packed"))
        BWI_TRY(bwi_fail(err, BW_FORMAT, "it is a packed file, for the engine; name the model that it was exported from"));
    if (!m->kind || !recipe)
        BWI_TRY(bwi_fail(err, BW_FORMAT, "it holds weights, but not the network they belong to: import it first"));
    BWI_TRY(bwi_recipe_parse(&m->recipe, "its recipe", recipe, err));
    if (!m->recipe->net.classes) BWI_TRY(bwi_fail(err, BW_FORMAT, "its recipe does not give net.classes"));
    if (!m->normalize) m->normalize = m->recipe->data.normalize;
    BWI_TRY(bwi_recipe_graph(&m->graph, m->recipe, 0, err));
    BWI_TRY(bwi_import_params(m->graph, &m->file, &report, &missing, &extra, err));
    if (missing)
        BWI_TRY(bwi_fail(err, BW_FORMAT, "%d of %d parameters of %s are not in the file", missing, m->graph->n_params,
                         m->graph->family));
    bwi_free(report.s);
    return BW_OK;
fail:
    st = bwi_fail_in(err, st, "%s", path);
    bwi_free(report.s);
    bwi_model_close(m);
    return st;
}

bw_status bwi_model_open(bwi_model *m, const char *path, bw_error *err)
{
    bwi_tensors tensors = {0};
    *m = (bwi_model){0};
    bw_status st = bwi_tensors_read(&tensors, path, NULL, err);
    return st ? st : bwi_model_from(m, &tensors, path, err);
}

void bwi_model_close(bwi_model *m)
{
    bwi_graph_destroy(&m->graph);
    bw_recipe_destroy(&m->recipe);
    bwi_tensors_free(&m->file);
    *m = (bwi_model){0};
}

static const bwi_quant *find_quantizer(const bwi_graph *g, const char *layer, bwi_role role)
{
    bwi_quant *q;
    const bwi_node *owner;
    for (int i = 0; bwi_graph_quant(g, i, &q, &owner); i++)
        if (q->role == role && !strcmp(owner->name, layer)) return q;
    return NULL;
}

bw_status bwi_reset_requantized(bwi_graph *g, const char *path, int *n, bw_error *err)
{
    bwi_tensors tensors = {0};
    bwi_model m = {0};
    bwi_quant *q;
    const bwi_node *layer;
    bw_status st;
    *n = 0;
    BWI_TRY(bwi_tensors_read(&tensors, path, NULL, err));
    if (!bwi_tensors_meta(&tensors, BWI_META_KIND)) goto fail;
    BWI_TRY(bwi_model_from(&m, &tensors, path, err));
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++) {
        const bwi_quant *old = find_quantizer(m.graph, layer->name, q->role);
        if (!q->ready || !old || old->bits == q->bits) continue;
        q->ready = false;
        ++*n;
    }
fail:
    bwi_model_close(&m);
    bwi_tensors_free(&tensors);
    return st;
}
