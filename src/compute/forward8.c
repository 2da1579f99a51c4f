#include "compute/forward8.h"
#include "base/alloc.h"
#include "base/par.h"
#include "compute/spec.h"
#include "kernels/conv.h"
#include "kernels/finish.h"

struct bwi_forward8 {
    int n, threads;
    bwk_conv_spec spec;
    const bwk_conv *kernel;
    bwk_finish_fn *finish;
    float scale;
    size_t in, out, share; /* elements of an image; bytes of a thread's scratch */
    int8_t *w;             /* [oc,kh,kw,ic/groups] */
    void *packed;
};

static bwk_conv_spec kernel_spec(const bwi_conv_spec *s)
{
    return (bwk_conv_spec){.ih = s->ih,
                           .iw = s->iw,
                           .ic = s->ic,
                           .oh = bwi_conv_out(s->ih, s->kh, s->stride, s->pad),
                           .ow = bwi_conv_out(s->iw, s->kw, s->stride, s->pad),
                           .oc = s->oc,
                           .kh = s->kh,
                           .kw = s->kw,
                           .stride = s->stride,
                           .pad = s->pad,
                           .groups = s->groups,
                           .wbits = s->wbits,
                           .abits = s->abits};
}

bw_status bwi_forward8_create(const bwi_conv_spec *s, bwi_forward8 **out, bw_error *err)
{
    char text[BWI_CONV_TEXT];
    const bwk_conv_spec spec = kernel_spec(s);
    const bwk_conv *kernel = bwk_conv_choose(&spec);
    const int64_t terms = (int64_t)s->kh * s->kw * (s->ic / s->groups), most = ((int64_t)1 << s->abits) << (s->wbits - 1);
    *out = NULL;
    if (!kernel->needs)
        return bwi_fail(err, BW_UNSUPPORTED, "%s: no products of bytes on this CPU, or not in groups", bwi_conv_text(s, text));
    if (terms > INT32_MAX / most)
        return bwi_fail(err, BW_UNSUPPORTED, "%s: sums of bytes that may leave 32 bits", bwi_conv_text(s, text));
    bwi_forward8 *f = bwi_calloc(1, sizeof *f);
    if (!f) goto nomem;
    f->n = s->n, f->threads = bwi_threads(), f->spec = spec, f->kernel = kernel, f->finish = bwk_finish_for_cpu();
    f->in = bwi_conv_src_size(s) / (size_t)s->n, f->out = bwi_conv_dst_size(s) / (size_t)s->n;
    f->share = bwi_conv_round(kernel->scratch_size(&spec));
    f->w = bwi_malloc(bwi_conv_weights_size(s));
    f->packed = bwi_malloc(kernel->packed_size(&spec));
    if (!f->w || !f->packed) goto nomem;
    *out = f;
    return BW_OK;
nomem:
    bwi_forward8_destroy(&f);
    return bwi_fail(err, BW_NOMEM, "out of memory for a convolution");
}

void bwi_forward8_destroy(bwi_forward8 **f)
{
    if (!*f) return;
    bwi_free((*f)->w);
    bwi_free((*f)->packed);
    bwi_free(*f);
    *f = NULL;
}

size_t bwi_forward8_scratch(const bwi_forward8 *f)
{
    return (size_t)f->threads * f->share;
}

void bwi_forward8_weights(bwi_forward8 *f, const float *w, double scale)
{
    const bwk_conv_spec *s = &f->spec;
    const size_t n = (size_t)s->oc * (size_t)s->kh * (size_t)s->kw * (size_t)(s->ic / s->groups);
    f->scale = (float)scale;
    for (size_t i = 0; i < n; i++) f->w[i] = (int8_t)w[i];
    f->kernel->pack(s, f->w, f->packed);
}

void bwi_forward8_run(const bwi_forward8 *f, const uint8_t *src, float *dst, void *scratch)
{
#pragma omp parallel for schedule(static) num_threads(f->threads)
    for (int i = 0; i < f->n; i++) {
        bwk_finish finish = {.channels = f->spec.oc, .sum_mul = 1, .scale = f->scale, .real = dst + (size_t)i * f->out};
        f->kernel->run(&f->spec, f->packed, src + (size_t)i * f->in, 0, f->spec.oh,
                       (char *)scratch + (size_t)bwi_thread() * f->share, f->finish, &finish);
    }
}
