/* Weights of one or two bits by table look-up, on AVX2: 128 products of codes and bits at a time.
 *
 * Four codes have sixteen sums of some of them. So each pixel of the input becomes tables of these sums, one for four channels, which all
 * output channels and all positions of the kernel share; four bits of a weight are an index, and vpshufb looks up 32 channels at once.
 * Sums of bytes stay below 256 for a known number of steps and are then added in 16 bits.
 *
 * A weight of two bits is -2 b1 + b0, two such planes. One of one bit is 2 b - 1: twice the sum, less all codes under the kernel. */
#if defined(__x86_64__)
#include "base/cpu.h"
#include "base/inline.h"
#include "kernels/conv/strip.h"
#include <immintrin.h>

enum {
    PIXELS = 4, /* of a block; 8 registers of sums, 2 of indices, 1 of tables */
    LANES = 64, /* bits looked up in a step: those of 64 channels, or both of 32 */
    SEGMENT = 64,
    STRIP_BYTES = 64 * 1024, /* of tables at once, unless a row needs more */
    TABLE = 16,
    SLACK = 64
};

typedef struct geometry {
    size_t fits;   /* look-ups whose sum fits a byte */
    size_t tables; /* of a pixel */
    size_t run;    /* tables under a row of the kernel */
    size_t row;    /* bytes of tables of a row of the input, its padding included */
    int channels;  /* of a block */
    int rows;      /* output rows of a strip */
    size_t strip_bytes, window_bytes, total_bytes;
} geometry;

static geometry geometry_of(const bwk_conv_spec *s)
{
    geometry g = {.fits = (size_t)(255 / (4 * ((1 << s->abits) - 1))),
                  .tables = (size_t)(s->ic + 3) / 4,
                  .channels = LANES / s->wbits,
                  .rows = s->oh};
    const size_t width = (size_t)s->iw + 2 * (size_t)s->pad;
    g.run = (size_t)s->kw * g.tables;
    g.row = width * g.tables * TABLE;
    while (g.rows > 1 && ((size_t)(g.rows - 1) * s->stride + s->kh) * g.row > STRIP_BYTES) g.rows = (g.rows + 1) / 2;
    const size_t rows = (size_t)(g.rows - 1) * s->stride + s->kh;
    g.strip_bytes = bwk_round(rows * g.row + SLACK, 64);
    g.total_bytes = bwk_round(rows * width * sizeof(int32_t), 64);
    g.window_bytes = bwk_round((size_t)g.rows * s->ow * sizeof(int32_t), 64);
    return g;
}

static bool accepts(const bwk_conv_spec *s)
{
    if (s->groups != 1 || s->wbits > 2 || s->abits > 6 || s->asigned) return false; /* above, not even one sum fits a byte */
    return (size_t)s->kh * s->kw * s->ic * ((1u << s->abits) - 1) <= UINT16_MAX;
}

/* What a block looks up in a step: 32 channels, 64, or both bits of 32. */
enum { NARROW, WIDE, TWO_BITS, KINDS };

static int kind_of(const bwk_conv_spec *s, int o)
{
    return s->wbits == 2 ? TWO_BITS : s->oc - o > LANES / 2 ? WIDE : NARROW;
}

/* Bytes of the weights before channel o, which begins a block. */
static size_t weights_before(const bwk_conv_spec *s, const geometry *g, int o)
{
    return (size_t)(o / g->channels) * LANES * s->kh * g->run;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    return bwk_round((size_t)s->oc, (size_t)g.channels) * s->wbits * s->kh * g.run;
}

/* Where a channel of 32 lies: its sums of bytes come apart into even and odd ones, 16 channels each. */
static size_t lane_of(size_t c)
{
    return c % 32 % 16 * 2 + c % 32 / 16;
}

/* For each block of channels [kh][run][halves][32] indices; the halves are the lower and the upper channels, or bits. */
static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    const geometry g = geometry_of(s);
    memset(packed, 0, packed_size(s));
    for (int o = 0; o < s->oc; o++) {
        const int first = o / g.channels * g.channels;
        const size_t step = kind_of(s, first) == NARROW ? 32 : 64, c = (size_t)(o - first);
        uint8_t *to = (uint8_t *)packed + weights_before(s, &g, o) + lane_of(c);
        for (size_t k = 0; k < (size_t)s->kh * s->kw; k++)
            for (size_t i = 0; i < (size_t)s->ic; i++, w++) {
                uint8_t *at = to + (k * g.tables + i / 4) * step;
                if (s->wbits == 1)
                    at[c / 32 * 32] |= (uint8_t)((*w > 0) << i % 4);
                else
                    at[0] |= (uint8_t)((*w & 1) << i % 4), at[32] |= (uint8_t)((*w >> 1 & 1) << i % 4);
            }
    }
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    return g.strip_bytes + g.total_bytes + g.window_bytes + (size_t)SEGMENT * LANES * sizeof(int32_t);
}

/* ---- Tables -------------------------------------------------------------------------------------------------------------- */
/* Which of 16 codes the four terms of each entry are; a negative index is no code. */
typedef struct terms {
    __m256i of[2][4]; /* two tables a register */
} terms;

BWI_INLINE terms all_terms(void)
{
    const __m256i entry = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                                           10, 11, 12, 13, 14, 15);
    const __m256i second = _mm256_setr_epi64x(0, 0, 0x0404040404040404, 0x0404040404040404);
    terms t;
    BWI_UNROLL for (int half = 0; half < 2; half++) BWI_UNROLL for (int i = 0; i < 4; i++)
    {
        const __m256i bit = _mm256_set1_epi8((char)(1 << i));
        const __m256i none = _mm256_andnot_si256(_mm256_cmpeq_epi8(_mm256_and_si256(entry, bit), bit), _mm256_set1_epi8(-128));
        t.of[half][i] = _mm256_or_si256(none, _mm256_add_epi8(second, _mm256_set1_epi8((char)(8 * half + i))));
    }
    return t;
}

/* The four tables of 16 codes, and the sum of these. */
BWI_INLINE int32_t four_tables(const terms *t, __m128i codes, uint8_t *to)
{
    const __m256i x = _mm256_broadcastsi128_si256(codes);
    BWI_UNROLL for (int half = 0; half < 2; half++)
    {
        const __m256i *of = t->of[half];
        const __m256i low = _mm256_add_epi8(_mm256_shuffle_epi8(x, of[0]), _mm256_shuffle_epi8(x, of[1]));
        const __m256i high = _mm256_add_epi8(_mm256_shuffle_epi8(x, of[2]), _mm256_shuffle_epi8(x, of[3]));
        _mm256_storeu_si256((__m256i *)(to + 32 * half), _mm256_add_epi8(low, high));
    }
    const __m128i sums = _mm_sad_epu8(codes, _mm_setzero_si128());
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
}

/* Tables of the rows first .. first + rows - 1 of the input, and the sum of each pixel's codes; outside the map both are zero. A pixel's
 * last tables may be written beyond its end, where what follows comes later. */
static void fill(const geometry *g, const bwk_conv_spec *s, const uint8_t *x, int first, int rows, uint8_t *to, int32_t *total)
{
    const terms t = all_terms();
    const size_t pixel = g->tables * TABLE, pad = (size_t)s->pad, width = (size_t)s->iw + 2 * pad;
    memset(total, 0, (size_t)rows * width * sizeof *total);
    for (int y = first; y < first + rows; y++, to += g->row, total += width) {
        if (y < 0 || y >= s->ih) {
            memset(to, 0, g->row);
            continue;
        }
        const uint8_t *from = x + (size_t)y * s->iw * s->ic;
        memset(to, 0, pad * pixel);
        for (size_t p = pad; p < pad + (size_t)s->iw; p++, from += s->ic) {
            uint8_t *at = to + p * pixel;
            int c = 0;
            for (; c + 16 <= s->ic; c += 16, at += 4 * TABLE)
                total[p] += four_tables(&t, _mm_loadu_si128((const __m128i *)(from + c)), at);
            if (c < s->ic) {
                uint8_t some[16] = {0};
                memcpy(some, from + c, (size_t)(s->ic - c));
                total[p] += four_tables(&t, _mm_loadu_si128((const __m128i *)some), at);
            }
        }
        memset(to + (pad + (size_t)s->iw) * pixel, 0, pad * pixel);
    }
}

/* Sums of the codes under the kernel, for `rows` output rows. */
static void windows(const bwk_conv_spec *s, const int32_t *restrict total, int rows, int32_t *restrict window)
{
    const size_t width = (size_t)s->iw + 2 * (size_t)s->pad;
    memset(window, 0, (size_t)rows * s->ow * sizeof *window);
    for (int y = 0; y < rows; y++, window += s->ow)
        for (int ky = 0; ky < s->kh; ky++) {
            const int32_t *from = total + ((size_t)y * s->stride + ky) * width;
            for (int kx = 0; kx < s->kw; kx++, from++)
                for (int p = 0; p < s->ow; p++) window[p] += from[p * s->stride];
        }
}

/* ---- Look-ups ------------------------------------------------------------------------------------------------------------ */
/* What blocks of a run share. */
typedef struct job {
    const uint8_t *w;
    size_t run, fits, pitch, pixel; /* the last two in bytes of tables */
    int kh;
} job;

/* Sums of 32 channels in 16 bits, even and odd lanes. */
typedef __m256i wide[2];

BWI_INLINE void widen(__m256i sum, wide to)
{
    to[0] = _mm256_add_epi16(to[0], _mm256_and_si256(sum, _mm256_set1_epi16(255)));
    to[1] = _mm256_add_epi16(to[1], _mm256_srli_epi16(sum, 8));
}

/* Adds what n pixels look up in the tables at `at`. */
BWI_INLINE void step(__m256i sum[PIXELS][2], const uint8_t *at, size_t pixel, const uint8_t *w, const int n, const int halves)
{
    __m256i index[2];
    BWI_UNROLL for (int h = 0; h < halves; h++) index[h] = _mm256_loadu_si256((const __m256i *)(w + 32 * h));
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        const __m128i table = _mm_loadu_si128((const __m128i *)(at + (size_t)i * pixel));
        const __m256i both = _mm256_broadcastsi128_si256(table);
        BWI_UNROLL for (int h = 0; h < halves; h++) sum[i][h] = _mm256_add_epi8(sum[i][h], _mm256_shuffle_epi8(both, index[h]));
    }
}

/* Sums of bits for n pixels and 32 * halves lanes. */
BWI_INLINE void look_up(const job *j, const uint8_t *in, wide out[PIXELS][2], const int n, const int halves)
{
    const uint8_t *w = j->w;
    const size_t each = 32 * (size_t)halves;
    for (int i = 0; i < n; i++)
        for (int h = 0; h < halves; h++) out[i][h][0] = out[i][h][1] = _mm256_setzero_si256();
    for (int ky = 0; ky < j->kh; ky++, in += j->pitch)
        for (size_t from = 0; from < j->run; from += j->fits) {
            const size_t to = j->run - from < j->fits ? j->run : from + j->fits;
            __m256i sum[PIXELS][2];
            BWI_UNROLL for (int i = 0; i < n; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
            size_t k = from;
            for (; k + 2 <= to; k += 2, w += 2 * each) {
                step(sum, in + TABLE * k, j->pixel, w, n, halves);
                step(sum, in + TABLE * (k + 1), j->pixel, w + each, n, halves);
            }
            if (k < to) {
                step(sum, in + TABLE * k, j->pixel, w, n, halves);
                w += each;
            }
            BWI_UNROLL for (int i = 0; i < n; i++)
            {
                BWI_UNROLL for (int h = 0; h < halves; h++) widen(sum[i][h], out[i][h]);
            }
        }
}

/* Eight sums in 32 bits, number `part` of a half. */
BWI_INLINE __m256i eight(const wide *half, int part)
{
    const __m256i of = (*half)[part / 2];
    return _mm256_cvtepu16_epi32(part % 2 ? _mm256_extracti128_si256(of, 1) : _mm256_castsi256_si128(of));
}

/* Sums of n pixels and the block's channels to acc [n][64]; window [n] is of these pixels, for weights of one bit. */
BWI_INLINE void block(const job *j, const uint8_t *in, const int32_t *window, int32_t *acc, const int n, const int kind)
{
    const int halves = kind == NARROW ? 1 : 2;
    wide sum[PIXELS][2];
    look_up(j, in, sum, n, halves);
    for (int i = 0; i < n; i++, acc += LANES)
        for (int part = 0; part < 4; part++) {
            __m256i *to = (__m256i *)acc + part;
            if (kind == TWO_BITS) {
                const __m256i high = eight(&sum[i][1], part);
                _mm256_store_si256(to, _mm256_sub_epi32(eight(&sum[i][0], part), _mm256_add_epi32(high, high)));
                continue;
            }
            for (int h = 0; h < halves; h++) {
                const __m256i bits = eight(&sum[i][h], part);
                _mm256_store_si256(to + 4 * h, _mm256_sub_epi32(_mm256_add_epi32(bits, bits), _mm256_set1_epi32(window[i])));
            }
        }
}

typedef void block_fn(const job *j, const uint8_t *in, const int32_t *window, int32_t *acc);
#define BLOCK(n, kind)                                                                                                         \
    static void block_##n##_##kind(const job *j, const uint8_t *in, const int32_t *window, int32_t *acc)                       \
    {                                                                                                                          \
        block(j, in, window, acc, n, kind);                                                                                    \
    }
/* clang-format off */
#define SIZES(X, kind) X(1, kind) X(2, kind) X(3, kind) X(4, kind)
SIZES(BLOCK, NARROW) SIZES(BLOCK, WIDE) SIZES(BLOCK, TWO_BITS)
#define NAME(n, kind) block_##n##_##kind,
static block_fn *const blocks[KINDS][PIXELS] = {{SIZES(NAME, NARROW)}, {SIZES(NAME, WIDE)}, {SIZES(NAME, TWO_BITS)}};
/* clang-format on */

static void run(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg)
{
    const geometry g = geometry_of(s);
    uint8_t *strip = scratch;
    int32_t *total = (int32_t *)(strip + g.strip_bytes), *window = total + g.total_bytes / sizeof *total,
            *acc = window + g.window_bytes / sizeof *window;
    job j = {.run = g.run, .fits = g.fits, .pitch = g.row, .kh = s->kh};
    j.pixel = (size_t)s->stride * g.tables * TABLE;
    for (int first = row, end = row + rows; first < end; first += g.rows) {
        const int n = end - first < g.rows ? end - first : g.rows;
        fill(&g, s, x, first * s->stride - s->pad, (n - 1) * s->stride + s->kh, strip, total);
        if (s->wbits == 1) windows(s, total, n, window);
        for (int o = 0; o < s->oc; o += g.channels) {
            block_fn *const *block_of = blocks[kind_of(s, o)];
            j.w = (const uint8_t *)packed + weights_before(s, &g, o);
            for (int y = 0; y < n; y++)
                for (int at = 0; at < s->ow; at += SEGMENT) {
                    const int pixels = s->ow - at < SEGMENT ? s->ow - at : SEGMENT;
                    const uint8_t *in = strip + (size_t)y * s->stride * j.pitch + (size_t)at * j.pixel;
                    for (int p = 0; p < pixels; p += PIXELS)
                        block_of[(pixels - p < PIXELS ? pixels - p : PIXELS) - 1](
                            &j, in + (size_t)p * j.pixel, window + (size_t)y * s->ow + at + p, acc + (size_t)p * LANES);
                    store(arg, (first + y) * s->ow + at, pixels, o, s->oc - o < g.channels ? s->oc - o : g.channels, acc,
                          LANES);
                }
        }
    }
}

/* Tables have to be looked into often enough, by full registers, and codes leave room for several sums in a byte. */
static bool pays(const bwk_conv_spec *s)
{
    if (s->oc < 32) return false;
    return s->wbits == 1 ? s->ic >= 16 && s->abits <= 5 : s->ic >= 32 && s->kh * s->kw * s->oc >= 128 && s->abits <= 4;
}

const bwk_conv bwk_conv_lookup_avx2 = {
    .name = "lookup",
    .summary = "AVX2: weights of 1 or 2 bits, unsigned codes of up to 6, every shape without groups",
    .needs = BWI_CPU_AVX2,
    .row_grain = 1,
    .accepts = accepts,
    .pays = pays,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
#endif
