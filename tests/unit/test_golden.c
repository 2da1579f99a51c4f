/* ResNet-20 against an independent implementation in PyTorch: tests/golden/make_golden.py says what it computes and how its file is laid
 * out. Losses of ten steps, and of every parameter's gradient in the first step its norm, a projection and some entries.
 *
 * In double both must agree to nearly all digits, all the way. In float that cannot be: errors grow from step to step, and a value that lies
 * within one of a rounding boundary takes another code, which with two bits is a different network. PyTorch's float run does the same on a
 * CPU of the same instructions, so there it is followed, too. */
#include "check.h"
#include "base/cpu.h"
#include "io/io.h"
#include "optim/optim.h"
#include "zoo/zoo.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "golden.h"

enum { BATCH = 32, BATCHES = 2, STEPS = 10, EARLY = 2, SAMPLES = 32, SIDE = 32, CHANNELS = 3, CLASSES = 10, MAX_PARAMS = 256 };

typedef struct golden_case {
    const char *name;
    bwi_quant_spec quant;
    bool last_bn;
    const char *optimizer;
    double lr, quant_lr;
    double grad_tolerance, loss_tolerance; /* float: of a gradient's scale in the first step; of the loss from step EARLY on */
} golden_case;

static const golden_case cases[] = {
    {.name = "fp32", .optimizer = "sgd", .lr = 0.001, .quant_lr = 0.001, .grad_tolerance = 5e-3, .loss_tolerance = 1e-4},
    {.name = "lsq",
     .quant = {.weight_quantizer = "lsq",
               .activation_quantizer = "lsq",
               .weight_bits = 2,
               .activation_bits = 2,
               .policy = "first-last-8"},
     .optimizer = "sgd",
     .lr = 4e-4,
     .quant_lr = 4e-4,
     .grad_tolerance = 1e-3,
     .loss_tolerance = 0.1},
    {.name = "ewgs",
     .quant = {.weight_quantizer = "interval",
               .weight_gradient = "ewgs:delta=0.001",
               .activation_quantizer = "interval",
               .activation_gradient = "ewgs:delta=0.001",
               .weight_bits = 1,
               .activation_bits = 1,
               .policy = "inner"},
     .last_bn = true,
     .optimizer = "adam",
     .lr = 1e-3,
     .quant_lr = 1e-5,
     .grad_tolerance = 1e-3,
     .loss_tolerance = 0.01},
};

/* ---- Batches --------------------------------------------------------------------------------------------------------------- */
static void fill_batch(int t, bwi_dtype real, void *x, int32_t *labels)
{
    char name[32];
    snprintf(name, sizeof name, "%d", t);
    uint64_t label_key = key_of("labels/", name), image_key = key_of("images/", name);
    for (size_t n = 0; n < BATCH; n++) {
        labels[n] = (int32_t)(bits(label_key, n) % CLASSES);
        snprintf(name, sizeof name, "%d", labels[n]);
        uint64_t pattern_key = key_of("pattern/", name);
        for (size_t c = 0; c < CHANNELS; c++)
            for (size_t h = 0; h < SIDE; h++)
                for (size_t w = 0; w < SIDE; w++) {
                    double v = 0.5 * draw(image_key, ((n * CHANNELS + c) * SIDE + h) * SIDE + w);
                    v += draw(pattern_key, (c * (SIDE / 4) + h / 4) * (SIDE / 4) + w / 4);
                    bwi_real_put(real, x, ((n * SIDE + h) * SIDE + w) * CHANNELS + c, (double)(float)v);
                }
    }
}

/* ---- Training ------------------------------------------------------------------------------------------------------------ */
typedef struct run {
    bwi_graph *g;
    bwi_exec *e;
    const bwi_optimizer *optimizer;
    bwi_group group[2]; /* everything else, quantizers */
    bwi_slot slot[MAX_PARAMS];
    int n_slots;
    int64_t t;
} run;

static void run_create(run *r, const golden_case *c, bwi_dtype real)
{
    const bwi_net_options net = {.shortcut = "A", .last_bn = c->last_bn, .classes = CLASSES, .input = {SIDE, SIDE, CHANNELS}};
    const bwi_exec_options exec = {.batch = BATCH, .train = true};
    memset(r, 0, sizeof *r);
    CHECK(bwi_net_create(&r->g, "resnet20", &net, real, err));
    CHECK(bwi_graph_quantize(r->g, &c->quant, err));
    fill_params(r->g);
    CHECK(bwi_exec_create(&r->e, r->g, &exec, NULL, err));
    r->optimizer = bwi_optimizer_find(c->optimizer);
    assert_non_null(r->optimizer);
    for (int i = 0; i < 2; i++)
        r->group[i] =
            (bwi_group){.lr = c->lr, .weight_decay = 1e-4, .momentum = 0.9, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    r->group[1].lr = c->quant_lr;
    r->group[1].weight_decay = 0;
    for (int i = 0; i < r->g->n_params; i++) {
        bwi_param *p = &r->g->param[i];
        if (p->role == BWI_PARAM_STATE) continue;
        assert_true(r->n_slots < MAX_PARAMS);
        bwi_slot *s = &r->slot[r->n_slots++];
        *s = (bwi_slot){.name = p->name,
                        .dtype = p->dtype,
                        .n = p->numel,
                        .data = p->data,
                        .grad = p->grad,
                        .group = p->role == BWI_PARAM_QUANT};
        for (int k = 0; k < r->optimizer->n_states; k++)
            assert_non_null(s->state[k] = calloc(p->numel, bwi_dtype_size(p->dtype)));
    }
}

static void run_destroy(run *r)
{
    for (int i = 0; i < r->n_slots; i++)
        for (int k = 0; k < BWI_OPTIM_STATES; k++) free(r->slot[i].state[k]);
    bwi_exec_destroy(&r->e);
    bwi_graph_destroy(&r->g);
}

static double forward_backward(run *r)
{
    int32_t labels[BATCH];
    const void *logits;
    double loss = 0;
    int top1, top5;
    fill_batch((int)r->t % BATCHES, r->g->real, bwi_exec_input(r->e), labels);
    CHECK(bwi_exec_forward(r->e, BATCH, true, &logits, err));
    CHECK(bwi_exec_loss(r->e, labels, &loss, &top1, &top5, err));
    CHECK(bwi_exec_backward(r->e, err));
    return loss;
}

static void optimizer_step(run *r)
{
    bwi_quant *q;
    const bwi_node *layer;
    r->t++;
    for (int i = 0; i < r->n_slots; i++) {
        const bwi_group *group = &r->group[r->slot[i].group];
        r->optimizer->step(&r->slot[i], group, group->lr, r->t);
    }
    for (int i = 0; bwi_graph_quant(r->g, i, &q, &layer); i++)
        if (q->q->constrain) assert_false(q->q->constrain(q)); /* none of the runs comes near the edge of a domain */
    r->g->version++;
}

/* ---- Comparison ---------------------------------------------------------------------------------------------------------- */
static int open_golden(void **state)
{
    static bwi_tensors golden;
    bw_error err = {0};
    if (bwi_tensors_read(&golden, "tests/golden/resnet20.safetensors", NULL, &err) != BW_OK) {
        fprintf(stderr, "%s (run from the root of the repository)\n", err.msg);
        return -1;
    }
    *state = &golden;
    return 0;
}
static int close_golden(void **state)
{
    bwi_tensors_free(*state);
    return 0;
}

static const bwi_tensor *find(const bwi_tensors *golden, const golden_case *c, const char *what, const char *name)
{
    char full[2 * BWI_NAME];
    snprintf(full, sizeof full, "%s/%s%s", c->name, what, name);
    const bwi_tensor *t = bwi_tensors_find(golden, full);
    if (!t) fail_msg("tests/golden/resnet20.safetensors lacks %s", full);
    return t;
}

/* What an error of a parameter's gradient is measured against: the norm of that gradient, but of a quantizer's parameter at least `share` of
 * that of the layer's weights. Such gradients are sums that nearly cancel; a scale before a batch norm has none at all. */
static double scale_of(const bwi_tensors *golden, const golden_case *c, const bwi_param *p, double norm, double share)
{
    char weight[BWI_NAME];
    if (p->role != BWI_PARAM_QUANT) return norm;
    snprintf(weight, sizeof weight, "%s", p->name);
    *strrchr(weight, '.') = '\0';
    strcpy(strrchr(weight, '.'), ".weight");
    return fmax(norm, share * bwi_tensor_at(find(golden, c, "grad/", weight), 0));
}

/* Every gradient of the first step. */
static void compare_gradients(const bwi_tensors *golden, const golden_case *c, const run *r, double tolerance)
{
    double worst = 0;
    const char *worst_name = "";
    size_t compared = 0, expected = 0, prefix = strlen(c->name);
    for (int i = 0; i < r->g->n_params; i++) {
        const bwi_param *p = &r->g->param[i];
        if (p->role == BWI_PARAM_STATE) continue;
        const bwi_tensor *t = find(golden, c, "grad/", p->name);
        size_t samples = p->numel < SAMPLES ? p->numel : SAMPLES;
        uint64_t sample_key = key_of("sample/", p->name), projection_key = key_of("projection/", p->name);
        double norm = 0, projection = 0;
        assert_int_equal(bwi_tensor_numel(t), samples + 2);
        for (size_t k = 0; k < p->numel; k++) {
            double v = bwi_real_get(p->dtype, p->grad, place(p, k));
            norm += v * v;
            projection += v * draw(projection_key, k);
        }
        double error = fmax(fabs(sqrt(norm) - bwi_tensor_at(t, 0)), fabs(projection - bwi_tensor_at(t, 1)));
        for (size_t k = 0; k < samples; k++) {
            double v = bwi_real_get(p->dtype, p->grad, place(p, bits(sample_key, k) % p->numel));
            error = fmax(error, fabs(v - bwi_tensor_at(t, k + 2)));
        }
        error /= scale_of(golden, c, p, bwi_tensor_at(t, 0), r->g->real == BWI_DT_F64 ? 1e-3 : 1);
        if (!(error <= worst) && !isnan(worst)) worst = error, worst_name = p->name; /* a NaN is the worst and stays */
        compared++;
    }
    for (size_t i = 0; i < golden->n; i++) {
        const char *name = golden->t[i].name;
        expected += strncmp(name, c->name, prefix) == 0 && strncmp(name + prefix, "/grad/", 6) == 0;
    }
    printf("%s, %s: worst gradient %s, off by %.2g of its scale\n", c->name, bwi_dtype_name(r->g->real), worst_name, worst);
    assert_int_equal(compared, expected);
    if (!(worst <= tolerance))
        fail_msg("%s: the gradient of %s is off by %.3g of its scale, more than %g", c->name, worst_name, worst, tolerance);
}

static void compare_run(const bwi_tensors *golden, const golden_case *c, bwi_dtype real)
{
    run r;
    double worst = 0, worst_float = 0;
    const bool exact = real == BWI_DT_F64;
    const bwi_tensor *losses = find(golden, c, "losses", ""), *losses_float = find(golden, c, "losses_float", "");
    assert_int_equal(bwi_tensor_numel(losses), STEPS);
    assert_int_equal(bwi_tensor_numel(losses_float), STEPS);
    run_create(&r, c, real);
    for (int t = 0; t < STEPS; t++) {
        double loss = forward_backward(&r), expected = bwi_tensor_at(losses, (size_t)t), error = fabs(loss / expected - 1);
        double tolerance = exact ? 1e-9 : t < EARLY ? 1e-3 : c->loss_tolerance;
        if (!(error <= tolerance))
            fail_msg("%s, %s: loss of step %d is %.12f, expected %.12f", c->name, bwi_dtype_name(real), t, loss, expected);
        worst = fmax(worst, error);
        worst_float = fmax(worst_float, fabs(loss / bwi_tensor_at(losses_float, (size_t)t) - 1));
        if (!exact && (bwi_cpu_flags() & BWI_CPU_AVX512) && worst_float > 0.01) /* the file's float run is of such a CPU */
            fail_msg("%s: loss of step %d is %.9f, PyTorch's float run has %.9f", c->name, t, loss,
                     bwi_tensor_at(losses_float, (size_t)t));
        if (t == 0) compare_gradients(golden, c, &r, exact ? 1e-8 : c->grad_tolerance);
        optimizer_step(&r);
    }
    printf("%s, %s: worst loss off by %.2g of PyTorch's double run, %.2g of its float run\n", c->name, bwi_dtype_name(real),
           worst, worst_float);
    run_destroy(&r);
}

static void fp32_run(void **state)
{
    compare_run(*state, &cases[0], BWI_DT_F32);
}
static void lsq_run(void **state)
{
    compare_run(*state, &cases[1], BWI_DT_F32);
}
static void ewgs_run(void **state)
{
    compare_run(*state, &cases[2], BWI_DT_F32);
}
static void fp32_double(void **state)
{
    compare_run(*state, &cases[0], BWI_DT_F64);
}
static void lsq_double(void **state)
{
    compare_run(*state, &cases[1], BWI_DT_F64);
}
static void ewgs_double(void **state)
{
    compare_run(*state, &cases[2], BWI_DT_F64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp32_double), cmocka_unit_test(fp32_run),    cmocka_unit_test(lsq_double),
        cmocka_unit_test(lsq_run),     cmocka_unit_test(ewgs_double), cmocka_unit_test(ewgs_run),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
