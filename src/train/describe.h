/* Networks as JSON and as tables: one description, two ways to print it. */
#ifndef BWI_DESCRIBE_H
#define BWI_DESCRIBE_H
#include "base/alloc.h"
#include "nn/nn.h"
#include <jansson.h>

/* {"layers": [{name, operation, output, weights, weight_bits, ...}], "parameters", "bytes", "float_bytes", "ratio"}; NULL on lack of memory.
 * Learned quantizer parameters are there once they are initialised. */
json_t *bwi_describe(const bwi_graph *g);
/* The same as lines of text, appended to t. */
void bwi_describe_text(const json_t *description, bwi_text *t);
/* Of an object: its text at key, or ""; its number at key, or NaN. */
const char *bwi_json_text(const json_t *object, const char *key);
double bwi_json_at(const json_t *object, const char *key);
/* x, or null where JSON has no number for it. */
json_t *bwi_json_number(double x);
/* Text of a bwi_text, taken over; NULL (and its memory freed) when an append failed. */
char *bwi_text_take(bwi_text *t);
#endif
