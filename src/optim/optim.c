/* The rows of optimizers.def and schedules.def, and the factor on the learning rate that training asks for. */
#include "optim/optim.h"
#include <string.h>

#define ROW(name) extern const bwi_optimizer bwi_optimizer_##name;
#include "optim/optimizers.def"
#undef ROW
#define ROW(name) extern const bwi_schedule bwi_schedule_##name;
#include "optim/schedules.def"
#undef ROW

static const bwi_optimizer *const optimizers[] = {
#define ROW(name) &bwi_optimizer_##name,
#include "optim/optimizers.def"
#undef ROW
};
static const bwi_schedule *const schedules[] = {
#define ROW(name) &bwi_schedule_##name,
#include "optim/schedules.def"
#undef ROW
};

const bwi_optimizer *bwi_optimizer_at(size_t i)
{
    return i < sizeof optimizers / sizeof *optimizers ? optimizers[i] : NULL;
}

const bwi_optimizer *bwi_optimizer_find(const char *name)
{
    const bwi_optimizer *o;
    for (size_t i = 0; (o = bwi_optimizer_at(i)); i++)
        if (!strcmp(o->name, name)) return o;
    return NULL;
}

const bwi_schedule *bwi_schedule_at(size_t i)
{
    return i < sizeof schedules / sizeof *schedules ? schedules[i] : NULL;
}

const bwi_schedule *bwi_schedule_find(const char *name)
{
    const bwi_schedule *s;
    for (size_t i = 0; (s = bwi_schedule_at(i)); i++)
        if (!strcmp(s->name, name)) return s;
    return NULL;
}

double bwi_schedule_factor(const bwi_schedule *s, const bwi_schedule_options *o, int64_t epoch, int64_t step)
{
    const double f = s->factor(o, epoch, o->per_step ? step : 0);
    /* The ramp counts steps even where the schedule counts epochs: a whole epoch at rate 0 would be lost. */
    const double ramp = o->warmup_epochs * (double)o->steps, at = (double)epoch * (double)o->steps + (double)step + 1;
    return at < ramp ? f * (at / ramp) : f;
}
