/* Network families: one file a family, one row in zoo.def. */
#ifndef BWI_ZOO_H
#define BWI_ZOO_H
#include "nn/nn.h"

typedef struct bwi_net_options {
    const char *shortcut; /* "A" or "projection"; NULL: A. Only families with `shortcuts` read it */
    bool last_bn;         /* BatchNorm1d before the classifier (EWGS's variant) */
    int classes;
    bwi_shape input; /* {32,32,3}; all 0: the family's own, with 3 channels */
} bwi_net_options;
typedef struct bwi_family {
    const char *name, *summary; /* "resnet20" */
    int depth, width;           /* what distinguishes rows of one file: layers, channels of the first stage */
    int image, classes;         /* of the data that it was published for: pixels on a side, outputs */
    bool shortcuts;             /* has a choice of shortcuts */
    bw_status (*build)(const struct bwi_family *family, bwi_graph *g, const bwi_net_options *options, bw_error *err);
} bwi_family;
const bwi_family *bwi_family_at(size_t i);
/* BW_ARG with the nearest valid name when there is no such family. */
BW_MUST_USE bw_status bwi_family_find(const bwi_family **out, const char *name, bw_error *err);
/* Creates the graph of family `name`; an unknown name or option gives the nearest valid one. Not initialised, not quantized. */
BW_MUST_USE bw_status bwi_net_create(bwi_graph **out, const char *name, const bwi_net_options *options, bwi_dtype real,
                                     bw_error *err);
#endif
