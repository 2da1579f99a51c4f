/* The finish for AVX2: 8 channels at a time; channels that are left over go the scalar way. */
#if defined(__x86_64__)
#include "kernels/finish_scalar.h"
#include <immintrin.h>

/* Eight channels of one pixel. Multiplications and additions stay apart: a fused one would round once where the definition rounds twice. */
static inline void eight(const bwk_finish *f, size_t pixel, size_t channel, const int32_t *acc)
{
    const size_t at = pixel * (size_t)f->channels + channel;
    __m256i sum = _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)acc), _mm256_set1_epi32(f->sum_mul));
    if (f->window) sum = _mm256_add_epi32(sum, _mm256_set1_epi32(f->sum_add * f->window[pixel]));
    __m256 t = _mm256_cvtepi32_ps(sum);
    if (f->sum_shift != 0) t = _mm256_add_ps(t, _mm256_set1_ps(f->sum_shift * (float)f->window[pixel]));
    t = _mm256_mul_ps(t, _mm256_set1_ps(f->scale));
    if (f->bias) t = _mm256_add_ps(t, _mm256_loadu_ps(f->bias + channel));
    if (f->a) t = _mm256_add_ps(_mm256_mul_ps(t, _mm256_loadu_ps(f->a + channel)), _mm256_loadu_ps(f->b + channel));
    if (f->residual) t = _mm256_add_ps(t, _mm256_loadu_ps(f->residual + at));
    if (f->relu) t = _mm256_max_ps(_mm256_setzero_ps(), t); /* in this order -0 stays -0 */
    if (f->real) _mm256_storeu_ps(f->real + at, t);
    for (int i = 0; i < f->n_codes; i++) {
        const bwk_codes *q = &f->codes[i];
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(t, _mm256_set1_ps(q->sub)), _mm256_set1_ps(q->mul));
        v = _mm256_add_ps(v, _mm256_set1_ps(q->add));
        v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(q->lo)), _mm256_set1_ps(q->hi));
        const __m256i whole = _mm256_cvtps_epi32(v);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        const __m128i low = _mm_and_si128(words, _mm_set1_epi16(255)); /* uint8 and int8 codes alike */
        _mm_storel_epi64((__m128i *)((uint8_t *)q->to + at), _mm_packus_epi16(low, low));
    }
}

bwk_finish_fn bwk_finish_avx2;
void bwk_finish_avx2(void *finish, int pixel, int pixels, int channel, int channels, const int32_t *acc, int stride)
{
    const bwk_finish *f = finish;
    if (f->window && f->group) { /* rare */
        bwk_finish_ref(finish, pixel, pixels, channel, channels, acc, stride);
        return;
    }
    for (int p = 0; p < pixels; p++, acc += stride) {
        int c = 0;
        for (; c + 8 <= channels; c += 8) eight(f, (size_t)(pixel + p), (size_t)(channel + c), acc + c);
        for (; c < channels; c++) bwk_finish_scalar(f, (size_t)(pixel + p), (size_t)(channel + c), acc[c]);
    }
}
#endif
