/* The executor: whole networks against central differences, fused against unfused, part batches, integer convolutions, policies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "nn/nn.h"
#include "zoo/zoo.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call)                                                                                                               \
    do {                                                                                                                       \
        bw_error e_ = {0};                                                                                                     \
        bw_status s_ = (call);                                                                                                 \
        if (s_) fail_msg("%s: %s", #call, err.msg);                                                                            \
        (void)e_;                                                                                                              \
    } while (0)

#define ADD2(graph, op, name, a) OK(bwi_graph_add(graph, op, name, &v, 1, a, &v, &err))

/* A small residual network with everything in it: option-A and projection shortcuts, two consumers of one quantized value. */
static bwi_graph *small_net(bwi_dtype real, bool projection, const bwi_quant_spec *spec)
{
    bw_error err = {0};
    bwi_graph *g = NULL;
    OK(bwi_graph_create(&g, real, (bwi_shape){8, 8, 3}, &err));
    bwi_attr conv = {.out = 16, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1}, bn = {.eps = 1e-5, .momentum = .1};
    bwi_attr down = conv, wide = conv, one = {.out = 32, .kh = 1, .kw = 1, .stride = 2, .groups = 1},
             fc = {.out = 5, .bias = true};
    down.out = wide.out = 32;
    down.stride = 2;
    int v = 0, x, y, in[2];
#define ADD(op, name, a)                                                                                                       \
    do {                                                                                                                       \
        in[0] = v;                                                                                                             \
        OK(bwi_graph_add(g, op, name, in, 1, a, &v, &err));                                                                    \
    } while (0)
    ADD("conv2d", "conv1", &conv);
    ADD("batch_norm", "bn1", &bn);
    ADD("relu", "relu1", NULL);
    x = v;
    ADD("conv2d", "a.conv1", &conv);
    ADD("batch_norm", "a.bn1", &bn);
    ADD("relu", "a.relu1", NULL);
    ADD("conv2d", "a.conv2", &conv);
    ADD("batch_norm", "a.bn2", &bn);
    in[0] = v, in[1] = x;
    OK(bwi_graph_add(g, "add", "a.add", in, 2, NULL, &v, &err));
    ADD("relu", "a.relu2", NULL);
    x = v;
    ADD("conv2d", "b.conv1", &down);
    ADD("batch_norm", "b.bn1", &bn);
    ADD("relu", "b.relu1", NULL);
    ADD("conv2d", "b.conv2", &wide);
    ADD("batch_norm", "b.bn2", &bn);
    y = v;
    v = x;
    if (projection) {
        ADD("conv2d", "b.down.0", &one);
        ADD("batch_norm", "b.down.1", &bn);
    } else {
        ADD("shortcut_a", "b.shortcut", &one);
    }
    in[0] = y, in[1] = v;
    OK(bwi_graph_add(g, "add", "b.add", in, 2, NULL, &v, &err));
    ADD("relu", "b.relu2", NULL);
    ADD("global_pool", "pool", NULL);
    ADD("batch_norm", "bn_last", &bn);
    ADD("linear", "linear", &fc);
    g->classes = 5;
    bwi_graph_init(g, 3);
    for (int i = 0; i < g->n_params; i++) { /* batch norm away from its neutral start */
        bwi_param *p = &g->param[i];
        bwi_rng r = bwi_rng_make(5, BWI_RNG_TEST, (uint64_t)i, 0);
        if (p->role == BWI_PARAM_NORM)
            for (size_t k = 0; k < p->numel; k++)
                bwi_real_put(p->dtype, p->data, k, bwi_real_get(p->dtype, p->data, k) + .3 * bwi_rng_normal(&r));
    }
    if (spec) OK(bwi_graph_quantize(g, spec, &err));
    return g;
}

static void fill(bwi_exec *e, const bwi_graph *g, int n, uint64_t seed)
{
    bwi_rng r = bwi_rng_make(seed, BWI_RNG_TEST, 0, 0);
    for (size_t i = 0; i < (size_t)n * bwi_shape_size(g->value[0].shape); i++)
        bwi_real_put(g->real, bwi_exec_input(e), i, bwi_rng_normal(&r));
}
static const int32_t labels[16] = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0};

static double loss_of(bwi_exec *e, const bwi_graph *g, int n, bool backward)
{
    bw_error err = {0};
    double loss = 0;
    int t1, t5;
    fill(e, g, n, 1);
    OK(bwi_exec_forward(e, n, true, NULL, &err));
    OK(bwi_exec_loss(e, labels, &loss, &t1, &t5, &err));
    if (backward) OK(bwi_exec_backward(e, &err));
    return loss;
}

static void test_float_gradient(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        bw_error err = {0};
        bwi_graph *g = small_net(BWI_DT_F64, variant & 1, NULL);
        bwi_exec *e = NULL;
        bwi_exec_options o = {.batch = 4, .train = true, .no_fusion = variant & 2};
        OK(bwi_exec_create(&e, g, &o, NULL, &err));
        loss_of(e, g, 4, true);
        int checked = 0, kinks = 0;
        for (int i = 0; i < g->n_params; i++) {
            bwi_param *p = &g->param[i];
            if (!p->grad) continue;
            double *kept = malloc(p->numel * sizeof *kept);
            memcpy(kept, p->grad, p->numel * sizeof *kept);
            for (size_t k = 0; k < p->numel; k += 1 + p->numel / 5) {
                double *x = (double *)p->data + k, x0 = *x, h = 1e-6, d[2];
                for (int t = 0; t < 2; t++) { /* two step widths: a ReLU's kink between shows as a difference of the two */
                    *x = x0 + h;
                    double up = loss_of(e, g, 4, false);
                    *x = x0 - h;
                    d[t] = (up - loss_of(e, g, 4, false)) / (2 * h);
                    *x = x0;
                    h *= 8;
                }
                if (fabs(d[0] - d[1]) > 1e-5 * (1 + fabs(d[0]))) {
                    kinks++;
                    continue;
                }
                checked++;
                if (fabs(d[0] - kept[k]) > 2e-6 * (1 + fabs(d[0])))
                    fail_msg("variant %d %s[%zu]: backward %.9g, differences %.9g", variant, p->name, k, kept[k], d[0]);
            }
            free(kept);
        }
        assert_true(checked > 60);
        assert_true(kinks < checked / 4);
        bwi_exec_destroy(&e);
        bwi_graph_destroy(&g);
    }
}

/* Largest difference of all gradients relative to each parameter's norm. Both graphs have had a backward. Gradients of quantizer parameters are
 * sums that nearly cancel (a batch norm behind makes an output scale's exactly zero), so they count against at least .05. */
/* Relative to a gradient's norm; but before a batch norm nearly all of what min/max levels' gamma gets cancels out, so that it counts by a tenth. */
static double worst_gradient(const bwi_graph *a, const bwi_graph *b, const char **where)
{
    double worst = 0;
    for (int i = 0; i < a->n_params; i++) {
        const bwi_param *p = &a->param[i], *q = &b->param[i];
        if (!p->grad) continue;
        double diff = 0, norm = p->role == BWI_PARAM_QUANT ? .05 * .05 : 1e-12;
        for (size_t k = 0; k < p->numel; k++) {
            double x = bwi_real_get(p->dtype, p->grad, k), y = bwi_real_get(q->dtype, q->grad, k);
            diff += (x - y) * (x - y);
            norm += x * x;
        }
        if (strstr(p->name, "gamma")) diff /= 100;
        if (sqrt(diff / norm) > worst) {
            worst = sqrt(diff / norm);
            *where = p->name;
        }
    }
    return worst;
}

static const bwi_quant_spec specs[] = {
    {0},
    {.weight_quantizer = "lsq",
     .weight_gradient = "ste",
     .activation_quantizer = "lsq",
     .activation_gradient = "ste",
     .weight_bits = 4,
     .activation_bits = 4,
     .policy = "first-last-8"},
    {.weight_quantizer = "lsq",
     .weight_gradient = "ewgs:delta=0.1",
     .activation_quantizer = "lsq",
     .activation_gradient = "ewgs:delta=0.1",
     .weight_bits = 2,
     .activation_bits = 3,
     .policy = "all"},
    {.weight_quantizer = "interval",
     .weight_gradient = "ewgs",
     .activation_quantizer = "interval",
     .activation_gradient = "ewgs",
     .weight_bits = 1,
     .activation_bits = 2,
     .policy = "inner"},
    {.weight_quantizer = "bwn", .weight_gradient = "ste", .weight_bits = 1, .policy = "all"},
    {.weight_quantizer = "dorefa",
     .weight_gradient = "ste",
     .activation_quantizer = "dorefa",
     .activation_gradient = "ste",
     .weight_bits = 1,
     .activation_bits = 4,
     .policy = "inner"},
    {.weight_quantizer = "minmax", .weight_gradient = "ste", .weight_bits = 3, .policy = "all"},
};
#define N_SPECS (sizeof specs / sizeof *specs)

/* Trains two copies side by side under two sets of options and returns the worst gradient difference of the first step. */
static double compare(const bwi_quant_spec *spec, bool projection, bwi_exec_options a, bwi_exec_options b, int n,
                      double *loss_gap, const char **where)
{
    bw_error err = {0};
    bwi_graph *g[2];
    bwi_exec *e[2] = {0};
    double loss[2];
    for (int i = 0; i < 2; i++) {
        g[i] = small_net(BWI_DT_F32, projection, spec->weight_quantizer ? spec : NULL);
        OK(bwi_exec_create(&e[i], g[i], i ? &b : &a, NULL, &err));
        loss[i] = loss_of(e[i], g[i], n, true);
        loss[i] = loss_of(e[i], g[i], n, true); /* again: the second pass has initialised quantizers and a dirty arena */
    }
    double worst = worst_gradient(g[0], g[1], where);
    *loss_gap = fabs(loss[0] - loss[1]);
    for (int i = 0; i < 2; i++) {
        bwi_exec_destroy(&e[i]);
        bwi_graph_destroy(&g[i]);
    }
    return worst;
}

static void test_fused_equals_unfused(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SPECS; s++)
        for (int projection = 0; projection < 2; projection++) {
            bwi_exec_options a = {.batch = 8, .train = true}, b = a;
            b.no_fusion = true;
            double gap;
            const char *where = "";
            double worst = compare(&specs[s], projection, a, b, 8, &gap, &where);
            if (worst > 2e-4 || gap > 1e-5)
                fail_msg("spec %zu projection %d: gradients differ by %g at %s, losses by %g", s, projection, worst, where,
                         gap);
        }
}

/* More channels than a block of the loops has elements. */
static void test_wide_batch_norm(void **state)
{
    (void)state;
    bw_error err = {0};
    double loss[2];
    const char *where = "";
    bwi_graph *g[2];
    for (int i = 0; i < 2; i++) {
        int v = 0;
        bwi_attr conv = {.out = BWI_QBLOCK + 48, .kh = 1, .kw = 1, .stride = 1, .groups = 1},
                 bn = {.eps = 1e-5, .momentum = .1};
        bwi_attr fc = {.out = 5, .bias = true};
        OK(bwi_graph_create(&g[i], BWI_DT_F32, (bwi_shape){2, 2, 3}, &err));
        ADD2(g[i], "conv2d", "conv1", &conv);
        ADD2(g[i], "batch_norm", "bn1", &bn);
        ADD2(g[i], "relu", "relu1", NULL);
        conv.out = 16;
        ADD2(g[i], "conv2d", "conv2", &conv);
        ADD2(g[i], "batch_norm", "bn2", &bn);
        ADD2(g[i], "relu", "relu2", NULL);
        ADD2(g[i], "global_pool", "pool", NULL);
        ADD2(g[i], "linear", "linear", &fc);
        g[i]->classes = 5;
        bwi_graph_init(g[i], 7);
        OK(bwi_graph_quantize(g[i], &specs[1], &err));
        bwi_exec *e = NULL;
        bwi_exec_options o = {.batch = 6, .train = true, .no_fusion = i};
        OK(bwi_exec_create(&e, g[i], &o, NULL, &err));
        loss[i] = loss_of(e, g[i], 6, true);
        bwi_exec_destroy(&e);
    }
    assert_true(fabs(loss[0] - loss[1]) < 1e-5);
    assert_true(worst_gradient(g[0], g[1], &where) < 2e-4);
    bwi_graph_destroy(&g[0]);
    bwi_graph_destroy(&g[1]);
}

/* Evaluation too, where a sum that only quantizers read need not be kept for backward. */
static void test_fused_evaluation(void **state)
{
    (void)state;
    for (int projection = 0; projection < 2; projection++) {
        bw_error err = {0};
        bwi_graph *g = small_net(BWI_DT_F32, projection, &specs[1]);
        bwi_exec *e = NULL;
        const void *logits;
        float fused[6 * 5];
        const bwi_exec_options train = {.batch = 6, .train = true};
        OK(bwi_exec_create(&e, g, &train, NULL, &err));
        loss_of(e, g, 6, false); /* initialises the quantizers */
        bwi_exec_destroy(&e);
        for (int i = 0; i < 2; i++) {
            const bwi_exec_options o = {.batch = 6, .no_fusion = i};
            OK(bwi_exec_create(&e, g, &o, NULL, &err));
            fill(e, g, 6, 1);
            OK(bwi_exec_forward(e, 6, false, &logits, &err));
            for (int k = 0; k < 6 * 5; k++) {
                const float v = ((const float *)logits)[k];
                if (!i) fused[k] = v;
                if (fabsf(v - fused[k]) > 1e-5f)
                    fail_msg("projection %d: logit %d is %g fused, %g unfused", projection, k, (double)fused[k], (double)v);
            }
            bwi_exec_destroy(&e);
        }
        bwi_graph_destroy(&g);
    }
}

static void test_part_batch(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SPECS; s++) {
        bwi_exec_options a = {.batch = 5, .train = true}, b = {.batch = 16, .train = true};
        double gap;
        const char *where = "";
        double worst = compare(&specs[s], s & 1, a, b, 5, &gap, &where);
        if (worst > 2e-4 || gap > 1e-5) fail_msg("spec %zu: gradients differ by %g at %s, losses by %g", s, worst, where, gap);
        a.precision = b.precision = BWI_PRECISION_FAST;
        worst = compare(&specs[s], s & 1, a, b, 5, &gap, &where);
        if (worst > 1e-2 || gap > 1e-4) fail_msg("fast: spec %zu: gradients differ by %g at %s", s, worst, where);
    }
}

static void test_reference_compute(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SPECS; s++) {
        bwi_exec_options a = {.batch = 6, .train = true},
                         b = {.batch = 6, .train = true, .compute = &bwi_compute_reference_f32};
        double gap;
        const char *where = "";
        double worst = compare(&specs[s], s & 1, a, b, 6, &gap, &where);
        if (worst > 2e-3 || gap > 1e-4) fail_msg("spec %zu: gradients differ by %g at %s, losses by %g", s, worst, where, gap);
    }
}

static void test_fast(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SPECS; s++) {
        bwi_exec_options a = {.batch = 8, .train = true}, b = {.batch = 8, .train = true, .precision = BWI_PRECISION_FAST};
        double gap;
        const char *where = "";
        double worst = compare(&specs[s], s & 1, a, b, 8, &gap, &where);
        if (worst > 1e-2 || gap > 1e-4) fail_msg("spec %zu: gradients differ by %g at %s, losses by %g", s, worst, where, gap);
    }
}

static void expect_note(const bwi_quant_spec *spec, bool train, bool round_sources, const char *says)
{
    bwi_graph *g = small_net(BWI_DT_F32, true, spec);
    const bwi_exec_options o = {.batch = 4, .train = train, .precision = BWI_PRECISION_FAST, .round_sources = round_sources};
    bwi_exec *e = NULL;
    char *note = NULL;
    bw_error err = {0};
    OK(bwi_exec_create(&e, g, &o, &note, &err));
    if (!strstr(note, says)) fail_msg("%s, train %d: no '%s' in %s", spec->weight_quantizer, train, says, note);
    bwi_free(note);
    bwi_exec_destroy(&e);
    bwi_graph_destroy(&g);
}

/* Float activations are rounded in training, where there are small integers to multiply them by, and in evaluation only if asked for. */
static void test_fast_with_float_activations(void **state)
{
    (void)state;
    if (!(bwi_cpu_flags() & BWI_CPU_AVX2)) skip();
    const bwi_quantizer *q;
    for (size_t i = 0; (q = bwi_quantizer_at(i)); i++) {
        bwi_quant_spec s = {.weight_quantizer = q->name, .weight_gradient = "ste", .weight_bits = 2, .policy = "all"};
        if (!q->weight_bits[1]) continue;
        if (q->weight_bits[1] < 2) s.weight_bits = 1;
        expect_note(&s, true, false,
                    "0 of 7 layers multiply bytes forward (u8 x s8, exact), 5 float activations of 16 bits; 5 have");
        expect_note(&s, false, false, "0 of 7 layers multiply bytes forward (u8 x s8, exact)\n");
        expect_note(&s, false, true, "0 of 7 layers multiply bytes forward (u8 x s8, exact), 5 float activations of 16 bits\n");
    }
    const bwi_quant_spec wide = {.weight_quantizer = "dorefa", .weight_gradient = "ste", .weight_bits = 8, .policy = "all"};
    expect_note(&wide, true, false, "fast: a.conv1: in float (weight codes beyond int8)");
}

/* Bytes instead of floats forward: the same codes, so the same logits up to the rounding of one multiplication. Float sources stay as they
 * are, or are rounded to 16 bits where that is asked for. */
static void test_evaluation(void **state)
{
    (void)state;
    bw_error err = {0};
    for (size_t s = 1; s < N_SPECS; s++) {
        bwi_graph *g = small_net(BWI_DT_F32, false, &specs[s]);
        bwi_exec *e = NULL, *eval[3] = {0};
        bwi_exec_options o = {.batch = 8, .train = true};
        const void *out[3];
        OK(bwi_exec_create(&e, g, &o, NULL, &err));
        for (int i = 0; i < 3; i++) {
            o = (bwi_exec_options){
                .batch = 8, .precision = i ? BWI_PRECISION_FAST : BWI_PRECISION_F32, .round_sources = i == 2};
            OK(bwi_exec_create(&eval[i], g, &o, NULL, &err));
            if (specs[s].activation_quantizer) {
                fill(eval[i], g, 8, 2);
                assert_int_equal(bwi_exec_forward(eval[i], 8, false, &out[i], &err), BW_ARG); /* nothing initialised yet */
                assert_non_null(strstr(err.msg, "never initialised"));
            }
        }
        for (int round = 0; round < 2; round++) { /* weights change in between: packed ones must follow */
            loss_of(e, g, 8, true);
            bwi_param *w = bwi_graph_param(g, "a.conv1.weight");
            for (size_t k = 0; k < w->numel; k++) ((float *)w->data)[k] *= k % 3 ? 1.5f : -.5f;
            for (int i = 0; i < 3; i++) {
                fill(eval[i], g, 8, 2);
                OK(bwi_exec_forward(eval[i], 8, false, &out[i], &err));
            }
            const double allowed[] = {0, specs[s].activation_quantizer ? 1e-3 : 0, 1e-3};
            for (int i = 0; i < 3; i++)
                for (int k = 0; k < 8 * 5; k++)
                    assert_true(fabs(bwi_real_get(BWI_DT_F32, out[0], (size_t)k) -
                                     bwi_real_get(BWI_DT_F32, out[i], (size_t)k)) <= allowed[i]);
        }
        bwi_exec_destroy(&e);
        for (int i = 0; i < 3; i++) bwi_exec_destroy(&eval[i]);
        bwi_graph_destroy(&g);
    }
}

typedef struct seen {
    const bwi_graph *g;
    int steps;
} seen;

static void look(void *observer, const bwi_call *step)
{
    seen *s = observer;
    assert_ptr_equal(step->node, &s->g->node[s->steps++]);
    const size_t n = (size_t)step->n * bwi_shape_size(step->in[0].shape);
    assert_true(n > 0 && step->in[0].data && step->out.data);
    if (!step->node->aq) return;
    float *codes = malloc(n * sizeof *codes);
    assert_non_null(codes);
    bwi_quant_codes(step->node->aq, step->in[0].data, BWI_DT_F32, n, BWI_DT_F32, codes); /* what was read is still there */
    assert_memory_equal(codes, step->out.data, n * sizeof *codes);
    free(codes);
}

static void test_observer(void **state)
{
    (void)state;
    bw_error err = {0};
    bwi_graph *g = small_net(BWI_DT_F32, false, &specs[1]);
    bwi_exec *e = NULL, *eval = NULL;
    seen s = {.g = g};
    bwi_exec_options o = {.batch = 4, .train = true};
    OK(bwi_exec_create(&e, g, &o, NULL, &err));
    loss_of(e, g, 4, true);
    o = (bwi_exec_options){.batch = 4, .no_fusion = true, .observe = look, .observer = &s};
    OK(bwi_exec_create(&eval, g, &o, NULL, &err));
    fill(eval, g, 3, 2);
    OK(bwi_exec_forward(eval, 3, false, NULL, &err));
    assert_int_equal(s.steps, g->n_nodes);
    bwi_exec_destroy(&e);
    bwi_exec_destroy(&eval);
    bwi_graph_destroy(&g);
}

/* A network that teaches itself: half of the labels' gradient is left, in every parameter. */
static void test_distill(void **state)
{
    (void)state;
    bw_error err = {0};
    bwi_graph *g[2];
    bwi_exec *e[2] = {0};
    double loss, teacher[4 * 5];
    int t1, t5;
    const bwi_exec_options o = {.batch = 4, .train = true};
    for (int i = 0; i < 2; i++) {
        const void *logits;
        g[i] = small_net(BWI_DT_F64, false, NULL);
        OK(bwi_exec_create(&e[i], g[i], &o, NULL, &err));
        assert_int_equal(bwi_exec_distill(e[i], labels, teacher, &loss, &t1, &t5, &err), BW_ARG); /* before any forward pass */
        fill(e[i], g[i], 4, 1);
        OK(bwi_exec_forward(e[i], 4, true, &logits, &err));
        memcpy(teacher, logits, sizeof teacher);
        if (i)
            OK(bwi_exec_distill(e[i], labels, teacher, &loss, &t1, &t5, &err));
        else
            OK(bwi_exec_loss(e[i], labels, &loss, &t1, &t5, &err));
        OK(bwi_exec_backward(e[i], &err));
    }
    for (int i = 0; i < g[0]->n_params; i++)
        for (size_t k = 0; g[0]->param[i].grad && k < g[0]->param[i].numel; k++) {
            const double whole = bwi_real_get(BWI_DT_F64, g[0]->param[i].grad, k),
                         half = bwi_real_get(BWI_DT_F64, g[1]->param[i].grad, k);
            if (!(fabs(half - whole / 2) <= 1e-14 + 1e-12 * fabs(whole)))
                fail_msg("%s: %g of %g", g[0]->param[i].name, half, whole);
        }
    for (int i = 0; i < 2; i++) {
        bwi_exec_destroy(&e[i]);
        bwi_graph_destroy(&g[i]);
    }
}

static void test_output_scale(void **state)
{
    (void)state;
    bw_error err = {0};
    bwi_graph *g = small_net(BWI_DT_F32, true, &specs[3]);
    bwi_exec *e = NULL;
    bwi_exec_options o = {.batch = 8, .train = true};
    OK(bwi_exec_create(&e, g, &o, NULL, &err));
    loss_of(e, g, 8, false);
    bwi_quant *q;
    const bwi_node *layer;
    int n = 0;
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++) {
        if (q->role != BWI_WEIGHT) continue;
        n++;
        assert_true(q->theta[2] > 0 && fabs(q->theta[2] - 1) > 1e-6); /* set from the batch, not left at its start */
        assert_true(q->theta[2] == q->theta0[2]);
    }
    assert_int_equal(n, 5);
    bwi_exec_destroy(&e);
    bwi_graph_destroy(&g);
}

static void test_policies(void **state)
{
    (void)state;
    bw_error err = {0};
    struct {
        const char *policy;
        int weights, inputs, first, last;
    } want[] = {{"all", 7, 7, 4, 4}, {"first-last-8", 7, 7, 8, 8}, {"inner", 5, 5, -1, -1}, {"blocks", 4, 4, -1, -1}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        bwi_quant_spec s = specs[1];
        s.policy = want[i].policy;
        bwi_graph *g = small_net(BWI_DT_F32, true, &s);
        int weights = 0, inputs = 0, first = -1, last = -1;
        bwi_quant *q;
        const bwi_node *layer;
        for (int k = 0; bwi_graph_quant(g, k, &q, &layer); k++) {
            weights += q->role == BWI_WEIGHT;
            inputs += q->role == BWI_ACTIVATION;
            if (!strcmp(layer->name, "conv1") && q->role == BWI_ACTIVATION) assert_true(q->is_signed);
            if (!strcmp(layer->name, "a.conv2") && q->role == BWI_ACTIVATION) assert_false(q->is_signed);
            if (!strcmp(layer->name, "linear") && q->role == BWI_ACTIVATION) assert_true(q->is_signed); /* behind bn_last */
            if (!strcmp(layer->name, "conv1")) first = q->bits;
            if (!strcmp(layer->name, "linear")) last = q->bits;
        }
        assert_int_equal(weights, want[i].weights);
        assert_int_equal(inputs, want[i].inputs);
        assert_int_equal(first, want[i].first);
        assert_int_equal(last, want[i].last);
        bwi_graph_destroy(&g);
    }
    bwi_graph *g = small_net(BWI_DT_F32, false, NULL);
    bwi_quant_spec s = specs[1];
    s.policy = "first-last8";
    assert_int_equal(bwi_graph_quantize(g, &s, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "first-last-8"));
    bwi_layer_rule rule = {"layer9.*", 2, 2};
    s.policy = "all";
    s.rule = &rule;
    s.n_rules = 1;
    assert_int_equal(bwi_graph_quantize(g, &s, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "layer9.*"));
    rule = (bwi_layer_rule){"a.*", 3, -1};
    OK(bwi_graph_quantize(g, &s, &err));
    bwi_quant *q;
    const bwi_node *layer;
    for (int k = 0; bwi_graph_quant(g, k, &q, &layer); k++)
        if (layer->name[0] == 'a') assert_true(q->role == BWI_WEIGHT && q->bits == 3);
    bwi_graph_destroy(&g);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    bwi_graph *g = small_net(BWI_DT_F32, true, &specs[3]);
    int64_t live = bwi_alloc_live_blocks();
    bool done = false;
    for (int64_t n = 0; !done; n += n < 40 ? 1 : 13) { /* past the first forty only a sample: each try plans a network */
        bw_error err = {0};
        bwi_exec *e = NULL;
        char *note = NULL;
        bwi_exec_options o = {.batch = 4, .train = true, .precision = BWI_PRECISION_FAST};
        bwi_alloc_fail_at(n, 1);
        bw_status st = bwi_exec_create(&e, g, &o, &note, &err);
        if (!st) {
            fill(e, g, 4, 1);
            st = bwi_exec_forward(e, 4, true, NULL, &err);
        }
        bwi_alloc_fail_at(-1, 0);
        done = st == BW_OK;
        if (!done) assert_int_equal(st, BW_NOMEM);
        bwi_free(note);
        bwi_exec_destroy(&e);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        if (n > 5000) fail_msg("never succeeds");
    }
    bwi_graph_destroy(&g);
}

static void test_misuse(void **state)
{
    (void)state;
    bw_error err = {0};
    bwi_graph *g = small_net(BWI_DT_F32, true, NULL);
    bwi_exec *e = NULL;
    bwi_exec_options o = {.batch = 4};
    OK(bwi_exec_create(&e, g, &o, NULL, &err));
    assert_int_equal(bwi_exec_forward(e, 5, false, NULL, &err), BW_ARG);
    assert_int_equal(bwi_exec_forward(e, 4, true, NULL, &err), BW_ARG);
    assert_int_equal(bwi_exec_backward(e, &err), BW_ARG);
    bwi_exec_destroy(&e);
    int v;
    assert_int_equal(bwi_graph_add(g, "conv2x", "c", &(int){0}, 1, NULL, &v, &err), BW_ARG);
    assert_int_equal(bwi_graph_add(g, "relu", "pool", &(int){0}, 1, NULL, &v, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "pool"));
    bwi_attr bad = {.out = 4, .kh = 9, .kw = 9, .stride = 1, .groups = 1};
    assert_int_equal(bwi_graph_add(g, "conv2d", "big", &(int){0}, 1, &bad, &v, &err), BW_SHAPE);
    assert_non_null(strstr(err.msg, "big"));
    bwi_graph_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float_gradient),
        cmocka_unit_test(test_fused_equals_unfused),
        cmocka_unit_test(test_fused_evaluation),
        cmocka_unit_test(test_wide_batch_norm),
        cmocka_unit_test(test_part_batch),
        cmocka_unit_test(test_reference_compute),
        cmocka_unit_test(test_fast),
        cmocka_unit_test(test_fast_with_float_activations),
        cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_observer),
        cmocka_unit_test(test_distill),
        cmocka_unit_test(test_output_scale),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_misuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
