/* Softmax cross entropy: gradient, extreme logits, accuracy with ties, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/cpu.h"
#include "base/par.h"
#include "base/rng.h"
#include "nn/loss.h"

static bool variant_runs(int variant)
{
    unsigned need = variant == BWI_F32_AVX2 ? BWI_CPU_AVX2 : variant == BWI_F32_AVX512 ? BWI_CPU_AVX512 : 0;
    return (bwi_cpu_flags() & need) == need;
}
static bw_status ce64(const double *x, const int32_t *labels, int n, int classes, double *loss, int *top1, int *top5,
                      double *grad, bw_error *err)
{
    return bwi_softmax_ce[BWI_F64]->loss(x, labels, n, classes, loss, top1, top5, grad, err);
}

enum { N = 19, CLASSES = 11 };
static void random_batch(double *x, float *xf, int32_t *labels)
{
    bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, 5, 0);
    for (int i = 0; i < N * CLASSES; i++) {
        xf[i] = (float)(3 * bwi_rng_normal(&r));
        x[i] = (double)xf[i];
    }
    for (int i = 0; i < N; i++) labels[i] = (int32_t)bwi_rng_below(&r, CLASSES);
}

static void gradient_matches_central_differences(void **state)
{
    (void)state;
    double x[N * CLASSES], g[N * CLASSES], loss, up, down, naive = 0;
    float xf[N * CLASSES];
    int32_t labels[N];
    int top1, top5, a, b;
    random_batch(x, xf, labels);
    assert_int_equal(ce64(x, labels, N, CLASSES, &loss, &top1, &top5, g, NULL), BW_OK);
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int k = 0; k < CLASSES; k++) sum += exp(x[i * CLASSES + k]);
        naive -= log(exp(x[i * CLASSES + labels[i]]) / sum) / N;
    }
    assert_true(fabs(loss - naive) < 1e-13);
    for (int i = 0; i < N * CLASSES; i++) {
        const double h = 1e-5, keep = x[i];
        x[i] = keep + h;
        assert_int_equal(ce64(x, labels, N, CLASSES, &up, &a, &b, NULL, NULL), BW_OK);
        x[i] = keep - h;
        assert_int_equal(ce64(x, labels, N, CLASSES, &down, &a, &b, NULL, NULL), BW_OK);
        x[i] = keep;
        if (!(fabs((up - down) / (2 * h) - g[i]) < 1e-9))
            fail_msg("gradient %d is %g, central difference %g", i, g[i], (up - down) / (2 * h));
    }
}

/* Counts by sorting, loss and gradient of the float variants, results with other numbers of threads and in place. */
static void variants_agree(void **state)
{
    (void)state;
    double x[N * CLASSES], g[N * CLASSES], loss;
    float xf[N * CLASSES], gf[N * CLASSES], gf2[N * CLASSES];
    int32_t labels[N];
    int top1, top5, want1 = 0, want5 = 0;
    random_batch(x, xf, labels);
    for (int i = 0; i < N; i++) {
        int larger = 0;
        for (int k = 0; k < CLASSES; k++) larger += xf[i * CLASSES + k] > xf[i * CLASSES + labels[i]];
        want1 += larger == 0;
        want5 += larger < 5;
    }
    assert_true(want1 > 0 && want5 > want1 && want5 < N);
    assert_int_equal(ce64(x, labels, N, CLASSES, &loss, &top1, &top5, g, NULL), BW_OK);
    assert_int_equal(top1, want1);
    assert_int_equal(top5, want5);
    for (int v = BWI_F32; v < BWI_VARIANTS; v++) {
        double loss_f, loss_f2;
        if (!variant_runs(v)) continue;
        bwi_threads_set(1);
        assert_int_equal(bwi_softmax_ce[v]->loss(xf, labels, N, CLASSES, &loss_f, &top1, &top5, gf, NULL), BW_OK);
        assert_true(fabs(loss_f - loss) < 1e-12 && top1 == want1 && top5 == want5);
        for (int i = 0; i < N * CLASSES; i++) assert_true(fabs((double)gf[i] - g[i]) <= 1.2e-7 * fabs(g[i]));
        bwi_threads_set(5);
        memcpy(gf2, xf, sizeof xf);
        assert_int_equal(bwi_softmax_ce[v]->loss(gf2, labels, N, CLASSES, &loss_f2, &top1, &top5, gf2, NULL), BW_OK);
        assert_true(loss_f2 == loss_f && top1 == want1 && top5 == want5);
        assert_memory_equal(gf2, gf, sizeof gf);
    }
    bwi_threads_set(0);
}

static void extreme_logits(void **state)
{
    (void)state;
    double loss;
    int top1, top5;
    float g[6];
    /* far beyond exp's range, right and wrong */
    assert_int_equal(bwi_softmax_ce[BWI_F32]->loss((float[]){3e38f, -3e38f, 0, 3e38f, -3e38f, 0}, (int32_t[]){0, 2}, 2, 3,
                                                   &loss, &top1, &top5, g, NULL),
                     BW_OK);
    assert_true(fabs(loss / (double)3e38f - 0.5) < 1e-12 && top1 == 1 && top5 == 2);
    const float want[6] = {0, 0, 0, 0.5f, 0, -0.5f};
    for (int i = 0; i < 6; i++) assert_true(g[i] == want[i]);
    assert_int_equal(bwi_softmax_ce[BWI_F32]->loss((float[]){-2000, -2000}, (int32_t[]){1}, 1, 2, &loss, &top1, &top5, g, NULL),
                     BW_OK);
    assert_true(fabs(loss - log(2)) < 1e-15 && g[0] == 0.5f && g[1] == -0.5f);
    /* an image that is nearly certain keeps a gradient: exp(-30), not 0 from 1 - 1 */
    assert_int_equal(bwi_softmax_ce[BWI_F32]->loss((float[]){30, 0}, (int32_t[]){0}, 1, 2, &loss, &top1, &top5, g, NULL),
                     BW_OK);
    assert_true(fabs((double)g[0] / -exp(-30) - 1) < 1e-6 && fabs((double)g[1] / exp(-30) - 1) < 1e-6);
    /* a loss that double cannot hold */
    bw_error err = {0};
    assert_int_equal(ce64((double[]){0, 0, 1.7e308, -1.7e308}, (int32_t[]){0, 1}, 2, 2, &loss, &top1, &top5, NULL, &err),
                     BW_NUMERIC);
    assert_string_equal(err.msg, "the loss of image 1 of the batch is not finite: its logits are too far apart");
}

/* Of equal logits the lower class comes first. */
static void ties_and_few_classes(void **state)
{
    (void)state;
    double loss, equal[8 * 8] = {0};
    int top1, top5;
    assert_int_equal(ce64(equal, (int32_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8, 8, &loss, &top1, &top5, NULL, NULL), BW_OK);
    assert_true(top1 == 1 && top5 == 5 && fabs(loss - log(8)) < 1e-15);
    double x[8] = {1, 2, 2, 0, 3, 3, 3, 3};
    const int in_top5[8] = {0, 1, 0, 0, 1, 1, 1, 1};
    for (int32_t k = 0; k < 8; k++) {
        assert_int_equal(ce64(x, &k, 1, 8, &loss, &top1, &top5, NULL, NULL), BW_OK);
        assert_int_equal(top1, k == 4);
        assert_int_equal(top5, in_top5[k]);
    }
    assert_int_equal(ce64((double[]){1, 2, 3, 3, 2, 1}, (int32_t[]){0, 0}, 2, 3, &loss, &top1, &top5, NULL, NULL), BW_OK);
    assert_true(top1 == 1 && top5 == 2);
    assert_int_equal(ce64((double[]){7}, (int32_t[]){0}, 1, 1, &loss, &top1, &top5, NULL, NULL), BW_OK);
    assert_true(top1 == 1 && top5 == 1 && loss == 0);
}

static void errors_name_the_image(void **state)
{
    (void)state;
    double loss, x[N * CLASSES];
    float xf[N * CLASSES];
    int32_t labels[N];
    int top1, top5;
    bw_error err;
    random_batch(x, xf, labels);
    labels[17] = 11;
    labels[18] = -1;
    assert_int_equal(ce64(x, labels, N, CLASSES, &loss, &top1, &top5, NULL, &err), BW_ARG);
    assert_string_equal(err.msg,
                        "label 11 of image 17 of the batch is out of range: expected 0 to 10, as the network has 11 classes");
    labels[3] = -1;
    assert_int_equal(ce64(x, labels, N, CLASSES, &loss, &top1, &top5, NULL, &err), BW_ARG);
    assert_string_equal(err.msg,
                        "label -1 of image 3 of the batch is out of range: expected 0 to 10, as the network has 11 classes");
    assert_int_equal(ce64(x, labels, N, CLASSES, &loss, &top1, &top5, NULL, NULL), BW_ARG);
    labels[3] = labels[17] = labels[18] = 0;
    const float bad[3] = {NAN, INFINITY, -INFINITY};
    const char *const text[3] = {"nan", "inf", "-inf"};
    for (int i = 0; i < 3; i++)
        for (int v = BWI_F32; v < BWI_VARIANTS; v++) {
            if (!variant_runs(v)) continue;
            char want[200];
            snprintf(want, sizeof want,
                     "logit 2 of image 5 of the batch is %s: training has diverged; lower the learning rate or warm it up",
                     text[i]);
            xf[5 * CLASSES + 2] = bad[i];
            assert_int_equal(bwi_softmax_ce[v]->loss(xf, labels, N, CLASSES, &loss, &top1, &top5, NULL, &err), BW_NUMERIC);
            assert_string_equal(err.msg, want);
            assert_true(loss == 0 && top1 == 0 && top5 == 0);
        }
}

/* ---- With a teacher ------------------------------------------------------------------------------------------------------ */

static void random_teacher(double *t, float *tf)
{
    bwi_rng r = bwi_rng_make(2, BWI_RNG_TEST, 5, 0);
    for (int i = 0; i < N * CLASSES; i++) {
        tf[i] = (float)(3 * bwi_rng_normal(&r));
        t[i] = (double)tf[i];
    }
}
static bw_status distill64(const double *x, const double *t, const int32_t *labels, int n, int classes, double *loss,
                           double *grad, bw_error *err)
{
    int top1, top5;
    return bwi_softmax_ce[BWI_F64]->distill(x, t, labels, n, classes, loss, &top1, &top5, grad, err);
}

static void distillation_matches_central_differences(void **state)
{
    (void)state;
    double x[N * CLASSES], t[N * CLASSES], g[N * CLASSES], loss, hard, up, down, naive = 0;
    float xf[N * CLASSES], tf[N * CLASSES];
    int32_t labels[N];
    int top1, top5;
    random_batch(x, xf, labels);
    random_teacher(t, tf);
    assert_int_equal(distill64(x, t, labels, N, CLASSES, &loss, g, NULL), BW_OK);
    assert_int_equal(ce64(x, labels, N, CLASSES, &hard, &top1, &top5, NULL, NULL), BW_OK);
    for (int i = 0; i < N; i++) {
        double sum = 0, t_sum = 0;
        for (int k = 0; k < CLASSES; k++) sum += exp(x[i * CLASSES + k]), t_sum += exp(t[i * CLASSES + k]);
        for (int k = 0; k < CLASSES; k++) naive -= exp(t[i * CLASSES + k]) / t_sum * log(exp(x[i * CLASSES + k]) / sum) / N;
    }
    assert_true(fabs(loss - (hard + naive) / 2) < 1e-13);
    for (int i = 0; i < N * CLASSES; i++) {
        const double h = 1e-5, keep = x[i];
        x[i] = keep + h;
        assert_int_equal(distill64(x, t, labels, N, CLASSES, &up, NULL, NULL), BW_OK);
        x[i] = keep - h;
        assert_int_equal(distill64(x, t, labels, N, CLASSES, &down, NULL, NULL), BW_OK);
        x[i] = keep;
        if (!(fabs((up - down) / (2 * h) - g[i]) < 1e-9))
            fail_msg("gradient %d is %g, central difference %g", i, g[i], (up - down) / (2 * h));
    }
}

/* A student that is its teacher learns from the labels alone, at half their weight. */
static void teacher_of_itself(void **state)
{
    (void)state;
    double x[N * CLASSES], g[N * CLASSES], hard[N * CLASSES], loss;
    float xf[N * CLASSES];
    int32_t labels[N];
    int top1, top5;
    random_batch(x, xf, labels);
    for (int i = 0; i < 3; i++) x[i * CLASSES + i] += 40; /* nearly certain, rightly or not */
    assert_int_equal(ce64(x, labels, N, CLASSES, &loss, &top1, &top5, hard, NULL), BW_OK);
    assert_int_equal(distill64(x, x, labels, N, CLASSES, &loss, g, NULL), BW_OK);
    for (int i = 0; i < N * CLASSES; i++)
        if (!(fabs(g[i] - hard[i] / 2) <= 1e-15 * fabs(hard[i])))
            fail_msg("gradient %d is %g, half is %g", i, g[i], hard[i] / 2);
}

static void distillation_variants_agree(void **state)
{
    (void)state;
    double x[N * CLASSES], t[N * CLASSES], g[N * CLASSES], loss;
    float xf[N * CLASSES], tf[N * CLASSES], gf[N * CLASSES], gf2[N * CLASSES];
    int32_t labels[N];
    int want1, want5, top1, top5;
    random_batch(x, xf, labels);
    random_teacher(t, tf);
    assert_int_equal(ce64(x, labels, N, CLASSES, &loss, &want1, &want5, NULL, NULL), BW_OK);
    assert_int_equal(distill64(x, t, labels, N, CLASSES, &loss, g, NULL), BW_OK);
    for (int v = BWI_F32; v < BWI_VARIANTS; v++) {
        double loss_f, loss_f2;
        if (!variant_runs(v)) continue;
        bwi_threads_set(1);
        assert_int_equal(bwi_softmax_ce[v]->distill(xf, tf, labels, N, CLASSES, &loss_f, &top1, &top5, gf, NULL), BW_OK);
        assert_true(fabs(loss_f - loss) < 1e-12 && top1 == want1 && top5 == want5);
        for (int i = 0; i < N * CLASSES; i++) assert_true(fabs((double)gf[i] - g[i]) <= 1.2e-7 * fabs(g[i]) + 1e-17);
        bwi_threads_set(5);
        memcpy(gf2, xf, sizeof xf);
        assert_int_equal(bwi_softmax_ce[v]->distill(gf2, tf, labels, N, CLASSES, &loss_f2, &top1, &top5, gf2, NULL), BW_OK);
        assert_true(loss_f2 == loss_f);
        assert_memory_equal(gf2, gf, sizeof gf);
    }
    bwi_threads_set(0);
}

static void distillation_at_extremes(void **state)
{
    (void)state;
    double loss, g[2];
    bw_error err;
    /* both nearly certain of the label, the teacher a little more: exp(-31) - exp(-30) survives, though 1 - 1 would not */
    assert_int_equal(distill64((double[]){30, 0}, (double[]){31, 0}, (int32_t[]){0}, 1, 2, &loss, g, NULL), BW_OK);
    const double want = (2 * exp(-30) - exp(-31)) / 2;
    assert_true(fabs(g[0] / -want - 1) < 1e-9 && fabs(g[1] / want - 1) < 1e-9);
    assert_int_equal(distill64((double[]){0, 0}, (double[]){3e38, -3e38}, (int32_t[]){1}, 1, 2, &loss, g, NULL), BW_OK);
    assert_true(fabs(loss - log(2)) < 1e-15 && g[0] == 0 && g[1] == 0);
    assert_int_equal(distill64((double[]){0, 0}, (double[]){0, NAN}, (int32_t[]){1}, 1, 2, &loss, g, &err), BW_NUMERIC);
    assert_string_equal(
        err.msg, "the teacher's logits for image 0 of the batch are not finite: its file does not hold a trained network");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_matches_central_differences),
        cmocka_unit_test(variants_agree),
        cmocka_unit_test(extreme_logits),
        cmocka_unit_test(ties_and_few_classes),
        cmocka_unit_test(errors_name_the_image),
        cmocka_unit_test(distillation_matches_central_differences),
        cmocka_unit_test(teacher_of_itself),
        cmocka_unit_test(distillation_variants_agree),
        cmocka_unit_test(distillation_at_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
