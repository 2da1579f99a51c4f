/* Products with the Hessian: against central differences of exact gradients where no quantizer lies behind the tensor in question, one graph an
 * operation and whole networks; against double backward in PyTorch (tests/golden/make_hvp.py) where quantizers do; symmetry and traces. */
#include "check.h"
#include "base/alloc.h"
#include "io/io.h"
#include "zoo/zoo.h"
#include <stdio.h>
#include <stdlib.h>
#include "golden.h"

enum { BATCH = 8, SIDE = 8, CLASSES = 10, MAX_NODES = 8 };

/* ---- Networks, batches, directions ---------------------------------------------------------------------------------------- */
static bwi_graph *resnet20(bwi_dtype real, const char *shortcut, const bwi_quant_spec *spec)
{
    const bwi_net_options net = {.shortcut = shortcut, .last_bn = true, .classes = CLASSES, .input = {SIDE, SIDE, 3}};
    bwi_graph *g;
    CHECK(bwi_net_create(&g, "resnet20", &net, real, err));
    if (spec) CHECK(bwi_graph_quantize(g, spec, err));
    fill_params(g);
    return g;
}

/* Forward, loss and backward of the images of make_hvp.py, or of as many of them as the input takes. */
static void differentiate(bwi_exec *e, const bwi_graph *g)
{
    const bwi_shape s = g->value[0].shape;
    const uint64_t image = key_of("images/hvp", ""), label = key_of("labels/hvp", "");
    int32_t labels[BATCH];
    double loss;
    int top1, top5;
    for (size_t n = 0; n < BATCH; n++) {
        labels[n] = (int32_t)(bits(label, n) % (uint64_t)g->classes);
        for (size_t c = 0; c < (size_t)s.c; c++)
            for (size_t i = 0; i < (size_t)(s.h * s.w); i++)
                bwi_real_put(g->real, bwi_exec_input(e), (n * (size_t)(s.h * s.w) + i) * (size_t)s.c + c,
                             (double)(float)draw(image, (n * (size_t)s.c + c) * (size_t)(s.h * s.w) + i));
    }
    CHECK(bwi_exec_forward(e, BATCH, true, NULL, err));
    CHECK(bwi_exec_loss(e, labels, &loss, &top1, &top5, err));
    CHECK(bwi_exec_backward(e, err));
}

static bwi_exec *make_exec(bwi_graph *g, bool second_order)
{
    bwi_exec *e;
    CHECK(bwi_exec_create(&e, g, &(bwi_exec_options){.batch = BATCH, .train = true, .second_order = second_order}, NULL, err));
    return e;
}

/* Number of tensor `name`, "LAYER.weight" or "LAYER.input"; fails when there is none. */
static int tensor(const bwi_graph *g, const char *name, bwi_quant **q, const bwi_node **layer)
{
    char full[2 * BWI_NAME];
    for (int i = 0; bwi_graph_quant(g, i, q, layer); i++) {
        snprintf(full, sizeof full, "%s.%s", (*layer)->name, (*q)->role == BWI_WEIGHT ? "weight" : "input");
        if (!strcmp(full, name)) return i;
    }
    fail_msg("no tensor %s", name);
    return -1;
}

/* Element k in PyTorch's order, as a position in memory: weights OIHW, activations NCHW. */
static size_t position(const bwi_graph *g, const bwi_quant *q, const bwi_node *layer, size_t k)
{
    if (q->role == BWI_WEIGHT) return place(&g->param[layer->param[0]], k);
    const bwi_shape s = g->value[layer->in[0]].shape;
    const size_t hw = (size_t)(s.h * s.w), c = (size_t)s.c, n = k / (c * hw);
    return (n * hw + k % hw) * c + k / hw % c;
}

/* Signs that both sides draw. Freed by the caller. */
static void *signs(const bwi_exec *e, const bwi_graph *g, const char *prefix, const char *name)
{
    bwi_quant *q;
    const bwi_node *layer;
    const size_t n = bwi_exec_tensor_size(e, tensor(g, name, &q, &layer));
    const uint64_t key = key_of(prefix, name);
    void *v = malloc(n * bwi_dtype_size(g->real));
    assert_true(v && n);
    for (size_t k = 0; k < n; k++) bwi_real_put(g->real, v, position(g, q, layer, k), draw(key, k) < 0 ? -1 : 1);
    return v;
}

static double dot(bwi_dtype real, const void *a, const void *b, size_t n)
{
    double sum = 0;
    for (size_t k = 0; k < n; k++) sum += bwi_real_get(real, a, k) * bwi_real_get(real, b, k);
    return sum;
}

/* ---- Central differences ---------------------------------------------------------------------------------------------------- */
/* The network with one layer's weights in 8 bits, and the same in float with weights that can be moved: those are scale * code. */
typedef struct pair {
    bwi_graph *g, *moved;
    bwi_exec *e, *moved_e;
    const bwi_quant *q;
    bwi_param *w; /* of moved */
    size_t n;
    double *at, *v, *hv, per_unit; /* per_unit: d(weight) / d(xq) */
} pair;

static const bwi_layer_rule only_probe[] = {{"*", -1, 0}, {"probe", 8, 0}},
                            only_inner[] = {{"*", -1, 0}, {"layer1.0.conv1", 8, 0}};
static const bwi_quant_spec probe_spec = {
    .weight_quantizer = "interval", .weight_bits = 8, .activation_bits = 8, .rule = only_probe, .n_rules = 2};
static const bwi_quant_spec inner_spec = {
    .weight_quantizer = "interval", .weight_bits = 8, .activation_bits = 8, .rule = only_inner, .n_rules = 2};

static void pair_create(pair *p, bwi_graph *g, bwi_graph *moved)
{
    bwi_quant *q;
    const bwi_node *layer;
    *p = (pair){.g = g, .moved = moved, .e = make_exec(g, true), .moved_e = make_exec(moved, false)};
    differentiate(p->e, g);
    assert_true(bwi_graph_quant(g, 0, &q, &layer));
    assert_false(bwi_graph_quant(g, 1, &(bwi_quant *){NULL}, &(const bwi_node *){NULL}));
    p->q = q;
    p->per_unit = q->k.scale * q->k.mul / q->k.unit;
    p->w = bwi_graph_param(moved, g->param[layer->param[0]].name);
    p->n = p->w->numel;
    assert_int_equal(bwi_exec_tensor_size(p->e, 0), p->n);
    assert_int_equal(bwi_exec_tensor_size(p->e, 1), 0);
    p->at = malloc(3 * p->n * sizeof *p->at);
    p->v = p->at + p->n;
    p->hv = p->v + p->n;
    bwi_quant_codes(q, g->param[layer->param[0]].data, BWI_DT_F64, p->n, BWI_DT_F64, p->at);
    for (size_t k = 0; k < p->n; k++) p->at[k] *= q->k.scale;
    for (size_t k = 0; k < p->n; k++) p->v[k] = draw(key_of("v/", "probe"), k) < 0 ? -1 : 1;
}

static void pair_destroy(pair *p)
{
    free(p->at);
    bwi_exec_destroy(&p->e);
    bwi_exec_destroy(&p->moved_e);
    bwi_graph_destroy(&p->g);
    bwi_graph_destroy(&p->moved);
}

/* dL/dxq of the float network with xq moved by h v, into g [n]. */
static void gradient_at(pair *p, double h, double *g)
{
    for (size_t k = 0; k < p->n; k++) ((double *)p->w->data)[k] = p->at[k] + h * p->per_unit * p->v[k];
    p->moved->version++;
    differentiate(p->moved_e, p->moved);
    for (size_t k = 0; k < p->n; k++) g[k] = ((double *)p->w->grad)[k] * p->per_unit;
}

/* Every element of Hv, and the gradient. Returns the worst error against the largest element. */
static double compare_with_differences(pair *p, double h)
{
    double *up = malloc(2 * p->n * sizeof *up), *down = up + p->n, vhv, worst = 0, largest = 0;
    bwi_qstats mine, theirs;
    gradient_at(p, 0, up);
    bwi_qstats_of(up, BWI_DT_F64, p->n, &theirs);
    CHECK(bwi_exec_code_gradient(p->e, 0, &mine, err));
    assert_true(fabs(mine.std - theirs.std) <= 1e-9 * theirs.std && fabs(mine.mean - theirs.mean) <= 1e-9 * theirs.std);
    assert_true(fabs(mine.max_abs - theirs.max_abs) <= 1e-9 * theirs.max_abs);
    assert_true(fabs(mine.mean_abs - theirs.mean_abs) <= 1e-9 * theirs.mean_abs);
    assert_true(fabs(mine.min - theirs.min) <= 1e-9 * theirs.max_abs && fabs(mine.max - theirs.max) <= 1e-9 * theirs.max_abs);
    gradient_at(p, h, up);
    gradient_at(p, -h, down);
    CHECK(bwi_exec_hvp(p->e, 0, p->v, p->hv, &vhv, err));
    assert_true(fabs(vhv - dot(BWI_DT_F64, p->v, p->hv, p->n)) <= 1e-9 * fabs(vhv));
    for (size_t k = 0; k < p->n; k++) {
        const double slope = (up[k] - down[k]) / (2 * h);
        largest = fmax(largest, fabs(slope));
        worst = fmax(worst, fabs(slope - p->hv[k]));
    }
    free(up);
    assert_true(largest > 0);
    return worst / largest;
}

/* input -> probe -> the operation -> batch_norm -> relu -> global_pool -> linear. */
typedef struct op_case {
    const char *op;
    bwi_attr attr;
    bool pooled; /* it takes a 1x1 map */
} op_case;
static const op_case ops[] = {
    {"conv2d", {.out = 4, .kh = 3, .kw = 3, .stride = 2, .pad = 1, .groups = 2, .bias = true}, false},
    {"linear", {.out = 7, .bias = true}, true},
    {"batch_norm", {.eps = 1e-2, .momentum = 0.1}, false},
    {"batch_norm", {.eps = 1e-5, .momentum = 0.1}, true},
    {"relu", {0}, false},
    {"add", {0}, false},
    {"avg_pool", {.kh = 3, .kw = 3, .stride = 2, .pad = 1}, false},
    {"max_pool", {.kh = 3, .kw = 3, .stride = 2, .pad = 1}, false},
    {"global_pool", {0}, false},
    {"shortcut_a", {.out = 8, .stride = 2}, false},
};
#define N_OPS (sizeof ops / sizeof *ops)

static void then(bwi_graph *g, int *at, const char *op, const char *name, const bwi_attr *attr)
{
    CHECK(bwi_graph_add(g, op, name, at, 1, attr, at, err));
}

static bwi_graph *op_net(const op_case *k, const bwi_quant_spec *spec)
{
    const bwi_attr conv = {.out = 4, .kh = 3, .kw = 3, .stride = 1, .pad = 1}, norm = {.eps = 1e-5, .momentum = 0.1};
    const bwi_attr classes = {.out = 5, .bias = true};
    bwi_graph *g;
    int at = 0, in[2];
    CHECK(bwi_graph_create(&g, BWI_DT_F64, (bwi_shape){6, 5, 2}, err));
    then(g, &at, "conv2d", "probe", &conv);
    if (k->pooled) then(g, &at, "global_pool", "before", NULL);
    in[0] = in[1] = at;
    if (!strcmp(k->op, "add")) then(g, &in[1], "batch_norm", "branch", &norm); /* one value with two readers */
    CHECK(bwi_graph_add(g, k->op, "it", in, bwi_op_find(k->op)->n_in, &k->attr, &at, err));
    then(g, &at, "batch_norm", "bn", &norm);
    then(g, &at, "relu", "relu", NULL);
    then(g, &at, "global_pool", "pool", NULL);
    then(g, &at, "linear", "linear", &classes);
    g->classes = classes.out;
    if (spec) CHECK(bwi_graph_quantize(g, spec, err));
    fill_params(g);
    return g;
}

static void every_operation(void **state)
{
    (void)state;
    const bwi_op *op;
    for (size_t i = 0; (op = bwi_op_at(i)); i++) {
        bool found = !strcmp(op->name, "quantize"); /* its tangent is no derivative: the runs of PyTorch check it */
        for (size_t k = 0; k < N_OPS; k++) found |= !strcmp(op->name, ops[k].op);
        if (!found) fail_msg("operation %s has no check of its second derivatives", op->name);
    }
    for (size_t k = 0; k < N_OPS; k++) {
        pair p;
        pair_create(&p, op_net(&ops[k], &probe_spec), op_net(&ops[k], NULL));
        const double error = compare_with_differences(&p, 1e-6);
        if (!(error < 1e-6)) fail_msg("%s: a product with the Hessian is off by %g of its scale", ops[k].op, error);
        pair_destroy(&p);
    }
}

static void whole_networks(void **state)
{
    (void)state;
    static const char *const shortcut[] = {"A", "projection"};
    for (int k = 0; k < 2; k++) {
        pair p;
        pair_create(&p, resnet20(BWI_DT_F64, shortcut[k], &inner_spec), resnet20(BWI_DT_F64, shortcut[k], NULL));
        const double error = compare_with_differences(&p, 1e-8);
        printf("shortcut %s: off by %.2g of its scale\n", shortcut[k], error);
        if (!(error < 1e-5)) fail_msg("shortcut %s: a product with the Hessian is off by %g of its scale", shortcut[k], error);
        pair_destroy(&p);
    }
}

/* All 2^8 directions of signs average to the trace without any error of sampling; u'Hv = v'Hu. */
static void trace_and_symmetry(void **state)
{
    (void)state;
    const bwi_attr one = {.out = 4, .kh = 1, .kw = 1, .stride = 1}, norm = {.eps = 1e-5, .momentum = 0.1};
    const bwi_attr classes = {.out = 5, .bias = true};
    enum { N = 8 };
    double h[N][N], v[N], vhv, trace = 0, mean = 0;
    bwi_graph *g;
    int at = 0;
    CHECK(bwi_graph_create(&g, BWI_DT_F64, (bwi_shape){3, 3, 2}, err));
    then(g, &at, "conv2d", "probe", &one);
    then(g, &at, "batch_norm", "bn", &norm);
    then(g, &at, "relu", "relu", NULL);
    then(g, &at, "global_pool", "pool", NULL);
    then(g, &at, "linear", "linear", &classes);
    g->classes = classes.out;
    CHECK(bwi_graph_quantize(g, &probe_spec, err));
    fill_params(g);
    bwi_exec *e = make_exec(g, true);
    differentiate(e, g);
    assert_int_equal(bwi_exec_tensor_size(e, 0), N);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) v[k] = k == i;
        CHECK(bwi_exec_hvp(e, 0, v, h[i], &vhv, err));
        assert_true(vhv == h[i][i]);
        trace += vhv;
    }
    for (int i = 0; i < N; i++)
        for (int k = 0; k < i; k++) assert_true(fabs(h[i][k] - h[k][i]) < 1e-12 * fabs(trace));
    for (int s = 0; s < 1 << N; s++) {
        for (int k = 0; k < N; k++) v[k] = s >> k & 1 ? 1 : -1;
        CHECK(bwi_exec_hvp(e, 0, v, NULL, &vhv, err));
        mean += vhv / (1 << N);
    }
    assert_true(fabs(mean - trace) < 1e-12 * fabs(trace));
    bwi_exec_destroy(&e);
    bwi_graph_destroy(&g);
}

/* With straight-through roundings further down H is symmetric, whatever the quantizer: u'Hv = v'Hu. */
static void symmetric_through_every_quantizer(void **state)
{
    (void)state;
    const bwi_quantizer *row;
    int checked = 0;
    for (size_t r = 0; (row = bwi_quantizer_at(r)); r++) {
        const int *of_x = row->activation_bits, *of_w = row->weight_bits;
        if (!of_x[1]) continue;
        const bwi_quant_spec spec = {.weight_quantizer = of_w[1] ? row->name : "interval",
                                     .activation_quantizer = row->name,
                                     .weight_bits = of_w[1] && of_w[1] < 4 ? of_w[1] : 4,
                                     .activation_bits = of_x[1] < 4 ? of_x[1] : 4,
                                     .policy = "inner"};
        static const char *const names[] = {"layer2.0.downsample.0.input", "layer3.1.conv1.weight", "layer3.0.conv2.input"};
        bwi_graph *g = resnet20(BWI_DT_F64, "projection", &spec);
        bwi_exec *e = make_exec(g, true);
        differentiate(e, g);
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            bwi_quant *q;
            const bwi_node *layer;
            const int i = tensor(g, names[k], &q, &layer);
            const size_t n = bwi_exec_tensor_size(e, i);
            double *v = signs(e, g, "v/", names[k]), *u = signs(e, g, "u/", names[k]), *hv = malloc(n * sizeof *hv), vhv, uhu;
            CHECK(bwi_exec_hvp(e, i, v, hv, &vhv, err));
            const double uhv = dot(BWI_DT_F64, u, hv, n);
            CHECK(bwi_exec_hvp(e, i, u, hv, &uhu, err));
            if (!(fabs(uhv - dot(BWI_DT_F64, v, hv, n)) <= 1e-9 * (fabs(vhv) + fabs(uhu))) || vhv == 0)
                fail_msg("%s, %s: u'Hv is %g, v'Hu %g", row->name, names[k], uhv, dot(BWI_DT_F64, v, hv, n));
            free(v);
            free(u);
            free(hv);
            checked++;
        }
        bwi_exec_destroy(&e);
        bwi_graph_destroy(&g);
    }
    assert_true(checked >= 12);
}

/* Products leave no trace: gradients, running statistics and the next product are the same. */
static void products_change_nothing(void **state)
{
    (void)state;
    bwi_graph *g = resnet20(BWI_DT_F64, "A", &inner_spec);
    bwi_exec *e = make_exec(g, true);
    double first, second;
    differentiate(e, g);
    size_t size = 0, at = 0;
    for (int i = 0; i < g->n_params; i++) size += 2 * g->param[i].numel * bwi_dtype_size(g->param[i].dtype);
    char *kept = calloc(size, 1);
    for (int pass = 0; pass < 2; pass++) {
        at = 0;
        for (int i = 0; i < g->n_params; i++) {
            const bwi_param *p = &g->param[i];
            const size_t bytes = p->numel * bwi_dtype_size(p->dtype);
            for (int k = 0; k < 2; k++, at += bytes) {
                const void *x = k ? p->grad : p->data;
                if (!x) continue;
                if (pass)
                    assert_memory_equal(kept + at, x, bytes);
                else
                    memcpy(kept + at, x, bytes);
            }
        }
        void *v = signs(e, g, "v/", "layer1.0.conv1.weight");
        CHECK(bwi_exec_hvp(e, 0, v, NULL, pass ? &second : &first, err));
        free(v);
    }
    assert_true(first == second && first != 0);
    free(kept);
    bwi_exec_destroy(&e);
    bwi_graph_destroy(&g);
}

/* ---- PyTorch ---------------------------------------------------------------------------------------------------------------- */
static const char *const golden_layers[] = {"layer1.0.conv1", "layer1.2.conv2", "layer2.0.conv1", "layer3.2.conv2"};

static bwi_graph *golden_net(int n_bits, bwi_dtype real)
{
    const bwi_quant_spec spec = {.weight_quantizer = "interval",
                                 .weight_gradient = "ewgs:delta=0.2",
                                 .activation_quantizer = "interval",
                                 .activation_gradient = "ewgs:delta=0.2",
                                 .weight_bits = n_bits,
                                 .activation_bits = n_bits,
                                 .policy = "inner"};
    return resnet20(real, "A", &spec);
}

/* The five numbers of tensor `name`, in the order of the file, off by more than tolerance of the largest of the first two or of themselves? */
static double compare_with_golden(bwi_exec *e, const bwi_graph *g, int n_bits, const char *name, const bwi_tensors *golden)
{
    bwi_quant *q;
    const bwi_node *layer;
    const int i = tensor(g, name, &q, &layer);
    const size_t n = bwi_exec_tensor_size(e, i);
    char full[2 * BWI_NAME];
    snprintf(full, sizeof full, "w%da%d/%s", n_bits, n_bits, name);
    const bwi_tensor *t = bwi_tensors_find(golden, full);
    if (!t) fail_msg("tests/golden/hvp.safetensors lacks %s", full);
    void *v = signs(e, g, "v/", name), *u = signs(e, g, "u/", name), *hv = malloc(n * bwi_dtype_size(g->real));
    double vhv;
    bwi_qstats s;
    CHECK(bwi_exec_hvp(e, i, v, hv, &vhv, err));
    CHECK(bwi_exec_code_gradient(e, i, &s, err));
    const double got[5] = {vhv, dot(g->real, u, hv, n), s.std, s.mean_abs, s.max_abs};
    const double scale = fmax(fabs(bwi_tensor_at(t, 0)), fabs(bwi_tensor_at(t, 1)));
    double worst = 0;
    for (size_t k = 0; k < 5; k++) {
        const double want = bwi_tensor_at(t, k), error = fabs(got[k] - want) / (k < 2 ? scale : want);
        if (!(error <= worst) && !isnan(worst)) worst = error;
    }
    free(v);
    free(u);
    free(hv);
    return worst;
}

static void compare_case(int n_bits, bwi_dtype real, double tolerance)
{
    bwi_tensors golden;
    CHECK(bwi_tensors_read(&golden, "tests/golden/hvp.safetensors", NULL, err));
    bwi_graph *g = golden_net(n_bits, real);
    bwi_exec *e = make_exec(g, true);
    double worst = 0;
    differentiate(e, g);
    for (size_t k = 0; k < sizeof golden_layers / sizeof *golden_layers; k++)
        for (int role = 0; role < 2; role++) {
            char name[BWI_NAME];
            snprintf(name, sizeof name, "%s.%s", golden_layers[k], role ? "input" : "weight");
            const double error = compare_with_golden(e, g, n_bits, name, &golden);
            if (!(error <= tolerance)) fail_msg("%d bits, %s, %s: off by %g", n_bits, bwi_dtype_name(real), name, error);
            worst = fmax(worst, error);
        }
    printf("%d bits, %s: off by %.2g at most\n", n_bits, bwi_dtype_name(real), worst);
    bwi_exec_destroy(&e);
    bwi_graph_destroy(&g);
    bwi_tensors_free(&golden);
}

static void pytorch_double(void **state)
{
    (void)state;
    compare_case(1, BWI_DT_F64, 1e-8);
    compare_case(2, BWI_DT_F64, 1e-8);
}

static void pytorch_float(void **state)
{
    (void)state;
    compare_case(1, BWI_DT_F32, 1e-3);
    compare_case(2, BWI_DT_F32, 1e-3);
}

/* ---- Refused ---------------------------------------------------------------------------------------------------------------- */
static void wrong_calls(void **state)
{
    (void)state;
    bwi_graph *g = resnet20(BWI_DT_F64, "A", &inner_spec);
    bwi_exec *plain = make_exec(g, false), *e = make_exec(g, true);
    bw_error err;
    bwi_qstats s;
    double vhv, v[2304] = {0};
    differentiate(plain, g);
    assert_int_equal(bwi_exec_hvp(plain, 0, v, NULL, &vhv, &err), BW_ARG);
    assert_int_equal(bwi_exec_hvp(e, 0, v, NULL, &vhv, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "backward"));
    differentiate(e, g);
    assert_int_equal(bwi_exec_hvp(e, 0, v, NULL, &vhv, &err), BW_OK);
    assert_true(vhv == 0);
    assert_int_equal(bwi_exec_hvp(e, 1, v, NULL, &vhv, &err), BW_ARG);
    assert_int_equal(bwi_exec_code_gradient(e, -1, &s, &err), BW_ARG);
    bwi_node *pool = &g->node[g->n_nodes - 3];
    assert_string_equal(pool->op->name, "global_pool");
    const bwi_op *const known = pool->op;
    bwi_op bare = *known;
    bare.linear = false;
    pool->op = &bare;
    assert_int_equal(bwi_exec_hvp(e, 0, v, NULL, &vhv, &err), BW_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "layer pool"));
    pool->op = known;
    bwi_exec_destroy(&plain);
    bwi_exec_destroy(&e);
    const int64_t live = bwi_alloc_live_blocks();
    const bwi_exec_options o = {.batch = BATCH, .train = true, .second_order = true};
    bw_status st = BW_NOMEM;
    for (int64_t n = 0; st == BW_NOMEM; n++) { /* whatever allocation fails */
        bwi_alloc_fail_at(n, 0);
        st = bwi_exec_create(&e, g, &o, NULL, &err);
        bwi_alloc_fail_at(-1, 0);
        if (st) assert_int_equal(bwi_alloc_live_blocks(), live);
    }
    assert_int_equal(st, BW_OK);
    bwi_exec_destroy(&e);
    bwi_graph_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation),         cmocka_unit_test(whole_networks),
        cmocka_unit_test(trace_and_symmetry),      cmocka_unit_test(symmetric_through_every_quantizer),
        cmocka_unit_test(products_change_nothing), cmocka_unit_test(pytorch_double),
        cmocka_unit_test(pytorch_float),           cmocka_unit_test(wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
