/* Packed files: what the engine maps and runs (deploy/run/net.h). */
#include "base/alloc.h"
#include "deploy/export.h"

static bw_status write_packed(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    (void)m;
    return bwi_safetensors_write(path, lowered->t, lowered->n, (const char *const *)lowered->key,
                                 (const char *const *)lowered->value, lowered->n_meta, err);
}

static bw_status sizes(const bwi_tensors *lowered, bw_export_sizes *out, bw_error *err)
{
    uint8_t *image;
    size_t size;
    bw_net_info info;
    bw_status st = bwi_safetensors_image(&image, &size, lowered, err);
    if (st) return st;
    st = bw_net_read(image, size, &info, err);
    if (!st) *out = (bw_export_sizes){.flash_bytes = size, .ram_bytes = info.net_bytes + info.work_bytes};
    bwi_free(image);
    return st;
}

const bwi_exporter bwi_exporter_packed = {
    .name = "packed",
    .summary = "a file for the engine: weights at their bits, run where they lie",
    .suffix = ".safetensors",
    .write = write_packed,
    .sizes = sizes,
};
