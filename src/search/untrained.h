/* What can be known of a network before it is trained, since it depends on shapes and bits alone: its layers, their time, its bytes. */
#ifndef BWI_UNTRAINED_H
#define BWI_UNTRAINED_H
#include "io/io.h"
#include "train/recipe.h"

/* bwi_lower of the network that a recipe trains, hypernetwork aside, at random weights; free with bwi_tensors_free. */
BW_MUST_USE bw_status bwi_lower_untrained(bwi_tensors *lowered, bw_recipe *r, bw_error *err);
/* Size of its packed file; classes: their names as files hold them (BWI_META_CLASSES), NULL: none. BW_UNSUPPORTED names the layer that
 * cannot be packed. */
BW_MUST_USE bw_status bwi_packed_bytes(size_t *bytes, bw_recipe *r, const char *classes, bw_error *err);
#endif
