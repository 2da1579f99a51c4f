/* Latency of layers, measured: the network at each bit-width is lowered and run by the engine, one image on one thread, layer by layer. */
#ifndef BWI_MEASURE_H
#define BWI_MEASURE_H
#include "search/budgets.h"

/* What was measured, in whole nanoseconds; bit-widths take turns, and the median of their rounds counts. */
typedef struct bwi_latencies {
    double ns[BWI_SEARCH_LAYERS][BWI_SEARCH_BITS + 1];
    double rest; /* of a whole run beyond the searched layers: input, pools, shortcuts, calls; the median of all bit-widths' */
    double whole[BWI_SEARCH_BITS + 1]; /* of a run with all searched layers at these bits */
    bool real[BWI_SEARCH_LAYERS];      /* float activations: multiplied in float, at any bits in the same time */
    uint64_t network;                  /* hash of what was run, and by which kernels */
} bwi_latencies;

/* Only l->network and l->real: what would be measured. */
BW_MUST_USE bw_status bwi_latencies_identify(bwi_latencies *l, const bwi_costing *c, bw_error *err);
/* The rest of what bwi_latencies_identify has begun. */
BW_MUST_USE bw_status bwi_latencies_measure(bwi_latencies *l, const bwi_costing *c, bw_error *err);
#endif
