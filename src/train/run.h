/* One training run: what train.c, checkpoint.c and metrics.c share. */
#ifndef BWI_RUN_H
#define BWI_RUN_H
#include "data/data.h"
#include "train/distill.h"
#include "train/hyper.h"
#include "train/meta.h"
#include "train/params.h"

/* Where a run stands. Together with parameters, optimizer state and quantizers this is all that decides what comes next, so it is what a
 * checkpoint holds. Nothing in it depends on time. */
typedef struct bwi_progress {
    int64_t epoch, step;                                 /* the next step to do, both from 0 */
    int64_t images, top1;                                /* of this epoch so far */
    double loss_sum;                                     /* over those images */
    double train_loss, train_top1, test_loss, test_top1; /* of the last finished epoch; NaN: none, or not evaluated */
    double best_top1;                                    /* percent; -1: none yet */
} bwi_progress;

/* Recent speed, for events; never stored. */
typedef struct bwi_meter {
    double run_start, epoch_start, last, rate; /* rate: images a second, smoothed; 0: unknown */
    int64_t since;                             /* images since `last` */
    int64_t steps, epoch_images;               /* done by this call; by this call in this epoch */
} bwi_meter;

typedef struct bwi_run {
    bw_recipe *recipe;                                /* borrowed */
    const bw_train_options *options;                  /* borrowed */
    char *checkpoint, *best, *model, *log, *resolved; /* paths in out_dir */
    bwi_dataset *data;
    bwi_loader *train_loader, *test_loader;
    bwi_graph *graph;
    bwi_exec *exec, *test_exec;
    bwi_teacher teacher; /* of recipe key distill.teacher */
    bwi_params params;
    bwi_meta *meta;         /* NULL: gradients are not learned */
    bwi_hyper *hyper;       /* NULL: weights are not made from bits */
    int64_t steps;          /* per epoch */
    bwi_progress at, saved; /* saved: what the checkpoint on disk holds */
    bwi_meter meter;
    bool stop; /* a callback asked for it */
} bwi_run;

/* ---- train.c ------------------------------------------------------------------------------------------------------------- */
/* For long work between steps: tells the caller what is being done, at most five times a second. True: somebody asked to stop. */
bool bwi_run_poll(bwi_run *run, const char *doing);

/* ---- checkpoint.c -------------------------------------------------------------------------------------------------------- */
/* Replaces the checkpoint by the present state and sets run->saved. BW_NUMERIC, and the old file stays, when a parameter is out of range. */
BW_MUST_USE bw_status bwi_checkpoint_save(bwi_run *run, bw_error *err);
/* Continues from the checkpoint; BW_ARG, naming the keys, when its recipe differs. */
BW_MUST_USE bw_status bwi_checkpoint_load(bwi_run *run, bw_error *err);
/* Writes the network alone, for evaluation: parameters, quantizers, recipe. Weights that a hypernetwork made at fixed bits become ordinary
 * ones, and it is left out, in the recipe too; while bits are drawn it stays. */
BW_MUST_USE bw_status bwi_model_save(const bwi_run *run, const char *path, bw_error *err);

/* ---- metrics.c ----------------------------------------------------------------------------------------------------------- */
/* The line of the log for the epoch that run->at has finished, as one JSON object without a line end. Freed with free. */
BW_MUST_USE bw_status bwi_metrics_line(const bwi_run *run, char **line, bw_error *err);
/* Layers and their bits as a table, for people. Freed with bwi_free; NULL on lack of memory. */
char *bwi_layer_table(const bwi_graph *g);
/* Cuts the log behind the line of epoch `epochs` (from 1): what a killed run wrote after its last checkpoint, torn lines included. */
BW_MUST_USE bw_status bwi_log_cut(const char *path, int64_t epochs, bw_error *err);
BW_MUST_USE bw_status bwi_log_add(const char *path, const char *line, bw_error *err);
#endif
