/* Search: which bit-width each layer gets under a budget. One file and one row of methods.def a way of searching, one of budgets.def a kind of
 * cost. What is searched is a problem of numbers; what an assignment is worth, candidates.h finds out. */
#ifndef BWI_SEARCH_H
#define BWI_SEARCH_H
#include "base/rng.h"
#include "base/status.h"

#define BWI_SEARCH_LAYERS 256 /* most layers */
#define BWI_SEARCH_BITS   8   /* bit-widths 1..8 */

/* bits: [n] one byte a layer, each from lo to hi. Costs add up over layers. Errors are top-1 errors in percent: smaller is better. */
typedef struct bwi_problem {
    int n, lo, hi;
    double cost[BWI_SEARCH_LAYERS][BWI_SEARCH_BITS + 1]; /* [layer][bits] */
    double limit, least;                                 /* of an assignment's cost, inclusive; least 0: none */
    const char *unit;                                    /* of costs in messages, unit_costs in one; NULL: none */
    double unit_costs;
    uint64_t seed;
    void *context; /* of what follows */
    /* Errors of `count` assignments, bits [count][n]; the same numbers whatever count and threads are. */
    bw_status (*evaluate)(void *context, const uint8_t *bits, int count, double *error, bw_error *err);
    /* loss [n][BWI_SEARCH_BITS + 1]: what a layer alone is expected to add to the loss at each of its bit-widths (Hessian-weighted error). */
    bw_status (*sensitivity)(void *context, double (*loss)[BWI_SEARCH_BITS + 1], bw_error *err);
} bwi_problem;

/* Summed in the order of the layers, so that it is the same number everywhere. */
double bwi_problem_cost(const bwi_problem *p, const uint8_t *bits);
bool bwi_problem_fits(const bwi_problem *p, double cost);
/* A cost in its unit, "0.15 ms", into text. */
const char *bwi_cost_text(const bwi_problem *p, double cost, char text[64]);
/* BW_ARG when no assignment can fit: the cheapest costs more than the limit, or the dearest less than the least. */
BW_MUST_USE bw_status bwi_problem_check(const bwi_problem *p, bw_error *err);
/* The order of assignments: less error, then less cost, then bits from the first layer on. */
int bwi_problem_compare(const bwi_problem *p, const uint8_t *a, double error_a, const uint8_t *b, double error_b);

/* An assignment that fits, drawn uniformly: by rejection, *tries times at most. When few assignments fit, tries run out; then the last
 * draw is led to the budget layer by layer, and *tries is cut for the draws that follow. False when that fails too. */
#define BWI_DRAW_TRIES (1 << 20)
bool bwi_problem_draw(const bwi_problem *p, bwi_rng *rng, int *tries, uint8_t *bits);
#endif
