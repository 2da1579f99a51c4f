/* MetaQuant: networks that learn gradients, and the step made of them (methods 1 and 8). */
#include "check.h"
#include "base/alloc.h"
#include "base/par.h"
#include "optim/optim.h"
#include "train/meta.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bwi_quant method(const char *gradient)
{
    bwi_quant q;
    CHECK(bwi_quant_make(&q, "bwn", gradient, BWI_WEIGHT, 1, true, err));
    assert_non_null(q.g->meta);
    return q;
}

/* ---- Networks by themselves ---------------------------------------------------------------------------------------------- */

static const char *const methods[] = {
    "fcgrad",
    "fcgrad:random_start=1",
    "fcgrad:layers=1",
    "fcgrad:layers=4,width=7,random_start=1",
    "multifc",
    "multifc:layers=2",
    "multifc:layers=4,width=9",
    "multifc:nonlinearity=2,width=11",
    "multifc:nonlinearity=2,layers=4,width=5",
    "multifc:nonlinearity=1,width=11",
    "multifc:random_start=0",
    "lstmfc",
    "lstmfc:state=0",
};
enum { N_METHODS = sizeof methods / sizeof *methods, N = 75 };

typedef struct network {
    bwi_quant q;
    const bwi_metanet *net;
    const bwi_metanet_fns *fns;
    size_t n_phi, n_sums;
    double *phi, *dphi, *sums, *work, *state;
    double wt[N], a[N], f[N];
} network;

static void network_open(network *w, const char *name)
{
    bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, bwi_hash_str(name), 0);
    memset(w, 0, sizeof *w);
    w->q = method(name);
    w->net = w->q.g->meta;
    w->fns = w->net->fns[BWI_F64];
    const double *opt = w->q.gopt;
    const size_t state = w->net->n_state ? w->net->n_state(opt) : 0,
                 padded = (N + BWI_META_LANES - 1) / BWI_META_LANES * BWI_META_LANES;
    w->n_phi = w->net->n_phi(opt);
    w->n_sums = w->net->n_sums(opt);
    w->phi = calloc(w->n_phi, sizeof(double));
    w->dphi = calloc(w->n_phi, sizeof(double));
    w->sums = calloc(w->n_sums, sizeof(double));
    w->work = calloc(w->net->n_work(opt), sizeof(double));
    w->state = state ? calloc(padded * state, sizeof(double)) : NULL;
    assert_true(w->phi && w->dphi && w->sums && w->work && (w->state || !state));
    w->net->init(opt, &r, w->phi);
    for (size_t i = 0; i < padded * state; i++) w->state[i] = 0.5 * bwi_rng_normal(&r);
    for (int i = 0; i < N; i++) {
        w->wt[i] = bwi_rng_normal(&r);
        w->a[i] = bwi_rng_normal(&r);
    }
}

static void network_close(network *w)
{
    void *own[] = {w->phi, w->dphi, w->sums, w->work, w->state};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) free(own[i]);
}

/* sum a f, the function of phi whose gradient backward and finish compute. */
static double objective(network *w)
{
    double s = 0;
    w->fns->prepare(w->q.gopt, w->phi, w->work);
    w->fns->forward(w->q.gopt, w->work, w->wt, w->state, N, w->f);
    for (int i = 0; i < N; i++) s += w->a[i] * w->f[i];
    return s;
}

static double norm(const double *v, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += v[i] * v[i];
    return sqrt(s);
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n;
    } known[] = {{"fcgrad", 200}, {"multifc", 10200}, {"lstmfc", 41301}, {"fcgrad:layers=1", 1}, {"multifc:layers=2", 200}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const bwi_quant q = method(known[i].name);
        assert_int_equal(q.g->meta->n_phi(q.gopt), known[i].n);
    }
}

static void test_network_gradients(void **state)
{
    (void)state;
    static network w;
    for (int k = 0; k < N_METHODS; k++) {
        network_open(&w, methods[k]);
        objective(&w);
        double *kept = NULL;
        const size_t state_size = w.state ? 2 * 100 * ((N + 31) / 32 * 32) : 0;
        if (w.state) {
            assert_non_null(kept = malloc(state_size * sizeof *kept));
            memcpy(kept, w.state, state_size * sizeof *kept);
        }
        w.fns->backward(w.q.gopt, w.work, w.wt, w.a, N, w.state, w.sums);
        if (kept) {
            assert_true(memcmp(kept, w.state, state_size * sizeof *kept) != 0); /* it moved on */
            memcpy(w.state, kept, state_size * sizeof *kept);
            free(kept);
        }
        w.net->finish(w.q.gopt, w.phi, w.sums, w.dphi);
        const double size = norm(w.dphi, w.n_phi) / sqrt((double)w.n_phi), h = 1e-5;
        double worst = 0;
        assert_true(size > 0);
        for (size_t i = 0; i<w.n_phi; i += w.n_phi> 500 ? 37 : 1) {
            const double was = w.phi[i];
            w.phi[i] = was + h;
            const double above = objective(&w);
            w.phi[i] = was - h;
            const double below = objective(&w);
            w.phi[i] = was;
            worst = fmax(worst, fabs((above - below) / (2 * h) - w.dphi[i]) / (size + fabs(w.dphi[i])));
        }
        if (!(worst < 1e-6)) fail_msg("%s: dL/dphi is off by %.3g of its size", methods[k], worst);
        network_close(&w);
    }
}

/* The linear networks as one number, against matrices and vectors. */
static void test_collapsed(void **state)
{
    (void)state;
    static network w;
    enum { H = 100 };
    network_open(&w, "multifc");
    objective(&w);
    for (int i = 0; i < N; i++) {
        double out = 0;
        for (int r = 0; r < H; r++) {
            double v = 0;
            for (int k = 0; k < H; k++) v += w.phi[H + r * H + k] * (w.phi[k] * w.wt[i]);
            out += w.phi[H + H * H + r] * v;
        }
        assert_true(fabs(out - w.f[i]) < 1e-14);
    }
    network_close(&w);
    network_open(&w, "fcgrad");
    objective(&w);
    for (int i = 0; i < N; i++) assert_true(fabs(w.f[i] - 1) < 1e-14); /* the symmetric start */
    network_close(&w);
}

/* LSTMFC's f and dL/dphi of N weights in a variant; a state is 0. */
static void run_lstmfc(const char *name, int variant, const double *phi, const double *wt, const double *a, double *f,
                       double *dphi)
{
    const bwi_quant q = method(name);
    const bwi_metanet *net = q.g->meta;
    const bool wide = variant == BWI_F64;
    const size_t size = wide ? sizeof(double) : sizeof(float);
    float wt32[N], a32[N], f32[N];
    double *sums = calloc(net->n_sums(q.gopt), sizeof *sums);
    void *work = calloc(net->n_work(q.gopt), size), *kept = calloc((N + 31) / 32 * 32 * 200, size);
    void *state = net->n_state(q.gopt) ? kept : NULL;
    assert_true(sums && work && kept);
    for (int i = 0; i < N; i++) {
        wt32[i] = (float)wt[i];
        a32[i] = (float)a[i];
    }
    net->fns[variant]->prepare(q.gopt, phi, work);
    net->fns[variant]->forward(q.gopt, work, wide ? (const void *)wt : wt32, state, N, wide ? (void *)f : f32);
    net->fns[variant]->backward(q.gopt, work, wide ? (const void *)wt : wt32, wide ? (const void *)a : a32, N, state, sums);
    net->finish(q.gopt, phi, sums, dphi);
    for (int i = 0; i < N && !wide; i++) f[i] = (double)f32[i];
    free(sums);
    free(work);
    free(kept);
}

/* Weights of the first and last of three tiles within what is collapsed, edges included; in the second one of them lies outside. */
static void lstmfc_weights(double *wt, double *a)
{
    bwi_rng r = bwi_rng_make(2, BWI_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        wt[i] = (double)(float)(4 * bwi_rng_uniform(&r) - 2);
        a[i] = (double)(float)bwi_rng_normal(&r);
    }
    wt[0] = 2;
    wt[1] = wt[70] = -2;
    wt[2] = 0;
    wt[40] = -4;
}

static double largest(const double *v, size_t n, const double *minus)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(v[i] - (minus ? minus[i] : 0)));
    return most;
}

/* phi as it starts, scaled. steep: besides, one cell that dL/dw sees and f does not. */
static void lstmfc_phi(double *phi, double scale, double steep)
{
    const bwi_quant q = method("lstmfc");
    bwi_rng r = bwi_rng_make(3, BWI_RNG_TEST, 0, 0);
    q.g->meta->init(q.gopt, &r, phi);
    for (size_t i = 0; i < 41301; i++) phi[i] *= scale;
    if (steep == 0) return;
    for (int gate = 0; gate < 4; gate++) {
        phi[100 * gate + 7] = gate == 2 ? steep : 0;
        phi[40400 + 100 * gate + 7] = phi[40800 + 100 * gate + 7] = 0;
    }
    phi[41207] = 0;
}

/* LSTMFC without a state, collapsed, against its cells, which run with a state of 0. */
static void test_lstmfc_collapsed(void **state)
{
    (void)state;
    static const struct {
        double scale, steep;
    } at[] = {{1, 0}, {10, 0}, {60, 0}, {1, 8}};
    static const struct {
        size_t from, n;
    } group[] = {{0, 100}, {200, 200}, {40400, 100}, {40600, 200}, {40800, 100}, {41000, 200}, {41200, 100}, {41300, 1}};
    static double phi[41301], want[41301], got[41301];
    double wt[N], a[N], f[N], direct[N];
    const int variants[] = {BWI_F64, BWI_F32, bwi_variant_for(BWI_DT_F32)};
    lstmfc_weights(wt, a);
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        lstmfc_phi(phi, at[i].scale, at[i].steep);
        run_lstmfc("lstmfc", BWI_F64, phi, wt, a, direct, want);
        for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
            const double off = variants[v] == BWI_F64 ? 1e-12 : 2e-6;
            run_lstmfc("lstmfc:state=0", variants[v], phi, wt, a, f, got);
            const double worst = largest(f, N, direct) / largest(direct, N, NULL);
            if (!(worst < off)) fail_msg("phi %zu, variant %d: f is off by %.3g", i, variants[v], worst);
            for (size_t g = 0; g < sizeof group / sizeof *group; g++) {
                const double *w = want + group[g].from;
                const double grad = largest(got + group[g].from, group[g].n, w) / largest(w, group[g].n, NULL);
                if (!(grad < off)) fail_msg("phi %zu, variant %d: dL/dphi %zu is off by %.3g", i, variants[v], g, grad);
            }
            assert_true(largest(got + 400, 40000, NULL) + largest(got + 100, 100, NULL) == 0); /* W_hh, gate f */
            if (variants[v] != BWI_F64) continue;
            assert_memory_equal(f + 32, direct + 32, 32 * sizeof *f); /* cells ran here, and only here */
            assert_memory_not_equal(f, direct, 32 * sizeof *f);
            assert_memory_not_equal(f + 64, direct + 64, (N - 64) * sizeof *f);
        }
    }
}

/* Cells run where phi is too steep to be collapsed, and a NaN stays where it is. */
static void test_lstmfc_steep(void **state)
{
    (void)state;
    static double phi[41301], want[41301], got[41301];
    double wt[N], a[N], f[N], direct[N];
    lstmfc_weights(wt, a);
    for (double scale = 1e3; scale < 1e10; scale *= 1e3) {
        lstmfc_phi(phi, scale, 0);
        run_lstmfc("lstmfc", BWI_F64, phi, wt, a, direct, want);
        run_lstmfc("lstmfc:state=0", BWI_F64, phi, wt, a, f, got);
        assert_memory_equal(f, direct, sizeof f);
        assert_true(largest(got, 41301, want) == 0 && (scale > 1e3 || largest(want, 400, NULL) > 0)); /* later it is flat */
    }
    lstmfc_phi(phi, 1, 0);
    run_lstmfc("lstmfc:state=0", BWI_F64, phi, wt, a, direct, want);
    wt[5] = NAN;
    run_lstmfc("lstmfc:state=0", BWI_F64, phi, wt, a, f, got);
    assert_true(isnan(f[5]));
    f[5] = direct[5];
    assert_true(largest(f, N, direct) < 1e-13);
}

/* ---- Steps on a small network -------------------------------------------------------------------------------------------- */

enum { BATCH = 6, SIDE = 6, CLASSES = 3 };

typedef struct trial {
    bwi_graph *g;
    bwi_exec *e;
    bw_recipe *r;
    bwi_params p;
    bwi_meta *m;
    int32_t labels[BATCH];
    double loss;
} trial;

/* conv, ReLU, conv, pool, linear: no bias and no batch norm, so that all there is to train are quantized weights. */
static void trial_open(trial *t, const char *quantizer, const char *gradient, const char *optimizer, double lr, bool identity)
{
    const bwi_attr conv = {.out = 5, .kh = 3, .kw = 3, .pad = 1}, linear = {.out = CLASSES};
    const bwi_quant_spec spec = {.weight_quantizer = quantizer, .weight_gradient = gradient, .weight_bits = 1};
    char name[40], rate[40];
    const char *const set[] = {name, rate, "optim.momentum=0", "optim.schedule=constant", "train.epochs=1"};
    int v = 0;
    memset(t, 0, sizeof *t);
    snprintf(name, sizeof name, "optim.name=%s", optimizer);
    snprintf(rate, sizeof rate, "optim.lr=%.17g", lr);
    CHECK(bw_recipe_load(&t->r, NULL, set, sizeof set / sizeof *set, err));
    CHECK(bwi_graph_create(&t->g, BWI_DT_F64, (bwi_shape){SIDE, SIDE, 3}, err));
    CHECK(bwi_graph_add(t->g, "conv2d", "conv1", &v, 1, &conv, &v, err));
    CHECK(bwi_graph_add(t->g, "relu", "relu1", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(t->g, "conv2d", "conv2", &v, 1, &conv, &v, err));
    CHECK(bwi_graph_add(t->g, "global_pool", "pool", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(t->g, "linear", "fc", &v, 1, &linear, &v, err));
    t->g->output = v;
    t->g->classes = CLASSES;
    if (!identity) CHECK(bwi_graph_quantize(t->g, &spec, err));
    bwi_graph_init(t->g, 3);
    const bwi_exec_options o = {.batch = BATCH, .train = true};
    CHECK(bwi_exec_create(&t->e, t->g, &o, NULL, err));
    CHECK(bwi_params_create(&t->p, t->g, t->r, 100, err));
    if (identity)
        CHECK(bwi_meta_create_identity(&t->m, &t->p, gradient, 7, err));
    else
        CHECK(bwi_meta_create(&t->m, &t->p, 7, err));
}

static void trial_close(trial *t)
{
    bwi_meta_destroy(&t->m);
    bwi_params_destroy(&t->p);
    bwi_exec_destroy(&t->e);
    bwi_graph_destroy(&t->g);
    bw_recipe_destroy(&t->r);
}

static double forward(trial *t, int64_t step)
{
    bwi_rng r = bwi_rng_make(5, BWI_RNG_TEST, 9, (uint64_t)step % 2);
    double *x = bwi_exec_input(t->e), loss;
    int top1, top5;
    for (int i = 0; i < BATCH * SIDE * SIDE * 3; i++) x[i] = bwi_rng_normal(&r);
    for (int i = 0; i < BATCH; i++) t->labels[i] = (int32_t)bwi_rng_below(&r, CLASSES);
    CHECK(bwi_exec_forward(t->e, BATCH, true, NULL, err));
    CHECK(bwi_exec_loss(t->e, t->labels, &loss, &top1, &top5, err));
    return loss;
}

static void trial_step(trial *t, int64_t step)
{
    if (t->m) CHECK(bwi_meta_before(t->m, 0, step, err));
    t->loss = forward(t, step);
    CHECK(bwi_exec_backward(t->e, err));
    if (t->m) bwi_meta_after(t->m, 0, step);
    bwi_params_step(&t->p, 0, step);
}

/* dL/dphi of a step against central differences of the loss, with the part of the optimizer held constant, through the whole network. */
static void check_phi(const char *gradient, const char *optimizer)
{
    enum { MOST = 700 };
    trial t;
    double v0[3][MOST], u0[3][MOST], f[MOST], worst = 0;
    const double lr = 0.02, h = 1e-5;
    trial_open(&t, NULL, gradient, optimizer, lr, true);
    assert_int_equal(t.m->n, 3);
    for (int64_t step = 0; step < 3; step++) trial_step(&t, step);
    CHECK(bwi_meta_before(t.m, 0, 3, err));
    double *phi = t.m->phi;
    const bwi_metanet_fns *fns = t.m->net->fns[BWI_F64];
    for (int i = 0; i < 3; i++) {
        const bwi_slot *s = &t.p.slot[t.m->tensor[i].slot];
        assert_true(s->n <= MOST);
        memcpy(v0[i], s->data, s->n * sizeof(double));
        memcpy(u0[i], s->grad, s->n * sizeof(double));
    }
    const size_t step = t.m->n_phi > 300 ? t.m->n_phi / 61 : 3;
    double *want = calloc(t.m->n_phi, sizeof *want);
    assert_non_null(want);
    for (size_t k = 0; k < t.m->n_phi; k += step) {
        double loss[2];
        const double was = phi[k];
        for (int side = 0; side < 2; side++) {
            phi[k] = was + (side ? h : -h);
            fns->prepare(t.m->opt, phi, t.m->work);
            for (int i = 0; i < 3; i++) {
                const bwi_meta_tensor *x = &t.m->tensor[i];
                double *w = t.p.slot[x->slot].data;
                fns->forward(t.m->opt, t.m->work, x->wt, x->state, x->n, f);
                for (size_t j = 0; j < x->n; j++) w[j] = v0[i][j] - lr * (f[j] * ((double *)x->d)[j] - u0[i][j]);
            }
            t.g->version++;
            loss[side] = forward(&t, 3);
        }
        phi[k] = was;
        want[k] = (loss[1] - loss[0]) / (2 * h);
    }
    for (int i = 0; i < 3; i++) memcpy(t.p.slot[t.m->tensor[i].slot].data, v0[i], t.m->tensor[i].n * sizeof(double));
    fns->prepare(t.m->opt, phi, t.m->work);
    t.g->version++;
    forward(&t, 3);
    CHECK(bwi_exec_backward(t.e, err));
    bwi_meta_after(t.m, 0, 3);
    const double size = norm(t.m->dphi, t.m->n_phi) / sqrt((double)t.m->n_phi);
    assert_true(size > 0);
    for (size_t k = 0; k < t.m->n_phi; k += step)
        worst = fmax(worst, fabs(want[k] - t.m->dphi[k]) / (size + fabs(t.m->dphi[k])));
    printf("%s, %s: dL/dphi off by %.2g of its size\n", gradient, optimizer, worst);
    if (!(worst < 1e-5)) fail_msg("%s, %s: dL/dphi is off by %.3g of its size", gradient, optimizer, worst);
    free(want);
    trial_close(&t);
}

static void test_phi_gradient(void **state)
{
    (void)state;
    static const char *const which[] = {"fcgrad", "multifc", "multifc:nonlinearity=2", "lstmfc", "lstmfc:state=0"};
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        check_phi(which[i], "sgd");
        check_phi(which[i], "adam");
    }
}

static double distance(const trial *a, const trial *b)
{
    double worst = 0;
    for (int i = 0; i < a->p.n; i++)
        for (size_t k = 0; k < a->p.slot[i].n; k++)
            worst = fmax(worst, fabs(((double *)a->p.slot[i].data)[k] - ((double *)b->p.slot[i].data)[k]));
    return worst;
}

/* Methods 8: FCGrad with its factor frozen at 1 is STE on DoReFa, a step later. */
static void test_frozen_is_ste(void **state)
{
    (void)state;
    trial ste, meta;
    trial_open(&ste, "dorefa", "ste", "sgd", 0.05, false);
    trial_open(&meta, "dorefa", "fcgrad:lr=0", "sgd", 0.05, false);
    assert_null(ste.m);
    for (int64_t step = 0; step < 6; step++) {
        trial_step(&meta, step);
        trial_step(&ste, step);
        assert_true(fabs(meta.loss - ste.loss) < 1e-11);
    }
    trial_step(&meta, 6); /* its first forward changed nothing; now it has made up for it */
    assert_true(distance(&ste, &meta) < 1e-11 && distance(&ste, &meta) > 0);
    trial_close(&ste);
    trial_close(&meta);
}

/* Methods 8: Adam does not see the factor of FCGrad. */
static void test_adam_ignores_factor(void **state)
{
    (void)state;
    trial one, ten;
    trial_open(&one, "dorefa", "fcgrad:lr=0,layers=1", "adam", 0.01, false);
    trial_open(&ten, "dorefa", "fcgrad:lr=0,layers=1", "adam", 0.01, false);
    ten.m->phi[0] = 10;
    for (int64_t step = 0; step < 6; step++) {
        trial_step(&one, step);
        trial_step(&ten, step);
    }
    assert_true(distance(&one, &ten) < 1e-5);
    trial_close(&one);
    trial_close(&ten);
}

/* On BWN the networks see the weight itself, whose calibration is 1: the step is c * dL/dwq without BWN's scale. */
static void test_bwn_step(void **state)
{
    (void)state;
    trial t;
    double before[400], gradient[400];
    trial_open(&t, "bwn", "fcgrad:lr=0", "sgd", 0.05, false);
    trial_step(&t, 0);
    const bwi_meta_tensor *x = &t.m->tensor[1];
    assert_true(x->n <= 400);
    double *w = t.p.slot[x->slot].data;
    const double *s = t.p.slot[x->slot].grad;
    for (size_t k = 0; k < x->n; k++) {
        const double g = ((double *)x->g)[k];
        assert_true(fabs(s[k] - (fabs(w[k]) <= 1 ? x->q->k.scale * g : 0)) < 1e-12); /* STE carries it */
    }
    memcpy(before, w, x->n * sizeof *w);
    memcpy(gradient, x->g, x->n * sizeof *gradient);
    CHECK(bwi_meta_before(t.m, 0, 1, err));
    for (size_t k = 0; k < x->n; k++) assert_true(fabs(w[k] - (before[k] - 0.05 * gradient[k])) < 1e-12);
    trial_close(&t);
}

/* The released code's order: forward with the step before, commit the new one. */
static void test_stale(void **state)
{
    (void)state;
    trial t;
    double w0[400], s0[400], g0[400], u1[400];
    trial_open(&t, "bwn", "fcgrad:lr=0,stale_lookahead=1", "sgd", 0.05, false);
    trial_step(&t, 0);
    const bwi_meta_tensor *x = &t.m->tensor[1];
    double *w = t.p.slot[x->slot].data;
    memcpy(w0, w, x->n * sizeof *w);
    memcpy(s0, t.p.slot[x->slot].grad, x->n * sizeof *s0);
    memcpy(g0, x->g, x->n * sizeof *g0);
    CHECK(bwi_meta_before(t.m, 0, 1, err));
    for (size_t k = 0; k < x->n; k++) assert_true(fabs(w[k] - (w0[k] - 0.05 * s0[k])) < 1e-12);
    forward(&t, 1);
    CHECK(bwi_exec_backward(t.e, err));
    memcpy(u1, x->g, x->n * sizeof *u1);
    bwi_meta_after(t.m, 0, 1);
    for (size_t k = 0; k < x->n; k++) {
        assert_true(fabs(w[k] - (w0[k] - 0.05 * g0[k])) < 1e-12);
        w0[k] = w[k];
    }
    CHECK(bwi_meta_before(t.m, 0, 2, err));
    for (size_t k = 0; k < x->n; k++) assert_true(fabs(w[k] - (w0[k] - 0.05 * g0[k])) < 1e-12);
    forward(&t, 2);
    CHECK(bwi_exec_backward(t.e, err));
    bwi_meta_after(t.m, 0, 2);
    for (size_t k = 0; k < x->n; k++) assert_true(fabs(w[k] - (w0[k] - 0.05 * u1[k])) < 1e-12);
    trial_close(&t);
}

/* eq. 8 puts the network's own gradient in the place of STE's: without a quantizer that is c times as much. */
static void test_eq8(void **state)
{
    (void)state;
    trial ste, eq8;
    trial_open(&ste, NULL, "fcgrad:layers=1", "sgd", 0.05, true);
    trial_open(&eq8, NULL, "fcgrad:layers=1,eq8=1", "sgd", 0.05, true);
    ste.m->phi[0] = eq8.m->phi[0] = 3;
    for (int64_t step = 0; step < 2; step++) {
        trial_step(&ste, step);
        trial_step(&eq8, step);
    }
    assert_true(ste.m->dphi[0] != 0 && fabs(eq8.m->dphi[0] / ste.m->dphi[0] - 3) < 1e-9);
    trial_close(&ste);
    trial_close(&eq8);
}

/* Sums are made in chunks, whatever the number of threads. */
static void test_threads(void **state)
{
    (void)state;
    double first[300] = {0};
    for (int i = 0; i < 6; i++) {
        const int threads = i % 3 + 1;
        trial t;
        bwi_threads_set(threads);
        trial_open(&t, "bwn", i < 3 ? "lstmfc" : "lstmfc:state=0", "sgd", 0.05, false);
        for (int64_t step = 0; step < 3; step++) trial_step(&t, step);
        if (threads == 1)
            memcpy(first, t.m->phi, sizeof first);
        else
            assert_memory_equal(first, t.m->phi, sizeof first);
        trial_close(&t);
    }
    bwi_threads_set(1);
}

/* Wherever memory runs out, everything is given back. */
static void test_no_memory(void **state)
{
    (void)state;
    trial t;
    bw_error error;
    trial_open(&t, "bwn", "ste", "sgd", 0.05, false);
    for (int i = 0; i < t.g->n_nodes; i++)
        if (t.g->node[i].wq)
            CHECK(bwi_quant_make(t.g->node[i].wq, "bwn", "lstmfc:stale_lookahead=1", BWI_WEIGHT, 1, true, err));
    const int64_t blocks = bwi_alloc_live_blocks();
    bw_status st = BW_NOMEM;
    for (int64_t n = 0; st == BW_NOMEM && n < 100; n++) {
        bwi_alloc_fail_at(n, 0);
        st = bwi_meta_create(&t.m, &t.p, 1, &error);
        bwi_alloc_fail_at(-1, 0);
        if (st) assert_int_equal(bwi_alloc_live_blocks(), blocks);
    }
    assert_int_equal(st, BW_OK);
    trial_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_network_gradients),
        cmocka_unit_test(test_collapsed),     cmocka_unit_test(test_phi_gradient),
        cmocka_unit_test(test_frozen_is_ste), cmocka_unit_test(test_adam_ignores_factor),
        cmocka_unit_test(test_bwn_step),      cmocka_unit_test(test_stale),
        cmocka_unit_test(test_eq8),           cmocka_unit_test(test_threads),
        cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_lstmfc_collapsed),
        cmocka_unit_test(test_lstmfc_steep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
