/* Genetic search, with the numbers of MetaPruning's, which the hybrid paper uses (methods 4.5):
 *
 *   An archive keeps the best assignments of all generations. The first generation is random. Each later one is made of mutations of
 *   random ones of the archive's first `parents`, in which each layer changes with a probability of .1 to another of the n bit-widths,
 *   bits + U{1..n-1} modulo n; of crossovers of two different parents, each layer from either with 1/2; and of random ones for the rest.
 *   At most 10 tries for each mutation and crossover that is wanted; whatever breaks the budget or was seen before is dropped.
 *
 * Beyond the paper, the knapsack's assignment may be one of the first generation. */
#include "search/methods.h"
#include "search/sensitivity.h"
#include "base/alloc.h"
#include <string.h>

enum { POPULATION, PARENTS, MUTATIONS, CROSSOVERS, GENERATIONS, PROBABILITY, KNAPSACK };
enum { ROUNDS = 10, MOST = 1000 };
enum { KEY_RANDOM, KEY_MUTATION, KEY_CROSSOVER }; /* purposes of draws within a generation */

typedef struct brood {
    bwi_trials *t;
    const bwi_problem *p;
    const double *opt;
    int generation, tries;
    uint8_t *bits; /* [population][n] */
    int n;
} brood;

static bwi_rng rng_of(const brood *b, int purpose)
{
    return bwi_rng_make(b->p->seed, BWI_RNG_SEARCH, (uint64_t)b->generation, (uint64_t)purpose);
}

/* Whether the assignment behind the last one may stay, and then keeps it. */
static bool keep(brood *b)
{
    const size_t n = (size_t)b->p->n;
    const uint8_t *bits = b->bits + (size_t)b->n * n;
    if (!bwi_problem_fits(b->p, bwi_problem_cost(b->p, bits)) || bwi_trials_seen(b->t, bits)) return false;
    for (int i = 0; i < b->n; i++)
        if (!memcmp(b->bits + (size_t)i * n, bits, n)) return false;
    b->n++;
    return true;
}

static int parents(const brood *b)
{
    const int most = (int)b->opt[PARENTS];
    return b->t->archived < most ? b->t->archived : most;
}

static void mutate(brood *b)
{
    bwi_rng rng = rng_of(b, KEY_MUTATION);
    const int wanted = (int)b->opt[MUTATIONS], range = b->p->hi - b->p->lo + 1, n_parents = parents(b);
    for (int k = 0, made = 0; k < ROUNDS * wanted && made < wanted && b->n < (int)b->opt[POPULATION]; k++) {
        uint8_t *to = b->bits + (size_t)b->n * (size_t)b->p->n;
        memcpy(to, bwi_trials_best(b->t, (int)bwi_rng_below(&rng, (uint32_t)n_parents))->bits, (size_t)b->p->n);
        for (int i = 0; i < b->p->n && range > 1; i++)
            if (bwi_rng_uniform(&rng) < b->opt[PROBABILITY])
                to[i] = (uint8_t)(b->p->lo + (to[i] - b->p->lo + 1 + (int)bwi_rng_below(&rng, (uint32_t)range - 1)) % range);
        made += keep(b);
    }
}

static void cross(brood *b)
{
    bwi_rng rng = rng_of(b, KEY_CROSSOVER);
    const int wanted = (int)b->opt[CROSSOVERS], n_parents = parents(b);
    for (int k = 0, made = 0; n_parents > 1 && k < ROUNDS * wanted && made < wanted && b->n < (int)b->opt[POPULATION]; k++) {
        uint8_t *to = b->bits + (size_t)b->n * (size_t)b->p->n;
        const uint32_t one = bwi_rng_below(&rng, (uint32_t)n_parents), other = bwi_rng_below(&rng, (uint32_t)n_parents - 1);
        const bwi_trial *parent[2] = {bwi_trials_best(b->t, (int)one), bwi_trials_best(b->t, (int)(other + (other >= one)))};
        for (int i = 0; i < b->p->n; i++) to[i] = parent[bwi_rng_below(&rng, 2)]->bits[i];
        made += keep(b);
    }
}

/* Random ones; fewer when there are hardly any left that were not seen. */
static void fill(brood *b)
{
    bwi_rng rng = rng_of(b, KEY_RANDOM);
    for (int dropped = 0; b->n < (int)b->opt[POPULATION] && dropped < 10 * (int)b->opt[POPULATION];)
        if (!bwi_problem_draw(b->p, &rng, &b->tries, b->bits + (size_t)b->n * (size_t)b->p->n) || !keep(b)) dropped++;
}

static bw_status add_knapsack(brood *b, bw_error *err)
{
    bwi_loss *loss = NULL;
    bw_status st;
    BWI_TRY(bwi_loss_of(&loss, b->p, err));
    BWI_TRY(bwi_knapsack(b->p, loss, b->bits, err));
    keep(b);
fail:
    bwi_free(loss);
    return st;
}

static int evaluations(const double *opt)
{
    return (int)(opt[POPULATION] * opt[GENERATIONS]);
}

static bw_status run(bwi_trials *t, const double *opt, bw_error *err)
{
    brood b = {.t = t, .p = t->problem, .opt = opt, .tries = BWI_DRAW_TRIES};
    bw_status st = BW_OK;
    b.bits = bwi_malloc(((size_t)opt[POPULATION] + 1) * (size_t)b.p->n);
    if (!b.bits) return bwi_fail(err, BW_NOMEM, "no memory for a generation");
    for (b.generation = 0; b.generation < (int)opt[GENERATIONS]; b.generation++) {
        b.n = 0;
        if (t->archived) {
            mutate(&b);
            cross(&b);
        } else if (opt[KNAPSACK] != 0)
            BWI_TRY(add_knapsack(&b, err));
        fill(&b);
        if (!b.n) break; /* everything that fits was seen */
        BWI_TRY(bwi_trials_run(t, b.bits, b.n, true, err));
        BWI_TRY(bwi_trials_generation(t, err));
    }
fail:
    bwi_free(b.bits);
    return st;
}

const bwi_method bwi_method_genetic = {
    .name = "genetic",
    .summary = "genetic search: mutations and crossovers of the best",
    .cite =
        "Wang et al. 2020, Automatic low-bit hybrid quantization of neural networks through meta learning; numbers of Liu et "
        "al. 2019, MetaPruning",
    .option =
        {{.key = "population", .doc = "assignments of a generation", .def = 50, .min = 1, .max = MOST, .integer = true},
         {.key = "parents", .doc = "best ones that children are made of", .def = 10, .min = 1, .max = MOST, .integer = true},
         {.key = "mutations", .doc = "in a generation", .def = 25, .min = 0, .max = MOST, .integer = true},
         {.key = "crossovers", .doc = "in a generation", .def = 25, .min = 0, .max = MOST, .integer = true},
         {.key = "generations", .doc = "the random first one included", .def = 20, .min = 1, .max = MOST, .integer = true},
         {.key = "probability", .doc = "of a layer's change in a mutation", .def = 0.1, .min = 0, .max = 1},
         {.key = "knapsack",
          .doc = "1: the knapsack's assignment is in the first generation",
          .def = 0,
          .min = 0,
          .max = 1,
          .integer = true}},
    .evaluations = evaluations,
    .run = run,
};
