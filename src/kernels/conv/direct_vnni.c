/* Direct convolution on AVX512-VNNI: uint8 codes times int8 weights, four products at a time into 32 bits. vpdpbusd does not saturate,
 * so any weight of 8 bits is exact.
 *
 * A block is up to 14 pixels x 32 channels, or 16 x 16, of sums in registers. A row of the kernel covers kw * ic consecutive bytes of a row of the
 * (padded) input, whatever ic is; so the inner loop runs over bytes of such a row, four at a time, and only the last step of a row of
 * the kernel may take bytes too many: their weights are zero. Signed codes c are read as c + 128 (a flipped bit), which adds
 * 128 * sum(w) to every sum, padding included; the sums start at minus that.
 *
 * Weights that do not stay in the second-level cache are kept in 2 or 4 bits where their codes fit that, since reading them is what takes the time. Those of
 * 32 channels at a time become bytes in scratch, which all rows of a strip then use. */
#if defined(__x86_64__)
#include "base/cpu.h"
#include "kernels/block_vnni.h"
#include "kernels/conv/strip.h"
#include <immintrin.h>

enum {
    LANES = BWK_LANES,
    SEGMENT = 64,            /* pixels of a row that go to the store together */
    STRIP_BYTES = 32 * 1024, /* of input copied at once, unless a row of the output needs more */
    SLACK = 64,              /* bytes that the last step may read past a strip */
    LARGE = 1024 * 1024      /* bytes of weights that are worth packing */
};

typedef struct geometry {
    size_t run;  /* bytes of input under a row of the kernel */
    size_t step; /* the same, rounded up to whole steps of 4 */
    bool direct; /* input is read where it is */
    int rows;    /* output rows of a strip */
    bwk_strip strip;
    size_t strip_bytes;
    int bits;          /* of a weight in memory: 2, 4 or 8 */
    size_t wide_bytes; /* of 32 channels' weights on their way, where bits are not 8 */
} geometry;

/* Bytes of 16 * halves channels' weights: for the kernel, and as they are packed. */
static size_t block_bytes(const bwk_conv_spec *s, const geometry *g, int halves)
{
    return (size_t)(16 * halves) * s->kh * g->step;
}

static size_t packed_block(const bwk_conv_spec *s, const geometry *g, int halves)
{
    const size_t vectors = (size_t)(8 / g->bits) * 64;
    return bwk_round(block_bytes(s, g, halves), vectors) / (size_t)(8 / g->bits);
}

static geometry geometry_of(const bwk_conv_spec *s)
{
    geometry g = {.run = (size_t)s->kw * s->ic, .bits = 8};
    g.step = bwk_round(g.run, 4);
    g.direct = !s->asigned && !s->pad && g.run == g.step;
    g.strip = (bwk_strip){.width = s->iw + 2 * s->pad, .channel = s->ic, .flip = s->asigned ? 0x80 : 0};
    const size_t row = (size_t)g.strip.width * s->ic;
    if (bwk_round((size_t)s->oc, 16) * s->kh * g.step > LARGE) g.bits = s->wbits <= 2 ? 2 : s->wbits <= 4 ? 4 : 8;
    const size_t most = g.bits < 8 ? 2 * STRIP_BYTES : STRIP_BYTES; /* the larger, the less often weights become bytes */
    g.rows = s->oh;
    while (g.rows > 1 && ((size_t)(g.rows - 1) * s->stride + s->kh) * row > most) g.rows = (g.rows + 1) / 2;
    if (g.rows > 1 && g.rows < s->oh && g.rows % 2) g.rows--; /* pairs of rows share weights */
    if (g.bits < 8) g.wide_bytes = bwk_round(block_bytes(s, &g, 2), 256);
    g.strip_bytes = g.direct ? 0 : bwk_round(((size_t)(g.rows - 1) * s->stride + s->kh) * row + SLACK, 64);
    return g;
}

static bool accepts(const bwk_conv_spec *s)
{
    return s->groups == 1;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    const size_t lanes = bwk_round((size_t)s->oc, 16);
    return lanes * sizeof(int32_t) + lanes / LANES * packed_block(s, &g, 2) + (lanes % LANES ? packed_block(s, &g, 1) : 0);
}

/* Code number `at` of a block. Of the 2 or 4 bits that a code takes as an unsigned number, byte i of 64 holds those of bytes i, 64 + i, ... */
static void set_code(const geometry *g, uint8_t *block, size_t at, int code)
{
    const size_t vectors = (size_t)(8 / g->bits), shift = at / 64 % vectors * (size_t)g->bits;
    if (g->bits == 8) {
        block[at] = (uint8_t)code;
        return;
    }
    const unsigned zero = 1u << (g->bits - 1); /* what memory was filled with */
    uint8_t *to = &block[at / (64 * vectors) * 64 + at % 64];
    *to = (uint8_t)(*to ^ (((unsigned)code + zero) ^ zero) % (2 * zero) << shift);
}

/* `bytes` of codes in their bits, from `from`, to bytes. */
static void widen(const geometry *g, const uint8_t *from, size_t bytes, int8_t *to)
{
    const __m512i two = _mm512_set1_epi8(3), low_two = _mm512_set1_epi8(2);
    const __m512i four = _mm512_set1_epi8(15), low_four = _mm512_set1_epi8(8);
    for (size_t i = 0; i < bytes; i += 64 * (size_t)(8 / g->bits), from += 64) {
        __m512i codes = _mm512_load_si512(from);
        if (g->bits == 2) {
            for (size_t k = 0; k < 4; k++, codes = _mm512_srli_epi16(codes, 2))
                _mm512_store_si512(to + i + 64 * k, _mm512_sub_epi8(_mm512_and_si512(codes, two), low_two));
        } else {
            _mm512_store_si512(to + i, _mm512_sub_epi8(_mm512_and_si512(codes, four), low_four));
            codes = _mm512_srli_epi16(codes, 4);
            _mm512_store_si512(to + i + 64, _mm512_sub_epi8(_mm512_and_si512(codes, four), low_four));
        }
    }
}

/* Starts of the sums [oc rounded up to 16], then for each 32 (or last 16) channels [kh][step / 4][16-channel half][16][4], in bits. */
static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    const geometry g = geometry_of(s);
    const int lanes = (int)bwk_round((size_t)s->oc, 16);
    int32_t *start = packed;
    uint8_t *to = (uint8_t *)packed + (size_t)lanes * sizeof(int32_t);
    memset(packed, 0, (size_t)lanes * sizeof(int32_t));
    memset(to, g.bits == 2 ? 0xaa : g.bits == 4 ? 0x88 : 0, packed_size(s) - (size_t)lanes * sizeof(int32_t));
    for (int o = 0; o < s->oc; o++) {
        const int first = o / LANES * LANES, halves = lanes - first >= LANES ? 2 : 1;
        uint8_t *block = to + (size_t)(first / LANES) * packed_block(s, &g, 2);
        const size_t channel = (size_t)(o - first) / 16 * 64 + (size_t)(o % 16) * 4;
        int32_t sum = 0;
        for (int ky = 0; ky < s->kh; ky++)
            for (size_t k = 0; k < g.run; k++) {
                const int8_t code = *w++;
                set_code(&g, block, ((size_t)ky * g.step / 4 + k / 4) * (size_t)(64 * halves) + channel + k % 4, code);
                sum += code;
            }
        start[o] = s->asigned ? -128 * sum : 0;
    }
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    return g.strip_bytes + (size_t)SEGMENT * LANES * sizeof(int32_t) + g.wide_bytes;
}

/* `pixels` neighbours of a row, from in, in blocks of about equal size. */
static void segment(const bwk_block *j, const uint8_t *in, int pixels, int halves, int32_t *acc)
{
    const int most = halves == 1 ? BWK_PIXELS : BWK_PIXELS_32, count = (pixels + most - 1) / most;
    for (int i = 0, at = 0; i < count; i++) {
        const int n = (pixels - at + count - i - 1) / (count - i);
        const uint8_t *a = in + (size_t)at * j->pixel;
        bwk_blocks_vnni[n - 1][halves - 1](j, a, a + (size_t)((n + 1) / 2) * j->pixel, acc + (size_t)at * LANES);
        at += n;
    }
}

/* One row of the output, of `channels` channels from o, whose input begins at in. */
static void row_of(const bwk_conv_spec *s, const bwk_block *all, const uint8_t *in, int row, int o, int channels, int halves,
                   int32_t *acc, bwk_store *store, void *arg)
{
    bwk_block j = *all;
    if (!s->asigned) { /* rows of the kernel above or below the map: only zeros, which signed codes do not have there */
        const int first = row * s->stride - s->pad, from = first < 0 ? -first : 0;
        const int to = s->ih - first < s->kh ? s->ih - first : s->kh;
        j.kh = to > from ? to - from : 0;
        j.w += (size_t)from * j.step * 16 * halves;
        in += (size_t)from * j.pitch;
    }
    for (int at = 0; at < s->ow; at += SEGMENT) {
        const int n = s->ow - at < SEGMENT ? s->ow - at : SEGMENT;
        segment(&j, in + (size_t)at * j.pixel, n, halves, acc);
        store(arg, row * s->ow + at, n, o, channels, acc, LANES);
    }
}

/* All channels of output rows row .. row + rows - 1, whose input begins at in, with weights as they are packed. */
static void strip_of(const bwk_conv_spec *s, const geometry *g, bwk_block j, const uint8_t *weights, const uint8_t *in, int row,
                     int rows, int32_t *acc, bwk_store *store, void *arg)
{
    const int lanes = (int)bwk_round((size_t)s->oc, 16);
    int8_t *wide = (int8_t *)(acc + SEGMENT * LANES);
    const size_t next = (size_t)s->stride * j.pitch;
    for (int o = 0; o < lanes; o += LANES) {
        const int channels = s->oc - o < LANES ? s->oc - o : LANES, halves = lanes - o >= LANES ? 2 : 1;
        j.w = g->bits == 8 ? (const int8_t *)weights : wide;
        if (g->bits < 8) widen(g, weights, block_bytes(s, g, halves), wide);
        for (int y = 0; y < rows; y++) {
            const uint8_t *a = in + (size_t)y * next;
            if (2 * s->ow <= BWK_PIXELS_32 && y + 1 < rows) { /* two short rows in one block */
                bwk_blocks_vnni[2 * s->ow - 1][halves - 1](&j, a, a + next, acc);
                store(arg, (row + y++) * s->ow, 2 * s->ow, o, channels, acc, LANES);
            } else
                row_of(s, &j, a, row + y, o, channels, halves, acc, store, arg);
        }
        weights += packed_block(s, g, halves);
        j.start += LANES;
    }
}

static void run(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg)
{
    const geometry g = geometry_of(s);
    uint8_t *strip = scratch;
    int32_t *acc = (int32_t *)(strip + g.strip_bytes);
    const int32_t *start = packed;
    const uint8_t *weights = (const uint8_t *)(start + bwk_round((size_t)s->oc, 16));
    bwk_block j = {.start = start,
                   .step = g.step,
                   .pitch = (size_t)(g.direct ? s->iw : g.strip.width) * s->ic,
                   .pixel = (size_t)s->stride * s->ic,
                   .kh = s->kh,
                   .parts = 1};
    for (int y = row; y < row + rows; y += g.rows) {
        const int n = row + rows - y < g.rows ? row + rows - y : g.rows, first = y * s->stride - s->pad;
        const uint8_t *in = (const uint8_t *)x + (g.direct ? (size_t)first * j.pitch : 0);
        if (!g.direct) {
            bwk_strip_fill(&g.strip, s, x, first, (n - 1) * s->stride + s->kh, strip);
            in = strip;
        }
        strip_of(s, &g, j, weights, in, y, n, acc, store, arg);
    }
}

const bwk_conv bwk_conv_direct_vnni = {
    .name = "vnni",
    .summary = "direct, AVX512-VNNI, every shape without groups",
    .needs = BWI_CPU_AVX512 | BWI_CPU_VNNI,
    .row_grain = 1,
    .accepts = accepts,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
#endif
