/* Random search: what the genetic one has to beat with as many evaluations. */
#include "search/methods.h"
#include "base/alloc.h"
#include <string.h>

enum { EVALUATIONS };
enum { BATCH = 50, DROPS = 500 };

static int evaluations(const double *opt)
{
    return (int)opt[EVALUATIONS];
}

static bool is_new(const bwi_trials *t, const uint8_t *batch, int n, const uint8_t *bits)
{
    const size_t size = (size_t)t->problem->n;
    for (int i = 0; i < n; i++)
        if (!memcmp(batch + (size_t)i * size, bits, size)) return false;
    return !bwi_trials_seen(t, bits);
}

static bw_status run(bwi_trials *t, const double *opt, bw_error *err)
{
    const bwi_problem *p = t->problem;
    const size_t size = (size_t)p->n;
    int tries = BWI_DRAW_TRIES, left = evaluations(opt);
    bw_status st = BW_OK;
    uint8_t *bits = bwi_malloc((BATCH + 1) * size);
    if (!bits) return bwi_fail(err, BW_NOMEM, "no memory for random assignments");
    for (int batch = 0; left > 0; batch++) {
        bwi_rng rng = bwi_rng_make(p->seed, BWI_RNG_SEARCH, (uint64_t)batch, 0);
        const int wanted = left < BATCH ? left : BATCH;
        int n = 0;
        for (int dropped = 0; n < wanted && dropped < DROPS;) {
            uint8_t *to = bits + (size_t)n * size;
            if (bwi_problem_draw(p, &rng, &tries, to) && is_new(t, bits, n, to))
                n++;
            else
                dropped++;
        }
        if (!n) break; /* everything that fits was seen */
        BWI_TRY(bwi_trials_run(t, bits, n, true, err));
        BWI_TRY(bwi_trials_generation(t, err));
        left -= n;
    }
fail:
    bwi_free(bits);
    return st;
}

const bwi_method bwi_method_random = {
    .name = "random",
    .summary = "random assignments that keep the budget",
    .cite = "a baseline",
    .option = {{.key = "evaluations", .doc = "assignments to try", .def = 1000, .min = 1, .max = 1e6, .integer = true}},
    .evaluations = evaluations,
    .run = run,
};
