/* Quantized tensors: rows, parsing, statistics, and whole-tensor passes made of the quantizers' loops. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/inline.h"
#include "base/par.h"
#include "quant/quant.h"

/* ---- Rows ---------------------------------------------------------------------------------------------------------------- */
#define COUNT(a) (sizeof(a) / sizeof *(a))

#define ROW(name) extern const bwi_quantizer bwi_quantizer_##name;
#include "quant/quantizers.def"
#undef ROW
#define ROW(name) extern const bwi_gradient bwi_gradient_##name;
#include "quant/gradients.def"
#undef ROW

static const bwi_quantizer *const quantizers[] = {
#define ROW(name) &bwi_quantizer_##name,
#include "quant/quantizers.def"
#undef ROW
};
static const bwi_gradient *const gradients[] = {
#define ROW(name) &bwi_gradient_##name,
#include "quant/gradients.def"
#undef ROW
};

const bwi_quantizer *bwi_quantizer_at(size_t i)
{
    return i < COUNT(quantizers) ? quantizers[i] : NULL;
}
const bwi_gradient *bwi_gradient_at(size_t i)
{
    return i < COUNT(gradients) ? gradients[i] : NULL;
}

const bwi_quantizer *bwi_quantizer_find(const char *name)
{
    for (size_t i = 0; i < COUNT(quantizers); i++)
        if (!strcmp(quantizers[i]->name, name)) return quantizers[i];
    return NULL;
}

const bwi_gradient *bwi_gradient_find(const char *name)
{
    for (size_t i = 0; i < COUNT(gradients); i++)
        if (!strcmp(gradients[i]->name, name)) return gradients[i];
    return NULL;
}

/* ---- Parsing --------------------------------------------------------------------------------------------------------------- */
#define NAME_SIZE 48

/* Splits "name:rest": the name, shortened to what fits, and what follows the colon (NULL: no colon). */
static const char *split_name(const char *text, char name[NAME_SIZE])
{
    size_t len = strcspn(text, ":");
    snprintf(name, NAME_SIZE, "%.*s", (int)(len < NAME_SIZE ? len : NAME_SIZE), text);
    return text[len] ? text + len + 1 : NULL;
}

bw_status bwi_fail_unknown(bw_error *err, const char *what, const char *word, const char *const *names, size_t n)
{
    char known[512] = "";
    for (size_t i = 0, at = 0; i < n && at < sizeof known; i++)
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", names[i]);
    const char *near = bwi_nearest(word, names, n);
    if (near) return bwi_fail(err, BW_ARG, "unknown %s '%s': did you mean '%s'? Known: %s", what, word, near, known);
    return bwi_fail(err, BW_ARG, "unknown %s '%s'; known: %s", what, word, known);
}

/* One "key=value" of length len. */
static bw_status parse_option(const char *method, const bwi_option *option, const char *text, size_t len, double *opt,
                              bool *given, bw_error *err)
{
    char word[NAME_SIZE], what[NAME_SIZE + 16], *end;
    const char *names[BWI_OPTIONS], *eq = memchr(text, '=', len);
    size_t n = 0, at = 0;
    for (; n < BWI_OPTIONS && option[n].key; n++) names[n] = option[n].key;
    if (!n) return bwi_fail(err, BW_ARG, "'%s' takes no options, found '%.*s'", method, (int)len, text);
    if (!eq) return bwi_fail(err, BW_ARG, "options of '%s' are written key=value, found '%.*s'", method, (int)len, text);
    snprintf(word, sizeof word, "%.*s", (int)(eq - text), text);
    while (at < n && strcmp(names[at], word)) at++;
    snprintf(what, sizeof what, "option of '%s'", method);
    if (at == n) return bwi_fail_unknown(err, what, word, names, n);
    if (given[at]) return bwi_fail(err, BW_ARG, "option '%s' of '%s' is given twice", word, method);
    given[at] = true;

    const bwi_option *o = &option[at];
    const char *value = eq + 1;
    double v = strtod(value, &end);
    bool number = (size_t)(end - text) == len && end != value && strspn(value, " \t\n\v\f\r") == 0;
    if (!number || !(v >= o->min && v <= o->max) || (o->integer && v != floor(v)))
        return bwi_fail(err, BW_ARG, "option '%s' of '%s' is '%.*s': expected %s from %g to %g", word, method,
                        (int)(text + len - value), value, o->integer ? "a whole number" : "a number", o->min, o->max);
    opt[at] = v;
    return BW_OK;
}

bw_status bwi_options_parse(const char *method, const bwi_option *option, const char *text, double *opt, bw_error *err)
{
    bool given[BWI_OPTIONS] = {false};
    for (size_t i = 0; i < BWI_OPTIONS; i++) opt[i] = option[i].key ? option[i].def : 0;
    while (text) {
        size_t len = strcspn(text, ",");
        bw_status st = parse_option(method, option, text, len, opt, given, err);
        if (st != BW_OK) return st;
        text = text[len] ? text + len + 1 : NULL;
    }
    return BW_OK;
}

static bw_status check_role(const bwi_quantizer *q, const bwi_gradient *g, bwi_role role, int bits, bool is_signed,
                            bw_error *err)
{
    const int *range = role == BWI_WEIGHT ? q->weight_bits : q->activation_bits;
    const char *of = role == BWI_WEIGHT ? "weights" : "activations";
    if (!range[1])
        return bwi_fail(err, BW_UNSUPPORTED, "%s does not quantize %s, only %s", q->name, of,
                        role == BWI_WEIGHT ? "activations" : "weights");
    if (bits < range[0] || bits > range[1]) {
        if (range[0] == range[1])
            return bwi_fail(err, BW_UNSUPPORTED, "bits %d: %s supports only %d for %s", bits, q->name, range[0], of);
        return bwi_fail(err, BW_UNSUPPORTED, "bits %d: %s supports %d to %d for %s", bits, q->name, range[0], range[1], of);
    }
    if (role == BWI_ACTIVATION && is_signed && !q->signed_activations)
        return bwi_fail(
            err, BW_UNSUPPORTED,
            "%s cannot quantize the network's input, which has values below 0; keep the first layer in float or use "
            "another quantizer for activations",
            q->name);
    if (role == BWI_WEIGHT ? !g->weights : !g->activations)
        return bwi_fail(err, BW_UNSUPPORTED, "the gradient method %s is not for %s, only for %s", g->name, of,
                        role == BWI_WEIGHT ? "activations" : "weights");
    return BW_OK;
}

bw_status bwi_quant_make(bwi_quant *q, const char *quantizer, const char *gradient, bwi_role role, int bits, bool is_signed,
                         bw_error *err)
{
    const char *quantizer_names[COUNT(quantizers)], *gradient_names[COUNT(gradients)];
    for (size_t i = 0; i < COUNT(quantizers); i++) quantizer_names[i] = quantizers[i]->name;
    for (size_t i = 0; i < COUNT(gradients); i++) gradient_names[i] = gradients[i]->name;
    char name[NAME_SIZE];
    bw_status st;
    bwi_quant made = {.role = role, .bits = bits, .is_signed = role == BWI_ACTIVATION && is_signed};
    memset(q, 0, sizeof *q);

    const char *options = split_name(quantizer, name);
    made.q = bwi_quantizer_find(name);
    if (!made.q) return bwi_fail_unknown(err, "quantizer", name, quantizer_names, COUNT(quantizer_names));
    BWI_TRY(bwi_options_parse(made.q->name, made.q->option, options, made.opt, err));

    options = split_name(gradient ? gradient : "ste", name);
    made.g = bwi_gradient_find(name);
    if (!made.g) return bwi_fail_unknown(err, "gradient method", name, gradient_names, COUNT(gradient_names));
    BWI_TRY(bwi_options_parse(made.g->name, made.g->option, options, made.gopt, err));

    BWI_TRY(check_role(made.q, made.g, role, bits, made.is_signed, err));
    if (made.g->delta >= 0) made.delta = made.gopt[made.g->delta];
    *q = made;
    return BW_OK;
fail:
    return st;
}

/* ---- Statistics ------------------------------------------------------------------------------------------------------------ */
typedef struct stats_part {
    double sum, sum_abs, sum_sq /* of x - pivot */, min, max;
} stats_part;

static void stats_add(stats_part *p, const stats_part *o)
{
    p->sum += o->sum;
    p->sum_abs += o->sum_abs;
    p->sum_sq += o->sum_sq;
    p->min = o->min < p->min ? o->min : p->min;
    p->max = o->max > p->max ? o->max : p->max;
}

/* Sums over x[from..to). Squares are of x - pivot, with a pivot of the tensor's own size, so that a mean far from 0 costs no digits. */
BWI_INLINE stats_part stats_of(const float *f, const double *d, bool is_double, double pivot, size_t from, size_t to)
{
    double sum = 0, sum_abs = 0, sum_sq = 0, min = INFINITY, max = -INFINITY;
#pragma omp simd reduction(+ : sum, sum_abs, sum_sq) reduction(min : min) reduction(max : max)
    for (size_t i = from; i < to; i++) {
        double v = is_double ? d[i] : (double)f[i], c = v - pivot;
        sum += c;
        sum_sq += c * c;
        sum_abs += fabs(v);
        min = v < min ? v : min;
        max = v > max ? v : max;
    }
    return (stats_part){sum, sum_abs, sum_sq, min, max};
}
static stats_part stats_f32(const float *x, double pivot, size_t from, size_t to)
{
    return stats_of(x, NULL, false, pivot, from, to);
}
static stats_part stats_f64(const double *x, double pivot, size_t from, size_t to)
{
    return stats_of(NULL, x, true, pivot, from, to);
}

void bwi_qstats_of(const void *x, bwi_dtype dtype, size_t n, bwi_qstats *out)
{
    const bool is_double = dtype == BWI_DT_F64;
    const double pivot = !n ? 0 : is_double ? *(const double *)x : (double)*(const float *)x;
    stats_part part[BWI_CHUNKS], all = {0, 0, 0, INFINITY, -INFINITY};
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t from = bwi_chunk(n, BWI_QBLOCK, (size_t)i), to = bwi_chunk(n, BWI_QBLOCK, (size_t)i + 1);
        part[i] = is_double ? stats_f64(x, pivot, from, to) : stats_f32(x, pivot, from, to);
    }
    for (int i = 0; i < BWI_CHUNKS; i++) stats_add(&all, &part[i]);
    const double count = (double)n, mean = all.sum / count, var = (all.sum_sq - all.sum * mean) / (count - 1);
    *out = (bwi_qstats){.n = count,
                        .mean = pivot + mean,
                        .mean_abs = all.sum_abs / count,
                        .std = n < 2 ? 0 : sqrt(fmax(var, 0)),
                        .min = all.min,
                        .max = all.max,
                        .max_abs = fmax(-all.min, all.max)};
    if (!isfinite(all.sum_abs) || !isfinite(all.sum_sq) || !n) /* the extremes alone would not show a NaN */
        *out = (bwi_qstats){count, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
}

/* mean |x| of the values above `bound`, in chunks whose number is fixed. */
static double mean_above(const void *x, bwi_dtype dtype, size_t n, double bound)
{
    double part[BWI_CHUNKS], count[BWI_CHUNKS], sum = 0, all = 0;
    BWI_PARALLEL_CHUNKS(i)
    {
        part[i] = count[i] = 0;
        for (size_t k = bwi_chunk(n, BWI_QBLOCK, (size_t)i); k < bwi_chunk(n, BWI_QBLOCK, (size_t)i + 1); k++) {
            const double v = fabs(bwi_real_get(dtype, x, k));
            part[i] += v > bound ? v : 0;
            count[i] += v > bound;
        }
    }
    for (int i = 0; i < BWI_CHUNKS; i++) sum += part[i], all += count[i];
    return all > 0 ? sum / all : 0;
}

/* ---- Whole tensors --------------------------------------------------------------------------------------------------------- */
bw_status bwi_quant_prepare(bwi_quant *q, const void *x, bwi_dtype dtype, size_t n, bw_error *err)
{
    const bool each_time = q->q->needs_stats && q->role == BWI_WEIGHT;
    bwi_qstats stats;
    if (each_time || (!q->ready && q->q->init)) {
        bwi_qstats_of(x, dtype, n, &stats);
        if (q->q->large > 0) stats.mean_large = mean_above(x, dtype, n, q->q->large * stats.mean_abs);
    }
    if (!q->ready && q->q->init) {
        q->q->init(q, &stats);
        memcpy(q->theta0, q->theta, sizeof q->theta0);
    }
    q->ready = true;
    bw_status st = q->q->prepare(q, each_time ? &stats : NULL, err);
    q->k.delta = q->delta * q->k.unit;
    return st;
}

static const char *at(const void *p, bwi_dtype type, size_t i)
{
    return (const char *)p + i * bwi_dtype_size(type);
}

void bwi_quant_codes(const bwi_quant *q, const void *x, bwi_dtype dtype, size_t n, bwi_dtype type, void *codes)
{
    const bwi_qloops *loops = q->q->loops[bwi_variant_for(dtype)];
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t from = bwi_chunk(n, BWI_QBLOCK, (size_t)i), to = bwi_chunk(n, BWI_QBLOCK, (size_t)i + 1);
        if (from < to) loops->codes(&q->k, at(x, dtype, from), to - from, type, (char *)codes + from * bwi_dtype_size(type));
    }
}

void bwi_quant_backward_end(bwi_quant *q, const double *sums, size_t n)
{
    if (q->q->finish) q->q->finish(q, sums);
    q->clipped += sums[BWI_QPARAMS];
    q->seen += (double)n;
}

void bwi_quant_backward(bwi_quant *q, const void *x, bwi_dtype dtype, const void *gcode, double gscale, size_t n, void *gx)
{
    const bwi_qloops *loops = q->q->loops[bwi_variant_for(dtype)];
    double part[BWI_CHUNKS][BWI_QPARAMS + 1], sums[BWI_QPARAMS + 1] = {0};
    BWI_PARALLEL_CHUNKS(i)
    {
        double mine[BWI_QPARAMS + 1] = {0};
        size_t from = bwi_chunk(n, BWI_QBLOCK, (size_t)i), to = bwi_chunk(n, BWI_QBLOCK, (size_t)i + 1);
        for (size_t b = from; b < to; b += BWI_QBLOCK)
            loops->backward(&q->k, at(x, dtype, b), at(gcode, dtype, b), gscale, to - b < BWI_QBLOCK ? to - b : BWI_QBLOCK,
                            (char *)gx + b * bwi_dtype_size(dtype), mine);
        memcpy(part[i], mine, sizeof mine);
    }
    for (int i = 0; i < BWI_CHUNKS; i++)
        for (int j = 0; j <= BWI_QPARAMS; j++) sums[j] += part[i][j];
    bwi_quant_backward_end(q, sums, n);
}
