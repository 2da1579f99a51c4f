/* The form of finish.h for one value: the reference, and the tails of the vector versions. */
#ifndef BWK_FINISH_SCALAR_H
#define BWK_FINISH_SCALAR_H
#include "kernels/finish.h"

bwk_finish_fn bwk_finish_ref; /* in plain C: all that finish.h says */

/* Pixel and channel of the map, and its sum. Each operation rounds to float by itself: -ffp-contract=off. */
static inline void bwk_finish_scalar(const bwk_finish *f, size_t pixel, size_t channel, int32_t acc)
{
    const size_t at = pixel * (size_t)f->channels + channel;
    const size_t groups = f->group ? (size_t)(f->channels / f->group) : 1;
    const int32_t window = f->window ? f->window[pixel * groups + (f->group ? channel / (size_t)f->group : 0)] : 0;
    float t = (float)(f->sum_mul * acc + f->sum_add * window);
    if (f->sum_shift != 0) t = t + f->sum_shift * (float)window;
    t = t * f->scale;
    if (f->bias) t = t + f->bias[channel];
    if (f->a) t = t * f->a[channel], t = t + f->b[channel];
    if (f->residual) t = t + f->residual[at];
    if (f->relu) t = t < 0 ? 0 : t;
    if (f->real) f->real[at] = t;
    for (int i = 0; i < f->n_codes; i++) {
        const bwk_codes *q = &f->codes[i];
        float v = (t - q->sub) * q->mul + q->add;
        v = v < q->lo ? q->lo : v > q->hi ? q->hi : v;
        v = (v + 12582912.0f) - 12582912.0f; /* half to even: 1.5 * 2^23 leaves no room for a fraction */
        ((uint8_t *)q->to)[at] = (uint8_t)(int)v;
    }
}
#endif
