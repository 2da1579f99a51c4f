/* The loops of a row of kernels/real.h, for vectors of LANES floats; REAL_ROW is the row's object, REAL_NAME and REAL_NEEDS its members. */
#include "base/inline.h"
#include "kernels/real.h"
#include <math.h>
#include <string.h>

typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

enum { PIXELS = 6, VECTORS = 2 }; /* of a tile: its sums stay in registers where there are 32 of them */

static inline size_t offset(int a, int b)
{
    return (size_t)a * (size_t)b;
}

/* Sums of `pixels` neighbouring pixels from ox on, of vectors * LANES channels from `channel` on. With more than one pixel, no tap of any lies left
 * or right of the map. */
BWI_INLINE void tile(const bwk_conv_spec *s, const float *w, const float *x, float scale, int oy, int ox, size_t channel,
                     float *out, const int pixels, const int vectors)
{
    const size_t oc = (size_t)s->oc, in = (size_t)(s->ic / s->groups), group = channel / (oc / (size_t)s->groups),
                 step = offset(s->stride, s->ic);
    const int top = oy * s->stride - s->pad, left = ox * s->stride - s->pad;
    vec sum[PIXELS][VECTORS];
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++) sum[p][v] = (vec){0};
    for (int ky = top < 0 ? -top : 0; ky < s->kh && top + ky < s->ih; ky++)
        for (int kx = left < 0 ? -left : 0; kx < s->kw && left + kx < s->iw; kx++) {
            const float *from = x + (offset(top + ky, s->iw) + (size_t)(left + kx)) * (size_t)s->ic + group * in;
            const float *tap = w + offset(ky * s->kw + kx, s->oc) * in + channel;
            for (size_t c = 0; c < in; c++, tap += oc) {
                vec weight[VECTORS];
                for (int v = 0; v < vectors; v++) weight[v] = *(const vec *)(const void *)(tap + v * LANES);
                for (int p = 0; p < pixels; p++)
                    for (int v = 0; v < vectors; v++) sum[p][v] += from[(size_t)p * step + c] * weight[v];
            }
        }
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++)
            *(vec *)(void *)(out + ((size_t)ox + (size_t)p) * oc + channel + (size_t)v * LANES) = sum[p][v] * scale;
}

/* One sum: channels that fill no vector. */
static void single(const bwk_conv_spec *s, const float *w, const float *x, float scale, int oy, int ox, size_t channel,
                   float *out)
{
    const size_t oc = (size_t)s->oc, in = (size_t)(s->ic / s->groups), group = channel / (oc / (size_t)s->groups);
    const int top = oy * s->stride - s->pad, left = ox * s->stride - s->pad;
    float sum = 0;
    for (int ky = top < 0 ? -top : 0; ky < s->kh && top + ky < s->ih; ky++)
        for (int kx = left < 0 ? -left : 0; kx < s->kw && left + kx < s->iw; kx++) {
            const float *from = x + (offset(top + ky, s->iw) + (size_t)(left + kx)) * (size_t)s->ic + group * in;
            const float *tap = w + offset(ky * s->kw + kx, s->oc) * in + channel;
            for (size_t c = 0; c < in; c++) sum += from[c] * tap[c * oc];
        }
    out[(size_t)ox * oc + channel] = sum * scale;
}

/* The channels of one group, from .. to - 1, of `pixels` pixels. */
BWI_INLINE void pixel_block(const bwk_conv_spec *s, const float *w, const float *x, float scale, int oy, int ox, size_t from,
                            size_t to, float *out, const int pixels)
{
    size_t c = from;
    for (; c + VECTORS * LANES <= to; c += VECTORS * LANES) tile(s, w, x, scale, oy, ox, c, out, pixels, VECTORS);
    for (; c + LANES <= to; c += LANES) tile(s, w, x, scale, oy, ox, c, out, pixels, 1);
    for (; c < to; c++)
        for (int p = 0; p < pixels; p++) single(s, w, x, scale, oy, ox + p, c, out);
}

static void real_conv(const bwk_conv_spec *s, const float *w, const float *x, float scale, int row, float *out)
{
    const int first = (s->pad + s->stride - 1) / s->stride;  /* pixels from here on have all taps of a row, */
    const int inside = (s->iw - s->kw + s->pad) / s->stride; /* up to here */
    const size_t channels = (size_t)(s->oc / s->groups);
    for (size_t from = 0; from < (size_t)s->oc; from += channels)
        for (int ox = 0; ox < s->ow;) {
            if (ox >= first && s->iw + s->pad >= s->kw && ox + PIXELS - 1 <= inside) {
                pixel_block(s, w, x, scale, row, ox, from, from + channels, out, PIXELS);
                ox += PIXELS;
            } else {
                pixel_block(s, w, x, scale, row, ox, from, from + channels, out, 1);
                ox++;
            }
        }
}

/* to = max(to, from, from + c, ..) of so many neighbours, in this order, [c] each. */
static inline void max_of(const float *restrict from, const int neighbours, size_t c, float *restrict to)
{
    for (size_t k = 0; k < c; k++) {
        float most = to[k];
        for (int i = 0; i < neighbours; i++) {
            const float v = from[(size_t)i * c + k];
            most = v > most ? v : most;
        }
        to[k] = most;
    }
}

static void real_max_pool(const bwk_conv_spec *s, const float *x, int row, float *out)
{
    const size_t c = (size_t)s->ic;
    const int top = row * s->stride - s->pad, from_y = top < 0 ? 0 : top, to_y = top + s->kh < s->ih ? top + s->kh : s->ih;
    for (int ox = 0; ox < s->ow; ox++, out += c) {
        const int left = ox * s->stride - s->pad, from_x = left < 0 ? 0 : left,
                  to_x = left + s->kw < s->iw ? left + s->kw : s->iw;
        for (size_t k = 0; k < c; k++) out[k] = -INFINITY;
        for (int y = from_y; y < to_y; y++) {
            const float *from = x + (offset(y, s->iw) + (size_t)from_x) * c;
            int n = to_x - from_x; /* with two or three in a pass, maxima stay in registers */
            for (; n >= 3; n -= 3, from += 3 * c) max_of(from, 3, c, out);
            if (n == 2) max_of(from, 2, c, out);
            if (n == 1) max_of(from, 1, c, out);
        }
    }
}

/* n values of a pixel, or of any number of pixels when nothing differs from channel to channel; `at`: of the first value in the map. */
static void finish_values(const bwk_finish *f, size_t at, size_t n, float *restrict t)
{
    if (f->bias)
        for (size_t k = 0; k < n; k++) t[k] = t[k] + f->bias[k];
    if (f->a)
        for (size_t k = 0; k < n; k++) {
            const float product = t[k] * f->a[k];
            t[k] = product + f->b[k];
        }
    if (f->residual)
        for (size_t k = 0; k < n; k++) t[k] = t[k] + f->residual[at + k];
    if (f->relu)
        for (size_t k = 0; k < n; k++) t[k] = t[k] < 0 ? 0 : t[k];
    if (f->real) memcpy(f->real + at, t, n * sizeof *t);
    for (int q = 0; q < f->n_codes; q++) {
        const bwk_codes *o = &f->codes[q];
        const float sub = o->sub, mul = o->mul, add = o->add, lo = o->lo, hi = o->hi;
        uint8_t *restrict to = (uint8_t *)o->to + at;
        for (size_t k = 0; k < n; k++) {
            float u = (t[k] - sub) * mul + add;
            u = u > lo ? u : lo;
            u = u < hi ? u : hi;
            to[k] = (uint8_t)(int)((u + 12582912.0f) - 12582912.0f); /* half to even */
        }
    }
}

static void real_finish(const bwk_finish *f, size_t pixel, size_t pixels, float *t)
{
    const size_t c = (size_t)f->channels;
    if (!f->bias && !f->a) {
        finish_values(f, pixel * c, pixels * c, t);
        return;
    }
    for (size_t p = 0; p < pixels; p++) finish_values(f, (pixel + p) * c, c, t + p * c);
}

const bwk_real REAL_ROW = {REAL_NAME, REAL_NEEDS, real_conv, real_max_pool, real_finish};
