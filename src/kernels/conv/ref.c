/* The reference: every shape, in plain C, written from the definition. A sum of K products is exact in 32 bits while
 * K * 2^(wbits - 1 + abits) < 2^31: with 8 x 8 bits, up to 65,536 of them. */
#include "kernels/conv.h"
#include <string.h>

enum { BLOCK = 64 }; /* channels handed to the store at once */

static bool accepts(const bwk_conv_spec *s)
{
    (void)s;
    return true;
}

static size_t packed_size(const bwk_conv_spec *s)
{
    return (size_t)s->oc * s->kh * s->kw * (s->ic / s->groups);
}

static void pack(const bwk_conv_spec *s, const int8_t *w, void *packed)
{
    memcpy(packed, w, packed_size(s));
}

static size_t scratch_size(const bwk_conv_spec *s)
{
    (void)s;
    return BLOCK * sizeof(int32_t);
}

/* The sum of output channel o at row y and column x. */
static int32_t sum_at(const bwk_conv_spec *s, const int8_t *w, const void *x, int y, int col, int o)
{
    const int icg = s->ic / s->groups, first = o / (s->oc / s->groups) * icg;
    const uint8_t *u = x;
    const int8_t *i = x;
    int32_t sum = 0;
    w += (size_t)o * s->kh * s->kw * icg;
    for (int ky = 0; ky < s->kh; ky++)
        for (int kx = 0; kx < s->kw; kx++, w += icg) {
            const int iy = y * s->stride + ky - s->pad, ix = col * s->stride + kx - s->pad;
            if (iy < 0 || iy >= s->ih || ix < 0 || ix >= s->iw) continue;
            const size_t at = ((size_t)iy * s->iw + ix) * s->ic + first;
            for (int c = 0; c < icg; c++) sum += w[c] * (s->asigned ? i[at + c] : u[at + c]);
        }
    return sum;
}

static void run(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg)
{
    int32_t *acc = scratch;
    for (int y = row; y < row + rows; y++)
        for (int col = 0; col < s->ow; col++)
            for (int o = 0; o < s->oc; o += BLOCK) {
                const int n = s->oc - o < BLOCK ? s->oc - o : BLOCK;
                for (int c = 0; c < n; c++) acc[c] = sum_at(s, packed, x, y, col, o + c);
                store(arg, y * s->ow + col, 1, o, n, acc, BLOCK);
            }
}

const bwk_conv bwk_conv_ref = {
    .name = "ref",
    .summary = "plain C, every shape; what the others are tested against",
    .row_grain = 1,
    .accepts = accepts,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
