/* Evaluation of a network on one split of a data set. */
#ifndef BWI_EVALUATE_H
#define BWI_EVALUATE_H
#include "data/data.h"
#include "train/recipe.h"

/* Runs every image of the loader's split through e. top1 and top5 in percent, loss in nats (mean over the images). own_statistics: every batch is
 * normalised by its own statistics, for networks whose running ones fit nothing; e was made to calibrate then. */
BW_MUST_USE bw_status bwi_evaluate(bwi_exec *e, bwi_graph *g, bwi_loader *loader, bool own_statistics, bw_eval_result *result,
                                   bw_error *err);
/* Opens a data set; "cifar10" without a folder takes $BITWRIGHT_DATA. */
BW_MUST_USE bw_status bwi_open_data(bwi_dataset **out, const char *source, bw_error *err);
/* BW_SHAPE unless the network takes the images and has an output for every class. */
BW_MUST_USE bw_status bwi_data_fits(const bwi_dataset *d, const bwi_graph *g, bw_error *err);
#endif
