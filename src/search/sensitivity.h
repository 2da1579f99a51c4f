/* Losses that layers are expected to add by themselves, for the ways of searching that take them to add up. */
#ifndef BWI_SENSITIVITY_H
#define BWI_SENSITIVITY_H
#include "search/search.h"

typedef double bwi_loss[BWI_SEARCH_BITS + 1]; /* [bits] of a layer */
/* *loss [n], freed with bwi_free. BW_NUMERIC when one is not a number. */
BW_MUST_USE bw_status bwi_loss_of(bwi_loss **loss, const bwi_problem *p, bw_error *err);

/* The assignment of least loss in all that keeps the budget, exactly: bits [n], out. Ties go to less cost, then to fewer bits from the first
 * layer on. BW_ARG: none keeps it. */
BW_MUST_USE bw_status bwi_knapsack(const bwi_problem *p, const bwi_loss *loss, uint8_t *bits, bw_error *err);
#endif
