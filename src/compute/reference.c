/* Convolutions in plain C: the meaning of compute.h, for gradient checks in double and as the measure of every other table.
 * Codes are converted to `real` in scratch first, so that every loop is over reals. Forward sums are in double, so that those of integers are
 * exact; backward passes add up in their results, and round nothing for I16. Nothing depends on the number of threads: each output belongs
 * to one iteration. */
#include "base/variant.h"
#if BWI_VARIANT == BWI_F64 || BWI_VARIANT == BWI_F32
#include "base/alloc.h"
#include "compute/compute.h"
#include "compute/spec.h"
#include <assert.h>
#include <string.h>

struct bwi_conv {
    bwi_conv_spec spec;
    int oh, ow, icg, ocg;
    real *w, *w_back; /* OHWI; scales folded in except where the source holds codes */
    real scale;       /* of the forward sum: 1 unless the source holds codes */
};

static void conv_destroy(bwi_conv **conv)
{
    if (!*conv) return;
    bwi_free((*conv)->w);
    bwi_free((*conv)->w_back);
    bwi_free(*conv);
    *conv = NULL;
}

static bw_status conv_create(const bwi_conv_spec *spec, bwi_conv **out, bw_error *err)
{
    *out = NULL;
    bw_status st = bwi_conv_check(spec, BWI_REAL_DT, err);
    if (st != BW_OK) return st;
    bwi_conv *c = bwi_calloc(1, sizeof *c);
    if (!c) goto nomem;
    c->spec = *spec;
    c->oh = bwi_conv_out(spec->ih, spec->kh, spec->stride, spec->pad);
    c->ow = bwi_conv_out(spec->iw, spec->kw, spec->stride, spec->pad);
    c->icg = spec->ic / spec->groups;
    c->ocg = spec->oc / spec->groups;
    c->w = bwi_calloc(bwi_conv_weights_size(spec), sizeof(real));
    c->w_back = bwi_calloc(bwi_conv_weights_size(spec), sizeof(real));
    if (!c->w || !c->w_back) goto nomem;
    *out = c;
    return BW_OK;
nomem:
    conv_destroy(&c);
    return bwi_fail(err, BW_NOMEM, "out of memory for a convolution");
}

static size_t conv_scratch(const bwi_conv *c)
{
    return c->spec.src == BWI_DT_U8 ? bwi_conv_round(bwi_conv_src_size(&c->spec) * sizeof(real)) : 0;
}

/* The source as reals: itself, or converted into scratch. */
static const real *as_real(const bwi_conv *c, const void *src, void *scratch)
{
    if (c->spec.src != BWI_DT_U8) return src;
    real *to = scratch;
    for (size_t i = 0; i < bwi_conv_src_size(&c->spec); i++) to[i] = (real)((const uint8_t *)src)[i];
    return to;
}

static bw_status conv_weights(bwi_conv *c, const void *weights, double scale, double back_scale, void *scratch)
{
    (void)scratch;
    const real *w = weights;
    const bool after = c->spec.codes || c->spec.src == BWI_DT_U8;
    const size_t n = bwi_conv_weights_size(&c->spec);
    const real fold = after ? R(1.0) : (real)scale, back = (real)back_scale;
    c->scale = after ? (real)scale : R(1.0);
    for (size_t i = 0; i < n; i++) c->w[i] = fold * w[i];
    for (size_t i = 0; i < n; i++) c->w_back[i] = back * w[i];
    return BW_OK;
}

/* First and past-the-last kernel position whose tap of output position o lies inside [0, in). */
typedef struct taps {
    int from, to;
} taps;
static taps taps_of(int o, int stride, int pad, int k, int in)
{
    int at = o * stride - pad;
    return (taps){at < 0 ? -at : 0, at + k > in ? in - at : k};
}

static double dot(const real *restrict a, const real *restrict b, size_t n)
{
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (size_t i = 0; i < n; i++) s += (double)a[i] * (double)b[i];
    return s;
}

/* Adds f * b to a. */
static void axpy(real *restrict a, real f, const real *restrict b, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) a[i] += f * b[i];
}

/* Offsets of a pixel's first channel, and of a kernel position's first weight. */
static size_t src_at(const bwi_conv *c, int n, int y, int x)
{
    return (((size_t)n * c->spec.ih + y) * c->spec.iw + x) * c->spec.ic;
}
static size_t dst_at(const bwi_conv *c, int n, int y, int x)
{
    return (((size_t)n * c->oh + y) * c->ow + x) * c->spec.oc;
}
static size_t w_at(const bwi_conv *c, int o, int ky, int kx)
{
    return (((size_t)o * c->spec.kh + ky) * c->spec.kw + kx) * c->icg;
}

static bw_status conv_forward(bwi_conv *c, const void *source, void *dest, void *scratch)
{
    const bwi_conv_spec *s = &c->spec;
    const real *src = as_real(c, source, scratch);
    real *dst = dest;
#pragma omp parallel for collapse(2) schedule(static)
    for (int n = 0; n < s->n; n++)
        for (int oy = 0; oy < c->oh; oy++)
            for (int ox = 0; ox < c->ow; ox++) {
                const taps v = taps_of(oy, s->stride, s->pad, s->kh, s->ih), h = taps_of(ox, s->stride, s->pad, s->kw, s->iw);
                for (int o = 0; o < s->oc; o++) {
                    double sum = 0;
                    for (int ky = v.from; ky < v.to; ky++)
                        for (int kx = h.from; kx < h.to; kx++)
                            sum += dot(src + src_at(c, n, oy * s->stride - s->pad + ky, ox * s->stride - s->pad + kx) +
                                           (size_t)(o / c->ocg) * c->icg,
                                       c->w + w_at(c, o, ky, kx), (size_t)c->icg);
                    dst[dst_at(c, n, oy, ox) + o] = (real)sum * c->scale;
                }
            }
    return BW_OK;
}

static int conv_piece(const bwi_conv *c)
{
    return c->spec.n;
}

static void backward_data(const bwi_conv *c, const real *gdst, real *gsrc)
{
    const bwi_conv_spec *s = &c->spec;
    assert(s->need_gsrc);
    const size_t image = src_at(c, 1, 0, 0);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < s->n; n++) {
        for (size_t i = 0; i < image; i++) gsrc[n * image + i] = 0;
        for (int oy = 0; oy < c->oh; oy++)
            for (int ox = 0; ox < c->ow; ox++) {
                const taps v = taps_of(oy, s->stride, s->pad, s->kh, s->ih), h = taps_of(ox, s->stride, s->pad, s->kw, s->iw);
                for (int o = 0; o < s->oc; o++) {
                    const real g = gdst[dst_at(c, n, oy, ox) + o];
                    for (int ky = v.from; ky < v.to; ky++)
                        for (int kx = h.from; kx < h.to; kx++)
                            axpy(gsrc + src_at(c, n, oy * s->stride - s->pad + ky, ox * s->stride - s->pad + kx) +
                                     (size_t)(o / c->ocg) * c->icg,
                                 g, c->w_back + w_at(c, o, ky, kx), (size_t)c->icg);
                }
            }
    }
}

static void backward_weights(const bwi_conv *c, const real *src, const real *gdst, real *gw)
{
    const bwi_conv_spec *s = &c->spec;
    assert(s->train);
#pragma omp parallel for schedule(static)
    for (int o = 0; o < s->oc; o++) {
        for (size_t i = w_at(c, o, 0, 0); i < w_at(c, o + 1, 0, 0); i++) gw[i] = 0;
        for (int n = 0; n < s->n; n++)
            for (int oy = 0; oy < c->oh; oy++)
                for (int ox = 0; ox < c->ow; ox++) {
                    const taps v = taps_of(oy, s->stride, s->pad, s->kh, s->ih),
                               h = taps_of(ox, s->stride, s->pad, s->kw, s->iw);
                    const real g = gdst[dst_at(c, n, oy, ox) + o];
                    for (int ky = v.from; ky < v.to; ky++)
                        for (int kx = h.from; kx < h.to; kx++)
                            axpy(gw + w_at(c, o, ky, kx), g,
                                 src + src_at(c, n, oy * s->stride - s->pad + ky, ox * s->stride - s->pad + kx) +
                                     (size_t)(o / c->ocg) * c->icg,
                                 (size_t)c->icg);
                }
    }
}

static bw_status conv_backward(bwi_conv *c, int first, const void *src, const void *gdst, void *gw, void *gsrc, void *scratch)
{
    (void)first; /* one piece */
    if (gw) backward_weights(c, as_real(c, src, scratch), gdst, gw);
    if (gsrc) backward_data(c, gdst, gsrc);
    return BW_OK;
}

#if BWI_VARIANT == BWI_F64
const bwi_compute bwi_compute_reference_f64 = {
#else
const bwi_compute bwi_compute_reference_f32 = {
#endif
    "reference", BWI_REAL_DT, conv_create, conv_destroy, conv_scratch, conv_weights, conv_forward, conv_piece, conv_backward};
#endif
