/* Stochastic gradient descent with momentum: torch.optim.SGD with dampening 0, in its order of operations. */
#include "optim/optim.h"

/* d = g + decay * p; buf = momentum * buf + d; p -= lr * (nesterov ? d + momentum * buf : buf). A zero buffer makes the first step's
 * buf equal to d, as PyTorch starts it. Elements do not depend on each other, nor does the result on the number of threads. */
#define SGD_STEP(real)                                                                                                         \
    static void step_##real(size_t n, real *restrict p, real *restrict buf, const real *restrict g, real lr, real decay,       \
                            real momentum, bool nesterov)                                                                      \
    {                                                                                                                          \
        _Pragma("omp parallel for simd schedule(static) if (parallel : n >= BWI_OPTIM_PARALLEL)") for (size_t i = 0; i < n;    \
                                                                                                       i++)                    \
        {                                                                                                                      \
            const real d = g[i] + decay * p[i], b = momentum * buf[i] + d;                                                     \
            buf[i] = b;                                                                                                        \
            p[i] -= lr * (nesterov ? d + momentum * b : b);                                                                    \
        }                                                                                                                      \
    }
SGD_STEP(float)
SGD_STEP(double)

static void sgd_step(bwi_slot *slot, const bwi_group *group, double lr, int64_t t)
{
    (void)t;
    if (slot->dtype == BWI_DT_F64)
        step_double(slot->n, slot->data, slot->state[0], slot->grad, lr, group->weight_decay, group->momentum, group->nesterov);
    else
        step_float(slot->n, slot->data, slot->state[0], slot->grad, (float)lr, (float)group->weight_decay,
                   (float)group->momentum, group->nesterov);
}

const bwi_optimizer bwi_optimizer_sgd = {
    .name = "sgd",
    .summary = "stochastic gradient descent with momentum, optionally Nesterov's",
    .cite = "Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013",
    .n_states = 1,
    .state_name = {"momentum_buffer"},
    .step = sgd_step,
};
