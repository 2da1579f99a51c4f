/* Winograd convolutions in exact integers: what tile sizes and instruction sets share.
 *
 * A tile of the input is transformed to `parts` values V that fit 8 bits, or 16, the weights to U that fit as many (multiplied by a constant
 * so that they are whole); products of a part are summed over input channels in 32 bits, as a matrix product of tiles x channels; and the sums
 * are transformed to a tile of the output, which is divided, without remainder, by the constant. Products of bytes want V unsigned: V + bias,
 * and sums that start at -bias * sum(U).
 *
 * Sums are transformed while they are in the first-level cache: those of two middle columns of a tile first, then the outer ones, so that
 * no more than two columns of sums wait at a time.
 *
 * A file that includes this includes before it the instruction set's part, winograd_vnni.h or winograd_avx2.h: registers, what is done with
 * them, and the products. It defines
 *   OUT_Y, OUT_X, ROWS          size of a tile of the output, of which the second is 2; rows of a tile of the input, OUT_Y + 2
 *   PARTS, PART(row, column)    values of a tile, 4 ROWS, and their order: columns 1, 2, 0, 3
 *   static void weights_of(const int8_t *g, size_t step, int *u)   3x3 weights g[i * step] to PARTS values
 *   BWI_INLINE void rows_of(const uint8_t *in, size_t pitch, const bwk_some n, vec flip, vec r[ROWS])
 *                               a register of channels of a column of a tile, transformed; each plus 128 where flip is 128 and not 0
 *   BWI_INLINE void column_of(const int32_t *sums, size_t part, vec y[OUT_Y])   ROWS sums to a column of the output, times ...
 *   BWI_INLINE vec whole_of(vec y, const int row)                               ... what this divides by, once columns are added
 *   static int bias_of(const bwk_conv_spec *s, size_t part)                     on AVX2; and, of bytes there, top_of(s), the greatest V + bias */
#include "base/cpu.h"
#include "base/inline.h"
#include "kernels/conv/strip.h"

#ifndef biased /* V is as the transform makes it, and all steps of a part are one chunk */
#define biased(v, bias)       ((void)(bias), (v))
#define chunk_of(s, u, steps) (steps)
#endif

/* A row of conv.def. */
#define WINOGRAD(row, row_name, row_needs, row_pays, row_summary)                                                              \
    const bwk_conv row = {                                                                                                     \
        .name = row_name,                                                                                                      \
        .summary = row_summary,                                                                                                \
        .needs = row_needs,                                                                                                    \
        .row_grain = OUT_Y,                                                                                                    \
        .accepts = accepts,                                                                                                    \
        .pays = row_pays,                                                                                                      \
        .packed_size = packed_size,                                                                                            \
        .pack = pack,                                                                                                          \
        .scratch_size = scratch_size,                                                                                          \
        .run = run,                                                                                                            \
    }

enum {
    STRIP_BYTES = 64 * 1024, /* of input copied at once, unless a row of tiles needs more */
    GROUP = 4,
    SMALL_WEIGHTS = 1024 * 1024, /* bytes that stay in the second-level cache from one block to the next */
    SLACK = 64                   /* bytes that transforms may read past a strip */
};

typedef struct geometry {
    int tiles_x;   /* of a row of tiles */
    int rows;      /* output rows of a strip, a multiple of OUT_Y */
    size_t values; /* bytes of a tile's part: input channels in whole steps of the product */
    size_t lanes;  /* output channels, a multiple of 16 */
    bwk_strip strip;
    int group;                                         /* blocks that take turns with the weights of a part */
    size_t strip_bytes, v_bytes, sum_bytes, out_bytes; /* the last three: of a block */
} geometry;

static geometry geometry_of(const bwk_conv_spec *s)
{
    geometry g = {
        .tiles_x = (s->ow + OUT_X - 1) / OUT_X,
        .values = bwk_round((size_t)s->ic * VALUE, 4),
        .lanes = bwk_round((size_t)s->oc, 16),
    };
    g.strip = (bwk_strip){.width = g.tiles_x * OUT_X + 2, .channel = s->ic, .flip = VALUE > 1 && s->asigned ? 0x80 : 0};
    const size_t row = (size_t)g.strip.width * s->ic;
    g.rows = (int)bwk_round((size_t)s->oh, OUT_Y);
    while (g.rows > OUT_Y && (size_t)(g.rows + 2) * row > STRIP_BYTES) g.rows = (int)bwk_round((size_t)g.rows / 2, OUT_Y);
    g.strip_bytes = bwk_round((size_t)(g.rows + 2) * row + SLACK, 64);
    g.v_bytes = bwk_round((size_t)PARTS * TILES * g.values, 64);
    g.sum_bytes = (size_t)(2 * ROWS) * TILES * LANES * sizeof(int32_t);
    g.out_bytes = (size_t)(OUT_Y * OUT_X) * TILES * LANES * sizeof(int32_t);
    g.group = PARTS * g.lanes * g.values > SMALL_WEIGHTS ? GROUP : 1;
    return g;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    return PARTS * g.lanes * (sizeof(int32_t) + g.values) + bwk_round(PARTS * g.lanes / 16 * sizeof(int32_t), 64);
}

/* For each LANES (or last 16) channels and part: starts of the sums; then, for the same, [values / 4][channels / 16][16][STEP]; and behind all these, for the
 * same, steps whose products the instruction set adds up at once. */
static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    const geometry g = geometry_of(s);
    int32_t *start = packed;
    int8_t *to = (int8_t *)(start + PARTS * g.lanes);
    memset(packed, 0, packed_size(s));
    for (int o = 0; o < s->oc; o++) {
        const size_t first = (size_t)o / LANES * LANES, block = g.lanes - first >= LANES ? LANES : 16;
        int32_t *at = start + PARTS * first + ((size_t)o - first);
        value *codes = (value *)(to + PARTS * first * g.values) + ((size_t)o - first) * STEP;
        for (size_t c = 0; c < (size_t)s->ic; c++) {
            int u[PARTS];
            weights_of(w + (size_t)o * 9 * s->ic + c, (size_t)s->ic, u);
            for (size_t k = 0; k < PARTS; k++) {
                codes[k * g.values / VALUE * block + c / STEP * (STEP * block) + c % STEP] = (value)u[k];
                at[k * block] -= bias_of(s, k) * u[k];
            }
        }
    }
    int32_t *chunk = (int32_t *)(to + PARTS * g.lanes * g.values);
    for (size_t first = 0; first < g.lanes; first += LANES) {
        const size_t block = g.lanes - first >= LANES ? LANES : 16;
        for (size_t k = 0; k < PARTS; k++, to += g.values * block) *chunk++ = (int32_t)chunk_of(s, to, g.values / 4);
    }
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    return g.strip_bytes + (size_t)g.group * (g.v_bytes + g.sum_bytes + g.out_bytes);
}

/* A block: ny rows of nx tiles, from column x of the tiles and row y of those of a strip. It gives `rows` rows of output from `row`. */
typedef struct tiles {
    int x, y, nx, ny, row, rows;
} tiles;

/* V + bias of up to a register of channels. Neighbours share two columns. The transform along the columns makes r0 - r2, r1 + r2, r2 - r1
 * and r1 - r3 of them: modulo 256, adding 128 to the first two columns or to the last two adds it to all four. So where the bias is 128
 * tiles take these in turn, and shared columns serve as they are. */
BWI_INLINE void transform_some(const bwk_conv_spec *s, const geometry *g, const uint8_t *strip, const tiles *t,
                               const bwk_some n, uint8_t *v)
{
    const size_t pixel = (size_t)g->strip.channel, pitch = (size_t)g->strip.width * pixel;
    const size_t part = (size_t)(t->nx * t->ny) * g->values;
    const vec flip = setv(FLIP), bias[] = {setv(bias_of(s, PART(0, 0))), setv(bias_of(s, PART(1, 1)))};
    for (int y = t->y; y < t->y + t->ny; y++) {
        const uint8_t *in = strip + (size_t)(y * OUT_Y) * pitch + (size_t)(t->x * OUT_X) * pixel;
        vec r[4][ROWS], next = flip;
        rows_of(in, pitch, n, flip, r[2]);
        rows_of(in + pixel, pitch, n, flip, r[3]);
        for (int x = 0; x < t->nx; x++, in += OUT_X * pixel, v += g->values) {
            next = xorv(next, flip);
            BWI_UNROLL for (int k = 0; k < ROWS; k++) r[0][k] = r[2][k], r[1][k] = r[3][k];
            rows_of(in + 2 * pixel, pitch, n, next, r[2]);
            rows_of(in + 3 * pixel, pitch, n, next, r[3]);
            BWI_UNROLL for (size_t k = 0; k < ROWS; k++)
            {
                bwk_save(v + PART(k, 0) * part, n, biased(subv(r[0][k], r[2][k]), bias[0]));
                bwk_save(v + PART(k, 1) * part, n, biased(addv(r[1][k], r[2][k]), bias[k == 1]));
                bwk_save(v + PART(k, 2) * part, n, biased(subv(r[2][k], r[1][k]), bias[0]));
                bwk_save(v + PART(k, 3) * part, n, biased(subv(r[1][k], r[3][k]), bias[0]));
            }
        }
    }
}

/* All channels: v [PARTS][tiles][values]. */
static void transform(const bwk_conv_spec *s, const geometry *g, const uint8_t *strip, const tiles *t, uint8_t *v)
{
    size_t c = 0;
    for (; c + VECTOR <= g->values; c += VECTOR) transform_some(s, g, strip + c / VALUE, t, (bwk_some){BWK_WHOLE, 0}, v + c);
    if (c + VECTOR / 2 == g->values)
        transform_some(s, g, strip + c / VALUE, t, (bwk_some){BWK_HALF, 0}, v + c);
    else if (c < g->values)
        transform_some(s, g, strip + c / VALUE, t, first_bytes(g->values - c), v + c);
}

/* A phase takes the sums of some columns of a tile to its output, rows of which are `row` apart: 0 of columns 1 and 2, 1 of 0, 2 of 3. */
BWI_INLINE void output_of(const int32_t *sums, size_t part, int32_t *out, size_t row, const int phase)
{
    vec a[OUT_Y], b[OUT_Y];
    column_of(sums, part, a);
    if (phase == 0) column_of(sums + ROWS * part, part, b);
    BWI_UNROLL for (int r = 0; r < OUT_Y; r++, out += row)
    {
        if (phase == 0) {
            save32(out, add32(a[r], b[r]));
            save32(out + LANES, sub32(a[r], b[r]));
        } else if (phase == 1)
            save32(out, whole_of(add32(load32(out), a[r]), r));
        else
            save32(out + LANES, whole_of(sub32(load32(out + LANES), a[r]), r));
    }
}

/* out: the pixels of a block, row by row, [LANES] each. */
BWI_INLINE void outputs(const int32_t *sums, const tiles *t, int channels, int32_t *out, const int phase)
{
    const size_t part = (size_t)(t->nx * t->ny) * LANES, row = (size_t)t->nx * (OUT_X * LANES);
    for (int y = 0; y < t->ny; y++, out += (OUT_Y - 1) * row)
        for (int x = 0; x < t->nx; x++, sums += LANES, out += OUT_X * LANES)
            for (int c = 0; c < channels; c += VECTOR / 4) output_of(sums + c, part, out + c, row, phase);
}

static void output_phase(const int32_t *sums, const tiles *t, int channels, int32_t *out, int phase)
{
    if (phase == 0)
        outputs(sums, t, channels, out, 0);
    else if (phase == 1)
        outputs(sums, t, channels, out, 1);
    else
        outputs(sums, t, channels, out, 2);
}

/* Where sums go. */
typedef struct target {
    bwk_store *store;
    void *arg;
} target;

/* A block's channels from o to the store: all at once where a block is as wide as the map, otherwise row by row. */
static void deliver(const bwk_conv_spec *s, const target *to, const tiles *t, int o, const int32_t *out)
{
    const int width = t->nx * OUT_X, first = t->x * OUT_X, left = s->ow - first,
              channels = s->oc - o < LANES ? s->oc - o : LANES;
    if (width == s->ow) {
        to->store(to->arg, t->row * s->ow, t->rows * s->ow, o, channels, out, LANES);
        return;
    }
    for (int r = 0; r < t->rows; r++, out += (size_t)width * LANES)
        to->store(to->arg, (t->row + r) * s->ow + first, left < width ? left : width, o, channels, out, LANES);
}

/* Products of all blocks of a group and all channels. */
static void multiply(const bwk_conv_spec *s, const geometry *g, const void *packed, const tiles *group, int n_group,
                     const uint8_t *v, int32_t *sums, const target *to)
{
    static const size_t columns[] = {2, 1, 1}; /* of a phase */
    const int32_t *start = packed;
    const int8_t *u = (const int8_t *)(start + PARTS * g->lanes);
    const int32_t *chunk = (const int32_t *)(u + PARTS * g->lanes * g->values);
    const size_t sums_of = g->sum_bytes / sizeof *sums, out_of = g->out_bytes / sizeof *sums; /* a block */
    int32_t *out = sums + (size_t)g->group * sums_of;
    for (size_t o = 0; o < g->lanes; o += LANES) {
        const int channels = g->lanes - o >= LANES ? LANES : 16;
        size_t first = 0;
        for (int phase = 0; phase < 3; first += columns[phase++] * ROWS) {
            /* One part after the other where blocks share its weights. */
            const size_t parts = n_group > 1 ? 1 : columns[phase] * ROWS;
            for (size_t k = 0; k < columns[phase] * ROWS; k += parts) {
                for (size_t i = 0; i < (size_t)n_group; i++) {
                    const size_t n = (size_t)(group[i].nx * group[i].ny);
                    products(u, start, chunk, v + i * g->v_bytes + (first + k) * n * g->values, n, g->values, (int)parts,
                             channels, sums + i * sums_of + k * n * LANES);
                }
                u += parts * g->values * (size_t)channels, start += parts * (size_t)channels, chunk += parts;
            }
            for (size_t i = 0; i < (size_t)n_group; i++)
                output_phase(sums + i * sums_of, &group[i], channels, out + i * out_of, phase);
        }
        for (size_t i = 0; i < (size_t)n_group; i++) deliver(s, to, &group[i], (int)o, out + i * out_of);
    }
}

/* What both kernels take. */
static inline bool takes_shape(const bwk_conv_spec *s)
{
    return s->kh == 3 && s->kw == 3 && s->stride == 1 && s->pad <= 1 && s->groups == 1;
}
/* Transforms of few channels cost more than the products that they save; and on a small map reading the transformed weights, a byte each, takes longer than
 * all products, where a direct convolution reads packed ones (direct_vnni.c). */
static inline bool pays(const bwk_conv_spec *s)
{
    const geometry g = geometry_of(s);
    const bool reads = PARTS * g.lanes * g.values > 2 * SMALL_WEIGHTS && s->oh * s->ow < 100;
    return s->ic >= 32 && s->oc >= 32 && !reads;
}

/* The size of piece i of n, cut into pieces of about equal size that are `most` or less. */
static inline int piece(int n, int most, int i)
{
    const int count = (n + most - 1) / most;
    return n * (i + 1) / count - n * i / count;
}

static void run(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg)
{
    const geometry g = geometry_of(s);
    const target to = {store, arg};
    uint8_t *strip = scratch, *v = strip + g.strip_bytes;
    int32_t *sums = (int32_t *)(v + (size_t)g.group * g.v_bytes);
    const int most_y = g.tiles_x < TILES ? TILES / g.tiles_x : 1; /* rows of tiles of a block */
    for (int y = row, end = row + rows; y < end; y += g.rows) {
        const int n = end - y < g.rows ? end - y : g.rows, tiles_y = (n + OUT_Y - 1) / OUT_Y;
        bwk_strip_fill(&g.strip, s, x, y - s->pad, tiles_y * OUT_Y + 2, strip);
        tiles group[GROUP], t = {0};
        int n_group = 0;
        for (int i = 0; t.y < tiles_y; i++, t.y += t.ny) {
            t.ny = piece(tiles_y, most_y, i);
            t.row = y + t.y * OUT_Y, t.rows = n - t.y * OUT_Y < t.ny * OUT_Y ? n - t.y * OUT_Y : t.ny * OUT_Y;
            t.x = 0;
            for (int k = 0; t.x < g.tiles_x; k++, t.x += t.nx) {
                t.nx = piece(g.tiles_x, TILES, k);
                transform(s, &g, strip, &t, v + (size_t)n_group * g.v_bytes);
                group[n_group++] = t;
                if (n_group < g.group) continue;
                multiply(s, &g, packed, group, n_group, v, sums, &to);
                n_group = 0;
            }
        }
        if (n_group) multiply(s, &g, packed, group, n_group, v, sums, &to);
    }
}
