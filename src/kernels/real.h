/* What the engine computes in float: convolutions of float values, pools, and what follows either.
 *
 * One row for each instruction set; all give the same bits. real_loops.h is compiled once a row: additions have one order, the one that is written
 * here, and multiplications and additions stay apart. */
#ifndef BWK_REAL_H
#define BWK_REAL_H
#include "kernels/conv.h"
#include "kernels/finish.h"

typedef struct bwk_real {
    const char *name;
    unsigned needs; /* BWI_CPU_... */
    /* Output row `row` of a convolution: out [ow][oc] = scale * sum over (ky, kx, channel), in this order from 0, of x [ih][iw][ic] times
     * w [kh][kw][ic/groups][oc]; what lies outside of the map is left out. Reads of s no bits. */
    void (*conv)(const bwk_conv_spec *s, const float *w, const float *x, float scale, int row, float *out);
    /* Output row `row` of the maximum: out [ow][oc]; ic and oc are the same. */
    void (*max_pool)(const bwk_conv_spec *s, const float *x, int row, float *out);
    /* What follows the values t [pixels][channels] of pixels from `pixel` on, which it changes: kernels/finish.h behind its first line. */
    void (*finish)(const bwk_finish *f, size_t pixel, size_t pixels, float *t);
} bwk_real;
const bwk_real *bwk_real_at(size_t i); /* NULL past the end; fastest first, "ref" last */
/* The one for this CPU as limited by bwi_cpu_limit. */
const bwk_real *bwk_real_for_cpu(void);
#endif
