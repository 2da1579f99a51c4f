/* Network families: parameter counts of the literature, layer names and shapes of published PyTorch weights, refused options. */
#include "zoo/zoo.h"
#include "base/alloc.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static bwi_net_options options(const char *shortcut)
{
    return (bwi_net_options){.shortcut = shortcut, .classes = 10, .input = {32, 32, 3}};
}

static bwi_graph *create(const char *name, const bwi_net_options *o)
{
    bwi_graph *g = NULL;
    bw_error err = {0};
    if (bwi_net_create(&g, name, o, BWI_DT_F32, &err) != BW_OK) fail_msg("%s: %s", name, err.msg);
    return g;
}

/* Trained parameters; *convs counts weights of convolutions and linear layers. */
static long count(const bwi_graph *g, int *convs)
{
    long n = 0;
    *convs = 0;
    for (int i = 0; i < g->n_params; i++) {
        if (g->param[i].role != BWI_PARAM_STATE) n += (long)g->param[i].numel;
        *convs += g->param[i].role == BWI_PARAM_WEIGHT;
    }
    return n;
}

static void parameter_counts(void **state)
{
    (void)state;
    const struct {
        const char *name, *shortcut;
        bool last_bn;
        int classes;
        long params;
        int convs;
    } rows[] = {
        {"resnet20", "A", false, 10, 269722, 20},
        {"resnet20", NULL, false, 10, 269722, 20},
        {"resnet20", "projection", false, 10, 272474, 22},
        {"resnet20", "A", true, 10, 269722 + 128, 20},
        {"resnet20", "A", false, 100, 269722 + 90 * 65, 20},
        {"resnet32", "A", false, 10, 464154, 32},
        {"resnet44", "A", false, 10, 658586, 44},
        {"resnet56", "A", false, 10, 853018, 56},
        {"resnet110", "A", false, 10, 1727962, 110},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bwi_net_options o = options(rows[i].shortcut);
        o.last_bn = rows[i].last_bn;
        o.classes = rows[i].classes;
        bwi_graph *g = create(rows[i].name, &o);
        int convs;
        assert_int_equal(count(g, &convs), rows[i].params);
        assert_int_equal(convs, rows[i].convs);
        assert_string_equal(g->family, rows[i].name);
        assert_int_equal(g->classes, rows[i].classes);
        bwi_graph_destroy(&g);
    }
}

static const bwi_node *node(const bwi_graph *g, const char *name)
{
    for (int i = 0; i < g->n_nodes; i++)
        if (!strcmp(g->node[i].name, name)) return &g->node[i];
    fail_msg("no layer %s", name);
    return NULL;
}

static void shape_is(const bwi_graph *g, const char *name, int h, int w, int c)
{
    const bwi_shape s = g->value[node(g, name)->out].shape;
    if (s.h != h || s.w != w || s.c != c) fail_msg("%s: %dx%dx%d", name, s.h, s.w, s.c);
}

static void shapes_of_values(void **state)
{
    (void)state;
    const bwi_net_options o = options("A");
    bwi_graph *g = create("resnet20", &o);
    shape_is(g, "conv1", 32, 32, 16);
    shape_is(g, "layer1.2.relu2", 32, 32, 16);
    shape_is(g, "layer2.0.shortcut", 16, 16, 32);
    shape_is(g, "layer2.0.conv1", 16, 16, 32);
    shape_is(g, "layer3.0.add", 8, 8, 64);
    shape_is(g, "layer3.2.relu2", 8, 8, 64);
    shape_is(g, "pool", 1, 1, 64);
    shape_is(g, "linear", 1, 1, 10);
    assert_int_equal(g->output, node(g, "linear")->out);
    assert_int_equal(node(g, "layer2.0.add")->in[0], node(g, "layer2.0.bn2")->out);
    assert_int_equal(node(g, "layer2.0.add")->in[1], node(g, "layer2.0.shortcut")->out);
    assert_int_equal(node(g, "layer2.1.add")->in[1], node(g, "layer2.0.relu2")->out);
    assert_int_equal(node(g, "layer2.0.shortcut")->in[0], node(g, "layer1.2.relu2")->out);
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(g->node[i].name, g->node[j].name);
    bwi_graph_destroy(&g);

    bwi_net_options wide = options("A"); /* odd and other sizes, as long as they can be halved twice */
    wide.input = (bwi_shape){33, 50, 3};
    g = create("resnet20", &wide);
    shape_is(g, "layer2.0.add", 17, 25, 32);
    shape_is(g, "layer3.0.add", 9, 13, 64);
    bwi_graph_destroy(&g);
}

static void parameter(const bwi_graph *g, const char *name, int ndim, int64_t a, int64_t b, int64_t c, int64_t d)
{
    const bwi_param *p = bwi_graph_param(g, name);
    if (!p) fail_msg("no parameter %s", name);
    const int64_t want[4] = {a, b, c, d};
    assert_int_equal(p->ndim, ndim);
    for (int i = 0; i < ndim; i++) assert_int_equal(p->dim[i], want[i]);
}

static void names_are_those_of_published_weights(void **state)
{
    (void)state;
    bwi_net_options o = options("A");
    bwi_graph *g = create("resnet20", &o);
    parameter(g, "conv1.weight", 4, 16, 3, 3, 3);
    parameter(g, "bn1.running_var", 1, 16, 0, 0, 0);
    parameter(g, "layer1.0.bn1.running_mean", 1, 16, 0, 0, 0);
    parameter(g, "layer2.0.conv1.weight", 4, 32, 16, 3, 3);
    parameter(g, "layer3.2.conv2.weight", 4, 64, 64, 3, 3);
    parameter(g, "layer3.2.bn2.weight", 1, 64, 0, 0, 0);
    parameter(g, "layer3.2.bn2.bias", 1, 64, 0, 0, 0);
    parameter(g, "linear.weight", 2, 10, 64, 0, 0);
    parameter(g, "linear.bias", 1, 10, 0, 0, 0);
    assert_null(bwi_graph_param(g, "conv1.bias"));
    assert_null(bwi_graph_param(g, "layer2.0.downsample.0.weight"));
    assert_null(bwi_graph_param(g, "bn_last.weight"));
    assert_int_equal(g->n_params, 20 + 1 + 4 * 19); /* weights, the bias, four arrays for each batch norm */
    bwi_graph_destroy(&g);

    o = options("projection");
    o.last_bn = true;
    g = create("resnet20", &o);
    parameter(g, "layer2.0.downsample.0.weight", 4, 32, 16, 1, 1);
    parameter(g, "layer3.0.downsample.0.weight", 4, 64, 32, 1, 1);
    parameter(g, "layer3.0.downsample.1.running_var", 1, 64, 0, 0, 0);
    parameter(g, "bn_last.weight", 1, 64, 0, 0, 0);
    assert_null(bwi_graph_param(g, "layer1.0.downsample.0.weight"));
    assert_int_equal(node(g, "linear")->in[0], node(g, "bn_last")->out);
    bwi_graph_destroy(&g);
}

static void refused(const char *name, const bwi_net_options *o, bw_status want, const char *text)
{
    bw_error err = {0};
    bwi_graph *g = (bwi_graph *)&err; /* must be set to NULL */
    assert_int_equal(bwi_net_create(&g, name, o, BWI_DT_F32, &err), want);
    assert_null(g);
    if (!strstr(err.msg, text)) fail_msg("'%s' lacks '%s'", err.msg, text);
    assert_int_equal(bwi_net_create(&g, name, o, BWI_DT_F32, NULL), want);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    bwi_net_options o = options("A");
    refused("resnet21", &o, BW_ARG, "did you mean 'resnet20'?");
    refused("ResNet56", &o, BW_ARG, "did you mean 'resnet56'?");
    refused("perceptron", &o, BW_ARG, "choose one of resnet20, resnet32, resnet44, resnet56, resnet110");
    o = options("projektion");
    refused("resnet20", &o, BW_ARG, "did you mean 'projection'?");
    o = options("identity-shortcut");
    refused("resnet20", &o, BW_ARG, "choose A or projection");
    o = options("A");
    o.classes = 1;
    refused("resnet20", &o, BW_ARG, "at least 2 classes, not 1");
    o = options("A");
    o.input.w = 3;
    refused("resnet20", &o, BW_SHAPE, "not 32x3");
}

static void lack_of_memory_leaves_nothing(void **state)
{
    (void)state;
    const bwi_net_options o = options("projection");
    const int64_t before = bwi_alloc_live_blocks();
    bw_status st = BW_NOMEM;
    int64_t n = 0;
    for (; st == BW_NOMEM; n++) {
        bwi_graph *g = NULL;
        bwi_alloc_fail_at(n, 0);
        st = bwi_net_create(&g, "resnet20", &o, BWI_DT_F32, NULL);
        bwi_alloc_fail_at(-1, 0);
        assert_true(st == BW_OK || !g);
        bwi_graph_destroy(&g);
        assert_int_equal(bwi_alloc_live_blocks(), before);
    }
    assert_int_equal(st, BW_OK);
    assert_true(n > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameter_counts),
        cmocka_unit_test(shapes_of_values),
        cmocka_unit_test(names_are_those_of_published_weights),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(lack_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
