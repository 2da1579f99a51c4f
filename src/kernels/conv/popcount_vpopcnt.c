/* Weights of one bit, codes of one or two, on AVX512-VPOPCNTDQ: 512 products at a time.
 *
 * With a code of one bit x in {0,1} and a weight w in {-1,+1} that is stored as bit b = (w > 0), x w = b - (x ^ b): so a sum is
 * popcount(b) - popcount(x ^ b), and zeros beyond the channels or the map, in x and b alike, do not count. A code of two bits is two such
 * planes: 3 popcount(b) - popcount(x0 ^ b) - 2 popcount(x1 ^ b).
 *
 * Counting costs more than the exclusive or, so words are first added in pairs to a running word of ones, as a full adder would:
 *   sum = ones ^ p ^ q,  carry = majority(ones, p, q)   where p = x ^ b and q = y ^ b' are two words of the pair
 * and only carries, worth two, are counted. The exclusive or is linear: p ^ q = (x ^ y) ^ (b ^ b'), which pack and the bit plane have made
 * once; and the majority is p where p equals ones, otherwise not sum. So two words cost an exclusive or, two three-way operations, one count and
 * one addition. */
#if defined(__x86_64__)
#include "base/cpu.h"
#include "base/inline.h"
#include "kernels/conv/strip.h"
#include <immintrin.h>

enum {
    PIXELS = 8,              /* of a block, at most; 8 x (ones, carries) registers and those of the weights */
    LANES = 32,              /* channels that go to the store together; a block has 8 */
    SEGMENT = 64,            /* pixels that do */
    STRIP_BYTES = 32 * 1024, /* of bits at once, unless a row needs more */
    PLANES = 2
};

typedef struct geometry {
    int words; /* of 64 channels, of a pixel and plane; those of a row of the kernel follow one another */
    int run;   /* words under a row of the kernel */
    int width; /* pixels of a row with its padding */
    int planes;
    int rows;   /* output rows of a strip */
    size_t row; /* words of a row of the strip, of a plane, and a spare one */
    size_t strip_bytes;
} geometry;

static geometry geometry_of(const bwk_conv_spec *s)
{
    geometry g = {.words = (s->ic + 63) / 64, .width = s->iw + 2 * s->pad, .planes = s->abits, .rows = s->oh};
    g.run = s->kw * g.words;
    g.row = (size_t)g.width * g.words + 1;
    const size_t bytes = g.row * 2 * sizeof(uint64_t) * (size_t)g.planes;
    while (g.rows > 1 && ((size_t)(g.rows - 1) * s->stride + s->kh) * bytes > STRIP_BYTES) g.rows = (g.rows + 1) / 2;
    g.strip_bytes = bwk_round(((size_t)(g.rows - 1) * s->stride + s->kh) * bytes, 64);
    return g;
}

static bool accepts(const bwk_conv_spec *s)
{
    return s->groups == 1 && s->wbits == 1 && s->abits <= PLANES && !s->asigned;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    return bwk_round((size_t)s->oc, LANES) * s->kh * (sizeof(int32_t) + (size_t)g.run * sizeof(uint64_t));
}

/* Counts of b [kh][oc rounded up to 32], then for each 8 channels [kh][run][8] words; the second of a pair is the exclusive or of both. */
static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    const geometry g = geometry_of(s);
    const size_t lanes = bwk_round((size_t)s->oc, LANES);
    int32_t *count = packed;
    uint64_t *bits = (uint64_t *)(count + lanes * s->kh);
    memset(packed, 0, packed_size(s));
    for (int o = 0; o < s->oc; o++) {
        uint64_t *to = bits + (size_t)(o / 8 * 8) * s->kh * g.run + o % 8;
        for (int k = 0; k < s->kh * s->kw; k++)
            for (int c = 0; c < s->ic; c++, w++)
                if (*w > 0) {
                    const int word = k % s->kw * g.words + c / 64, row = k / s->kw * g.run;
                    to[(size_t)(row + word) * 8] ^= (uint64_t)1 << c % 64;
                    count[(size_t)(k / s->kw) * lanes + o]++;
                }
        for (int row = 0; row < s->kh; row++)
            for (int k = 1; k < g.run; k += 2) to[(size_t)(row * g.run + k) * 8] ^= to[(size_t)(row * g.run + k - 1) * 8];
    }
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    return geometry_of(s).strip_bytes + (size_t)SEGMENT * LANES * sizeof(int32_t);
}

/* Bit `plane` of 64 codes. */
BWI_INLINE uint64_t bits_of(__m512i codes, int plane)
{
    return _mm512_test_epi8_mask(codes, _mm512_set1_epi8((char)(1 << plane)));
}

/* A strip is rows of planes of pairs (word i, word i ^ word i + 1): a run may start at any word, and takes every second pair. */
static void fill(const geometry *g, const bwk_conv_spec *s, const void *x, int first, int rows, uint64_t *to)
{
    const size_t left = (size_t)s->pad * g->words;
    for (int y = first; y < first + rows; y++)
        for (int plane = 0; plane < g->planes; plane++, to += 2 * g->row) {
            memset(to, 0, 2 * g->row * sizeof *to);
            if (y < 0 || y >= s->ih) continue;
            const uint8_t *from = (const uint8_t *)x + (size_t)y * s->iw * s->ic;
            uint64_t *at = to + 2 * left;
            for (int p = 0; p < s->iw; p++, from += s->ic)
                for (int c = 0; c < s->ic; c += 64, at += 2) {
                    const int n = s->ic - c;
                    const __mmask64 m = n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0;
                    at[0] = bits_of(_mm512_maskz_loadu_epi8(m, from + c), plane);
                }
            for (size_t i = 0; i + 1 < g->row; i++) to[2 * i + 1] = to[2 * i] ^ to[2 * i + 2];
        }
}

/* What blocks of a strip share. */
typedef struct job {
    const uint64_t *w;   /* of 8 channels */
    const int32_t *ones; /* of them: counts of b [kh][lanes] */
    size_t lanes;
    size_t row,
        pixel;    /* words of the strip: from a row of the input to the next, from a pixel of the output to its neighbour */
    size_t plane; /* from a plane to the next */
    int kh, run;
} job;

/* majority(ones, p, q), where sum = ones ^ p ^ q. */
BWI_INLINE __m512i carry_of(__m512i ones, __m512i p, __m512i sum)
{
    return _mm512_ternarylogic_epi64(p, ones, sum, 0xd4); /* into the register of p, which is of no further use */
}

/* popcount(x ^ b) of n pixels from `in` and 8 channels. */
BWI_INLINE void count(const job *j, const uint64_t *in, __m512i *sum, const int n)
{
    const uint64_t *w = j->w;
    __m512i ones[PIXELS], twos[PIXELS];
    BWI_UNROLL for (int i = 0; i < n; i++) sum[i] = ones[i] = twos[i] = _mm512_setzero_si512();
    for (int ky = 0; ky < j->kh; ky++, in += j->row) {
        const uint64_t *x = in;
        int k = 0;
        for (; k + 2 <= j->run; k += 2, w += 16, x += 4) {
            const __m512i b = _mm512_load_si512(w), both = _mm512_load_si512(w + 8);
            BWI_UNROLL for (int i = 0; i < n; i++)
            {
                const uint64_t *at = x + (size_t)i * j->pixel;
                const __m512i p = _mm512_xor_si512(b, _mm512_set1_epi64((long long)at[0]));
                const __m512i next = _mm512_ternarylogic_epi64(ones[i], both, _mm512_set1_epi64((long long)at[1]), 0x96);
                const __m512i carry = carry_of(ones[i], p, next);
                twos[i] = _mm512_add_epi64(twos[i], _mm512_popcnt_epi64(carry));
                ones[i] = next;
            }
        }
        if (k < j->run) { /* a word without a partner is counted as it is */
            const __m512i b = _mm512_load_si512(w);
            w += 8;
            BWI_UNROLL for (int i = 0; i < n; i++)
            {
                const __m512i p = _mm512_xor_si512(b, _mm512_set1_epi64((long long)x[(size_t)i * j->pixel]));
                sum[i] = _mm512_add_epi64(sum[i], _mm512_popcnt_epi64(p));
            }
        }
    }
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        sum[i] = _mm512_add_epi64(sum[i], _mm512_popcnt_epi64(ones[i]));
        sum[i] = _mm512_add_epi64(sum[i], _mm512_add_epi64(twos[i], twos[i]));
    }
}

/* Sums of n pixels and 8 channels, to acc [n][32]. */
BWI_INLINE void block(const job *j, const uint64_t *in, int32_t *acc, const int n, const int planes)
{
    __m512i sum[PLANES][PIXELS];
    BWI_UNROLL for (int p = 0; p < planes; p++) count(j, in + (size_t)p * j->plane, sum[p], n);
    __m256i start = _mm256_setzero_si256();
    for (int ky = 0; ky < j->kh; ky++)
        start = _mm256_add_epi32(start, _mm256_load_si256((const __m256i *)(j->ones + (size_t)ky * j->lanes)));
    if (planes == 2) start = _mm256_add_epi32(start, _mm256_add_epi32(start, start));
    BWI_UNROLL for (int i = 0; i < n; i++)
    {
        const __m512i all = planes == 2 ? _mm512_add_epi64(sum[0][i], _mm512_add_epi64(sum[1][i], sum[1][i])) : sum[0][i];
        _mm256_store_si256((__m256i *)(acc + (size_t)i * LANES), _mm256_sub_epi32(start, _mm512_cvtepi64_epi32(all)));
    }
}

typedef void block_fn(const job *j, const uint64_t *in, int32_t *acc);
#define BLOCK(n, planes)                                                                                                       \
    static void block_##n##_##planes(const job *j, const uint64_t *in, int32_t *acc)                                           \
    {                                                                                                                          \
        block(j, in, acc, n, planes);                                                                                          \
    }
/* clang-format off */
#define SIZES(X, planes) X(1, planes) X(2, planes) X(3, planes) X(4, planes) X(5, planes) X(6, planes) X(7, planes) X(8, planes)
SIZES(BLOCK, 1) SIZES(BLOCK, 2)
#define NAME(n, planes) block_##n##_##planes,
static block_fn *const blocks[PLANES][PIXELS] = {{SIZES(NAME, 1)}, {SIZES(NAME, 2)}};
/* clang-format on */

/* One row of the output, of up to 32 channels from o, whose input begins at in. */
static void row_of(const bwk_conv_spec *s, const geometry *g, job j, const uint64_t *in, int row, int o, int32_t *acc,
                   bwk_store *store, void *arg)
{
    /* Rows of the kernel above or below the map would add b - (0 ^ b). */
    const int first = row * s->stride - s->pad, from = first < 0 ? -first : 0, below = s->ih - first;
    const int to = below < s->kh ? below : s->kh, channels = s->oc - o < LANES ? s->oc - o : LANES;
    j.kh = to > from ? to - from : 0;
    j.w += (size_t)(o * s->kh + from * 8) * g->run;
    j.ones += (size_t)from * j.lanes + (size_t)o;
    in += (size_t)from * j.row;
    for (int done = 0; done < s->ow; done += SEGMENT, in += SEGMENT * j.pixel) {
        const int pixels = s->ow - done < SEGMENT ? s->ow - done : SEGMENT, n_blocks = (pixels + PIXELS - 1) / PIXELS;
        job e = j;
        for (int c = 0; c < channels; c += 8, e.w += (size_t)8 * s->kh * g->run, e.ones += 8)
            for (int i = 0, at = 0; i < n_blocks; i++) {
                const int n = (pixels - at + n_blocks - i - 1) / (n_blocks - i);
                blocks[g->planes - 1][n - 1](&e, in + (size_t)at * j.pixel, acc + (size_t)at * LANES + c);
                at += n;
            }
        store(arg, row * s->ow + done, pixels, o, channels, acc, LANES);
    }
}

static void run(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg)
{
    const geometry g = geometry_of(s);
    const size_t lanes = bwk_round((size_t)s->oc, LANES);
    uint64_t *strip = scratch;
    int32_t *acc = (int32_t *)((char *)scratch + g.strip_bytes);
    const int32_t *ones = packed;
    const job j = {.w = (const uint64_t *)(ones + lanes * s->kh),
                   .ones = ones,
                   .lanes = lanes,
                   .row = 2 * g.row * (size_t)g.planes,
                   .pixel = 2 * (size_t)s->stride * g.words,
                   .plane = 2 * g.row,
                   .run = g.run};
    for (int y = row, end = row + rows; y < end; y += g.rows) {
        const int n = end - y < g.rows ? end - y : g.rows;
        fill(&g, s, x, y * s->stride - s->pad, (n - 1) * s->stride + s->kh, strip);
        for (int o = 0; o < s->oc; o += LANES)
            for (int i = 0; i < n; i++) row_of(s, &g, j, strip + (size_t)i * s->stride * j.row, y + i, o, acc, store, arg);
    }
}

/* Words of 64 channels have to be full, and two planes of bits cost twice as much. */
static bool pays(const bwk_conv_spec *s)
{
    return s->ic >= (s->abits == 1 ? 64 : 512);
}

const bwk_conv bwk_conv_popcount_vpopcnt = {
    .name = "popcount",
    .summary = "AVX512-VPOPCNTDQ: weights of 1 bit, unsigned codes of 1 or 2, every shape without groups",
    .needs = BWI_CPU_AVX512 | BWI_CPU_VPOPCNT,
    .row_grain = 1,
    .accepts = accepts,
    .pays = pays,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
#endif
