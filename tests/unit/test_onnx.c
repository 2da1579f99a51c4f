/* ONNX and QONNX: what was written is read back, and run. */
#include "nets.h"
#include "base/alloc.h"
#include "base/rng.h"
#include "deploy/export.h"
#include "deploy/onnx_proto.h"
#include "onnx_run.h"
#include "zoo/zoo.h"
#include <stdio.h>
#include <unistd.h>

enum { H = 7, W = 6, CLASSES = 3 };
static const char *const forms[] = {"onnx", "onnx13", "qonnx"};
enum { FORMS = sizeof forms / sizeof *forms };
static char path[64];

/* ---- Networks ------------------------------------------------------------------------------------------------------------ */

/* conv1 -> conv2 with stride and an option-A shortcut -> pools -> fc; every operator that the exporters write. */
static bwi_graph *network(const bwi_quant_spec *spec, bool grouped)
{
    const bwi_attr one = {.out = 4, .kh = 3, .kw = 3, .pad = 1},
                   two = {.out = 6, .kh = 3, .kw = 3, .pad = 1, .stride = 2, .groups = grouped ? 2 : 1},
                   wider = {.out = 7, .stride = 2}, third = {.out = 7, .kh = 1, .kw = 1, .bias = true},
                   most = {.kh = 3, .kw = 3, .stride = 1, .pad = 1}, mean = {.kh = 2, .kw = 2, .stride = 1, .pad = 1},
                   last = {.out = CLASSES, .bias = true};
    bwi_graph *g;
    int v = 0, from;
    CHECK(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){H, W, 3}, err));
    from = add_layer(g, "conv1", &one, v);
    v = add_layer(g, "conv2", &two, from);
    CHECK(bwi_graph_add(g, "conv2d", "conv3", &v, 1, &third, &v, err));
    CHECK(bwi_graph_add(g, "shortcut_a", "shortcut", &from, 1, &wider, &from, err));
    CHECK(bwi_graph_add(g, "add", "add", (int[]){v, from}, 2, NULL, &v, err));
    CHECK(bwi_graph_add(g, "max_pool", "pool1", &v, 1, &most, &v, err));
    CHECK(bwi_graph_add(g, "avg_pool", "pool2", &v, 1, &mean, &v, err));
    CHECK(bwi_graph_add(g, "global_pool", "pool3", &v, 1, NULL, &v, err));
    CHECK(bwi_graph_add(g, "linear", "fc", &v, 1, &last, &v, err));
    g->output = v;
    g->classes = CLASSES;
    CHECK(bwi_graph_quantize(g, spec, err));
    warm_up(g);
    return g;
}

static const bwi_quant_spec w4a4 = {
    .weight_quantizer = "lsq", .activation_quantizer = "lsq", .weight_bits = 4, .activation_bits = 4, .policy = "first-last-8"};

/* ---- Files --------------------------------------------------------------------------------------------------------------- */

static bw_status write_to(bwi_graph *g, const bwi_tensors *lowered, const char *form, const char *to, bw_error *err)
{
    const bwi_model m = {.graph = g};
    return exporter(form)->write(&m, lowered, to, err);
}

static Onnx__ModelProto *reread(void)
{
    bwi_file f;
    CHECK(bwi_file_open(&f, path, err));
    Onnx__ModelProto *m = onnx__model_proto__unpack(NULL, f.size, f.data);
    assert_non_null(m);
    bwi_file_close(&f);
    return m;
}

static Onnx__ModelProto *exported(bwi_graph *g, const bwi_tensors *lowered, const char *form)
{
    CHECK(write_to(g, lowered, form, path, err));
    return reread();
}

static int count(const Onnx__ModelProto *m, const char *op)
{
    int n = 0;
    for (size_t i = 0; i < m->graph->n_node; i++) n += !strcmp(m->graph->node[i]->op_type, op);
    return n;
}

static const Onnx__TensorProto *initialiser(const Onnx__ModelProto *m, const char *name)
{
    for (size_t i = 0; i < m->graph->n_initializer; i++)
        if (!strcmp(m->graph->initializer[i]->name, name)) return m->graph->initializer[i];
    fail_msg("there is no initialiser %s", name);
    return NULL;
}

static const char *metadata(const Onnx__ModelProto *m, const char *key)
{
    for (size_t i = 0; i < m->n_metadata_props; i++)
        if (!strcmp(m->metadata_props[i]->key, key)) return m->metadata_props[i]->value;
    fail_msg("there are no metadata %s", key);
    return NULL;
}

/* ---- Contents ------------------------------------------------------------------------------------------------------------ */

static void check_shape(const Onnx__ValueInfoProto *v, const char *name, size_t ndim, const int64_t *dim)
{
    const Onnx__TypeProto__Tensor *t = v->type->tensor_type;
    assert_string_equal(v->name, name);
    assert_int_equal(t->elem_type, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT);
    assert_int_equal(t->shape->n_dim, ndim);
    assert_int_equal(t->shape->dim[0]->value_case, ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM);
    assert_string_equal(t->shape->dim[0]->dim_param, "N");
    for (size_t i = 1; i < ndim; i++) assert_int_equal(t->shape->dim[i]->dim_value, dim[i]);
}

/* Initialiser NAME.weight holds exactly the codes of training, in ONNX's order, as int8, int4 or float. */
static void check_codes(const bwi_graph *g, const Onnx__ModelProto *m, const char *name, Onnx__TensorProto__DataType type)
{
    char weight[BWI_NAME + 8];
    const bwi_node *n = g->node;
    snprintf(weight, sizeof weight, "%s.weight", name);
    while (strcmp(n->name, name) != 0) n++;
    const bwi_param *p = &g->param[n->param[0]];
    const Onnx__TensorProto *t = initialiser(m, weight);
    float *code = malloc(p->numel * sizeof *code);
    assert_non_null(code);
    bwi_quant_codes(n->wq, p->data, p->dtype, p->numel, BWI_DT_F32, code);
    assert_int_equal(t->data_type, type);
    assert_int_equal(t->n_dims, p->ndim);
    for (int i = 0; i < p->ndim; i++) assert_int_equal(t->dims[i], p->dim[i]);
    const size_t ic = (size_t)p->dim[1], map = p->ndim == 4 ? (size_t)(p->dim[2] * p->dim[3]) : 1;
    for (size_t i = 0; i < p->numel; i++) { /* in memory: OHWI */
        const float expected = code[i / (ic * map) * ic * map + i % map * ic + i / map % ic];
        float real = 0;
        if (type == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT) memcpy(&real, t->raw_data.data + 4 * i, 4);
        if (type == BWI_ONNX_INT4) {
            const int half = t->raw_data.data[i / 2] >> (i % 2 ? 4 : 0) & 15;
            real = (float)(half < 8 ? half : half - 16);
        }
        if (type == ONNX__TENSOR_PROTO__DATA_TYPE__INT8) real = (float)(int8_t)t->raw_data.data[i];
        assert_true(real == expected);
    }
    free(code);
}

static const char *const layers[] = {"conv1", "conv2", "conv3", "fc"};

/* INT4 where weights have few bits and the form may have it; then the operator set is newer. */
static void check_contents(const char *form, bool four_bits)
{
    const Onnx__TensorProto__DataType inner = four_bits ? BWI_ONNX_INT4 : ONNX__TENSOR_PROTO__DATA_TYPE__INT8;
    bwi_graph *g = network(&w4a4, false);
    bwi_tensors lowered;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    Onnx__ModelProto *m = exported(g, &lowered, form);
    assert_int_equal(m->ir_version, four_bits ? 10 : 7);
    assert_int_equal(m->n_opset_import, 1);
    assert_string_equal(m->opset_import[0]->domain, "");
    assert_int_equal(m->opset_import[0]->version, four_bits ? 21 : 13);
    check_shape(m->graph->input[0], "image", 4, (int64_t[]){0, 3, H, W});
    check_shape(m->graph->output[0], "logits", 2, (int64_t[]){0, CLASSES});
    static const struct {
        const char *op;
        int n;
    } ops[] = {{"Conv", 3},
               {"Gemm", 1},
               {"Flatten", 1},
               {"QuantizeLinear", 4},
               {"DequantizeLinear", 8},
               {"Clip", 2}, /* of 4 bits */
               {"Mul", 10} /* 4 scales, 4 steps, 2 norms */,
               {"Relu", 2},
               {"Slice", 1},
               {"Pad", 1},
               {"MaxPool", 1},
               {"AveragePool", 1},
               {"GlobalAveragePool", 1},
               {"Add", 5} /* 2 norms, 2 biases, residual */};
    size_t nodes = 0;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (count(m, ops[i].op) != ops[i].n) fail_msg("%d nodes %s, not %d", count(m, ops[i].op), ops[i].op, ops[i].n);
        nodes += (size_t)ops[i].n;
    }
    assert_int_equal(m->graph->n_node, nodes);
    for (size_t i = 0; i < 4; i++) /* the first and the last have 8 bits */
        check_codes(g, m, layers[i], i % 3 ? inner : ONNX__TENSOR_PROTO__DATA_TYPE__INT8);
    assert_string_equal(metadata(m, "bitwright.mean"), "0.491400003 0.482199997 0.446500003");
    assert_string_equal(metadata(m, "bitwright.std"), "0.202299997 0.199399993 0.201000005");
    assert_string_equal(metadata(m, "bitwright.normalize"), "cifar");
    const char *scales = metadata(m, "bitwright.scales");
    double weight, activation;
    const char *at = strstr(scales, "conv2 w4 ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "conv2 w4 %lf a4 %lf", &weight, &activation), 2);
    const bwi_quant *wq = NULL, *aq = NULL;
    for (int i = 0; i < g->n_nodes; i++)
        if (!strcmp(g->node[i].name, "conv2")) wq = g->node[i].wq, aq = g->node[g->value[g->node[i].in[0]].producer].aq;
    assert_true(fabs(weight / wq->k.scale - 1) < 1e-8 && fabs(activation / aq->k.scale - 1) < 1e-8);
    assert_non_null(strstr(scales, "conv1 w8 "));
    assert_non_null(strstr(scales, " a8z "));
    onnx__model_proto__free_unpacked(m, NULL);
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

static void test_contents(void **state)
{
    (void)state;
    check_contents("onnx", true);
    check_contents("onnx13", false);
}

/* Networks without few bits stay in the older operator set, so that every runtime takes them. */
static void test_eight_bits(void **state)
{
    (void)state;
    bwi_quant_spec spec = w4a4;
    spec.weight_bits = 8;
    bwi_graph *g = network(&spec, false);
    bwi_tensors lowered;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    Onnx__ModelProto *m = exported(g, &lowered, "onnx");
    assert_int_equal(m->opset_import[0]->version, 13);
    assert_int_equal(m->ir_version, 7);
    for (size_t i = 0; i < 4; i++) check_codes(g, m, layers[i], ONNX__TENSOR_PROTO__DATA_TYPE__INT8);
    onnx__model_proto__free_unpacked(m, NULL);
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

static void test_qonnx_contents(void **state)
{
    (void)state;
    bwi_graph *g = network(&w4a4, false);
    bwi_tensors lowered;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    Onnx__ModelProto *m = exported(g, &lowered, "qonnx");
    assert_int_equal(m->n_opset_import, 2);
    assert_string_equal(m->opset_import[1]->domain, "qonnx.custom_op.general");
    assert_int_equal(m->opset_import[1]->version, 1);
    assert_int_equal(count(m, "Quant"), 8);
    assert_int_equal(count(m, "Clip") + count(m, "QuantizeLinear") + count(m, "DequantizeLinear"), 0);
    int bits[9] = {0};
    for (size_t i = 0; i < m->graph->n_node; i++) {
        const Onnx__NodeProto *n = m->graph->node[i];
        float b;
        if (strcmp(n->op_type, "Quant") != 0) continue;
        assert_string_equal(n->domain, "qonnx.custom_op.general");
        assert_string_equal(n->input[1], "float.1");
        assert_string_equal(n->input[2], "float.0");
        memcpy(&b, initialiser(m, n->input[3])->raw_data.data, sizeof b);
        bits[(int)b]++;
        const bool is_signed = !strstr(n->name, "conv2.input") && !strstr(n->name, "conv3.input"); /* what relu makes is not */
        assert_int_equal(onnx_get(n, "signed", 0), is_signed);
        assert_int_equal(onnx_get(n, "narrow", 0), 0);
        assert_int_equal(onnx_attribute(n, "rounding_mode")->s.len, 5);
        assert_memory_equal(onnx_attribute(n, "rounding_mode")->s.data, "ROUND", 5);
    }
    assert_int_equal(bits[8], 4);
    assert_int_equal(bits[4], 4);
    for (size_t i = 0; i < 4; i++) check_codes(g, m, layers[i], ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT);
    onnx__model_proto__free_unpacked(m, NULL);
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

/* ---- Logits -------------------------------------------------------------------------------------------------------------- */

/* Largest difference of a logit between the graph, run as it is read back, and the engine, over a few images. */
static double difference(const bwi_tensors *lowered, const Onnx__ModelProto *m)
{
    static onnx_run r;
    const bwi_normalize *normalize = bwi_normalize_find("cifar");
    bwi_rng rng = bwi_rng_make(5, BWI_RNG_TEST, 0, 0);
    bw_net_info info;
    bw_net *net;
    uint8_t *file, pixels[H * W * 3];
    size_t size;
    float x[3 * H * W], logits[CLASSES];
    double worst = 0;
    CHECK(bwi_safetensors_image(&file, &size, lowered, err));
    CHECK(bw_net_read(file, size, &info, err));
    void *memory = bwi_malloc(info.net_bytes), *work = bwi_malloc(info.work_bytes);
    assert_true(memory && work);
    CHECK(bw_net_init(&net, file, size, memory, info.net_bytes, err));
    for (int image = 0; image < 3; image++) {
        for (size_t i = 0; i < sizeof pixels; i++) {
            pixels[i] = (uint8_t)bwi_rng_u64(&rng);
            x[i % 3 * H * W + i / 3] = bwi_normalized(normalize, (int)(i % 3), pixels[i]);
        }
        bw_net_run(net, pixels, 1, logits, work);
        onnx_begin(&r, m->graph, x);
        const onnx_tensor *out = onnx_find(&r, "logits");
        assert_non_null(out);
        assert_int_equal(out->ndim, 2);
        assert_int_equal(out->n, CLASSES);
        for (size_t i = 0; i < CLASSES; i++) {
            assert_true(isfinite(logits[i]));
            worst = fmax(worst, fabs((double)out->v[i] - (double)logits[i]));
        }
        onnx_end(&r);
    }
    bwi_free(memory);
    bwi_free(work);
    bwi_free(file);
    return worst;
}

static void test_logits(void **state)
{
    (void)state;
    static const struct {
        const char *weight, *activation;
        int weight_bits, activation_bits;
        const char *policy;
        bool grouped;
    } specs[] = {
        {"lsq", "lsq", 4, 4, "first-last-8", true},
        {"lsq", "lsq", 1, 1, "first-last-8", false},
        {"lsq", "lsq", 8, 8, "all", true},
        {"interval", "interval", 1, 1, "all", false},
        {"interval", "interval", 2, 3, "all", false},
        {"interval", "interval", 8, 8, "inner", false},
        {"dorefa", "pact", 4, 4, "inner", false},
        {"dorefa", "dorefa", 8, 2, "inner", false},
        {"bwn", "none", 1, 0, "all", true},
        {"bwn", "lsq", 1, 8, "all", false},
        {"none", "none", 0, 0, "all", true},
        {"interval", "interval", 4, 4, "first-last-8", true},
        {"minmax", "lsq", 4, 4, "first-last-8", false},
        {"minmax", "lsq", 1, 2, "first-last-8", true},
        {"minmax", "none", 3, 0, "all", true},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const bwi_quant_spec spec = {.weight_quantizer = specs[i].weight,
                                     .activation_quantizer = specs[i].activation,
                                     .weight_bits = specs[i].weight_bits,
                                     .activation_bits = specs[i].activation_bits,
                                     .policy = specs[i].policy};
        bwi_graph *g = network(&spec, specs[i].grouped);
        bwi_tensors lowered;
        CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
        for (size_t f = 0; f < FORMS; f++) {
            Onnx__ModelProto *m = exported(g, &lowered, forms[f]);
            const double worst = difference(&lowered, m);
            const bool exact = !strcmp(specs[i].policy, "first-last-8") ||
                               (!strcmp(specs[i].policy, "all") && strcmp(specs[i].activation, "none") != 0);
            printf("%s: %s/%s %d/%d bits, %s: logits differ by at most %.2g\n", forms[f], specs[i].weight, specs[i].activation,
                   specs[i].weight_bits, specs[i].activation_bits, specs[i].policy, worst);
            /* Sums of float layers are added in another order. */
            if (worst > (exact ? 0 : 1e-4)) fail_msg("logits differ by %g", worst);
            onnx__model_proto__free_unpacked(m, NULL);
        }
        bwi_tensors_free(&lowered);
        bwi_graph_destroy(&g);
    }
}

/* ---- Writing ------------------------------------------------------------------------------------------------------------- */

static void test_same_bytes(void **state)
{
    (void)state;
    bwi_graph *g = network(&w4a4, true);
    bwi_tensors lowered;
    bwi_file first, second;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    for (size_t f = 0; f < FORMS; f++) {
        CHECK(write_to(g, &lowered, forms[f], path, err));
        CHECK(bwi_file_open(&first, path, err));
        CHECK(write_to(g, &lowered, forms[f], path, err)); /* the old file lives on as long as it is open */
        CHECK(bwi_file_open(&second, path, err));
        assert_int_equal(first.size, second.size);
        assert_memory_equal(first.data, second.data, first.size);
        bwi_file_close(&first);
        bwi_file_close(&second);
    }
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

static void test_failures(void **state)
{
    (void)state;
    bwi_graph *g = network(&w4a4, false);
    bwi_tensors lowered;
    bw_error error;
    CHECK(bwi_lower(&lowered, g, bwi_normalize_find("cifar"), err));
    unlink(path);
    for (size_t f = 0; f < FORMS; f++) {
        bw_status st = BW_NOMEM;
        const int64_t live = bwi_alloc_live_blocks();
        int64_t n = 0;
        for (; st != BW_OK; n++) {
            bwi_alloc_fail_at(n, 0);
            st = write_to(g, &lowered, forms[f], path, &error);
            bwi_alloc_fail_at(-1, 0);
            assert_int_equal(bwi_alloc_live_blocks(), live);
            if (st == BW_OK) break;
            assert_int_equal(st, BW_NOMEM);
            assert_true(error.msg[0]);
            assert_false(bwi_file_exists(path));
        }
        assert_true(n > 10);
        unlink(path);
        assert_int_equal(write_to(g, &lowered, forms[f], "/nowhere/at/all.onnx", &error), BW_IO);
        assert_non_null(strstr(error.msg, "/nowhere/at/all.onnx"));
        assert_int_equal(bwi_alloc_live_blocks(), live);
    }
    bwi_tensors_free(&lowered);
    bwi_graph_destroy(&g);
}

static int make_path(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.30s/bitwright-onnx-%ld.onnx", tmp && *tmp ? tmp : "/tmp", (long)getpid());
    return 0;
}

static int remove_path(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents), cmocka_unit_test(test_eight_bits), cmocka_unit_test(test_qonnx_contents),
        cmocka_unit_test(test_logits),   cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
