/* An analysis as JSON, and as a table made from it. */
#include "train/analyze.h"
#include <math.h>
#include <string.h>

static const char *const fits[BWI_FITS] = {"mae", "mse", "kl"};
static const char *const scales[BWI_RATIOS] = {"1", "1/sqrt(N)", "1/sqrt(N*Qp)"};

/* ---- JSON ---------------------------------------------------------------------------------------------------------------- */

static const char *role_of(const bwi_quant *q)
{
    return q->role == BWI_WEIGHT ? "weight" : "activation";
}

/* Each value by `divide`; NaN becomes null. */
static json_t *numbers(const double *x, int n, double divide)
{
    json_t *list = json_array();
    for (int i = 0; list && i < n; i++)
        if (json_array_append_new(list, bwi_json_number(x[i] / divide))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static double entropy(const bwi_analyzed *t)
{
    double bits = 0;
    for (int i = 0; i < t->n_codes; i++) {
        const double p = t->code[i] / t->values.n;
        if (p > 0) bits -= p * log2(p);
    }
    return bits;
}

/* Codes as integers that a layer multiplies, each with its share of the values and the x of its level. */
static json_t *codes(const bwi_analyzed *t)
{
    double level[BWI_CODES], code[BWI_CODES];
    const bwi_qk *k = &t->q->k;
    bwi_analyzed_levels(t, level);
    for (int i = 0; i < t->n_codes; i++) code[i] = k->mul * (k->lo + i * (k->mode & BWI_QMODE_SIGN ? 2 : 1)) + k->add;
    return json_pack("{s:o, s:o, s:o}", "code", numbers(code, t->n_codes, 1), "share",
                     numbers(t->code, t->n_codes, t->values.n), "level", numbers(level, t->n_codes, 1));
}

/* The middle 99.8 % of the values but 0, and with few levels these too. */
static json_t *histogram(const bwi_analyzed *t)
{
    double counts[BWI_DISPLAY], level[BWI_CODES], below, above;
    double from = bwi_histogram_quantile(&t->values, 0.001), to = bwi_histogram_quantile(&t->values, 0.999);
    bwi_analyzed_levels(t, level);
    for (int i = 0; t->n_codes <= 16 && i < t->n_codes; i++) from = fmin(from, level[i]), to = fmax(to, level[i]);
    if (t->values.min >= 0) from = 0;
    if (!(to > from)) to = from + 1;
    bwi_histogram_coarse(&t->values, from, to, BWI_DISPLAY, counts, &below, &above);
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:o}", "from", from, "to", to, "zeros", t->values.zeros, "below", below,
                     "above", above, "counts", numbers(counts, BWI_DISPLAY, 1));
}

static json_t *named(const char *const *name, const double *x, int n, double divide, double times)
{
    json_t *object = json_object();
    for (int i = 0; object && i < n; i++)
        if (json_object_set_new(object, name[i], bwi_json_number(times * (x[i] / divide)))) {
            json_decref(object);
            return NULL;
        }
    return object;
}

/* 100 * |s - s_min| / s, of s_min as a multiple of s. */
static double distance(double best)
{
    return 100 * fabs(1 - best);
}

static json_t *tensor(const bwi_analyzed *t, int train_batches)
{
    const bwi_quant *q = t->q;
    const bool lsq = bwi_is_lsq(q), ratios = lsq && q->role == BWI_WEIGHT && train_batches > 0;
    double far[BWI_FITS];
    for (int i = 0; i < BWI_FITS; i++) far[i] = distance(t->best[i]);
    json_t *params = json_object();
    for (int i = 0; params && i < bwi_quant_n_params(q); i++)
        if (json_object_set_new(params, q->q->param[i], bwi_json_number(q->theta[i]))) {
            json_decref(params);
            return NULL;
        }
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:o, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "layer",
                     t->layer->name, "role", role_of(q), "quantizer", q->q->name, "gradient", q->g->name, "bits", q->bits,
                     "params", params, "values", t->values.n, "mean", bwi_json_number(bwi_histogram_mean(&t->values)), "std",
                     bwi_json_number(bwi_histogram_std(&t->values)), "min", bwi_json_number(t->values.min), "max",
                     bwi_json_number(t->values.max), "clipped", bwi_json_number(t->clipped / t->values.n), "entropy",
                     bwi_json_number(entropy(t)), "codes", codes(t), "histogram", histogram(t), "ratio",
                     ratios ? named(scales, t->ratio, BWI_RATIOS, train_batches, 1) : json_null(), "distance",
                     lsq ? named(fits, far, BWI_FITS, 1, 1) : json_null());
}

/* Mean distances of a role, over the tensors of one bit-width or of all (bits 0); NULL and *n 0 when there are none. */
static json_t *mean_distance(const bwi_analysis *a, bwi_role role, int bits, int *n)
{
    double sum[BWI_FITS] = {0};
    *n = 0;
    for (int i = 0; i < a->n; i++) {
        const bwi_analyzed *t = &a->tensor[i];
        if (!bwi_is_lsq(t->q) || t->q->role != role || (bits && t->q->bits != bits) || isnan(t->best[0])) continue;
        for (int f = 0; f < BWI_FITS; f++) sum[f] += distance(t->best[f]);
        ++*n;
    }
    if (!*n) return NULL;
    return json_pack("{s:s, s:o, s:i, s:o}", "role", role == BWI_WEIGHT ? "weight" : "activation", "bits",
                     bits ? json_integer(bits) : json_null(), "tensors", *n, "distance", named(fits, sum, BWI_FITS, *n, 1));
}

/* A mean for each bit-width of each role, and where there are several one for all. */
static json_t *means(const bwi_analysis *a)
{
    json_t *list = json_array();
    for (int role = BWI_WEIGHT; list && role <= BWI_ACTIVATION; role++) {
        int all, some = 0, n;
        json_t *whole = mean_distance(a, (bwi_role)role, 0, &all);
        for (int bits = 1; bits <= 8 && list; bits++) {
            json_t *mean = mean_distance(a, (bwi_role)role, bits, &n);
            if (!n) continue;
            some = n;
            if (json_array_append_new(list, mean)) {
                json_decref(list);
                list = NULL;
            }
        }
        if (list && all && some != all && json_array_append(list, whole)) {
            json_decref(list);
            list = NULL;
        }
        json_decref(whole);
    }
    return list;
}

json_t *bwi_analysis_json(const bwi_analysis *a, json_t *history)
{
    json_t *tensors = json_array();
    for (int i = 0; tensors && i < a->n; i++)
        if (json_array_append_new(tensors, tensor(&a->tensor[i], a->train_batches))) {
            json_decref(tensors);
            tensors = NULL;
        }
    return json_pack("{s:s, s:i, s:i, s:o, s:o, s:o}", "network", a->graph->family, "test_batches", a->test_batches,
                     "train_batches", a->train_batches, "tensors", tensors, "means", means(a), "history", history);
}

/* ---- Table --------------------------------------------------------------------------------------------------------------- */

/* A cell: the number with printf's format, or a dash. */
static void cell(bwi_text *t, int width, const char *format, const json_t *number)
{
    char s[32] = "-";
    if (json_is_number(number)) snprintf(s, sizeof s, strcmp(format, "e") ? "%.1f" : "%.2e", json_number_value(number));
    bwi_text_add(t, " %*s", width, s);
}

static void distance_cells(bwi_text *t, const json_t *object)
{
    const json_t *d = json_object_get(object, "distance");
    for (int i = 0; i < BWI_FITS; i++) cell(t, 6, "f", json_object_get(d, fits[i]));
}

/* The last delta of a tensor in the log, or NULL. */
static const json_t *last_delta(const json_t *analysis, const json_t *tensor)
{
    json_t *s;
    size_t i;
    json_array_foreach(json_object_get(json_object_get(analysis, "history"), "series"), i, s)
    {
        const json_t *values = json_object_get(s, "values");
        if (!strcmp(bwi_json_text(s, "key"), "delta") && !strcmp(bwi_json_text(s, "layer"), bwi_json_text(tensor, "layer")) &&
            !strcmp(bwi_json_text(s, "role"), bwi_json_text(tensor, "role")))
            return json_array_get(values, json_array_size(values) - 1);
    }
    return NULL;
}

static void tensor_row(bwi_text *t, const json_t *analysis, const json_t *x)
{
    const json_t *param = json_object_iter_value(json_object_iter((json_t *)(uintptr_t)json_object_get(x, "params")));
    const json_t *ratio = json_object_get(x, "ratio");
    char quantizer[48];
    snprintf(quantizer, sizeof quantizer, "%d bit %s", (int)json_integer_value(json_object_get(x, "bits")),
             bwi_json_text(x, "quantizer"));
    bwi_text_add(t, "%-24s %-10s %-14s", bwi_json_text(x, "layer"), bwi_json_text(x, "role"), quantizer);
    cell(t, 9, "e", param);
    bwi_text_add(t, " %7.2f %7.3f", 100 * json_number_value(json_object_get(x, "clipped")),
                 json_number_value(json_object_get(x, "entropy")));
    for (int i = 0; i < BWI_RATIOS; i++) cell(t, 9, "e", json_object_get(ratio, scales[i]));
    distance_cells(t, x);
    cell(t, 9, "e", last_delta(analysis, x));
    bwi_text_add(t, "\n");
}

void bwi_analysis_text(const json_t *analysis, bwi_text *t)
{
    const json_t *x;
    size_t i;
    bwi_text_add(t, "%s: %s, %d test and %d training batches\n", bwi_json_text(analysis, "file"),
                 bwi_json_text(analysis, "network"), (int)json_integer_value(json_object_get(analysis, "test_batches")),
                 (int)json_integer_value(json_object_get(analysis, "train_batches")));
    bwi_text_add(t, "%-24s %-10s %-14s %9s %7s %7s %29s %20s %9s\n", "", "", "", "first", "clipped", "entropy",
                 "R with gradient scale", "|s - s_min| / s, %", "");
    bwi_text_add(t, "%-24s %-10s %-14s %9s %7s %7s %9s %9s %9s %6s %6s %6s %9s\n", "layer", "role", "quantizer", "parameter",
                 "%", "bits", "1", "1/rtN", "1/rtNQp", "MAE", "MSE", "KL", "delta");
    json_array_foreach(json_object_get(analysis, "tensors"), i, x)
    {
        tensor_row(t, analysis, x);
    }
    json_array_foreach(json_object_get(analysis, "means"), i, x)
    {
        char what[64], bits[16] = "all";
        if (json_is_integer(json_object_get(x, "bits")))
            snprintf(bits, sizeof bits, "%d bit", (int)json_integer_value(json_object_get(x, "bits")));
        snprintf(what, sizeof what, "mean of %d", (int)json_integer_value(json_object_get(x, "tensors")));
        bwi_text_add(t, "%-24s %-10s %-55s %9s %9s", what, bwi_json_text(x, "role"), bits, "", "");
        distance_cells(t, x);
        bwi_text_add(t, "\n");
    }
}
