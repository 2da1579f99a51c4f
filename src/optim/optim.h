/* Optimizers and schedules: one file, one row each (optimizers.def, schedules.def). They see flat arrays, not networks. */
#ifndef BWI_OPTIM_H
#define BWI_OPTIM_H
#include "base/status.h"
#include "tensor/tensor.h"

#define BWI_OPTIM_STATES   2
#define BWI_OPTIM_PARALLEL 65536 /* elements from which a step is shared between threads */
/* Settings of a parameter group. */
typedef struct bwi_group {
    double lr, weight_decay; /* lr before the schedule */
    double momentum;
    bool nesterov;            /* sgd */
    double beta1, beta2, eps; /* adam: .9 .999 1e-8 */
} bwi_group;
/* One array being optimized. */
typedef struct bwi_slot {
    const char *name;
    bwi_dtype dtype; /* F32 or F64 */
    size_t n;
    void *data;                    /* in/out */
    const void *grad;              /* in */
    void *state[BWI_OPTIM_STATES]; /* [n] dtype, in/out, zero at the start */
    int group;
} bwi_slot;
typedef struct bwi_optimizer {
    const char *name, *summary, *cite;
    int n_states;
    const char *state_name[BWI_OPTIM_STATES]; /* names in checkpoints: "momentum_buffer", "exp_avg", "exp_avg_sq" */
    /* One step over a slot; t counts steps from 1; lr is group->lr times the schedule's factor. As PyTorch: L2 weight decay into the
     * gradient; Adam with eps added to sqrt(v) / sqrt(1 - beta2^t). F32 slots are computed in float, F64 slots in double. Threaded inside
     * when the slot is large. */
    void (*step)(bwi_slot *slot, const bwi_group *group, double lr, int64_t t);
} bwi_optimizer;
const bwi_optimizer *bwi_optimizer_at(size_t i);
const bwi_optimizer *bwi_optimizer_find(const char *name);

typedef struct bwi_schedule_options {
    bool per_step;         /* otherwise the factor changes only between epochs */
    int64_t epochs, steps; /* of the run, and per epoch */
    double
        warmup_epochs; /* linear ramp times the schedule, always by step: (t + 1) / (warmup_epochs * steps) at global step t */
    double gamma;      /* step: factor at each milestone */
    int milestone[16], n_milestones; /* step: epochs, from 0: the factor applies from that epoch on */
} bwi_schedule_options;
typedef struct bwi_schedule {
    const char *name, *summary;
    bool whole_run; /* the factor depends on options.epochs, so a run cannot be made longer */
    /* Factor on the learning rate for a position counted from 0, without warm-up; step 0 gives the factor of the epoch. */
    double (*factor)(const bwi_schedule_options *o, int64_t epoch, int64_t step);
} bwi_schedule;
const bwi_schedule *bwi_schedule_at(size_t i);
const bwi_schedule *bwi_schedule_find(const char *name);
/* The schedule's factor with warm-up and per_step applied. */
double bwi_schedule_factor(const bwi_schedule *s, const bwi_schedule_options *o, int64_t epoch, int64_t step);
#endif
