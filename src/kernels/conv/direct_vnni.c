/* Direct convolution on AVX512-VNNI: uint8 codes times int8 weights, four products at a time into 32 bits. vpdpbusd does not saturate,
 * so any weight of 8 bits is exact.
 *
 * A block is up to 14 pixels x 32 channels, or 16 x 16, of sums in registers. A row of the kernel covers kw * ic consecutive bytes of a row of the
 * (padded) input, whatever ic is; so the inner loop runs over bytes of such a row, four at a time, and only the last step of a row of
 * the kernel may take bytes too many: their weights are zero. Signed codes c are read as c + 128 (a flipped bit), which adds
 * 128 * sum(w) to every sum, padding included; the sums start at minus that. */
#if defined(__x86_64__)
#include "base/cpu.h"
#include "kernels/block_vnni.h"
#include "kernels/conv/strip.h"

enum {
    LANES = BWK_LANES,
    SEGMENT = 64,            /* pixels of a row that go to the store together */
    STRIP_BYTES = 32 * 1024, /* of input copied at once, unless a row of the output needs more */
    SLACK = 64               /* bytes that the last step may read past a strip */
};

typedef struct geometry {
    size_t run;  /* bytes of input under a row of the kernel */
    size_t step; /* the same, rounded up to whole steps of 4 */
    bool direct; /* input is read where it is */
    int rows;    /* output rows of a strip */
    bwk_strip strip;
    size_t strip_bytes;
} geometry;

static geometry geometry_of(const bwk_conv_spec *s)
{
    geometry g = {.run = (size_t)s->kw * s->ic};
    g.step = bwk_round(g.run, 4);
    g.direct = !s->asigned && !s->pad && g.run == g.step;
    g.strip = (bwk_strip){.width = s->iw + 2 * s->pad, .channel = s->ic, .flip = s->asigned ? 0x80 : 0};
    const size_t row = (size_t)g.strip.width * s->ic;
    g.rows = s->oh;
    while (g.rows > 1 && ((size_t)(g.rows - 1) * s->stride + s->kh) * row > STRIP_BYTES) g.rows = (g.rows + 1) / 2;
    if (g.rows > 1 && g.rows < s->oh && g.rows % 2) g.rows--; /* pairs of rows share weights */
    g.strip_bytes = g.direct ? 0 : bwk_round(((size_t)(g.rows - 1) * s->stride + s->kh) * row + SLACK, 64);
    return g;
}

static bool accepts(const bwk_conv_spec *s)
{
    return s->groups == 1;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    const size_t lanes = bwk_round((size_t)s->oc, 16);
    return lanes * sizeof(int32_t) + lanes * s->kh * bwk_round((size_t)s->kw * s->ic, 4);
}

/* Starts of the sums [oc rounded up to 16], then for each 32 (or last 16) channels [kh][step / 4][16-channel half][16][4]. */
static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    const geometry g = geometry_of(s);
    const int lanes = (int)bwk_round((size_t)s->oc, 16);
    int32_t *start = packed;
    int8_t *to = (int8_t *)packed + (size_t)lanes * sizeof(int32_t);
    memset(packed, 0, packed_size(s));
    for (int o = 0; o < s->oc; o++) {
        const int first = o / LANES * LANES, halves = lanes - first >= LANES ? 2 : 1;
        int8_t *block = to + (size_t)first * s->kh * g.step + (size_t)(o - first) / 16 * 64 + (size_t)(o % 16) * 4;
        int32_t sum = 0;
        for (int ky = 0; ky < s->kh; ky++)
            for (size_t k = 0; k < g.run; k++) {
                const int8_t code = *w++;
                block[((size_t)ky * g.step / 4 + k / 4) * (size_t)(64 * halves) + k % 4] = code;
                sum += code;
            }
        start[o] = s->asigned ? -128 * sum : 0;
    }
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    return geometry_of(s).strip_bytes + (size_t)SEGMENT * LANES * sizeof(int32_t);
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

/* All channels of output rows row .. row + rows - 1, whose input begins at in. */
static void strip_of(const bwk_conv_spec *s, bwk_block j, const uint8_t *in, int row, int rows, int32_t *acc, bwk_store *store,
                     void *arg)
{
    const int lanes = (int)bwk_round((size_t)s->oc, 16);
    const size_t next = (size_t)s->stride * j.pitch;
    for (int o = 0; o < lanes; o += LANES) {
        const int channels = s->oc - o < LANES ? s->oc - o : LANES, halves = lanes - o >= LANES ? 2 : 1;
        for (int y = 0; y < rows; y++) {
            const uint8_t *a = in + (size_t)y * next;
            if (2 * s->ow <= BWK_PIXELS_32 && y + 1 < rows) { /* two short rows in one block */
                bwk_blocks_vnni[2 * s->ow - 1][halves - 1](&j, a, a + next, acc);
                store(arg, (row + y++) * s->ow, 2 * s->ow, o, channels, acc, LANES);
            } else
                row_of(s, &j, a, row + y, o, channels, halves, acc, store, arg);
        }
        j.w += (size_t)halves * 16 * s->kh * j.step;
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
    bwk_block j = {.w = (const int8_t *)(start + bwk_round((size_t)s->oc, 16)),
                   .start = start,
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
        strip_of(s, j, in, y, n, acc, store, arg);
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
