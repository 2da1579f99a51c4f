/* Ways to deploy a network: one file, one row in exporters.def. */
#ifndef BWI_EXPORT_H
#define BWI_EXPORT_H
#include "deploy/lower.h"
#include "train/model.h"
#include <bitwright/bitwright.h>

typedef struct bwi_exporter {
    const char *name, *summary, *suffix; /* "packed", ..., ".safetensors" */
    /* Writes `path`. lowered is what bwi_lower made of the model's graph. */
    bw_status (*write)(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err);
    /* What a device needs for it; NULL: that cannot be said. */
    bw_status (*sizes)(const bwi_tensors *lowered, bw_export_sizes *out, bw_error *err);
} bwi_exporter;
const bwi_exporter *bwi_exporter_at(size_t i);

/* Opens a model of this program and lowers its graph. */
BW_MUST_USE bw_status bwi_lower_model(bwi_model *m, bwi_tensors *lowered, const char *path, bw_error *err);
#endif
