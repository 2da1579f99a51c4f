#include "search/measure.h"
#include "base/alloc.h"
#include "base/par.h"
#include "data/data.h"
#include "deploy/engine.h"
#include "deploy/run/net.h"
#include "search/policy.h"
#include "search/untrained.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BURST = 8, LEAST_ROUNDS = 5, MOST_ROUNDS = 500 };
#define SECONDS 1.0 /* about, for each bit-width */

static bw_status lower_at(bwi_tensors *lowered, const bwi_costing *c, int bits, bw_error *err)
{
    uint8_t all[BWI_SEARCH_LAYERS];
    bw_recipe *r = NULL;
    bw_status st;
    memset(all, bits, sizeof all);
    BWI_TRY(bwi_recipe_copy(&r, c->recipe, err));
    BWI_TRY(bwi_recipe_set_bits(r, c->layer, all, c->n, err));
    BWI_TRY(bwi_lower_untrained(lowered, r, err));
fail:
    bw_recipe_destroy(&r);
    return st ? bwi_fail_in(err, st, "to measure latencies at %d bits", bits) : BW_OK;
}

/* A network with all searched layers at the same bits, running. */
typedef struct timed {
    bwi_engine engine;
    uint8_t *image;
    float *logits;
    int *at;       /* [engine layers] searched layer, -1: none */
    double *taken; /* [MOST_ROUNDS][engine layers + 1] seconds of each layer in a round, and behind them of a whole run */
    int rounds;
} timed;

static bw_status timed_open(timed *t, const bwi_costing *c, int bits, bw_error *err)
{
    bwi_tensors lowered = {0};
    bw_layer_info info;
    bw_status st;
    *t = (timed){0};
    BWI_TRY(lower_at(&lowered, c, bits, err));
    BWI_TRY(bwi_engine_from(&t->engine, &lowered, 1, NULL, err));
    const bw_net_info *net = &t->engine.info;
    const size_t size = (size_t)net->height * (size_t)net->width * (size_t)net->channels;
    t->image = bwi_malloc(size);
    t->logits = bwi_malloc((size_t)net->classes * sizeof *t->logits);
    t->at = bwi_malloc((size_t)net->layers * sizeof *t->at);
    t->taken = bwi_calloc(MOST_ROUNDS * ((size_t)net->layers + 1), sizeof *t->taken);
    if (!t->image || !t->logits || !t->at || !t->taken) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory to measure latencies"));
    for (size_t i = 0; i < size; i++) t->image[i] = (uint8_t)(i * 2654435761u >> 13);
    for (int i = 0; bw_net_layer(t->engine.net, i, &info); i++) {
        t->at[i] = -1;
        for (int k = 0; k < c->n; k++)
            if (info.multiply_adds && !strcmp(info.name, c->layer[k].name)) t->at[i] = k;
    }
fail:
    bwi_tensors_free(&lowered);
    return st;
}

static void timed_close(timed *t)
{
    bwi_engine_close(&t->engine);
    bwi_free(t->image);
    bwi_free(t->logits);
    bwi_free(t->at);
    bwi_free(t->taken);
    *t = (timed){0};
}

/* A round: runs as wholes and layer by layer, several of each, so that weights are where they are when one network runs alone; the least time
 * of each counts. Returns the seconds that all took. */
static double turn(timed *t)
{
    const double start = bwi_now();
    const int layers = t->engine.info.layers;
    double last = start, *taken = t->taken + (size_t)t->rounds++ * ((size_t)layers + 1);
    for (int i = 0; i <= layers; i++) taken[i] = INFINITY;
    for (int k = 0; k < BURST; k++) {
        bw_net_run(t->engine.net, t->image, 1, t->logits, t->engine.work);
        const double now = bwi_now();
        taken[layers] = fmin(taken[layers], now - last);
        last = now;
    }
    for (int k = 0; k < BURST; k++)
        for (int i = 0; i < layers; i++) {
            bwr_run_layer(t->engine.net, i, t->image, t->engine.work);
            const double now = bwi_now();
            taken[i] = fmin(taken[i], now - last);
            last = now;
        }
    return last - start;
}

static int ascending(const void *a_, const void *b_)
{
    const double a = *(const double *)a_, b = *(const double *)b_;
    return (a > b) - (a < b);
}

/* Of x [n], which gets sorted. */
static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

static uint64_t hash(uint64_t h, const char *s)
{
    return (h * 0x100000001b3u) ^ bwi_hash_str(s);
}

/* Of layer i, or of a whole run: the median of all rounds in whole nanoseconds. Their least would be of a moment at which the CPU ran faster, and
 * that moment had one of the bit-widths alone. */
static double typical_ns(const timed *t, int i)
{
    double taken[MOST_ROUNDS];
    for (int k = 0; k < t->rounds; k++) taken[k] = t->taken[(size_t)k * ((size_t)t->engine.info.layers + 1) + (size_t)i];
    return rint(1e9 * median(taken, t->rounds));
}

static void take(bwi_latencies *l, const timed *t, const bwi_costing *c)
{
    double rest[BWI_SEARCH_BITS];
    for (int b = c->lo; b <= c->hi; b++) {
        const timed *at = &t[b - c->lo];
        double sum = 0;
        for (int i = 0; i < at->engine.info.layers; i++)
            if (at->at[i] >= 0) sum += l->ns[at->at[i]][b] = typical_ns(at, i);
        l->whole[b] = typical_ns(at, at->engine.info.layers);
        rest[b - c->lo] = l->whole[b] - sum;
    }
    l->rest = fmax(median(rest, c->hi - c->lo + 1), 0);
    for (int k = 0; k < c->n; k++) { /* of times that differ by chance alone, the least */
        double least = INFINITY;
        for (int b = c->lo; b <= c->hi; b++) least = l->ns[k][b] < least ? l->ns[k][b] : least;
        for (int b = c->lo; l->real[k] && b <= c->hi; b++) l->ns[k][b] = least;
    }
}

/* Adds the network at these bits, and the kernels that would run it. */
static bw_status identify_at(uint64_t *h, const bwi_costing *c, int bits, bw_error *err)
{
    bwi_tensors lowered = {0};
    bwi_engine engine = {0};
    bw_layer_info info;
    bw_status st;
    BWI_TRY(lower_at(&lowered, c, bits, err));
    *h = hash(*h, bwi_tensors_meta(&lowered, "bitwright.layers"));
    BWI_TRY(bwi_engine_from(&engine, &lowered, 1, NULL, err));
    for (int i = 0; bw_net_layer(engine.net, i, &info); i++) *h = hash(*h, info.kernel);
fail:
    bwi_engine_close(&engine);
    bwi_tensors_free(&lowered);
    return st;
}

bw_status bwi_latencies_identify(bwi_latencies *l, const bwi_costing *c, bw_error *err)
{
    bw_status st = BW_OK;
    *l = (bwi_latencies){0};
    for (int b = c->lo; b <= c->hi && !st; b++) st = identify_at(&l->network, c, b, err);
    for (int i = 0; i < c->n; i++) l->real[i] = !c->layer[i].activation_bits;
    return st;
}

bw_status bwi_latencies_measure(bwi_latencies *l, const bwi_costing *c, bw_error *err)
{
    timed t[BWI_SEARCH_BITS + 1];
    const int range = c->hi - c->lo + 1;
    double spent = 0;
    bw_status st = BW_OK;
    memset(t, 0, sizeof t);
    for (int i = 0; i < range && !st; i++) st = timed_open(&t[i], c, c->lo + i, err);
    /* bit-widths take turns, so that a disturbance does not meet one of them alone */
    for (int round = 0; !st && round < MOST_ROUNDS && (round < LEAST_ROUNDS || spent < SECONDS * range); round++)
        for (int i = 0; i < range; i++) spent += turn(&t[i]);
    if (!st) take(l, t, c);
    for (int i = 0; i < range; i++) timed_close(&t[i]);
    return st;
}
