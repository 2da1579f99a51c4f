/* EWGS's strength from the Hessian's trace: Lee, Kim, Ham, CVPR 2021, section 3.3; methods 2.3. */
#ifndef BWI_TRAIN_HESSIAN_H
#define BWI_TRAIN_HESSIAN_H
#include "train/run.h"

/* At the start of an epoch: sets delta of every tensor whose method is ewgs-hessian and whose update is due, from a few batches of their own
 * order. *text says what was done, NULL when nothing was due; freed with bwi_free. All depends on seed, epoch and network alone, so a run that
 * was killed meanwhile does the same again; the network's weights, statistics and counters stay as they are. BW_NUMERIC names the layer whose
 * curvature is not finite. BW_INTERRUPTED when somebody asks to stop meanwhile: nothing has changed then. */
BW_MUST_USE bw_status bwi_hessian_update(bwi_run *run, char **text, bw_error *err);
#endif
