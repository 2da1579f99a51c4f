/* Rows of the input with their padding written out, so that kernels meet neither edges nor the end of the caller's memory. Copying them
 * costs a byte read and written for each byte of input, against channels x kernel multiply-adds. */
#ifndef BWK_STRIP_H
#define BWK_STRIP_H
#include "kernels/conv.h"
#include <string.h>

typedef struct bwk_strip {
    int width;    /* pixels of a row, the left padding included; what the map does not have is code 0 */
    int channel;  /* bytes a pixel, at least ic; those past ic are code 0 */
    uint8_t flip; /* 0x80 makes int8 codes uint8 codes + 128, code 0 included; otherwise 0 */
} bwk_strip;

static inline size_t bwk_round(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Rows first .. first + rows - 1 of the input map, where first may be negative and rows may lie beyond the map, to `to`. */
static inline void bwk_strip_fill(const bwk_strip *t, const bwk_conv_spec *s, const void *x, int first, int rows, uint8_t *to)
{
    const size_t row = (size_t)t->width * t->channel, left = (size_t)s->pad * t->channel;
    const int pixels = s->iw < t->width - s->pad ? s->iw : t->width - s->pad;
    for (int y = first; y < first + rows; y++, to += row) {
        if (y < 0 || y >= s->ih) {
            memset(to, t->flip, row);
            continue;
        }
        const uint8_t *from = (const uint8_t *)x + (size_t)y * s->iw * s->ic;
        uint8_t *at = to + left;
        memset(to, t->flip, left);
        if (t->channel == s->ic) {
            const size_t n = (size_t)pixels * s->ic;
            memcpy(at, from, n);
            if (t->flip)
                for (size_t i = 0; i < n; i++) at[i] ^= t->flip;
            at += n;
        } else
            for (int p = 0; p < pixels; p++, from += s->ic, at += t->channel) {
                for (int c = 0; c < s->ic; c++) at[c] = from[c] ^ t->flip;
                memset(at + s->ic, t->flip, (size_t)(t->channel - s->ic));
            }
        memset(at, t->flip, (size_t)(to + row - at));
    }
}
#endif
