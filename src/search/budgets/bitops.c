/* Bit operations: for each multiplication of an image the product of both operands' bits; float counts as 32. 16x means a 16th of what the
 * network takes in float, 32 * 32 for each. With float activations they are in proportion to multiplications times weight bits. Layers that
 * keep their bits are a constant, which the first layer carries. */
#include "search/budgets.h"

static double operations(const bwi_searched_layer *l, int bits)
{
    return l->multiplications * bits * (l->activation_bits ? l->activation_bits : 32);
}

static bw_status cost(const bwi_budget *row, const bwi_costing *c, const char *value, bwi_problem *p, bw_error *err)
{
    static const double factor[] = {0, 1e6, 1e9, 1e12};
    double number, multiplications = 0, kept = 0;
    int suffix;
    bw_status st = bwi_budget_value(row, value, "x M G T", &number, &suffix, err);
    if (st) return st;
    for (int i = 0; i < c->n + c->n_kept; i++) {
        multiplications += c->layer[i].multiplications;
        kept += operations(&c->layer[i], c->layer[i].kept);
    }
    for (int i = 0; i < c->n; i++)
        for (int b = c->lo; b <= c->hi; b++) p->cost[i][b] = operations(&c->layer[i], b) + (i ? 0 : kept);
    p->limit = suffix ? number * factor[suffix] : 32 * 32 * multiplications / number;
    return BW_OK;
}

const bwi_budget bwi_budget_bitops = {
    .name = "bitops",
    .summary = "multiplications of an image, each by the bits of weight and activation",
    .cite = "Baskin et al. 2021, UNIQ, for the measure",
    .values = "16x (a 16th of float), 350M, 1.2G",
    .unit = "G bit operations",
    .unit_costs = 1e9,
    .cost = cost,
};
