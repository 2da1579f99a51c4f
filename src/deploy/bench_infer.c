/* Times whole networks on the engine: one image at a time, whose rows the threads share, and batches, whose images they share. */
#include "base/alloc.h"
#include "base/par.h"
#include "deploy/engine.h"
#include "deploy/lower.h"
#include "train/model.h"
#include <string.h>
#include <time.h>

/* One thread's processor time, so that what else the machine does counts little; time by the clock for more. */
static double now(int threads)
{
    struct timespec t;
    if (threads > 1 || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)) return bwi_now();
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Least seconds of a call with n images, of at least MIN_CALLS of them and about `seconds` altogether. */
static double least(bwi_engine *e, int threads, const uint8_t *images, int n, float *logits, double seconds)
{
    enum { MIN_CALLS = 4 };
    double best = 1e30, spent = 0;
    bw_net_run_pool(e->net, e->pool, images, n, logits, e->work);
    for (int calls = 0; calls < MIN_CALLS || spent < seconds; calls++) {
        const double start = now(threads);
        bw_net_run_pool(e->net, e->pool, images, n, logits, e->work);
        const double took = now(threads) - start;
        spent += took;
        best = took < best ? took : best;
    }
    return best;
}

static bw_status open_any(bwi_engine *e, const char *path, int threads, const char *plan, bw_error *err)
{
    bwi_model m = {0};
    bwi_tensors lowered = {0};
    bw_status st;
    bool packed;
    BWI_TRY(bwi_is_packed(&packed, path, err));
    if (packed) return bwi_engine_open(e, path, threads, plan, err);
    BWI_TRY(bwi_model_open(&m, path, err));
    BWI_TRY(bwi_lower(&lowered, m.graph, bwi_normalize_find(m.normalize), err));
    BWI_TRY(bwi_engine_from(e, &lowered, threads, plan, err));
fail:
    bwi_tensors_free(&lowered);
    bwi_model_close(&m);
    return st;
}

bw_status bw_bench_infer(const char *path, int threads, int batch, const char *plan, bw_infer_result *result, bw_error *err)
{
    bwi_engine e = {0};
    uint8_t *images = NULL;
    float *logits = NULL;
    bw_status st;
    *result = (bw_infer_result){0};
    if (err) *err = (bw_error){0};
    if (batch < 1 || threads < 1)
        return bwi_fail(err, BW_ARG, "a benchmark of %d images on %d threads; both must be at least 1", batch, threads);
    BWI_TRY(open_any(&e, path, threads, plan, err));
    const size_t size = (size_t)batch * (size_t)e.info.height * (size_t)e.info.width * (size_t)e.info.channels;
    images = bwi_malloc(size);
    logits = bwi_malloc((size_t)batch * (size_t)e.info.classes * sizeof *logits);
    if (!images || !logits) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for %d images", batch));
    for (size_t i = 0; i < size; i++) images[i] = (uint8_t)(i * 2654435761u >> 13);
    *result = (bw_infer_result){.latency_ms = 1e3 * least(&e, threads, images, 1, logits, 0.3),
                                .images_per_s = batch / least(&e, threads, images, batch, logits, 0.3),
                                .packed_bytes = e.size,
                                .memory_bytes = e.info.net_bytes + (uint64_t)threads * e.info.work_bytes};
fail:
    bwi_free(images);
    bwi_free(logits);
    bwi_engine_close(&e);
    return st;
}
