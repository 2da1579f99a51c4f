/* Half a cosine from 1 to 0 over the run (Loshchilov and Hutter, SGDR, ICLR 2017, without restarts). At step 0 of each epoch it is what
 * torch.optim.lr_scheduler.CosineAnnealingLR(T_max = epochs) gives. */
#include "optim/optim.h"
#include <math.h>

static double factor(const bwi_schedule_options *o, int64_t epoch, int64_t step)
{
    const double pi = 3.14159265358979323846;
    const double total = (double)o->epochs * (double)o->steps, t = (double)epoch * (double)o->steps + (double)step;
    return t < total ? 0.5 * (1 + cos(pi * (t / total))) : 0;
}

const bwi_schedule bwi_schedule_cosine = {
    .name = "cosine", .summary = "half a cosine from the full learning rate to 0", .whole_run = true, .factor = factor};
