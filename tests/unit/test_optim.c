/* Optimizers against PyTorch's (vectors of tests/golden/make_optim.py) and a table worked by hand; schedules against their formulas. */
#include "optim/optim.h"
#include "base/par.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N = 5, STEPS = 4 };

static const double sgd_plain[STEPS][N] = {
    {-0.4609375, -0.265625, 0.015625, 0.2109375, 0.4921875},
    {-0.453125, -0.28515625, 0.01171875, 0.22265625, 0.4765625},
    {-0.45572916666666669, -0.27734375, 0.0013020833333333339, 0.22265625, 0.48697916666666669},
    {-0.46354166666666669, -0.27734375, 0.0091145833333333339, 0.216796875, 0.48893229166666669},
};
static const double sgd_momentum[STEPS][N] = {
    {-0.46031250000000001, -0.26531250000000001, 0.015625, 0.21062500000000001, 0.49156250000000001},
    {-0.4343529296875, -0.29156855468749998, 0.018740234375000001, 0.20449335937500002, 0.4718333984375},
    {-0.42120037377929687, -0.29938820060221355, 0.010184899902343753, 0.20072916943359376, 0.47021600691731769},
    {-0.4200032734244537, -0.30457290278195698, 0.012219366352081302, 0.19226623835769655, 0.47093045013903295},
};
static const double sgd_nesterov[STEPS][N] = {
    {-0.430546875, -0.276796875, 0.02734375, 0.18109375, 0.485234375},
    {-0.40524197998046874, -0.31498045654296875, 0.024872436523437499, 0.1903292724609375, 0.45498685302734376},
    {-0.4008921310920715, -0.31049157308832803, 0.0073511468887329104, 0.18900546872711183, 0.46572463320287072},
    {-0.41052811304721504, -0.31226513086056223, 0.017028480788066985, 0.17794816893435778, 0.46917517268650011},
};
static const double adam_plain[STEPS][N] = {
    {-0.37500000399999989, -0.37499999000000084, 0.12499999000000081, 0.12500000399999989, 0.37500001999999677},
    {-0.3188390560744056, -0.43373170225388402, 0.14164605329405983, 0.11303137726279901, 0.31972649237171435},
    {-0.29524867064885352, -0.44720935684037028, 0.12259056319579327, 0.10686352187889209, 0.31782625328567082},
    {-0.29427045965279885, -0.45548941269330973, 0.12572066564040926, 0.095177810620042172, 0.31979295191138102},
};
static const double adam_decay[STEPS][N] = {
    {-0.37528506271379702, -0.37303149606299213, 0.12400793650793651, 0.12533244680851063, 0.37566312997347479},
    {-0.31790790995370727, -0.43005290525616974, 0.12604096756693547, 0.10784779560321234, 0.31439083318461808},
    {-0.28888959423995197, -0.42385956434703509, 0.10117804176011337, 0.097345415297414833, 0.29896086169799296},
    {-0.28059052890988212, -0.41468224744879734, 0.10137145772603795, 0.082113992176990558, 0.28940590037494474},
};

static const double cosine_epochs[5] = {1, 0.90450849718747373, 0.65450849718747373, 0.34549150281252627, 0.095491502812526316};
static const double milestones[5] = {1, 0.25, 0.25, 0.0625, 0.015625};

static double start(int i)
{
    return (i - 2) / 4.0;
}
static double gradient(int i, int t)
{
    return ((7 * i + 3 * t) % 11 - 5) / 16.0;
}

/* Runs STEPS steps in double and in float and compares every parameter after every step. */
static void compare(const char *name, const bwi_group *group, const double (*want)[N])
{
    const bwi_optimizer *o = bwi_optimizer_find(name);
    assert_non_null(o);
    double p[N], g[N], s0[N] = {0}, s1[N] = {0};
    float pf[N], gf[N], f0[N] = {0}, f1[N] = {0};
    bwi_slot slot = {
        .name = "p", .dtype = BWI_DT_F64, .n = N, .data = p, .grad = g, .state = {s0, o->n_states > 1 ? s1 : NULL}};
    bwi_slot single = {
        .name = "p", .dtype = BWI_DT_F32, .n = N, .data = pf, .grad = gf, .state = {f0, o->n_states > 1 ? f1 : NULL}};
    for (int i = 0; i < N; i++) p[i] = pf[i] = (float)start(i);
    for (int t = 0; t < STEPS; t++) {
        for (int i = 0; i < N; i++) gf[i] = (float)(g[i] = gradient(i, t));
        o->step(&slot, group, 0.125 / (t + 1), t + 1);
        o->step(&single, group, 0.125 / (t + 1), t + 1);
        for (int i = 0; i < N; i++) {
            if (fabs(p[i] - want[t][i]) > 1e-15)
                fail_msg("step %d, element %d: %.17g, expected %.17g", t + 1, i, p[i], want[t][i]);
            if (fabs((double)pf[i] - want[t][i]) > 3e-7)
                fail_msg("float, step %d, element %d: %.9g, expected %.9g", t + 1, i, (double)pf[i], want[t][i]);
        }
    }
}

static void sgd_is_pytorchs(void **state)
{
    (void)state;
    compare("sgd", &(bwi_group){0}, sgd_plain);
    compare("sgd", &(bwi_group){.momentum = 0.9, .weight_decay = 0.01}, sgd_momentum);
    compare("sgd", &(bwi_group){.momentum = 0.75, .weight_decay = 0.01, .nesterov = true}, sgd_nesterov);
}

static void adam_is_pytorchs(void **state)
{
    (void)state;
    compare("adam", &(bwi_group){.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}, adam_plain);
    compare("adam", &(bwi_group){.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3, .weight_decay = 0.25}, adam_decay);
}

/* Every number is exact in binary. p = 1, g = 1/2, decay 1/2, momentum 1/2, lr 1/4:
 * d = 1, buf = 1, p = 3/4; then d = 1/2 + 3/8 = 7/8, buf = 1/2 + 7/8 = 11/8, p = 3/4 - 11/32 = 13/32. */
static void sgd_by_hand(void **state)
{
    (void)state;
    const bwi_optimizer *o = bwi_optimizer_find("sgd");
    const bwi_group group = {.momentum = 0.5, .weight_decay = 0.5};
    float p = 1, g = 0.5f, buf = 0;
    bwi_slot slot = {.name = "p", .dtype = BWI_DT_F32, .n = 1, .data = &p, .grad = &g, .state = {&buf}};
    o->step(&slot, &group, 0.25, 1);
    assert_true(p == 0.75f && buf == 1);
    o->step(&slot, &group, 0.25, 2);
    assert_true(p == 0.40625f && buf == 1.375f);
    assert_true(g == 0.5f);
}

static void state_names_are_pytorchs(void **state)
{
    (void)state;
    const bwi_optimizer *sgd = bwi_optimizer_find("sgd"), *adam = bwi_optimizer_find("adam");
    assert_int_equal(sgd->n_states, 1);
    assert_string_equal(sgd->state_name[0], "momentum_buffer");
    assert_int_equal(adam->n_states, 2);
    assert_string_equal(adam->state_name[0], "exp_avg");
    assert_string_equal(adam->state_name[1], "exp_avg_sq");
}

/* An array above the threshold for threads gives, with 1 to 3 threads, the bytes that its pieces give on their own. */
static void threads_do_not_matter(void **state)
{
    (void)state;
    const size_t n = BWI_OPTIM_PARALLEL + 1003, piece = 4099;
    const bwi_group group = {.momentum = 0.9, .weight_decay = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    float *data[4], *g = malloc(n * sizeof *g);
    assert_non_null(g);
    for (size_t i = 0; i < n; i++) g[i] = (float)(i * 2654435761u % 2001) / 1000.0f - 1.0f;
    const bwi_optimizer *o;
    for (size_t k = 0; (o = bwi_optimizer_at(k)); k++) {
        for (int run = 0; run < 4; run++) {
            float *v = data[run] = calloc(3 * n, sizeof *v);
            assert_non_null(v);
            for (size_t i = 0; i < n; i++) v[i] = g[n - 1 - i];
            bwi_threads_set(run ? run : 1);
            for (int t = 1; t <= 3; t++) {
                const size_t step = run ? n : piece;
                for (size_t at = 0; at < n; at += step) {
                    bwi_slot s = {
                        .name = "p", .dtype = BWI_DT_F32, .n = at + step < n ? step : n - at, .data = v + at, .grad = g + at};
                    for (int j = 0; j < o->n_states; j++) s.state[j] = v + (size_t)(j + 1) * n + at;
                    o->step(&s, &group, 0.01, t);
                }
            }
            assert_memory_equal(v, data[0], 3 * n * sizeof *v);
            assert_memory_not_equal(v, g, n * sizeof *v);
        }
        for (int run = 0; run < 4; run++) free(data[run]);
    }
    bwi_threads_set(0);
    free(g);
}

static void rows_are_found(void **state)
{
    (void)state;
    const bwi_optimizer *o;
    const bwi_schedule *s;
    size_t i;
    for (i = 0; (o = bwi_optimizer_at(i)); i++) assert_ptr_equal(bwi_optimizer_find(o->name), o);
    assert_int_equal(i, 2);
    for (i = 0; (s = bwi_schedule_at(i)); i++) assert_ptr_equal(bwi_schedule_find(s->name), s);
    assert_int_equal(i, 3);
    assert_null(bwi_optimizer_at(1000));
    assert_null(bwi_schedule_at(1000));
    assert_null(bwi_optimizer_find("Adam"));
    assert_null(bwi_schedule_find(""));
}

static void near(double got, double want)
{
    if (fabs(got - want) > 1e-15) fail_msg("%.17g, expected %.17g", got, want);
}

static void cosine_by_epoch_and_by_step(void **state)
{
    (void)state;
    const bwi_schedule *s = bwi_schedule_find("cosine");
    bwi_schedule_options o = {.epochs = 5, .steps = 8};
    for (int e = 0; e < 5; e++)
        for (int k = 0; k < 8; k++) near(bwi_schedule_factor(s, &o, e, k), cosine_epochs[e]);
    o.per_step = true;
    for (int e = 0; e < 5; e++) near(bwi_schedule_factor(s, &o, e, 0), cosine_epochs[e]);
    near(bwi_schedule_factor(s, &o, 2, 4), 0.5); /* half-way */
    double last = 2;
    for (int t = 0; t < 40; t++) {
        const double f = bwi_schedule_factor(s, &o, t / 8, t % 8);
        assert_true(f < last && f > 0);
        last = f;
    }
    near(bwi_schedule_factor(s, &o, 5, 0), 0);
    near(bwi_schedule_factor(s, &o, 6, 0), 0); /* past the end it does not rise again */
}

static void step_decays_from_its_milestones_on(void **state)
{
    (void)state;
    const bwi_schedule *s = bwi_schedule_find("step");
    const bwi_schedule_options o = {
        .per_step = true, .epochs = 5, .steps = 8, .gamma = 0.25, .milestone = {1, 3, 4}, .n_milestones = 3};
    for (int e = 0; e < 5; e++)
        for (int k = 0; k < 8; k++) near(bwi_schedule_factor(s, &o, e, k), milestones[e]);
}

static void warmup_rises_by_step_to_the_schedule(void **state)
{
    (void)state;
    bwi_schedule_options o = {.epochs = 10, .steps = 4, .warmup_epochs = 2};
    const bwi_schedule *constant = bwi_schedule_find("constant"), *cosine = bwi_schedule_find("cosine");
    for (int t = 0; t < 40; t++) {
        const double ramp = t < 8 ? (t + 1) / 8.0 : 1;
        near(bwi_schedule_factor(constant, &o, t / 4, t % 4), ramp);
        near(bwi_schedule_factor(cosine, &o, t / 4, t % 4), ramp * cosine->factor(&o, t / 4, 0));
    }
    o.warmup_epochs = 0;
    near(bwi_schedule_factor(constant, &o, 0, 0), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_is_pytorchs),
        cmocka_unit_test(adam_is_pytorchs),
        cmocka_unit_test(sgd_by_hand),
        cmocka_unit_test(state_names_are_pytorchs),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(rows_are_found),
        cmocka_unit_test(cosine_by_epoch_and_by_step),
        cmocka_unit_test(step_decays_from_its_milestones_on),
        cmocka_unit_test(warmup_rises_by_step_to_the_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
