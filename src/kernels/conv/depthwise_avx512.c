/* Depthwise convolution for AVX-512: as many groups as input and output channels. Codes of two taps are interleaved and widened to 16 bits,
 * and vpmaddwd adds their products in 32; blocks of 4 pixels x 16 channels share the weights of a pair of taps. */
#if defined(__x86_64__)
#include "base/cpu.h"
#include "base/inline.h"
#include "kernels/conv/strip.h"
#include <immintrin.h>

enum {
    PIXELS = 4, /* of a block */
    LANES = 16, /* channels of a block */
    SEGMENT = 64,
    STRIP_BYTES = 32 * 1024
};

typedef struct geometry {
    size_t pairs; /* of taps; the last may have only one */
    int rows;     /* output rows of a strip */
    bwk_strip strip;
    size_t strip_bytes, tap_bytes;
} geometry;

static geometry geometry_of(const bwk_conv_spec *s)
{
    geometry g = {.pairs = (size_t)(s->kh * s->kw + 1) / 2, .rows = s->oh};
    g.strip = (bwk_strip){.width = s->iw + 2 * s->pad, .channel = s->ic};
    const size_t row = (size_t)g.strip.width * s->ic;
    while (g.rows > 1 && ((size_t)(g.rows - 1) * s->stride + s->kh) * row > STRIP_BYTES) g.rows = (g.rows + 1) / 2;
    g.strip_bytes = bwk_round(((size_t)(g.rows - 1) * s->stride + s->kh) * row, 64);
    g.tap_bytes = bwk_round(2 * g.pairs * sizeof(size_t), 64);
    return g;
}

static bool accepts(const bwk_conv_spec *s)
{
    return s->groups > 1 && s->groups == s->ic && s->groups == s->oc;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    return bwk_round((size_t)s->oc, LANES) * geometry_of(s).pairs * 2 * sizeof(int16_t);
}

/* For each 16 channels [pairs][16][2] int16. */
static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    const geometry g = geometry_of(s);
    int16_t *to = packed;
    memset(packed, 0, packed_size(s));
    for (size_t o = 0; o < (size_t)s->oc; o++)
        for (size_t k = 0; k < (size_t)(s->kh * s->kw); k++)
            to[((o / LANES * g.pairs + k / 2) * LANES + o % LANES) * 2 + k % 2] = *w++;
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    return g.strip_bytes + g.tap_bytes + (size_t)SEGMENT * LANES * sizeof(int32_t);
}

/* What blocks of a run share. */
typedef struct job {
    const int16_t *w;
    const size_t *tap; /* [pairs][2] bytes from a pixel's first tap */
    size_t pairs, pixel;
    __mmask16 m; /* channels */
} job;

/* n pixels x 16 channels to acc [n][16]. */
BWI_INLINE void block(const job *j, const uint8_t *in, int32_t *acc, const int n, const bool is_signed)
{
    __m512i sum[PIXELS];
    BWI_UNROLL for (int i = 0; i < n; i++) sum[i] = _mm512_setzero_si512();
    for (size_t k = 0; k < j->pairs; k++) {
        const __m512i w = _mm512_load_si512(j->w + k * (2 * LANES));
        BWI_UNROLL for (int i = 0; i < n; i++)
        {
            const uint8_t *at = in + (size_t)i * j->pixel;
            const __m128i a = _mm_maskz_loadu_epi8(j->m, at + j->tap[2 * k]),
                          b = _mm_maskz_loadu_epi8(j->m, at + j->tap[2 * k + 1]);
            const __m256i both =
                _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi8(a, b)), _mm_unpackhi_epi8(a, b), 1);
            const __m512i codes = is_signed ? _mm512_cvtepi8_epi16(both) : _mm512_cvtepu8_epi16(both);
            sum[i] = _mm512_add_epi32(sum[i], _mm512_madd_epi16(codes, w));
        }
    }
    BWI_UNROLL for (int i = 0; i < n; i++) _mm512_store_si512(acc + (size_t)i * LANES, sum[i]);
}

/* `pixels` neighbours of a row. */
BWI_INLINE void segment(const job *j, const uint8_t *in, int pixels, int32_t *acc, const bool is_signed)
{
    int p = 0;
    for (; p + PIXELS <= pixels; p += PIXELS) block(j, in + (size_t)p * j->pixel, acc + (size_t)p * LANES, PIXELS, is_signed);
    for (; p < pixels; p++) block(j, in + (size_t)p * j->pixel, acc + (size_t)p * LANES, 1, is_signed);
}

static void run(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg)
{
    const geometry g = geometry_of(s);
    uint8_t *strip = scratch;
    size_t *tap = (size_t *)(strip + g.strip_bytes);
    int32_t *acc = (int32_t *)((uint8_t *)tap + g.tap_bytes);
    const size_t pitch = (size_t)g.strip.width * s->ic;
    for (size_t k = 0; k < 2 * g.pairs; k++) { /* a tap too many has weight 0 and reads the last one again */
        const size_t t = k < (size_t)(s->kh * s->kw) ? k : k - 1;
        tap[k] = t / (size_t)s->kw * pitch + t % (size_t)s->kw * (size_t)s->ic;
    }
    job j = {.tap = tap, .pairs = g.pairs, .pixel = (size_t)s->stride * s->ic};
    for (int first = row, end = row + rows; first < end; first += g.rows) {
        const int n = end - first < g.rows ? end - first : g.rows;
        bwk_strip_fill(&g.strip, s, x, first * s->stride - s->pad, (n - 1) * s->stride + s->kh, strip);
        for (int o = 0; o < s->oc; o += LANES) {
            const int channels = s->oc - o < LANES ? s->oc - o : LANES;
            j.w = (const int16_t *)packed + (size_t)o * g.pairs * 2;
            j.m = (__mmask16)((1u << channels) - 1);
            for (int y = 0; y < n; y++)
                for (int at = 0; at < s->ow; at += SEGMENT) {
                    const int pixels = s->ow - at < SEGMENT ? s->ow - at : SEGMENT;
                    const uint8_t *in = strip + (size_t)y * s->stride * pitch + (size_t)at * j.pixel + o;
                    if (s->asigned)
                        segment(&j, in, pixels, acc, true);
                    else
                        segment(&j, in, pixels, acc, false);
                    store(arg, (first + y) * s->ow + at, pixels, o, channels, acc, LANES);
                }
        }
    }
}

const bwk_conv bwk_conv_depthwise_avx512 = {
    .name = "depthwise",
    .summary = "AVX-512, as many groups as input and output channels",
    .needs = BWI_CPU_AVX512,
    .row_grain = 1,
    .accepts = accepts,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
#endif
