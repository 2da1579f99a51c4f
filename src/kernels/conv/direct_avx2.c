/* Direct convolution for AVX2, every shape without groups; blocks of 4 pixels x 16 channels.
 *
 * Bytes are multiplied (block_avx2.h) where the widths prove that at least four sums of two products fit 16 bits, 4 * 2 * max|x| * max|w|
 * <= 32767. Wider or signed codes are widened to 16 bits when they are copied. */
#if defined(__x86_64__)
#include "base/cpu.h"
#include "base/inline.h"
#include "kernels/block_avx2.h"
#include "kernels/conv/strip.h"
#include <immintrin.h>

enum {
    PIXELS = BWK_PIXELS_AVX2, /* of a block; 8 registers of sums, 2 of weights, 1 of codes */
    LANES = BWK_LANES_AVX2,   /* channels of a block */
    SEGMENT = 64,
    STRIP_BYTES = 24 * 1024,
    SLACK = 64
};

typedef struct geometry {
    size_t fits;  /* sums of two products that fit 16 bits; 0: 16-bit operands */
    size_t size;  /* bytes of a code in the strip */
    size_t run;   /* codes under a row of the kernel */
    size_t steps; /* of 4 bytes, for them */
    int rows;     /* output rows of a strip */
    bwk_strip strip;
    size_t strip_bytes;
} geometry;

static geometry geometry_of(const bwk_conv_spec *s)
{
    const int most = 2 * ((1 << s->abits) - 1) * (1 << (s->wbits - 1));
    geometry g = {
        .fits = s->asigned || 32767 / most < 4 ? 0 : (size_t)(32767 / most), .run = (size_t)s->kw * s->ic, .rows = s->oh};
    g.size = g.fits ? 1 : 2;
    g.steps = (g.run * g.size + 3) / 4;
    g.strip = (bwk_strip){.width = s->iw + 2 * s->pad, .channel = s->ic};
    const size_t row = (size_t)g.strip.width * s->ic * g.size;
    while (g.rows > 1 && ((size_t)(g.rows - 1) * s->stride + s->kh) * row > STRIP_BYTES) g.rows = (g.rows + 1) / 2;
    g.strip_bytes = bwk_round(((size_t)(g.rows - 1) * s->stride + s->kh) * row + SLACK, 64);
    return g;
}

static bool accepts(const bwk_conv_spec *s)
{
    return s->groups == 1;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    return bwk_round((size_t)s->oc, LANES) * s->kh * geometry_of(s).steps * 4;
}

/* For each 16 channels [kh][steps][16][4 bytes: int8, or int16]. */
static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    const geometry g = geometry_of(s);
    const size_t of_step = 4 / g.size;
    memset(packed, 0, packed_size(s));
    for (size_t o = 0; o < (size_t)s->oc; o++)
        for (size_t ky = 0; ky < (size_t)s->kh; ky++)
            for (size_t k = 0; k < g.run; k++, w++) {
                const size_t step = (o / LANES * s->kh + ky) * g.steps + k / of_step,
                             at = (step * LANES + o % LANES) * of_step + k % of_step;
                if (g.fits)
                    ((int8_t *)packed)[at] = *w;
                else
                    ((int16_t *)packed)[at] = *w;
            }
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    return geometry_of(s).strip_bytes + (size_t)SEGMENT * LANES * sizeof(int32_t);
}

/* Like bwk_strip_fill, with codes of 16 bits. */
static void fill_wide(const geometry *g, const bwk_conv_spec *s, const void *x, int first, int rows, int16_t *to)
{
    const size_t row = (size_t)g->strip.width * s->ic, n = (size_t)s->iw * s->ic;
    for (int y = first; y < first + rows; y++, to += row) {
        memset(to, 0, row * sizeof *to);
        if (y < 0 || y >= s->ih) continue;
        const uint8_t *u = (const uint8_t *)x + (size_t)y * n;
        const int8_t *i = (const int8_t *)u;
        int16_t *at = to + (size_t)s->pad * s->ic;
        if (s->asigned)
            for (size_t k = 0; k < n; k++) at[k] = i[k];
        else
            for (size_t k = 0; k < n; k++) at[k] = u[k];
    }
}

static void run(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg)
{
    const geometry g = geometry_of(s);
    uint8_t *strip = scratch;
    int32_t *acc = (int32_t *)(strip + g.strip_bytes);
    static const _Alignas(32) int32_t start[LANES];
    bwk_block_16_fn *const *block = g.fits ? bwk_blocks_avx2 : bwk_blocks_wide_avx2;
    bwk_block_16 j = {.start = start, .steps = g.steps, .fits = g.fits, .kh = s->kh};
    j.pitch = (size_t)g.strip.width * s->ic * g.size, j.pixel = (size_t)s->stride * s->ic * g.size;
    for (int first = row, end = row + rows; first < end; first += g.rows) {
        const int n = end - first < g.rows ? end - first : g.rows, in_row = first * s->stride - s->pad,
                  in_rows = (n - 1) * s->stride + s->kh;
        if (g.fits)
            bwk_strip_fill(&g.strip, s, x, in_row, in_rows, strip);
        else
            fill_wide(&g, s, x, in_row, in_rows, scratch);
        for (int o = 0; o < s->oc; o += LANES) {
            j.w = (const uint8_t *)packed + (size_t)o * s->kh * g.steps * 4;
            for (int y = 0; y < n; y++)
                for (int at = 0; at < s->ow; at += SEGMENT) {
                    const int pixels = s->ow - at < SEGMENT ? s->ow - at : SEGMENT;
                    const uint8_t *in = strip + (size_t)y * s->stride * j.pitch + (size_t)at * j.pixel;
                    for (int p = 0; p < pixels; p += PIXELS)
                        block[(pixels - p < PIXELS ? pixels - p : PIXELS) - 1](&j, in + (size_t)p * j.pixel,
                                                                               acc + (size_t)p * LANES);
                    store(arg, (first + y) * s->ow + at, pixels, o, s->oc - o < LANES ? s->oc - o : LANES, acc, LANES);
                }
        }
    }
}

const bwk_conv bwk_conv_direct_avx2 = {
    .name = "avx2",
    .summary = "direct, AVX2, every shape without groups",
    .needs = BWI_CPU_AVX2,
    .row_grain = 1,
    .accepts = accepts,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
#endif
