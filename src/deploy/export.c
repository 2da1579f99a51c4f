#include "deploy/export.h"
#include "base/alloc.h"
#include <string.h>

#define ROW(name) extern const bwi_exporter bwi_exporter_##name;
#include "deploy/exporters.def"
#undef ROW
static const bwi_exporter *const exporters[] = {
#define ROW(name) &bwi_exporter_##name,
#include "deploy/exporters.def"
#undef ROW
};
enum { N_EXPORTERS = sizeof exporters / sizeof *exporters };

const bwi_exporter *bwi_exporter_at(size_t i)
{
    return i < N_EXPORTERS ? exporters[i] : NULL;
}

bw_status bwi_lower_model(bwi_model *m, bwi_tensors *lowered, const char *path, bw_error *err)
{
    *lowered = (bwi_tensors){0};
    bw_status st = bwi_model_open(m, path, err);
    if (st) return st;
    st = bwi_lower(lowered, m->graph, bwi_normalize_find(m->normalize), err);
    const char *classes = st ? NULL : bwi_tensors_meta(&m->file, BWI_META_CLASSES);
    if (classes) st = bwi_tensors_add_meta(lowered, BWI_META_CLASSES, classes, err);
    if (!st) return BW_OK;
    bwi_fail_in(err, st, "%s", path);
    bwi_tensors_free(lowered);
    bwi_model_close(m);
    return st;
}

bw_status bw_export(const char *model, const char *path, const char *to, bw_export_sizes *sizes, bw_error *err)
{
    const char *names[N_EXPORTERS];
    const bwi_exporter *row = NULL;
    bwi_model m = {0};
    bwi_tensors lowered = {0};
    if (err) *err = (bw_error){0};
    if (sizes) *sizes = (bw_export_sizes){0};
    for (int i = 0; i < N_EXPORTERS; i++) {
        names[i] = exporters[i]->name;
        if (!strcmp(names[i], to ? to : "packed")) row = exporters[i];
    }
    if (!row) {
        const char *near = bwi_nearest(to, names, N_EXPORTERS);
        return bwi_fail(err, BW_ARG, "there is no way to export to '%s'%s%s%s", to, near ? "; did you mean '" : "",
                        near ? near : "", near ? "'?" : "");
    }
    bw_status st = bwi_lower_model(&m, &lowered, model, err);
    if (!st) st = row->write(&m, &lowered, path, err);
    if (!st && sizes && row->sizes) st = row->sizes(&lowered, sizes, err);
    bwi_tensors_free(&lowered);
    bwi_model_close(&m);
    return st;
}
