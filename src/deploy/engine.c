#include "deploy/engine.h"
#include "base/alloc.h"
#include "base/par.h"
#include "deploy/run/header.h"
#include <string.h>

bw_status bwi_is_packed(bool *packed, const char *path, bw_error *err)
{
    bwi_file f;
    bwr_header h;
    bwr_text kind;
    *packed = false;
    const bw_status st = bwi_file_open(&f, path, err);
    if (st == BW_NOMEM) return st;
    if (st) { /* who opens it next says why */
        if (err) *err = (bw_error){0};
        return BW_OK;
    }
    *packed = bwr_header_read(&h, f.data, f.size, NULL) == BW_OK && bwr_header_meta(&h, "bitwright.kind", &kind) &&
              bwr_text_is(kind, "packed");
    bwi_file_close(&f);
    return BW_OK;
}

static bw_status start(bwi_engine *e, const void *data, size_t size, int threads, const char *plan, bw_error *err)
{
    const int n = threads ? threads : bwi_threads();
    const bool measured = plan && !strcmp(plan, "measured");
    const bw_plan how = measured ? BW_PLAN_MEASURED : BW_PLAN_TABLE;
    bw_status st;
    e->size = size;
    if (plan && !measured && strcmp(plan, "table") != 0)
        return bwi_fail(err, BW_ARG, "plan '%s': expected table or measured", plan);
    BWI_TRY(bw_net_read_plan(data, size, how, &e->info, err));
    e->memory = bwi_malloc(e->info.net_bytes);
    e->work = bwi_malloc((size_t)n * e->info.work_bytes);
    if (!e->memory || !e->work) return bwi_fail(err, BW_NOMEM, "no memory for the engine");
    BWI_TRY(bw_net_init_plan(&e->net, data, size, how, e->memory, e->info.net_bytes, e->work, err));
    BWI_TRY(bw_pool_create(&e->pool, n, err));
fail:
    return st;
}

bw_status bwi_engine_open(bwi_engine *e, const char *path, int threads, const char *plan, bw_error *err)
{
    *e = (bwi_engine){0};
    bw_status st = bwi_file_open(&e->file, path, err);
    if (st) return st;
    st = start(e, e->file.data, e->file.size, threads, plan, err);
    if (!st) return BW_OK;
    bwi_fail_in(err, st, "%s", path);
    bwi_engine_close(e);
    return st;
}

bw_status bwi_engine_from(bwi_engine *e, const bwi_tensors *lowered, int threads, const char *plan, bw_error *err)
{
    size_t size;
    *e = (bwi_engine){0};
    bw_status st = bwi_safetensors_image(&e->image, &size, lowered, err);
    if (!st) st = start(e, e->image, size, threads, plan, err);
    if (st) bwi_engine_close(e);
    return st;
}

void bwi_engine_close(bwi_engine *e)
{
    bw_pool_destroy(&e->pool);
    bwi_free(e->work);
    bwi_free(e->memory);
    bwi_free(e->image);
    bwi_file_close(&e->file);
    *e = (bwi_engine){0};
}
