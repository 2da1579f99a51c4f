/* Codes of activations in the training graph against those of the engine, quantizer by quantizer. Packed files number their values as the graph
 * does (lower.c), so the two find each other. */
#ifndef BWI_CODES_H
#define BWI_CODES_H
#include "base/par.h"
#include "deploy/run/net.h"
#include "nn/nn.h"

typedef struct bwi_code_counts {
    int64_t codes, differing, images;
    int largest;
} bwi_code_counts;
typedef struct bwi_code_tensor {
    const bwi_node *node;               /* the quantizer */
    size_t n;                           /* codes of an image */
    uint8_t *graph;                     /* [batch][n] of the last forward pass */
    bwi_code_counts counts[BWI_CHUNKS]; /* of each chunk of a parallel loop */
} bwi_code_tensor;
typedef struct bwi_codes {
    bwi_code_tensor *tensor;
    int n, batch;
    uint8_t *all;
} bwi_codes;

/* batch becomes smaller than `most` where the codes of so many images would take more than 64 MiB. */
BW_MUST_USE bw_status bwi_codes_create(bwi_codes *c, const bwi_graph *g, int most, bw_error *err);
void bwi_codes_destroy(bwi_codes *c); /* accepts a zeroed struct */
/* bwi_exec_options.observe, with a bwi_codes as observer: keeps the codes that a step makes. */
void bwi_codes_take(void *codes, const struct bwi_call *step);
/* Runs image number `image` of the last forward pass on the engine and counts what differs, in part `chunk` of the counts: threads have
 * different ones. pixels, logits, work as in bw_net_run. */
void bwi_codes_compare(bwi_codes *c, const bw_net *net, const uint8_t *pixels, int image, int chunk, float *logits, void *work);
/* The sums of row i. */
bw_verify_layer bwi_codes_layer(const bwi_codes *c, int i);
#endif
