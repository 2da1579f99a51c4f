/* MetaQuantNet: weights made from their layer's bit-width (methods 4.2 to 4.4), and what becomes of them. */
#include "check.h"
#include "folder.h"

#include "base/rng.h"
#include "train/hyper.h"
#include "train/model.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 4, SIDE = 6, CLASSES = 3, LAYERS = 3, HIDDEN = 8 };
static const char *const layer[LAYERS] = {"conv1", "conv2", "fc"};

/* ---- Gradients ----------------------------------------------------------------------------------------------------------- */

typedef struct trial {
    bwi_graph *g, *plain; /* plain: the same without quantizers */
    bwi_exec *e, *plain_e;
    bw_recipe *r;
    bwi_params p;
    bwi_hyper *h;
} trial;

/* conv, batch norm, ReLU, conv, pool, linear */
static bwi_graph *make_graph(bool quantized)
{
    const bwi_attr conv = {.out = 5, .kh = 3, .kw = 3, .pad = 1}, linear = {.out = CLASSES, .bias = true},
                   norm = {.eps = 1e-5, .momentum = .1};
    const bwi_quant_spec spec = {.weight_quantizer = "minmax", .weight_bits = 3};
    bwi_graph *g;
    int v = 0;
    CHECK(bwi_graph_create(&g, BWI_DT_F64, (bwi_shape){SIDE, SIDE, 3}, err));
    CHECK(bwi_graph_add(g, "conv2d", "conv1", &v, 1, &conv, &v, err));
    CHECK(bwi_graph_add(g, "batch_norm", "bn1", &v, 1, &norm, &v, err));
    CHECK(bwi_graph_add(g, "relu", "relu1", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "conv2d", "conv2", &v, 1, &conv, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "linear", "fc", &v, 1, &linear, &v, err));
    g->output = v;
    g->classes = CLASSES;
    if (quantized) CHECK(bwi_graph_quantize(g, &spec, err));
    if (quantized) CHECK(bwi_hyper_attach(g, HIDDEN, err));
    bwi_graph_init(g, 3);
    bwi_hyper_init(g, 11);
    return g;
}

static void trial_open(trial *t, double lr)
{
    const bwi_exec_options o = {.batch = BATCH, .train = true};
    char rate[40];
    const char *const set[] = {rate,
                               "optim.momentum=0",
                               "optim.schedule=constant",
                               "quant.weight=minmax",
                               "hypernet.hidden=8",
                               "hypernet.min_bits=1",
                               "hypernet.max_bits=8"};
    memset(t, 0, sizeof *t);
    snprintf(rate, sizeof rate, "optim.lr=%.17g", lr);
    CHECK(bw_recipe_load(&t->r, NULL, set, sizeof set / sizeof *set, err));
    t->g = make_graph(true);
    t->plain = make_graph(false);
    CHECK(bwi_exec_create(&t->e, t->g, &o, NULL, err));
    CHECK(bwi_exec_create(&t->plain_e, t->plain, &o, NULL, err));
    CHECK(bwi_params_create(&t->p, t->g, t->r, 100, err));
    CHECK(bwi_hyper_create(&t->h, t->g, err));
    assert_int_equal(bwi_hyper_layers(t->h), LAYERS);
    CHECK(bwi_hyper_train(t->h, &t->p, t->r, err));
}

static void trial_close(trial *t)
{
    bwi_hyper_destroy(&t->h);
    bwi_params_destroy(&t->p);
    bwi_exec_destroy(&t->e);
    bwi_exec_destroy(&t->plain_e);
    bwi_graph_destroy(&t->g);
    bwi_graph_destroy(&t->plain);
    bw_recipe_destroy(&t->r);
}

static double loss_of(bwi_exec *e)
{
    bwi_rng r = bwi_rng_make(5, BWI_RNG_TEST, 9, 0);
    double *x = bwi_exec_input(e), loss;
    int32_t labels[BATCH];
    int top1, top5;
    for (int i = 0; i < BATCH * SIDE * SIDE * 3; i++) x[i] = bwi_rng_normal(&r);
    for (int i = 0; i < BATCH; i++) labels[i] = (int32_t)bwi_rng_below(&r, CLASSES);
    CHECK(bwi_exec_forward(e, BATCH, true, NULL, err));
    CHECK(bwi_exec_loss(e, labels, &loss, &top1, &top5, err));
    return loss;
}

static bwi_param *param_of(bwi_graph *g, int l, const char *suffix)
{
    char name[BWI_NAME];
    snprintf(name, sizeof name, "%s.%s", layer[l], suffix);
    bwi_param *p = bwi_graph_param(g, name);
    assert_non_null(p);
    return p;
}

static bwi_quant *quantizer(bwi_graph *g, int l)
{
    bwi_quant *q;
    const bwi_node *n;
    for (int i = 0; bwi_graph_quant(g, i, &q, &n); i++)
        if (!strcmp(n->name, layer[l])) return q;
    fail();
    return NULL;
}

/* The loss with the blocks as they are now and the rounding residual of each weight held: weights gamma * (W + residual) in the plain network. */
static double frozen_loss(trial *t, const uint8_t *bits, double *const residual[LAYERS])
{
    bwi_hyper_make(t->h, bits, t->g);
    for (int l = 0; l < LAYERS; l++) {
        const bwi_param *w = param_of(t->g, l, "weight");
        double *to = param_of(t->plain, l, "weight")->data;
        const double gamma = quantizer(t->g, l)->theta[0];
        for (size_t i = 0; i < w->numel; i++) to[i] = gamma * (((const double *)w->data)[i] + residual[l][i]);
    }
    t->plain->version++;
    return loss_of(t->plain_e);
}

static void find_residuals(const trial *t, double *residual[LAYERS])
{
    for (int l = 0; l < LAYERS; l++) {
        const bwi_param *w = param_of(t->g, l, "weight");
        bwi_quant *q = quantizer(t->g, l);
        residual[l] = malloc(w->numel * sizeof(double));
        assert_non_null(residual[l]);
        CHECK(bwi_quant_prepare(q, w->data, BWI_DT_F64, w->numel, err));
        bwi_quant_codes(q, w->data, BWI_DT_F64, w->numel, BWI_DT_F64, residual[l]);
        for (size_t i = 0; i < w->numel; i++)
            residual[l][i] = q->k.scale / q->theta[0] * residual[l][i] - ((const double *)w->data)[i];
    }
}

/* A step of SGD with rate 1 and no momentum leaves -dL/dp in every parameter of a block. Minimum and range of a layer's weights are constants of
 * the method, so the checked function holds them; the one weight at each end has a residual of 0 that way, too. */
static void test_gradients(void **state)
{
    (void)state;
    static const char *const suffix[] = {"weight_block.fc1.weight",   "weight_block.fc1.bias",   "weight_block.fc2.weight",
                                         "weight_block.fc2.bias",     "weight_block.fc3.weight", "weight_block.fc3.bias",
                                         "weight_block.gamma.weight", "weight_block.gamma.bias"};
    enum { KINDS = sizeof suffix / sizeof *suffix };
    double *residual[LAYERS], *before[LAYERS][KINDS], worst = 0;
    uint8_t bits[LAYERS];
    int checked = 0, moved[KINDS] = {0};
    trial t;
    trial_open(&t, 1);
    bwi_hyper_before(t.h, 0, 3);
    for (int l = 0; l < LAYERS; l++) bits[l] = (uint8_t)quantizer(t.g, l)->bits;
    const double loss = loss_of(t.e);
    CHECK(bwi_exec_backward(t.e, err));
    find_residuals(&t, residual);
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < KINDS; k++) {
            const bwi_param *p = param_of(t.g, l, suffix[k]);
            before[l][k] = malloc(p->numel * sizeof(double));
            assert_non_null(before[l][k]);
            memcpy(before[l][k], p->data, p->numel * sizeof(double));
        }
    bwi_hyper_after(t.h, 0, 3);
    double *gradient[LAYERS][KINDS];
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < KINDS; k++) {
            const bwi_param *p = param_of(t.g, l, suffix[k]);
            gradient[l][k] = malloc(p->numel * sizeof(double));
            assert_non_null(gradient[l][k]);
            for (size_t i = 0; i < p->numel; i++) gradient[l][k][i] = before[l][k][i] - ((const double *)p->data)[i];
            memcpy(p->data, before[l][k], p->numel * sizeof(double));
        }
    assert_true(fabs(frozen_loss(&t, bits, residual) - loss) < 1e-12 * (1 + loss));
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < KINDS; k++) {
            const bwi_param *p = param_of(t.g, l, suffix[k]);
            const double h = 1e-5;
            for (size_t i = 0; i<p->numel; i += p->numel> 100 ? 7 : 1) {
                double *x = &((double *)p->data)[i], at = *x;
                *x = at + h;
                const double above = frozen_loss(&t, bits, residual);
                *x = at - h;
                const double below = frozen_loss(&t, bits, residual);
                *x = at;
                const double want = (above - below) / (2 * h), e = fabs(gradient[l][k][i] - want);
                worst = fmax(worst, e / (fabs(want) + 1e-3));
                if (e > 1e-6 * (fabs(want) + 1e-2)) fail_msg("%s: gradient %g, expected %g", p->name, gradient[l][k][i], want);
                checked++;
                moved[k] += want != 0;
            }
        }
    print_message("%d gradients, worst error %.1e\n", checked, worst);
    for (int k = 0; k < KINDS; k++) assert_true(moved[k] > 0);
    for (int l = 0; l < LAYERS; l++) {
        free(residual[l]);
        for (int k = 0; k < KINDS; k++) free(before[l][k]), free(gradient[l][k]);
    }
    trial_close(&t);
}

/* ---- Bits ---------------------------------------------------------------------------------------------------------------- */

/* Every step draws anew, the same again for the same step; all bits of the range come, and no others. */
static void test_draws(void **state)
{
    (void)state;
    int seen[10] = {0};
    uint8_t first[LAYERS];
    trial t;
    trial_open(&t, 0.1);
    for (int step = 0; step < 200; step++) {
        bwi_hyper_before(t.h, 0, step);
        for (int l = 0; l < LAYERS; l++) {
            const int b = quantizer(t.g, l)->bits;
            assert_in_range(b, 1, 8);
            seen[b]++;
            if (step == 7) first[l] = (uint8_t)b;
        }
    }
    for (int b = 1; b <= 8; b++) assert_in_range(seen[b], 45, 110);
    bwi_hyper_before(t.h, 0, 7);
    for (int l = 0; l < LAYERS; l++) assert_int_equal(quantizer(t.g, l)->bits, first[l]);
    bwi_hyper_make(t.h, NULL, t.g);
    for (int l = 0; l < LAYERS; l++) assert_int_equal(quantizer(t.g, l)->bits, 3);
    trial_close(&t);
}

/* A layer whose bits the policy fixes has them in every step; the others draw. */
static void test_fixed_layers(void **state)
{
    const char *const set[] = {"quant.weight=minmax", "quant.weight_bits=3", "quant.policy=first-last-8", "net.classes=10",
                               "hypernet.hidden=2",   "hypernet.min_bits=1", "hypernet.max_bits=4"};
    bw_recipe *r;
    bwi_graph *g;
    bwi_params p;
    bwi_hyper *h;
    int seen[9] = {0}, fixed[9] = {0};
    (void)state;
    CHECK(bw_recipe_load(&r, NULL, set, sizeof set / sizeof *set, err));
    CHECK(bwi_recipe_graph(&g, r, 0, err));
    CHECK(bwi_params_create(&p, g, r, 100, err));
    CHECK(bwi_hyper_create(&h, g, err));
    CHECK(bwi_hyper_train(h, &p, r, err));
    for (int step = 0; step < 10; step++) {
        bwi_hyper_before(h, 0, step);
        for (int i = 0; i < g->n_nodes; i++)
            if (g->node[i].wq) (g->node[i].fixed ? fixed : seen)[g->node[i].wq->bits]++;
    }
    assert_int_equal(fixed[8], 2 * 10);
    assert_int_equal(seen[1] + seen[2] + seen[3] + seen[4], (bwi_hyper_layers(h) - 2) * 10);
    for (int b = 1; b <= 4; b++) assert_true(seen[b] > 10);
    bwi_hyper_destroy(&h);
    bwi_params_destroy(&p);
    bwi_graph_destroy(&g);
    bw_recipe_destroy(&r);
}

/* Weights of one bit-width differ from those of another, and are the same in another graph. */
static void test_make(void **state)
{
    (void)state;
    static const uint8_t low[LAYERS] = {1, 2, 3}, high[LAYERS] = {8, 2, 5};
    double kept[3 * 9 * 5];
    trial t;
    trial_open(&t, 0.1);
    bwi_graph *other = make_graph(true);
    bwi_hyper_make(t.h, low, t.g);
    const bwi_param *w = param_of(t.g, 0, "weight");
    memcpy(kept, w->data, sizeof kept);
    bwi_hyper_make(t.h, low, other);
    for (int l = 0; l < LAYERS; l++) {
        const bwi_param *a = param_of(t.g, l, "weight"), *b = param_of(other, l, "weight");
        assert_memory_equal(a->data, b->data, a->numel * sizeof(double));
        assert_true(quantizer(t.g, l)->theta[0] == quantizer(other, l)->theta[0]);
        assert_true(fabs(quantizer(t.g, l)->theta[0] - 1) < .1);
    }
    bwi_hyper_make(t.h, high, t.g);
    assert_memory_not_equal(kept, w->data, sizeof kept);

    bwi_hyper_adopt(t.g); /* whatever the bits, the weights that are there now */
    memcpy(kept, w->data, sizeof kept);
    bwi_hyper_make(t.h, low, t.g);
    assert_memory_equal(kept, w->data, sizeof kept);
    bwi_graph_destroy(&other);
    trial_close(&t);
}

/* ---- Runs ---------------------------------------------------------------------------------------------------------------- */

#define SMALL                                                                                                                  \
    "data.limit=40", "train.batch=16", "train.eval_batch=20", "train.threads=1", "train.epochs=2", "quant.weight=minmax",      \
        "hypernet.hidden=4", "optim.lr=0.01", "quant.weight_bits=3", "data.holdout=30"

static void train(const char *const *set, size_t n, const char *folder, const char *init, bw_train_result *result)
{
    const bw_train_options o = {.out_dir = in_root(folder), .resume = true};
    const char *all[20];
    char start[450];
    bw_recipe *r;
    if (n) memcpy(all, set, n * sizeof *set);
    snprintf(start, sizeof start, "init=%s", init);
    all[n] = start;
    CHECK(bw_recipe_load(&r, NULL, all, n + (init != NULL), err));
    CHECK(bw_train(r, &o, result, err));
    bw_recipe_destroy(&r);
}

/* Hypernetwork, then fine-tuning at found bits, from its file: the result is an ordinary model with the same accuracy, without blocks. */
static void test_stages(void **state)
{
    (void)state;
    const char *const first[] = {SMALL, "hypernet.min_bits=1", "hypernet.max_bits=5"},
                      *const second[] = {SMALL, "quant.layers=[{match: layer1.*, weight_bits: 2}]"};
    char path[450];
    bw_train_result result;
    bwi_model m;
    train(first, sizeof first / sizeof *first, "first", NULL, &result);
    snprintf(path, sizeof path, "%s/model.safetensors", in_root("first"));
    CHECK(bwi_model_open(&m, path, err));
    assert_int_equal(m.recipe->hypernet.hidden, 4);
    assert_non_null(bwi_tensors_find(&m.file, "conv1.weight_block.fc3.weight"));
    bwi_model_close(&m);

    bw_error error; /* not a network that could be deployed, but one that can be evaluated */
    bw_eval_result r;
    assert_int_equal(bw_export(path, in_root("packed.safetensors"), "packed", NULL, &error), BW_UNSUPPORTED);
    assert_non_null(strstr(error.msg, "search for bits"));
    CHECK(bw_eval(path, &(bw_eval_options){.threads = 1}, &r, err));
    assert_false(r.engine);
    train(second, sizeof second / sizeof *second, "second", path, &result);
    snprintf(path, sizeof path, "%s/model.safetensors", in_root("second"));
    CHECK(bwi_model_open(&m, path, err));
    assert_int_equal(m.recipe->hypernet.hidden, 0);
    assert_null(bwi_tensors_find(&m.file, "conv1.weight_block.fc3.weight"));
    assert_non_null(bwi_tensors_find(&m.file, "conv1.weight_quant.gamma"));

    bwi_model c; /* the weights are those that the checkpoint's blocks make at the recipe's bits */
    bwi_hyper *h;
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", in_root("second"));
    CHECK(bwi_model_open(&c, path, err));
    CHECK(bwi_hyper_create(&h, c.graph, err));
    bwi_hyper_make(h, NULL, c.graph);
    for (int i = 0; i < m.graph->n_params; i++) {
        const bwi_param *p = &m.graph->param[i], *q = bwi_graph_param(c.graph, p->name);
        assert_non_null(q);
        assert_memory_equal(p->data, q->data, p->numel * bwi_dtype_size(p->dtype));
    }
    bwi_quant *q;
    const bwi_node *n;
    int two = 0, three = 0;
    for (int i = 0; bwi_graph_quant(m.graph, i, &q, &n); i++) two += q->bits == 2, three += q->bits == 3;
    assert_int_equal(two, 6);
    assert_int_equal(three, 14);
    bwi_hyper_destroy(&h);
    bwi_model_close(&c);
    bwi_model_close(&m);
}

/* Stopped after every step and resumed: the same bytes. */
static void test_resume(void **state)
{
    (void)state;
    const char *const set[] = {SMALL, "hypernet.min_bits=1", "hypernet.max_bits=8", "name=resumed"};
    char a[450], b[450], command[950];
    bw_train_result result;
    bw_recipe *r;
    train(set, sizeof set / sizeof *set, "whole", NULL, &result);
    for (int i = 0; i < 7; i++) {
        const bw_train_options o = {.out_dir = in_root("steps"), .resume = true, .stop_after_steps = 1};
        CHECK(bw_recipe_load(&r, NULL, set, sizeof set / sizeof *set, err));
        const bw_status st = bw_train(r, &o, &result, NULL);
        bw_recipe_destroy(&r);
        assert_true(st == BW_OK || st == BW_INTERRUPTED);
    }
    for (int k = 0; k < 2; k++) {
        snprintf(a, sizeof a, "%s/%s.safetensors", in_root("whole"), k ? "checkpoint" : "model");
        snprintf(b, sizeof b, "%s/%s.safetensors", in_root("steps"), k ? "checkpoint" : "model");
        snprintf(command, sizeof command, "cmp -s '%s' '%s'", a, b);
        assert_int_equal(system(command), 0);
    }
}

static void expect_refused(const char *const *set, size_t n, const char *part)
{
    bw_recipe *r;
    bw_error err;
    assert_int_equal(bw_recipe_load(&r, NULL, set, n, &err), BW_ARG);
    if (!strstr(err.msg, part)) fail_msg("'%s' lacks '%s'", err.msg, part);
}

static void test_refused(void **state)
{
    (void)state;
    expect_refused((const char *const[]){"hypernet.hidden=32"}, 1, "quant.weight");
    expect_refused((const char *const[]){"hypernet.min_bits=1", "hypernet.max_bits=2"}, 2, "hypernet.hidden");
    expect_refused((const char *const[]){"hypernet.hidden=32", "quant.weight=lsq"}, 2, "minmax");
    expect_refused((const char *const[]){"hypernet.hidden=32", "quant.weight=minmax", "hypernet.min_bits=5"}, 3, "range");
    expect_refused((const char *const[]){"hypernet.hidden=32", "quant.weight=minmax", "quant.weight_gradient=fcgrad"}, 3,
                   "fcgrad");
}

/* ResNet-20: 20 blocks, 8.88 million parameters at 32 hidden units, and none of them in the model's size. */
static void test_sizes(void **state)
{
    (void)state;
    const char *const set[] = {"quant.weight=minmax", "quant.weight_bits=1", "hypernet.hidden=32"};
    bw_recipe *r;
    bwi_graph *g;
    bwi_hyper *h;
    size_t n = 0;
    uint64_t bytes;
    CHECK(bw_recipe_load(&r, NULL, set, 3, err));
    CHECK(bwi_recipe_graph(&g, r, 10, err));
    CHECK(bwi_hyper_create(&h, g, err));
    assert_int_equal(bwi_hyper_layers(h), 20);
    for (int i = 0; i < g->n_params; i++)
        if (g->param[i].role == BWI_PARAM_HYPER) n += g->param[i].numel;
    assert_int_equal(n, 8878148);
    assert_true(bwi_graph_bytes(g, &bytes) < 50000);
    bwi_hyper_destroy(&h);
    bwi_graph_destroy(&g);
    bw_recipe_destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_draws),  cmocka_unit_test(test_fixed_layers),
        cmocka_unit_test(test_make),      cmocka_unit_test(test_stages), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
