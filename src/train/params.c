#include "train/params.h"
#include "base/alloc.h"
#include <math.h>
#include <string.h>

static int group_of(const bwi_param *p)
{
    switch (p->role) {
    case BWI_PARAM_HYPER: /* matrices and biases of a network that makes weights */
        return p->ndim > 1 ? BWI_GROUP_WEIGHTS : BWI_GROUP_NORM;
    case BWI_PARAM_WEIGHT:
        return BWI_GROUP_WEIGHTS;
    case BWI_PARAM_QUANT:
        return BWI_GROUP_QUANT;
    case BWI_PARAM_BIAS:
    case BWI_PARAM_NORM:
        return BWI_GROUP_NORM;
    case BWI_PARAM_STATE:
        break;
    }
    return -1;
}

static double own_or(double own, double common)
{
    return own < 0 ? common : own;
}

static void set_groups(bwi_params *p, const bw_recipe *r)
{
    const bwi_group weights = {
        .lr = r->optim.lr,
        .weight_decay = r->optim.weight_decay,
        .momentum = r->optim.momentum,
        .nesterov = r->optim.nesterov,
        .beta1 = r->optim.beta1,
        .beta2 = r->optim.beta2,
        .eps = r->optim.eps,
    };
    for (int i = 0; i < BWI_GROUPS; i++) p->group[i] = weights;
    p->group[BWI_GROUP_QUANT].lr = own_or(r->optim.quant_lr, weights.lr);
    p->group[BWI_GROUP_QUANT].weight_decay = own_or(r->optim.quant_weight_decay, weights.weight_decay);
    p->group[BWI_GROUP_NORM].lr = own_or(r->optim.norm_lr, weights.lr);
    p->group[BWI_GROUP_NORM].weight_decay = own_or(r->optim.norm_weight_decay, weights.weight_decay);
}

bw_status bwi_params_create(bwi_params *p, bwi_graph *graph, const bw_recipe *r, int64_t steps, bw_error *err)
{
    bw_status st;
    *p = (bwi_params){
        .graph = graph, .optimizer = bwi_optimizer_find(r->optim.name), .schedule = bwi_schedule_find(r->optim.schedule)};
    p->position = (bwi_schedule_options){
        .per_step = !strcmp(r->optim.per, "step"),
        .epochs = r->train.epochs,
        .steps = steps,
        .warmup_epochs = r->optim.warmup_epochs,
        .gamma = r->optim.gamma,
        .n_milestones = r->optim.n_milestones,
    };
    memcpy(p->position.milestone, r->optim.milestones, sizeof p->position.milestone);
    set_groups(p, r);
    p->slot = bwi_calloc((size_t)graph->n_params, sizeof *p->slot);
    p->param = bwi_calloc((size_t)graph->n_params, sizeof *p->param);
    p->deferred = bwi_calloc((size_t)graph->n_params, sizeof *p->deferred);
    if (!p->slot || !p->param || !p->deferred) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the optimizer"));
    for (int i = 0; i < graph->n_params; i++) {
        const bwi_param *param = &graph->param[i];
        const int group = group_of(param);
        if (group < 0) continue;
        bwi_slot *s = &p->slot[p->n];
        *s = (bwi_slot){.name = param->name,
                        .dtype = param->dtype,
                        .n = param->numel,
                        .data = param->data,
                        .grad = param->grad,
                        .group = group};
        p->param[p->n++] = i;
        for (int k = 0; k < p->optimizer->n_states; k++)
            if (!(s->state[k] = bwi_calloc(s->n, bwi_dtype_size(s->dtype))))
                BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the optimizer's state of %s", s->name));
    }
    return BW_OK;
fail:
    bwi_params_destroy(p);
    return st;
}

void bwi_params_destroy(bwi_params *p)
{
    for (int i = 0; p->slot && i < p->n; i++)
        for (int k = 0; k < BWI_OPTIM_STATES; k++) bwi_free(p->slot[i].state[k]);
    bwi_free(p->slot);
    bwi_free(p->param);
    bwi_free(p->deferred);
    *p = (bwi_params){0};
}

double bwi_params_lr(const bwi_params *p, int group, int64_t epoch, int64_t step)
{
    return p->group[group].lr * bwi_schedule_factor(p->schedule, &p->position, epoch, step);
}

void bwi_params_step_slot(bwi_params *p, int slot, int64_t epoch, int64_t step)
{
    bwi_params_step_part(p, slot, 0, p->slot[slot].n, p->slot[slot].grad, epoch, step);
}

void bwi_params_step_part(const bwi_params *p, int slot, size_t from, size_t n, const void *grad, int64_t epoch, int64_t step)
{
    bwi_slot part = p->slot[slot];
    const int64_t t = epoch * p->position.steps + step + 1 - p->idle;
    const size_t offset = from * bwi_dtype_size(part.dtype);
    part.n = n;
    part.grad = grad;
    part.data = (char *)part.data + offset;
    for (int k = 0; k < p->optimizer->n_states; k++) part.state[k] = (char *)part.state[k] + offset;
    if (t > 0) p->optimizer->step(&part, &p->group[part.group], bwi_params_lr(p, part.group, epoch, step), t);
}

/* Weights whose quantizer bounds them, back into the bound. */
static void bound_weights(bwi_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const bwi_quant *q = g->node[i].wq;
        if (!q || !(q->q->weight_bound > 0)) continue;
        const bwi_param *w = &g->param[g->node[i].param[0]];
        const double most = q->q->weight_bound;
        double *d = w->data;
        float *f = w->data;
        for (size_t k = 0; k < w->numel; k++)
            if (w->dtype == BWI_DT_F64)
                d[k] = fmin(fmax(d[k], -most), most);
            else
                f[k] = fminf(fmaxf(f[k], (float)-most), (float)most);
    }
}

void bwi_params_step(bwi_params *p, int64_t epoch, int64_t step)
{
    bwi_quant *q;
    const bwi_node *layer;
    for (int i = 0; i < p->n; i++)
        if (!p->deferred[i]) bwi_params_step_slot(p, i, epoch, step);
    for (int i = 0; bwi_graph_quant(p->graph, i, &q, &layer); i++)
        if (q->q->constrain && q->q->constrain(q)) q->constrained++;
    bound_weights(p->graph);
    p->graph->version++;
}

static bool in_range(bwi_dtype dtype, const void *data, size_t n)
{
    const float *f = data;
    const double *d = data;
    double sum = 0; /* of x^2 * 0: 0 unless some square is not finite */
    for (size_t i = 0; i < n; i++) sum += dtype == BWI_DT_F64 ? d[i] * d[i] * 0 : (double)(f[i] * f[i] * 0);
    return isfinite(sum);
}

const char *bwi_params_out_of_range(const bwi_params *p, bool grads, const char **what)
{
    for (int i = 0; i < p->graph->n_params; i++) {
        const bwi_param *param = &p->graph->param[i];
        *what = "value";
        if (!in_range(param->dtype, param->data, param->numel)) return param->name;
        *what = "gradient";
        if (grads && param->grad && !in_range(param->dtype, param->grad, param->numel)) return param->name;
    }
    return NULL;
}
