/* Ways of searching: one file in methods/ and one row of methods.def each. */
#ifndef BWI_METHODS_H
#define BWI_METHODS_H
#include "quant/quant.h"
#include "search/trials.h"

typedef struct bwi_method {
    const char *name, *summary, *cite;
    bwi_option option[BWI_OPTIONS];        /* ends at key NULL */
    int (*evaluations)(const double *opt); /* that it asks for at most */
    /* Asks trials, whose archive then holds what was found. Draws are keyed by the problem's seed. opt [BWI_OPTIONS]. */
    bw_status (*run)(bwi_trials *t, const double *opt, bw_error *err);
} bwi_method;

const bwi_method *bwi_method_at(size_t i); /* NULL past the end */
/* Parses "genetic:population=50" against the rows. */
BW_MUST_USE bw_status bwi_method_parse(const char *text, const bwi_method **method, double *opt, bw_error *err);
#endif
