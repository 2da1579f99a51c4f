/* What follows the sums of a convolution: scale, batch norm, residual, ReLU, and the codes of the next layers.
 *
 * One form, in float, each operation rounded once and none contracted, in this order:
 *   t = (float)(sum_mul * acc + sum_add * window)                exact integers, then one rounding
 *   t = t + sum_shift * (float)window                            where weights are integers and a real number; the product is rounded first
 *   t = t * scale
 *   t = t + bias[c]                                              where there is a bias
 *   t = t * a[c];  t = t + b[c]                                  where there is a batch norm
 *   t = t + residual                                             where there is one
 *   t = t < 0 ? 0 : t                                            where there is a ReLU
 *   real = t
 *   code = round half to even(clip((t - sub) * mul + add, lo, hi))   for each quantizer that takes t
 * It is what training's forward pass computes on exact sums, so codes are the trained ones. Every instruction set gives the same bits. */
#ifndef BWK_FINISH_H
#define BWK_FINISH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BWK_MAX_CODES 4

/* A quantizer of the result; lo and hi are whole numbers from -128 to 255. */
typedef struct bwk_codes {
    float sub, mul, add, lo, hi;
    void *to; /* [pixels of the map][channels of the map] uint8 or int8, out */
} bwk_codes;

/* Arrays of channels have one entry for each channel of the map; arrays of pixels are whole maps. */
typedef struct bwk_finish {
    int channels; /* of the map */
    int32_t sum_mul, sum_add;
    float sum_shift; /* 0: none */
    const int32_t
        *window; /* [pixels][channels / group] sums of the activation codes under the kernel; NULL: nothing is added of them */
    int group;   /* channels that share a window sum; 0: all of them */
    float scale;
    const float *bias, *a, *b; /* NULL: none; a and b come together */
    const float *residual;     /* [pixels][channels]; NULL: none */
    bool relu;
    float *real; /* [pixels][channels], out; NULL: nobody wants it. May be residual. */
    int n_codes;
    bwk_codes codes[BWK_MAX_CODES];
} bwk_finish;

/* A bwk_store (kernels/conv.h) whose arg is a bwk_finish. */
typedef void bwk_finish_fn(void *finish, int pixel, int pixels, int channel, int channels, const int32_t *acc, int stride);
/* The one for this CPU as limited by bwi_cpu_limit. */
bwk_finish_fn *bwk_finish_for_cpu(void);
/* Rows, for tests: needs are BWI_CPU_... */
typedef struct bwk_finish_row {
    const char *name;
    unsigned needs;
    bwk_finish_fn *fn;
} bwk_finish_row;
const bwk_finish_row *bwk_finish_at(size_t i);
#endif
