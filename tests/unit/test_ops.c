/* Operations, called one at a time: results against definitions written here, gradients in double against central differences of
 * sum r_i y_i (signed, every coordinate), float variants against double, errors of shape inference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/par.h"
#include "base/rng.h"
#include "nn/nn.h"

/* ---- One operation with its buffers --------------------------------------------------------------------------------------- */
typedef struct op_case {
    const char *op;
    int n;
    bwi_shape in;
    bwi_attr attr;
} op_case;

typedef struct fixture {
    bwi_graph *g;
    bwi_node *node;
    bwi_conv *conv;
    bwi_times times;
    bwi_call call;
    size_t n_in, n_out; /* elements with the batch */
} fixture;

static double get(const void *p, bwi_dtype t, size_t i)
{
    return t == BWI_DT_F64   ? ((const double *)p)[i]
           : t == BWI_DT_F32 ? (double)((const float *)p)[i]
                             : (double)((const uint8_t *)p)[i];
}
static void put(void *p, bwi_dtype t, size_t i, double v)
{
    if (t == BWI_DT_F64)
        ((double *)p)[i] = v;
    else
        ((float *)p)[i] = (float)v;
}
static void fill(void *p, bwi_dtype t, size_t n, uint64_t key)
{
    bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, key, 0);
    for (size_t i = 0; i < n; i++) put(p, t, i, (double)(float)bwi_rng_normal(&r)); /* the same in float and double */
}

static bwi_dtype variant_real(int variant)
{
    return variant == BWI_F64 ? BWI_DT_F64 : BWI_DT_F32;
}
static bool variant_runs(int variant)
{
    unsigned need = variant == BWI_F32_AVX2 ? BWI_CPU_AVX2 : variant == BWI_F32_AVX512 ? BWI_CPU_AVX512 : 0;
    return (bwi_cpu_flags() & need) == need;
}

static void make_conv(fixture *f, bwi_dtype real, int n, const bwi_shape *in)
{
    bw_error err;
    bwi_conv_spec spec = {.src = real, .operand = real, .train = true, .need_gsrc = true};
    f->call.compute = real == BWI_DT_F64 ? &bwi_compute_reference_f64 : &bwi_compute_reference_f32;
    if (!f->node->op->conv_spec) return;
    assert_int_equal(f->node->op->conv_spec(f->node, n, in, &spec), BW_OK);
    if (f->call.compute->conv_create(&spec, &f->conv, &err)) fail_msg("%s", err.msg);
    f->call.conv = f->conv;
}

static void set_up(fixture *f, const op_case *k, int variant)
{
    bw_error err;
    bwi_dtype real = variant_real(variant);
    bwi_shape in[2] = {k->in, k->in};
    int value[2] = {0, 0}, out;
    memset(f, 0, sizeof *f);
    if (bwi_graph_create(&f->g, real, k->in, &err)) fail_msg("%s", err.msg);
    int n_in = bwi_op_find(k->op)->n_in;
    if (n_in == 2 && bwi_graph_add(f->g, "relu", "other", value, 1, NULL, &value[1], &err)) fail_msg("%s", err.msg);
    if (bwi_graph_add(f->g, k->op, "it", value, n_in, &k->attr, &out, &err)) fail_msg("%s", err.msg);
    f->node = &f->g->node[f->g->n_nodes - 1];
    for (int i = 0; i < f->g->n_params; i++)
        if (f->g->param[i].role != BWI_PARAM_STATE) fill(f->g->param[i].data, real, f->g->param[i].numel, (uint64_t)(100 + i));
    bwi_shape os = f->g->value[out].shape;
    f->n_in = (size_t)k->n * bwi_shape_size(k->in);
    f->n_out = (size_t)k->n * bwi_shape_size(os);
    bwi_call *c = &f->call;
    *c = (bwi_call){.node = f->node,
                    .graph = f->g,
                    .n = k->n,
                    .batch = k->n,
                    .train = true,
                    .repack = true,
                    .variant = variant,
                    .times = &f->times};
    make_conv(f, real, k->n, in);
    for (int i = 0; i < n_in; i++) {
        c->in[i] = (bwi_buf){.type = real, .scale = 1, .gscale = 1, .shape = k->in};
        c->in[i].data = bwi_calloc(f->n_in, 8);
        c->in[i].grad = bwi_calloc(f->n_in, 8);
        fill(c->in[i].data, real, f->n_in, (uint64_t)(1 + i));
        fill(c->in[i].grad, real, f->n_in, (uint64_t)(11 + i)); /* must be overwritten */
    }
    c->out = (bwi_buf){.type = real, .scale = 1, .gscale = 1, .shape = os};
    c->out.data = bwi_calloc(f->n_out, 8);
    c->out.grad = bwi_calloc(f->n_out, 8);
    fill(c->out.data, real, f->n_out, 21);
    fill(c->out.grad, real, f->n_out, 22);
    const bwi_op *op = f->node->op;
    size_t save = op->save_size ? op->save_size(f->node, k->n, in, &os, real) : 0;
    size_t scratch = op->scratch_size ? op->scratch_size(f->node, k->n, in, &os, real) : 0;
    if (f->conv) scratch += (c->compute->conv_scratch(f->conv) + 63) / 64 * 64;
    c->save = bwi_malloc(save); /* of exactly the size asked for, so that sanitizers see what goes past it */
    c->scratch = bwi_malloc(scratch);
}

static void tear_down(fixture *f)
{
    for (int i = 0; i < 2; i++) {
        bwi_free(f->call.in[i].data);
        bwi_free(f->call.in[i].grad);
    }
    bwi_free(f->call.out.data);
    bwi_free(f->call.out.grad);
    bwi_free(f->call.save);
    bwi_free(f->call.scratch);
    if (f->conv) f->call.compute->conv_destroy(&f->conv);
    bwi_graph_destroy(&f->g);
}

static void forward(fixture *f)
{
    bw_error err;
    if (f->node->op->fns[f->call.variant]->forward(&f->call, &err)) fail_msg("%s", err.msg);
}
static void backward(fixture *f)
{
    bw_error err;
    if (f->node->op->fns[f->call.variant]->backward(&f->call, &err)) fail_msg("%s", err.msg);
}

/* ---- Cases ------------------------------------------------------------------------------------------------------------------ */
static const op_case cases[] = {
    {"conv2d", 2, {5, 4, 3}, {.out = 4, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .bias = true}},
    {"conv2d", 3, {7, 6, 4}, {.out = 6, .kh = 3, .kw = 3, .stride = 2, .pad = 1, .groups = 2}},
    {"conv2d", 1, {5, 5, 2}, {.out = 19, .kh = 1, .kw = 1, .stride = 2, .bias = true}},
    {"conv2d", 2, {6, 5, 2}, {.out = 3, .kh = 2, .kw = 3, .stride = 3, .pad = 1}},
    {"conv2d", 2, {5, 5, 3}, {.out = 3, .kh = 3, .kw = 3, .pad = 2, .groups = 3, .bias = true}},
    {"conv2d", 1, {3, 2, 2}, {.out = 2, .kh = 3, .kw = 2}},
    {"linear", 5, {1, 1, 7}, {.out = 3, .bias = true}},
    {"linear", 1, {1, 1, 17}, {.out = 1}},
    {"batch_norm", 3, {4, 3, 5}, {.eps = 1e-5, .momentum = 0.1}},
    {"batch_norm", 17, {1, 1, 3}, {.eps = 1e-5, .momentum = 0.1}},
    {"relu", 2, {3, 5, 7}, {0}},
    {"relu", 1, {1, 1, 1}, {0}},
    {"add", 2, {3, 5, 7}, {0}},
    {"avg_pool", 2, {4, 6, 3}, {.kh = 2, .kw = 2, .stride = 2}},
    {"avg_pool", 3, {7, 5, 3}, {.kh = 3, .kw = 3, .stride = 2, .pad = 1}},
    {"avg_pool", 1, {4, 5, 17}, {.kh = 3, .kw = 2, .pad = 1}},
    {"avg_pool", 1, {7, 7, 2}, {.kh = 2, .kw = 2, .stride = 4}},
    {"max_pool", 2, {4, 6, 3}, {.kh = 2, .kw = 2, .stride = 2}},
    {"max_pool", 3, {7, 5, 3}, {.kh = 3, .kw = 3, .stride = 2, .pad = 1}},
    {"max_pool", 1, {4, 5, 37}, {.kh = 3, .kw = 2, .pad = 1}},
    {"max_pool", 1, {7, 7, 2}, {.kh = 2, .kw = 2, .stride = 4}},
    {"global_pool", 3, {4, 5, 6}, {0}},
    {"global_pool", 1, {1, 1, 2}, {0}},
    {"shortcut_a", 2, {8, 8, 4}, {.out = 8, .stride = 2}},
    {"shortcut_a", 3, {5, 7, 3}, {.out = 6, .stride = 2}},
    {"shortcut_a", 1, {4, 5, 3}, {.out = 3}},
};
#define N_CASES (sizeof cases / sizeof *cases)

static void every_operation_has_a_case(void **state)
{
    (void)state;
    const bwi_op *op;
    for (size_t i = 0; (op = bwi_op_at(i)); i++) {
        bool found = !strcmp(op->name, "quantize"); /* below: its gradient is no derivative */
        for (size_t k = 0; k < N_CASES; k++) found |= !strcmp(op->name, cases[k].op);
        if (!found) fail_msg("operation %s has no gradient check", op->name);
        assert_ptr_equal(bwi_op_find(op->name), op);
        assert_true(op->summary && op->summary[0] && op->infer);
        for (int v = 0; v < BWI_VARIANTS; v++) assert_true(op->fns[v] && op->fns[v]->forward && op->fns[v]->backward);
    }
    assert_null(bwi_op_find("conv3d"));
}

/* ---- Gradients in double ------------------------------------------------------------------------------------------------------ */
typedef struct tally {
    size_t checked, kinks;
    double worst;
} tally;

/* sum r_i y_i, the values y in units of codes * scale as a consumer sees them */
static double objective(fixture *f, const double *r)
{
    double sum = 0;
    forward(f);
    for (size_t i = 0; i < f->n_out; i++) sum += r[i] * get(f->call.out.data, BWI_DT_F64, i);
    return sum;
}

/* Compares got[i] = gscale * grad[i] with the slope along x[i]. A point whose two one-sided slopes differ is a kink: counted, not compared. */
static void compare_slopes(fixture *f, const double *r, double *x, size_t n, const double *grad, double gscale, tally *t)
{
    const double h = 1e-5;
    double base = objective(f, r);
    for (size_t i = 0; i < n; i++) {
        double keep = x[i], got = gscale * grad[i];
        x[i] = keep + h;
        double up = objective(f, r);
        x[i] = keep - h;
        double down = objective(f, r);
        x[i] = keep;
        if (fabs((up - base) - (base - down)) / h > 2e-3) {
            t->kinks++;
            continue;
        }
        double slope = (up - down) / (2 * h), error = fabs(got - slope) / (1 + fabs(slope));
        t->checked++;
        if (error > t->worst) t->worst = error;
        if (!(error < 1e-7)) fail_msg("%s: gradient %zu is %.10g, central difference %.10g", f->node->op->name, i, got, slope);
    }
}

/* acc: the inputs' gradients are added to what is there. */
static void check_gradients(fixture *f, bool acc, tally *t)
{
    bwi_call *c = &f->call;
    double *r = bwi_malloc(f->n_out * sizeof *r), *grad[2] = {NULL}, *before[2] = {NULL};
    memcpy(r, c->out.grad, f->n_out * sizeof *r);
    for (int i = 0; i < f->node->n_in; i++) {
        before[i] = bwi_malloc(f->n_in * sizeof(double));
        grad[i] = bwi_malloc(f->n_in * sizeof(double));
        memcpy(before[i], c->in[i].grad, f->n_in * sizeof(double));
        c->in[i].acc = acc;
    }
    forward(f);
    backward(f);
    for (int i = 0; i < f->node->n_in; i++)
        for (size_t k = 0; k < f->n_in; k++) grad[i][k] = ((double *)c->in[i].grad)[k] - (acc ? before[i][k] : 0);
    for (int i = 0; i < f->node->n_in; i++) compare_slopes(f, r, c->in[i].data, f->n_in, grad[i], c->in[i].gscale, t);
    for (int i = 0; i < f->g->n_params; i++) {
        bwi_param *p = &f->g->param[i];
        if (p->role != BWI_PARAM_STATE) compare_slopes(f, r, p->data, p->numel, p->grad, 1, t);
    }
    for (int i = 0; i < 2; i++) {
        bwi_free(before[i]);
        bwi_free(grad[i]);
    }
    bwi_free(r);
}

static void gradients_match_central_differences(void **state)
{
    (void)state;
    tally t = {0};
    for (size_t k = 0; k < N_CASES; k++)
        for (int acc = 0; acc < 2; acc++) {
            fixture f;
            set_up(&f, &cases[k], BWI_F64);
            check_gradients(&f, acc != 0, &t);
            tear_down(&f);
        }
    print_message("%zu coordinates, worst error %.1e, %zu kinks skipped\n", t.checked, t.worst, t.kinks);
    assert_true(t.checked > 7000);
    assert_int_equal(t.kinks, 0); /* random points are off the kinks */
}

/* Values on a coarse grid put relu and max_pool on kinks: the check must notice, and the other coordinates still agree. */
static void kinks_are_counted(void **state)
{
    (void)state;
    const char *names[] = {"relu", "max_pool"};
    for (size_t k = 0; k < N_CASES; k++)
        for (int j = 0; j < 2; j++) {
            if (strcmp(cases[k].op, names[j]) || cases[k].in.c < 3) continue;
            fixture f;
            tally t = {0};
            set_up(&f, &cases[k], BWI_F64);
            double *x = f.call.in[0].data;
            for (size_t i = 0; i < f.n_in; i++) x[i] = (double)lrint(2 * x[i]);
            check_gradients(&f, false, &t);
            assert_true(t.kinks > 0 && t.checked > t.kinks);
            tear_down(&f);
        }
}

/* Inputs without a gradient; gradients of add in the output's memory or in one place. */
static void unwanted_and_aliased_gradients(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_CASES; k++) {
        fixture f;
        set_up(&f, &cases[k], BWI_F64);
        void *grad[2] = {f.call.in[0].grad, f.call.in[1].grad};
        f.call.in[0].grad = f.call.in[1].grad = NULL;
        forward(&f);
        backward(&f);
        f.call.in[0].grad = grad[0], f.call.in[1].grad = grad[1];
        tear_down(&f);
    }
    fixture f;
    set_up(&f, &(op_case){"add", 2, {3, 2, 5}, {0}}, BWI_F64);
    void *grad[2] = {f.call.in[0].grad, f.call.in[1].grad};
    double r[60];
    memcpy(r, f.call.out.grad, sizeof r);
    f.call.in[0].grad = f.call.out.grad;
    forward(&f);
    backward(&f);
    assert_memory_equal(f.call.out.grad, r, sizeof r);
    assert_memory_equal(f.call.in[1].grad, r, sizeof r);
    f.call.in[0].grad = f.call.in[1].grad = grad[0]; /* one value added to itself */
    backward(&f);
    for (size_t i = 0; i < f.n_in; i++) assert_true(((double *)grad[0])[i] == 2 * r[i]);
    f.call.in[0].grad = grad[0], f.call.in[1].grad = grad[1];
    tear_down(&f);
}

/* ---- Values against definitions --------------------------------------------------------------------------------------------- */
/* Convolution as PyTorch's documentation defines it, straight from weights in memory order [O,Kh,Kw,I/groups]. */
static double conv_at(const fixture *f, const bwi_conv_spec *s, int image, int oy, int ox, int o)
{
    const double *w = f->g->param[0].data, *x = f->call.in[0].data;
    int per = s->ic / s->groups, group = o / (s->oc / s->groups);
    double sum = f->node->attr.bias ? ((const double *)f->g->param[1].data)[o] : 0;
    for (int ky = 0; ky < s->kh; ky++)
        for (int kx = 0; kx < s->kw; kx++)
            for (int i = 0; i < per; i++) {
                int y = oy * s->stride - s->pad + ky, v = ox * s->stride - s->pad + kx;
                if (y < 0 || y >= s->ih || v < 0 || v >= s->iw) continue;
                sum += w[((o * s->kh + ky) * s->kw + kx) * per + i] *
                       x[((image * s->ih + y) * s->iw + v) * s->ic + group * per + i];
            }
    return sum;
}

static void convolutions_match_their_definition(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_CASES; k++) {
        fixture f;
        bwi_conv_spec s = {0};
        if (!bwi_op_find(cases[k].op)->conv_spec) continue;
        set_up(&f, &cases[k], BWI_F64);
        f.node->op->conv_spec(f.node, cases[k].n, &cases[k].in, &s);
        forward(&f);
        const double *y = f.call.out.data;
        bwi_shape os = f.call.out.shape;
        for (int i = 0; i < s.n; i++)
            for (int oy = 0; oy < os.h; oy++)
                for (int ox = 0; ox < os.w; ox++)
                    for (int o = 0; o < os.c; o++) assert_true(fabs(*y++ - conv_at(&f, &s, i, oy, ox, o)) < 1e-12);
        const bwi_param *w = &f.g->param[0];
        assert_string_equal(w->name, "it.weight");
        assert_int_equal(w->role, BWI_PARAM_WEIGHT);
        assert_int_equal(w->ndim, strcmp(cases[k].op, "linear") ? 4 : 2);
        assert_int_equal(w->dim[0], s.oc);
        assert_int_equal(w->dim[1], s.ic / s.groups);
        if (w->ndim == 4) assert_true(w->dim[2] == s.kh && w->dim[3] == s.kw);
        assert_int_equal(f.g->n_params, cases[k].attr.bias ? 2 : 1);
        if (cases[k].attr.bias) assert_true(f.g->param[1].role == BWI_PARAM_BIAS && f.g->param[1].dim[0] == s.oc);
        tear_down(&f);
    }
}

/* Runs `op` forward on one image of one or more channels. */
static void run_one(fixture *f, const op_case *k, const double *x)
{
    set_up(f, k, BWI_F64);
    memcpy(f->call.in[0].data, x, f->n_in * sizeof *x);
    forward(f);
}
static void expect(const fixture *f, const double *want)
{
    for (size_t i = 0; i < f->n_out; i++) {
        double got = get(f->call.out.data, BWI_DT_F64, i);
        if (isnan(want[i]) ? !isnan(got) : !(got == want[i] || fabs(got - want[i]) < 1e-14))
            fail_msg("value %zu is %g, expected %g", i, got, want[i]);
    }
}

static void values_of_small_examples(void **state)
{
    (void)state;
    fixture f;
    const double ramp[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, inf = (double)INFINITY, nan = (double)NAN;
    /* padding counts: 12 = 1+2+4+5 over a window of nine */
    run_one(&f, &(op_case){"avg_pool", 1, {3, 3, 1}, {.kh = 3, .kw = 3, .stride = 2, .pad = 1}}, ramp);
    expect(&f, (double[]){12. / 9, 16. / 9, 24. / 9, 28. / 9});
    tear_down(&f);
    run_one(&f, &(op_case){"global_pool", 1, {3, 3, 1}, {0}}, ramp);
    expect(&f, (double[]){5});
    tear_down(&f);
    /* padding is never the largest, NaN is, and the gradient goes to the first of equals */
    run_one(&f, &(op_case){"max_pool", 1, {3, 3, 1}, {.kh = 3, .kw = 3, .stride = 2, .pad = 1}},
            (double[]){-1, -2, -3, -4, -5, -6, -7, -8, nan});
    expect(&f, (double[]){-1, -2, -4, nan});
    tear_down(&f);
    run_one(&f, &(op_case){"max_pool", 1, {2, 4, 1}, {.kh = 2, .kw = 2, .stride = 2}},
            (double[]){3, 5, -inf, -inf, 5, 5, -inf, -inf});
    expect(&f, (double[]){5, -inf});
    memcpy(f.call.out.grad, (double[]){10, 20}, 2 * sizeof(double));
    backward(&f);
    assert_memory_equal(f.call.in[0].grad, ((double[]){0, 10, 20, 0, 0, 0, 0, 0}), 8 * sizeof(double));
    tear_down(&f);
    /* 3 of 9 pixels' worth of rows and columns 0 and 2; one zero channel in front, two behind */
    run_one(&f, &(op_case){"shortcut_a", 1, {3, 3, 1}, {.out = 4, .stride = 2}}, ramp);
    expect(&f, (double[]){0, 1, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0});
    tear_down(&f);
    run_one(&f, &(op_case){"relu", 1, {1, 1, 4}, {0}}, (double[]){-1, 0, 2, nan});
    expect(&f, (double[]){0, 0, 2, nan});
    tear_down(&f);
    set_up(&f, &(op_case){"add", 1, {3, 3, 1}, {0}}, BWI_F64);
    memcpy(f.call.in[0].data, ramp, sizeof ramp);
    memcpy(f.call.in[1].data, ramp, sizeof ramp);
    forward(&f);
    expect(&f, (double[]){2, 4, 6, 8, 10, 12, 14, 16, 18});
    tear_down(&f);
}

/* ---- Quantized convolutions --------------------------------------------------------------------------------------------------- */
static const op_case quantized_case = {
    "conv2d", 2, {5, 4, 3}, {.out = 4, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .bias = true}};

static void make_codes(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (double)lrint(4 * fabs(x[i]));
}

/* Codes in: their scale reaches the output and the weights' gradient, and stays outside the input's gradient, also when that is added
 * to a gradient with a scale of its own. */
static void convolution_of_codes(void **state)
{
    (void)state;
    fixture f;
    tally t = {0};
    set_up(&f, &quantized_case, BWI_F64);
    make_codes(f.call.in[0].data, f.n_in);
    f.call.in[0].scale = 0.375;
    check_gradients(&f, false, &t);
    assert_true(f.call.in[0].gscale == 0.375 && t.kinks == 0);
    tear_down(&f);

    set_up(&f, &quantized_case, BWI_F64);
    make_codes(f.call.in[0].data, f.n_in);
    f.call.in[0].scale = 0.375;
    forward(&f);
    backward(&f);
    double first[120];
    assert_int_equal(f.n_in, 120);
    memcpy(first, f.call.in[0].grad, sizeof first);
    f.call.in[0].acc = true;
    for (size_t i = 0; i < 120; i++) ((double *)f.call.in[0].grad)[i] = 3;
    f.call.in[0].gscale = 0.5; /* 1.5 in all are there already */
    backward(&f);
    assert_true(f.call.in[0].gscale == 0.5);
    for (size_t i = 0; i < 120; i++) assert_true(fabs(0.5 * ((double *)f.call.in[0].grad)[i] - 1.5 - 0.375 * first[i]) < 1e-12);
    tear_down(&f);
}

/* With a weight quantizer: as a float convolution of the codes with the product of both scales, and the weights' gradient is what the
 * quantizer makes of the gradient of the codes. */
static void convolution_with_weight_quantizer(void **state)
{
    (void)state;
    bw_error err;
    fixture f, plain;
    bwi_quant q, q2;
    if (bwi_quant_make(&q, "lsq", "ste", BWI_WEIGHT, 3, true, &err)) fail_msg("%s", err.msg);
    set_up(&f, &quantized_case, BWI_F64);
    set_up(&plain, &quantized_case, BWI_F64);
    make_codes(f.call.in[0].data, f.n_in);
    memcpy(plain.call.in[0].data, f.call.in[0].data, f.n_in * sizeof(double));
    bwi_param *w = &f.g->param[0], *codes = &plain.g->param[0];
    q.features = (double)w->numel;
    q.batch = 2;
    if (bwi_quant_prepare(&q, w->data, BWI_DT_F64, w->numel, &err)) fail_msg("%s", err.msg);
    q2 = q;
    f.node->wq = &q;
    f.call.in[0].scale = 0.375;
    plain.call.in[0].scale = 0.375 * q.k.scale;
    bwi_quant_codes(&q, w->data, BWI_DT_F64, w->numel, BWI_DT_F64, codes->data);
    forward(&f);
    backward(&f);
    forward(&plain);
    backward(&plain);
    assert_memory_equal(f.call.out.data, plain.call.out.data, f.n_out * sizeof(double));
    assert_memory_equal(f.call.in[0].grad, plain.call.in[0].grad, f.n_in * sizeof(double));
    assert_true(f.call.in[0].gscale == 0.375 * q.k.scale);
    bwi_quant_backward(&q2, w->data, BWI_DT_F64, codes->grad, 1, w->numel, codes->grad);
    double norm = 0;
    for (size_t i = 0; i < w->numel; i++) {
        assert_true(fabs(((double *)w->grad)[i] - ((double *)codes->grad)[i]) < 1e-12);
        norm += fabs(((double *)w->grad)[i]);
    }
    assert_true(norm > 1 && q.dtheta[0] != 0 && fabs(q.dtheta[0] - q2.dtheta[0]) < 1e-12 && q.seen == (double)w->numel);
    assert_true(f.times.quantizers > 0 && f.times.forward > 0 && f.times.backward > 0);

    /* a float input: both scales go into the packed weights, so that its gradient has the scale 1 */
    tally t = {0};
    f.call.in[0].scale = f.call.in[0].gscale = 1;
    forward(&f);
    backward(&f);
    double *g = bwi_malloc(f.n_in * sizeof *g), *r = bwi_malloc(f.n_out * sizeof *r);
    memcpy(g, f.call.in[0].grad, f.n_in * sizeof *g);
    memcpy(r, f.call.out.grad, f.n_out * sizeof *r);
    assert_true(f.call.in[0].gscale == 1);
    compare_slopes(&f, r, f.call.in[0].data, f.n_in, g, 1, &t);
    assert_int_equal(t.checked, f.n_in);
    bwi_free(g);
    bwi_free(r);
    f.node->wq = NULL; /* ours, not the graph's */
    tear_down(&f);
    tear_down(&plain);
}

/* Packed weights are used again until somebody says that they changed. */
static void weights_are_packed_when_they_changed(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, &cases[0], BWI_F64);
    forward(&f);
    double first = get(f.call.out.data, BWI_DT_F64, 0), *w = f.g->param[0].data;
    for (size_t i = 0; i < f.g->param[0].numel; i++) w[i] += 1;
    f.call.repack = false;
    forward(&f);
    assert_true(get(f.call.out.data, BWI_DT_F64, 0) == first);
    f.call.repack = true;
    forward(&f);
    assert_true(get(f.call.out.data, BWI_DT_F64, 0) != first);
    tear_down(&f);
}

/* ---- A compute table that fails ----------------------------------------------------------------------------------------------- */
static int failing_step; /* which call fails: 0 weights, 1 forward, 2 backward; -1: none */
static size_t stub_scratch(const bwi_conv *conv)
{
    return conv ? 0 : 1;
}
static bw_status stub_weights(bwi_conv *conv, const void *w, double scale, double back, void *scratch)
{
    (void)conv, (void)w, (void)scale, (void)back, (void)scratch;
    return failing_step == 0 ? BW_INTERNAL : BW_OK;
}
static bw_status stub_forward(bwi_conv *conv, const void *src, void *dst, void *scratch)
{
    (void)conv, (void)src, (void)dst, (void)scratch;
    return failing_step == 1 ? BW_INTERNAL : BW_OK;
}
static int stub_piece(const bwi_conv *conv)
{
    (void)conv;
    return 1 << 20;
}
static bw_status stub_backward(bwi_conv *conv, int first, const void *src, const void *gdst, void *gw, void *gsrc,
                               void *scratch)
{
    (void)conv, (void)first, (void)src, (void)gdst, (void)gw, (void)gsrc, (void)scratch;
    return failing_step == 2 ? BW_INTERNAL : BW_OK;
}
static const bwi_compute stub = {
    .name = "stub",
    .real = BWI_DT_F32,
    .conv_scratch = stub_scratch,
    .conv_weights = stub_weights,
    .conv_forward = stub_forward,
    .conv_piece = stub_piece,
    .conv_backward = stub_backward,
};

static void failures_of_the_compute_table_are_reported(void **state)
{
    (void)state;
    const char *what[] = {"packing of the weights", "forward pass", "backward pass"};
    for (int i = 0; i < 3; i++) {
        fixture f;
        bw_error err = {0};
        char text[200];
        set_up(&f, &cases[0], BWI_F32);
        const bwi_compute *own = f.call.compute;
        f.call.compute = &stub;
        failing_step = i;
        const bwi_op_fns *fns = f.node->op->fns[BWI_F32];
        assert_int_equal((i < 2 ? fns->forward : fns->backward)(&f.call, &err), BW_INTERNAL);
        snprintf(text, sizeof text, "the %s of the convolution failed in stub", what[i]);
        assert_string_equal(err.msg, text);
        f.call.compute = own;
        tear_down(&f);
    }
    failing_step = -1;
}

/* ---- quantize ----------------------------------------------------------------------------------------------------------------- */
static void quantize_hands_over_to_its_quantizer(void **state)
{
    (void)state;
    bw_error err;
    const double before = 5;
    for (int mode = 0; mode < 3; mode++) { /* overwrite, add, input's gradient not wanted */
        fixture f;
        bwi_quant q, q2;
        set_up(&f, &(op_case){"quantize", 3, {4, 5, 6}, {0}}, BWI_F64);
        if (bwi_quant_make(&q, "lsq", "ste", BWI_ACTIVATION, 2, false, &err)) fail_msg("%s", err.msg);
        q.features = 120;
        q.batch = 3;
        if (bwi_quant_prepare(&q, f.call.in[0].data, BWI_DT_F64, f.n_in, &err)) fail_msg("%s", err.msg);
        q2 = q;
        f.node->aq = &q;
        f.call.out.type = BWI_DT_U8;
        f.call.out.scale = q.k.scale;
        f.call.out.gscale = 0.25;
        forward(&f);
        uint8_t codes[360];
        bwi_quant_codes(&q, f.call.in[0].data, BWI_DT_F64, 360, BWI_DT_U8, codes);
        assert_memory_equal(f.call.out.data, codes, sizeof codes);
        assert_true(memchr(codes, 3, sizeof codes) && memchr(codes, 0, sizeof codes));
        double want[360], *grad = f.call.in[0].grad;
        bwi_quant_backward(&q2, f.call.in[0].data, BWI_DT_F64, f.call.out.grad, 0.25, 360, want);
        for (size_t i = 0; i < 360; i++) grad[i] = before;
        f.call.in[0].acc = mode == 1;
        if (mode == 2) f.call.in[0].grad = NULL;
        backward(&f);
        for (size_t i = 0; i < 360; i++) assert_true(grad[i] == (mode == 0 ? want[i] : mode == 1 ? before + want[i] : before));
        assert_true(f.call.in[0].gscale == 1);
        assert_true(q.dtheta[0] == q2.dtheta[0] && q.dtheta[0] != 0 && q.clipped == q2.clipped);
        f.call.in[0].grad = grad;
        f.node->aq = NULL;
        tear_down(&f);
    }
}

/* ---- Float variants, threads ---------------------------------------------------------------------------------------------------- */
static double spread(const void *a, bwi_dtype ta, const void *b, bwi_dtype tb, size_t n)
{
    double worst = 0, largest = 1;
    for (size_t i = 0; i < n; i++) {
        double x = get(a, ta, i), y = get(b, tb, i);
        largest = fmax(largest, fabs(y));
        worst = fmax(worst, fabs(x - y));
    }
    return worst / largest;
}

static void float_variants_match_double(void **state)
{
    (void)state;
    for (int v = BWI_F32; v < BWI_VARIANTS; v++) {
        double worst = 0;
        const char *where = "";
        if (!variant_runs(v)) {
            print_message("variant %d: this CPU cannot run it, skipped\n", v);
            continue;
        }
        for (size_t k = 0; k < N_CASES; k++) {
            fixture d, f;
            set_up(&d, &cases[k], BWI_F64);
            set_up(&f, &cases[k], v);
            forward(&d), backward(&d);
            forward(&f), backward(&f);
            double e = spread(f.call.out.data, BWI_DT_F32, d.call.out.data, BWI_DT_F64, d.n_out);
            for (int i = 0; i < d.node->n_in; i++)
                e = fmax(e, spread(f.call.in[i].grad, BWI_DT_F32, d.call.in[i].grad, BWI_DT_F64, d.n_in));
            for (int i = 0; i < d.g->n_params; i++)
                if (d.g->param[i].grad)
                    e = fmax(e, spread(f.g->param[i].grad, BWI_DT_F32, d.g->param[i].grad, BWI_DT_F64, d.g->param[i].numel));
            if (e > worst) worst = e, where = cases[k].op;
            if (!(e < 2e-6)) fail_msg("variant %d, %s (case %zu): error %g", v, cases[k].op, k, e);
            tear_down(&d);
            tear_down(&f);
        }
        print_message("variant %d: worst error %.1e (%s)\n", v, worst, where);
    }
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_CASES; k++) {
        fixture one, f;
        bwi_threads_set(1);
        set_up(&one, &cases[k], BWI_F32);
        forward(&one), backward(&one);
        for (int threads = 2; threads < 6; threads += 3) {
            bwi_threads_set(threads);
            set_up(&f, &cases[k], BWI_F32);
            forward(&f), backward(&f);
            assert_memory_equal(f.call.out.data, one.call.out.data, f.n_out * sizeof(float));
            for (int i = 0; i < f.node->n_in; i++)
                assert_memory_equal(f.call.in[i].grad, one.call.in[i].grad, f.n_in * sizeof(float));
            for (int i = 0; i < f.g->n_params; i++)
                if (f.g->param[i].grad)
                    assert_memory_equal(f.g->param[i].grad, one.g->param[i].grad, f.g->param[i].numel * sizeof(float));
            tear_down(&f);
        }
        tear_down(&one);
    }
    bwi_threads_set(0);
}

/* ---- Errors --------------------------------------------------------------------------------------------------------------------- */
static void shape_errors_say_what_does_not_fit(void **state)
{
    (void)state;
    static const struct {
        const char *op;
        bwi_shape in[2];
        bwi_attr attr;
        bw_status status;
        const char *text;
    } bad[] = {
        {"conv2d", {{3, 3, 8}}, {.out = 4, .kh = 5, .kw = 5}, BW_SHAPE, "5x5 kernel with padding 0 does not fit a 3x3 map"},
        {"conv2d",
         {{9, 2, 8}},
         {.out = 4, .kh = 3, .kw = 5, .pad = 1},
         BW_SHAPE,
         "3x5 kernel with padding 1 does not fit a 9x2 map"},
        {"conv2d",
         {{8, 8, 6}},
         {.out = 8, .kh = 3, .kw = 3, .groups = 4},
         BW_SHAPE,
         "4 groups do not divide 6 input and 8 output channels"},
        {"conv2d",
         {{8, 8, 8}},
         {.out = 6, .kh = 3, .kw = 3, .groups = 4},
         BW_SHAPE,
         "4 groups do not divide 8 input and 6 output channels"},
        {"conv2d",
         {{8, 8, 3}},
         {.kh = 3, .kw = 3, .stride = -1},
         BW_ARG,
         "a convolution needs at least 1 output channel, a kernel of at least 1x1, stride and groups of at least 1 and padding "
         "of at least 0, "
         "found 0 output channels, a 3x3 kernel, stride -1, 1 groups, padding 0"},
        {"linear",
         {{8, 4, 64}},
         {.out = 10},
         BW_SHAPE,
         "a linear layer takes a 1x1 map, found 8x4 with 64 channels: pool it first, e.g. with global_pool"},
        {"linear", {{1, 1, 64}}, {.out = 0}, BW_ARG, "a linear layer needs at least 1 output, found 0"},
        {"add",
         {{8, 8, 16}, {4, 8, 32}},
         {0},
         BW_SHAPE,
         "only values of one shape can be added, found 8x8 with 16 channels and 4x8 with 32 channels"},
        {"avg_pool", {{3, 4, 2}}, {.kh = 4, .kw = 4}, BW_SHAPE, "4x4 kernel with padding 0 does not fit a 3x4 map"},
        {"max_pool", {{8, 8, 2}}, {.kh = 3, .kw = 2, .pad = 2}, BW_ARG, "padding 2 is more than half of the 3x2 kernel"},
        {"max_pool",
         {{40, 40, 2}},
         {.kh = 17, .kw = 16},
         BW_UNSUPPORTED,
         "max_pool takes kernels of at most 256 positions, found 17x16"},
        {"max_pool",
         {{8, 8, 2}},
         {.kh = 3},
         BW_ARG,
         "pooling needs a kernel of at least 1x1, a stride of at least 1 and padding of at least 0, found a 3x0 kernel, stride "
         "1, padding 0"},
        {"shortcut_a",
         {{8, 8, 32}},
         {.out = 16, .stride = 2},
         BW_SHAPE,
         "an option-A shortcut can only add channels: expected at least the 32 of its input, found 16"},
        {"shortcut_a", {{8, 8, 32}}, {.out = 64, .stride = -2}, BW_ARG, "a shortcut needs a stride of at least 1, found -2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bw_error err = {0};
        bwi_shape out;
        const bwi_op *op = bwi_op_find(bad[i].op);
        bwi_node node = {.op = op, .attr = bad[i].attr};
        assert_int_equal(op->infer(&node, bad[i].in, &out, &err), bad[i].status);
        assert_string_equal(err.msg, bad[i].text);
        assert_int_equal(op->infer(&node, bad[i].in, &out, NULL), bad[i].status);
    }
}

static void shapes_of_the_output(void **state)
{
    (void)state;
    static const struct {
        op_case k;
        bwi_shape out;
    } good[] = {
        {{"conv2d", 1, {32, 31, 3}, {.out = 16, .kh = 3, .kw = 3, .stride = 2, .pad = 1}}, {16, 16, 16}},
        {{"conv2d", 1, {3, 3, 3}, {.out = 5, .kh = 5, .kw = 5, .pad = 1}}, {1, 1, 5}},
        {{"linear", 1, {1, 1, 64}, {.out = 10}}, {1, 1, 10}},
        {{"avg_pool", 1, {8, 8, 5}, {.kh = 8, .kw = 8}}, {1, 1, 5}},
        {{"max_pool", 1, {112, 113, 5}, {.kh = 3, .kw = 3, .stride = 2, .pad = 1}}, {56, 57, 5}},
        {{"global_pool", 1, {8, 7, 5}, {0}}, {1, 1, 5}},
        {{"shortcut_a", 1, {7, 8, 5}, {.out = 9, .stride = 2}}, {4, 4, 9}},
        {{"quantize", 1, {7, 8, 5}, {0}}, {7, 8, 5}},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        bwi_shape out;
        const bwi_op *op = bwi_op_find(good[i].k.op);
        bwi_node node = {.op = op, .attr = good[i].k.attr};
        assert_int_equal(op->infer(&node, &good[i].k.in, &out, NULL), BW_OK);
        assert_memory_equal(&out, &good[i].out, sizeof out);
    }
}

static void parameters_survive_lack_of_memory(void **state)
{
    (void)state;
    int64_t live = bwi_alloc_live_blocks();
    bw_status st = BW_NOMEM;
    for (int64_t fail = 0; st == BW_NOMEM; fail++) {
        bwi_graph *g;
        int value, in = 0;
        assert_int_equal(bwi_graph_create(&g, BWI_DT_F32, (bwi_shape){4, 4, 3}, NULL), BW_OK);
        bwi_alloc_fail_at(fail, 1);
        st = bwi_graph_add(g, "conv2d", "conv", &in, 1, &cases[0].attr, &value, NULL);
        bwi_alloc_fail_at(-1, 0);
        assert_true(st == BW_OK || (st == BW_NOMEM && fail < 20));
        if (st == BW_OK) assert_true(fail > 4);
        bwi_graph_destroy(&g);
        assert_int_equal(bwi_alloc_live_blocks(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_has_a_case),
        cmocka_unit_test(gradients_match_central_differences),
        cmocka_unit_test(kinks_are_counted),
        cmocka_unit_test(unwanted_and_aliased_gradients),
        cmocka_unit_test(convolutions_match_their_definition),
        cmocka_unit_test(values_of_small_examples),
        cmocka_unit_test(convolution_of_codes),
        cmocka_unit_test(convolution_with_weight_quantizer),
        cmocka_unit_test(weights_are_packed_when_they_changed),
        cmocka_unit_test(failures_of_the_compute_table_are_reported),
        cmocka_unit_test(quantize_hands_over_to_its_quantizer),
        cmocka_unit_test(float_variants_match_double),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(shape_errors_say_what_does_not_fit),
        cmocka_unit_test(shapes_of_the_output),
        cmocka_unit_test(parameters_survive_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
