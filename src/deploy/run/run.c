/* The engine: prepares and runs packed networks. */
#include "base/par.h"
#include "deploy/run/net.h"
#include "deploy/run/pool.h"
#include "kernels/real.h"
#include <stddef.h>
#include <string.h>

/* A layer ready to run. */
typedef struct bwr_ready {
    bwk_conv_spec spec;
    const bwk_conv *kernel, *table; /* table: what BW_PLAN_TABLE chooses */
    double took, table_took;        /* seconds of an image; 0: not measured */
    void *packed;
    float
        *real; /* conv_real: weights [kh][kw][ic/groups][oc] as floats, codes or values; input: what bytes stand for [c][256] */
    uint8_t *codes; /* input: codes of the bytes [n_codes][c][256]; NULL: the values are wanted, too */
} bwr_ready;

struct bw_net {
    bwr_plan plan;
    bwr_ready ready[BWR_MAX_LAYERS];
    bwk_finish_fn *finish;
    const bwk_real *real;
    size_t scratch, work_bytes; /* scratch: where the scratch begins in work; values lie before it */
    size_t trials;              /* where kernels that are tried have their weights, behind the net */
};

enum { BAND_BYTES = 256 * 1024 }; /* of a map that is pooled: half of a small second-level cache, less on others */

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

/* ---- Memory -------------------------------------------------------------------------------------------------------------- */

static size_t map_size(const bwr_layer *l)
{
    return (size_t)l->h * (size_t)l->w;
}

static bool needs_windows(const bwr_layer *l)
{
    return l->kind == BWR_conv && (l->sum_add || l->sum_shift != 0);
}

/* Whether a layer with r's shape may get kernel k. The plain C is there for what nothing else takes: it needs seconds. */
static bool candidate(const bwr_ready *r, const bwk_conv *k, bw_plan plan)
{
    if (k == r->table) return true;
    return plan == BW_PLAN_MEASURED && k->needs && bwk_conv_usable(k, &r->spec);
}

/* Most bytes of packed weights, or of scratch, that a kernel which may be chosen wants. */
static size_t kernel_bytes(const bwr_ready *r, bw_plan plan, bool packed)
{
    const bwk_conv *k;
    size_t most = 0;
    for (size_t i = 0; (k = bwk_conv_at(i)); i++) {
        if (!candidate(r, k, plan)) continue;
        const size_t own = round64(packed ? k->packed_size(&r->spec) : k->scratch_size(&r->spec));
        most = own > most ? own : most;
    }
    return most;
}

/* Scratch of a layer: one row of results and what its kernel wants, and window sums. */
static size_t scratch_of(const bwr_layer *l, const bwr_ready *r, bw_plan plan)
{
    size_t n = round64((size_t)l->w * (size_t)l->c * sizeof(float));
    if (r->kernel) n += kernel_bytes(r, plan, false);
    if (needs_windows(l))
        n += round64((map_size(l) + (size_t)r->spec.ih * (size_t)r->spec.iw) * (size_t)l->groups * sizeof(int32_t));
    return n;
}

/* Weights of all kernels that are tried for a layer, side by side. */
static size_t trial_bytes(const bwr_ready *r, bw_plan plan)
{
    const bwk_conv *k;
    size_t n = 0;
    for (size_t i = 0; plan == BW_PLAN_MEASURED && (k = bwk_conv_at(i)); i++)
        if (candidate(r, k, plan)) n += round64(k->packed_size(&r->spec));
    return n;
}

static size_t prepared_bytes(const bwr_layer *l, const bwr_ready *r, const bwr_value *in, bw_plan plan)
{
    if (r->kernel) return kernel_bytes(r, plan, true);
    if (l->kind == BWR_input) return round64((size_t)l->c * 256 * (sizeof(float) + (size_t)l->n_codes));
    return l->kind == BWR_conv_real ? round64(bwr_weights(l, in->c) * sizeof(float)) : 0;
}

/* Whether layer i is followed by a pool of its result. Both then run band by band, so that the pool finds in the cache what it reads. */
static bool in_bands(const bwr_plan *p, int i)
{
    const bwr_layer *l = &p->layer[i], *next = l + 1;
    return (l->kind == BWR_conv || l->kind == BWR_conv_real) && i + 1 < p->n_layers && next->in == l->out &&
           (next->kind == BWR_max_pool || next->kind == BWR_avg_pool);
}

static void outlive(bwr_plan *p, int value, int layer)
{
    if (value >= 0 && p->value[value].last < layer) p->value[value].last = layer;
}

/* Fills all of net but the prepared weights; *bytes: what those take behind it, and one layer's codes (and trials) on their way. */
static bw_status lay_out(bw_net *net, const void *file, size_t size, bw_plan plan, size_t *bytes, bw_error *err)
{
    bwr_plan *p = &net->plan;
    size_t scratch = 0, most = 0;
    bw_status st = bwr_plan_read(p, file, size, err);
    if (st) return st;
    *bytes = 0;
    for (int i = 0; i < p->n_layers; i++) {
        const bwr_layer *l = &p->layer[i];
        bwr_ready *r = &net->ready[i];
        const bwr_value *in = l->in < 0 ? NULL : &p->value[l->in];
        *r = (bwr_ready){0};
        if (in) r->spec = bwr_spec(l, in);
        if (l->kind == BWR_conv) {
            r->kernel = r->table = bwk_conv_choose(&r->spec);
            if (!r->kernel) return bwi_fail(err, BW_INTERNAL, "layer %s: no kernel takes its shape", l->name);
            const size_t tail = round64(bwr_weights(l, in->c)) + trial_bytes(r, plan);
            most = tail > most ? tail : most;
        }
        const size_t own = scratch_of(l, r, plan);
        scratch = own > scratch ? own : scratch;
        *bytes += prepared_bytes(l, r, in, plan);
    }
    for (int i = 0; i < p->n_layers; i++)
        if (in_bands(p, i)) outlive(p, p->layer[i].in, i + 1), outlive(p, p->layer[i].residual, i + 1);
    net->trials = *bytes;
    *bytes += most;
    net->finish = bwk_finish_for_cpu();
    net->real = bwk_real_for_cpu();
    net->scratch = bwr_place_values(p);
    net->work_bytes = round64(net->scratch + scratch);
    return BW_OK;
}

bw_status bw_net_read_plan(const void *file, size_t size, bw_plan plan, bw_net_info *info, bw_error *err)
{
    static _Thread_local bw_net net; /* too large for some stacks, and nothing may be allocated */
    size_t bytes;
    *info = (bw_net_info){0};
    if (err) *err = (bw_error){0};
    bw_status st = lay_out(&net, file, size, plan, &bytes, err);
    if (st) return st;
    const bwr_plan *p = &net.plan;
    *info = (bw_net_info){.height = p->image_h,
                          .width = p->image_w,
                          .channels = p->image_c,
                          .classes = p->layer[p->n_layers - 1].c,
                          .layers = p->n_layers,
                          .net_bytes = round64(sizeof net) + bytes,
                          .work_bytes = net.work_bytes};
    return BW_OK;
}

/* ---- Layers -------------------------------------------------------------------------------------------------------------- */

/* sums [ih][iw][groups] of the codes of each pixel, in rows from .. to - 1. */
static void pixel_sums(const bwk_conv_spec *s, const void *x, int from, int to, int32_t *sums)
{
    const size_t ic = (size_t)(s->ic / s->groups), row = (size_t)s->iw * (size_t)s->groups;
    for (size_t i = (size_t)from * row; i < (size_t)to * row; i++) {
        const uint8_t *u = (const uint8_t *)x + i * ic;
        const int8_t *z = (const int8_t *)x + i * ic;
        int32_t sum = 0;
        if (s->asigned)
            for (size_t c = 0; c < ic; c++) sum += z[c];
        else
            for (size_t c = 0; c < ic; c++) sum += u[c];
        sums[i] = sum;
    }
}

/* sums [oh][ow][groups] of the codes under the kernel, in rows from .. to - 1. pixel [ih][iw][groups]: scratch. */
static void window_sums(const bwk_conv_spec *s, const void *x, int from, int to, int32_t *restrict pixel,
                        int32_t *restrict sums)
{
    const size_t groups = (size_t)s->groups;
    const int first = from * s->stride - s->pad, end = (to - 1) * s->stride - s->pad + s->kh;
    pixel_sums(s, x, first < 0 ? 0 : first, end > s->ih ? s->ih : end, pixel);
    for (int oy = from; oy < to; oy++)
        for (int ox = 0; ox < s->ow; ox++) {
            int32_t *restrict sum = sums + ((size_t)oy * (size_t)s->ow + (size_t)ox) * groups;
            memset(sum, 0, groups * sizeof *sum);
            for (int ky = 0; ky < s->kh; ky++)
                for (int kx = 0; kx < s->kw; kx++) {
                    const int y = oy * s->stride + ky - s->pad, z = ox * s->stride + kx - s->pad;
                    if (y < 0 || y >= s->ih || z < 0 || z >= s->iw) continue;
                    const int32_t *restrict at = pixel + ((size_t)y * (size_t)s->iw + (size_t)z) * groups;
                    for (size_t g = 0; g < groups; g++) sum[g] += at[g];
                }
        }
}

static void avg_pool_row(const bwr_layer *l, const bwr_value *in, const float *x, int oy, float *row)
{
    const size_t c = (size_t)l->c;
    const float factor = 1 / ((float)l->kh * (float)l->kw);
    for (int ox = 0; ox < l->w; ox++, row += c) {
        for (size_t k = 0; k < c; k++) row[k] = 0;
        for (int ky = 0; ky < l->kh; ky++)
            for (int kx = 0; kx < l->kw; kx++) {
                const int y = oy * l->stride + ky - l->pad, z = ox * l->stride + kx - l->pad;
                if (y < 0 || y >= in->h || z < 0 || z >= in->w) continue;
                const float *v = x + ((size_t)y * (size_t)in->w + (size_t)z) * c;
                for (size_t k = 0; k < c; k++) row[k] += v[k];
            }
        for (size_t k = 0; k < c; k++) row[k] *= factor;
    }
}

static void global_pool(const bwr_layer *l, const bwr_value *in, const float *x, float *row)
{
    const size_t c = (size_t)l->c, map = (size_t)in->h * (size_t)in->w;
    const float factor = 1 / (float)map;
    memset(row, 0, c * sizeof *row);
    for (size_t i = 0; i < map; i++)
        for (size_t k = 0; k < c; k++) row[k] += x[i * c + k];
    for (size_t k = 0; k < c; k++) row[k] *= factor;
}

static void shortcut_row(const bwr_layer *l, const bwr_value *in, const float *x, int oy, float *row)
{
    const size_t ic = (size_t)in->c, oc = (size_t)l->c, front = (oc - ic) / 2;
    memset(row, 0, (size_t)l->w * oc * sizeof *row);
    x += (size_t)oy * (size_t)l->stride * (size_t)in->w * ic;
    for (size_t ox = 0; ox < (size_t)l->w; ox++)
        memcpy(row + ox * oc + front, x + ox * (size_t)l->stride * ic, ic * sizeof *row);
}

static void input_row(const bwr_layer *l, const float *table, const uint8_t *image, int oy, float *row)
{
    const size_t n = (size_t)l->w * (size_t)l->c, c = (size_t)l->c;
    const uint8_t *from = image + (size_t)oy * n;
    for (size_t i = 0; i < n; i += c)
        for (size_t k = 0; k < c; k++) row[i + k] = table[k * 256 + from[i + k]];
}

static void input_codes_row(const bwr_layer *l, const uint8_t *table, const uint8_t *image, int oy, uint8_t *map)
{
    const size_t n = (size_t)l->w * (size_t)l->c, c = (size_t)l->c;
    const uint8_t *from = image + (size_t)oy * n;
    uint8_t *to = map + (size_t)oy * n;
    if (c == 3) {
        for (size_t i = 0; i < n; i += 3) {
            to[i] = table[from[i]];
            to[i + 1] = table[256 + from[i + 1]];
            to[i + 2] = table[512 + from[i + 2]];
        }
        return;
    }
    for (size_t i = 0; i < n; i += c)
        for (size_t k = 0; k < c; k++) to[i + k] = table[k * 256 + from[i + k]];
}

/* What follows the layer, with every pointer where this run's values lie. */
static bwk_finish finish_of(const bwr_layer *l, const bwr_plan *p, char *values)
{
    bwk_finish f = {.channels = l->c,
                    .sum_mul = l->sum_mul,
                    .sum_add = l->sum_add,
                    .sum_shift = l->sum_shift,
                    .group = l->groups > 1 ? l->c / l->groups : 0,
                    .scale = l->scale,
                    .bias = l->bias,
                    .a = l->a,
                    .b = l->b,
                    .relu = l->relu,
                    .n_codes = l->n_codes};
    if (l->residual >= 0) f.residual = (const float *)(void *)(values + p->value[l->residual].offset);
    if (l->out >= 0) f.real = (float *)(void *)(values + p->value[l->out].offset);
    for (int i = 0; i < l->n_codes; i++) {
        const bwr_codes *q = &l->codes[i];
        f.codes[i] = (bwk_codes){q->sub, q->mul, q->add, q->lo, q->hi, values + p->value[q->value].offset};
    }
    return f;
}

static void run_conv(const bw_net *net, int i, bwk_finish *f, const void *x, int from, int to, char *scratch)
{
    const bwr_layer *l = &net->plan.layer[i];
    const bwr_ready *r = &net->ready[i];
    if (needs_windows(l)) {
        const size_t sums = map_size(l) * (size_t)l->groups,
                     pixels = (size_t)r->spec.ih * (size_t)r->spec.iw * (size_t)l->groups;
        int32_t *window = (int32_t *)(void *)scratch;
        window_sums(&r->spec, x, from, to, window + sums, window);
        f->window = window;
        scratch += round64((sums + pixels) * sizeof *window);
    }
    r->kernel->run(&r->spec, r->packed, x, from, to - from, scratch, net->finish, f);
}

/* Rows from .. to - 1 of layer i. */
static void run_layer(const bw_net *net, int i, const uint8_t *image, int from_row, int to_row, char *values, char *scratch)
{
    const bwr_plan *p = &net->plan;
    const bwr_layer *l = &p->layer[i];
    const bwr_value *in = l->in < 0 ? NULL : &p->value[l->in];
    const void *x = in ? values + in->offset : NULL;
    bwk_finish f = finish_of(l, p, values);
    if (l->kind == BWR_conv) {
        run_conv(net, i, &f, x, from_row, to_row, scratch);
        return;
    }
    if (net->ready[i].codes) {
        for (int k = 0; k < l->n_codes; k++)
            for (int y = from_row; y < to_row; y++)
                input_codes_row(l, net->ready[i].codes + (size_t)k * (size_t)l->c * 256, image, y, f.codes[k].to);
        return;
    }
    float *row = (float *)(void *)scratch;
    for (int y = from_row; y < to_row; y++) {
        switch (l->kind) {
        case BWR_input:
            input_row(l, net->ready[i].real, image, y, row);
            break;
        case BWR_conv_real:
            net->real->conv(&net->ready[i].spec, net->ready[i].real, x, l->scale, y, row);
            break;
        case BWR_avg_pool:
            avg_pool_row(l, in, x, y, row);
            break;
        case BWR_max_pool:
            net->real->max_pool(&net->ready[i].spec, x, y, row);
            break;
        case BWR_global_pool:
            global_pool(l, in, x, row);
            break;
        case BWR_shortcut_a:
            shortcut_row(l, in, x, y, row);
            break;
        case BWR_map:
        case BWR_conv:
        case BWR_N_KINDS:
            memcpy(row, (const float *)x + (size_t)y * (size_t)l->w * (size_t)l->c, (size_t)l->w * (size_t)l->c * sizeof *row);
            break;
        }
        net->real->finish(&f, (size_t)y * (size_t)l->w, (size_t)l->w, row);
    }
}

/* Layer i and the pool behind it, a band after the other. */
static void run_bands(const bw_net *net, int i, const uint8_t *image, char *values, char *scratch)
{
    const bwr_layer *l = &net->plan.layer[i], *pool = l + 1;
    const int grain = net->ready[i].kernel ? net->ready[i].kernel->row_grain : 1;
    const size_t row = (size_t)pool->stride * (size_t)l->w * (size_t)l->c * sizeof(float);
    const int band = row < BAND_BYTES ? (int)(BAND_BYTES / row) : 1;
    for (int from = 0, to, done = 0; from < pool->h; from = to) {
        to = from + band < pool->h ? from + band : pool->h;
        int need = to == pool->h ? l->h : (to - 1) * pool->stride - pool->pad + pool->kh;
        need = (need + grain - 1) / grain * grain;
        need = need < l->h ? need : l->h;
        if (need > done) run_layer(net, i, image, done, need, values, scratch);
        done = need > done ? need : done;
        run_layer(net, i + 1, image, from, to, values, scratch);
    }
}

void bwr_run_layer(const bw_net *net, int i, const uint8_t *image, void *work)
{
    run_layer(net, i, image, 0, net->plan.layer[i].h, work, (char *)work + net->scratch);
}

/* ---- Preparing ----------------------------------------------------------------------------------------------------------- */

/* Layers that want the same of a kernel. */
static bool same_task(const bw_net *net, int i, int k)
{
    const bwk_conv_spec *a = &net->ready[i].spec, *b = &net->ready[k].spec;
    const bwr_layer *x = &net->plan.layer[i], *y = &net->plan.layer[k];
    return y->kind == BWR_conv && !memcmp(a, b, offsetof(bwk_conv_spec, asigned)) && a->asigned == b->asigned &&
           (x->residual < 0) == (y->residual < 0) && (x->out < 0) == (y->out < 0) && x->n_codes == y->n_codes;
}

/* Some codes for layer i, and no residual. */
static void invent_input(const bw_net *net, int i, char *values)
{
    const bwr_layer *l = &net->plan.layer[i];
    const bwr_value *in = &net->plan.value[l->in];
    const unsigned range = (unsigned)(in->hi - in->lo + 1);
    uint8_t *x = (uint8_t *)values + in->offset;
    for (size_t k = 0; k < (size_t)in->h * (size_t)in->w * (size_t)in->c; k++)
        x[k] = (uint8_t)(in->lo + (int)((uint32_t)k * 2654435761u % range));
    if (l->residual >= 0) memset(values + net->plan.value[l->residual].offset, 0, map_size(l) * (size_t)l->c * sizeof(float));
}

static void read_through(const void *memory, size_t bytes)
{
    const volatile char *p = memory;
    for (size_t i = 0; i < bytes; i += 64) (void)p[i];
}

/* Seconds of the fastest of `calls` runs of layer i, each with caches as the other layers leave them: their weights, [bytes] of memory,
 * have passed since, and the layer's input is fresh. *turn: seconds of one run and what goes before it. */
static double least_time(bw_net *net, int i, int calls, const void *memory, size_t bytes, char *values, double *turn)
{
    const bwr_layer *l = &net->plan.layer[i];
    const bwr_value *in = &net->plan.value[l->in];
    double least = 0;
    for (int c = 0; c < calls; c++) {
        const double before = bwi_now();
        read_through(memory, bytes);
        read_through(values + in->offset, (size_t)in->h * (size_t)in->w * (size_t)in->c);
        const double start = bwi_now();
        run_layer(net, i, NULL, 0, l->h, values, values + net->scratch);
        const double end = bwi_now(), took = end - start;
        if (!c || took < least) least = took;
        *turn = end - before;
    }
    return least > 0 ? least : 1e-9; /* a coarse clock */
}

/* Gives layer i the kernel that is fastest here. Kernels take turns, so that a disturbance does not meet one of them alone; that of the table stays
 * unless another one is faster by more than what measurements are apart. Layers that are alike are timed once. */
static void measure(bw_net *net, int i, const int8_t *codes, char *memory, char *values)
{
    enum { MOST = 16, ROUNDS = 7 };
    const double share = 3e-4, margin = 0.97;
    bwr_ready *r = &net->ready[i];
    struct {
        const bwk_conv *k;
        void *packed;
        double took;
        int calls;
    } trial[MOST];
    const bwk_conv *k;
    char *trials = memory + net->trials;
    int n = 0;
    for (int j = 0; j < i; j++)
        if (same_task(net, i, j)) {
            r->kernel = net->ready[j].kernel, r->took = net->ready[j].took, r->table_took = net->ready[j].table_took;
            return;
        }
    for (size_t j = 0; (k = bwk_conv_at(j)) && n < MOST; j++) {
        if (!candidate(r, k, BW_PLAN_MEASURED)) continue;
        trial[n].k = k;
        trial[n].packed = trials;
        k->pack(&r->spec, codes, trials);
        trials += round64(k->packed_size(&r->spec));
        n++;
    }
    if (n < 2) return;
    invent_input(net, i, values);
    for (int round = -1; round < ROUNDS; round++) /* the first one says how long a call takes */
        for (int t = 0; t < n; t++) {
            r->kernel = trial[t].k, r->packed = trial[t].packed;
            double turn;
            const double took = least_time(net, i, round < 0 ? 2 : trial[t].calls, memory, net->trials, values, &turn);
            if (round < 0) trial[t].calls = turn < share ? (int)(share / (turn + 1e-7)) : 1;
            if (round < 0 || took < trial[t].took) trial[t].took = took;
        }
    int table = 0;
    while (table < n - 1 && trial[table].k != r->table) table++;
    int best = table;
    for (int t = 0; t < n; t++)
        if (trial[t].took < margin * trial[table].took && trial[t].took < trial[best].took) best = t;
    r->kernel = trial[best].k, r->took = trial[best].took, r->table_took = trial[table].took;
}

/* Codes of a layer as int8, in place for a kernel to pack; `to` has room for them. */
static void unpack(const bwr_layer *l, size_t n, int8_t *to)
{
    for (size_t i = 0; i < n; i++) to[i] = (int8_t)bwr_code(l->weight, l->wbits, i);
}

/* [oc][kh][kw][ic] to [kh][kw][ic][oc], so that sums of all channels advance together. */
static void real_weights(const bwr_layer *l, size_t taps, float *to)
{
    const size_t oc = (size_t)l->c;
    for (size_t o = 0; o < oc; o++)
        for (size_t t = 0; t < taps; t++) {
            const size_t i = o * taps + t;
            to[t * oc + o] = l->wbits ? (float)(l->sum_mul * bwr_code(l->weight, l->wbits, i) + l->sum_add) + l->sum_shift
                                      : l->real_weight[i];
        }
}

/* What bytes stand for, and their codes when nothing but these is wanted. */
static void input_tables(const bw_net *net, const bwr_layer *l, bwr_ready *r, void *at)
{
    float t[256];
    bwk_finish f = finish_of(l, &net->plan, NULL);
    const size_t n = (size_t)l->c * 256;
    r->real = at;
    for (int c = 0; c < l->c; c++) /* as training's loader, in float and in this order */
        for (int v = 0; v < 256; v++) r->real[c * 256 + v] = ((float)v / 255.0f - l->mean[c]) / l->deviation[c];
    if (l->out >= 0) return;
    r->codes = (uint8_t *)(r->real + n);
    f.channels = 1;
    for (size_t c = 0; c < (size_t)l->c; c++) {
        for (int k = 0; k < l->n_codes; k++) f.codes[k].to = r->codes + (size_t)k * n + c * 256;
        memcpy(t, r->real + c * 256, sizeof t);
        net->real->finish(&f, 0, 256, t);
    }
}

bw_status bw_net_init_plan(bw_net **out, const void *file, size_t size, bw_plan plan, void *memory, size_t bytes, void *work,
                           bw_error *err)
{
    bw_net_info info;
    size_t behind;
    *out = NULL;
    bw_status st = bw_net_read_plan(file, size, plan, &info, err);
    if (st) return st;
    if (!memory || (uintptr_t)memory % 64 || bytes < info.net_bytes)
        return bwi_fail(err, BW_ARG, "the network wants %zu bytes of memory that is aligned to 64; it got %zu", info.net_bytes,
                        bytes);
    if (plan == BW_PLAN_MEASURED && (!work || (uintptr_t)work % 64))
        return bwi_fail(err, BW_ARG, "timing kernels wants %zu bytes of work that are aligned to 64", info.work_bytes);
    bw_net *net = memory;
    char *at = (char *)memory + round64(sizeof *net);
    st = lay_out(net, file, size, plan, &behind, err);
    if (st) return st;
    if (plan == BW_PLAN_MEASURED) memset(at, 0, net->trials); /* pages of their own, since measure reads them */
    for (int i = 0; i < net->plan.n_layers; i++) {
        const bwr_layer *l = &net->plan.layer[i];
        bwr_ready *r = &net->ready[i];
        const bwr_value *in = l->in < 0 ? NULL : &net->plan.value[l->in];
        const size_t own = prepared_bytes(l, r, in, plan);
        if (l->kind == BWR_conv) {
            int8_t *codes = (int8_t *)memory + info.net_bytes - round64(bwr_weights(l, in->c));
            unpack(l, bwr_weights(l, in->c), codes);
            if (plan == BW_PLAN_MEASURED) measure(net, i, codes, (char *)memory + round64(sizeof *net), work);
            r->packed = at;
            r->kernel->pack(&r->spec, codes, at);
        } else if (l->kind == BWR_conv_real) {
            r->real = (float *)(void *)at;
            real_weights(l, bwr_weights(l, in->c) / (size_t)l->c, r->real);
        } else if (l->kind == BWR_input) {
            input_tables(net, l, r, at);
        }
        at += own;
    }
    *out = net;
    return BW_OK;
}

bw_status bw_net_read(const void *file, size_t size, bw_net_info *info, bw_error *err)
{
    return bw_net_read_plan(file, size, BW_PLAN_TABLE, info, err);
}

bw_status bw_net_init(bw_net **net, const void *file, size_t size, void *memory, size_t bytes, bw_error *err)
{
    return bw_net_init_plan(net, file, size, BW_PLAN_TABLE, memory, bytes, NULL, err);
}

/* ---- Whole images -------------------------------------------------------------------------------------------------------- */

static size_t image_bytes(const bw_net *net)
{
    return (size_t)net->plan.image_h * (size_t)net->plan.image_w * (size_t)net->plan.image_c;
}

static void copy_logits(const bw_net *net, const char *values, float *logits)
{
    const bwr_layer *last = &net->plan.layer[net->plan.n_layers - 1];
    memcpy(logits, values + net->plan.value[last->out].offset, (size_t)last->c * sizeof *logits);
}

void bw_net_run(const bw_net *net, const uint8_t *images, int n, float *logits, void *work)
{
    const bwr_plan *p = &net->plan;
    char *values = work;
    for (int k = 0; k < n; k++, images += image_bytes(net), logits += p->layer[p->n_layers - 1].c) {
        for (int i = 0; i < p->n_layers; i++)
            if (in_bands(p, i))
                run_bands(net, i++, images, values, values + net->scratch);
            else
                run_layer(net, i, images, 0, p->layer[i].h, values, values + net->scratch);
        copy_logits(net, values, logits);
    }
}

void bwr_run_observed(const bw_net *net, const uint8_t *image, float *logits, void *work, bwr_observe *observe, void *observer)
{
    const bwr_plan *p = &net->plan;
    char *values = work;
    for (int i = 0; i < p->n_layers; i++) {
        run_layer(net, i, image, 0, p->layer[i].h, values, values + net->scratch);
        observe(observer, p, i, values);
    }
    copy_logits(net, values, logits);
}

/* What the threads of a pool share. */
typedef struct shared_run {
    const bw_net *net;
    const uint8_t *images;
    int n, layer;
    float *logits;
    char *work;
} shared_run;

static void run_images(void *arg, int i, int n)
{
    const shared_run *s = arg;
    const int from = (int)((int64_t)s->n * i / n), to = (int)((int64_t)s->n * (i + 1) / n);
    const size_t classes = (size_t)s->net->plan.layer[s->net->plan.n_layers - 1].c;
    bw_net_run(s->net, s->images + (size_t)from * image_bytes(s->net), to - from, s->logits + (size_t)from * classes,
               s->work + (size_t)i * s->net->work_bytes);
}

/* A share of a layer's rows: values lie in the first thread's work, scratch in each one's own. */
static void run_rows(void *arg, int i, int n)
{
    const shared_run *s = arg;
    const bwk_conv *kernel = s->net->ready[s->layer].kernel;
    const int rows = s->net->plan.layer[s->layer].h, grain = kernel ? kernel->row_grain : 1,
              blocks = (rows + grain - 1) / grain;
    const int from = blocks * i / n * grain, to = blocks * (i + 1) / n * grain;
    if (from < rows && from < to)
        run_layer(s->net, s->layer, s->images, from, to < rows ? to : rows, s->work,
                  s->work + (size_t)i * s->net->work_bytes + s->net->scratch);
}

void bw_net_run_pool(const bw_net *net, bw_pool *pool, const uint8_t *images, int n, float *logits, void *work)
{
    shared_run s = {.net = net, .images = images, .n = n, .logits = logits, .work = work};
    if (n >= bwr_pool_threads(pool)) {
        bwr_pool_run(pool, run_images, &s);
        return;
    }
    for (int k = 0; k < n; k++, s.images += image_bytes(net), s.logits += net->plan.layer[net->plan.n_layers - 1].c) {
        for (s.layer = 0; s.layer < net->plan.n_layers; s.layer++) bwr_pool_run(pool, run_rows, &s);
        copy_logits(net, work, s.logits);
    }
}

bool bw_net_layer(const bw_net *net, int i, bw_layer_info *info)
{
    if (i < 0 || i >= net->plan.n_layers) return false;
    const bwr_layer *l = &net->plan.layer[i];
    const bool conv = l->kind == BWR_conv || l->kind == BWR_conv_real;
    *info = (bw_layer_info){.name = l->name,
                            .kind = bwr_kind_name[l->kind],
                            .kernel = net->ready[i].kernel ? net->ready[i].kernel->name : "",
                            .table_kernel = net->ready[i].table ? net->ready[i].table->name : "",
                            .measured = net->ready[i].took > 0,
                            .microseconds = 1e6 * net->ready[i].took,
                            .table_microseconds = 1e6 * net->ready[i].table_took,
                            .height = l->h,
                            .width = l->w,
                            .channels = l->c,
                            .weight_bits = l->wbits,
                            .activation_bits = l->abits,
                            .activation_signed = l->asigned,
                            .weight_bytes = l->weight_bytes};
    if (conv) info->multiply_adds = (int64_t)map_size(l) * (int64_t)bwr_weights(l, net->plan.value[l->in].c);
    return true;
}
