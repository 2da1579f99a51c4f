/* The bridge from a graph's parameters to the optimizer: one slot a trained parameter, in one of three groups. */
#ifndef BWI_PARAMS_H
#define BWI_PARAMS_H
#include "optim/optim.h"
#include "train/recipe.h"

/* Groups with their own learning rate and weight decay: weights; quantizer parameters; batch norm parameters and biases. */
enum { BWI_GROUP_WEIGHTS, BWI_GROUP_QUANT, BWI_GROUP_NORM, BWI_GROUPS };

typedef struct bwi_params {
    const bwi_optimizer *optimizer;
    const bwi_schedule *schedule;
    bwi_schedule_options position; /* what the schedule knows of the run */
    bwi_group group[BWI_GROUPS];
    bwi_slot *slot; /* [n], in the graph's order */
    int *param;     /* [n], index into the graph's parameters */
    bool *deferred; /* [n], left out of bwi_params_step: somebody else steps it */
    int64_t idle;   /* steps at the start that update nothing */
    int n;
    bwi_graph *graph; /* borrowed */
} bwi_params;

/* steps: per epoch. */
BW_MUST_USE bw_status bwi_params_create(bwi_params *p, bwi_graph *graph, const bw_recipe *r, int64_t steps, bw_error *err);
void bwi_params_destroy(bwi_params *p); /* accepts a zeroed struct */
/* Learning rate of a group at a position counted from 0. */
double bwi_params_lr(const bwi_params *p, int group, int64_t epoch, int64_t step);
/* One optimizer step on every slot that is not deferred from the gradients in place, then every quantizer back into its domain. */
void bwi_params_step(bwi_params *p, int64_t epoch, int64_t step);
/* On one slot. */
void bwi_params_step_slot(bwi_params *p, int slot, int64_t epoch, int64_t step);
/* On elements from .. from + n - 1 of one slot, from a gradient [n] that lies elsewhere. Different parts may be stepped side by side. */
void bwi_params_step_part(const bwi_params *p, int slot, size_t from, size_t n, const void *grad, int64_t epoch, int64_t step);
/* Name of the first parameter, in the graph's order, that holds a value (or, with grads, a gradient) that is not finite, or so large that
 * the next batch norm, which squares, would make it so; NULL: none. *what becomes "value" or "gradient". */
const char *bwi_params_out_of_range(const bwi_params *p, bool grads, const char **what);
#endif
