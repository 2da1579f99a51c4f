/* Network families: parameter counts of the literature, layer names and shapes of published PyTorch weights, refused options. */
#include "zoo/zoo.h"
#include "base/alloc.h"
#include <math.h>
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
        {"wrn20", "A", false, 100, 1085572, 20},
        {"vgg16bn", NULL, false, 10, 14724042, 14},
        {"vgg16bn", NULL, false, 100, 14724042 + 90 * 513, 14},
        {"vgg16bn", NULL, true, 10, 14724042 + 2 * 512, 14},
        {"vgg16bn-small", NULL, false, 10, 923130, 14},
        {"resnet18", NULL, false, 1000, 11689512, 21},
        {"resnet18", "A", false, 10, 11689512 - 990 * 513, 21}, /* it has no choice of shortcuts */
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

/* The sizes in the tables of Wang et al. (Automatic low-bit hybrid quantization of neural networks through meta learning, 2020): megabytes
 * of floats to four digits, and how many layers have a bit-width. */
static void sizes_of_the_hybrid_tables(void **state)
{
    (void)state;
    const struct {
        const char *name;
        int classes;
        double megabytes;
        int layers;
    } rows[] = {
        {"resnet20", 10, 1.079, 20}, {"vgg16bn", 10, 58.896, 14},      {"vgg16bn", 100, 59.081, 14},
        {"wrn20", 100, 4.342, 20},   {"vgg16bn-small", 10, 3.692, 14},
    };
    const bwi_quant_spec spec = {
        .weight_quantizer = "lsq", .activation_quantizer = "lsq", .weight_bits = 2, .activation_bits = 2, .policy = "all"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bwi_net_options o = options("A");
        o.classes = rows[i].classes;
        bwi_graph *g = create(rows[i].name, &o);
        bwi_quant *q;
        const bwi_node *layer;
        uint64_t floats, quantized;
        int weights = 0, activations = 0;
        quantized = bwi_graph_bytes(g, &floats);
        assert_int_equal(quantized, floats);
        if (fabs(1e-6 * (double)floats - rows[i].megabytes) > 0.0006) /* the tables round 3.69252 down */
            fail_msg("%s: %.6f MB, the table has %.3f", rows[i].name, 1e-6 * (double)floats, rows[i].megabytes);
        assert_int_equal(bwi_graph_quantize(g, &spec, NULL), BW_OK);
        for (int k = 0; bwi_graph_quant(g, k, &q, &layer); k++) *(q->role == BWI_WEIGHT ? &weights : &activations) += 1;
        assert_int_equal(weights, rows[i].layers);
        assert_int_equal(activations, rows[i].layers);
        quantized = bwi_graph_bytes(g, NULL);
        assert_in_range(quantized, floats / 16, floats / 13); /* 2 bits; batch norm and biases stay float */
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

static void shapes_of_vgg(void **state)
{
    (void)state;
    bwi_net_options o = options(NULL);
    bwi_graph *g = create("vgg16bn", &o);
    shape_is(g, "features.0", 32, 32, 64);
    shape_is(g, "features.6", 16, 16, 64);
    shape_is(g, "features.30", 4, 4, 512);
    shape_is(g, "features.40", 2, 2, 512);
    shape_is(g, "features.43", 1, 1, 512);
    assert_int_equal(node(g, "classifier")->in[0], node(g, "features.43")->out);
    assert_int_equal(g->output, node(g, "classifier")->out);
    bwi_graph_destroy(&g);
    o.input = (bwi_shape){64, 70, 3}; /* larger images leave a map, which is pooled */
    g = create("vgg16bn-small", &o);
    shape_is(g, "features.43", 2, 2, 128);
    shape_is(g, "pool", 1, 1, 128);
    bwi_graph_destroy(&g);
    o.input = (bwi_shape){0}; /* what the family was made for */
    g = create("vgg16bn", &o);
    assert_int_equal(g->value[0].shape.h, 32);
    assert_int_equal(g->value[0].shape.w, 32);
    assert_int_equal(g->value[0].shape.c, 3);
    bwi_graph_destroy(&g);
}

static void shapes_of_resnet18(void **state)
{
    (void)state;
    const bwi_net_options o = {.classes = 1000};
    bwi_graph *g = create("resnet18", &o);
    shape_is(g, "conv1", 112, 112, 64);
    shape_is(g, "maxpool", 56, 56, 64);
    shape_is(g, "layer1.1.relu2", 56, 56, 64);
    shape_is(g, "layer2.0.downsample.1", 28, 28, 128);
    shape_is(g, "layer3.0.add", 14, 14, 256);
    shape_is(g, "layer4.1.relu2", 7, 7, 512);
    shape_is(g, "fc", 1, 1, 1000);
    assert_int_equal(node(g, "layer1.0.add")->in[1], node(g, "maxpool")->out);
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

    o = options(NULL);
    g = create("resnet18", &o);
    parameter(g, "conv1.weight", 4, 64, 3, 7, 7);
    parameter(g, "bn1.weight", 1, 64, 0, 0, 0);
    parameter(g, "layer1.0.conv1.weight", 4, 64, 64, 3, 3);
    parameter(g, "layer2.0.downsample.0.weight", 4, 128, 64, 1, 1);
    parameter(g, "layer4.0.downsample.1.running_mean", 1, 512, 0, 0, 0);
    parameter(g, "layer4.1.bn2.bias", 1, 512, 0, 0, 0);
    parameter(g, "fc.bias", 1, 10, 0, 0, 0);
    assert_null(bwi_graph_param(g, "layer1.0.downsample.0.weight"));
    assert_int_equal(g->n_params, 21 + 1 + 4 * 20);
    bwi_graph_destroy(&g);

    g = create("vgg16bn", &o); /* torchvision's numbers: ReLUs and pools count */
    parameter(g, "features.0.weight", 4, 64, 3, 3, 3);
    parameter(g, "features.1.running_mean", 1, 64, 0, 0, 0);
    parameter(g, "features.7.weight", 4, 128, 64, 3, 3);
    parameter(g, "features.24.weight", 4, 512, 256, 3, 3);
    parameter(g, "features.40.weight", 4, 512, 512, 3, 3);
    parameter(g, "features.41.bias", 1, 512, 0, 0, 0);
    parameter(g, "classifier.weight", 2, 10, 512, 0, 0);
    assert_null(bwi_graph_param(g, "features.0.bias"));
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
    refused("perceptron", &o, BW_ARG,
            "choose one of resnet20, resnet32, resnet44, resnet56, resnet110, wrn20, vgg16bn, vgg16bn-small, resnet18");
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
    o.input = (bwi_shape){31, 32, 3};
    refused("vgg16bn", &o, BW_SHAPE, "at least 32x32, not 31x32");
    refused("resnet18", &o, BW_SHAPE, "at least 32x32, not 31x32");
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
        cmocka_unit_test(parameter_counts),   cmocka_unit_test(sizes_of_the_hybrid_tables),
        cmocka_unit_test(shapes_of_values),   cmocka_unit_test(shapes_of_vgg),
        cmocka_unit_test(shapes_of_resnet18), cmocka_unit_test(names_are_those_of_published_weights),
        cmocka_unit_test(mistakes_are_named), cmocka_unit_test(lack_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
