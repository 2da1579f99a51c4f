#include "io/image.h"
#include "base/alloc.h"
#include "base/file.h"
#include <inttypes.h>
#include <math.h>
#include <stddef.h>

#define ROW(name) extern const bwi_image_format bwi_image_format_##name;
#include "io/images.def"
#undef ROW
static const bwi_image_format *const rows[] = {
#define ROW(name) &bwi_image_format_##name,
#include "io/images.def"
#undef ROW
};
enum { N_ROWS = sizeof rows / sizeof *rows };

const bwi_image_format *bwi_image_format_at(size_t i)
{
    return i < N_ROWS ? rows[i] : NULL;
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------- */

static bw_status unknown(bw_error *err)
{
    bwi_text known = {0};
    for (size_t i = 0; i < N_ROWS; i++) bwi_text_add(&known, "%s%s (%s)", i ? ", " : "", rows[i]->name, rows[i]->suffixes);
    const bw_status st = bwi_fail(err, BW_FORMAT, "not an image of a known format: %s", known.failed ? "" : known.s);
    bwi_free(known.s);
    return st;
}

bw_status bwi_image_decode(bwi_image *out, const uint8_t *data, size_t size, size_t most, bw_error *err)
{
    *out = (bwi_image){0};
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i]->probe(data, size)) return rows[i]->decode(out, data, size, most, err);
    return unknown(err);
}

bw_status bwi_image_read(bwi_image *out, const char *path, bw_error *err)
{
    bwi_file f = {0};
    *out = (bwi_image){0};
    bw_status st = bwi_file_open(&f, path, err);
    if (st) return st;
    st = bwi_image_decode(out, f.data, f.size, BWI_IMAGE_PIXELS, err);
    bwi_file_close(&f);
    return st ? bwi_fail_in(err, st, "%s", path) : BW_OK;
}

bw_status bwi_image_alloc(bwi_image *image, int64_t h, int64_t w, size_t bytes_per_pixel, size_t most, bw_error *err)
{
    *image = (bwi_image){0};
    if (h < 1 || w < 1 || h > INT32_MAX || w > INT32_MAX)
        return bwi_fail(err, BW_FORMAT, "an image of %" PRId64 " x %" PRId64 " pixels: it is damaged", w, h);
    if ((size_t)w > most / (size_t)h)
        return bwi_fail(err, BW_UNSUPPORTED, "an image of %" PRId64 " x %" PRId64 " pixels; at most %zu are read", w, h, most);
    image->pixel = bwi_malloc((size_t)h * (size_t)w * bytes_per_pixel);
    if (!image->pixel) return bwi_fail(err, BW_NOMEM, "no memory for an image of %" PRId64 " x %" PRId64 " pixels", w, h);
    image->h = (int)h;
    image->w = (int)w;
    return BW_OK;
}

void bwi_image_free(bwi_image *image)
{
    bwi_free(image->pixel);
    *image = (bwi_image){0};
}

/* ---- Fitting ------------------------------------------------------------------------------------------------------------- */

/* One direction: result k of n is the sum of weight[k][i] times pixel from[k] + i, i < count[k]. */
typedef struct resampling {
    int n, taps, *from, *count;
    float *weight; /* [n][taps] */
} resampling;

static void release(resampling *r)
{
    bwi_free(r->from);
    bwi_free(r->weight);
}

/* Results first .. first + n - 1 of a line of `length` pixels that becomes one of `size`. */
static bw_status prepare(resampling *r, int length, double size, double first, int n, bw_error *err)
{
    const double step = length / size, reach = step > 1 ? step : 1;
    *r = (resampling){.n = n, .taps = (int)(2 * reach) + 3};
    size_t weights;
    if (bwi_mul((size_t)n * sizeof *r->weight, (size_t)r->taps, &weights)) r->weight = bwi_malloc(weights);
    r->from = bwi_malloc(2 * (size_t)n * sizeof *r->from);
    if (!r->from || !r->weight) return bwi_fail(err, BW_NOMEM, "no memory to make an image smaller");
    r->count = r->from + n;
    for (int k = 0; k < n; k++) {
        const double centre = (first + k + 0.5) * step, low = floor(centre - reach + 0.5), high = floor(centre + reach + 0.5);
        const int from = low > 0 ? (int)low : 0, to = high < length ? (int)high : length;
        float *weight = r->weight + (size_t)k * (size_t)r->taps;
        double sum = 0;
        for (int i = from; i < to; i++) sum += fmax(0, 1 - fabs(i + 0.5 - centre) / reach);
        for (int i = from; i < to; i++) weight[i - from] = (float)(fmax(0, 1 - fabs(i + 0.5 - centre) / reach) / sum);
        r->from[k] = from;
        r->count[k] = to - from;
    }
    return BW_OK;
}

static uint8_t rounded(float v)
{
    return (uint8_t)(int)(v < 255 ? v + 0.5f : 255.5f); /* sums of weights and pixels are never negative */
}

/* Pixels `from` apart in bytes: x [.. * stride], in; out [r->n] pixels, `to` apart. */
static void resample(const resampling *r, const uint8_t *x, size_t from, uint8_t *out, size_t to)
{
    for (int k = 0; k < r->n; k++, out += to) {
        const float *weight = r->weight + (size_t)k * (size_t)r->taps;
        const uint8_t *p = x + (size_t)r->from[k] * from;
        float sum[3] = {0, 0, 0};
        for (int i = 0; i < r->count[k]; i++, p += from)
            for (int c = 0; c < 3; c++) sum[c] += weight[i] * p[c];
        for (int c = 0; c < 3; c++) out[c] = rounded(sum[c]);
    }
}

static int box_of(int side)
{
    return side >= 128 ? (side * 8 + 3) / 7 : side;
}

bw_status bwi_image_fit(const bwi_image *image, int h, int w, uint8_t *out, bw_error *err)
{
    const double by_h = (double)box_of(h) / image->h, by_w = (double)box_of(w) / image->w;
    /* The longer side is cut to whole pixels, the other one is exact. */
    const double nh = by_h >= by_w ? box_of(h) : floor(image->h * by_w), nw = by_w >= by_h ? box_of(w) : floor(image->w * by_h);
    resampling x = {0}, y = {0};
    uint8_t *lines = NULL; /* [rows that are needed][w] */
    bw_status st;
    BWI_TRY(prepare(&x, image->w, nw, nearbyint((nw - w) / 2), w, err));
    BWI_TRY(prepare(&y, image->h, nh, nearbyint((nh - h) / 2), h, err));
    const int top = y.from[0], bottom = y.from[h - 1] + y.count[h - 1];
    const size_t line = (size_t)w * 3;
    lines = bwi_malloc((size_t)(bottom - top) * line);
    if (!lines) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory to make an image smaller"));
    for (int i = top; i < bottom; i++)
        resample(&x, image->pixel + (size_t)i * (size_t)image->w * 3, 3, lines + (size_t)(i - top) * line, 3);
    for (int i = 0; i < h; i++) y.from[i] -= top;
    for (size_t i = 0; i < (size_t)w; i++) resample(&y, lines + i * 3, line, out + i * 3, line);
fail:
    bwi_free(lines);
    release(&x);
    release(&y);
    return st;
}
