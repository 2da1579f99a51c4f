/* What network families build with: layers appended one behind the other, under a common prefix of their names. */
#ifndef BWI_ZOO_BUILDER_H
#define BWI_ZOO_BUILDER_H
#include "zoo/zoo.h"

/* A network being built: `at` is the value that the next layer takes, at first the input. */
typedef struct bwi_builder {
    bwi_graph *g;
    bw_error *err;
    int at;
    char prefix[BWI_NAME / 2]; /* of layer names: "layer1.0." or "" */
} bwi_builder;

/* Appends one layer with inputs in[0..n_in), or one that takes the value at hand. attr may be NULL. */
BW_MUST_USE bw_status bwi_build_add(bwi_builder *b, const char *op, const char *name, const int *in, int n_in,
                                    const bwi_attr *attr);
BW_MUST_USE bw_status bwi_build_then(bwi_builder *b, const char *op, const char *name, const bwi_attr *attr);
/* A square convolution without bias that keeps the map where stride is 1; a batch norm; a fully connected layer with bias. */
BW_MUST_USE bw_status bwi_build_conv(bwi_builder *b, const char *name, int out, int kernel, int stride);
BW_MUST_USE bw_status bwi_build_norm(bwi_builder *b, const char *name);
BW_MUST_USE bw_status bwi_build_linear(bwi_builder *b, const char *name, int out);
/* BW_SHAPE when images are smaller than `least` pixels high or wide. */
BW_MUST_USE bw_status bwi_build_check_image(const bwi_builder *b, const bwi_family *family, int least);
#endif
