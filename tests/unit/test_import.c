/* Parameters to and from files: names, layouts, types, what is missing, and whole imports. */
#include "base/alloc.h"
#include "base/rng.h"
#include "train/import.h"
#include "zoo/zoo.h"
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[256], path[512], path2[512];
static bw_error err;

#define OK(expr)                                                                                                               \
    do {                                                                                                                       \
        if ((expr) != BW_OK) fail_msg("%s", err.msg);                                                                          \
    } while (0)

static bwi_graph *net(const char *shortcut, bool last_bn, int classes, bwi_dtype real, uint64_t seed)
{
    bwi_graph *g;
    const bwi_net_options o = {.shortcut = shortcut, .last_bn = last_bn, .classes = classes, .input = {32, 32, 3}};
    OK(bwi_net_create(&g, "resnet20", &o, real, &err));
    bwi_graph_init(g, seed);
    bwi_rng r = bwi_rng_make(seed, BWI_RNG_TEST, 0, 0);
    for (int i = 0; i < g->n_params; i++) /* batch norms too, so that no two parameters are alike */
        for (size_t k = 0; real == BWI_DT_F32 && k < g->param[i].numel; k++)
            ((float *)g->param[i].data)[k] += (float)bwi_rng_uniform(&r);
    return g;
}

static bwi_graph *quantized(uint64_t seed)
{
    bwi_graph *g = net("A", false, 10, BWI_DT_F32, seed);
    const bwi_quant_spec s = {.weight_quantizer = "lsq",
                              .weight_gradient = "ste",
                              .activation_quantizer = "lsq",
                              .activation_gradient = "ste",
                              .weight_bits = 4,
                              .activation_bits = 4};
    OK(bwi_graph_quantize(g, &s, &err));
    return g;
}

static double value(const bwi_param *p, size_t i)
{
    return p->dtype == BWI_DT_F64 ? ((double *)p->data)[i] : (double)((float *)p->data)[i];
}

static void check_same(const bwi_graph *a, const bwi_graph *b)
{
    assert_int_equal(a->n_params, b->n_params);
    for (int i = 0; i < a->n_params; i++)
        for (size_t k = 0; k < a->param[i].numel; k++)
            if (value(&a->param[i], k) != value(&b->param[i], k)) fail_msg("%s[%zu] differs", a->param[i].name, k);
}

/* What bwi_import_params said: to be read until the next call. */
static bwi_text report;
static int missing, extra;
static void import(bwi_graph *g, const bwi_tensors *ts)
{
    bwi_free(report.s);
    report = (bwi_text){0};
    OK(bwi_import_params(g, ts, &report, &missing, &extra, &err));
}
static void check_report(const char *line)
{
    if (!strstr(report.s, line)) fail_msg("no \"%s\" in\n%s", line, report.s);
}

/* ts with every name changed by change, which writes into out [200]. */
static void rename_all(bwi_tensors *to, const bwi_tensors *ts, void (*change)(const char *name, char *out))
{
    char name[200];
    memset(to, 0, sizeof *to);
    for (size_t i = 0; i < ts->n; i++) {
        const bwi_tensor *t = &ts->t[i];
        change(t->name, name);
        OK(bwi_tensors_add(to, name, t->dtype, t->ndim, t->dim, t->data, &err));
    }
}

/* Replaces every `from` that is a whole part of a dotted name. */
static void replace_part(char *name, const char *from, const char *to)
{
    char out[200] = "";
    for (char *part = strtok(name, "."); part; part = strtok(NULL, ".")) {
        if (*out) strcat(out, ".");
        strcat(out, strcmp(part, from) ? part : to);
    }
    strcpy(name, out);
}

static void done(void)
{
    bwi_free(report.s);
    report = (bwi_text){0};
    assert_int_equal(bwi_alloc_live_blocks(), 0);
}

/* ---- Export ---- */

static void test_export_layout(void **state)
{
    (void)state;
    bwi_graph *g = net("projection", true, 10, BWI_DT_F32, 1);
    bwi_tensors ts = {0};
    OK(bwi_export_params(g, true, &ts, &err));
    assert_int_equal(ts.n, g->n_params);
    for (int i = 0; i < g->n_params; i++) {
        const bwi_param *p = &g->param[i];
        const bwi_tensor *t = &ts.t[i];
        assert_string_equal(t->name, p->name);
        assert_int_equal(t->dtype, BWI_DT_F32);
        assert_int_equal(t->ndim, p->ndim);
        assert_memory_equal(t->dim, p->dim, (size_t)p->ndim * sizeof *p->dim);
        if (p->ndim != 4) {
            assert_memory_equal(t->data, p->data, t->bytes);
            continue;
        }
        const float *file = t->data, *memory = p->data;
        int64_t O = p->dim[0], I = p->dim[1], H = p->dim[2], W = p->dim[3];
        for (int64_t o = 0; o < O; o++)
            for (int64_t c = 0; c < I; c++)
                for (int64_t h = 0; h < H; h++)
                    for (int64_t w = 0; w < W; w++)
                        assert_true(file[((o * I + c) * H + h) * W + w] == memory[((o * H + h) * W + w) * I + c]);
    }
    OK(bwi_export_meta(&ts, "model", "a: b\n", "half", &err));
    assert_string_equal(bwi_tensors_meta(&ts, "format"), "pt");
    assert_string_equal(bwi_tensors_meta(&ts, "bitwright.version"), BW_VERSION);
    assert_string_equal(bwi_tensors_meta(&ts, "bitwright.kind"), "model");
    assert_string_equal(bwi_tensors_meta(&ts, "bitwright.recipe"), "a: b\n");
    assert_string_equal(bwi_tensors_meta(&ts, "bitwright.normalize"), "half");
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&g);
    done();
}

static void test_round_trip(void **state)
{
    (void)state;
    static const bwi_dtype real[] = {BWI_DT_F32, BWI_DT_F64};
    bwi_graph *g = net("projection", false, 10, BWI_DT_F32, 1);
    bwi_tensors ts = {0};
    OK(bwi_export_params(g, true, &ts, &err));
    for (int i = 0; i < 2; i++) {
        bwi_graph *back = net("projection", false, 10, real[i], 2);
        uint64_t version = back->version;
        import(back, &ts);
        assert_int_equal(missing, 0);
        assert_int_equal(extra, 0);
        assert_true(back->version != version);
        check_report("107 of 107 parameters of resnet20 found, 0 missing, 0 tensors left over\n");
        check_report("\nfound: conv1.weight [16, 3, 3, 3]\n");
        check_same(g, back);
        bwi_graph_destroy(&back);
    }
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&g);
    done();
}

/* ---- Names ---- */

static void wrap(const char *name, char *out)
{
    snprintf(out, 200, "model.state_dict.module.module.%s", name);
}
static void other_names(const char *name, char *out)
{
    snprintf(out, 200, "net.%s", name);
    replace_part(out, "linear", "fc");
    replace_part(out, "downsample", "shortcut");
    replace_part(out, "bn1", "norm1");
    replace_part(out, "bn_last", "bn2");
}

static void test_names(void **state)
{
    (void)state;
    static void (*const change[])(const char *, char *) = {wrap, other_names};
    bwi_graph *g = net("projection", true, 10, BWI_DT_F32, 1);
    bwi_tensors ts = {0}, other;
    OK(bwi_export_params(g, true, &ts, &err));
    for (int i = 0; i < 2; i++) {
        bwi_graph *back = net("projection", true, 10, BWI_DT_F32, 2);
        const int64_t count = 5;
        rename_all(&other, &ts, change[i]);
        OK(bwi_tensors_add(&other, "module.bn1.num_batches_tracked", BWI_DT_I64, 0, NULL, &count, &err));
        OK(bwi_tensors_add(&other, "optimizer.0", BWI_DT_I64, 0, NULL, &count, &err));
        import(back, &other);
        assert_int_equal(missing, 0);
        assert_int_equal(extra, 1);
        check_report("\nleft over: optimizer.0 []\n");
        check_report(i ? "\nfound: linear.bias [10] as net.fc.bias\n"
                       : "\nfound: linear.bias [10] as model.state_dict.module.module.linear.bias\n");
        assert_null(strstr(report.s, "num_batches_tracked"));
        check_same(g, back);
        bwi_tensors_free(&other);
        bwi_graph_destroy(&back);
    }
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&g);
    done();
}

/* The tensor whose name is closest wins, whatever the order. */
static void test_closest_name(void **state)
{
    (void)state;
    static const char *const name[] = {"fc.bias", "module.linear.bias", "linear.bias"};
    bwi_graph *g = net("A", false, 10, BWI_DT_F32, 1);
    float v[3][10] = {{0}};
    const int64_t dim = 10;
    for (int first = 0; first < 3; first++) {
        bwi_tensors ts = {0};
        for (int i = first; i < 3; i++) {
            v[i][0] = (float)(100 + i);
            OK(bwi_tensors_add(&ts, name[i], BWI_DT_F32, 1, &dim, v[i], &err));
        }
        import(g, &ts);
        assert_true(value(bwi_graph_param(g, "linear.bias"), 0) == 102);
        assert_int_equal(extra, 2 - first);
        bwi_tensors_free(&ts);
    }
    bwi_graph_destroy(&g);
    done();
}

/* ---- Types and shapes ---- */

static void test_types(void **state)
{
    (void)state;
    static const uint16_t f16[10] = {0x3c00, 0xc000}, bf16[10] = {0x3f80, 0xc000};
    static const int32_t i32[10] = {1, -2};
    static const double f64[10] = {1, -2};
    static const struct {
        bwi_dtype dtype;
        const void *data;
    } c[] = {{BWI_DT_F16, f16}, {BWI_DT_BF16, bf16}, {BWI_DT_I32, i32}, {BWI_DT_F64, f64}};
    const int64_t dim[] = {1, 10, 1};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        bwi_graph *g = net("A", false, 10, BWI_DT_F32, 1);
        bwi_tensors ts = {0};
        OK(bwi_tensors_add(&ts, "linear.bias", c[i].dtype, 3, dim, c[i].data, &err)); /* dimensions of 1 do not count */
        import(g, &ts);
        assert_int_equal(missing, g->n_params - 1);
        const bwi_param *p = bwi_graph_param(g, "linear.bias");
        assert_true(value(p, 0) == 1 && value(p, 1) == -2 && value(p, 2) == 0);
        bwi_tensors_free(&ts);
        bwi_graph_destroy(&g);
    }
    done();
}

static void test_shapes(void **state)
{
    (void)state;
    bwi_graph *g = net("A", false, 10, BWI_DT_F32, 1), *before = net("A", false, 10, BWI_DT_F32, 1),
              *other = net("A", false, 7, BWI_DT_F32, 2);
    bwi_tensors ts = {0};
    OK(bwi_export_params(other, true, &ts, &err));
    import(g, &ts);
    assert_int_equal(missing, 2);
    assert_int_equal(extra, 0);
    check_report("\nmissing: linear.weight [10, 64]: the file's linear.weight is [7, 64]\n");
    check_report("\nmissing: linear.bias [10]: the file's linear.bias is [7]\n");
    const bwi_param *p = bwi_graph_param(g, "linear.weight"), *kept = bwi_graph_param(before, "linear.weight");
    assert_memory_equal(p->data, kept->data, p->numel * sizeof(float));
    bwi_tensors_free(&ts);

    /* The same number of elements is not the same shape. */
    const float data[640] = {0};
    OK(bwi_tensors_add(&ts, "linear.weight", BWI_DT_F32, 2, (const int64_t[]){64, 10}, data, &err));
    import(g, &ts);
    assert_int_equal(missing, g->n_params);
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&g);
    bwi_graph_destroy(&before);
    bwi_graph_destroy(&other);
    done();
}

/* ---- Quantizers ---- */

static void test_quantizers(void **state)
{
    (void)state;
    bwi_graph *g = quantized(1), *back = quantized(2);
    bwi_quant *q;
    const bwi_node *layer;
    bwi_tensors ts = {0};
    int n = 0;
    OK(bwi_export_params(g, true, &ts, &err));
    assert_null(bwi_tensors_find(&ts, "layer1.0.conv1.weight_quant.step")); /* not set yet */
    bwi_tensors_free(&ts);
    for (; bwi_graph_quant(g, n, &q, &layer); n++) {
        if (n == 3) continue; /* one stays unset */
        q->theta[0] = 0.25 + n;
        q->ready = true;
    }
    assert_true(n > 30);
    OK(bwi_export_params(g, true, &ts, &err));
    assert_int_equal(ts.n, g->n_params - 1);
    const bwi_tensor *t = bwi_tensors_find(&ts, "layer1.0.conv1.weight_quant.step");
    assert_non_null(t);
    assert_int_equal(t->dtype, BWI_DT_F64);
    import(back, &ts);
    assert_int_equal(missing, 0);
    check_report("\n1 quantizer parameters are not in the file: they will be set from data\n");
    for (int i = 0; i < n; i++) {
        assert_true(bwi_graph_quant(back, i, &q, &layer));
        assert_int_equal(q->ready, i != 3);
        if (i == 3) continue;
        assert_true(q->theta[0] == 0.25 + i);
        assert_true(q->theta0[0] == 0.25 + i);
    }
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&g);
    bwi_graph_destroy(&back);
    done();
}

/* ---- Whole files ---- */

static const char *in_folder(char *out, const char *name)
{
    snprintf(out, sizeof path, "%s/%s", folder, name);
    return out;
}

static void write_net(const char *file, bwi_graph *g, void (*change)(const char *, char *))
{
    bwi_tensors ts = {0}, other = {0};
    OK(bwi_export_params(g, true, &ts, &err));
    rename_all(&other, &ts, change);
    OK(bwi_safetensors_write(file, other.t, other.n, NULL, NULL, 0, &err));
    bwi_tensors_free(&ts);
    bwi_tensors_free(&other);
}

static void test_import(void **state)
{
    (void)state;
    bwi_graph *g = net("projection", true, 7, BWI_DT_F32, 1), *back = net("projection", true, 7, BWI_DT_F32, 2);
    bw_import_options o = {.net = "resnet20", .shortcut = "projection", .last_bn = true, .normalize = "imagenet"};
    char *text;
    bwi_tensors ts;
    write_net(in_folder(path, "in"), g, other_names);
    OK(bw_import(path, in_folder(path2, "out"), &o, &text, &err));
    assert_non_null(strstr(text, "0 missing, 0 tensors left over\n"));
    bw_free(text);
    OK(bwi_tensors_read(&ts, path2, NULL, &err));
    assert_int_equal(ts.n, g->n_params);
    for (size_t i = 0; i < ts.n; i++) assert_string_equal(ts.t[i].name, g->param[i].name);
    assert_string_equal(bwi_tensors_meta(&ts, "format"), "pt");
    assert_string_equal(bwi_tensors_meta(&ts, "bitwright.kind"), "model");
    assert_string_equal(bwi_tensors_meta(&ts, "bitwright.normalize"), "imagenet");
    assert_string_equal(bwi_tensors_meta(&ts, "bitwright.recipe"),
                        "name: resnet20\nnet:\n  family: resnet20\n  shortcut: projection\n  classes: 7\n"
                        "  last_bn: true\ndata:\n  normalize: imagenet\n");
    import(back, &ts);
    check_same(g, back);
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&back);

    back = net("projection", true, 7, BWI_DT_F32, 3);
    OK(bwi_import_file(back, path2, &text, &err));
    assert_non_null(strstr(text, ": 111 of 111 parameters of resnet20 found, 0 missing"));
    assert_null(strchr(text, '\n'));
    bwi_free(text);
    check_same(g, back);
    bwi_graph_destroy(&back);
    bwi_graph_destroy(&g);
    done();
}

static void check_import_fails(const bw_import_options *o, bw_status status, const char *message, bool has_report)
{
    char *text;
    unlink(in_folder(path2, "out"));
    bw_status st = bw_import(path, path2, o, &text, &err);
    if (st != status || !strstr(err.msg, message))
        fail_msg("status %d, \"%s\"; expected %d, \"%s\"", st, err.msg, status, message);
    assert_int_equal(text != NULL, has_report);
    assert_false(bwi_file_exists(path2));
    bw_free(text);
}

static void test_import_fails(void **state)
{
    (void)state;
    bwi_graph *g = net("projection", false, 10, BWI_DT_F32, 1);
    bw_import_options o = {.net = "resnet20"};
    write_net(in_folder(path, "in"), g, wrap);
    check_import_fails(&o, BW_SHAPE, "no use for its model.state_dict.module.module.layer2.0.downsample.0.weight", true);
    o.shortcut = "projection";
    o.last_bn = true;
    check_import_fails(&o, BW_SHAPE, "4 parameters are missing, the first is bn_last.weight [64]", true);
    o.last_bn = false;
    o.net = "resnet2";
    check_import_fails(&o, BW_ARG, "resnet20", false);
    o.net = NULL;
    check_import_fails(&o, BW_ARG, "name of the network", false);
    o.net = "resnet32";
    check_import_fails(&o, BW_SHAPE, "60 parameters are missing", true);
    o.net = "resnet20";
    o.normalize = "imagnet";
    check_import_fails(&o, BW_ARG, "did you mean 'imagenet'", false);
    o.normalize = NULL;
    o.classes = 100;
    check_import_fails(&o, BW_SHAPE,
                       "linear.weight [100, 64]: the file's model.state_dict.module.module.linear.weight is [10, 64]", true);
    char *text;
    o.allow_missing = true;
    OK(bw_import(path, path2, &o, &text, &err));
    bw_free(text);
    in_folder(path, "absent");
    check_import_fails(&o, BW_IO, path, false);
    bwi_graph *back = net("A", false, 10, BWI_DT_F32, 1);
    assert_int_equal(bwi_import_file(back, in_folder(path, "in"), &text, &err), BW_SHAPE);
    assert_null(text);
    assert_non_null(strstr(err.msg, "downsample"));
    bwi_graph_destroy(&back);
    bwi_graph_destroy(&g);

    /* Nothing of the network is there: that is a mistake even when parameters may be missing. */
    bwi_tensors ts = {0};
    const float x = 1;
    OK(bwi_tensors_add(&ts, "x", BWI_DT_F32, 0, NULL, &x, &err));
    OK(bwi_safetensors_write(path, ts.t, ts.n, NULL, NULL, 0, &err));
    bwi_tensors_free(&ts);
    check_import_fails(&o, BW_SHAPE, "does not fit network resnet20", true);
    o.classes = 0;
    check_import_fails(&o, BW_SHAPE, "cannot tell the number of classes", false);
    done();
}

static void test_no_memory(void **state)
{
    (void)state;
    bwi_graph *g = quantized(1);
    bwi_tensors ts = {0}, copy = {0};
    OK(bwi_export_params(g, true, &ts, &err));
    int64_t live = bwi_alloc_live_blocks();
    for (int64_t n = 0;; n++) {
        bwi_text text = {0};
        bwi_alloc_fail_at(n, 0);
        bw_status st = bwi_import_params(g, &ts, &text, &missing, &extra, &err);
        bool reached = bwi_alloc_count() > n;
        bwi_alloc_fail_at(-1, 0);
        bwi_free(text.s);
        assert_int_equal(st, reached ? BW_NOMEM : BW_OK);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        if (!reached) break;
    }
    for (int64_t n = 0;; n++) {
        bwi_alloc_fail_at(n, 0);
        bw_status st = bwi_export_params(g, true, &copy, &err);
        if (st == BW_OK) st = bwi_export_meta(&copy, "model", "", "half", &err);
        bool reached = bwi_alloc_count() > n;
        bwi_alloc_fail_at(-1, 0);
        bwi_tensors_free(&copy);
        assert_int_equal(st, reached ? BW_NOMEM : BW_OK);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        if (!reached) break;
    }
    OK(bwi_safetensors_write(in_folder(path, "in"), ts.t, ts.n, NULL, NULL, 0, &err));
    const bw_import_options o = {.net = "resnet20"};
    for (int64_t n = 0;; n += 13) { /* each try makes three networks: not every n, for time */
        char *text;
        unlink(in_folder(path2, "out"));
        bwi_alloc_fail_at(n, 0);
        bw_status st = bw_import(path, path2, &o, &text, &err);
        bool reached = bwi_alloc_count() > n;
        bwi_alloc_fail_at(-1, 0);
        bw_free(text);
        assert_int_equal(st, reached ? BW_NOMEM : BW_OK);
        assert_int_equal(bwi_file_exists(path2), !reached);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        if (!reached) break;
    }
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&g);
    done();
}

/* Published checkpoints: what they are made for, and what they must not pass for. */
static void test_models(void **state)
{
    (void)state;
    static const struct {
        const char *name, *net, *shortcut;
        bool fits;
    } c[] = {
        {"resnet20-12fca82f.th", "resnet20", "A", true},
        {"resnet20-12fca82f.th", "resnet20", "projection", false},
        {"resnet20-12fca82f.th", "resnet32", "A", false},
        {"resnet32-d509ac18.th", "resnet32", "A", true},
        {"resnet32-d509ac18.th", "resnet20", "A", false}, /* it has all layers that are needed, and more */
        {"ResNet20-CIFAR10-pretrain.pth", "resnet20", "projection", true},
        {"ResNet20-CIFAR10-pretrain.pth", "resnet20", "A", false},
    };
    const char *models = getenv("BITWRIGHT_MODELS");
    if (!models) skip();
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char file[1024], *text;
        const bw_import_options o = {.net = c[i].net, .shortcut = c[i].shortcut};
        snprintf(file, sizeof file, "%s/%s", models, c[i].name);
        bw_status st = bw_import(file, in_folder(path2, "out"), &o, &text, &err);
        if (st != (c[i].fits ? BW_OK : BW_SHAPE))
            fail_msg("%s as %s %s: status %d, %s", c[i].name, c[i].net, c[i].shortcut, st, err.msg);
        bw_free(text);
    }
    done();
}

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bitwright-import-XXXXXX", base ? base : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(in_folder(path, "in"));
    unlink(in_folder(path, "out"));
    return rmdir(folder); /* fails when a test left something else behind */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_export_layout), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_names),
        cmocka_unit_test(test_closest_name),  cmocka_unit_test(test_types),      cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_quantizers),    cmocka_unit_test(test_import),     cmocka_unit_test(test_import_fails),
        cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
