/* Search: which bit-width each layer gets under a budget. One file and one row of methods.def a way of searching, one of budgets.def a kind of
 * cost. What is searched is a problem of numbers; what an assignment is worth, candidates.h finds out. */
#ifndef BWI_SEARCH_H
#define BWI_SEARCH_H
#include "base/status.h"

#define BWI_SEARCH_LAYERS 256 /* most layers */
#define BWI_SEARCH_BITS   8   /* bit-widths 1..8 */

/* bits: [n] one byte a layer, each from lo to hi. Costs add up over layers. Errors are top-1 errors in percent: smaller is better. */
typedef struct bwi_problem {
    int n, lo, hi;
    double cost[BWI_SEARCH_LAYERS][BWI_SEARCH_BITS + 1]; /* [layer][bits] */
    double limit, least;                                 /* of an assignment's cost, inclusive; least 0: none */
    uint64_t seed;
    void *context; /* of what follows */
    /* Errors of `count` assignments, bits [count][n]; the same numbers whatever count and threads are. */
    bw_status (*evaluate)(void *context, const uint8_t *bits, int count, double *error, bw_error *err);
    /* loss [n][BWI_SEARCH_BITS + 1]: what a layer alone is expected to add to the loss at each of its bit-widths (Hessian-weighted error). */
    bw_status (*sensitivity)(void *context, double (*loss)[BWI_SEARCH_BITS + 1], bw_error *err);
} bwi_problem;
#endif
