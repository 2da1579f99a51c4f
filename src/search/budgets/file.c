/* File: bytes of the packed file that `export` writes. Codes take numel * q bits, rounded up to bytes, a layer; everything else (batch norms,
 * scales, names) is a constant, which the first layer carries: the size of the file with all layers at the fewest bits, less their codes. So a
 * prediction may be off by what the header's numbers need, some bytes. */
#include "search/budgets.h"
#include "search/policy.h"
#include "search/untrained.h"
#include <math.h>
#include <string.h>

static double codes(const bwi_searched_layer *layer, int bits)
{
    return ceil(layer->weights * bits / 8);
}

static bw_status at_fewest(size_t *bytes, const bwi_costing *c, bw_error *err)
{
    uint8_t all[BWI_SEARCH_LAYERS];
    bw_recipe *r = NULL;
    bw_status st;
    memset(all, c->lo, sizeof all);
    BWI_TRY(bwi_recipe_copy(&r, c->recipe, err));
    BWI_TRY(bwi_recipe_set_bits(r, c->layer, all, c->n, err));
    BWI_TRY(bwi_packed_bytes(bytes, r, c->classes, err));
fail:
    bw_recipe_destroy(&r);
    return st ? bwi_fail_in(err, st, "budget file") : BW_OK;
}

static bw_status cost(const bwi_budget *row, const bwi_costing *c, const char *value, bwi_problem *p, bw_error *err)
{
    static const double bytes_of[] = {1, 1e3, 1e6};
    double number, rest;
    int suffix;
    size_t bytes;
    bw_status st;
    BWI_TRY(bwi_budget_value(row, value, "B kB MB", &number, &suffix, err));
    BWI_TRY(at_fewest(&bytes, c, err));
    rest = (double)bytes;
    for (int i = 0; i < c->n; i++) rest -= codes(&c->layer[i], c->lo);
    for (int i = 0; i < c->n; i++)
        for (int b = c->lo; b <= c->hi; b++) p->cost[i][b] = codes(&c->layer[i], b) + (i ? 0 : rest);
    p->limit = number * bytes_of[suffix];
fail:
    return st;
}

const bwi_budget bwi_budget_file = {
    .name = "file",
    .summary = "bytes of the packed file, batch norms, scales and names included",
    .cite = "",
    .values = "70kB, 71680B, 0.07MB",
    .unit = "kB",
    .unit_costs = 1e3,
    .cost = cost,
};
