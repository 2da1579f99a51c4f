#include "train/meta.h"
#include "base/alloc.h"
#include "base/par.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 8 * BWI_META_LANES }; /* elements of a block: its arrays stay in cache */

static char *at(void *p, bwi_dtype real, size_t i)
{
    return p ? (char *)p + i * bwi_dtype_size(real) : NULL;
}

static bool option(const bwi_meta *m, int i)
{
    return m->opt[i] != 0;
}

/* ---- Getting ready ------------------------------------------------------------------------------------------------------- */

static bw_status no_memory(bw_error *err)
{
    return bwi_fail(err, BW_NOMEM, "no memory for the network that learns gradients");
}

static bw_status tensor_create(bwi_meta *m, int slot, bwi_quant *q, bw_error *err)
{
    const size_t n = m->params->slot[slot].n, bytes = bwi_dtype_size(m->real);
    const size_t state = m->net->n_state ? m->net->n_state(m->opt) : 0;
    const size_t padded = (n + BWI_META_LANES - 1) / BWI_META_LANES * BWI_META_LANES;
    const bool stale = option(m, BWI_META_STALE);
    bwi_meta_tensor *t = &m->tensor[m->n++];
    *t = (bwi_meta_tensor){.slot = slot, .q = q, .n = n};
    t->g = bwi_calloc(n, bytes);
    t->d = bwi_calloc(n, bytes);
    if (m->net->sees_weight) t->wt = bwi_calloc(n, bytes);
    if (state) t->state = bwi_calloc(padded * state, bytes);
    if (stale) t->committed = bwi_calloc(n, bytes);
    if (stale) t->moved = bwi_calloc(n, bytes);
    if (!t->g || !t->d || (m->net->sees_weight && !t->wt) || (state && !t->state) || (stale && (!t->committed || !t->moved)))
        return no_memory(err);
    if (q) q->gxq = t->g;
    m->params->deferred[slot] = true;
    return BW_OK;
}

static bw_status network_create(bwi_meta *m, const bwi_gradient *g, const double *opt, uint64_t seed, bw_error *err)
{
    m->net = g->meta;
    m->opt = opt;
    m->real = m->params->graph->real;
    m->variant = bwi_variant_for(m->real);
    m->n_phi = m->net->n_phi(opt);
    m->n_sums = m->net->n_sums(opt);
    m->phi = bwi_calloc(m->n_phi, sizeof *m->phi);
    m->dphi = bwi_calloc(m->n_phi, sizeof *m->dphi);
    m->sums = bwi_calloc(BWI_CHUNKS * m->n_sums, sizeof *m->sums);
    m->work = bwi_calloc(m->net->n_work(opt), bwi_dtype_size(m->real));
    m->tensor = bwi_calloc((size_t)m->params->n + 1, sizeof *m->tensor);
    m->slot = (bwi_slot){.name = "meta.phi", .dtype = BWI_DT_F64, .n = m->n_phi, .data = m->phi, .grad = m->dphi};
    for (int k = 0; k < BWI_OPTIM_STATES; k++) m->slot.state[k] = bwi_calloc(m->n_phi, sizeof *m->phi);
    if (!m->phi || !m->dphi || !m->sums || !m->work || !m->tensor || !m->slot.state[0] || !m->slot.state[1])
        return no_memory(err);
    bwi_rng r = bwi_rng_make(seed, BWI_RNG_METHOD, bwi_hash_str(g->name), 0);
    m->net->init(opt, &r, m->phi);
    return BW_OK;
}

static int slot_of(const bwi_params *p, int param)
{
    int i = 0;
    while (i < p->n && p->param[i] != param) i++;
    return i;
}

bw_status bwi_meta_create(bwi_meta **out, bwi_params *params, uint64_t seed, bw_error *err)
{
    bwi_meta *m = NULL;
    bwi_graph *g = params->graph;
    bw_status st;
    *out = NULL;
    for (int i = 0; i < g->n_nodes; i++) {
        bwi_quant *q = g->node[i].wq;
        if (!q || !q->g->meta) continue;
        if (!m) {
            if (!(m = bwi_calloc(1, sizeof *m))) return no_memory(err);
            m->params = params;
            BWI_TRY(network_create(m, q->g, q->gopt, seed, err));
        }
        BWI_TRY(tensor_create(m, slot_of(params, g->node[i].param[0]), q, err));
    }
    if (m) params->idle = 1;
    *out = m;
    return BW_OK;
fail:
    bwi_meta_destroy(&m);
    return st;
}

bw_status bwi_meta_create_identity(bwi_meta **out, bwi_params *params, const char *gradient, uint64_t seed, bw_error *err)
{
    bwi_quant like;
    bw_status st;
    bwi_meta *m = bwi_calloc(1, sizeof *m);
    *out = NULL;
    if (!m) return no_memory(err);
    m->params = params;
    BWI_TRY(bwi_quant_make(&like, "bwn", gradient, BWI_WEIGHT, 1, true, err));
    if (!(m->own_opt = bwi_calloc(BWI_OPTIONS, sizeof *m->own_opt))) BWI_TRY(no_memory(err));
    memcpy(m->own_opt, like.gopt, sizeof like.gopt);
    BWI_TRY(network_create(m, like.g, m->own_opt, seed, err));
    for (int i = 0; i < params->n; i++)
        if (params->graph->param[params->param[i]].role == BWI_PARAM_WEIGHT) BWI_TRY(tensor_create(m, i, NULL, err));
    params->idle = 1;
    *out = m;
    return BW_OK;
fail:
    bwi_meta_destroy(&m);
    return st;
}

void bwi_meta_destroy(bwi_meta **mp)
{
    bwi_meta *m = *mp;
    if (!m) return;
    for (int i = 0; i < m->n; i++) {
        bwi_meta_tensor *t = &m->tensor[i];
        if (t->q) t->q->gxq = NULL;
        void *own[] = {t->g, t->d, t->wt, t->state, t->committed, t->moved};
        for (size_t k = 0; k < sizeof own / sizeof *own; k++) bwi_free(own[k]);
    }
    for (int k = 0; k < BWI_OPTIM_STATES; k++) bwi_free(m->slot.state[k]);
    bwi_free(m->own_opt);
    bwi_free(m->tensor);
    bwi_free(m->work);
    bwi_free(m->sums);
    bwi_free(m->dphi);
    bwi_free(m->phi);
    bwi_free(m);
    *mp = NULL;
}

/* ---- The step ------------------------------------------------------------------------------------------------------------ */

/* Element loops over arrays of the graph's type. */
#define ELEMENTS(m, T, n, ...)                                                                                                 \
    do {                                                                                                                       \
        if ((m)->real == BWI_DT_F64) {                                                                                         \
            typedef double T;                                                                                                  \
            for (size_t i_ = 0; i_ < (n); i_++) __VA_ARGS__;                                                                   \
        } else {                                                                                                               \
            typedef float T;                                                                                                   \
            for (size_t i_ = 0; i_ < (n); i_++) __VA_ARGS__;                                                                   \
        }                                                                                                                      \
    } while (0)

/* Scratch of a block. */
typedef union block {
    double d[BLOCK];
    float f[BLOCK];
} block;

/* A block of a tensor, and where its chunk adds what it has to add. */
typedef struct part {
    const bwi_meta *m;
    const bwi_meta_tensor *t;
    size_t from, n;
    double alpha, *sums;
} part;

/* Runs fn on all blocks of a tensor, in chunks that do not depend on the number of threads; chunk i adds to sums + i * n_sums. */
static void for_blocks(const bwi_meta *m, const bwi_meta_tensor *t, void (*fn)(const part *p), double alpha, double *sums,
                       size_t n_sums)
{
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t end = bwi_chunk(t->n, BLOCK, (size_t)i + 1);
        for (size_t from = bwi_chunk(t->n, BLOCK, (size_t)i); from < end; from += BLOCK)
            fn(&(part){m, t, from, end - from < BLOCK ? end - from : BLOCK, alpha, sums ? sums + (size_t)i * n_sums : NULL});
    }
}

static void calibrate(const part *p, void *wt, void *cal)
{
    const void *w = at(p->m->params->slot[p->t->slot].data, p->m->real, p->from);
    if (p->t->q) {
        p->t->q->q->loops[p->m->variant]->calibrate(&p->t->q->k, w, p->n, wt, cal);
        return;
    }
    if (wt) memcpy(wt, w, p->n * bwi_dtype_size(p->m->real));
    if (cal) ELEMENTS(p->m, T, p->n, ((T *)cal)[i_] = 1);
}

/* f of a block, and where wt and the network's state of it lie. */
static void network(const part *p, const void *wt, void *f)
{
    const bwi_meta *m = p->m;
    const size_t state = m->net->n_state ? m->net->n_state(m->opt) : 0;
    m->net->fns[m->variant]->forward(m->opt, m->work, wt, at(p->t->state, m->real, p->from * state), p->n, f);
}

/* d = cal(W) * g, and u = f * d where the optimizer looks for gradients. */
static void make_gradient(const part *p)
{
    const bwi_meta *m = p->m;
    block f;
    void *d = at(p->t->d, m->real, p->from), *g = at(p->t->g, m->real, p->from);
    void *u = at((void *)(uintptr_t)m->params->slot[p->t->slot].grad, m->real, p->from);
    calibrate(p, NULL, d);
    network(p, at(p->t->wt, m->real, p->from), &f);
    ELEMENTS(m, T, p->n, {
        ((T *)d)[i_] *= ((T *)g)[i_];
        ((T *)u)[i_] = ((T *)(void *)&f)[i_] * ((T *)d)[i_];
    });
}

/* sums += of dL/dphi from s = dL/dW, or with option eq8 from what the network itself would make of dL/dwq here. */
static void learn(const part *p)
{
    const bwi_meta *m = p->m;
    const size_t state = m->net->n_state ? m->net->n_state(m->opt) : 0;
    block a, wt, cal, f;
    const void *s = at((void *)(uintptr_t)m->params->slot[p->t->slot].grad, m->real, p->from);
    const void *d = at(p->t->d, m->real, p->from), *g = at(p->t->g, m->real, p->from);
    if (option(m, BWI_META_EQ8)) {
        calibrate(p, &wt, &cal);
        network(p, &wt, &f);
        ELEMENTS(m, T, p->n, {
            const T own = ((T *)(void *)&f)[i_] * ((T *)(void *)&cal)[i_] * ((const T *)g)[i_];
            ((T *)(void *)&a)[i_] = (T)-p->alpha * own * ((const T *)d)[i_];
        });
    } else {
        ELEMENTS(m, T, p->n, ((T *)(void *)&a)[i_] = (T)-p->alpha * ((const T *)s)[i_] * ((const T *)d)[i_]);
    }
    m->net->fns[m->variant]->backward(m->opt, m->work, at(p->t->wt, m->real, p->from), &a, p->n,
                                      at(p->t->state, m->real, p->from * state), p->sums);
}

/* wt of where the forward pass was. */
static void keep_latents(const part *p)
{
    calibrate(p, at(p->t->wt, p->m->real, p->from), NULL);
}

/* Behind the optimizer's step: the committed weights step aside for the look-ahead by the step before; W = old - alpha * moved. */
static void look_ahead(bwi_meta *m, bwi_meta_tensor *t, double alpha)
{
    void *w = m->params->slot[t->slot].data;
    ELEMENTS(m, T, t->n, {
        T *committed = t->committed, *moved = t->moved;
        const T old = committed[i_], new = ((T *)w)[i_];
        ((T *)w)[i_] = old - (T)alpha * moved[i_];
        committed[i_] = new;
        moved[i_] = alpha > 0 ? (old - new) / (T)alpha : 0;
    });
}

bw_status bwi_meta_before(bwi_meta *m, int64_t epoch, int64_t step, bw_error *err)
{
    if (!epoch && !step) return BW_OK;
    const double alpha = bwi_params_lr(m->params, BWI_GROUP_WEIGHTS, epoch, step);
    const size_t bytes = bwi_dtype_size(m->real);
    m->net->fns[m->variant]->prepare(m->opt, m->phi, m->work);
    for (int i = 0; i < m->n; i++) {
        bwi_meta_tensor *t = &m->tensor[i];
        bwi_slot *slot = &m->params->slot[t->slot];
        if (t->q) {
            bw_status st = bwi_quant_prepare(t->q, slot->data, m->real, t->n, err);
            if (st) return bwi_fail_in(err, st, "%s", slot->name);
        }
        for_blocks(m, t, make_gradient, alpha, NULL, 0);
        if (t->committed) memcpy(t->committed, slot->data, t->n * bytes);
        bwi_params_step_slot(m->params, t->slot, epoch, step);
        if (t->committed) look_ahead(m, t, alpha);
    }
    m->params->graph->version++;
    return BW_OK;
}

/* One step of Adam on phi from the chunks' sums, added in their order. */
static void step_phi(bwi_meta *m, int64_t epoch, int64_t step)
{
    const double factor = bwi_schedule_factor(m->params->schedule, &m->params->position, epoch, step);
    const double lr = m->opt[BWI_META_LR] * (option(m, BWI_META_NO_DECAY) ? 1 : factor);
    const bwi_group group = {.lr = lr, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    for (size_t c = 1; c < BWI_CHUNKS; c++)
        for (size_t k = 0; k < m->n_sums; k++) m->sums[k] += m->sums[c * m->n_sums + k];
    m->net->finish(m->opt, m->phi, m->sums, m->dphi);
    bwi_optimizer_find("adam")->step(&m->slot, &group, lr, epoch * m->params->position.steps + step);
}

void bwi_meta_after(bwi_meta *m, int64_t epoch, int64_t step)
{
    const double alpha = bwi_params_lr(m->params, BWI_GROUP_WEIGHTS, epoch, step);
    const size_t bytes = bwi_dtype_size(m->real);
    const bool first = !epoch && !step;
    memset(m->sums, 0, BWI_CHUNKS * m->n_sums * sizeof *m->sums);
    for (int i = 0; i < m->n; i++) {
        bwi_meta_tensor *t = &m->tensor[i];
        const bwi_slot *slot = &m->params->slot[t->slot];
        if (!t->q) memcpy(t->g, slot->grad, t->n * bytes);
        if (!first) for_blocks(m, t, learn, alpha, m->sums, m->n_sums);
        if (t->wt) for_blocks(m, t, keep_latents, alpha, NULL, 0);
        if (t->committed && first) memcpy(t->moved, slot->grad, t->n * bytes);
        if (t->committed && !first) memcpy(slot->data, t->committed, t->n * bytes);
    }
    if (!first) step_phi(m, epoch, step);
    m->params->graph->version++;
}

/* sums: sum, least, most of f. */
static void add_factors(const part *p)
{
    block f;
    network(p, at(p->t->wt, p->m->real, p->from), &f);
    ELEMENTS(p->m, T, p->n, {
        const double v = (double)((T *)(void *)&f)[i_];
        p->sums[0] += v;
        p->sums[1] = fmin(p->sums[1], v);
        p->sums[2] = fmax(p->sums[2], v);
    });
}

void bwi_meta_factor(const bwi_meta *m, double *mean, double *min, double *max)
{
    double per_chunk[BWI_CHUNKS][3], sum = 0, count = 0;
    *min = INFINITY;
    *max = -INFINITY;
    for (int i = 0; i < BWI_CHUNKS; i++) per_chunk[i][0] = 0, per_chunk[i][1] = INFINITY, per_chunk[i][2] = -INFINITY;
    m->net->fns[m->variant]->prepare(m->opt, m->phi, m->work);
    for (int i = 0; i < m->n; i++) {
        for_blocks(m, &m->tensor[i], add_factors, 0, per_chunk[0], 3);
        count += (double)m->tensor[i].n;
    }
    for (int i = 0; i < BWI_CHUNKS; i++) {
        sum += per_chunk[i][0];
        *min = fmin(*min, per_chunk[i][1]);
        *max = fmax(*max, per_chunk[i][2]);
    }
    *mean = sum / count;
}

/* ---- Checkpoints --------------------------------------------------------------------------------------------------------- */

bool bwi_meta_state(const bwi_meta *m, int i, bwi_meta_array *out)
{
    static const char *const phi[] = {"meta.phi", "meta.phi.exp_avg", "meta.phi.exp_avg_sq"};
    const bool stale = option(m, BWI_META_STALE);
    const size_t state = m->net->n_state ? m->net->n_state(m->opt) : 0;
    if (i < 3) {
        *out = (bwi_meta_array){.dtype = BWI_DT_F64, .n = m->n_phi, .data = i ? m->slot.state[i - 1] : m->phi};
        snprintf(out->name, sizeof out->name, "%s", phi[i]);
        return true;
    }
    i -= 3;
    for (int k = 0; k < m->n; k++) {
        const bwi_meta_tensor *t = &m->tensor[k];
        const size_t padded = (t->n + BWI_META_LANES - 1) / BWI_META_LANES * BWI_META_LANES;
        const struct {
            const char *name;
            void *data;
            size_t n;
        } array[] = {{"gradient", t->g, t->n},
                     {"latent", t->wt, t->n},
                     {"state", t->state, padded * state},
                     {"step", stale ? t->moved : NULL, t->n}};
        for (size_t a = 0; a < sizeof array / sizeof *array; a++) {
            if (!array[a].data || i-- > 0) continue;
            *out = (bwi_meta_array){.dtype = m->real, .n = array[a].n, .data = array[a].data};
            snprintf(out->name, sizeof out->name, "meta.%s.%s", m->params->slot[t->slot].name, array[a].name);
            return true;
        }
    }
    return false;
}
