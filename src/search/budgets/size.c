/* Size: bits of all weights of convolutions and linear layers. 16x means a 16th of what they take in float, sum numel * q <= 32 * sum numel / 16
 * (methods 4.5). Batch norms, biases and scales, less than .6 % of the paper's networks, are left out. Layers that keep their bits are a
 * constant, which the first layer carries. */
#include "search/budgets.h"

static bw_status cost(const bwi_budget *row, const bwi_costing *c, const char *value, bwi_problem *p, bw_error *err)
{
    static const double bits_of[] = {0, 8, 8e3, 8e6};
    double number, weights = 0, kept = 0;
    int suffix;
    bw_status st = bwi_budget_value(row, value, "x B kB MB", &number, &suffix, err);
    if (st) return st;
    for (int i = 0; i < c->n + c->n_kept; i++) {
        weights += c->layer[i].weights;
        kept += c->layer[i].weights * c->layer[i].kept;
    }
    for (int i = 0; i < c->n; i++)
        for (int b = c->lo; b <= c->hi; b++) p->cost[i][b] = c->layer[i].weights * b + (i ? 0 : kept);
    p->limit = suffix ? number * bits_of[suffix] : 32 * weights / number;
    return BW_OK;
}

const bwi_budget bwi_budget_size = {
    .name = "size",
    .summary = "bits of all weights that are quantized",
    .cite = "Wang et al. 2020",
    .values = "16x (a 16th of float), 67.5kB, 0.0675MB",
    .unit = "kB",
    .unit_costs = 8e3,
    .cost = cost,
};
