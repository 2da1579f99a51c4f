/* Analysis: step sizes of least error against brute force and known optima, LSQ's R by hand, logs, and the whole on small models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "folder.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/rng.h"
#include "train/analyze.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Folders ------------------------------------------------------------------------------------------------------------- */

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* ---- Histograms ---------------------------------------------------------------------------------------------------------- */

enum { N = 3000 };

static void fill(float *x, double sd, bool relu, uint64_t seed)
{
    bwi_rng r = bwi_rng_make(seed, BWI_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        x[i] = (float)(sd * bwi_rng_normal(&r));
        if (relu && x[i] < 0) x[i] = 0;
    }
}

static bwi_histogram histogram_of(const float *x, size_t n)
{
    bwi_histogram h;
    bw_error err;
    if (bwi_histogram_create(&h, &err) || bwi_histogram_add(&h, x, n, &err)) fail_msg("%s", err.msg);
    return h;
}

/* Values arrive in parts whose range grows, so bins are joined on the way. */
static void test_statistics(void **state)
{
    (void)state;
    float x[N];
    double counts[10], below, above, all = 0;
    bw_error err;
    fill(x, 1, false, 1);
    for (int i = 0; i < N / 3; i++) x[i] *= 1e-3f;
    for (int i = 2 * N / 3; i < N; i++) x[i] *= 50;
    x[5] = 0;
    bwi_histogram h = histogram_of(x, N / 3);
    assert_true(h.range < 0.01);
    assert_int_equal(bwi_histogram_add(&h, x + N / 3, N - N / 3, &err), BW_OK);
    assert_true(h.range >= 128 && h.n == N && h.zeros == 1);
    double sum = 0, square = 0, min = INFINITY, max = -INFINITY;
    for (int i = 0; i < N; i++) {
        sum += (double)x[i];
        min = fmin(min, (double)x[i]);
        max = fmax(max, (double)x[i]);
    }
    for (int i = 0; i < N; i++) square += ((double)x[i] - sum / N) * ((double)x[i] - sum / N);
    assert_true(fabs(bwi_histogram_mean(&h) - sum / N) < 1e-9 && h.min == min && h.max == max);
    assert_true(fabs(bwi_histogram_std(&h) / sqrt(square / (N - 1)) - 1) < 1e-9);
    for (double p = 0.1; p < 1; p += 0.2) {
        const double q = bwi_histogram_quantile(&h, p);
        int less = 0, or_near = 0;
        for (int i = 0; i < N; i++) less += (double)x[i] < q - 0.05, or_near += (double)x[i] <= q + 0.05;
        assert_true(less <= p * N && or_near >= p * N);
    }
    bwi_histogram_coarse(&h, -20, 60, 10, counts, &below, &above);
    for (int i = 0; i < 10; i++) all += counts[i];
    assert_true(below > 0 && above > 0 && all > 0 && below + all + above == N - 1);
    x[7] = NAN;
    assert_int_equal(bwi_histogram_add(&h, x, N, &err), BW_NUMERIC);
    assert_true(h.n == N);
    bwi_histogram_destroy(&h);
}

/* What bwi_histogram_fit states, value by value. */
static void brute_force(const float *x, bwi_levels levels, double s, double cost[BWI_FITS])
{
    enum { MOST = 16 };
    double count[MOST] = {0}, min = INFINITY, max = -INFINITY, all = 0;
    const int apart = levels.sign ? 2 : 1;
    for (int i = 0; i < BWI_FITS; i++) cost[i] = 0;
    for (int i = 0; i < N; i++) {
        const double v = (double)x[i];
        double c = levels.sign ? (v >= 0 ? 1 : -1) : fmin(fmax(nearbyint(v / s), levels.lo), levels.hi);
        cost[BWI_FIT_MAE] += fabs(v - s * c) / N;
        cost[BWI_FIT_MSE] += (v - s * c) * (v - s * c) / N;
        min = fmin(min, v);
        max = fmax(max, v);
        if (levels.lo == 0 && v == 0) continue;
        count[((int)c - levels.lo) / apart]++;
        all++;
    }
    for (int c = levels.lo, i = 0; c <= levels.hi; c += apart, i++) {
        const double a = c == levels.lo ? min : fmax(min, (c - 0.5 * apart) * s),
                     b = c + apart > levels.hi ? max : fmin(max, (c + 0.5 * apart) * s);
        if (count[i] > 0) cost[BWI_FIT_KL] -= count[i] / all * log(count[i] / all / (b - a));
    }
}

/* The step that the histogram finds costs hardly more than the best of all, for each measure. */
static void test_fit_brute_force(void **state)
{
    (void)state;
    static const bwi_levels levels[] = {{-2, 1, false}, {0, 3, false}, {-8, 7, false}, {-1, 1, true}, {0, 1, false}};
    float x[N];
    bw_error err;
    for (size_t k = 0; k < sizeof levels / sizeof *levels; k++) {
        const double sd = pow(10, (double)k - 2), step = 0.4 * sd;
        double best[BWI_FITS], least[BWI_FITS], cost[BWI_FITS];
        fill(x, sd, levels[k].lo == 0, 2 + k);
        bwi_histogram h = histogram_of(x, N);
        assert_int_equal(bwi_histogram_fit(&h, levels[k], step, best, &err), BW_OK);
        for (int f = 0; f < BWI_FITS; f++) least[f] = INFINITY;
        for (int i = 1; i <= BWI_FIT_STEPS; i++) {
            brute_force(x, levels[k], i * 0.01 * step, cost);
            for (int f = 0; f < BWI_FITS; f++) least[f] = fmin(least[f], cost[f]);
        }
        for (int f = 0; f < BWI_FITS; f++) {
            assert_true(best[f] >= 0.01 && best[f] <= 20);
            if (levels[k].sign && f == BWI_FIT_KL) continue; /* the step of a sign moves no border: all cost the same */
            brute_force(x, levels[k], best[f] * step, cost);
            const double slack = f == BWI_FIT_KL ? 2e-3 : 1e-4 * least[f];
            if (!(cost[f] <= least[f] + slack))
                fail_msg("levels %zu, measure %d: %g at %g, least %g", k, f, cost[f], best[f], least[f]);
        }
        bwi_histogram_destroy(&h);
    }
}

/* Values spread evenly over [0, 1] on levels 0, s, 2 s, 3 s: the integrals of |x - xq| and its square are least at s = 2/7. Evenly over
 * [-1, 1] on -s and s: at 1/2. */
static void test_fit_known(void **state)
{
    (void)state;
    enum { EVEN = 40000 };
    static float x[EVEN];
    double best[BWI_FITS];
    bw_error err;
    for (int i = 0; i < EVEN; i++) x[i] = ((float)i + 0.5f) / EVEN;
    bwi_histogram h = histogram_of(x, EVEN);
    assert_int_equal(bwi_histogram_fit(&h, (bwi_levels){0, 3, false}, 0.2, best, &err), BW_OK);
    assert_true(fabs(best[BWI_FIT_MAE] * 0.2 - 2.0 / 7) < 0.0021 && fabs(best[BWI_FIT_MSE] * 0.2 - 2.0 / 7) < 0.0021);
    bwi_histogram_destroy(&h);
    for (int i = 0; i < EVEN; i++) x[i] = ((float)i + 0.5f) / (EVEN / 2) - 1;
    h = histogram_of(x, EVEN);
    assert_int_equal(bwi_histogram_fit(&h, (bwi_levels){-1, 1, true}, 0.1, best, &err), BW_OK);
    assert_true(fabs(best[BWI_FIT_MAE] - 5) < 0.011 && fabs(best[BWI_FIT_MSE] - 5) < 0.011);
    bwi_histogram_destroy(&h);
    memset(x, 0, sizeof x);
    h = histogram_of(x, EVEN); /* nothing but zeros: no step is better than another */
    assert_int_equal(bwi_histogram_fit(&h, (bwi_levels){0, 3, false}, 0.2, best, &err), BW_OK);
    assert_true(isnan(best[0]) && isnan(best[1]) && isnan(best[2]));
    bwi_histogram_destroy(&h);
}

/* ---- One tensor ---------------------------------------------------------------------------------------------------------- */

static void prepared(bwi_quant *q, const char *name, bwi_role role, int bits, double theta)
{
    bw_error err;
    if (bwi_quant_make(q, name, NULL, role, bits, false, &err)) fail_msg("%s", err.msg);
    q->theta[0] = theta;
    q->ready = true;
    if (bwi_quant_prepare(q, NULL, BWI_DT_F32, 0, &err)) fail_msg("%s", err.msg);
}

static void test_codes(void **state)
{
    (void)state;
    /* step 0.5, levels -1 to 0.5: clipped are -1.3 and 0.6; -1 and 0.5 are levels */
    const float x[] = {-1.3f, -1.0f, -0.8f, -0.6f, 0.1f, 0.2f, 0.5f, 0.6f};
    const double want[4] = {3, 1, 2, 2}, at[4] = {-1, -0.5, 0, 0.5};
    double level[BWI_CODES];
    const bwi_node layer = {.name = "layer"};
    bwi_quant q;
    bw_error err;
    prepared(&q, "lsq", BWI_WEIGHT, 2, 0.5);
    bwi_analyzed t = {.layer = &layer, .q = &q};
    assert_int_equal(bwi_histogram_create(&t.values, &err), BW_OK);
    assert_int_equal(bwi_analyzed_add(&t, x, 8, &err), BW_OK);
    assert_int_equal(t.n_codes, 4);
    bwi_analyzed_levels(&t, level);
    for (int i = 0; i < 4; i++) assert_true(t.code[i] == want[i] && fabs(level[i] - at[i]) < 1e-6);
    assert_true(t.clipped == 2);
    const float bad[] = {1, INFINITY};
    assert_int_equal(bwi_analyzed_add(&t, bad, 2, &err), BW_NUMERIC);
    assert_string_equal(err.msg, "layer layer, weights: some of the values are not finite");
    bwi_histogram_destroy(&t.values);
}

/* ||dL/dw|| / ||w|| = 1/5 and dL/ds = 3 at s = 0.5: R = 30 without a gradient scale. */
static void test_ratio(void **state)
{
    (void)state;
    float w[2] = {3, 4}, grad[2] = {0.6f, -0.8f};
    const bwi_param p = {.numel = 2, .dtype = BWI_DT_F32, .data = w, .grad = grad};
    for (int bits = 1; bits <= 4; bits += 3) {
        const double qp = bits == 1 ? 1 : 7;
        bwi_quant q;
        prepared(&q, "lsq", BWI_WEIGHT, bits, 0.5);
        q.features = 16;
        const double sums[BWI_QPARAMS + 1] = {-3 * 0.5}; /* finish divides by s and applies the scale of training */
        q.q->finish(&q, sums);
        bwi_analyzed t = {.q = &q};
        bwi_analyzed_add_ratio(&t, &p);
        bwi_analyzed_add_ratio(&t, &p);
        assert_true(fabs(t.ratio[0] / 2 - 30) < 1e-5);
        assert_true(fabs(t.ratio[1] / 2 - 30.0 / 4) < 1e-5);
        assert_true(fabs(t.ratio[2] / 2 - 30.0 / 4 / sqrt(qp)) < 1e-5);
    }
}

/* ---- Logs ---------------------------------------------------------------------------------------------------------------- */

static void test_log(void **state)
{
    (void)state;
    json_t *log;
    bw_error err;
    mkdir(in_root("log"), 0777);
    assert_int_equal(bwi_log_read(in_root("log"), false, &log, &err), BW_OK);
    assert_true(json_is_null(log));
    assert_int_equal(bwi_log_read(in_root("log"), true, &log, &err), BW_IO);
    assert_non_null(strstr(err.msg, "log/log.jsonl"));
    write_text(in_root("log/log.jsonl"), "nothing\n");
    assert_int_equal(bwi_log_read(in_root("log"), true, &log, &err), BW_FORMAT);
    assert_null(log);
    write_text(in_root("log/log.jsonl"),
               "{\"epoch\":1,\"quantizers\":[{\"layer\":\"a\",\"role\":\"weight\",\"params\":{\"step\":0.5}}]}\n"
               "{\"epoch\":2,\"quantizers\":[{\"layer\":\"a\",\"role\":\"weight\",\"params\":{\"step\":0.25},\"delta\":0.1},"
               "{\"layer\":\"a\",\"role\":\"activation\",\"params\":{\"lower\":0,\"upper\":null}}, 7]}\n"
               "{\"epoch\":3,\"quantizers\":[]}\n{\"epoch\":4,\"quant");
    assert_int_equal(bwi_log_read(in_root("log"), true, &log, &err), BW_OK);
    char *text = json_dumps(log, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(9));
    assert_string_equal(text, "{\"epochs\":[1,2,3],\"series\":["
                              "{\"key\":\"step\",\"layer\":\"a\",\"role\":\"weight\",\"values\":[0.5,0.25,null]},"
                              "{\"key\":\"delta\",\"layer\":\"a\",\"role\":\"weight\",\"values\":[null,0.1,null]},"
                              "{\"key\":\"lower\",\"layer\":\"a\",\"role\":\"activation\",\"values\":[null,0,null]}]}");
    free(text);
    json_decref(log);
}

/* ---- The whole ----------------------------------------------------------------------------------------------------------- */

static const char *train(const char *name, const char *const *more, size_t n)
{
    static const char *const small[] = {"data.limit=24", "train.batch=8", "train.eval_batch=12", "train.threads=1",
                                        "optim.lr=0.01"};
    enum { N_SMALL = sizeof small / sizeof *small };
    static char model[4][420];
    static int at;
    const char *all[N_SMALL + 8];
    bw_recipe *r;
    bw_train_result result;
    bw_error err;
    char folder[400];
    snprintf(folder, sizeof folder, "%s", in_root(name));
    memcpy(all, small, sizeof small);
    memcpy(all + N_SMALL, more, n * sizeof *more);
    if (bw_recipe_load(&r, NULL, all, N_SMALL + n, &err)) fail_msg("%s", err.msg);
    const bw_train_options o = {.out_dir = folder, .resume = true};
    if (bw_train(r, &o, &result, &err)) fail_msg("%s", err.msg);
    bw_recipe_destroy(&r);
    at = (at + 1) % 4;
    snprintf(model[at], sizeof model[at], "%s/model.safetensors", folder);
    return model[at];
}

static const char *lsq_model(void)
{
    static const char *const more[] = {"quant.weight=lsq",        "quant.activation=lsq",      "quant.weight_bits=2",
                                       "quant.activation_bits=2", "quant.policy=first-last-8", "train.epochs=2"};
    return train("lsq", more, sizeof more / sizeof *more);
}

static const bw_analyze_options few = {.batches = 2, .batch = 8, .threads = 1};

static json_t *analyze(const char *model, const bw_analyze_options *o)
{
    char *text;
    bw_error err;
    if (bw_analyze(model, o, true, &text, &err)) fail_msg("%s", err.msg);
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    bw_free(text);
    return json;
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void check_tensor(const json_t *t)
{
    const json_t *codes = json_object_get(t, "codes"), *histogram = json_object_get(t, "histogram"), *v;
    const int bits = (int)number(t, "bits");
    double share = 0, entropy = 0, count = number(histogram, "zeros") + number(histogram, "below") + number(histogram, "above");
    size_t i;
    assert_int_equal(json_array_size(json_object_get(codes, "share")), 1 << bits);
    json_array_foreach(json_object_get(codes, "share"), i, v)
    {
        const double p = json_number_value(v);
        share += p;
        entropy -= p > 0 ? p * log2(p) : 0;
    }
    json_array_foreach(json_object_get(histogram, "counts"), i, v) count += json_number_value(v);
    assert_true(fabs(share - 1) < 1e-6 && fabs(entropy - number(t, "entropy")) < 1e-6 && entropy <= bits);
    assert_true(count == number(t, "values") && number(t, "clipped") >= 0 && number(t, "clipped") < 1);
}

static void test_lsq(void **state)
{
    (void)state;
    const char *model = lsq_model();
    bwi_file before, after;
    bw_error err;
    assert_int_equal(bwi_file_open(&before, model, &err), BW_OK);
    uint8_t *bytes = malloc(before.size);
    assert_non_null(bytes);
    memcpy(bytes, before.data, before.size);
    json_t *a = analyze(model, &few), *b = analyze(model, &few), *t;
    assert_int_equal(bwi_file_open(&after, model, &err), BW_OK);
    assert_true(after.size == before.size && !memcmp(after.data, bytes, after.size));
    assert_true(json_equal(a, b));
    size_t i;
    assert_int_equal(json_array_size(json_object_get(a, "tensors")), 40);
    assert_int_equal(json_array_size(json_object_get(a, "means")), 6); /* 2 bits, 8 bits and all, of both roles */
    json_array_foreach(json_object_get(a, "tensors"), i, t)
    {
        const bool weight = !strcmp(json_string_value(json_object_get(t, "role")), "weight");
        const json_t *ratio = json_object_get(t, "ratio"), *far = json_object_get(t, "distance");
        check_tensor(t);
        assert_true(json_is_object(ratio) == weight);
        if (i == 1) assert_true(number(t, "values") == 2 * 8 * 32 * 32 * 3 && number(t, "min") < 0); /* the images */
        if (i > 1 && !weight) assert_true(number(t, "min") >= 0 && number(t, "max") > 0);            /* behind a ReLU */
        assert_true(number(far, "mae") >= 0 && number(far, "mse") <= 1900 && number(far, "kl") <= 1900);
        if (!weight) continue;
        assert_true(number(ratio, "1") > number(ratio, "1/sqrt(N)") &&
                    number(ratio, "1/sqrt(N)") >= number(ratio, "1/sqrt(N*Qp)"));
        const double level = json_number_value(json_array_get(json_object_get(json_object_get(t, "codes"), "level"), 0)),
                     code = json_number_value(json_array_get(json_object_get(json_object_get(t, "codes"), "code"), 0));
        if ((int)number(t, "bits") == 2) /* the map's inverse is the step size */
            assert_true(fabs(level - code * number(json_object_get(t, "params"), "step")) < 1e-6 * fabs(level));
    }
    assert_int_equal(json_array_size(json_object_get(json_object_get(a, "history"), "epochs")), 2);
    assert_true(json_array_size(json_object_get(json_object_get(a, "history"), "series")) >= 40);
    json_decref(a);
    json_decref(b);
    bwi_file_close(&before);
    bwi_file_close(&after);
    free(bytes);
}

/* Quantizers without step sizes: no R, no distances; and 1-bit codes. */
static void test_others(void **state)
{
    (void)state;
    static const char *const ewgs[] = {"quant.weight=interval", "quant.activation=interval", "quant.weight_bits=1",
                                       "quant.activation_bits=2", "quant.policy=inner"},
                             *const dorefa[] = {"quant.weight=dorefa", "quant.activation=pact", "quant.weight_bits=2",
                                                "quant.activation_bits=4", "quant.policy=inner"},
                             *const bwn[] = {"quant.weight=bwn", "quant.weight_bits=1", "quant.policy=inner"};
    const char *models[] = {train("ewgs", ewgs, 5), train("dorefa", dorefa, 5), train("bwn", bwn, 3)};
    for (size_t k = 0; k < 3; k++) {
        json_t *a = analyze(models[k], &few), *t;
        size_t i;
        assert_int_equal(json_array_size(json_object_get(a, "means")), 0);
        json_array_foreach(json_object_get(a, "tensors"), i, t)
        {
            check_tensor(t);
            assert_true(json_is_null(json_object_get(t, "ratio")) && json_is_null(json_object_get(t, "distance")));
        }
        json_decref(a);
        char *text;
        bw_error err;
        assert_int_equal(bw_analyze(models[k], &few, false, &text, &err), BW_OK);
        assert_non_null(strstr(text, "layer3.2.conv2"));
        bw_free(text);
    }
}

/* ---- Pictures ------------------------------------------------------------------------------------------------------------ */

static bool starts(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

/* Enough of XML to see that every element is closed in its order, every attribute quoted, and every & an entity. Returns the number of
 * elements named `name`. */
static int well_formed(const char *svg, const char *name)
{
    const char *open[16];
    size_t depth = 0, length;
    int found = 0;
    assert_true(starts(svg, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg "));
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
    for (const char *p = strstr(svg, "<svg"); *p; p++) {
        if (*p == '&') assert_true(starts(p, "&amp;") || starts(p, "&lt;") || starts(p, "&gt;") || starts(p, "&quot;"));
        assert_true((unsigned char)*p >= 0x20 || *p == '\n');
        if (*p != '<') continue;
        const char *end = p + 1;
        for (bool quoted = false; *end && (quoted || *end != '>'); end++) {
            assert_true(*end != '<');
            if (*end == '"') quoted = !quoted;
        }
        assert_true(*end == '>');
        length = strcspn(p + 1 + (p[1] == '/'), " />");
        if (p[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_true(!strncmp(open[depth], p + 2, length) && strcspn(open[depth], " />") == length);
        } else {
            found += length == strlen(name) && !strncmp(p + 1, name, length);
            assert_true(depth < 16);
            if (end[-1] != '/') open[depth++] = p + 1;
        }
        p = end;
    }
    assert_int_equal(depth, 0);
    assert_string_equal(svg + strlen(svg) - 7, "</svg>\n");
    return found;
}

static void test_pictures(void **state)
{
    (void)state;
    json_t *a = analyze(lsq_model(), &few);
    static const char *const names[] = {"weights.svg", "activations.svg", "ratio.svg", "history-step.svg"};
    char name[BWI_PICTURE_NAME], *svg;
    for (int i = 0; i < 4; i++) {
        assert_true(bwi_analysis_picture(a, i, name, &svg));
        assert_string_equal(name, names[i]);
        assert_non_null(svg);
        assert_true(well_formed(svg, "rect") > 20);
        assert_non_null(strstr(svg, "fill=\"#ffffff\""));
        assert_non_null(strstr(svg, ">layer3.2.conv2<"));
        if (i == 3)
            assert_int_equal(well_formed(svg, "circle"), 40 * 3); /* the point that two pieces of a line share comes twice */
        bwi_free(svg);
    }
    assert_false(bwi_analysis_picture(a, 4, name, &svg));
    assert_null(svg);
    json_decref(a);
}

/* What may stand in a log that somebody wrote, and in names: markup, a path, values that are missing, below 0, or all the same. */
static void test_odd_pictures(void **state)
{
    (void)state;
    static const char text[] = "{\"tensors\": [{\"layer\": \"a<b>&\\\"c\\u0007\", \"role\": \"weight\", \"quantizer\": "
                               "\"lsq\", \"bits\": 2, \"values\": 4,"
                               " \"clipped\": 0, \"entropy\": 0, \"codes\": {\"level\": [null, 1, 1.01], \"share\": [0, 1, 0]},"
                               " \"histogram\": {\"zeros\": 4, \"from\": 0, \"to\": 2, \"counts\": [0, 0]}, \"ratio\": {\"1\": "
                               "1e9, \"1/sqrt(N)\": 0}}],"
                               " \"history\": {\"epochs\": [1], \"series\": ["
                               "{\"layer\": \"<\", \"role\": \"weight\", \"key\": \"../x\", \"values\": [1]},"
                               "{\"layer\": \"<\", \"role\": \"weight\", \"key\": \"delta\", \"values\": [null]},"
                               "{\"layer\": \"<\", \"role\": \"activation\", \"key\": \"lower\", \"values\": [-3]}]}}";
    static const char *const names[] = {"weights.svg", "ratio.svg", "history-delta.svg", "history-lower.svg"};
    json_t *a = json_loads(text, 0, NULL);
    char name[BWI_PICTURE_NAME], *svg;
    assert_non_null(a);
    for (int i = 0; i < 4; i++) {
        assert_true(bwi_analysis_picture(a, i, name, &svg));
        assert_string_equal(name, names[i]);
        well_formed(svg, "text");
        if (i < 2) assert_non_null(strstr(svg, ">a&lt;b&gt;&amp;&quot;c<"));
        bwi_free(svg);
    }
    assert_false(bwi_analysis_picture(a, 4, name, &svg));
    bwi_alloc_fail_at(0, 1);
    assert_true(bwi_analysis_picture(a, 0, name, &svg));
    bwi_alloc_fail_at(-1, 0);
    assert_null(svg);
    json_decref(a);
}

static void test_refused(void **state)
{
    (void)state;
    char *text;
    bw_error err;
    static const char *const none[] = {"quant.weight=none"};
    const char *model = lsq_model(), *plain = train("float", none, 1);
    bw_analyze_options o = few;
    assert_int_equal(bw_analyze(plain, &o, true, &text, &err), BW_UNSUPPORTED);
    assert_null(text);
    assert_non_null(strstr(err.msg, "float/model.safetensors: the network has no quantized layers"));
    assert_int_equal(bw_analyze("/nonexistent", &o, true, &text, &err), BW_IO);
    assert_int_equal(bw_analyze("tests/golden/resnet20.safetensors", &o, true, &text, &err), BW_FORMAT);
    assert_non_null(strstr(err.msg, "import it first"));
    o.normalize = "cfar";
    assert_int_equal(bw_analyze(model, &o, true, &text, &err), BW_ARG);
    o.normalize = NULL;
    o.run = in_root("nowhere");
    assert_int_equal(bw_analyze(model, &o, true, &text, &err), BW_IO);
    assert_non_null(strstr(err.msg, "nowhere/log.jsonl"));
    o.run = NULL;
    o.batches = -1;
    assert_int_equal(bw_analyze(model, &o, true, &text, &err), BW_ARG);
    o.batches = 1;
    o.batch = -1;
    assert_int_equal(bw_analyze(model, &o, true, &text, &err), BW_ARG);
    o.batch = 1;
    write_text(in_root("file"), "");
    o.out = in_root("file/out");
    assert_int_equal(bw_analyze(model, &o, true, &text, &err), BW_IO);
    assert_non_null(strstr(err.msg, "file/out"));
}

static void test_no_memory(void **state)
{
    (void)state;
    const char *model = lsq_model();
    const int64_t live = bwi_alloc_live_blocks();
    char *text, out[400];
    bw_error err;
    int failed = 0;
    snprintf(out, sizeof out, "%s", in_root("nomem"));
    const bw_analyze_options o = {.batches = 1, .batch = 2, .threads = 1, .out = out};
    for (int64_t n = 0;; n += n / 4 + 9) {
        bwi_alloc_fail_at(n, n & 1);
        const bw_status st = bw_analyze(model, &o, n & 2, &text, &err);
        bwi_alloc_fail_at(-1, 0);
        if (st == BW_OK) break;
        if (st != BW_NOMEM) fail_msg("allocation %lld: %s", (long long)n, err.msg);
        assert_null(text);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        failed++;
    }
    bw_free(text);
    assert_true(failed >= 10);
    assert_int_equal(bwi_alloc_live_blocks(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics), cmocka_unit_test(test_fit_brute_force), cmocka_unit_test(test_fit_known),
        cmocka_unit_test(test_codes),      cmocka_unit_test(test_ratio),           cmocka_unit_test(test_log),
        cmocka_unit_test(test_lsq),        cmocka_unit_test(test_others),          cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory),  cmocka_unit_test(test_pictures),        cmocka_unit_test(test_odd_pictures),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
