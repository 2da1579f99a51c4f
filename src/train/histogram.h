/* The values of one tensor as a fine histogram, from which follows what any step size would cost, without the values. */
#ifndef BWI_HISTOGRAM_H
#define BWI_HISTOGRAM_H
#include "base/status.h"
#include <stdbool.h>

#define BWI_BINS 16384

/* Bins of equal width over [-range, range), where range is a power of two that doubles as values arrive. Each keeps the number, the sum and
 * the sum of the squares of its values, so that only values in a bin that a boundary cuts are counted on the wrong side. */
typedef struct bwi_histogram {
    double range; /* 0: nothing but zeros so far */
    double n, zeros, min, max;
    double *count, *sum, *square; /* [BWI_BINS], one block */
} bwi_histogram;

BW_MUST_USE bw_status bwi_histogram_create(bwi_histogram *h, bw_error *err);
void bwi_histogram_destroy(bwi_histogram *h); /* accepts a zeroed struct */
/* x [n] in. BW_NUMERIC, and nothing is added, when a value is not finite. */
BW_MUST_USE bw_status bwi_histogram_add(bwi_histogram *h, const float *x, size_t n, bw_error *err);
double bwi_histogram_mean(const bwi_histogram *h);
double bwi_histogram_std(const bwi_histogram *h); /* unbiased, N-1 */
/* Smallest x below which at least the share p of all values lies, to the width of a bin. */
double bwi_histogram_quantile(const bwi_histogram *h, double p);
/* Values other than 0 in each of `bins` equal parts of [from, to]; what lies outside goes to *below and *above. */
void bwi_histogram_coarse(const bwi_histogram *h, double from, double to, int bins, double *counts, double *below,
                          double *above);

/* The uniform levels of LSQ: s * round(clip(x / s, lo, hi)), or -s and +s when it is a sign. */
typedef struct bwi_levels {
    int lo, hi;
    bool sign;
} bwi_levels;

/* Measures of how well quantized values stand for those of the tensor (LSQ, section 3.6):
 *   MAE  mean |x - xq|
 *   MSE  mean (x - xq)^2
 *   KL   -mean log q(xq), the part of the divergence of q from the distribution of x that depends on s; nats.
 * The paper does not say what density q is. Taken as the probabilities of the codes the mean is their entropy, which is least where all
 * values share a code, so here q is the density that somebody knows who sees only codes: the share of each code, spread evenly over the
 * interval of x that leads to it. The outermost intervals end at the least and the largest x. Where the levels are not signed, x is
 * everything but 0: behind a ReLU 0 has a probability, not a density, and is always exact. */
typedef enum bwi_fit { BWI_FIT_MAE, BWI_FIT_MSE, BWI_FIT_KL, BWI_FITS } bwi_fit;
#define BWI_FIT_STEPS 2000 /* candidates: 0.01 s, 0.02 s .. 20 s */

/* The candidates around the learned step size `step` at which each measure is least, as multiples of step; the first of equal ones. */
BW_MUST_USE bw_status bwi_histogram_fit(const bwi_histogram *h, bwi_levels levels, double step, double best[BWI_FITS],
                                        bw_error *err);
#endif
