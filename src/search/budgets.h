/* Budgets: what an assignment of bit-widths costs, layer by layer. One file in budgets/ and one row of budgets.def each. */
#ifndef BWI_BUDGETS_H
#define BWI_BUDGETS_H
#include "search/candidates.h"
#include "search/search.h"

/* What costs are made of. */
typedef struct bwi_costing {
    const bwi_searched_layer
        *layer; /* [n + n_kept], those that keep their bits last; activation_bits are of the network that will be deployed */
    int n, n_kept, lo, hi;
    /* for costs of the deployed network; NULL where there are none: */
    bw_recipe *recipe;   /* of the network that will be deployed; the searched layers' bits are set by rules */
    const char *classes; /* names of classes as files hold them (BWI_META_CLASSES), or NULL */
    const char *table;   /* file that keeps what was measured, and is taken as it is when it fits the network and the machine */
} bwi_costing;

typedef struct bwi_budget {
    const char *name, *summary, *cite;
    const char *values; /* how a limit is written: "16x (of float), 0.07MB" */
    const char *unit;   /* of costs, as results show them */
    double unit_costs;  /* costs of the problem in one such unit */
    /* Fills problem->cost and limit. value: what follows "name=". */
    bw_status (*cost)(const struct bwi_budget *row, const bwi_costing *c, const char *value, bwi_problem *p, bw_error *err);
} bwi_budget;

const bwi_budget *bwi_budget_at(size_t i); /* NULL past the end */
/* "size=16x": the row, and where the value begins. */
BW_MUST_USE bw_status bwi_budget_parse(const char *text, const bwi_budget **budget, const char **value, bw_error *err);

/* A number above 0 with one of `suffixes` ("x", "kB"), which are separated by blanks, behind it. *suffix: which, from 0. */
BW_MUST_USE bw_status bwi_budget_value(const bwi_budget *b, const char *value, const char *suffixes, double *number,
                                       int *suffix, bw_error *err);
#endif
