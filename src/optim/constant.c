/* The schedule that leaves the learning rate alone. */
#include "optim/optim.h"

static double factor(const bwi_schedule_options *o, int64_t epoch, int64_t step)
{
    (void)o, (void)epoch, (void)step;
    return 1;
}

const bwi_schedule bwi_schedule_constant = {
    .name = "constant", .summary = "the same learning rate throughout", .factor = factor};
