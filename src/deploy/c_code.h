/* Packed networks as C code, shared by the exporters `c` and `c-integer`: one self-contained C99 file and its header. Weights stay packed in constant
 * arrays, memory is one buffer that the caller brings, and nothing is called but code in the file. It consists of tables and of parts that are
 * files here: portable_layer.inc, then a style's arithmetic (portable_float.inc, portable_integer.inc), then portable.inc, which computes layers
 * with it in the engine's order. */
#ifndef BWI_C_CODE_H
#define BWI_C_CODE_H
#include "base/file.h"
#include "deploy/export.h"

/* Elements of one type that grow in number. */
typedef struct bwi_c_array {
    void *data;
    size_t n, room, size; /* elements, elements that have room, bytes of one */
    bool failed;          /* no memory */
} bwi_c_array;
/* Appends n elements; returns the number of the first. */
long bwi_c_add(bwi_c_array *a, const void *data, size_t n);

/* Where the tables hold what belongs to a layer, as in portable_layer.inc. */
typedef struct bwi_c_layer {
    long codes, weights, scale, shift, bias, norm, rule[BWK_MAX_CODES];
    bool direct; /* its codes follow from a table of the style, which then needs no other constants */
} bwi_c_layer;

typedef struct bwi_c_tables {
    bwi_c_array constants; /* float */
    bwi_c_array codes;     /* uint8_t */
    bwi_c_array levels;    /* int32_t */
    bwi_c_layer layer[BWR_MAX_LAYERS];
} bwi_c_tables;

typedef struct bwi_c_style {
    const char *real, *logit; /* C types of a value while the network runs, and of a logit */
    const char *includes, *arithmetic;
    bool levels;              /* its arithmetic wants that table */
    const char *about_logits; /* what stands in the header about them */
    /* Declares and defines what else a caller may call, %s being the network's name; NULL: nothing. */
    const char *declares, *defines;
    /* Sets rule, direct, and of the input weights; adds to tables what these mean. */
    bw_status (*rules)(bwi_c_tables *t, const bwr_plan *p, int layer, bw_error *err);
    void (*constant)(bwi_text *t, float v); /* as a real */
} bwi_c_style;

/* Makes tables of a packed network and writes both files: an exporter's `write`. */
BW_MUST_USE bw_status bwi_c_export(const bwi_c_style *style, const bwi_tensors *lowered, const char *path, bw_error *err);
/* Bytes of the tables and of the buffer: an exporter's `sizes`. */
BW_MUST_USE bw_status bwi_c_sizes(const bwi_c_style *style, const bwi_tensors *lowered, bw_export_sizes *out, bw_error *err);
#endif
