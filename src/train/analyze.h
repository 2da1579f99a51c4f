/* Analysis of a quantized model: what analyze.c measures, and what the other analyze_*.c files make of it. */
#ifndef BWI_ANALYZE_H
#define BWI_ANALYZE_H
#include "nn/nn.h"
#include "train/describe.h"
#include "train/histogram.h"

#define BWI_CODES   256
#define BWI_RATIOS  3  /* gradient scales of LSQ's R: 1, 1/sqrt(N), 1/sqrt(N*Qp) */
#define BWI_DISPLAY 80 /* bars of a histogram in JSON and pictures */

/* One quantized tensor. */
typedef struct bwi_analyzed {
    const bwi_node *layer;
    bwi_quant *q;
    bwi_histogram values; /* before quantization */
    double code[BWI_CODES];
    int n_codes;
    double clipped;           /* values beyond the outermost levels */
    double best[BWI_FITS];    /* multiples of the step size; NaN: not LSQ */
    double ratio[BWI_RATIOS]; /* sum over the batches of training */
} bwi_analyzed;

typedef struct bwi_analysis {
    bwi_graph *graph;
    bwi_analyzed *tensor; /* [n], in the order of bwi_graph_quant */
    int n;
    int test_batches, train_batches; /* seen */
} bwi_analysis;

static inline bool bwi_is_lsq(const bwi_quant *q)
{
    return q->q == bwi_quantizer_find("lsq");
}

/* One tensor for each quantizer of g, nothing counted yet. */
BW_MUST_USE bw_status bwi_analysis_create(bwi_analysis *a, bwi_graph *g, bw_error *err);
void bwi_analysis_destroy(bwi_analysis *a); /* accepts a zeroed struct */
/* Counts n values of a tensor whose quantizer is prepared: histogram, codes, clipped. */
BW_MUST_USE bw_status bwi_analyzed_add(bwi_analyzed *t, const float *x, size_t n, bw_error *err);
/* LSQ's R of the tensor, weights after a backward pass: |gs * dL/ds| / s over ||dL/dw|| / ||w|| for the three gradient scales gs, added to
 * t->ratio. Here dL/ds has no gradient scale. */
void bwi_analyzed_add_ratio(bwi_analyzed *t, const bwi_param *w);

/* x of each code's level, the inverse of the quantizer's map from x to its grid; NaN where no x within 4 * max|x| leads there. */
void bwi_analyzed_levels(const bwi_analyzed *t, double *x);

/* ---- analyze_log.c -------------------------------------------------------------------------------------------------------- */
/* {"epochs": [1, 2 ..], "series": [{"layer", "role", "key": "step" or "delta" .., "values": [..]}]} of FOLDER/log.jsonl, up to its first
 * incomplete line; null where an epoch has no such value. must: the file has to be there; otherwise *out is JSON's null. */
BW_MUST_USE bw_status bwi_log_read(const char *folder, bool must, json_t **out, bw_error *err);

/* ---- analyze_json.c ------------------------------------------------------------------------------------------------------- */
/* The whole as one object (history, which is taken over, under "history"); NULL on lack of memory. */
json_t *bwi_analysis_json(const bwi_analysis *a, json_t *history);
void bwi_analysis_text(const json_t *analysis, bwi_text *t);

/* ---- analyze_svg.c -------------------------------------------------------------------------------------------------------- */
#define BWI_PICTURE_NAME 64
/* The i-th picture that an analysis has something to show for, as SVG text, and its file's name; false past the end. *svg is freed with
 * bwi_free and NULL on lack of memory. */
bool bwi_analysis_picture(const json_t *analysis, int i, char name[BWI_PICTURE_NAME], char **svg);
#endif
