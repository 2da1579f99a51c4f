/* The loops of backward16.h, in vectors of LANES sums.
 *
 * A product instruction takes two 16-bit integers of each side and adds both products to one 32-bit sum, so operands come in pairs:
 * of output channels for the gradient of the source, of pixels for that of the weights. One side is a vector of pairs, of LANES channels;
 * of the other one pair serves all of them.
 *   source's gradient    sums over output channels: pair of the gradient [pixel][channel], vector of weights [tap][channel / 2][ic][2]
 *   weights' gradient    sums over pixels: pair of the source [pixel][ic][2], which holds a pixel's codes and its right neighbour's, and
 *                        vector of the gradient [pixel / 2][oc][2]
 *
 * Sums of 32 bits never overflow: a chunk of the batch is so small, and the gradient's integers are, that the largest operands fit.
 *
 * A file that includes this defines before it
 *   LANES                     channels of a vector, 16 or 8
 *   PIXELS_1(X), PIXELS_2(X)  X(1) X(2) ... for the pixels of blocks of one vector and of two
 *   CHANNELS_1, CHANNELS_2    input channels of a block of weights' gradients, with one vector of output channels and with two
 *   ints, reals               vectors of 32-bit integers and floats, and what is done with them */
#include "base/alloc.h"
#include "base/inline.h"
#include "base/par.h"
#include "compute/backward16.h"
#include "compute/spec.h"
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    TOP = INT16_MAX,                       /* largest integer of a gradient, where sums allow it */
    LEAST_TOP = 1023,                      /* with less the gradient is too coarse */
    CHUNK = INT32_MAX / (UINT8_MAX * TOP), /* pixels that sums of weights' gradients take at that */
    SUMS_BYTES = 1 << 20                   /* of a thread's weight gradient: what stays in a second-level cache */
};

/* One kernel position as seen from the source's gradient; both in elements. */
typedef struct tap {
    ptrdiff_t gradient;
    size_t weights;
} tap;

/* Source pixels y, y + stride ... of rows and columns likewise: all have the same kernel positions. */
typedef struct phase {
    int y, x, rows, columns;
    int first, taps; /* in bwi_back16.tap */
} phase;

struct bwi_back16 {
    bwi_conv_spec spec;
    int oh, pairs;               /* rows of the gradient; pairs of pixels in each */
    int images, rows;            /* of a chunk; rows < oh only with one image */
    int src_rows, src_columns;   /* of a chunk and image, padded */
    int above, left, tall, wide; /* padding before and size of an image of the gradient */
    int threads;
    double data_terms; /* products in a sum of the source's gradient, at most */
    float top;         /* largest integer of the gradient */
    float scale;       /* of the source's gradient */
    phase *phase;      /* [stride * stride] */
    tap *tap;          /* [kh * kw] */
    int16_t *w;        /* [kh * kw][oc / 2][ic][2] */
    float *sum;        /* [kh * kw][ic][oc] */
};

/* A thread's share of scratch. */
typedef struct work {
    int16_t *g;     /* [images][tall][wide][oc] */
    int16_t *pairs; /* [images][oh][pairs][oc][2] */
    int16_t *src;   /* [images][src_rows][src_columns][ic][2] */
    float *sum;     /* [kh * kw][ic][oc] */
} work;

static size_t taps_of(const bwi_conv_spec *s)
{
    return (size_t)s->kh * (size_t)s->kw;
}

/* Elements of a thread's buffers. */
static size_t padded_size(const bwi_back16 *b)
{
    return b->spec.need_gsrc ? (size_t)b->images * (size_t)b->tall * (size_t)b->wide * (size_t)b->spec.oc : 0;
}
static size_t pairs_size(const bwi_back16 *b)
{
    return (size_t)b->images * (size_t)b->oh * (size_t)b->pairs * (size_t)b->spec.oc * 2;
}
static size_t src_size(const bwi_back16 *b)
{
    return (size_t)b->images * (size_t)b->src_rows * (size_t)b->src_columns * (size_t)b->spec.ic * 2;
}

static size_t share(const bwi_back16 *b)
{
    return bwi_conv_round(padded_size(b) * 2) + bwi_conv_round(pairs_size(b) * 2) + bwi_conv_round(src_size(b) * 2) +
           bwi_conv_round(bwi_conv_weights_size(&b->spec) * sizeof(float));
}

static size_t scratch(const bwi_back16 *b)
{
    return (size_t)b->threads * share(b);
}

static work work_of(const bwi_back16 *b, void *scratch_, int thread)
{
    char *p = (char *)scratch_ + (size_t)thread * share(b);
    work k = {.g = (void *)p};
    k.pairs = (void *)(p += bwi_conv_round(padded_size(b) * 2));
    k.src = (void *)(p += bwi_conv_round(pairs_size(b) * 2));
    k.sum = (void *)(p + bwi_conv_round(src_size(b) * 2));
    return k;
}

/* ---- Making ----------------------------------------------------------------------------------------------------------------- */
/* Source pixel s t + r has kernel position k where s divides r + pad - k, with gradient pixel t + (r + pad - k) / s. */
static void plan_phases(bwi_back16 *b)
{
    const bwi_conv_spec *s = &b->spec;
    int dy0 = 0, dx0 = 0, dy1 = 0, dx1 = 0, most = 0, n = 0; /* first and last gradient pixel that a source pixel asks for */
    const int ow = bwi_conv_out(s->iw, s->kw, s->stride, s->pad);
    for (int pass = 0; pass < 2; pass++) {
        n = 0;
        for (int y = 0; y < s->stride; y++)
            for (int x = 0; x < s->stride; x++) {
                phase *p = &b->phase[y * s->stride + x];
                *p = (phase){y, x, (s->ih - y + s->stride - 1) / s->stride, (s->iw - x + s->stride - 1) / s->stride, n, 0};
                for (int ky = 0; ky < s->kh; ky++)
                    for (int kx = 0; kx < s->kw; kx++) {
                        if ((y + s->pad - ky) % s->stride || (x + s->pad - kx) % s->stride) continue;
                        const int dy = (y + s->pad - ky) / s->stride, dx = (x + s->pad - kx) / s->stride;
                        if (dy < dy0) dy0 = dy;
                        if (dx < dx0) dx0 = dx;
                        if (p->rows - 1 + dy > dy1) dy1 = p->rows - 1 + dy;
                        if (p->columns - 1 + dx > dx1) dx1 = p->columns - 1 + dx;
                        b->tap[n++] = (tap){((ptrdiff_t)dy * b->wide + dx) * s->oc,
                                            ((size_t)ky * (size_t)s->kw + (size_t)kx) * (size_t)s->oc * (size_t)s->ic};
                        p->taps++;
                    }
                if (p->taps > most) most = p->taps;
            }
        b->above = -dy0, b->left = -dx0; /* known behind the first pass, and with them the offsets of the second */
        b->tall = b->above + (dy1 >= b->oh ? dy1 + 1 : b->oh);
        b->wide = b->left + (dx1 >= ow ? dx1 + 1 : ow);
    }
    b->data_terms = s->need_gsrc ? (double)most * s->oc : 0;
}

static void plan_chunks(bwi_back16 *b)
{
    const bwi_conv_spec *s = &b->spec;
    const int row = 2 * b->pairs, fit = CHUNK / row;
    b->images = fit / b->oh, b->rows = b->oh;
    if (b->images > s->n) b->images = s->n;
    if (b->images < 1) b->images = 1, b->rows = fit < 1 ? 1 : fit;
    if (b->rows > b->oh) b->rows = b->oh;
    b->src_rows = s->stride * (b->rows - 1) + s->kh;
    b->src_columns = s->stride * (row - 2) + s->kw;
}

static float top_for(const bwi_back16 *b, double largest_weight)
{
    const double pixels = (double)b->images * b->rows * 2 * b->pairs;
    double top = fmin(TOP, floor(INT32_MAX / (UINT8_MAX * pixels)));
    if (b->data_terms * largest_weight > 0) top = fmin(top, floor(INT32_MAX / (b->data_terms * largest_weight)));
    return (float)top;
}

static void destroy(bwi_back16 **b)
{
    if (!*b) return;
    bwi_free((*b)->phase);
    bwi_free((*b)->tap);
    bwi_free((*b)->w);
    bwi_free((*b)->sum);
    bwi_free(*b);
    *b = NULL;
}

static bw_status unsupported(const bwi_conv_spec *s, const char *why, bw_error *err)
{
    char text[BWI_CONV_TEXT];
    return bwi_fail(err, BW_UNSUPPORTED, "%s: no 16-bit gradients: %s", bwi_conv_text(s, text), why);
}

static bw_status create(const bwi_conv_spec *s, bwi_back16 **out, bw_error *err)
{
    *out = NULL;
    if (s->groups != 1 || s->ic % LANES || s->oc % LANES)
        return unsupported(
            s, LANES == 16 ? "channels must be multiples of 16, in one group" : "channels must be multiples of 8, in one group",
            err);
    if (bwi_conv_weights_size(s) * sizeof(float) > SUMS_BYTES)
        return unsupported(s, "the weights are too many for a cache", err);
    bwi_back16 *b = bwi_calloc(1, sizeof *b);
    if (!b) goto nomem;
    b->spec = *s;
    b->threads = bwi_threads();
    b->oh = bwi_conv_out(s->ih, s->kh, s->stride, s->pad);
    b->pairs = (bwi_conv_out(s->iw, s->kw, s->stride, s->pad) + 1) / 2;
    b->phase = bwi_calloc((size_t)s->stride * (size_t)s->stride, sizeof *b->phase);
    b->tap = bwi_calloc(taps_of(s), sizeof *b->tap);
    b->w = bwi_calloc(bwi_conv_weights_size(s), sizeof *b->w);
    b->sum = bwi_calloc(bwi_conv_weights_size(s), sizeof *b->sum);
    if (!b->phase || !b->tap || !b->w || !b->sum) goto nomem;
    plan_phases(b);
    plan_chunks(b);
    b->top = top_for(b, -INT8_MIN);
    if (b->top < LEAST_TOP) {
        destroy(&b);
        return unsupported(s, "its sums are too long", err);
    }
    *out = b;
    return BW_OK;
nomem:
    destroy(&b);
    return bwi_fail(err, BW_NOMEM, "out of memory for the gradients of a convolution");
}

/* ---- Operands --------------------------------------------------------------------------------------------------------------- */
/* Largest magnitude of n values, n a multiple of LANES; more than FLT_MAX where one is not finite. Compared as bits, where NaN is largest. */
static float magnitude(const float *x, size_t n)
{
    const ints mask = set_ints(INT32_MAX);
    ints m = set_ints(0), other = m;
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        m = max_ints(m, and_ints(mask, load_ints(x + i)));
        other = max_ints(other, and_ints(mask, load_ints(x + i + LANES)));
    }
    if (i < n) m = max_ints(m, and_ints(mask, load_ints(x + i)));
    int32_t bits[LANES];
    store_ints(bits, max_ints(m, other));
    for (i = 1; i < LANES; i++)
        if (bits[i] > bits[0]) bits[0] = bits[i];
    float most;
    memcpy(&most, bits, sizeof most);
    return most;
}

static void weights(bwi_back16 *b, const float *w, double scale)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, taps = taps_of(s), oc = (size_t)s->oc;
    b->top = top_for(b, (double)magnitude(w, bwi_conv_weights_size(s)));
    b->scale = (float)scale;
    int16_t *restrict to = b->w;
    for (size_t t = 0; t < taps; t++)
        for (size_t k = 0; k < oc; k += 2, to += 2 * ic) {
            const float *restrict even = w + (k * taps + t) * ic, *restrict odd = even + taps * ic;
            for (size_t c = 0; c < ic; c++) to[2 * c] = (int16_t)even[c], to[2 * c + 1] = (int16_t)odd[c];
        }
}

/* The gradient of `images` images, times scale, as integers: into work.pairs and, where the source's gradient is wanted, work.g. */
static void round_gradient(const bwi_back16 *b, const work *k, const float *g, int images, float scale, bool padded)
{
    const size_t oc = (size_t)b->spec.oc, line = (size_t)b->wide * oc;
    const int columns = bwi_conv_out(b->spec.iw, b->spec.kw, b->spec.stride, b->spec.pad);
    const reals factor = set_reals(scale);
    int16_t *pair = k->pairs;
    for (int row = 0; row < images * b->oh; row++, g += (size_t)columns * oc) {
        const int image = row / b->oh, y = row % b->oh;
        int16_t *to = k->g + ((size_t)image * (size_t)b->tall + (size_t)(y + b->above)) * line + (size_t)b->left * oc;
        for (int x = 0; x < columns; x += 2)
            for (size_t c = 0; c < oc; c += LANES, pair += 2 * LANES) {
                const float *at = g + (size_t)x * oc + c;
                const bool two = x + 1 < columns;
                const ints a = round_reals(mul_reals(factor, load_reals(at)));
                const ints d = two ? round_reals(mul_reals(factor, load_reals(at + oc))) : set_ints(0);
                store_ints(pair, pairs_of(a, d));
                if (!padded) continue;
                store_shorts(to + (size_t)x * oc + c, a);
                if (two) store_shorts(to + ((size_t)x + 1) * oc + c, d);
            }
    }
}

/* Codes of pixel x of a row, zero beside it. */
BWI_INLINE ints codes_at(const uint8_t *row, int x, int width, size_t ic)
{
    return x < 0 || x >= width ? set_ints(0) : load_codes(row + (size_t)x * ic);
}

/* Pairs of the source for gradient rows y .. y + rows - 1 of `images` images. */
static void pair_source(const bwi_back16 *b, const work *k, const uint8_t *src, int images, int y, int rows)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, line = (size_t)b->src_columns * ic * 2, width = (size_t)s->iw * ic;
    const int needed = s->stride * (rows - 1) + s->kh;
    for (int i = 0; i < images; i++)
        for (int r = 0; r < needed; r++) {
            int16_t *to = k->src + ((size_t)i * (size_t)b->src_rows + (size_t)r) * line;
            const int from = s->stride * y + r - s->pad;
            if (from < 0 || from >= s->ih) {
                memset(to, 0, line * sizeof *to);
                continue;
            }
            const uint8_t *row = src + ((size_t)i * (size_t)s->ih + (size_t)from) * width;
            for (int x = 0; x < b->src_columns; x++)
                for (size_t c = 0; c < ic; c += LANES, to += 2 * LANES) {
                    const ints a = codes_at(row + c, x - s->pad, s->iw, ic);
                    const ints d = codes_at(row + c, x - s->pad + s->stride, s->iw, ic);
                    store_ints(to, pairs_of(a, d));
                }
        }
}

/* ---- Sums ------------------------------------------------------------------------------------------------------------------- */
BWI_INLINE ints pair_at(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return set_ints(two);
}

/* out [n][LANES * vectors] = inv * gradient of n source pixels; both steps in elements. */
BWI_INLINE void data_block(const tap *t, int taps, const int16_t *g, size_t pixel, const int16_t *w, size_t weights_step,
                           int pairs, float inv, float *out, size_t out_step, const int n, const int vectors)
{
    ints sum[32];
    BWI_UNROLL for (int i = 0; i < n * vectors; i++) sum[i] = set_ints(0);
    for (const tap *end = t + taps; t < end; t++) {
        const int16_t *a = g + t->gradient, *d = w + t->weights, *stop = a + 2 * pairs;
        do {
            ints v[2];
            BWI_UNROLL for (int h = 0; h < vectors; h++) v[h] = load_ints(d + 2 * LANES * h);
            BWI_UNROLL for (int i = 0; i < n; i++)
            {
                const ints two = pair_at(a + (size_t)i * pixel);
                BWI_UNROLL for (int h = 0; h < vectors; h++) sum[i * vectors + h] =
                    add_products(sum[i * vectors + h], two, v[h]);
            }
            a += 2, d += weights_step;
        } while (a < stop);
    }
    const reals factor = set_reals(inv);
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        BWI_UNROLL for (int h = 0; h < vectors; h++)
            store_reals(out + (size_t)i * out_step + LANES * h, mul_reals(factor, to_reals(sum[i * vectors + h])));
    }
}

typedef void data_fn(const tap *t, int taps, const int16_t *g, size_t pixel, const int16_t *w, size_t weights_step, int pairs,
                     float inv, float *out, size_t out_step);
#define DATA(n, vectors)                                                                                                       \
    static void data_##n##x##vectors(const tap *t, int taps, const int16_t *g, size_t pixel, const int16_t *w,                 \
                                     size_t weights_step, int pairs, float inv, float *out, size_t out_step)                   \
    {                                                                                                                          \
        data_block(t, taps, g, pixel, w, weights_step, pairs, inv, out, out_step, n, vectors);                                 \
    }
/* clang-format off */
#define DATA_1(n) DATA(n, 1)
#define DATA_2(n) DATA(n, 2)
PIXELS_1(DATA_1) PIXELS_2(DATA_2)
#define NAME_1(n) data_##n##x1,
#define NAME_2(n) data_##n##x2,
static data_fn *const data_1[] = {PIXELS_1(NAME_1)}, *const data_2[] = {PIXELS_2(NAME_2)};
/* clang-format on */

/* sum [channels][oc] += inv * source [channels] x gradient [LANES * vectors], over the lines. line: where each begins in the source. */
BWI_INLINE void weights_block(const int16_t *src, const size_t *line, int lines, size_t src_step, const int16_t *g,
                              size_t g_step, int pairs, float inv, float *out, size_t oc, const int channels, const int vectors)
{
    ints sum[32];
    BWI_UNROLL for (int i = 0; i < channels * vectors; i++) sum[i] = set_ints(0);
    for (const size_t *end = line + lines; line < end; line++) {
        const int16_t *a = src + *line, *stop = g + (size_t)pairs * g_step;
        do {
            ints v[2];
            BWI_UNROLL for (int h = 0; h < vectors; h++) v[h] = load_ints(g + 2 * LANES * h);
            BWI_UNROLL for (int i = 0; i < channels; i++)
            {
                const ints two = pair_at(a + 2 * i);
                BWI_UNROLL for (int h = 0; h < vectors; h++) sum[i * vectors + h] =
                    add_products(sum[i * vectors + h], two, v[h]);
            }
            a += src_step, g += g_step;
        } while (g < stop);
    }
    const reals factor = set_reals(inv);
    BWI_UNROLL for (int i = 0; i < channels; i++)
    {
        BWI_UNROLL for (int h = 0; h < vectors; h++)
        {
            float *at = out + (size_t)i * oc + LANES * h;
            store_reals(at, add_reals(load_reals(at), mul_reals(factor, to_reals(sum[i * vectors + h]))));
        }
    }
}

/* ---- A chunk of images -------------------------------------------------------------------------------------------------------- */
static void weights_gradient(const bwi_back16 *b, const work *k, const uint8_t *src, int images, float inv)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, oc = (size_t)s->oc, columns = (size_t)b->src_columns, step = 4 * (size_t)s->stride * ic;
    size_t line[CHUNK];
    for (int y = 0; y < b->oh; y += b->rows) {
        const int rows = b->oh - y < b->rows ? b->oh - y : b->rows, lines = images * rows;
        const int16_t *g = k->pairs + (size_t)y * (size_t)b->pairs * oc * 2;
        pair_source(b, k, src, images, y, rows);
        for (int i = 0; i < lines; i++) line[i] = (size_t)(i / rows * b->src_rows + i % rows * s->stride) * columns * ic * 2;
        for (size_t t = 0; t < taps_of(s); t++) {
            const int16_t *from = k->src + (t / (size_t)s->kw * columns + t % (size_t)s->kw) * ic * 2;
            float *to = k->sum + t * ic * oc;
            if (oc % (2 * LANES))
                for (size_t o = 0; o < oc; o += LANES)
                    for (size_t c = 0; c < ic; c += CHANNELS_1)
                        weights_block(from + 2 * c, line, lines, step, g + 2 * o, 2 * oc, b->pairs, inv, to + c * oc + o, oc,
                                      CHANNELS_1, 1);
            else
                for (size_t o = 0; o < oc; o += 2 * LANES)
                    for (size_t c = 0; c < ic; c += CHANNELS_2)
                        weights_block(from + 2 * c, line, lines, step, g + 2 * o, 2 * oc, b->pairs, inv, to + c * oc + o, oc,
                                      CHANNELS_2, 2);
        }
    }
}

static void data_gradient(const bwi_back16 *b, const phase *p, const int16_t *g, float inv, float *gsrc)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, oc = (size_t)s->oc, stride = (size_t)s->stride, width = (size_t)s->iw;
    if (p->columns < 1) return;
    const int vectors = ic % (2 * LANES) ? 1 : 2,
              most = (int)(vectors == 2 ? sizeof data_2 / sizeof *data_2 : sizeof data_1 / sizeof *data_1);
    const int blocks = (p->columns + most - 1) / most, step = (p->columns + blocks - 1) / blocks;
    data_fn *const *block = vectors == 2 ? data_2 : data_1;
    for (size_t c = 0; c < ic; c += LANES * (size_t)vectors)
        for (int y = 0; y < p->rows; y++)
            for (int x = 0; x < p->columns; x += step) {
                const int n = p->columns - x < step ? p->columns - x : step;
                const int16_t *from = g + ((size_t)(y + b->above) * (size_t)b->wide + (size_t)(x + b->left)) * oc;
                float *to = gsrc + ((stride * (size_t)y + (size_t)p->y) * width + stride * (size_t)x + (size_t)p->x) * ic + c;
                block[n - 1](b->tap + p->first, p->taps, from, oc, b->w + 2 * c, 2 * ic, s->oc / 2, inv, to, stride * ic);
            }
}

/* src or gsrc NULL: the weights' or the source's gradient is not wanted. */
static void chunk(const bwi_back16 *b, const work *k, int images, const uint8_t *src, const float *gdst, float *gsrc)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t n = bwi_conv_dst_size(s) / (size_t)s->n * (size_t)images, image = bwi_conv_src_size(s) / (size_t)s->n;
    const float most = magnitude(gdst, n), least = 1e-33f; /* below it, where top / most is no float, a gradient is none */
    const float scale = most < least ? 0 : b->top / most, inv = most / b->top;
    round_gradient(b, k, gdst, images, scale, gsrc);
    if (src) weights_gradient(b, k, src, images, inv);
    for (int i = 0; gsrc && i < images; i++)
        for (int p = 0; p < s->stride * s->stride; p++)
            data_gradient(b, &b->phase[p], k->g + (size_t)i * (size_t)b->tall * (size_t)b->wide * (size_t)s->oc, inv * b->scale,
                          gsrc + (size_t)i * image);
}

static void run(bwi_back16 *b, int first, int n, const uint8_t *src, const float *gdst, float *gw, float *gsrc, void *scratch_)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t in = bwi_conv_src_size(s) / (size_t)s->n, out = bwi_conv_dst_size(s) / (size_t)s->n, taps = taps_of(s),
                 ic = (size_t)s->ic, oc = (size_t)s->oc;
    const int chunks = (n + b->images - 1) / b->images;
#pragma omp parallel num_threads(b->threads)
    {
        const work k = work_of(b, scratch_, bwi_thread());
        const int threads = omp_get_num_threads();
        memset(k.sum, 0, bwi_conv_weights_size(s) * sizeof *k.sum);
        memset(k.g, 0, padded_size(b) * sizeof *k.g);
#pragma omp for schedule(static)
        for (int i = 0; i < chunks; i++) {
            const int at = i * b->images, images = n - at < b->images ? n - at : b->images;
            const size_t image = (size_t)(first + at) * in;
            chunk(b, &k, images, gw ? src + image : NULL, gdst + (size_t)at * out, gsrc ? gsrc + image : NULL);
        }
        if (gw) {
#pragma omp for schedule(static)
            for (size_t r = 0; r < taps * ic; r++)
                for (int t = 0; t < threads; t++) {
                    const float *restrict part = work_of(b, scratch_, t).sum + r * oc;
                    float *restrict sum = b->sum + r * oc;
                    const bool fresh = t == 0 && first == 0;
                    for (size_t o = 0; o < oc; o++) sum[o] = fresh ? part[o] : sum[o] + part[o];
                }
        }
        if (gw && first + n == s->n) {
#pragma omp for schedule(static)
            for (size_t o = 0; o < oc; o++)
                for (size_t r = 0; r < taps * ic; r++) gw[o * taps * ic + r] = b->sum[r * oc + o];
        }
    }
}
