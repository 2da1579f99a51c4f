/* Packed files: what the engine maps and runs (deploy/run/net.h). */
#include "deploy/export.h"

static bw_status write_packed(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    (void)m;
    return bwi_safetensors_write(path, lowered->t, lowered->n, (const char *const *)lowered->key,
                                 (const char *const *)lowered->value, lowered->n_meta, err);
}

const bwi_exporter bwi_exporter_packed = {
    .name = "packed",
    .summary = "a file for the engine: weights at their bits, run where they lie",
    .suffix = ".safetensors",
    .write = write_packed,
};
