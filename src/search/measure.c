#include "search/measure.h"
#include "base/alloc.h"
#include "base/par.h"
#include "data/data.h"
#include "deploy/engine.h"
#include "deploy/run/net.h"
#include "search/policy.h"
#include "search/untrained.h"
#include <math.h>
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
    double *least; /* [engine layers] seconds */
    double whole;
} timed;

static bw_status timed_open(timed *t, const bwi_costing *c, int bits, bw_error *err)
{
    bwi_tensors lowered = {0};
    bw_layer_info info;
    bw_status st;
    *t = (timed){.whole = INFINITY};
    BWI_TRY(lower_at(&lowered, c, bits, err));
    BWI_TRY(bwi_engine_from(&t->engine, &lowered, 1, NULL, err));
    const bw_net_info *net = &t->engine.info;
    const size_t size = (size_t)net->height * (size_t)net->width * (size_t)net->channels;
    t->image = bwi_malloc(size);
    t->logits = bwi_malloc((size_t)net->classes * sizeof *t->logits);
    t->at = bwi_malloc((size_t)net->layers * sizeof *t->at);
    t->least = bwi_malloc((size_t)net->layers * sizeof *t->least);
    if (!t->image || !t->logits || !t->at || !t->least) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory to measure latencies"));
    for (size_t i = 0; i < size; i++) t->image[i] = (uint8_t)(i * 2654435761u >> 13);
    for (int i = 0; bw_net_layer(t->engine.net, i, &info); i++) {
        t->least[i] = INFINITY;
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
    bwi_free(t->least);
    *t = (timed){0};
}

/* Runs as wholes and layer by layer, several of each, so that weights are where they are when one network runs alone; seconds that all took. */
static double turn(timed *t)
{
    const double start = bwi_now();
    double last = start;
    for (int k = 0; k < BURST; k++) {
        bw_net_run(t->engine.net, t->image, 1, t->logits, t->engine.work);
        const double now = bwi_now();
        t->whole = fmin(t->whole, now - last);
        last = now;
    }
    for (int k = 0; k < BURST; k++)
        for (int i = 0; i < t->engine.info.layers; i++) {
            bwr_run_layer(t->engine.net, i, t->image, t->engine.work);
            const double now = bwi_now();
            t->least[i] = fmin(t->least[i], now - last);
            last = now;
        }
    return last - start;
}

static uint64_t hash(uint64_t h, const char *s)
{
    return (h * 0x100000001b3u) ^ bwi_hash_str(s);
}

static double whole_ns(double seconds)
{
    return rint(1e9 * seconds);
}

static void take(bwi_latencies *l, const timed *t, const bwi_costing *c)
{
    l->rest = INFINITY;
    for (int b = c->lo; b <= c->hi; b++) {
        const timed *at = &t[b - c->lo];
        l->whole[b] = whole_ns(at->whole);
        double sum = 0;
        for (int i = 0; i < at->engine.info.layers; i++)
            if (at->at[i] >= 0) sum += l->ns[at->at[i]][b] = whole_ns(at->least[i]);
        l->rest = fmin(l->rest, l->whole[b] - sum); /* a disturbance of a whole run only adds */
    }
    l->rest = fmax(l->rest, 0);
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
