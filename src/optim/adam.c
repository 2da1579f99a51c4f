/* Adam with L2 weight decay in the gradient: torch.optim.Adam, in its order of operations. */
#include "optim/optim.h"
#include <math.h>

/* Constants of one step, computed in double as PyTorch does. */
typedef struct adam_rates {
    double decay, beta1, beta2;
    double scale;     /* sqrt(1 - beta2^t): bias correction of the second moment */
    double eps, step; /* step: lr / (1 - beta1^t) */
} adam_rates;

/* d = g + decay * p; m = beta1 * m + (1 - beta1) * d; v = beta2 * v + (1 - beta2) * d * d; p -= step * m / (sqrt(v) / scale + eps). */
#define ADAM_STEP(real, root)                                                                                                  \
    static void step_##real(size_t n, real *restrict p, real *restrict m, real *restrict v, const real *restrict g,            \
                            const adam_rates *r)                                                                               \
    {                                                                                                                          \
        const real decay = (real)r->decay, beta1 = (real)r->beta1, beta2 = (real)r->beta2, scale = (real)r->scale;             \
        const real new1 = (real)(1 - r->beta1), new2 = (real)(1 - r->beta2), eps = (real)r->eps, step = (real)-r->step;        \
        _Pragma("omp parallel for simd schedule(static) if (parallel : n >= BWI_OPTIM_PARALLEL)") for (size_t i = 0; i < n;    \
                                                                                                       i++)                    \
        {                                                                                                                      \
            const real d = g[i] + decay * p[i];                                                                                \
            m[i] = beta1 * m[i] + new1 * d;                                                                                    \
            v[i] = beta2 * v[i] + new2 * d * d;                                                                                \
            p[i] += step * m[i] / (root(v[i]) / scale + eps);                                                                  \
        }                                                                                                                      \
    }
ADAM_STEP(float, sqrtf)
ADAM_STEP(double, sqrt)

static void adam_step(bwi_slot *slot, const bwi_group *group, double lr, int64_t t)
{
    const adam_rates r = {
        .decay = group->weight_decay,
        .beta1 = group->beta1,
        .beta2 = group->beta2,
        .scale = sqrt(1 - pow(group->beta2, (double)t)),
        .eps = group->eps,
        .step = lr / (1 - pow(group->beta1, (double)t)),
    };
    if (slot->dtype == BWI_DT_F64)
        step_double(slot->n, slot->data, slot->state[0], slot->state[1], slot->grad, &r);
    else
        step_float(slot->n, slot->data, slot->state[0], slot->state[1], slot->grad, &r);
}

const bwi_optimizer bwi_optimizer_adam = {
    .name = "adam",
    .summary = "Adam; weight decay is added to the gradient",
    .cite = "Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015",
    .n_states = 2,
    .state_name = {"exp_avg", "exp_avg_sq"},
    .step = adam_step,
};
