/* The finish for AVX-512: 64 values at a time, of two pixels and 32 channels or four pixels and 16, so that what is asked of a finish is
 * asked once for all of them. */
#if defined(__x86_64__)
#include "base/inline.h"
#include "kernels/finish_scalar.h"
#include <immintrin.h>

#define EACH BWI_UNROLL for (int i = 0; i < n; i++)

/* Where n registers of 16 values belong: with `wide` they alternate between the halves of 32 channels. */
typedef struct place {
    __mmask16 m; /* channels of a register */
    bool wide;
    int n;
} place;

BWI_INLINE size_t pixel_of(const place w, int i)
{
    return (size_t)(w.wide ? i / 2 : i);
}

BWI_INLINE size_t half_of(const place w, int i)
{
    return (size_t)(w.wide ? i % 2 : 0);
}

/* Codes as bytes; pixel i to to + i * stride. Both byte types: codes are those of one of them. */
BWI_INLINE void put_codes(const __m512i *whole, const place w, uint8_t *to, size_t stride, bool is_signed)
{
    const int n = w.n;
    if (n != 4 || w.m != 0xffff) {
        EACH _mm_mask_storeu_epi8(to + pixel_of(w, i) * stride + 16 * half_of(w, i), w.m, _mm512_cvtepi32_epi8(whole[i]));
        return;
    }
    /* Packing works within 128 bits: lane l gets channels 4l to 4l + 3 of all four registers. The permutation puts each together. */
    const __m512i a = _mm512_packs_epi32(whole[0], whole[1]), b = _mm512_packs_epi32(whole[2], whole[3]);
    const __m512i lanes = is_signed ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i rows = _mm512_permutexvar_epi32(order, lanes);
    if (stride == (w.wide ? 32 : 16)) { /* the map has no other channels */
        _mm512_storeu_si512(to, rows);
        return;
    }
    if (w.wide) {
        _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(rows));
        _mm256_storeu_si256((__m256i *)(to + stride), _mm512_extracti64x4_epi64(rows, 1));
        return;
    }
    _mm_storeu_si128((__m128i *)to, _mm512_castsi512_si128(rows));
    _mm_storeu_si128((__m128i *)(to + stride), _mm512_extracti32x4_epi32(rows, 1));
    _mm_storeu_si128((__m128i *)(to + 2 * stride), _mm512_extracti32x4_epi32(rows, 2));
    _mm_storeu_si128((__m128i *)(to + 3 * stride), _mm512_extracti32x4_epi32(rows, 3));
}

/* What belongs to 16 channels. */
typedef struct lane {
    __m512 bias, a, b;
} lane;

/* What there is to do. Known when compiled for the common forms, where it costs nothing to ask. */
typedef struct form {
    bool mul, window, shift, bias, norm, residual, relu, real;
    bool sub, add, low; /* of codes: whether they need the subtraction, the addition, the lower limit */
    bool zero;          /* in place of a ReLU that only codes would see: packing to uint8 makes 0 of what is less */
    int codes;
} form;

static form form_of(const bwk_finish *f)
{
    form o = {
        .mul = f->sum_mul != 1, .window = f->window && f->sum_add, .bias = f->bias, .norm = f->a, .residual = f->residual};
    o.shift = f->sum_shift != 0, o.relu = f->relu, o.real = f->real, o.codes = f->n_codes;
    for (int k = 0; k < f->n_codes; k++) {
        const bwk_codes *q = &f->codes[k];
        /* Adding or subtracting zero changes at most the sign of a zero, which a code does not have. */
        o.sub = o.sub || q->sub != 0, o.add = o.add || q->add != 0;
        o.low = o.low || !(f->relu && q->sub == 0 && q->mul >= 0 && q->add >= 0 && q->lo <= 0); /* else nothing lies below lo */
    }
    return o;
}

BWI_INLINE void values_of(const bwk_finish *f, const form o, const place w, const lane *l, size_t pixel, size_t channel,
                          const int32_t *acc, size_t stride)
{
    const int n = w.n;
    const size_t row = (size_t)f->channels, at = pixel * row + channel;
    size_t to[4];
    __m512i sum[4];
    __m512 t[4];
    EACH to[i] = at + pixel_of(w, i) * row + 16 * half_of(w, i);
    EACH sum[i] = _mm512_maskz_loadu_epi32(w.m, acc + pixel_of(w, i) * stride + 16 * half_of(w, i));
    if (o.mul) EACH sum[i] = _mm512_mullo_epi32(sum[i], _mm512_set1_epi32(f->sum_mul));
    if (o.window) EACH sum[i] = _mm512_add_epi32(sum[i], _mm512_set1_epi32(f->sum_add * f->window[pixel + pixel_of(w, i)]));
    EACH t[i] = _mm512_cvtepi32_ps(sum[i]);
    if (o.shift) EACH t[i] = _mm512_add_ps(t[i], _mm512_set1_ps(f->sum_shift * (float)f->window[pixel + pixel_of(w, i)]));
    EACH t[i] = _mm512_mul_ps(t[i], _mm512_set1_ps(f->scale));
    if (o.bias) EACH t[i] = _mm512_add_ps(t[i], l[half_of(w, i)].bias);
    if (o.norm) /* never fused: the definition rounds twice */
        EACH t[i] = _mm512_add_ps(_mm512_mul_ps(t[i], l[half_of(w, i)].a), l[half_of(w, i)].b);
    if (o.residual) EACH t[i] = _mm512_add_ps(t[i], _mm512_maskz_loadu_ps(w.m, f->residual + to[i]));
    if (o.relu) EACH t[i] = _mm512_max_ps(_mm512_setzero_ps(), t[i]); /* in this order -0 stays -0 */
    if (o.real) EACH _mm512_mask_storeu_ps(f->real + to[i], w.m, t[i]);
    for (int k = 0; k < o.codes; k++) {
        const bwk_codes *q = &f->codes[k];
        __m512 v[4];
        __m512i whole[4];
        EACH v[i] = o.sub ? _mm512_sub_ps(t[i], _mm512_set1_ps(q->sub)) : t[i];
        EACH v[i] = _mm512_mul_ps(v[i], _mm512_set1_ps(q->mul));
        if (o.add) EACH v[i] = _mm512_add_ps(v[i], _mm512_set1_ps(q->add));
        if (o.low) EACH v[i] = _mm512_max_ps(v[i], _mm512_set1_ps(q->lo));
        if (o.zero && (n != 4 || w.m != 0xffff)) EACH v[i] = _mm512_max_ps(_mm512_setzero_ps(), v[i]); /* not packed */
        EACH whole[i] = _mm512_cvtps_epi32(_mm512_min_ps(v[i], _mm512_set1_ps(q->hi)));
        put_codes(whole, w, (uint8_t *)q->to + at, row, !o.zero && q->lo < 0);
    }
}

BWI_INLINE lane lane_of(const bwk_finish *f, const form o, __mmask16 m, int channel)
{
    const __m512 none = _mm512_setzero_ps();
    return (lane){.bias = o.bias ? _mm512_maskz_loadu_ps(m, f->bias + channel) : none,
                  .a = o.norm ? _mm512_maskz_loadu_ps(m, f->a + channel) : none,
                  .b = o.norm ? _mm512_maskz_loadu_ps(m, f->b + channel) : none};
}

/* A block: 16 channels where m is constant and 4 pixels at a time, or 32 and 2. */
BWI_INLINE void columns_of(const bwk_finish *f, const form o, __mmask16 m, const bool wide, int pixel, int pixels, int channel,
                           const int32_t *acc, int stride)
{
    const lane l[2] = {lane_of(f, o, m, channel), lane_of(f, o, wide ? m : (__mmask16)0, wide ? channel + 16 : channel)};
    const int most = wide ? 2 : 4;
    int p = 0;
    for (; p + most <= pixels; p += most)
        values_of(f, o, (place){m, wide, 4}, l, (size_t)(pixel + p), (size_t)channel, acc + (size_t)p * stride, (size_t)stride);
    for (; p < pixels; p++)
        values_of(f, o, (place){m, wide, wide ? 2 : 1}, l, (size_t)(pixel + p), (size_t)channel, acc + (size_t)p * stride,
                  (size_t)stride);
}

BWI_INLINE void finish(const bwk_finish *f, const form o, int pixel, int pixels, int channel, int channels, const int32_t *acc,
                       int stride)
{
    int c = 0;
    for (; c + 32 <= channels; c += 32) columns_of(f, o, 0xffff, true, pixel, pixels, channel + c, acc + c, stride);
    for (; c + 16 <= channels; c += 16) columns_of(f, o, 0xffff, false, pixel, pixels, channel + c, acc + c, stride);
    if (c < channels)
        columns_of(f, o, (__mmask16)((1u << (channels - c)) - 1), false, pixel, pixels, channel + c, acc + c, stride);
}

bwk_finish_fn bwk_finish_avx512;
void bwk_finish_avx512(void *arg, int pixel, int pixels, int channel, int channels, const int32_t *acc, int stride)
{
    const bwk_finish *given = arg;
    if (given->window && given->group) { /* rare */
        bwk_finish_ref(arg, pixel, pixels, channel, channels, acc, stride);
        return;
    }
    const bool plain = given->sum_mul == 1 && !given->window && !given->bias && given->n_codes == 1;
    const form o = form_of(given);
    if (!plain || !o.norm || !o.relu || o.sub || o.add || o.low) {
        finish(given, o, pixel, pixels, channel, channels, acc, stride);
        return;
    }
    /* The usual forms: batch norm, ReLU and codes from 0 up; with a residual to add, with real values to keep, or both. The copy is one
     * that codes and real values, when they are written, cannot change. */
    bwk_finish f;
    f.channels = given->channels, f.scale = given->scale, f.a = given->a, f.b = given->b;
    f.residual = given->residual, f.real = given->real, f.codes[0] = given->codes[0];
    if (!o.residual && !o.real)
        finish(&f, (form){.norm = 1, .zero = 1, .codes = 1}, pixel, pixels, channel, channels, acc, stride);
    else if (!o.residual)
        finish(&f, (form){.norm = 1, .relu = 1, .codes = 1, .real = 1}, pixel, pixels, channel, channels, acc, stride);
    else if (!o.real)
        finish(&f, (form){.norm = 1, .zero = 1, .codes = 1, .residual = 1}, pixel, pixels, channel, channels, acc, stride);
    else
        finish(&f, (form){.norm = 1, .relu = 1, .codes = 1, .residual = 1, .real = 1}, pixel, pixels, channel, channels, acc,
               stride);
}
#endif
