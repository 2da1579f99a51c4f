/* Ways of searching, on problems of numbers with a known best, and what they share: drawing under a budget, the file of evaluations, resuming. */
#include "base/alloc.h"
#include "base/file.h"
#include "base/par.h"
#include "search/budgets.h"
#include "search/methods.h"
#include "search/policy.h"
#include "search/sensitivity.h"
#include "folder.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- A problem whose errors are the distance from a best assignment ------------------------------------------------------ */

typedef struct made {
    bwi_problem p;
    uint8_t best[BWI_SEARCH_LAYERS];
    int calls, evaluated;
} made;

/* Error: squares of the distances, weighted by layer, so that it has one minimum. */
static double error_of(const made *m, const uint8_t *bits)
{
    double sum = 0;
    for (int i = 0; i < m->p.n; i++) {
        const double d = (double)bits[i] - m->best[i];
        sum += (1 + i % 3) * d * d;
    }
    return sum;
}

static bw_status evaluate(void *context, const uint8_t *bits, int count, double *error, bw_error *err)
{
    made *m = context;
    (void)err;
    m->calls++;
    m->evaluated += count;
    for (int i = 0; i < count; i++) error[i] = error_of(m, bits + (size_t)i * (size_t)m->p.n);
    return BW_OK;
}

/* Loss of a layer: falls by the number of bits, more for later layers. */
static bw_status sensitivity(void *context, double (*loss)[BWI_SEARCH_BITS + 1], bw_error *err)
{
    const made *m = context;
    (void)err;
    for (int i = 0; i < m->p.n; i++)
        for (int b = m->p.lo; b <= m->p.hi; b++) loss[i][b] = (i + 1) * pow(4, -b);
    return BW_OK;
}

/* Weights of layers 1, 2, 3 ..; the budget is what `best` costs times `room`. */
static void make(made *m, int n, int lo, int hi, double room)
{
    *m = (made){.p = {.n = n, .lo = lo, .hi = hi, .seed = 7, .evaluate = evaluate, .sensitivity = sensitivity}};
    m->p.context = m;
    for (int i = 0; i < n; i++) {
        for (int b = lo; b <= hi; b++) m->p.cost[i][b] = (i + 1) * b;
        m->best[i] = (uint8_t)(lo + (i * 5 + 2) % (hi - lo + 1));
    }
    m->p.limit = floor(room * bwi_problem_cost(&m->p, m->best));
}

static json_t *key_of(int seed)
{
    return json_pack("{s:i, s:s}", "seed", seed, "budget", "size=16x");
}

static bw_status open_trials(bwi_trials *t, const made *m, const char *path, int seed, bool resume, bw_error *err)
{
    json_t *key = key_of(seed);
    const bw_status st = bwi_trials_open(t, &m->p, path, key, resume, 50, err);
    json_decref(key);
    return st;
}

/* A whole search in memory. */
static void search(bwi_trials *t, const made *m, const char *method)
{
    const bwi_method *way;
    double opt[BWI_OPTIONS];
    bw_error err;
    assert_int_equal(bwi_method_parse(method, &way, opt, &err), BW_OK);
    assert_int_equal(open_trials(t, m, NULL, 1, false, &err), BW_OK);
    assert_int_equal(way->run(t, opt, &err), BW_OK);
    assert_true(t->archived > 0);
    for (int i = 0; i < t->archived; i++)
        assert_true(bwi_problem_fits(&m->p, bwi_problem_cost(&m->p, bwi_trials_best(t, i)->bits)));
}

/* ---- Problems ------------------------------------------------------------------------------------------------------------ */

static void test_budget_that_cannot_be_met(void **state)
{
    made m;
    bw_error err;
    (void)state;
    make(&m, 4, 2, 5, 1);
    assert_int_equal(bwi_problem_check(&m.p, &err), BW_OK);
    m.p.limit = 19; /* the cheapest costs 2 * (1 + 2 + 3 + 4) */
    assert_int_equal(bwi_problem_check(&m.p, &err), BW_ARG);
    assert_string_equal(err.msg, "no network of 2 to 5 bits keeps the budget: the cheapest costs 20, the limit is 19");
    m.p.limit = 20;
    assert_int_equal(bwi_problem_check(&m.p, &err), BW_OK);
    m.p.limit = 100, m.p.least = 51;
    assert_int_equal(bwi_problem_check(&m.p, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "the dearest costs 50, at least are 51"));
}

/* Draws fit, are uniform among those that fit, and are led to a budget that rejection hardly ever meets. */
static void test_draws(void **state)
{
    made m;
    uint8_t bits[BWI_SEARCH_LAYERS];
    int tries = BWI_DRAW_TRIES, seen[2][3] = {{0}};
    (void)state;
    make(&m, 2, 1, 3, 1);
    m.p.limit = 5; /* b0 + 2 b1 <= 5: (1,1) (2,1) (3,1) (1,2) */
    bwi_rng rng = bwi_rng_make(1, BWI_RNG_TEST, 0, 0);
    for (int i = 0; i < 4000; i++) {
        assert_true(bwi_problem_draw(&m.p, &rng, &tries, bits));
        assert_true(bits[0] + 2 * bits[1] <= 5);
        seen[bits[1] - 1][bits[0] - 1]++;
    }
    for (int i = 0; i < 3; i++) assert_in_range(seen[0][i], 850, 1150);
    assert_in_range(seen[1][0], 850, 1150);

    make(&m, 60, 1, 8, 1);
    double cheapest = 0;
    for (int i = 0; i < 60; i++) cheapest += m.p.cost[i][1];
    m.p.limit = cheapest + 3; /* a handful of 8^60 */
    m.p.least = cheapest + 1;
    tries = 1000;
    for (int i = 0; i < 20; i++) {
        assert_true(bwi_problem_draw(&m.p, &rng, &tries, bits));
        assert_true(bwi_problem_fits(&m.p, bwi_problem_cost(&m.p, bits)));
    }
    assert_true(tries < 1000);
    for (int i = 0; i < 60; i++)
        for (int b = 1; b <= 8; b++) m.p.cost[i][b] = 10 * b; /* nothing costs between 601 and 603 */
    m.p.limit = 603, m.p.least = 601;
    assert_false(bwi_problem_draw(&m.p, &rng, &tries, bits));
}

/* ---- Ways of searching --------------------------------------------------------------------------------------------------- */

static void test_rows(void **state)
{
    const bwi_method *method;
    double opt[BWI_OPTIONS];
    bw_error err;
    (void)state;
    assert_int_equal(bwi_method_parse("genetic:population=20,probability=0.3", &method, opt, &err), BW_OK);
    assert_string_equal(method->name, "genetic");
    assert_true(opt[0] == 20 && opt[1] == 10 && opt[2] == 25 && opt[3] == 25 && opt[4] == 20 && opt[5] == 0.3);
    assert_int_equal(method->evaluations(opt), 400);
    assert_int_equal(bwi_method_parse("genetc", &method, opt, &err), BW_ARG);
    assert_string_equal(err.msg,
                        "unknown way of searching 'genetc': did you mean 'genetic'? Known: genetic, random, greedy, knapsack");
    assert_int_equal(bwi_method_parse("genetic:populaton=3", &method, opt, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "did you mean 'population'"));
    assert_int_equal(bwi_method_parse("genetic:probability=2", &method, opt, &err), BW_ARG);
    assert_int_equal(bwi_method_parse("greedy:x=2", &method, opt, &err), BW_ARG);
}

/* The genetic search finds the best of a problem with one minimum, with exactly the evaluations that it announces, and random search with as many
 * does not come near. */
static void test_genetic_finds_the_best(void **state)
{
    made m, n;
    bwi_trials t, u;
    (void)state;
    make(&m, 12, 1, 5, 1.1);
    search(&t, &m, "genetic:generations=60");
    assert_int_equal(t.asked, 3000);
    assert_int_equal(m.evaluated, 3000);
    assert_int_equal(t.generations, 60);
    assert_int_equal(t.archived, 50);
    assert_true(t.generation[0].best > 10);
    assert_true(bwi_trials_best(&t, 0)->error == 0);
    assert_memory_equal(bwi_trials_best(&t, 0)->bits, m.best, 12);
    for (int i = 1; i < t.generations; i++) assert_true(t.generation[i].best <= t.generation[i - 1].best);
    make(&n, 12, 1, 5, 1.1);
    search(&u, &n, "random:evaluations=3000");
    assert_int_equal(u.asked, 3000);
    assert_true(bwi_trials_best(&u, 0)->error > 3);
    bwi_trials_close(&t);
    bwi_trials_close(&u);
}

/* The first generation is random but for the knapsack's assignment, where that is asked for. */
static void test_genetic_with_knapsack(void **state)
{
    made m;
    bwi_trials t;
    bw_error err;
    bwi_loss loss[12];
    uint8_t bits[12];
    (void)state;
    make(&m, 12, 1, 5, 1.1);
    assert_int_equal(sensitivity(&m, loss, &err), BW_OK);
    assert_int_equal(bwi_knapsack(&m.p, loss, bits, &err), BW_OK);
    for (int with = 0; with < 2; with++) {
        search(&t, &m, with ? "genetic:generations=1,population=20,knapsack=1" : "genetic:generations=1,population=20");
        assert_int_equal(t.asked, 20);
        assert_int_equal(bwi_trials_seen(&t, bits), with);
        bwi_trials_close(&t);
    }
}

/* Nothing is evaluated twice, and a space smaller than a population is gone through once. */
static void test_small_space(void **state)
{
    static const char *const ways[] = {"genetic", "random"};
    (void)state;
    for (size_t w = 0; w < COUNT(ways); w++) {
        made m;
        bwi_trials t;
        make(&m, 2, 1, 3, 1);
        m.p.limit = 5;
        search(&t, &m, ways[w]);
        assert_int_equal(m.evaluated, 4);
        assert_int_equal(t.archived, 4);
        for (int i = 1; i < 4; i++)
            assert_true(bwi_problem_compare(&m.p, bwi_trials_best(&t, i - 1)->bits, bwi_trials_best(&t, i - 1)->error,
                                            bwi_trials_best(&t, i)->bits, bwi_trials_best(&t, i)->error) < 0);
        bwi_trials_close(&t);
    }
}

/* Ties: less cost first, then fewer bits from the first layer on. */
static void test_ties(void **state)
{
    made m;
    (void)state;
    make(&m, 3, 1, 4, 1);
    const uint8_t a[] = {1, 1, 2}, b[] = {1, 2, 2}, c[] = {3, 2, 1}, d[] = {2, 1, 2};
    assert_true(bwi_problem_compare(&m.p, a, 1, b, 1) < 0);   /* costs 9 and 11 */
    assert_true(bwi_problem_compare(&m.p, b, 0.5, a, 1) < 0); /* error before cost */
    assert_true(bwi_problem_compare(&m.p, d, 1, c, 1) < 0);   /* 10 and 10 */
    assert_true(bwi_problem_compare(&m.p, c, 1, c, 1) == 0);
}

/* Lowers by the least loss for what it saves; by hand: costs b, 2b, 3b; losses (i + 1) 4^-b, so every layer has the same rate and the first
 * goes down first; from (3,3,3), 18, to 15: layer 1 to 2, then all rates of 3 -> 2 are below that of 2 -> 1. */
static void test_greedy(void **state)
{
    made m;
    bwi_trials t;
    (void)state;
    make(&m, 3, 1, 3, 1);
    m.p.limit = 15;
    search(&t, &m, "greedy");
    assert_int_equal(m.evaluated, 1);
    assert_memory_equal(bwi_trials_best(&t, 0)->bits, ((const uint8_t[]){2, 2, 3}), 3);
    bwi_trials_close(&t);
    /* a step on which one bit less saves nothing is jumped over */
    m.p.cost[1][2] = m.p.cost[1][3] = 6, m.p.cost[1][1] = 1;
    m.p.cost[0][1] = m.p.cost[0][2] = m.p.cost[0][3] = 1;
    m.p.cost[2][1] = m.p.cost[2][2] = m.p.cost[2][3] = 1;
    m.p.limit = 4;
    search(&t, &m, "greedy");
    assert_memory_equal(bwi_trials_best(&t, 0)->bits, ((const uint8_t[]){3, 1, 3}), 3);
    bwi_trials_close(&t);
}

/* The knapsack against all assignments of small problems, costs whole or not, rising with bits or not, with and without a lower bound. */
static void test_knapsack(void **state)
{
    int met = 0, tied = 0;
    (void)state;
    for (int k = 0; k < 400; k++) {
        made m;
        bw_error err;
        double loss[6][BWI_SEARCH_BITS + 1];
        uint8_t bits[BWI_SEARCH_LAYERS], best[6], now[6];
        bwi_rng rng = bwi_rng_make(3, BWI_RNG_TEST, (uint64_t)k, 0);
        const int n = 1 + (int)bwi_rng_below(&rng, 6), lo = 1 + (int)bwi_rng_below(&rng, 3),
                  hi = lo + (int)bwi_rng_below(&rng, 4);
        make(&m, n, lo, hi, 1);
        double least_loss = INFINITY, total = 1, mean = 0;
        for (int i = 0; i < n; i++) {
            for (int b = lo; b <= hi; b++) {
                m.p.cost[i][b] = k % 2 ? 1 + bwi_rng_below(&rng, 9) : 10 * bwi_rng_uniform(&rng);
                loss[i][b] = k % 4 > 1 ? bwi_rng_below(&rng, 4) : bwi_rng_uniform(&rng);
                mean += m.p.cost[i][b] / (hi - lo + 1);
            }
            total *= hi - lo + 1;
        }
        m.p.limit = mean * (0.5 + 0.7 * bwi_rng_uniform(&rng));
        m.p.least = k % 3 ? 0 : 0.8 * m.p.limit;
        int same = 0;
        for (int code = 0; code < (int)total; code++) {
            double sum = 0;
            for (int i = 0, rest = code; i < n; i++, rest /= hi - lo + 1) now[i] = (uint8_t)(lo + rest % (hi - lo + 1));
            for (int i = 0; i < n; i++) sum += loss[i][now[i]];
            if (!bwi_problem_fits(&m.p, bwi_problem_cost(&m.p, now))) continue;
            same = sum < least_loss ? 0 : same + (sum == least_loss);
            if (least_loss < INFINITY && bwi_problem_compare(&m.p, now, sum, best, least_loss) > 0) continue;
            least_loss = sum;
            memcpy(best, now, sizeof best);
        }
        const bw_status st = bwi_knapsack(&m.p, loss, bits, &err);
        assert_int_equal(st, least_loss < INFINITY ? BW_OK : BW_ARG);
        if (st) continue;
        assert_memory_equal(bits, best, (size_t)n);
        met++;
        tied += same > 0;
    }
    assert_true(met > 200 && tied > 20); /* it was worth it */
}

/* A budget of a real size: 20 layers of ResNet-20 and 8 bit-widths, against the greedy way. */
static void test_knapsack_beats_greedy(void **state)
{
    static const int weights[20] = {432,  2304, 2304, 2304,  2304,  2304,  2304,  4608,  9216,  9216,
                                    9216, 9216, 9216, 18432, 36864, 36864, 36864, 36864, 36864, 640};
    made m;
    bwi_trials greedy, exact;
    double opt[BWI_OPTIONS] = {0}, loss[20][BWI_SEARCH_BITS + 1], sum[2] = {0};
    uint8_t bits[BWI_SEARCH_LAYERS];
    bw_error err;
    (void)state, (void)opt;
    make(&m, 20, 1, 8, 1);
    double all = 0;
    for (int i = 0; i < 20; i++) {
        all += weights[i];
        for (int b = 1; b <= 8; b++) m.p.cost[i][b] = weights[i] * b;
    }
    m.p.limit = floor(32 * all / 16);
    search(&greedy, &m, "greedy");
    search(&exact, &m, "knapsack");
    assert_int_equal(sensitivity(&m, loss, &err), BW_OK);
    assert_int_equal(bwi_knapsack(&m.p, loss, bits, &err), BW_OK);
    assert_memory_equal(bits, bwi_trials_best(&exact, 0)->bits, 20);
    for (int i = 0; i < 20; i++) {
        sum[0] += loss[i][bwi_trials_best(&greedy, 0)->bits[i]];
        sum[1] += loss[i][bits[i]];
    }
    assert_true(sum[1] < sum[0]);
    bwi_trials_close(&greedy);
    bwi_trials_close(&exact);
}

static void assert_same_history(const bwi_trials *a, const bwi_trials *b)
{
    assert_int_equal(a->generations, b->generations);
    for (int i = 0; i < a->generations; i++) {
        const bwi_generation *x = &a->generation[i], *y = &b->generation[i];
        assert_true(x->evaluations == y->evaluations && x->best == y->best && x->mean == y->mean);
    }
}

/* ---- The same result, whatever happens ------------------------------------------------------------------------------------ */

static void test_threads_do_not_matter(void **state)
{
    bwi_trials t[2];
    (void)state;
    for (int k = 0; k < 2; k++) {
        made m;
        bwi_threads_set(k ? 3 : 1);
        make(&m, 10, 1, 8, 0.9);
        search(&t[k], &m, "genetic:generations=5");
        assert_int_equal(m.calls, k ? 5 * 17 : 250); /* batches of as many as threads */
        t[k].problem = NULL;
    }
    bwi_threads_set(0);
    assert_int_equal(t[0].n, t[1].n);
    for (int i = 0; i < t[0].n; i++) assert_memory_equal(&t[0].trial[i].bits, &t[1].trial[i].bits, 10);
    assert_same_history(&t[0], &t[1]);
    for (int k = 0; k < 2; k++) bwi_trials_close(&t[k]);
}

static bw_status run_in(const char *path, made *m, int seed, bool resume, int stop_after, bwi_trials *t, bw_error *err)
{
    const bwi_method *way;
    double opt[BWI_OPTIONS];
    assert_int_equal(bwi_method_parse("genetic:generations=4,population=20,mutations=8,crossovers=8", &way, opt, err), BW_OK);
    bw_status st = open_trials(t, m, path, seed, resume, err);
    if (st) return st;
    t->stop_after = stop_after;
    return way->run(t, opt, err);
}

static char *contents(const char *path, size_t *size)
{
    bwi_file f;
    assert_int_equal(bwi_file_open(&f, path, NULL), BW_OK);
    char *copy = malloc(f.size + 1);
    memcpy(copy, f.data, f.size);
    copy[f.size] = 0;
    *size = f.size;
    bwi_file_close(&f);
    return copy;
}

/* Stopped after any number of evaluations, with a torn last line or without: the same file and the same archive. */
static void test_resume(void **state)
{
    char whole[400], part[400];
    bwi_trials t, u;
    made m;
    bw_error err;
    size_t size, size2;
    (void)state;
    snprintf(whole, sizeof whole, "%s", in_root("whole.jsonl"));
    snprintf(part, sizeof part, "%s", in_root("part.jsonl"));
    bwi_threads_set(2);
    make(&m, 10, 1, 5, 1);
    assert_int_equal(run_in(whole, &m, 1, false, 0, &t, &err), BW_OK);
    char *want = contents(whole, &size);
    for (int stop = 1; stop < 79; stop += 13) {
        make(&m, 10, 1, 5, 1);
        assert_int_equal(run_in(part, &m, 1, false, stop, &u, &err), BW_INTERRUPTED);
        const int before = m.evaluated;
        assert_in_range(before, stop, stop + 1);
        bwi_trials_close(&u);
        if (stop % 2) {
            FILE *f = fopen(part, "a");
            fputs("{\"bits\":[1,2", f);
            fclose(f);
        }
        assert_int_equal(run_in(part, &m, 1, true, 0, &u, &err), BW_OK);
        assert_int_equal(m.evaluated, 80); /* none twice */
        char *got = contents(part, &size2);
        assert_int_equal(size2, size);
        assert_memory_equal(got, want, size);
        assert_int_equal(u.archived, t.archived);
        for (int i = 0; i < t.archived; i++)
            assert_memory_equal(bwi_trials_best(&u, i)->bits, bwi_trials_best(&t, i)->bits, 10);
        assert_same_history(&u, &t);
        bwi_trials_close(&u);
        free(got);
    }
    /* everything is there already */
    make(&m, 10, 1, 5, 1);
    assert_int_equal(run_in(whole, &m, 1, true, 0, &u, &err), BW_OK);
    assert_int_equal(m.evaluated, 0);
    bwi_trials_close(&u);
    /* not resumed: replaced */
    assert_int_equal(run_in(whole, &m, 1, false, 0, &u, &err), BW_OK);
    assert_int_equal(m.evaluated, 80);
    bwi_trials_close(&u);
    bwi_trials_close(&t);
    free(want);
    bwi_threads_set(0);
}

static void test_other_search_is_refused(void **state)
{
    char path[400];
    bwi_trials t;
    made m;
    bw_error err;
    (void)state;
    snprintf(path, sizeof path, "%s", in_root("other.jsonl"));
    make(&m, 10, 1, 5, 1);
    assert_int_equal(run_in(path, &m, 1, false, 10, &t, &err), BW_INTERRUPTED);
    bwi_trials_close(&t);
    assert_int_equal(run_in(path, &m, 2, true, 0, &t, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "other.jsonl: its evaluations are of another search: seed (was 1, now 2)"));
    FILE *f = fopen(path, "w");
    fputs("hello\nworld\n", f);
    fclose(f);
    assert_int_equal(run_in(path, &m, 1, true, 0, &t, &err), BW_FORMAT);
    f = fopen(path, "w");
    fputs("{\"sea", f); /* killed at once */
    fclose(f);
    assert_int_equal(run_in(path, &m, 1, true, 0, &t, &err), BW_OK);
    bwi_trials_close(&t);
}

typedef struct told {
    int events, last;
    bool stop;
} told;
static bool on_event(void *user, const bw_search_event *e)
{
    told *x = user;
    assert_true(e->evaluations > x->last && e->evaluations <= e->expected && e->best <= e->mean);
    x->events++;
    x->last = e->evaluations;
    return x->stop && e->evaluations >= 30;
}

static void test_events(void **state)
{
    bwi_trials t;
    made m;
    bw_error err;
    told x = {0};
    const bwi_method *way;
    double opt[BWI_OPTIONS];
    (void)state;
    assert_int_equal(bwi_method_parse("random:evaluations=100", &way, opt, &err), BW_OK);
    for (int k = 0; k < 2; k++) {
        x = (told){.stop = k};
        make(&m, 10, 1, 5, 1);
        assert_int_equal(open_trials(&t, &m, NULL, 1, false, &err), BW_OK);
        t.on_event = on_event, t.user = &x, t.total = 100, t.chunk = 7;
        assert_int_equal(way->run(&t, opt, &err), k ? BW_INTERRUPTED : BW_OK);
        assert_int_equal(x.last, k ? 35 : 100);
        assert_int_equal(x.events, k ? 5 : 16);
        bwi_trials_close(&t);
    }
}

/* Only for comparison: known, but neither in the archive nor in the way of a later candidate. */
static void test_references(void **state)
{
    bwi_trials t;
    made m;
    bw_error err;
    (void)state;
    make(&m, 3, 1, 3, 1);
    const uint8_t bits[] = {2, 2, 2};
    assert_int_equal(open_trials(&t, &m, NULL, 1, false, &err), BW_OK);
    assert_true(isnan(bwi_trials_error(&t, bits)));
    assert_int_equal(bwi_trials_run(&t, bits, 1, false, &err), BW_OK);
    assert_int_equal(t.archived, 0);
    assert_false(bwi_trials_seen(&t, bits));
    assert_true(bwi_trials_error(&t, bits) == error_of(&m, bits));
    assert_int_equal(bwi_trials_run(&t, bits, 1, true, &err), BW_OK);
    assert_int_equal(t.archived, 1);
    assert_true(bwi_trials_seen(&t, bits));
    assert_int_equal(m.evaluated, 1);
    bwi_trials_close(&t);
}

static void test_no_memory(void **state)
{
    bool done = false;
    (void)state;
    for (int at = 0; !done; at++) {
        bwi_trials t;
        made m;
        bw_error err;
        const bwi_method *way;
        double opt[BWI_OPTIONS];
        const int64_t before = bwi_alloc_live_blocks();
        make(&m, 5, 1, 4, 1);
        assert_int_equal(bwi_method_parse(at % 2 ? "knapsack" : "genetic:generations=2", &way, opt, &err), BW_OK);
        bwi_alloc_fail_at(at / 2, 0);
        bw_status st = open_trials(&t, &m, NULL, 1, false, &err);
        if (!st) st = way->run(&t, opt, &err);
        done = bwi_alloc_count() <= at / 2 && at % 2;
        bwi_alloc_fail_at(-1, 0);
        assert_int_equal(st, done || (st == BW_OK) ? BW_OK : BW_NOMEM);
        bwi_trials_close(&t);
        assert_int_equal(bwi_alloc_live_blocks(), before);
        assert_true(at < 1000);
    }
}

/* ---- Budgets ------------------------------------------------------------------------------------------------------------- */

static const bwi_searched_layer layers[] = {
    {"conv1", 0, 432, 442368, 8}, {"layer1.0.conv1", 0, 2304, 2359296, 4}, {"linear", 0, 640, 640, 0}};

static bw_status budget(const char *text, bwi_problem *p, bw_error *err)
{
    const bwi_budget *b;
    const char *value;
    const bwi_costing c = {.layer = layers, .n = 3, .lo = 1, .hi = 8};
    *p = (bwi_problem){.n = 3, .lo = 1, .hi = 8};
    const bw_status st = bwi_budget_parse(text, &b, &value, err);
    return st ? st : b->cost(b, &c, value, p, err);
}

static void test_budgets(void **state)
{
    bwi_problem p;
    bw_error err;
    const uint8_t bits[] = {8, 2, 4};
    (void)state;
    assert_int_equal(budget("size=16x", &p, &err), BW_OK);
    assert_true(p.limit == 2 * (432 + 2304 + 640));
    assert_true(bwi_problem_cost(&p, bits) == 432 * 8 + 2304 * 2 + 640 * 4);
    assert_int_equal(budget("size=0.5kB", &p, &err), BW_OK);
    assert_true(p.limit == 4000);
    assert_int_equal(budget("bitops=16x", &p, &err), BW_OK);
    assert_true(p.limit == 64.0 * (442368 + 2359296 + 640));
    assert_true(bwi_problem_cost(&p, bits) == 442368.0 * 8 * 8 + 2359296.0 * 2 * 4 + 640.0 * 4 * 32);
    assert_int_equal(budget("bitops=0.5M", &p, &err), BW_OK);
    assert_true(p.limit == 5e5);
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"sise=16x", "unknown budget 'sise': did you mean 'size'? Known: size, file, bitops, latency"},
        {"size", "budget 'size': the limit is missing; write size=LIMIT, such as 16x (a 16th of float), 67.5kB, 0.0675MB"},
        {"size=", "the limit is missing"},
        {"size=16", "budget size=16: expected a limit such as 16x"},
        {"size=-3x", "expected a limit"},
        {"size=0x", "expected a limit"},
        {"size=1e999x", "expected a limit"},
        {"size=nanx", "expected a limit"},
        {"size=3xx", "expected a limit"},
        {"bitops=3MB", "expected a limit such as 16x (a 16th of float), 350M, 1.2G"},
        {"latency=3", "budget latency=3: expected a limit such as 0.2ms, 150us"}};
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(budget(bad[i].text, &p, &err), BW_ARG);
        if (!strstr(err.msg, bad[i].says)) fail_msg("%s: %s", bad[i].text, err.msg);
    }
}

/* Layers that keep their bits count, whatever the others get. */
static void test_budgets_with_kept_layers(void **state)
{
    static const bwi_searched_layer three[] = {
        {.name = "inner", .weights = 2304, .multiplications = 2359296, .activation_bits = 4},
        {.name = "conv1", .kept = 8, .weights = 432, .multiplications = 442368, .activation_bits = 8},
        {.name = "linear", .kept = 8, .weights = 640, .multiplications = 640}};
    const bwi_costing c = {.layer = three, .n = 1, .n_kept = 2, .lo = 1, .hi = 8};
    const struct {
        const char *text;
        double limit, inner, kept;
    } row[] = {{"size=16x", 2 * (432 + 2304 + 640), 2304, 8 * (432 + 640)},
               {"bitops=16x", 64.0 * (442368 + 2359296 + 640), 4 * 2359296.0, 64 * 442368.0 + 8 * 32 * 640.0}};
    bw_error err;
    (void)state;
    for (int k = 0; k < 2; k++) {
        bwi_problem p = {.n = 1, .lo = 1, .hi = 8};
        const bwi_budget *b;
        const char *value;
        assert_int_equal(bwi_budget_parse(row[k].text, &b, &value, &err), BW_OK);
        assert_int_equal(b->cost(b, &c, value, &p, &err), BW_OK);
        assert_true(p.limit == row[k].limit);
        for (uint8_t q = 1; q <= 8; q++) assert_true(bwi_problem_cost(&p, &q) == row[k].inner * q + row[k].kept);
    }
}

/* Latencies of a small quantized network: measured once, then read; layers with float activations take the same time at all bits. */
static void test_latency(void **state)
{
    static const char *const set[] = {
        "quant.weight=lsq",        "quant.activation=lsq",
        "quant.activation_bits=4", "quant.policy=first-last-8",
        "net.classes=10",          "quant.layers=[{match: linear, weight_bits: 0, activation_bits: -1}]"};
    static const bwi_searched_layer few[] = {
        {"conv1", 0, 432, 442368, 8}, {"layer1.0.conv1", 0, 2304, 2359296, 4}, {"linear", 0, 640, 640, 0}};
    char path[400];
    bwi_problem p = {.n = 3, .lo = 2, .hi = 3}, again = p;
    bw_recipe *r = NULL;
    bw_error err;
    size_t size, size2;
    (void)state;
    snprintf(path, sizeof path, "%s", in_root("latency.json"));
    assert_int_equal(bw_recipe_load(&r, NULL, set, COUNT(set), &err), BW_OK);
    bwi_costing c = {.layer = few, .n = 3, .lo = 2, .hi = 3, .recipe = r, .table = path};
    const bwi_budget *b;
    const char *value;
    assert_int_equal(bwi_budget_parse("latency=0.5ms", &b, &value, &err), BW_OK);
    if (b->cost(b, &c, value, &p, &err)) fail_msg("%s", err.msg);
    assert_true(p.limit == 5e5);
    for (int i = 0; i < 3; i++)
        for (int k = 2; k <= 3; k++) assert_true(p.cost[i][k] >= 1 && p.cost[i][k] == rint(p.cost[i][k]));
    assert_true(p.cost[2][2] == p.cost[2][3]);
    char *first = contents(path, &size);
    assert_int_equal(b->cost(b, &c, value, &again, &err), BW_OK);
    assert_memory_equal(p.cost, again.cost, sizeof p.cost);
    char *second = contents(path, &size2);
    assert_int_equal(size, size2);
    assert_memory_equal(first, second, size);
    char network[40]; /* "network": "0123456789abcdef" */
    snprintf(network, sizeof network, "%.30s", strstr(first, "\"network\""));
    free(first), free(second);
    /* another network is measured anew */
    bw_recipe_destroy(&r);
    assert_int_equal(bw_recipe_load(&r, NULL, set, COUNT(set) - 1, &err), BW_OK);
    c.recipe = r;
    assert_int_equal(b->cost(b, &c, value, &again, &err), BW_OK);
    char *third = contents(path, &size2);
    assert_non_null(strstr(third, "\"network\""));
    assert_null(strstr(third, network));
    free(third);
    /* float activations everywhere */
    static const bwi_searched_layer floats[] = {{"conv1", 0, 432, 442368, 0}};
    c.layer = floats, c.n = 1;
    assert_int_equal(b->cost(b, &c, value, &again, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "all activations are float"));
    bw_recipe_destroy(&r);
}

/* ---- The recipe that comes out ------------------------------------------------------------------------------------------- */

static void test_policy(void **state)
{
    static const char *const set[] = {"quant.weight=lsq", "net.classes=10", "quant.activation=lsq",
                                      "quant.layers=[{match: 'layer1.*', weight_bits: 3, activation_bits: 0}, {match: conv1, "
                                      "weight_bits: 8, activation_bits: 8}]"};
    const uint8_t bits[] = {5, 1, 7};
    bw_recipe *r = NULL, *copy = NULL;
    bwi_graph *g = NULL;
    bwi_quant *q;
    const bwi_node *layer;
    bw_error err;
    (void)state;
    assert_int_equal(bw_recipe_load(&r, NULL, set, COUNT(set), &err), BW_OK);
    assert_int_equal(bwi_recipe_copy(&copy, r, &err), BW_OK);
    assert_string_equal(bw_recipe_text(copy), bw_recipe_text(r));
    assert_int_equal(bwi_recipe_set_bits(copy, layers, bits, 3, &err), BW_OK);
    assert_int_equal(bwi_recipe_set_bits(copy, layers, bits, 3, &err), BW_OK); /* the second time changes nothing */
    assert_non_null(strstr(bw_recipe_text(copy),
                           "layers: [{match: \"layer1.*\", weight_bits: 3, activation_bits: 0}, {match: conv1, weight_bits: 5, "
                           "activation_bits: 8}, {match: layer1.0.conv1, weight_bits: 1, activation_bits: 0}, {match: linear, "
                           "weight_bits: 7, activation_bits: 0}]"));
    assert_int_equal(bwi_recipe_graph(&g, copy, 0, &err), BW_OK);
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++) {
        if (q->role != BWI_WEIGHT) continue;
        const int want = !strcmp(layer->name, "conv1")            ? 5
                         : !strcmp(layer->name, "layer1.0.conv1") ? 1
                         : !strcmp(layer->name, "linear")         ? 7
                         : !strncmp(layer->name, "layer1", 6)     ? 3
                                                                  : 8;
        assert_int_equal(q->bits, want);
    }
    bwi_graph_destroy(&g);
    bw_recipe_destroy(&copy);
    bw_recipe_destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget_that_cannot_be_met),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_genetic_finds_the_best),
        cmocka_unit_test(test_genetic_with_knapsack),
        cmocka_unit_test(test_small_space),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_knapsack),
        cmocka_unit_test(test_knapsack_beats_greedy),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_other_search_is_refused),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_budgets_with_kept_layers),
        cmocka_unit_test(test_latency),
        cmocka_unit_test(test_policy),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
