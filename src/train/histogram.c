#include "train/histogram.h"
#include "base/alloc.h"
#include "quant/quant.h"
#include <math.h>
#include <string.h>

/* ---- Filling ------------------------------------------------------------------------------------------------------------- */

bw_status bwi_histogram_create(bwi_histogram *h, bw_error *err)
{
    *h = (bwi_histogram){.min = INFINITY, .max = -INFINITY};
    h->count = bwi_calloc(3 * BWI_BINS, sizeof *h->count);
    if (!h->count) return bwi_fail(err, BW_NOMEM, "no memory for a histogram");
    h->sum = h->count + BWI_BINS;
    h->square = h->sum + BWI_BINS;
    return BW_OK;
}

void bwi_histogram_destroy(bwi_histogram *h)
{
    bwi_free(h->count);
    *h = (bwi_histogram){0};
}

/* Twice the range: pairs of bins become one. From the middle outwards on both sides, so that nothing is overwritten before it is read. */
static void widen(double *bin)
{
    enum { HALF = BWI_BINS / 2 };
    for (int i = 0; i < HALF / 2; i++) {
        bin[HALF + i] = bin[HALF + 2 * i] + bin[HALF + 2 * i + 1];
        bin[HALF - 1 - i] = bin[HALF - 1 - 2 * i] + bin[HALF - 2 - 2 * i];
    }
    memset(bin, 0, HALF / 2 * sizeof *bin);
    memset(bin + HALF + HALF / 2, 0, HALF / 2 * sizeof *bin);
}

/* Makes room for values up to max_abs. */
static void reach(bwi_histogram *h, double max_abs)
{
    if (max_abs == 0) return;
    if (h->range == 0) {
        int exponent;
        frexp(max_abs, &exponent); /* max_abs < 2^exponent */
        h->range = ldexp(1, exponent);
    }
    for (; h->range <= max_abs; h->range *= 2) {
        widen(h->count);
        widen(h->sum);
        widen(h->square);
    }
}

bw_status bwi_histogram_add(bwi_histogram *h, const float *x, size_t n, bw_error *err)
{
    bwi_qstats s;
    if (!n) return BW_OK;
    bwi_qstats_of(x, BWI_DT_F32, n, &s);
    if (!isfinite(s.max_abs)) return bwi_fail(err, BW_NUMERIC, "some of the values are not finite");
    reach(h, s.max_abs);
    h->n += (double)n;
    h->min = fmin(h->min, s.min);
    h->max = fmax(h->max, s.max);
    const double inverse = h->range > 0 ? BWI_BINS / (2 * h->range) : 0;
    double zeros = 0;
    for (size_t i = 0; i < n; i++) {
        const double v = (double)x[i];
        const int bin = BWI_BINS / 2 + (int)floor(v * inverse);
        h->count[bin] += 1;
        h->sum[bin] += v;
        h->square[bin] += v * v;
        zeros += v == 0;
    }
    h->zeros += zeros;
    return BW_OK;
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------- */

static double total(const double *bin)
{
    double sum = 0;
    for (int i = 0; i < BWI_BINS; i++) sum += bin[i];
    return sum;
}

double bwi_histogram_mean(const bwi_histogram *h)
{
    return total(h->sum) / h->n;
}

double bwi_histogram_std(const bwi_histogram *h)
{
    const double sum = total(h->sum), var = (total(h->square) - sum * sum / h->n) / (h->n - 1);
    return h->n < 2 ? 0 : sqrt(fmax(var, 0));
}

/* Lower edge of a bin. */
static double edge(const bwi_histogram *h, double bin)
{
    return h->range * (2 * bin / BWI_BINS - 1);
}

double bwi_histogram_quantile(const bwi_histogram *h, double p)
{
    double below = 0;
    for (int i = 0; i < BWI_BINS; i++) {
        below += h->count[i];
        if (below >= p * h->n) return fmin(fmax(edge(h, i + 1), h->min), h->max);
    }
    return h->max;
}

void bwi_histogram_coarse(const bwi_histogram *h, double from, double to, int bins, double *counts, double *below,
                          double *above)
{
    for (int i = 0; i < bins; i++) counts[i] = 0;
    *below = *above = 0;
    for (int i = 0; i < BWI_BINS; i++) {
        const double n = h->count[i] - (i == BWI_BINS / 2 ? h->zeros : 0);
        if (n <= 0) continue;
        const double at = (h->sum[i] / n - from) / (to - from) * bins; /* zeros do not change the sum */
        if (at < 0)
            *below += n;
        else if (at > bins)
            *above += n;
        else
            counts[at < bins ? (int)at : bins - 1] += n;
    }
}

/* ---- Step sizes ---------------------------------------------------------------------------------------------------------- */

/* Sums over all bins below a place. */
typedef struct prefix {
    const bwi_histogram *h;
    double *count, *sum, *square; /* [BWI_BINS + 1] */
} prefix;

static void accumulate(const double *bin, double *to)
{
    to[0] = 0;
    for (int i = 0; i < BWI_BINS; i++) to[i + 1] = to[i] + bin[i];
}

/* The bin edge nearest to x. */
static int place(const bwi_histogram *h, double x)
{
    const double at = (x / h->range + 1) * (BWI_BINS / 2) + 0.5;
    return at < 0 ? 0 : at > BWI_BINS ? BWI_BINS : (int)at;
}

/* Adds what values in bins [from, to), which become v, cost; KL with the cell's borders a and b. */
static void add_cell(const prefix *p, int from, int to, double v, double a, double b, bool no_zeros, double cost[BWI_FITS])
{
    const bwi_histogram *h = p->h;
    const double n = p->count[to] - p->count[from], sum = p->sum[to] - p->sum[from];
    if (n <= 0) return;
    int middle = place(h, v);
    middle = middle < from ? from : middle > to ? to : middle;
    const double n_below = p->count[middle] - p->count[from], sum_below = p->sum[middle] - p->sum[from];
    cost[BWI_FIT_MAE] += (v * n_below - sum_below) + ((sum - sum_below) - v * (n - n_below));
    cost[BWI_FIT_MSE] += p->square[to] - p->square[from] - 2 * v * sum + v * v * n;
    const bool has_zeros = no_zeros && from <= BWI_BINS / 2 && BWI_BINS / 2 < to;
    const double counted = has_zeros ? n - h->zeros : n, all = no_zeros ? h->n - h->zeros : h->n;
    const double width = fmax(fmin(b, h->max) - fmax(a, h->min), 2 * h->range / BWI_BINS);
    if (counted > 0) cost[BWI_FIT_KL] -= counted * log(counted / all / width);
}

static void costs(const prefix *p, bwi_levels levels, double s, double cost[BWI_FITS])
{
    const int step = levels.sign ? 2 : 1;
    int from = 0;
    double a = -INFINITY;
    for (int i = 0; i < BWI_FITS; i++) cost[i] = 0;
    for (int c = levels.lo; c <= levels.hi; c += step) {
        const bool last = c + step > levels.hi;
        const double b = last ? INFINITY : (c + 0.5 * step) * s;
        const int to = last ? BWI_BINS : place(p->h, b);
        add_cell(p, from, to, c * s, a, b, levels.lo == 0, cost);
        from = to;
        a = b;
    }
}

bw_status bwi_histogram_fit(const bwi_histogram *h, bwi_levels levels, double step, double best[BWI_FITS], bw_error *err)
{
    double least[BWI_FITS], cost[BWI_FITS];
    for (int i = 0; i < BWI_FITS; i++) best[i] = NAN, least[i] = INFINITY;
    if (h->range == 0) return BW_OK; /* zeros: every step size is as good as any other */
    double *sums = bwi_malloc(3 * (BWI_BINS + 1) * sizeof *sums);
    if (!sums) return bwi_fail(err, BW_NOMEM, "no memory to compare step sizes");
    const prefix p = {h, sums, sums + BWI_BINS + 1, sums + 2 * (BWI_BINS + 1)};
    accumulate(h->count, p.count);
    accumulate(h->sum, p.sum);
    accumulate(h->square, p.square);
    for (int k = 1; k <= BWI_FIT_STEPS; k++) {
        costs(&p, levels, k * 0.01 * step, cost);
        for (int i = 0; i < BWI_FITS; i++)
            if (cost[i] < least[i]) {
                least[i] = cost[i];
                best[i] = k * 0.01;
            }
    }
    bwi_free(sums);
    return BW_OK;
}
