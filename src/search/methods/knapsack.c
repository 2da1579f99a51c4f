/* Exact search over sensitivities: the assignment whose losses add up to the least under the budget, a knapsack problem with several choices
 * for each layer. Layer by layer, all states (cost, loss) are kept that some later choice could make the best: of two states the one with
 * more cost and more loss is dropped, unless only it can reach a lower bound of the cost. One evaluation, of what comes out. */
#include "search/methods.h"
#include "search/sensitivity.h"
#include "base/alloc.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STATES = 1 << 22 }; /* of a layer, before they are thinned out */

/* A choice of bits for the layers up to here. */
typedef struct state {
    double cost, loss;
    int from; /* state of the layer before */
    uint8_t bits;
} state;

typedef struct step {
    int from;
    uint8_t bits;
} step;

typedef struct table {
    const bwi_problem *p;
    step *step[BWI_SEARCH_LAYERS]; /* how each kept state of a layer came about */
    state *now, *next;
    int n_now, n_next, layer;
    double low[BWI_SEARCH_LAYERS + 1], high[BWI_SEARCH_LAYERS + 1]; /* cost of all layers from here on, least and most */
} table;

/* Bits of the layers up to `layer` that lead to a state whose last step is (from, bits). */
static void trace(const table *t, int layer, int from, uint8_t last, uint8_t *bits)
{
    for (bits[layer] = last; layer-- > 0; from = t->step[layer][from].from) bits[layer] = t->step[layer][from].bits;
}

static _Thread_local const table *sorting; /* qsort has no place for it */
static int by_cost(const void *a_, const void *b_)
{
    const state *a = a_, *b = b_;
    uint8_t one[BWI_SEARCH_LAYERS], other[BWI_SEARCH_LAYERS];
    if (a->cost != b->cost) return a->cost < b->cost ? -1 : 1;
    if (a->loss != b->loss) return a->loss < b->loss ? -1 : 1;
    trace(sorting, sorting->layer, a->from, a->bits, one);
    trace(sorting, sorting->layer, b->from, b->bits, other);
    return memcmp(one, other, (size_t)sorting->layer + 1);
}

/* Drops states that another one makes needless. Sorted by cost, a state survives when its loss is below that of every state before it that
 * may stand in for it: one that reaches the lower bound whatever follows, or one of the same cost. */
static void thin_out(table *t)
{
    double least_loss = INFINITY;
    int kept = 0;
    sorting = t;
    qsort(t->next, (size_t)t->n_next, sizeof *t->next, by_cost);
    for (int i = 0; i < t->n_next; i++) {
        const state s = t->next[i];
        if (s.loss >= least_loss || (kept && t->next[kept - 1].cost == s.cost)) continue;
        if (s.cost + t->low[t->layer + 1] >= t->p->least) least_loss = s.loss;
        t->next[kept++] = s;
    }
    t->n_next = kept;
}

/* Adds the layer's choices to every state. */
static bw_status extend(table *t, const double *loss, bw_error *err)
{
    const bwi_problem *p = t->p;
    const int range = p->hi - p->lo + 1;
    t->next = bwi_malloc((size_t)t->n_now * (size_t)range * sizeof *t->next);
    if (!t->next) return bwi_fail(err, BW_NOMEM, "no memory for %d states of the knapsack", t->n_now * range);
    t->n_next = 0;
    for (int i = 0; i < t->n_now; i++)
        for (int b = p->lo; b <= p->hi; b++) {
            const double cost = t->now[i].cost + p->cost[t->layer][b];
            if (cost + t->low[t->layer + 1] > p->limit || cost + t->high[t->layer + 1] < p->least) continue;
            t->next[t->n_next++] = (state){cost, t->now[i].loss + loss[b], i, (uint8_t)b};
        }
    if (!t->n_next) return bwi_fail(err, BW_ARG, "no assignment keeps the budget");
    thin_out(t);
    if (t->n_next > MOST_STATES / range)
        return bwi_fail(err, BW_UNSUPPORTED, "the knapsack has more than %d states; take another way of searching",
                        MOST_STATES / range);
    return BW_OK;
}

static bw_status remember(table *t, bw_error *err)
{
    step *to = t->step[t->layer] = bwi_malloc((size_t)t->n_next * sizeof *to);
    if (!to) return bwi_fail(err, BW_NOMEM, "no memory for %d states of the knapsack", t->n_next);
    for (int i = 0; i < t->n_next; i++) to[i] = (step){t->next[i].from, t->next[i].bits};
    bwi_free(t->now);
    t->now = t->next;
    t->n_now = t->n_next;
    t->next = NULL;
    return BW_OK;
}

/* What the layers from i on cost at least and at most, a hair's breadth wider than the sums, whose roundings differ. */
static void bounds(table *t)
{
    const bwi_problem *p = t->p;
    for (int i = p->n - 1; i >= 0; i--) {
        double low = p->cost[i][p->lo], high = low;
        for (int b = p->lo + 1; b <= p->hi; b++) {
            low = p->cost[i][b] < low ? p->cost[i][b] : low;
            high = p->cost[i][b] > high ? p->cost[i][b] : high;
        }
        t->low[i] = t->low[i + 1] + low;
        t->high[i] = t->high[i + 1] + high;
    }
    for (int i = 0; i < p->n; i++) {
        t->low[i] -= 1e-12 * fabs(p->limit);
        t->high[i] += 1e-12 * fabs(p->limit);
    }
}

bw_status bwi_knapsack(const bwi_problem *p, const bwi_loss *loss, uint8_t *bits, bw_error *err)
{
    bw_status st;
    int best = 0;
    table *t = bwi_calloc(1, sizeof *t);
    if (!t || !(t->now = bwi_calloc(1, sizeof *t->now))) {
        bwi_free(t);
        return bwi_fail(err, BW_NOMEM, "no memory for a knapsack");
    }
    t->p = p;
    t->n_now = 1;
    bounds(t);
    for (t->layer = 0; t->layer < p->n; t->layer++) {
        BWI_TRY(extend(t, loss[t->layer], err));
        BWI_TRY(remember(t, err));
    }
    for (int i = 1; i < t->n_now; i++) /* sorted by cost, so that the first of equal ones is the cheapest */
        if (t->now[i].loss < t->now[best].loss) best = i;
    trace(t, p->n - 1, t->now[best].from, t->now[best].bits, bits);
    st = BW_OK;
fail:
    for (int i = 0; i < p->n; i++) bwi_free(t->step[i]);
    bwi_free(t->now);
    bwi_free(t->next);
    bwi_free(t);
    return st;
}

static int evaluations(const double *opt)
{
    (void)opt;
    return 1;
}

static bw_status run(bwi_trials *t, const double *opt, bw_error *err)
{
    uint8_t bits[BWI_SEARCH_LAYERS];
    bwi_loss *loss = NULL;
    bw_status st;
    (void)opt;
    BWI_TRY(bwi_loss_of(&loss, t->problem, err));
    BWI_TRY(bwi_knapsack(t->problem, loss, bits, err));
    BWI_TRY(bwi_trials_run(t, bits, 1, true, err));
    st = bwi_trials_generation(t, err);
fail:
    bwi_free(loss);
    return st;
}

const bwi_method bwi_method_knapsack = {
    .name = "knapsack",
    .summary = "least sum of expected losses under the budget, exactly",
    .cite = "Hessian-weighted errors as in Dong et al. 2020, HAWQ-V2; Nemhauser and Ullmann 1969 for the states",
    .evaluations = evaluations,
    .run = run,
};
