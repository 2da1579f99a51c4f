/* C code, with floats and without: compiled, it says to the bit what the engine says. */
#include "nets.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/rng.h"
#include "deploy/export.h"
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "folder.h"

enum { H = 19, W = 14, CLASSES = 5, IMAGES = 6 };
static const char *const forms[] = {"c", "c-integer"};

/* ---- Networks ------------------------------------------------------------------------------------------------------------ */

/* Every kind of layer, in groups and with strides, values that are only added, only quantized and both. */
static bwi_graph *network(const bwi_quant_spec *spec)
{
    const bwi_attr stem = {.out = 6, .kh = 5, .kw = 3, .pad = 1}, norm = {.eps = 1e-5, .momentum = 0.1},
                   group = {.out = 6, .kh = 3, .kw = 3, .pad = 1, .groups = 3},
                   wide = {.out = 8, .kh = 3, .kw = 3, .pad = 1, .stride = 2}, cut = {.out = 8, .stride = 2},
                   one = {.out = 8, .kh = 1, .kw = 1, .bias = true}, most = {.kh = 3, .kw = 3, .stride = 1, .pad = 1},
                   mean = {.kh = 2, .kw = 2, .stride = 2}, last = {.out = CLASSES, .bias = true};
    bwi_graph *g;
    int v = 0, first;
    CHECK(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){H, W, 3}, err));
    first = add_layer(g, "stem", &stem, v);
    v = add_layer(g, "group", &group, first);
    CHECK(bwi_graph_add(g, "conv2d", "wide", &v, 1, &wide, &v, err));
    CHECK(bwi_graph_add(g, "batch_norm", "bn3", &v, 1, &norm, &v, err));
    CHECK(bwi_graph_add(g, "shortcut_a", "cut", &first, 1, &cut, &first, err));
    CHECK(bwi_graph_add(g, "add", "add", (int[]){v, first}, 2, NULL, &v, err));
    CHECK(bwi_graph_add(g, "relu", "relu3", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "max_pool", "pool1", &v, 1, &most, &v, err));
    CHECK(bwi_graph_add(g, "conv2d", "one", &v, 1, &one, &v, err));
    CHECK(bwi_graph_add(g, "avg_pool", "pool2", &v, 1, &mean, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool3", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "linear", "fc", &v, 1, &last, &v, err));
    g->output = v;
    g->classes = CLASSES;
    CHECK(bwi_graph_quantize(g, spec, err));
    warm_up(g);
    return g;
}

/* ---- Code ---------------------------------------------------------------------------------------------------------------- */

static bw_status write_to(const bwi_tensors *lowered, const char *form, const char *path, bw_error *err)
{
    const bwi_model m = {0};
    return exporter(form)->write(&m, lowered, path, err);
}

/* Compiles FOLDER/NAME.c and loads it. */
static void *load(const char *name)
{
    const char *compiler = getenv("CC");
    char command[1000], library[300];
    snprintf(library, sizeof library, "%s/%s.so", root, name);
    snprintf(command, sizeof command, "%s -std=c99 -O1 -shared -fPIC '%s/%s.c' -o '%s'", compiler ? compiler : "cc", root, name,
             library);
    if (system(command)) fail_msg("%s failed", command);
    void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!loaded) fail_msg("%s", dlerror());
    return loaded;
}

static void *symbol(void *library, const char *name, const char *suffix)
{
    char full[100];
    snprintf(full, sizeof full, "%s_%s", name, suffix);
    void *s = dlsym(library, full);
    if (!s) fail_msg("no %s", full);
    return s;
}

typedef void run_fn(const unsigned char *image, void *logits, void *buffer);
typedef int32_t fixed_fn(int32_t logit, int bits);

/* A logit of code without floats, as a float. */
static float float_of(int32_t v)
{
    const uint32_t u = v < 0 ? (uint32_t)-v | 0x80000000 : (uint32_t)v;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void check_fixed(fixed_fn *fixed, int32_t logit)
{
    for (int bits = 0; bits <= 30; bits++) {
        const double exact = ldexp((double)float_of(logit), bits), most = 2147483647;
        const double want = copysign(floor(fabs(exact) + 0.5), exact);
        const int32_t got = fixed(logit, bits);
        if (got != (int32_t)(want > most ? most : want < -most ? -most : want))
            fail_msg("%a in fixed point of %d bits: %d, not %g", (double)float_of(logit), bits, got, want);
    }
}

static void check(const bwi_quant_spec *spec, int number)
{
    enum { PIXELS = H * W * 3 };
    bwi_graph *g = network(spec);
    bwi_tensors lowered;
    uint8_t *file, images[IMAGES * PIXELS];
    float want[IMAGES * CLASSES];
    size_t size;
    bw_net_info info;
    bw_net *net;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    CHECK(bwi_safetensors_image(&file, &size, &lowered, err));
    CHECK(bw_net_read(file, size, &info, err));
    void *memory = bwi_malloc(info.net_bytes), *work = bwi_malloc(info.work_bytes);
    assert_true(memory && work);
    CHECK(bw_net_init(&net, file, size, memory, info.net_bytes, err));
    bwi_rng r = bwi_rng_make(9, BWI_RNG_TEST, 0, 0);
    for (size_t i = 0; i < sizeof images; i++) images[i] = (uint8_t)bwi_rng_u64(&r);
    memset(images, 0, PIXELS);
    memset(images + PIXELS, 255, PIXELS);
    bw_net_run(net, images, IMAGES, want, work);
    for (size_t f = 0; f < 2; f++) {
        char name[40], file_name[50];
        run_fn *run;
        fixed_fn *fixed;
        snprintf(name, sizeof name, "net_%d_%zu", number, f);
        snprintf(file_name, sizeof file_name, "%s.c", name);
        CHECK(write_to(&lowered, forms[f], in_root(file_name), err));
        void *library = load(name), *s = symbol(library, name, "run");
        memcpy(&run, &s, sizeof s);
        const unsigned long bytes = *(const unsigned long *)symbol(library, name, "buffer_bytes");
        unsigned char *buffer = bwi_malloc(bytes + 64);
        assert_non_null(buffer);
        memset(buffer, 0xa5, bytes + 64);
        if (f) {
            s = symbol(library, name, "fixed");
            memcpy(&fixed, &s, sizeof s);
        }
        for (size_t i = 0; i < IMAGES; i++) {
            union {
                float f[CLASSES];
                int32_t i[CLASSES];
            } got;
            run(images + i * PIXELS, &got, buffer);
            for (size_t k = 0; k < CLASSES; k++) {
                if (f) check_fixed(fixed, got.i[k]);
                const float own = f ? float_of(got.i[k]) : got.f[k];
                if (own != want[i * CLASSES + k])
                    fail_msg("%s: %s/%s %d/%d bits, %s: logit %zu of image %zu is %a, the engine's %a", forms[f],
                             spec->weight_quantizer, spec->activation_quantizer, spec->weight_bits, spec->activation_bits,
                             spec->policy, k, i, (double)own, (double)want[i * CLASSES + k]);
            }
        }
        for (size_t i = 0; i < 64; i++) assert_int_equal(buffer[bytes + i], 0xa5);
        bwi_free(buffer);
        dlclose(library);
    }
    bwi_free(memory);
    bwi_free(work);
    bwi_free(file);
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

static void test_logits(void **state)
{
    (void)state;
    static const struct {
        const char *weight, *activation;
        int weight_bits, activation_bits;
        const char *policy;
    } specs[] = {
        {"lsq", "lsq", 4, 4, "first-last-8"},
        {"lsq", "lsq", 2, 2, "first-last-8"},
        {"lsq", "lsq", 3, 5, "all"},
        {"interval", "interval", 1, 1, "inner"},
        {"interval", "interval", 2, 3, "all"},
        {"dorefa", "pact", 4, 4, "inner"},
        {"minmax", "lsq", 2, 2, "first-last-8"},
        {"minmax", "lsq", 1, 8, "all"},
        {"minmax", "none", 3, 0, "all"},
        {"bwn", "none", 1, 0, "all"},
        {"none", "none", 0, 0, "all"},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const bwi_quant_spec spec = {.weight_quantizer = specs[i].weight,
                                     .activation_quantizer = specs[i].activation,
                                     .weight_bits = specs[i].weight_bits,
                                     .activation_bits = specs[i].activation_bits,
                                     .policy = specs[i].policy};
        check(&spec, (int)i);
    }
}

static const bwi_quant_spec w2a2 = {
    .weight_quantizer = "lsq", .activation_quantizer = "lsq", .weight_bits = 2, .activation_bits = 2, .policy = "first-last-8"};

static void test_failures(void **state)
{
    (void)state;
    bwi_graph *g = network(&w2a2);
    const char *path = in_root("failing.c");
    bwi_tensors lowered;
    bw_error error;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    for (size_t f = 0; f < 2; f++) {
        bw_status st = BW_NOMEM;
        const int64_t live = bwi_alloc_live_blocks();
        int64_t n = 0;
        for (; st != BW_OK; n++) {
            bwi_alloc_fail_at(n, 0);
            st = write_to(&lowered, forms[f], path, &error);
            bwi_alloc_fail_at(-1, 0);
            assert_int_equal(bwi_alloc_live_blocks(), live);
            if (st == BW_OK) break;
            assert_int_equal(st, BW_NOMEM);
            assert_true(error.msg[0]);
            assert_false(bwi_file_exists(path));
        }
        assert_true(n > 10);
        unlink(path);
        assert_int_equal(write_to(&lowered, forms[f], "/nowhere/at/all.c", &error), BW_IO);
        assert_non_null(strstr(error.msg, "/nowhere/at/all.h"));
        assert_int_equal(write_to(&lowered, forms[f], in_root("net.txt"), &error), BW_ARG);
    }
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

/* What is not a number has no place among integers. */
static void test_infinite(void **state)
{
    (void)state;
    bwi_graph *g = network(&w2a2);
    bwi_tensors lowered;
    bw_error error;
    for (int i = 0; i < g->n_params; i++)
        if (g->param[i].role == BWI_PARAM_NORM && !strncmp(g->param[i].name, "group.bn", 8))
            ((float *)g->param[i].data)[2] = INFINITY;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    CHECK(write_to(&lowered, "c", in_root("infinite.c"), err));
    assert_int_equal(write_to(&lowered, "c-integer", in_root("infinite.c"), &error), BW_NUMERIC);
    assert_non_null(strstr(error.msg, "layer group"));
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

/* ---- Floats in integers -------------------------------------------------------------------------------------------------- */

typedef int32_t real;
static const real net_constants[800];
static const int32_t net_levels[800];
static const unsigned char net_codes[800];
#include "deploy/portable_layer.inc"
#include "deploy/portable_integer.inc"
static void finish(const layer *l, char *buffer, real t, size_t p, int c)
{
    (void)l, (void)buffer, (void)t, (void)p, (void)c;
}

static int32_t bits_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u >> 31 ? -(int32_t)(u & 0x7fffffff) : (int32_t)u;
}

/* Bits of every kind: near each other, near a tie, near the ends of the range. */
static int32_t some(bwi_rng *r, int32_t near)
{
    const int32_t most = 0x7f7fffff;
    uint32_t u = (uint32_t)bwi_rng_u64(r) & 0x7fffffff;
    switch (bwi_rng_below(r, 6)) {
    case 0:
        u = (u & 0x1ffffff) + 0x3e000000; /* about 1 */
        break;
    case 1:
        u = (uint32_t)abs(near) + bwi_rng_below(r, 64) - 32;
        break;
    case 2:
        u = bwi_rng_below(r, 0x1800000); /* the least */
        break;
    case 3:
        u &= 0x7fff0000; /* few bits */
        break;
    case 4:
        u = (uint32_t)abs(near) & 0x7f800000;
        break;
    default:
        break;
    }
    u &= 0x7fffffff;
    if (u > (uint32_t)most) u = (uint32_t)most - u % 1000;
    return bwi_rng_below(r, 2) ? (int32_t)u : -(int32_t)u;
}

static void test_arithmetic(void **state)
{
    (void)state;
    bwi_rng r = bwi_rng_make(12, BWI_RNG_TEST, 0, 0);
    const char *const volatile unused[] = {(const char *)(uintptr_t)finish_direct, (const char *)(uintptr_t)finish_input,
                                           (const char *)(uintptr_t)code_of};
    (void)unused;
    for (int i = 0; i < 3000000; i++) {
        const int32_t a = some(&r, 0x3f800000), b = some(&r, a);
        const float x = float_of(a), y = float_of(b), sum = x + y, product = x * y;
        if (plus(a, b) != bits_of(sum))
            fail_msg("%a + %a = %a, not %a", (double)x, (double)y, (double)sum, (double)float_of(plus(a, b)));
        if (times(a, b) != bits_of(product))
            fail_msg("%a * %a = %a, not %a", (double)x, (double)y, (double)product, (double)float_of(times(a, b)));
        const int32_t n = (int32_t)bwi_rng_u64(&r) >> bwi_rng_below(&r, 31);
        if (n > INT32_MIN && of_int(n) != bits_of((float)n)) fail_msg("%d becomes %a", n, (double)float_of(of_int(n)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_infinite),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
