/* What an assignment of bit-widths is worth: the network at these bits, its batch norms calibrated anew, on validation images that training
 * never saw (Wang et al. 2020; methods 4.5). Weights come from the model's hypernetwork when it has one; otherwise its own are quantized, by its
 * quantizer or, in a float model, by the one that the found recipe will train (bwi_recipe_asked). Convolutions multiply integers where they can,
 * float activations rounded to 16 bits, whatever the model's precision: that moves an error by an image in thousands and takes three quarters of
 * the time. */
#ifndef BWI_CANDIDATES_H
#define BWI_CANDIDATES_H
#include "nn/nn.h"
#include "search/search.h"
#include "train/model.h"

typedef struct bwi_candidates_options {
    const char *data;           /* NULL: what the model was trained on */
    int calibrate_batches;      /* of calibrate_batch training images, for exact averages of the batch norms' statistics */
    int calibrate_batch, limit; /* limit: validation images; 0: all */
    const char *const *set;     /* [n_set] changes of the recipe */
    size_t n_set;
    int threads; /* 0: all cores; candidates are evaluated side by side, one thread each */
} bwi_candidates_options;

/* A layer whose bits are searched, or one that keeps its bits because the policy fixes them (bwi_node.fixed). */
typedef struct bwi_searched_layer {
    const char *name;
    int kept;               /* bits of its weights; 0: they are searched */
    double weights;         /* elements */
    double multiplications; /* of one image */
    int activation_bits;    /* 0: float */
} bwi_searched_layer;

typedef struct bwi_candidates bwi_candidates;
BW_MUST_USE bw_status bwi_candidates_open(bwi_candidates **out, const char *model, const bwi_candidates_options *options,
                                          bw_error *err);
void bwi_candidates_close(bwi_candidates **c);
/* Layers in the order of the graph, behind all that are searched those that keep their bits; false past the end. */
bool bwi_candidates_layer(const bwi_candidates *c, int i, bwi_searched_layer *layer);
/* Range of bits that the model was trained for, or that its quantizer has. */
void bwi_candidates_range(const bwi_candidates *c, int *lo, int *hi);
const bwi_model *bwi_candidates_model(const bwi_candidates *c);
/* Validation images. *seen: the model was trained on them, since its recipe held none out (data.holdout), and a tenth of the training images
 * serves, or since what it started from (init) was, or may have been. That suits quantizing a trained model but is no fair judge of training. */
int bwi_candidates_images(const bwi_candidates *c, bool *seen);
/* bwi_problem.evaluate and .sensitivity; context: the bwi_candidates. */
BW_MUST_USE bw_status bwi_candidates_evaluate(void *c, const uint8_t *bits, int count, double *error, bw_error *err);
BW_MUST_USE bw_status bwi_candidates_sensitivity(void *c, double (*loss)[BWI_SEARCH_BITS + 1], bw_error *err);
#endif
