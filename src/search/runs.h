/* Runs of training side by side, from their folders: a table, and a picture of their curves. */
#ifndef BWI_RUNS_H
#define BWI_RUNS_H
#include "base/alloc.h"
#include "base/status.h"
#include <jansson.h>

/* A run as one object: "folder", "weights" and "activations" (bits as text), "kind" ("uniform" or "hybrid"), "weight_bytes", of each epoch in
 * its log "train_loss" and "test_top1" (null: not evaluated), and of the latter, where it is known, "last", "best" and "mean_of_last_10" (null: there
 * are fewer). */
BW_MUST_USE bw_status bwi_run_read(const char *folder, json_t **run, bw_error *err);
/* A line each of an array of runs, below a head. */
void bwi_runs_table(bwi_text *t, const json_t *runs);
/* SVG text, freed with bwi_free; NULL on lack of memory. */
char *bwi_curves_picture(const json_t *runs);
#endif
