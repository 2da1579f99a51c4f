/* Greedy search by sensitivity: every layer starts with the most bits, and until the budget holds, the change of one layer to fewer bits is
 * made that adds least to the expected loss for each unit of cost that it saves. Losses of layers are taken to add up. One evaluation,
 * of what comes out.
 *
 * A change may go down by more than one bit: costs that are measured (latency) have steps, on which one bit less saves nothing. */
#include "search/methods.h"
#include "search/sensitivity.h"
#include "base/alloc.h"
#include <math.h>
#include <string.h>

static int evaluations(const double *opt)
{
    (void)opt;
    return 1;
}

/* The best change of one layer, -1: none saves anything. */
static int best_change(const bwi_problem *p, const bwi_loss *loss, const uint8_t *bits, int *to)
{
    double best = INFINITY;
    int layer = -1;
    for (int i = 0; i < p->n; i++)
        for (int b = bits[i] - 1; b >= p->lo; b--) {
            const double saved = p->cost[i][bits[i]] - p->cost[i][b];
            if (saved <= 0) continue;
            const double rate = (loss[i][b] - loss[i][bits[i]]) / saved;
            if (rate < best) best = rate, layer = i, *to = b;
        }
    return layer;
}

static bw_status run(bwi_trials *t, const double *opt, bw_error *err)
{
    const bwi_problem *p = t->problem;
    uint8_t bits[BWI_SEARCH_LAYERS];
    char cost[64], least[64];
    bwi_loss *loss = NULL;
    bw_status st;
    (void)opt;
    BWI_TRY(bwi_loss_of(&loss, p, err));
    memset(bits, p->hi, sizeof bits);
    while (bwi_problem_cost(p, bits) > p->limit) {
        int to = 0;
        const int layer = best_change(p, loss, bits, &to);
        if (layer < 0)
            BWI_TRY(
                bwi_fail(err, BW_UNSUPPORTED,
                         "the greedy way ends above the budget, since fewer bits do not always cost less; take another way"));
        bits[layer] = (uint8_t)to;
    }
    if (!bwi_problem_fits(p, bwi_problem_cost(p, bits)))
        BWI_TRY(bwi_fail(err, BW_UNSUPPORTED,
                         "the greedy way ends at a cost of %s, less than the %s that are asked for; take another way, or leave "
                         "out the lower bound",
                         bwi_cost_text(p, bwi_problem_cost(p, bits), cost), bwi_cost_text(p, p->least, least)));
    BWI_TRY(bwi_trials_run(t, bits, 1, true, err));
    st = bwi_trials_generation(t, err);
fail:
    bwi_free(loss);
    return st;
}

const bwi_method bwi_method_greedy = {
    .name = "greedy",
    .summary = "from the most bits down, least loss for each unit of cost saved first",
    .cite = "a baseline, on Hessian-weighted errors as in Dong et al. 2020, HAWQ-V2",
    .evaluations = evaluations,
    .run = run,
};
