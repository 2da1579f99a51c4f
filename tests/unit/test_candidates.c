/* What assignments of bit-widths are worth (search/candidates.h), on small networks trained a little on the generated images. */
#include "check.h"
#include "folder.h"

#include "search/candidates.h"
#include "search/search.h"
#include "train/evaluate.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 20, COUNT = 3 };

/* A model in the group's folder. */
static const char *train(const char *name, const char *const *set, size_t n)
{
    static char path[450];
    const char *all[16] = {"data.limit=160", "train.batch=32", "train.eval_batch=50", "train.threads=2",
                           "train.epochs=2", "optim.lr=0.05",  "data.holdout=200"};
    const bw_train_options o = {.out_dir = in_root(name), .overwrite = true};
    bw_train_result result;
    bw_recipe *r;
    if (n) memcpy(all + 7, set, n * sizeof *set);
    CHECK(bw_recipe_load(&r, NULL, all, 7 + n, err));
    CHECK(bw_train(r, &o, &result, err));
    bw_recipe_destroy(&r);
    snprintf(path, sizeof path, "%s/model.safetensors", in_root(name));
    return path;
}

static const char *quantizer = "minmax"; /* of float models */
static int images = 100;

static bwi_candidates *open_candidates(const char *model, int threads)
{
    char weight[40];
    const char *const set[] = {weight};
    const bwi_candidates_options o = {
        .calibrate_batches = 3, .calibrate_batch = 16, .limit = images, .threads = threads, .set = set, .n_set = 1};
    snprintf(weight, sizeof weight, "quant.weight=%s", quantizer);
    bwi_candidates *c;
    CHECK(bwi_candidates_open(&c, model, &o, err));
    return c;
}

static void fill(uint8_t bits[COUNT][LAYERS])
{
    for (int i = 0; i < COUNT; i++)
        for (int l = 0; l < LAYERS; l++) bits[i][l] = (uint8_t)(i == 0 ? 8 : i == 1 ? 1 : 1 + (l * 5 + i * 3) % 8);
}

/* The same errors for one thread and two, for one call and several, and again after other assignments. */
static void check_repeatable(const char *model)
{
    uint8_t bits[COUNT][LAYERS];
    double first[COUNT], other[COUNT];
    fill(bits);
    bwi_candidates *c = open_candidates(model, 1);
    CHECK(bwi_candidates_evaluate(c, bits[0], COUNT, first, err));
    for (int i = COUNT - 1; i >= 0; i--) CHECK(bwi_candidates_evaluate(c, bits[i], 1, &other[i], err));
    assert_memory_equal(first, other, sizeof first);
    bwi_candidates_close(&c);
    c = open_candidates(model, 2);
    CHECK(bwi_candidates_evaluate(c, bits[0], COUNT, other, err));
    assert_memory_equal(first, other, sizeof first);
    for (int i = 0; i < COUNT; i++) assert_true(first[i] >= 0 && first[i] <= 100);
    bwi_candidates_close(&c);
}

/* The same by other means: running statistics of each batch alone, averaged here; evaluation as bw_eval does it. */
static double expected_error(const char *model, int bits)
{
    enum { BATCHES = 3 };
    bwi_model m;
    bwi_graph *g;
    bwi_exec *e, *t;
    bwi_dataset *d;
    bwi_loader *l;
    bwi_batch b;
    bw_eval_result r;
    char own[20];
    double *sum[200] = {0};
    CHECK(bwi_model_open(&m, model, err));
    snprintf(own, sizeof own, "%s", quantizer);
    bw_recipe like = *m.recipe;
    like.quant.weight = own;
    like.quant.weight_bits = bits;
    CHECK(bwi_recipe_graph(&g, &like, 0, err));
    for (int i = 0; i < g->n_params; i++) {
        const bwi_param *p = bwi_graph_param(m.graph, g->param[i].name);
        if (p) memcpy(g->param[i].data, p->data, p->numel * sizeof(float));
    }
    const bwi_exec_options train = {.batch = 16, .train = true}, test = {.batch = 50};
    CHECK(bwi_exec_create(&t, g, &train, NULL, err));
    CHECK(bwi_exec_create(&e, g, &test, NULL, err));
    CHECK(bwi_open_data(&d, "shapes", err));
    bwi_loader_options o = {.split = BWI_TRAIN,
                            .batch = 16,
                            .augment = like.data.augment,
                            .shuffle = true,
                            .normalize = bwi_normalize_find("cifar"),
                            .holdout = 200};
    CHECK(bwi_loader_create(&l, d, &o, err));
    CHECK(bwi_loader_start(l, 0, 0, err));
    for (int i = 0; i < g->n_nodes; i++) g->node[i].attr.momentum = 1;
    for (int k = 0; k < BATCHES; k++) {
        CHECK(bwi_loader_next(l, &b, err));
        memcpy(bwi_exec_input(t), b.x, (size_t)b.n * 3072 * sizeof(float));
        CHECK(bwi_exec_forward(t, b.n, true, NULL, err));
        for (int i = 0; i < g->n_params; i++) {
            const bwi_param *p = &g->param[i];
            if (p->role != BWI_PARAM_STATE) continue;
            if (!sum[i]) sum[i] = calloc(p->numel, sizeof(double));
            assert_non_null(sum[i]);
            for (size_t j = 0; j < p->numel; j++) sum[i][j] += (double)((const float *)p->data)[j] / BATCHES;
        }
    }
    bwi_loader_destroy(&l);
    for (int i = 0; i < g->n_params; i++) {
        for (size_t j = 0; sum[i] && j < g->param[i].numel; j++) ((float *)g->param[i].data)[j] = (float)sum[i][j];
        free(sum[i]);
    }
    o = (bwi_loader_options){
        .split = BWI_TRAIN, .batch = 50, .normalize = o.normalize, .holdout = 200, .held = true, .limit = 100};
    CHECK(bwi_loader_create(&l, d, &o, err));
    CHECK(bwi_evaluate(e, g, l, false, &r, err));
    bwi_loader_destroy(&l);
    bwi_dataset_close(&d);
    bwi_exec_destroy(&e);
    bwi_exec_destroy(&t);
    bwi_graph_destroy(&g);
    bwi_model_close(&m);
    return 100 - r.top1;
}

static void check_errors(const char *model)
{
    uint8_t bits[COUNT][LAYERS];
    double error[COUNT];
    check_repeatable(model);
    bwi_candidates *c = open_candidates(model, 2);
    fill(bits);
    CHECK(bwi_candidates_evaluate(c, bits[0], 2, error, err));
    for (int i = 0; i < 2; i++) {
        const double want = expected_error(model, i ? 1 : 8);
        print_message("%s: top-1 error %.2f, by other means %.2f\n", quantizer, error[i], want);
        assert_true(fabs(error[i] - want) < 2.5); /* two images may lie on the border */
    }
    bwi_candidates_close(&c);
}

/* Quantized by min/max, and by a quantizer with parameters, which start anew for every assignment. */
static void test_float_model(void **state)
{
    (void)state;
    const char *model = train("float", NULL, 0);
    double loss[LAYERS][BWI_SEARCH_BITS + 1] = {{0}};
    bwi_searched_layer layer;
    bool seen;
    int lo, hi;
    check_errors(model);
    quantizer = "lsq";
    check_errors(model);
    quantizer = "minmax";
    bwi_candidates *c = open_candidates(model, 2);
    bwi_candidates_range(c, &lo, &hi);
    assert_int_equal(lo, 1);
    assert_int_equal(hi, 8);
    assert_int_equal(bwi_candidates_images(c, &seen), 100);
    assert_false(seen);
    assert_true(bwi_candidates_layer(c, 0, &layer) && !strcmp(layer.name, "conv1"));
    assert_true(layer.weights == 432 && layer.multiplications == 432 * 1024 && layer.activation_bits == 0);
    assert_true(bwi_candidates_layer(c, LAYERS - 1, &layer) && !bwi_candidates_layer(c, LAYERS, &layer));

    CHECK(bwi_candidates_sensitivity(c, loss, err));
    int positive = 0;
    for (int l = 0; l < LAYERS; l++) {
        assert_true(loss[l][8] == 0);
        for (int b = 2; b < 8; b++) assert_true(loss[l][b] <= loss[l][b - 1]);
        positive += loss[l][1] > 0;
    }
    assert_int_equal(positive, LAYERS);
    bwi_candidates_close(&c);
    double again[LAYERS][BWI_SEARCH_BITS + 1] = {{0}}; /* with one thread: the same bits */
    c = open_candidates(model, 1);
    CHECK(bwi_candidates_sensitivity(c, again, err));
    assert_memory_equal(loss, again, sizeof loss);
    bwi_candidates_close(&c);
    quantizer =
        "lsq"; /* whose one bit lies at the mean size of the weights, not at the largest: errors alone could not tell them apart */
    c = open_candidates(model, 2);
    quantizer = "minmax";
    CHECK(bwi_candidates_sensitivity(c, again, err));
    for (int l = 0; l < LAYERS; l++) assert_true(again[l][1] > 0 && again[l][1] < loss[l][1]);
    bwi_candidates_close(&c);
}

static void test_hypernetwork(void **state)
{
    (void)state;
    const char *const set[] = {"quant.weight=minmax", "hypernet.hidden=8", "hypernet.min_bits=1", "hypernet.max_bits=5",
                               "quant.weight_bits=3"};
    const char *model = train("hyper", set, 5);
    int lo, hi;
    check_repeatable(model);
    bwi_candidates *c = open_candidates(model, 1);
    bwi_candidates_range(c, &lo, &hi);
    assert_int_equal(lo, 1);
    assert_int_equal(hi, 5);
    bwi_candidates_close(&c);
}

/* Learned step sizes: at the model's own bits they stay, at others they start anew. */
static void test_lsq(void **state)
{
    (void)state;
    const char *const set[] = {"quant.weight=lsq", "quant.activation=lsq", "quant.weight_bits=3", "quant.activation_bits=4"};
    const char *model = train("lsq", set, 4);
    bwi_searched_layer layer;
    check_repeatable(model);
    bwi_candidates *c = open_candidates(model, 1);
    assert_true(bwi_candidates_layer(c, 1, &layer) && layer.activation_bits == 4);
    bwi_candidates_close(&c);
}

/* By a policy the first and the last layer have 8 bits and keep them; by rules they have the same but are searched. Both are the same network. */
static void check_kept(const char *const *set, size_t n)
{
    const char *rules[8] = {"quant.layers=[{match: conv1, weight_bits: 8}, {match: linear, weight_bits: 8}]"},
               *policy[8] = {"quant.policy=first-last-8"};
    bwi_searched_layer layer;
    uint8_t bits[LAYERS];
    double error, by_rules;
    memcpy(rules + 1, set, n * sizeof *set);
    memcpy(policy + 1, set, n * sizeof *set);
    memset(bits, 8, sizeof bits);
    bwi_candidates *c = open_candidates(train("policy", policy, n + 1), 1);
    for (int i = 0; i < LAYERS; i++) assert_true(bwi_candidates_layer(c, i, &layer) && layer.kept == (i < LAYERS - 2 ? 0 : 8));
    assert_string_equal(layer.name, "linear");
    assert_false(bwi_candidates_layer(c, LAYERS, &layer));
    CHECK(bwi_candidates_evaluate(c, bits, 1, &error, err));
    bwi_candidates_close(&c);
    c = open_candidates(train("rules", rules, n + 1), 1);
    assert_true(bwi_candidates_layer(c, 0, &layer) && layer.kept == 0);
    bits[0] = bits[LAYERS - 1] = 8;
    CHECK(bwi_candidates_evaluate(c, bits, 1, &by_rules, err));
    print_message("8 bits: error %.1f, kept %.1f", by_rules, error);
    assert_true(error == by_rules);
    bool matters = false; /* or the bits of these two would prove nothing */
    for (uint8_t b = 1; b <= 4; b++) {
        bits[0] = bits[LAYERS - 1] = b;
        CHECK(bwi_candidates_evaluate(c, bits, 1, &error, err));
        print_message(", %d bits %.1f", b, error);
        matters = matters || error != by_rules;
    }
    print_message("\n");
    assert_true(matters);
    bwi_candidates_close(&c);
}

static void test_kept_layers(void **state)
{
    (void)state;
    const char *const set[] = {"quant.weight=minmax", "quant.weight_bits=4", "data.limit=640",
                               "optim.lr=0.002",      "data.holdout=400",    "hypernet.hidden=8"};
    images = 400; /* networks trained this little are wrong about most: of a hundred, two could be right about as many */
    check_kept(set, 5);
    check_kept(set, 6);
    images = 100;
}

/* A network that computes no numbers is wrong about every image, and leaves nothing behind. */
static void test_no_numbers(void **state)
{
    (void)state;
    static const char *const name[] = {"linear.bias", "bn1.weight"};
    bwi_candidates *c = open_candidates(train("float", NULL, 0), 1);
    uint8_t bits[COUNT][LAYERS];
    double error, again;
    fill(bits);
    CHECK(bwi_candidates_evaluate(c, bits[2], 1, &error, err));
    assert_true(error < 100);
    for (int i = 0; i < 2; i++) {
        float *x = bwi_graph_param(bwi_candidates_model(c)->graph, name[i])->data;
        const float before = *x;
        *x = i ? NAN : INFINITY;
        CHECK(bwi_candidates_evaluate(c, bits[2], 1, &again, err));
        print_message("%s %g: error %g\n", name[i], (double)*x, again);
        assert_true(again == 100);
        *x = before;
        CHECK(bwi_candidates_evaluate(c, bits[2], 1, &again, err));
        assert_true(again == error);
    }
    bwi_candidates_close(&c);
}

static void test_refused(void **state)
{
    (void)state;
    bwi_candidates_options o = {.calibrate_batches = 3, .calibrate_batch = 16, .data = "nothing"};
    bwi_candidates *c;
    bw_error err;
    assert_int_equal(bwi_candidates_open(&c, in_root("none"), &o, &err), BW_IO);
    assert_null(c);
    assert_int_equal(bwi_candidates_open(&c, train("float", NULL, 0), &o, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "nothing"));
    assert_null(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_float_model), cmocka_unit_test(test_hypernetwork),
                                       cmocka_unit_test(test_lsq),         cmocka_unit_test(test_kept_layers),
                                       cmocka_unit_test(test_no_numbers),  cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
