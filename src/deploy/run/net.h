/* Packed networks: what a packed file describes, as pack.c writes it and read.c reads it.
 *
 * A packed file is a safetensors file of two tensors, so that next to the weights it holds next to nothing:
 *   floats  F32, for every layer in order: of the input mean [c] and deviation [c]; of others scale, sum_shift, then sub, mul, add, lo, hi of every
 *           quantizer of the result (kernels/finish.h), bias [c], a [c] and b [c], float weights [c][kh][kw][ic/groups]: those that there are
 *   codes   U8, for every layer with weight codes, from a byte on: weight_bits each, as unsigned numbers from the lowest code (one bit: 1 is +1),
 *           lowest bits first without gaps, in the order [c][kh][kw][ic/groups]
 * and these metadata:
 *   bitwright.kind "packed"; bitwright.packed, the version of this layout; bitwright.family, bitwright.normalize for people;
 *   bitwright.class_names, with | between them, where they are known
 *   bitwright.layers, the layers in the order of execution, separated by ';', each a kind, a name and words of a letter and numbers, of which
 *   those that have their usual value, which stands here in parentheses, are left out:
 *     iN  reads value N (the newest)                            rN  adds value N
 *     oN  makes value N (not when only codes are wanted)        qN  makes codes, value N; qNz signed ones; once for each quantizer of the result
 *     cN  channels of the result (those of what it reads)       kN, kNxN  kernel (1)         sN  stride (1)     gN  groups (1)
 *     pN  padding (of convolutions with square kernels half the kernel, which keeps the map as large; otherwise 0)
 *     wN  weight bits (float)      aN, aNz  activation bits, z: signed (float: then `conv` means conv_real)
 *     mN  sum_mul (1)              tN  sum_add (0)              T  sum_shift      R  ReLU           B  bias            N  batch norm
 *     hNxN height and width of the input
 *   as in: conv layer1.0.conv2 r2 o6 k3 w2 a2 N R q7. Values are written once and before they are read.
 * Version 1, which is still read, has no usual padding but 0, and writes more of the words. */
#ifndef BWR_NET_H
#define BWR_NET_H
#include "deploy/run/header.h"
#include "kernels/conv.h"
#include "kernels/finish.h"
#include <bitwright/run.h>

#define BWR_VERSION    "2"
#define BWR_MAX_LAYERS 512
#define BWR_MAX_VALUES 1024
#define BWR_NAME       96

/* name */
#define BWR_KINDS(X)                                                                                                           \
    X(input)       /* bytes of the image through a table */                                                                    \
    X(conv)        /* of codes, exact */                                                                                       \
    X(conv_real)   /* of float values, by float weights or by weight codes */                                                  \
    X(global_pool) /* mean of the map */                                                                                       \
    X(avg_pool)                                                                                                                \
    X(max_pool)                                                                                                                \
    X(shortcut_a) /* every stride-th pixel, zero channels around */                                                            \
    X(map)        /* the value itself: what follows is all there is */

typedef enum bwr_kind {
#define BWR_X(name) BWR_##name,
    BWR_KINDS(BWR_X)
#undef BWR_X
        BWR_N_KINDS
} bwr_kind;
extern const char *const bwr_kind_name[BWR_N_KINDS];

/* A quantizer of a layer's result. */
typedef struct bwr_codes {
    int value;
    bool is_signed;
    float sub, mul, add, lo, hi;
} bwr_codes;

typedef struct bwr_layer {
    bwr_kind kind;
    char name[BWR_NAME];
    int in, residual, out; /* values; out -1: only codes are wanted */
    int h, w, c;           /* of the result */
    int kh, kw, stride, pad, groups;
    int wbits, abits; /* 0: float */
    bool asigned;
    int sum_mul, sum_add; /* kernels/finish.h; of BWR_conv_real: weights are (float)(sum_mul * code + sum_add) + sum_shift */
    bool relu;
    float scale, sum_shift;
    bwr_codes codes[BWK_MAX_CODES];
    int n_codes;
    const uint8_t *weight;         /* packed codes */
    size_t weight_bytes;           /* of codes or floats */
    const float *real_weight;      /* [c][kh][kw][ic/groups] of a float convolution with float weights */
    const float *bias, *a, *b;     /* [c]; NULL: none */
    const float *mean, *deviation; /* [c] of the input */
    bool has_shift, has_bias, has_norm;
    size_t floats_at, codes_at; /* where its scale and its codes lie in the two tensors */
} bwr_layer;

typedef struct bwr_value {
    int h, w, c;
    bool known, codes, is_signed;
    int lo, hi;      /* of codes */
    int first, last; /* layers that write and read it */
    size_t offset;   /* in work */
} bwr_value;

/* The padding that goes without saying. */
static inline int bwr_usual_pad(const bwr_layer *l)
{
    return (l->kind == BWR_conv || l->kind == BWR_conv_real) && l->kh == l->kw ? (l->kh - 1) / 2 : 0;
}
/* Elements of a convolution's weights, and a layer's spec for the kernels. */
size_t bwr_weights(const bwr_layer *l, int ic);
bwk_conv_spec bwr_spec(const bwr_layer *l, const bwr_value *in);
/* Code number i of packed weights. */
static inline int bwr_code(const uint8_t *packed, int bits, size_t i)
{
    const size_t at = i * (size_t)bits;
    unsigned v = (unsigned)packed[at / 8] >> (at % 8);
    if (at % 8 + (size_t)bits > 8) v |= (unsigned)packed[at / 8 + 1] << (8 - at % 8);
    v &= (1u << bits) - 1;
    return bits == 1 ? (v ? 1 : -1) : (int)v - (1 << (bits - 1));
}

/* A checked file. */
typedef struct bwr_plan {
    bwr_layer layer[BWR_MAX_LAYERS];
    bwr_value value[BWR_MAX_VALUES];
    int n_layers, n_values;
    int newest; /* value that was made last; while it is read */
    int image_h, image_w, image_c;
    size_t n_floats, n_codes; /* elements of the two tensors */
} bwr_plan;
/* Runs one image and shows what each layer made, before later ones overwrite it: values are at plan->value[i].offset of `values`. For checks. */
typedef void bwr_observe(void *observer, const bwr_plan *plan, int layer, const char *values);
void bwr_run_observed(const bw_net *net, const uint8_t *image, float *logits, void *work, bwr_observe *observe, void *observer);
/* Gives values their offsets, so that those alive at the same time do not overlap. Returns the bytes that they take. */
size_t bwr_place_values(bwr_plan *p);
/* Parses and checks everything: shapes, value numbers, sizes of tensors. */
BW_MUST_USE bw_status bwr_plan_read(bwr_plan *p, const void *file, size_t size, bw_error *err);
/* Layer i alone, of one image; earlier layers have left their values in work. For timing. */
void bwr_run_layer(const bw_net *net, int i, const uint8_t *image, void *work);
#endif
