/* Convolutions of codes: 1- to 8-bit weights and activations, NHWC, one image, exact integer sums.
 *
 * One row of conv/conv.def per kernel. Every row gives the same sums, bit for bit, on every machine that can run it; conv/ref.c accepts
 * everything, and is what the others are tested against. Rows are chosen at plan time, by measurement or from a table. A kernel does
 * not know what its sums are for: it hands blocks of them to a bwk_store while they are in cache. */
#ifndef BWK_CONV_H
#define BWK_CONV_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bwk_conv_spec {
    int ih, iw, ic;                  /* input map [ih,iw,ic] */
    int oh, ow, oc;                  /* output map; oh = (ih + 2 pad - kh) / stride + 1 */
    int kh, kw, stride, pad, groups; /* a linear layer is a 1x1 convolution of a 1x1 map */
    int wbits, abits;                /* 1 .. 8 */
    bool asigned; /* activations are int8 from -2^(abits-1) to 2^(abits-1) - 1; otherwise uint8 from 0 to 2^abits - 1 */
} bwk_conv_spec;
/* Weight codes as pack gets them: int8 [oc][kh][kw][ic/groups]; -1 or +1 with one bit, else -2^(wbits-1) .. 2^(wbits-1) - 1. Padding is code 0. */

/* Sums of `pixels` output pixels, number pixel = y * ow + x and following, of channels channel .. channel + channels - 1:
 * acc [pixels][stride], of which the first `channels` of each row count. acc is 64-byte aligned. */
typedef void bwk_store(void *arg, int pixel, int pixels, int channel, int channels, const int32_t *acc, int stride);

typedef struct bwk_conv {
    const char *name; /* "ref", "vnni", "winograd-2x2", "popcount" */
    const char *summary;
    unsigned needs; /* BWI_CPU_... */
    int row_grain;  /* run starts at multiples of it */
    bool (*accepts)(const bwk_conv_spec *s);
    bool (*pays)(const bwk_conv_spec *s); /* it is faster than the rows behind it, as bench conv measures; NULL: always */
    size_t (*packed_size)(const bwk_conv_spec *s); /* bytes; 64-byte aligned memory */
    void (*pack)(const bwk_conv_spec *s, const int8_t *w, void *packed);
    size_t (*scratch_size)(const bwk_conv_spec *s); /* bytes a thread; 64-byte aligned memory */
    /* Output rows row .. row + rows - 1. x [ih,iw,ic] uint8 or int8, in; may be read only within its bounds. Every sum of these rows goes
     * to store exactly once. */
    void (*run)(const bwk_conv_spec *s, const void *packed, const void *x, int row, int rows, void *scratch, bwk_store *store,
                void *arg);
} bwk_conv;

const bwk_conv *bwk_conv_at(size_t i); /* NULL past the end; fastest first as far as that is known, "ref" last */
const bwk_conv *bwk_conv_find(const char *name);
/* Whether this CPU, as limited by bwi_cpu_limit, runs the row, and the row takes the shape. */
bool bwk_conv_usable(const bwk_conv *k, const bwk_conv_spec *s);
const bwk_conv *bwk_conv_choose(const bwk_conv_spec *s); /* the table's choice: the first row that is usable and pays */
#endif
