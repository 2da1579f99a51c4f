/* Step decay: torch.optim.lr_scheduler.MultiStepLR. */
#include "optim/optim.h"

static double factor(const bwi_schedule_options *o, int64_t epoch, int64_t step)
{
    (void)step;
    double f = 1;
    for (int i = 0; i < o->n_milestones; i++)
        if (epoch >= o->milestone[i]) f *= o->gamma;
    return f;
}

const bwi_schedule bwi_schedule_step = {
    .name = "step", .summary = "times gamma from each milestone epoch on", .factor = factor};
