/* What a search leaves behind: search.json, recipe.yaml, pictures. */
#ifndef BWI_OUTCOME_H
#define BWI_OUTCOME_H
#include "search/budgets.h"
#include "search/trials.h"

/* A finished search. All borrowed. */
typedef struct bwi_outcome {
    const char *model, *method, *budget_text;
    const bwi_budget *budget;
    const bwi_problem *problem;
    const bwi_searched_layer *layer;
    const bwi_trials *trials;
    bw_recipe *recipe;   /* with the found bits */
    json_t *key;         /* what evaluations depend on */
    bool seen;           /* the model was trained on the validation images */
    int kept;            /* layers that keep their bits */
    double kept_bytes;   /* of weights that are not searched, those of float layers included */
    size_t packed_bytes; /* of the found network's packed file; 0: it cannot be packed */
    const char *out_dir;
} bwi_outcome;

/* Weights of g as bytes: those of convolutions and linear layers at their bits, of float layers at 4 bytes. */
double bwi_weight_bytes(const bwi_graph *g);
/* The outcome as one object, NULL on lack of memory. The same search gives the same object. */
json_t *bwi_outcome_json(const bwi_outcome *o);
/* Writes out_dir/recipe.yaml, search.json and bits.svg. */
BW_MUST_USE bw_status bwi_outcome_write(const bwi_outcome *o, bw_error *err);

/* ---- report.c ------------------------------------------------------------------------------------------------------------ */
/* Bits of each layer, one row for each of the searches (an array of outcomes as JSON, "label" in each); SVG text, freed with bwi_free; NULL
 * on lack of memory. */
char *bwi_bits_picture(const json_t *searches);
#endif
