/* The loops of conv16.h, in vectors of LANES sums.
 *
 * A product instruction takes two 16-bit integers of each side and adds both products to one 32-bit sum, so operands come in pairs:
 * of input channels for the forward pass, of output channels for the gradient of the source, of pixels for that of the weights. One side is a
 * vector of pairs, of LANES channels; of the other one pair serves all of them.
 *   forward              sums over input channels: pair of the source [pixel][channel], vector of weights [tap][channel / 2][oc][2]
 *   source's gradient    sums over output channels: pair of the gradient [pixel][channel], vector of weights [tap][channel / 2][ic][2]
 *   weights' gradient    sums over pixels: pair of the source [pixel][ic][2], which holds a pixel's codes and its right neighbour's, and
 *                        vector of the gradient [pixel / 2][oc][2]
 *
 * Sums of 32 bits never overflow: a chunk of the batch is so small, and the integers of what was float are, that the largest operands fit.
 *
 * A file that includes this defines before it
 *   LANES                     channels of a vector, 16 or 8
 *   PIXELS_1(X), PIXELS_2(X)  X(1) X(2) ... for the pixels of blocks of one vector and of two
 *   CHANNELS_1, CHANNELS_2    input channels of a block of weights' gradients, with one vector of output channels and with two
 *   ints, reals               vectors of 32-bit integers and floats, and what is done with them */
#include "base/alloc.h"
#include "base/inline.h"
#include "base/par.h"
#include "compute/conv16.h"
#include "compute/spec.h"
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    TOP = INT16_MAX,                       /* largest integer of a float operand, where sums allow it */
    LEAST_TOP = 1023,                      /* with less it is too coarse */
    CHUNK = INT32_MAX / (UINT8_MAX * TOP), /* pixels that sums of weights' gradients take at that, of codes */
    SRC_TOP = 2047,                        /* largest integer of a float source in them, which leaves the gradient 12 bits */
    SUMS_BYTES = 1 << 20                   /* of a thread's weight gradient: what stays in a second-level cache */
};

/* One kernel position: where its operands lie from those of an output. */
typedef struct tap {
    ptrdiff_t pixels, elements; /* of the image that is multiplied */
    size_t weights;             /* elements */
} tap;

/* Source pixels y, y + stride ... of rows and columns likewise: all have the same kernel positions. */
typedef struct phase {
    int y, x, rows, columns;
    int first, taps; /* in bwi_conv16.tap */
} phase;

struct bwi_conv16 {
    bwi_conv_spec spec;
    int oh, ow, pairs;           /* rows and columns of the gradient; pairs of pixels in each row */
    int images, rows;            /* of a chunk; rows < oh only with one image */
    int src_rows, src_columns;   /* of a chunk and image, padded */
    int above, left, tall, wide; /* padding before and size of an image of the gradient */
    int threads;
    bool real_src;            /* the source is float, and this does the forward pass, too */
    double data_terms;        /* products in a sum of the source's gradient, at most */
    float data_top, pair_top; /* largest integers of the gradient for the source's gradient and for the weights' */
    float src_top;            /* and of a float source in the forward pass */
    float scale, back_scale;  /* of the forward pass and of the source's gradient */
    float offset;             /* what weights have in common beside integers */
    phase *phase;             /* [stride * stride] */
    tap *tap, *src_tap;       /* [kh * kw], of the source's gradient and of the forward pass */
    int16_t *w, *src_w;       /* [kh * kw][oc / 2][ic][2], [kh * kw][ic / 2][oc][2] */
    float *sum;               /* [kh * kw][ic][oc] */
};

/* A thread's share of scratch. */
typedef struct work {
    int16_t *g;      /* [images][tall][wide][oc]; in the forward pass [ih + 2 pad][iw + 2 pad][ic] of the source */
    int32_t *totals; /* sums of an image's g over channels */
    int32_t *beside; /* and of those over an output's kernel positions */
    int16_t *pairs;  /* [images][oh][pairs][oc][2] */
    int16_t *src;    /* [images][src_rows][src_columns][ic][2] */
    float *sum;      /* [kh * kw][ic][oc] */
} work;

static size_t taps_of(const bwi_conv_spec *s)
{
    return (size_t)s->kh * (size_t)s->kw;
}

/* Elements of a thread's buffers. */
static size_t padded_pixels(const bwi_conv16 *b)
{
    return (size_t)b->tall * (size_t)b->wide;
}
static size_t padded_src_pixels(const bwi_conv16 *b)
{
    return (size_t)(b->spec.ih + 2 * b->spec.pad) * (size_t)(b->spec.iw + 2 * b->spec.pad);
}
static size_t padded_size(const bwi_conv16 *b)
{
    const size_t g = b->spec.need_gsrc ? (size_t)b->images * padded_pixels(b) * (size_t)b->spec.oc : 0;
    const size_t src = b->real_src ? padded_src_pixels(b) * (size_t)b->spec.ic : 0;
    return g > src ? g : src;
}
static size_t totals_size(const bwi_conv16 *b)
{
    const size_t g = padded_pixels(b), src = padded_src_pixels(b);
    return !b->real_src ? 0 : g > src ? g : src;
}
static size_t pairs_size(const bwi_conv16 *b)
{
    return (size_t)b->images * (size_t)b->oh * (size_t)b->pairs * (size_t)b->spec.oc * 2;
}
static size_t src_size(const bwi_conv16 *b)
{
    return (size_t)b->images * (size_t)b->src_rows * (size_t)b->src_columns * (size_t)b->spec.ic * 2;
}

static size_t share(const bwi_conv16 *b)
{
    return bwi_conv_round(padded_size(b) * 2) + 2 * bwi_conv_round(totals_size(b) * 4) + bwi_conv_round(pairs_size(b) * 2) +
           bwi_conv_round(src_size(b) * 2) + bwi_conv_round(bwi_conv_weights_size(&b->spec) * sizeof(float));
}

static size_t scratch(const bwi_conv16 *b)
{
    return (size_t)b->threads * share(b);
}

static work work_of(const bwi_conv16 *b, void *scratch_, int thread)
{
    char *p = (char *)scratch_ + (size_t)thread * share(b);
    work k = {.g = (void *)p};
    k.totals = (void *)(p += bwi_conv_round(padded_size(b) * 2));
    k.beside = (void *)(p += bwi_conv_round(totals_size(b) * 4));
    k.pairs = (void *)(p += bwi_conv_round(totals_size(b) * 4));
    k.src = (void *)(p += bwi_conv_round(pairs_size(b) * 2));
    k.sum = (void *)(p + bwi_conv_round(src_size(b) * 2));
    return k;
}

/* ---- Making ----------------------------------------------------------------------------------------------------------------- */
/* Where the weights of a kernel position begin, in elements of either layout. */
static size_t weights_of(const bwi_conv_spec *s, int ky, int kx)
{
    return ((size_t)ky * (size_t)s->kw + (size_t)kx) * (size_t)s->oc * (size_t)s->ic;
}

/* Source pixel s t + r has kernel position k where s divides r + pad - k, with gradient pixel t + (r + pad - k) / s. */
static void plan_phases(bwi_conv16 *b)
{
    const bwi_conv_spec *s = &b->spec;
    int dy0 = 0, dx0 = 0, dy1 = 0, dx1 = 0, most = 0, n = 0; /* first and last gradient pixel that a source pixel asks for */
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
                        const ptrdiff_t pixels = (ptrdiff_t)dy * b->wide + dx;
                        b->tap[n++] = (tap){pixels, pixels * s->oc, weights_of(s, ky, kx)};
                        p->taps++;
                    }
                if (p->taps > most) most = p->taps;
            }
        b->above = -dy0, b->left = -dx0; /* known behind the first pass, and with them the offsets of the second */
        b->tall = b->above + (dy1 >= b->oh ? dy1 + 1 : b->oh);
        b->wide = b->left + (dx1 >= b->ow ? dx1 + 1 : b->ow);
    }
    b->data_terms = s->need_gsrc ? (double)most * s->oc : 0;
}

static void plan_forward(bwi_conv16 *b)
{
    const bwi_conv_spec *s = &b->spec;
    for (int ky = 0, n = 0; ky < s->kh; ky++)
        for (int kx = 0; kx < s->kw; kx++) {
            const ptrdiff_t pixels = (ptrdiff_t)ky * (s->iw + 2 * s->pad) + kx;
            b->src_tap[n++] = (tap){pixels, pixels * s->ic, weights_of(s, ky, kx)};
        }
}

static void plan_chunks(bwi_conv16 *b)
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

/* Largest integer whose sums of that many products with others of that size fit, and its sums alone, which an offset of the weights needs. */
static double top_of(double terms, double largest)
{
    return terms > 0 ? fmin(TOP, floor(INT32_MAX / (terms * fmax(1, largest)))) : TOP;
}

static void set_tops(bwi_conv16 *b, double largest_weight)
{
    const bwi_conv_spec *s = &b->spec;
    const double pixels = (double)b->images * b->rows * 2 * b->pairs;
    b->data_top = (float)top_of(b->data_terms, largest_weight);
    b->pair_top = (float)top_of(pixels, b->real_src ? SRC_TOP : UINT8_MAX);
    b->src_top = (float)top_of((double)taps_of(s) * s->ic, largest_weight);
}

static void destroy(bwi_conv16 **b)
{
    if (!*b) return;
    bwi_free((*b)->phase);
    bwi_free((*b)->tap);
    bwi_free((*b)->src_tap);
    bwi_free((*b)->w);
    bwi_free((*b)->src_w);
    bwi_free((*b)->sum);
    bwi_free(*b);
    *b = NULL;
}

static bw_status unsupported(const bwi_conv_spec *s, const char *why, bw_error *err)
{
    char text[BWI_CONV_TEXT];
    return bwi_fail(err, BW_UNSUPPORTED, "%s: no 16-bit products: %s", bwi_conv_text(s, text), why);
}

static bw_status create(const bwi_conv_spec *s, bwi_conv16 **out, bw_error *err)
{
    *out = NULL;
    if (s->groups != 1 || s->ic % LANES || s->oc % LANES)
        return unsupported(
            s, LANES == 16 ? "channels must be multiples of 16, in one group" : "channels must be multiples of 8, in one group",
            err);
    if (bwi_conv_weights_size(s) * sizeof(float) > SUMS_BYTES)
        return unsupported(s, "the weights are too many for a cache", err);
    bwi_conv16 *b = bwi_calloc(1, sizeof *b);
    if (!b) goto nomem;
    b->spec = *s;
    b->threads = bwi_threads();
    b->real_src = s->src == BWI_DT_F32;
    b->oh = bwi_conv_out(s->ih, s->kh, s->stride, s->pad);
    b->ow = bwi_conv_out(s->iw, s->kw, s->stride, s->pad);
    b->pairs = (b->ow + 1) / 2;
    b->phase = bwi_calloc((size_t)s->stride * (size_t)s->stride, sizeof *b->phase);
    b->tap = bwi_calloc(taps_of(s), sizeof *b->tap);
    b->w = bwi_calloc(bwi_conv_weights_size(s), sizeof *b->w);
    b->sum = bwi_calloc(bwi_conv_weights_size(s), sizeof *b->sum);
    if (b->real_src) {
        b->src_tap = bwi_calloc(taps_of(s), sizeof *b->src_tap);
        b->src_w = bwi_calloc(bwi_conv_weights_size(s), sizeof *b->src_w);
        if (!b->src_tap || !b->src_w) goto nomem;
        plan_forward(b);
    }
    if (!b->phase || !b->tap || !b->w || !b->sum) goto nomem;
    plan_phases(b);
    plan_chunks(b);
    set_tops(b, -INT8_MIN);
    if (b->data_top < LEAST_TOP || b->pair_top < LEAST_TOP || (b->real_src && b->src_top < LEAST_TOP)) {
        destroy(&b);
        return unsupported(s, "its sums are too long", err);
    }
    *out = b;
    return BW_OK;
nomem:
    destroy(&b);
    return bwi_fail(err, BW_NOMEM, "out of memory for the integers of a convolution");
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

typedef struct range {
    float least, most;
} range;
static range range_of(const float *w, size_t n)
{
    float least = w[0], most = w[0];
#pragma omp simd reduction(min : least) reduction(max : most)
    for (size_t i = 0; i < n; i++) {
        least = w[i] < least ? w[i] : least;
        most = w[i] > most ? w[i] : most;
    }
    return (range){least, most};
}

/* What to take off weights on a grid of distance 1, so that small integers are left; 0: they are such. */
static float offset_of(const float *w, range r)
{
    if (rintf(w[0]) == w[0] && r.least >= INT8_MIN && r.most <= INT8_MAX) return 0;
    return w[0] + rintf((r.least + r.most) / 2 - w[0]);
}

static void weights(bwi_conv16 *b, const float *w, double scale, double back_scale)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, taps = taps_of(s), oc = (size_t)s->oc;
    const range r = range_of(w, bwi_conv_weights_size(s));
    const float offset = b->offset = b->real_src ? offset_of(w, r) : 0;
    int16_t *restrict to = b->w;
    b->scale = (float)scale, b->back_scale = (float)back_scale;
    set_tops(b, fmax(fabs(rint(r.least - offset)), fabs(rint(r.most - offset))));
    for (size_t t = 0; t < taps; t++)
        for (size_t k = 0; k < oc; k += 2, to += 2 * ic) {
            const float *restrict even = w + (k * taps + t) * ic, *restrict odd = even + taps * ic;
            for (size_t c = 0; c < ic; c++)
                to[2 * c] = (int16_t)rintf(even[c] - offset), to[2 * c + 1] = (int16_t)rintf(odd[c] - offset);
        }
    if (!b->real_src) return;
    to = b->src_w;
    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < ic; c += 2)
            for (size_t k = 0; k < oc; k++, to += 2) {
                const float *two = w + (k * taps + t) * ic + c;
                to[0] = (int16_t)rintf(two[0] - offset), to[1] = (int16_t)rintf(two[1] - offset);
            }
}

/* Integers of the scale at which the largest of n floats is top; below `least`, where top / most is no float, they count as none. */
typedef struct grid {
    float scale, inv;
} grid;
static grid grid_for(float most, float top)
{
    const float least = 1e-33f;
    return (grid){most < least ? 0 : top / most, most / top};
}

/* An image of the source as integers, inside a margin of zeros. */
static void round_source(const bwi_conv16 *b, const float *src, float scale, int16_t *to)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, line = (size_t)s->iw * ic, pad = (size_t)s->pad, wide = (size_t)s->iw + 2 * pad;
    const reals factor = set_reals(scale);
    to += (pad * wide + pad) * ic;
    for (int y = 0; y < s->ih; y++, src += line, to += wide * ic)
        for (size_t i = 0; i < line; i += LANES) store_shorts(to + i, round_reals(mul_reals(factor, load_reals(src + i))));
}

static ints channels_of(const int16_t *g, size_t channels)
{
    ints sum = load_shorts(g);
    for (size_t c = LANES; c < channels; c += LANES) sum = add_ints(sum, load_shorts(g + c));
    return sum;
}

/* totals [pixels] of g [pixels][channels]. */
static void add_channels(const int16_t *g, size_t pixels, size_t channels, int32_t *totals)
{
    ints v[LANES];
    int32_t rest[LANES];
    size_t p = 0;
    for (; p + LANES <= pixels; p += LANES) {
        BWI_UNROLL for (int i = 0; i < LANES; i++) v[i] = channels_of(g + (p + (size_t)i) * channels, channels);
        store_ints(totals + p, sums_of(v));
    }
    for (size_t i = 0; i < LANES; i++) v[i] = p + i < pixels ? channels_of(g + (p + i) * channels, channels) : set_ints(0);
    store_ints(rest, sums_of(v));
    memcpy(totals + p, rest, (pixels - p) * sizeof *totals);
}

/* The gradient of `images` images as integers: times pair_scale into work.pairs and, where the source's gradient is wanted, times data_scale
 * into work.g. */
static void round_gradient(const bwi_conv16 *b, const work *k, const float *g, int images, float pair_scale, float data_scale,
                           bool padded)
{
    const size_t oc = (size_t)b->spec.oc, line = (size_t)b->wide * oc;
    const int columns = b->ow;
    const reals pair_factor = set_reals(pair_scale), factor = set_reals(data_scale);
    int16_t *pair = k->pairs;
    for (int row = 0; row < images * b->oh; row++, g += (size_t)columns * oc) {
        const int image = row / b->oh, y = row % b->oh;
        int16_t *to = k->g + ((size_t)image * (size_t)b->tall + (size_t)(y + b->above)) * line + (size_t)b->left * oc;
        for (int x = 0; x < columns; x += 2)
            for (size_t c = 0; c < oc; c += LANES, pair += 2 * LANES) {
                const float *at = g + (size_t)x * oc + c;
                const bool two = x + 1 < columns;
                const reals a = load_reals(at), d = two ? load_reals(at + oc) : set_reals(0);
                store_ints(pair, pairs_of(round_reals(mul_reals(pair_factor, a)), round_reals(mul_reals(pair_factor, d))));
                if (!padded) continue;
                store_shorts(to + (size_t)x * oc + c, round_reals(mul_reals(factor, a)));
                if (two) store_shorts(to + ((size_t)x + 1) * oc + c, round_reals(mul_reals(factor, d)));
            }
    }
}

/* LANES channels of a row's pixel x as integers, zero beside the row: codes, or floats times factor. */
BWI_INLINE ints source_at(const void *row, size_t c, int x, int width, size_t ic, reals factor, const bool real_src)
{
    if (x < 0 || x >= width) return set_ints(0);
    const size_t at = (size_t)x * ic + c;
    return real_src ? round_reals(mul_reals(factor, load_reals((const float *)row + at)))
                    : load_codes((const uint8_t *)row + at);
}

/* Pairs of the source for gradient rows y .. y + rows - 1 of `images` images. */
BWI_INLINE void pair_source(const bwi_conv16 *b, const work *k, const void *src, int images, int y, int rows, float scale,
                            const bool real_src)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, line = (size_t)b->src_columns * ic * 2, width = (size_t)s->iw * ic;
    const int needed = s->stride * (rows - 1) + s->kh;
    const reals factor = set_reals(scale);
    for (int i = 0; i < images; i++)
        for (int r = 0; r < needed; r++) {
            int16_t *to = k->src + ((size_t)i * (size_t)b->src_rows + (size_t)r) * line;
            const int from = s->stride * y + r - s->pad;
            if (from < 0 || from >= s->ih) {
                memset(to, 0, line * sizeof *to);
                continue;
            }
            const void *row =
                (const char *)src + ((size_t)i * (size_t)s->ih + (size_t)from) * width * (real_src ? sizeof(float) : 1);
            for (int x = 0; x < b->src_columns; x++)
                for (size_t c = 0; c < ic; c += LANES, to += 2 * LANES) {
                    const ints a = source_at(row, c, x - s->pad, s->iw, ic, factor, real_src);
                    const ints d = source_at(row, c, x - s->pad + s->stride, s->iw, ic, factor, real_src);
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

/* out [n][LANES * vectors] = inv * (sum over kernel positions and channels + offset * beside [n]) of n pixels. from: where the first one's operands
 * lie, the next ones' every `pixel` elements; w: pairs of channels follow every weights_step elements; out_step in elements. */
BWI_INLINE void pixels_block(const tap *t, int taps, const int16_t *from, size_t pixel, const int16_t *w, size_t weights_step,
                             int pairs, float inv, float offset, const int32_t *beside, float *out, size_t out_step,
                             const int n, const int vectors)
{
    ints sum[32];
    BWI_UNROLL for (int i = 0; i < n * vectors; i++) sum[i] = set_ints(0);
    for (const tap *end = t + taps; t < end; t++) {
        const int16_t *a = from + t->elements, *d = w + t->weights, *stop = a + 2 * pairs;
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
    const reals factor = set_reals(inv), more_factor = set_reals(offset);
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        const reals more = mul_reals(more_factor, to_reals(set_ints(beside[i])));
        BWI_UNROLL for (int h = 0; h < vectors; h++) store_reals(
            out + (size_t)i * out_step + LANES * h, mul_reals(factor, add_reals(more, to_reals(sum[i * vectors + h]))));
    }
}

typedef void pixels_fn(const tap *t, int taps, const int16_t *from, size_t pixel, const int16_t *w, size_t weights_step,
                       int pairs, float inv, float offset, const int32_t *beside, float *out, size_t out_step);
#define PIXELS(n, vectors)                                                                                                     \
    static void pixels_##n##x##vectors(const tap *t, int taps, const int16_t *from, size_t pixel, const int16_t *w,            \
                                       size_t weights_step, int pairs, float inv, float offset, const int32_t *beside,         \
                                       float *out, size_t out_step)                                                            \
    {                                                                                                                          \
        pixels_block(t, taps, from, pixel, w, weights_step, pairs, inv, offset, beside, out, out_step, n, vectors);            \
    }
/* clang-format off */
#define BLOCK_1(n) PIXELS(n, 1)
#define BLOCK_2(n) PIXELS(n, 2)
PIXELS_1(BLOCK_1) PIXELS_2(BLOCK_2)
#define NAME_1(n) pixels_##n##x1,
#define NAME_2(n) pixels_##n##x2,
static pixels_fn *const pixels_1[] = {PIXELS_1(NAME_1)}, *const pixels_2[] = {PIXELS_2(NAME_2)};
/* clang-format on */

/* The products of an image with all its weights. */
typedef struct product {
    const tap *tap;
    int taps;
    const int16_t *from;   /* operands of the first output */
    const int32_t *totals; /* their sums over channels; counted only with an offset, as beside is */
    int32_t *beside;       /* [rows][columns] */
    size_t row, pixel;     /* from the operands of one output row or pixel to those of the next, in pixels */
    size_t channels;       /* of the operands */
    const int16_t *w;      /* [tap][channels / 2][outputs][2] */
    float *to;
    size_t outputs, to_row, to_pixel; /* channels; elements */
    int rows, columns;
    float inv, offset; /* offset: of all weights */
} product;

/* The operands' sums over kernel positions and channels: what weights of 1 everywhere would make, the same for all output channels. */
static void add_taps(const product *p)
{
    int32_t *restrict beside = p->beside;
    const size_t columns = (size_t)p->columns, pixel = p->pixel;
    for (int y = 0; y < p->rows; y++, beside += columns) {
        memset(beside, 0, columns * sizeof *beside);
        for (int t = 0; t < p->taps; t++) {
            const int32_t *restrict from = p->totals + (ptrdiff_t)((size_t)y * p->row) + p->tap[t].pixels;
            if (pixel == 1) /* a loop in vectors */
                for (size_t x = 0; x < columns; x++) beside[x] += from[x];
            else
                for (size_t x = 0; x < columns; x++) beside[x] += from[x * pixel];
        }
    }
}

static void multiply(const product *p)
{
    const int vectors = p->outputs % (2 * LANES) ? 1 : 2,
              most = (int)(vectors == 2 ? sizeof pixels_2 / sizeof *pixels_2 : sizeof pixels_1 / sizeof *pixels_1);
    if (p->columns < 1) return;
    const int blocks = (p->columns + most - 1) / most, step = (p->columns + blocks - 1) / blocks;
    pixels_fn *const *block = vectors == 2 ? pixels_2 : pixels_1;
    static const int32_t none[32];
    if (p->offset != 0) add_taps(p);
    for (size_t c = 0; c < p->outputs; c += LANES * (size_t)vectors)
        for (int y = 0; y < p->rows; y++)
            for (int x = 0; x < p->columns; x += step) {
                const int n = p->columns - x < step ? p->columns - x : step;
                const size_t at = (size_t)y * p->row + (size_t)x * p->pixel;
                const int32_t *beside = p->offset != 0 ? p->beside + y * p->columns + x : none;
                block[n - 1](p->tap, p->taps, p->from + at * p->channels, p->pixel * p->channels, p->w + 2 * c, 2 * p->outputs,
                             (int)(p->channels / 2), p->inv, p->offset, beside,
                             p->to + (size_t)y * p->to_row + (size_t)x * p->to_pixel + c, p->to_pixel);
            }
}

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

/* ---- Images -------------------------------------------------------------------------------------------------------- */
static void weights_gradient(const bwi_conv16 *b, const work *k, const void *src, int images, float inv)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, oc = (size_t)s->oc, columns = (size_t)b->src_columns, step = 4 * (size_t)s->stride * ic;
    size_t line[CHUNK];
    const grid real =
        b->real_src ? grid_for(magnitude(src, bwi_conv_src_size(s) / (size_t)s->n * (size_t)images), SRC_TOP) : (grid){1, 1};
    inv *= real.inv;
    for (int y = 0; y < b->oh; y += b->rows) {
        const int rows = b->oh - y < b->rows ? b->oh - y : b->rows, lines = images * rows;
        const int16_t *g = k->pairs + (size_t)y * (size_t)b->pairs * oc * 2;
        if (b->real_src)
            pair_source(b, k, src, images, y, rows, real.scale, true);
        else
            pair_source(b, k, src, images, y, rows, 1, false);
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

/* g: of one image. */
static void data_gradient(const bwi_conv16 *b, const work *k, const int16_t *g, float inv, float *gsrc)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, oc = (size_t)s->oc, stride = (size_t)s->stride, width = (size_t)s->iw;
    const size_t first = (size_t)b->above * (size_t)b->wide + (size_t)b->left;
    if (b->offset != 0) add_channels(g, padded_pixels(b), oc, k->totals);
    for (const phase *p = b->phase; p < b->phase + stride * stride; p++)
        multiply(&(product){.tap = b->tap + p->first,
                            .taps = p->taps,
                            .from = g + first * oc,
                            .totals = k->totals + first,
                            .beside = k->beside,
                            .row = (size_t)b->wide,
                            .pixel = 1,
                            .channels = oc,
                            .w = b->w,
                            .to = gsrc + ((size_t)p->y * width + (size_t)p->x) * ic,
                            .outputs = ic,
                            .to_row = stride * width * ic,
                            .to_pixel = stride * ic,
                            .rows = p->rows,
                            .columns = p->columns,
                            .inv = inv,
                            .offset = b->offset});
}

static void forward_image(const bwi_conv16 *b, const work *k, const float *src, float *dst)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t ic = (size_t)s->ic, oc = (size_t)s->oc, stride = (size_t)s->stride;
    const grid real = grid_for(magnitude(src, bwi_conv_src_size(s) / (size_t)s->n), b->src_top);
    round_source(b, src, real.scale, k->g);
    if (b->offset != 0) add_channels(k->g, padded_src_pixels(b), ic, k->totals);
    multiply(&(product){.tap = b->src_tap,
                        .taps = (int)taps_of(s),
                        .from = k->g,
                        .totals = k->totals,
                        .beside = k->beside,
                        .row = stride * (size_t)(s->iw + 2 * s->pad),
                        .pixel = stride,
                        .channels = ic,
                        .w = b->src_w,
                        .to = dst,
                        .outputs = oc,
                        .to_row = (size_t)b->ow * oc,
                        .to_pixel = oc,
                        .rows = b->oh,
                        .columns = b->ow,
                        .inv = real.inv * b->scale,
                        .offset = b->offset});
}

static void forward(const bwi_conv16 *b, const float *src, float *dst, void *scratch_)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t in = bwi_conv_src_size(s) / (size_t)s->n, out = bwi_conv_dst_size(s) / (size_t)s->n;
#pragma omp parallel num_threads(b->threads)
    {
        const work k = work_of(b, scratch_, bwi_thread());
        memset(k.g, 0, padded_size(b) * sizeof *k.g);
#pragma omp for schedule(static)
        for (int i = 0; i < s->n; i++) forward_image(b, &k, src + (size_t)i * in, dst + (size_t)i * out);
    }
}

/* src or gsrc NULL: the weights' or the source's gradient is not wanted. */
static void chunk(const bwi_conv16 *b, const work *k, int images, const void *src, const float *gdst, float *gsrc)
{
    const bwi_conv_spec *s = &b->spec;
    const size_t n = bwi_conv_dst_size(s) / (size_t)s->n * (size_t)images, image = bwi_conv_src_size(s) / (size_t)s->n;
    const float most = magnitude(gdst, n);
    const grid pair = grid_for(most, b->pair_top), data = grid_for(most, b->data_top);
    round_gradient(b, k, gdst, images, pair.scale, data.scale, gsrc);
    if (src) weights_gradient(b, k, src, images, pair.inv);
    for (int i = 0; gsrc && i < images; i++)
        data_gradient(b, k, k->g + (size_t)i * padded_pixels(b) * (size_t)s->oc, data.inv * b->back_scale,
                      gsrc + (size_t)i * image);
}

static void backward(bwi_conv16 *b, int first, int n, const void *src, const float *gdst, float *gw, float *gsrc,
                     void *scratch_)
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
            chunk(b, &k, images, gw ? (const char *)src + image * bwi_dtype_size(s->src) : NULL, gdst + (size_t)at * out,
                  gsrc ? gsrc + image : NULL);
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
