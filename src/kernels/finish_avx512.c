/* The finish for AVX-512: 16 channels of four pixels at a time, so that what is asked of a finish is asked once for 64 values. */
#if defined(__x86_64__)
#include "kernels/finish.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH   _Pragma("GCC unroll 4") for (int i = 0; i < n; i++)

/* Codes of n pixels, 16 channels each, as bytes; row i to to + i * stride. Both byte types: codes are those of one of them. */
INLINE void put_codes(const __m512i *whole, const int n, uint8_t *to, size_t stride, __mmask16 m, bool is_signed)
{
    if (n != 4 || m != 0xffff) {
        for (int i = 0; i < n; i++) _mm_mask_storeu_epi8(to + (size_t)i * stride, m, _mm512_cvtepi32_epi8(whole[i]));
        return;
    }
    /* Packing works within 128 bits: lane l gets channels 4l to 4l + 3 of all four pixels. The permutation puts pixels together. */
    const __m512i a = _mm512_packs_epi32(whole[0], whole[1]), b = _mm512_packs_epi32(whole[2], whole[3]);
    const __m512i lanes = is_signed ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i rows = _mm512_permutexvar_epi32(order, lanes);
    _mm_storeu_si128((__m128i *)to, _mm512_castsi512_si128(rows));
    _mm_storeu_si128((__m128i *)(to + stride), _mm512_extracti32x4_epi32(rows, 1));
    _mm_storeu_si128((__m128i *)(to + 2 * stride), _mm512_extracti32x4_epi32(rows, 2));
    _mm_storeu_si128((__m128i *)(to + 3 * stride), _mm512_extracti32x4_epi32(rows, 3));
}

/* What belongs to 16 channels. */
typedef struct lane {
    __mmask16 m;
    __m512 bias, a, b;
} lane;

/* What there is to do. Known when compiled for the common forms, where it costs nothing to ask. */
typedef struct form {
    bool mul, window, bias, norm, residual, relu, real;
    bool sub, add, low; /* of codes: whether they need the subtraction, the addition, the lower limit */
    int codes;
} form;

static form form_of(const bwk_finish *f)
{
    form o = {.mul = f->sum_mul != 1, .window = f->window, .bias = f->bias, .norm = f->a, .residual = f->residual};
    o.relu = f->relu, o.real = f->real, o.codes = f->n_codes;
    for (int k = 0; k < f->n_codes; k++) {
        const bwk_codes *q = &f->codes[k];
        /* Adding or subtracting zero changes at most the sign of a zero, which a code does not have. */
        o.sub = o.sub || q->sub != 0, o.add = o.add || q->add != 0;
        o.low = o.low || !(f->relu && q->sub == 0 && q->mul >= 0 && q->add >= 0 && q->lo <= 0); /* else nothing lies below lo */
    }
    return o;
}

INLINE void pixels_of(const bwk_finish *f, const form o, const lane *l, size_t pixel, size_t channel, const int32_t *acc,
                      int stride, const int n)
{
    const size_t row = (size_t)f->channels, at = pixel * row + channel;
    __m512i sum[4];
    __m512 t[4];
    EACH sum[i] = _mm512_maskz_loadu_epi32(l->m, acc + (size_t)i * stride);
    if (o.mul) EACH sum[i] = _mm512_mullo_epi32(sum[i], _mm512_set1_epi32(f->sum_mul));
    if (o.window) EACH sum[i] = _mm512_add_epi32(sum[i], _mm512_set1_epi32(f->sum_add * f->window[pixel + i]));
    EACH t[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i]), _mm512_set1_ps(f->scale));
    if (o.bias) EACH t[i] = _mm512_add_ps(t[i], l->bias);
    if (o.norm) EACH t[i] = _mm512_add_ps(_mm512_mul_ps(t[i], l->a), l->b); /* never fused: the definition rounds twice */
    if (o.residual) EACH t[i] = _mm512_add_ps(t[i], _mm512_maskz_loadu_ps(l->m, f->residual + at + (size_t)i * row));
    if (o.relu) EACH t[i] = _mm512_max_ps(_mm512_setzero_ps(), t[i]); /* in this order -0 stays -0 */
    if (o.real) EACH _mm512_mask_storeu_ps(f->real + at + (size_t)i * row, l->m, t[i]);
    for (int k = 0; k < o.codes; k++) {
        const bwk_codes *q = &f->codes[k];
        __m512 v[4];
        __m512i whole[4];
        EACH v[i] = o.sub ? _mm512_sub_ps(t[i], _mm512_set1_ps(q->sub)) : t[i];
        EACH v[i] = _mm512_mul_ps(v[i], _mm512_set1_ps(q->mul));
        if (o.add) EACH v[i] = _mm512_add_ps(v[i], _mm512_set1_ps(q->add));
        if (o.low) EACH v[i] = _mm512_max_ps(v[i], _mm512_set1_ps(q->lo));
        EACH whole[i] = _mm512_cvtps_epi32(_mm512_min_ps(v[i], _mm512_set1_ps(q->hi)));
        put_codes(whole, n, (uint8_t *)q->to + at, row, l->m, q->lo < 0);
    }
}

INLINE void finish(const bwk_finish *f, const form o, int pixel, int pixels, int channel, int channels, const int32_t *acc,
                   int stride)
{
    for (int c = 0; c < channels; c += 16) {
        const int left = channels - c, at = channel + c;
        lane l = {.m = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff};
        l.bias = o.bias ? _mm512_maskz_loadu_ps(l.m, f->bias + at) : _mm512_setzero_ps();
        l.a = o.norm ? _mm512_maskz_loadu_ps(l.m, f->a + at) : _mm512_setzero_ps();
        l.b = o.norm ? _mm512_maskz_loadu_ps(l.m, f->b + at) : _mm512_setzero_ps();
        int p = 0;
        for (; p + 4 <= pixels; p += 4)
            pixels_of(f, o, &l, (size_t)(pixel + p), (size_t)at, acc + (size_t)p * stride + c, stride, 4);
        for (; p < pixels; p++) pixels_of(f, o, &l, (size_t)(pixel + p), (size_t)at, acc + (size_t)p * stride + c, stride, 1);
    }
}

bwk_finish_fn bwk_finish_avx512;
void bwk_finish_avx512(void *arg, int pixel, int pixels, int channel, int channels, const int32_t *acc, int stride)
{
    const bwk_finish f = *(const bwk_finish *)arg; /* here, codes that are written cannot change it */
    const form o = form_of(&f);
    /* Batch norm, ReLU and codes from 0 up; with a residual to add, with real values to keep, or both. */
    const bool usual = !o.mul && !o.window && !o.bias && o.norm && o.relu && !o.sub && !o.add && !o.low && o.codes == 1;
    if (!usual)
        finish(&f, o, pixel, pixels, channel, channels, acc, stride);
    else if (!o.residual && !o.real)
        finish(&f, (form){.norm = 1, .relu = 1, .codes = 1}, pixel, pixels, channel, channels, acc, stride);
    else if (!o.residual)
        finish(&f, (form){.norm = 1, .relu = 1, .codes = 1, .real = 1}, pixel, pixels, channel, channels, acc, stride);
    else if (!o.real)
        finish(&f, (form){.norm = 1, .relu = 1, .codes = 1, .residual = 1}, pixel, pixels, channel, channels, acc, stride);
    else
        finish(&f, (form){.norm = 1, .relu = 1, .codes = 1, .residual = 1, .real = 1}, pixel, pixels, channel, channels, acc,
               stride);
}
#endif
