/* Found bits as a recipe. */
#ifndef BWI_SEARCH_POLICY_H
#define BWI_SEARCH_POLICY_H
#include "search/candidates.h"
#include "train/recipe.h"

/* A copy of r. */
BW_MUST_USE bw_status bwi_recipe_copy(bw_recipe **out, bw_recipe *r, bw_error *err);
/* A copy of a model's recipe with the changes set [n_set], "section.key=value". Weights that would stay float get min/max quantizers. */
BW_MUST_USE bw_status bwi_recipe_asked(bw_recipe **out, bw_recipe *r, const char *const *set, size_t n_set, bw_error *err);
/* Adds one rule of quant.layers for each of the n layers, bits [n]; earlier rules for exactly these layers make way. */
BW_MUST_USE bw_status bwi_recipe_set_bits(bw_recipe *r, const bwi_searched_layer *layer, const uint8_t *bits, int n,
                                          bw_error *err);
#endif
