#include "search/search.h"
#include <stdio.h>
#include <string.h>

double bwi_problem_cost(const bwi_problem *p, const uint8_t *bits)
{
    double sum = 0;
    for (int i = 0; i < p->n; i++) sum += p->cost[i][bits[i]];
    return sum;
}

bool bwi_problem_fits(const bwi_problem *p, double cost)
{
    return cost <= p->limit && cost >= p->least;
}

const char *bwi_cost_text(const bwi_problem *p, double cost, char text[64])
{
    snprintf(text, 64, "%.6g%s%.30s", p->unit ? cost / p->unit_costs : cost, p->unit ? " " : "", p->unit ? p->unit : "");
    return text;
}

bw_status bwi_problem_check(const bwi_problem *p, bw_error *err)
{
    double cheapest = 0, dearest = 0;
    char one[64], other[64];
    if (p->n < 1 || p->n > BWI_SEARCH_LAYERS)
        return bwi_fail(err, BW_UNSUPPORTED, "the network has %d layers whose bits can be searched; 1 to %d are possible", p->n,
                        BWI_SEARCH_LAYERS);
    for (int i = 0; i < p->n; i++) {
        double low = p->cost[i][p->lo], high = low;
        for (int b = p->lo + 1; b <= p->hi; b++) {
            low = p->cost[i][b] < low ? p->cost[i][b] : low;
            high = p->cost[i][b] > high ? p->cost[i][b] : high;
        }
        cheapest += low;
        dearest += high;
    }
    if (cheapest > p->limit)
        return bwi_fail(err, BW_ARG, "no network of %d to %d bits keeps the budget: the cheapest costs %s, the limit is %s",
                        p->lo, p->hi, bwi_cost_text(p, cheapest, one), bwi_cost_text(p, p->limit, other));
    if (dearest < p->least)
        return bwi_fail(err, BW_ARG,
                        "no network of %d to %d bits costs as much as is asked for at least: the dearest costs %s, at least "
                        "are %s; allow more bits, or less of the budget",
                        p->lo, p->hi, bwi_cost_text(p, dearest, one), bwi_cost_text(p, p->least, other));
    return BW_OK;
}

int bwi_problem_compare(const bwi_problem *p, const uint8_t *a, double error_a, const uint8_t *b, double error_b)
{
    if (error_a != error_b) return error_a < error_b ? -1 : 1;
    const double cost_a = bwi_problem_cost(p, a), cost_b = bwi_problem_cost(p, b);
    if (cost_a != cost_b) return cost_a < cost_b ? -1 : 1;
    return memcmp(a, b, (size_t)p->n);
}

/* Gives random layers random bits that bring the cost nearer, until it fits. */
static bool lead_to_budget(const bwi_problem *p, bwi_rng *rng, uint8_t *bits)
{
    const uint32_t range = (uint32_t)(p->hi - p->lo + 1);
    for (int64_t step = 0; step < 1000 * (int64_t)p->n; step++) {
        const double cost = bwi_problem_cost(p, bits);
        if (bwi_problem_fits(p, cost)) return true;
        const uint32_t i = bwi_rng_below(rng, (uint32_t)p->n);
        const uint8_t to = (uint8_t)(p->lo + (int)bwi_rng_below(rng, range));
        const double change = p->cost[i][to] - p->cost[i][bits[i]];
        if (cost > p->limit ? change < 0 : change > 0) bits[i] = to;
    }
    return false;
}

bool bwi_problem_draw(const bwi_problem *p, bwi_rng *rng, int *tries, uint8_t *bits)
{
    const uint32_t range = (uint32_t)(p->hi - p->lo + 1);
    for (int k = 0; k < *tries; k++) {
        for (int i = 0; i < p->n; i++) bits[i] = (uint8_t)(p->lo + (int)bwi_rng_below(rng, range));
        if (bwi_problem_fits(p, bwi_problem_cost(p, bits))) return true;
    }
    *tries = 1 << 8;
    return lead_to_budget(p, rng, bits);
}
