/* Lowering, packed files and the engine: what was trained is what runs. */
#include "nets.h"
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/par.h"
#include "base/rng.h"
#include "deploy/codes.h"
#include "deploy/lower.h"
#include "zoo/zoo.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 6 };

/* ---- Networks ------------------------------------------------------------------------------------------------------------ */

typedef struct deployed {
    bwi_tensors lowered;
    uint8_t *file;
    size_t size;
    bw_net_info info;
    void *memory, *work;
    bw_net *net;
} deployed;

static void deploy(deployed *d, bwi_graph *g)
{
    memset(d, 0, sizeof *d);
    CHECK(bwi_lower(&d->lowered, g, bwi_normalize_find("cifar"), err));
    CHECK(bwi_safetensors_image(&d->file, &d->size, &d->lowered, err));
    CHECK(bw_net_read(d->file, d->size, &d->info, err));
    assert_non_null(d->memory = bwi_malloc(d->info.net_bytes));
    assert_non_null(d->work = bwi_malloc(d->info.work_bytes));
    CHECK(bw_net_init(&d->net, d->file, d->size, d->memory, d->info.net_bytes, err));
}

static void undeploy(deployed *d)
{
    bwi_free(d->memory);
    bwi_free(d->work);
    bwi_free(d->file);
    bwi_tensors_free(&d->lowered);
}

static uint8_t pixel(size_t i)
{
    bwi_rng r = bwi_rng_make(8, BWI_RNG_TEST, i, 0);
    return (uint8_t)bwi_rng_u64(&r);
}

/* The same bits from any number of threads, images side by side (all of them) and rows side by side (one at a time). */
static void check_pools(const deployed *d, const uint8_t *pixels, const float *want, size_t m, const char *what)
{
    const size_t image = (size_t)d->info.height * (size_t)d->info.width * (size_t)d->info.channels;
    float *got = malloc(m * sizeof *got);
    assert_non_null(got);
    for (int threads = 1; threads <= 3; threads++) {
        bw_pool *pool;
        void *work = bwi_malloc((size_t)threads * d->info.work_bytes);
        assert_non_null(work);
        CHECK(bw_pool_create(&pool, threads, err));
        for (int single = 0; single < 2; single++) {
            memset(got, 0, m * sizeof *got);
            for (int k = 0; k < (single ? IMAGES : 1); k++)
                bw_net_run_pool(d->net, pool, pixels + (size_t)k * image, single ? 1 : IMAGES,
                                got + (size_t)(k * d->info.classes), work);
            if (memcmp(got, want, m * sizeof *got)) fail_msg("%s: %d threads give other bits", what, threads);
        }
        bw_pool_destroy(&pool);
        bwi_free(work);
    }
    free(got);
}

/* Logits of the training graph (in `fast`) and of the engine on every instruction set; returns the largest difference between the two, and
 * wants none between the engines. */
static double compare(bwi_graph *g, const char *what)
{
    enum { LEVELS = 4 };
    static const char *const levels[LEVELS] = {"ref", "avx2", "avx512", "native"};
    const bwi_exec_options o = {.batch = IMAGES, .precision = BWI_PRECISION_FAST};
    const bwi_normalize *normalize = bwi_normalize_find("cifar");
    const size_t image = bwi_shape_size(g->value[0].shape), n = IMAGES * image, m = IMAGES * (size_t)g->classes;
    bwi_exec *e;
    const void *graph;
    double worst = 0;
    uint8_t *pixels = malloc(n);
    float *first = malloc(m * sizeof *first), *own = malloc(m * sizeof *own);
    assert_true(pixels && first && own);
    CHECK(bwi_exec_create(&e, g, &o, NULL, err));
    for (size_t i = 0; i < n; i++) {
        pixels[i] = pixel(i);
        ((float *)bwi_exec_input(e))[i] = bwi_normalized(normalize, (int)(i % 3), pixels[i]);
    }
    CHECK(bwi_exec_forward(e, IMAGES, false, &graph, err));
    for (size_t l = 0; l < LEVELS; l++) {
        deployed d;
        CHECK(bwi_cpu_limit(levels[l], err));
        deploy(&d, g);
        bw_net_run(d.net, pixels, IMAGES, l ? own : first, d.work);
        if (l == LEVELS - 1) check_pools(&d, pixels, own, m, what);
        undeploy(&d);
        if (l && memcmp(own, first, m * sizeof *own)) fail_msg("%s: engines ref and %s differ", what, levels[l]);
    }
    CHECK(bwi_cpu_limit(NULL, err));
    for (size_t i = 0; i < m; i++) {
        const double a = (double)first[i], b = (double)((const float *)graph)[i];
        assert_true(isfinite(a));
        worst = fmax(worst, fabs(a - b));
    }
    bwi_exec_destroy(&e);
    free(pixels);
    free(first);
    free(own);
    return worst;
}

/* ---- Whole networks ------------------------------------------------------------------------------------------------------ */

static void check_family(const char *family, const bwi_net_options *net, const bwi_quant_spec *spec, double most)
{
    char what[200];
    bwi_graph *g;
    snprintf(what, sizeof what, "%s: %s/%s %d/%d bits, %s, %s", family, spec->weight_quantizer, spec->activation_quantizer,
             spec->weight_bits, spec->activation_bits, spec->policy, net->shortcut);
    CHECK(bwi_net_create(&g, family, net, BWI_DT_F32, err));
    CHECK(bwi_graph_quantize(g, spec, err));
    warm_up(g);
    const double worst = compare(g, what);
    printf("%s: logits differ by at most %.2g\n", what, worst);
    if (worst > most) fail_msg("%s: logits differ by %g", what, worst);
    bwi_graph_destroy(&g);
}

static void check_net(const bwi_quant_spec *spec, const char *shortcut, bool last_bn, double most)
{
    const bwi_net_options net = {.shortcut = shortcut, .last_bn = last_bn, .classes = 10, .input = {32, 32, 3}};
    check_family("resnet20", &net, spec, most);
}

static void test_lsq(void **state)
{
    (void)state;
    static const int bits[] = {1, 2, 3, 4, 8};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        const bwi_quant_spec spec = {.weight_quantizer = "lsq",
                                     .activation_quantizer = "lsq",
                                     .weight_bits = bits[i],
                                     .activation_bits = bits[i],
                                     .policy = "first-last-8"};
        check_net(&spec, i % 2 ? "projection" : "A", i == 2, 0);
    }
}

static void test_others(void **state)
{
    (void)state;
    /* How far logits may be off: not at all where every layer is quantized. Sums of float layers may be rounded in another order; behind them
     * codes may differ by one, which with few bits makes another network: there only the engines must agree. */
    static const struct {
        bwi_quant_spec spec;
        double most;
    } nets[] = {
        {{.weight_quantizer = "interval",
          .activation_quantizer = "interval",
          .weight_bits = 1,
          .activation_bits = 1,
          .policy = "inner"},
         INFINITY},
        {{.weight_quantizer = "interval",
          .activation_quantizer = "interval",
          .weight_bits = 8,
          .activation_bits = 8,
          .policy = "inner"},
         0.5},
        {{.weight_quantizer = "interval",
          .activation_quantizer = "interval",
          .weight_bits = 2,
          .activation_bits = 3,
          .policy = "all"},
         0},
        {{.weight_quantizer = "dorefa",
          .activation_quantizer = "pact",
          .weight_bits = 4,
          .activation_bits = 4,
          .policy = "blocks"},
         0.5},
        {{.weight_quantizer = "dorefa",
          .activation_quantizer = "dorefa",
          .weight_bits = 8,
          .activation_bits = 2,
          .policy = "inner"},
         INFINITY},
        {{.weight_quantizer = "bwn", .activation_quantizer = "none", .weight_bits = 1, .policy = "all"}, 1e-4},
        {{.weight_quantizer = "bwn", .activation_quantizer = "lsq", .weight_bits = 1, .activation_bits = 8, .policy = "all"},
         0},
        {{.weight_quantizer = "none", .activation_quantizer = "none", .policy = "all"}, 1e-4},
        {{.weight_quantizer = "minmax", .activation_quantizer = "none", .weight_bits = 3, .policy = "all"}, 1e-4},
        {{.weight_quantizer = "minmax", .activation_quantizer = "lsq", .weight_bits = 1, .activation_bits = 2, .policy = "all"},
         INFINITY},
        {{.weight_quantizer = "minmax", .activation_quantizer = "lsq", .weight_bits = 8, .activation_bits = 8, .policy = "all"},
         0.5},
    };
    for (size_t i = 0; i < sizeof nets / sizeof *nets; i++)
        check_net(&nets[i].spec, i % 2 ? "A" : "projection", i % 3 == 0, nets[i].most);
}

/* Weights on levels that are no integers, at every bit-width: input -> [ReLU] -> convolution -> mean. No code follows that could flip, so
 * all that may differ from training is the rounding of float sums: 75 products, of which training rounds each and the engine none. */
static void check_real_levels(int bits, int activation_bits, bool relu, int groups, float gamma)
{
    const bwi_attr conv = {.out = 6, .kh = 5, .kw = 5, .pad = 2, .stride = 2, .groups = groups, .bias = true};
    const bwi_quant_spec spec = {.weight_quantizer = "minmax",
                                 .activation_quantizer = activation_bits ? "lsq" : "none",
                                 .weight_bits = bits,
                                 .activation_bits = activation_bits,
                                 .policy = "all"};
    char what[80];
    bwi_graph *g;
    int v = 0;
    snprintf(what, sizeof what, "%d/%d bits%s, %d groups, gamma %g", bits, activation_bits, relu ? ", ReLU" : "", groups,
             (double)gamma);
    CHECK(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){9, 7, 3}, err));
    if (relu) CHECK(bwi_graph_add(g, "relu", "relu", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "conv2d", "conv", &v, 1, &conv, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool", &v, 1, NULL, &v, err));
    g->output = v;
    g->classes = 6;
    CHECK(bwi_graph_quantize(g, &spec, err));
    warm_up(g);
    for (int i = 0; i < g->n_nodes; i++)
        if (g->node[i].wq) g->node[i].wq->theta[0] = (double)gamma;
    const double worst = compare(g, what);
    if (!(worst < 4e-6)) fail_msg("%s: logits differ by %g", what, worst);
    bwi_graph_destroy(&g);
}

static void test_real_levels(void **state)
{
    (void)state;
    for (int bits = 1; bits <= 8; bits++)
        for (int groups = 1; groups <= 3; groups += 2) {
            check_real_levels(bits, bits, true, groups, bits % 2 ? 1 : -0.7f);
            check_real_levels(bits, 8, false, groups, bits % 2 ? -1.3f : 1);
            check_real_levels(bits, 0, false, groups, -1);
        }
}

/* Max pools in front of quantizers, many channels. */
static void test_families(void **state)
{
    (void)state;
    static const char *const families[] = {"vgg16bn-small", "wrn20", "resnet18"};
    const bwi_net_options net = {.shortcut = "A", .classes = 10, .input = {37, 33, 3}};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const bwi_quant_spec spec = {.weight_quantizer = "lsq",
                                     .activation_quantizer = "lsq",
                                     .weight_bits = 2,
                                     .activation_bits = 2,
                                     .policy = "first-last-8"};
        check_family(families[i], &net, &spec, 0);
    }
}

/* Pools, groups, a depthwise convolution, strides, odd sizes, one value for two quantizers, a sum of two float values. */
static void check_odd(const char *weights, double most)
{
    const bwi_attr stem = {.out = 12, .kh = 5, .kw = 3, .stride = 2, .pad = 1},
                   group = {.out = 18, .kh = 3, .kw = 3, .pad = 1, .groups = 3},
                   depth = {.out = 18, .kh = 3, .kw = 3, .stride = 2, .groups = 18},
                   one = {.out = 18, .kh = 1, .kw = 1, .bias = true}, pool = {.kh = 3, .kw = 3, .stride = 2, .pad = 1},
                   average = {.kh = 2, .kw = 2, .stride = 2}, last = {.out = 5, .bias = true};
    const bwi_quant_spec spec = {
        .weight_quantizer = weights, .activation_quantizer = "lsq", .weight_bits = 3, .activation_bits = 4, .policy = "all"};
    bwi_graph *g;
    int v = 0, left, right;
    CHECK(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){47, 39, 3}, err));
    v = add_layer(g, "stem", &stem, v);
    CHECK(bwi_graph_add(g, "max_pool", "pool1", &v, 1, &pool, &v, err));
    CHECK(bwi_graph_add(g, "conv2d", "group", &v, 1, &group, &left, err));
    CHECK(bwi_graph_add(g, "conv2d", "one", &v, 1, &one, &right, err));
    CHECK(bwi_graph_add(g, "add", "add", (int[]){left, right}, 2, NULL, &v, err));
    CHECK(bwi_graph_add(g, "relu", "relu2", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "avg_pool", "pool2", &v, 1, &average, &v, err));
    CHECK(bwi_graph_add(g, "conv2d", "depth", &v, 1, &depth, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool3", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "linear", "fc", &v, 1, &last, &v, err));
    g->output = v;
    g->classes = 5;
    CHECK(bwi_graph_quantize(g, &spec, err));
    warm_up(g);
    const double worst = compare(g, "odd");
    if (worst > most) fail_msg("odd network, %s: logits differ by %g", weights, worst);
    bwi_graph_destroy(&g);
}

/* Maps that are pooled in several bands, of a kernel for any rows and of one for pairs of rows. */
static void test_bands(void **state)
{
    (void)state;
    const bwi_attr wide = {.out = 32, .kh = 3, .kw = 3, .pad = 1}, most = {.kh = 3, .kw = 3, .stride = 2, .pad = 1},
                   mean = {.kh = 3, .kw = 3, .stride = 2}, last = {.out = 5, .bias = true};
    const bwi_quant_spec spec = {.weight_quantizer = "lsq",
                                 .activation_quantizer = "lsq",
                                 .weight_bits = 4,
                                 .activation_bits = 4,
                                 .policy = "first-last-8"};
    bwi_graph *g;
    int v = 0;
    CHECK(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){400, 24, 3}, err));
    v = add_layer(g, "conv1", &wide, v);
    CHECK(bwi_graph_add(g, "max_pool", "pool1", &v, 1, &most, &v, err));
    v = add_layer(g, "conv2", &wide, v);
    CHECK(bwi_graph_add(g, "avg_pool", "pool2", &v, 1, &mean, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool3", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "linear", "fc", &v, 1, &last, &v, err));
    g->output = v;
    g->classes = 5;
    CHECK(bwi_graph_quantize(g, &spec, err));
    warm_up(g);
    const double worst = compare(g, "bands");
    if (worst > 0) fail_msg("bands: logits differ by %g", worst);
    bwi_graph_destroy(&g);
}

static void test_odd(void **state)
{
    (void)state;
    check_odd("lsq", 0);
    check_odd("interval", 0);      /* window sums in groups */
    check_odd("minmax", INFINITY); /* of a rounding that differs comes another code */
}

/* ---- Files --------------------------------------------------------------------------------------------------------------- */

static bwi_graph *small(void)
{
    const bwi_attr conv = {.out = 4, .kh = 3, .kw = 3, .pad = 1}, norm = {.eps = 1e-5, .momentum = 0.1},
                   last = {.out = 3, .bias = true};
    const bwi_quant_spec spec = {.weight_quantizer = "interval",
                                 .activation_quantizer = "interval",
                                 .weight_bits = 2,
                                 .activation_bits = 2,
                                 .policy = "all"};
    bwi_graph *g;
    int v = 0, first;
    CHECK(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){6, 5, 3}, err));
    CHECK(bwi_graph_add(g, "conv2d", "conv1", &v, 1, &conv, &v, err));
    CHECK(bwi_graph_add(g, "batch_norm", "bn1", &v, 1, &norm, &v, err));
    CHECK(bwi_graph_add(g, "relu", "relu1", &v, 1, NULL, &first, err));
    CHECK(bwi_graph_add(g, "conv2d", "conv2", &first, 1, &conv, &v, err));
    CHECK(bwi_graph_add(g, "add", "add", (int[]){v, first}, 2, NULL, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "linear", "fc", &v, 1, &last, &v, err));
    g->output = v;
    g->classes = 3;
    CHECK(bwi_graph_quantize(g, &spec, err));
    warm_up(g);
    return g;
}

/* Opens what may be a damaged file, placed so that a sanitizer sees a read past its end; runs it when it opens. */
static bw_status try_file(const uint8_t *bytes, size_t n)
{
    bw_net_info info;
    bw_error err = {0};
    uint8_t *exact = malloc(n ? n : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, n);
    bw_status st = bw_net_read(exact, n, &info, &err);
    if (st == BW_OK && info.net_bytes < (64 << 20) && info.work_bytes < (64 << 20)) {
        bw_net *net;
        void *memory = bwi_malloc(info.net_bytes), *work = bwi_malloc(info.work_bytes);
        uint8_t *image = calloc(1, (size_t)info.height * (size_t)info.width * (size_t)info.channels);
        float *logits = malloc((size_t)info.classes * sizeof *logits);
        assert_true(memory && work && image && logits);
        assert_int_equal(bw_net_init(&net, exact, n, memory, info.net_bytes, &err), BW_OK);
        bw_net_run(net, image, 1, logits, work);
        bwi_free(memory);
        bwi_free(work);
        free(image);
        free(logits);
    } else if (st != BW_OK) {
        assert_true(err.msg[0]);
    }
    free(exact);
    return st;
}

static void test_damaged(void **state)
{
    (void)state;
    bwi_graph *g = small();
    bwi_rng r = bwi_rng_make(4, BWI_RNG_TEST, 0, 0);
    deployed d;
    deploy(&d, g);
    assert_int_equal(try_file(d.file, d.size), BW_OK);
    for (size_t n = 0; n < d.size; n++) assert_true(try_file(d.file, n) != BW_OK);
    uint8_t *copy = malloc(d.size);
    assert_non_null(copy);
    const char alphabet[] = "0123456789 ;x{}[]\":,zNRBTqioacwkspgmtr\\";
    for (int trial = 0; trial < 30000; trial++) {
        memcpy(copy, d.file, d.size);
        for (uint32_t k = 0; k <= bwi_rng_below(&r, 3); k++) {
            const uint32_t at = bwi_rng_below(&r, (uint32_t)d.size);
            copy[at] =
                bwi_rng_below(&r, 4) ? (uint8_t)alphabet[bwi_rng_below(&r, sizeof alphabet - 1)] : (uint8_t)bwi_rng_u64(&r);
        }
        try_file(copy, d.size);
    }
    free(copy);
    undeploy(&d);
    bwi_graph_destroy(&g);
}

/* Files of the version before. */
static void test_version_1(void **state)
{
    (void)state;
    bwi_file f;
    CHECK(bwi_file_open(&f, "tests/fuzz/corpus/fuzz_packed/small", err));
    const char version[] = "\"bitwright.packed\":\"1\"";
    uint8_t *copy = malloc(f.size);
    assert_non_null(copy);
    memcpy(copy, f.data, f.size);
    assert_int_equal(try_file(copy, f.size), BW_OK);
    uint8_t *at = memmem(copy, f.size, version, sizeof version - 1);
    assert_non_null(at);
    at[sizeof version - 3] = '3';
    bw_net_info info;
    bw_error error;
    assert_int_equal(bw_net_read(copy, f.size, &info, &error), BW_UNSUPPORTED);
    assert_non_null(strstr(error.msg, "version 3"));
    assert_non_null(strstr(error.msg, "export it anew"));
    free(copy);
    bwi_file_close(&f);
}

static void test_memory(void **state)
{
    (void)state;
    bwi_graph *g = small();
    bw_net *net;
    bw_error error;
    deployed d;
    deploy(&d, g);
    assert_int_equal(bw_net_init(&net, d.file, d.size, d.memory, d.info.net_bytes - 1, &error), BW_ARG);
    assert_null(net);
    assert_int_equal(bw_net_init(&net, d.file, d.size, (char *)d.memory + 1, d.info.net_bytes, &error), BW_ARG);
    assert_int_equal(bw_net_init(&net, d.file, d.size, NULL, d.info.net_bytes, &error), BW_ARG);
    /* The engine allocates nothing, and stays within what it asked for. */
    uint8_t image[6 * 5 * 3], *guarded = bwi_malloc(d.info.work_bytes + 128);
    float once[3], again[6];
    assert_non_null(guarded);
    memset(guarded, 0xa5, d.info.work_bytes + 128);
    for (size_t i = 0; i < sizeof image; i++) image[i] = pixel(i);
    bwi_alloc_fail_at(0, 1);
    assert_int_equal(bw_net_init(&net, d.file, d.size, d.memory, d.info.net_bytes, &error), BW_OK);
    bw_net_run(net, image, 1, once, guarded);
    bwi_alloc_fail_at(-1, 0);
    for (size_t i = 0; i < 128; i++) assert_int_equal(guarded[d.info.work_bytes + i], 0xa5);
    memset(guarded, 0, d.info.work_bytes); /* nothing expected in it */
    uint8_t two[2 * sizeof image];
    memcpy(two, image, sizeof image);
    memcpy(two + sizeof image, image, sizeof image);
    bw_net_run(net, two, 2, again, guarded);
    assert_memory_equal(once, again, sizeof once);
    assert_memory_equal(once, again + 3, sizeof once);
    bwi_free(guarded);
    undeploy(&d);
    bwi_graph_destroy(&g);
}

/* ---- Plans --------------------------------------------------------------------------------------------------------------- */

/* Measuring stays within its memory, allocates nothing, says what it found, and changes no bit of the logits. */
static void test_plans(void **state)
{
    (void)state;
    static const int bits[] = {1, 2, 4, 8};
    int measured = 0, kernels = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        const bwi_net_options net = {.shortcut = i % 2 ? "projection" : "A", .classes = 10, .input = {32, 32, 3}};
        const bwi_quant_spec spec = {.weight_quantizer = "lsq",
                                     .activation_quantizer = "lsq",
                                     .weight_bits = bits[i],
                                     .activation_bits = bits[i],
                                     .policy = "first-last-8"};
        enum { GUARD = 256 };
        static uint8_t image[32 * 32 * 3];
        float want[10], got[10];
        bwi_graph *g;
        deployed d;
        bw_net_info info;
        bw_layer_info l;
        bw_net *own;
        bw_error error;
        CHECK(bwi_net_create(&g, "resnet20", &net, BWI_DT_F32, err));
        CHECK(bwi_graph_quantize(g, &spec, err));
        warm_up(g);
        deploy(&d, g);
        for (size_t k = 0; k < sizeof image; k++) image[k] = pixel(k);
        bw_net_run(d.net, image, 1, want, d.work);
        CHECK(bw_net_read_plan(d.file, d.size, BW_PLAN_MEASURED, &info, err));
        assert_true(info.net_bytes >= d.info.net_bytes && info.work_bytes >= d.info.work_bytes);
        uint8_t *memory = bwi_malloc(info.net_bytes + GUARD), *work = bwi_malloc(info.work_bytes + GUARD);
        assert_true(memory && work);
        memset(memory, 0xa5, info.net_bytes + GUARD);
        memset(work, 0xa5, info.work_bytes + GUARD);
        assert_int_equal(bw_net_init_plan(&own, d.file, d.size, BW_PLAN_MEASURED, memory, info.net_bytes, NULL, &error),
                         BW_ARG);
        assert_int_equal(bw_net_init_plan(&own, d.file, d.size, BW_PLAN_MEASURED, memory, info.net_bytes - 1, work, &error),
                         BW_ARG);
        bwi_alloc_fail_at(0, 1);
        const bw_status st = bw_net_init_plan(&own, d.file, d.size, BW_PLAN_MEASURED, memory, info.net_bytes, work, &error);
        bwi_alloc_fail_at(-1, 0);
        assert_int_equal(st, BW_OK);
        bw_net_run(own, image, 1, got, work);
        assert_memory_equal(want, got, sizeof want);
        for (size_t k = 0; k < GUARD; k++) assert_true(memory[info.net_bytes + k] == 0xa5 && work[info.work_bytes + k] == 0xa5);
        for (int k = 0; bw_net_layer(own, k, &l); k++) {
            kernels += l.kernel[0] != 0;
            measured += l.measured;
            if (l.measured && !(l.microseconds > 0 && l.microseconds <= l.table_microseconds))
                fail_msg("%s: %g us, the table's kernel %g us", l.name, l.microseconds, l.table_microseconds);
            if (!l.measured) assert_string_equal(l.kernel, l.table_kernel);
        }
        for (int k = 0; bw_net_layer(d.net, k, &l); k++) assert_false(l.measured);
        bwi_free(memory);
        bwi_free(work);
        undeploy(&d);
        bwi_graph_destroy(&g);
    }
    printf("%d of %d kernels were chosen by measuring\n", measured, kernels);
    assert_true(kernels >= 4 * 20);
    if (bwi_cpu_flags() & BWI_CPU_VNNI) assert_true(measured > kernels / 2);
}

/* ---- Codes, layer by layer ----------------------------------------------------------------------------------------------- */

/* Differing codes of every quantizer, for IMAGES images through the training graph and the net of d. */
static void count_codes(bwi_graph *g, const deployed *d, bwi_codes *codes)
{
    const size_t image = bwi_shape_size(g->value[0].shape);
    const bwi_normalize *normalize = bwi_normalize_find("cifar");
    bwi_exec *e;
    uint8_t *pixels = malloc(IMAGES * image);
    float *logits = malloc((size_t)g->classes * sizeof *logits);
    assert_true(pixels && logits);
    CHECK(bwi_codes_create(codes, g, IMAGES, err));
    assert_int_equal(codes->batch, IMAGES);
    const bwi_exec_options o = {.batch = IMAGES, .precision = BWI_PRECISION_FAST, .observe = bwi_codes_take, .observer = codes};
    CHECK(bwi_exec_create(&e, g, &o, NULL, err));
    for (size_t i = 0; i < IMAGES * image; i++) {
        pixels[i] = pixel(i);
        ((float *)bwi_exec_input(e))[i] = bwi_normalized(normalize, (int)(i % 3), pixels[i]);
    }
    CHECK(bwi_exec_forward(e, IMAGES, false, NULL, err));
    for (int i = 0; i < IMAGES; i++)
        bwi_codes_compare(codes, d->net, pixels + (size_t)i * image, i, i % BWI_CHUNKS, logits, d->work);
    bwi_exec_destroy(&e);
    free(pixels);
    free(logits);
}

/* Every code is compared and none differs; then one quantizer's number is changed in the packed file: codes differ there, and nowhere before. */
static void test_codes(void **state)
{
    (void)state;
    const bwi_net_options net = {.shortcut = "A", .classes = 10, .input = {32, 32, 3}};
    const bwi_quant_spec spec = {.weight_quantizer = "lsq",
                                 .activation_quantizer = "lsq",
                                 .weight_bits = 3,
                                 .activation_bits = 3,
                                 .policy = "first-last-8"};
    static const char *const planted[] = {"conv1.input_quant", "layer2.1.conv1.input_quant", "linear.input_quant"};
    static bwr_plan plan;
    bwi_graph *g;
    bwi_codes codes;
    deployed d;
    CHECK(bwi_net_create(&g, "resnet20", &net, BWI_DT_F32, err));
    CHECK(bwi_graph_quantize(g, &spec, err));
    warm_up(g);
    deploy(&d, g);
    count_codes(g, &d, &codes);
    assert_int_equal(codes.n, 20);
    for (int i = 0; i < codes.n; i++) {
        const bw_verify_layer l = bwi_codes_layer(&codes, i);
        const bwi_node *n = codes.tensor[i].node;
        assert_int_equal(l.codes, IMAGES * bwi_shape_size(g->value[n->out].shape));
        if (l.differing_codes || l.differing_images || l.largest_difference)
            fail_msg("%s: %lld codes differ", l.name, (long long)l.differing_codes);
    }
    for (size_t k = 0; k < sizeof planted / sizeof *planted; k++) {
        bwi_codes_destroy(&codes);
        undeploy(&d);
        deploy(&d, g);
        CHECK(bwr_plan_read(&plan, d.file, d.size, err));
        int at = 0, layer = 0;
        for (int i = 0; i < g->n_nodes; i++)
            if (!strcmp(g->node[i].name, planted[k])) at = g->node[i].out;
        while (layer < plan.n_layers && (!plan.layer[layer].n_codes || plan.layer[layer].codes[0].value != at)) layer++;
        assert_true(layer < plan.n_layers);
        /* The tensor of floats begins behind its mean and deviation where those of layer 0 begin; mul comes behind scale and sub. */
        float *floats = (float *)(uintptr_t)(plan.layer[0].mean + plan.layer[layer].floats_at);
        assert_true(floats[2] == plan.layer[layer].codes[0].mul);
        floats[2] *= 1.05f;
        CHECK(bw_net_init(&d.net, d.file, d.size, d.memory, d.info.net_bytes, err));
        count_codes(g, &d, &codes);
        bool seen = false;
        for (int i = 0; i < codes.n; i++) {
            const bw_verify_layer l = bwi_codes_layer(&codes, i);
            const bool here = !strcmp(l.name, planted[k]);
            if (here && (!l.differing_codes || !l.differing_images || l.largest_difference < 1))
                fail_msg("%s: no code differs", l.name);
            if (!seen && !here && l.differing_codes) fail_msg("%s: a code differs before %s", l.name, planted[k]);
            seen |= here;
        }
        assert_true(seen);
    }
    bwi_codes_destroy(&codes);
    undeploy(&d);
    bwi_graph_destroy(&g);
}

/* Bytes follow bits. */
static void test_size(void **state)
{
    (void)state;
    static const int bits[] = {8, 4, 2, 1};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        const bwi_net_options net = {.shortcut = i % 2 ? "projection" : "A", .classes = 10, .input = {32, 32, 3}};
        const bwi_quant_spec spec = {.weight_quantizer = "lsq",
                                     .activation_quantizer = bits[i] == 1 ? "none" : "lsq",
                                     .weight_bits = bits[i],
                                     .activation_bits = bits[i],
                                     .policy = bits[i] == 1 ? "all" : "first-last-8"};
        bwi_graph *g;
        deployed d;
        size_t weights = 0, scales = 0;
        CHECK(bwi_net_create(&g, "resnet20", &net, BWI_DT_F32, err));
        CHECK(bwi_graph_quantize(g, &spec, err));
        warm_up(g);
        deploy(&d, g);
        for (int k = 0; k < g->n_nodes; k++) {
            const bwi_node *n = &g->node[k];
            if (n->wq) weights += (g->param[n->param[0]].numel * (size_t)n->wq->bits + 7) / 8;
            if (n->op->conv_spec && n->attr.bias) scales += 4 * (size_t)g->value[n->out].shape.c;
            if (!strcmp(n->op->name, "batch_norm")) scales += 8 * (size_t)g->value[n->out].shape.c;
            scales += n->aq ? 20 : n->wq ? 4 : 0;
        }
        printf("%d bits: %zu bytes, %zu of weights, %zu of scales\n", bits[i], d.size, weights, scales);
        assert_true((double)d.size < 1.03 * (double)(weights + scales));
        undeploy(&d);
        bwi_graph_destroy(&g);
    }
}

/* What cannot be packed is said, with the layer. */
static void test_refused(void **state)
{
    (void)state;
    const bwi_attr conv = {.out = 4, .kh = 1, .kw = 1};
    const bwi_quant_spec spec = {.activation_quantizer = "lsq", .activation_bits = 4, .policy = "all"};
    bwi_graph *g;
    bwi_tensors out;
    bw_error error;
    int v = 0;
    CHECK(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){4, 4, 3}, err));
    CHECK(bwi_graph_add(g, "conv2d", "conv1", &v, 1, &conv, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool", &v, 1, NULL, &v, err));
    g->output = v;
    g->classes = 4;
    CHECK(bwi_graph_quantize(g, &spec, err));
    assert_int_equal(bwi_lower(&out, g, bwi_normalize_find("cifar"), &error), BW_ARG); /* never initialised */
    warm_up(g);
    assert_int_equal(bwi_lower(&out, g, bwi_normalize_find("cifar"), &error), BW_UNSUPPORTED);
    assert_non_null(strstr(error.msg, "conv1"));
    bwi_graph_destroy(&g);
    /* An input that is quantized to its sign. */
    const bwi_net_options net = {.shortcut = "A", .classes = 10, .input = {32, 32, 3}};
    const bwi_quant_spec sign = {
        .weight_quantizer = "lsq", .activation_quantizer = "lsq", .weight_bits = 1, .activation_bits = 1, .policy = "all"};
    CHECK(bwi_net_create(&g, "resnet20", &net, BWI_DT_F32, err));
    CHECK(bwi_graph_quantize(g, &sign, err));
    warm_up(g);
    assert_int_equal(bwi_lower(&out, g, bwi_normalize_find("cifar"), &error), BW_UNSUPPORTED);
    assert_non_null(strstr(error.msg, "conv1.input_quant"));
    bwi_graph_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lsq),      cmocka_unit_test(test_others),    cmocka_unit_test(test_real_levels),
        cmocka_unit_test(test_families), cmocka_unit_test(test_odd),       cmocka_unit_test(test_bands),
        cmocka_unit_test(test_damaged),  cmocka_unit_test(test_version_1), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_plans),    cmocka_unit_test(test_codes),     cmocka_unit_test(test_size),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
