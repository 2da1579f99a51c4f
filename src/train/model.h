/* Files of this library, opened: the network that a model or checkpoint holds. */
#ifndef BWI_MODEL_H
#define BWI_MODEL_H
#include "train/import.h"
#include "train/recipe.h"

#define BWI_KIND_MODEL      "model"
#define BWI_KIND_CHECKPOINT "checkpoint"

typedef struct bwi_model {
    bwi_tensors file;
    const char *kind, *normalize; /* in `file` */
    bw_recipe *recipe;
    bwi_graph *graph; /* built by the recipe, filled from the file */
} bwi_model;

/* Opens path. A file of weights that this library did not write is BW_FORMAT. */
BW_MUST_USE bw_status bwi_model_open(bwi_model *m, const char *path, bw_error *err);
/* The same from tensors that were read from path; takes them over, also on failure. */
BW_MUST_USE bw_status bwi_model_from(bwi_model *m, bwi_tensors *tensors, const char *path, bw_error *err);
/* After an import from path: quantizers of g that have other bits there than in g are to be initialised anew, since a step size that fits
 * 8 bits is useless with 4. *n: how many. Files that this library did not write have no quantizers. */
BW_MUST_USE bw_status bwi_reset_requantized(bwi_graph *g, const char *path, int *n, bw_error *err);
void bwi_model_close(bwi_model *m); /* accepts a zeroed struct */
#endif
