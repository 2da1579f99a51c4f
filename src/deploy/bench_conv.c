/* Times the convolution kernels for batch 1, with the finish that makes codes of the next layer, against oneDNN's u8 x s8 convolution in the same
 * run. The cells of a shape take turns, so that a disturbance does not meet one of them alone; least times count. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/par.h"
#include "compute/onednn_api.h"
#include "kernels/conv.h"
#include "kernels/finish.h"
#include "base/status.h"
#include <string.h>

static const struct shape {
    const char *name;
    int ic, oc, map, kernel, stride, groups;
} shapes[] = {
    {"16@32", 16, 16, 32, 3, 1, 1},        {"32@16", 32, 32, 16, 3, 1, 1},       {"64@8", 64, 64, 8, 3, 1, 1},
    {"64@56", 64, 64, 56, 3, 1, 1},        {"128@28", 128, 128, 28, 3, 1, 1},    {"256@14", 256, 256, 14, 3, 1, 1},
    {"512@7", 512, 512, 7, 3, 1, 1},       {"3>16@32", 3, 16, 32, 3, 1, 1},      {"16>32@32/2", 16, 32, 32, 3, 2, 1},
    {"3>64@224/2", 3, 64, 224, 7, 2, 1},   {"1x1:192@28", 192, 32, 28, 1, 1, 1}, {"1x1:64@56/2", 64, 128, 56, 1, 2, 1},
    {"dw:192@28", 192, 192, 28, 3, 1, 192}};
/* Bits of activations and weights. */
static const int widths[][2] = {{8, 8}, {4, 4}, {3, 3}, {2, 2}, {2, 1}, {1, 1}};

#define COUNT(a) (sizeof(a) / sizeof *(a))
enum { MAX_CELLS = 64, ROUNDS = 25 };

/* A kernel at work, or oneDNN where k is NULL. */
typedef struct cell {
    const bwk_conv *k;
    bwk_conv_spec s;
    void *x, *packed, *scratch, *y;
    size_t scratch_bytes; /* of a thread */
    float *a, *b;
    bwk_finish finish;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[3];
    double least;
} cell;

/* Buffer of n codes from lo to hi. */
static void *codes(size_t n, int lo, int hi)
{
    int8_t *p = bwi_malloc(n);
    for (size_t i = 0; p && i < n; i++) p[i] = (int8_t)(lo + (int)((i * 2654435761u >> 7) % (unsigned)(hi - lo + 1)));
    return p;
}

static bwk_conv_spec spec_of(const struct shape *h, const int *width)
{
    bwk_conv_spec s = {.ih = h->map, .iw = h->map, .ic = h->ic, .oc = h->oc, .kh = h->kernel, .kw = h->kernel};
    s.stride = h->stride, s.pad = h->kernel / 2, s.groups = h->groups, s.abits = width[0], s.wbits = width[1];
    s.oh = s.ow = (s.ih + 2 * s.pad - s.kh) / s.stride + 1;
    return s;
}

/* Operands that both kinds of cell have. */
static int8_t *operands(cell *c)
{
    const bwk_conv_spec *s = &c->s;
    const size_t n_w = (size_t)s->oc * s->kh * s->kw * (s->ic / s->groups);
    const int hi = s->wbits == 1 ? 1 : (1 << (s->wbits - 1)) - 1;
    int8_t *w = codes(n_w, s->wbits == 1 ? 0 : -hi - 1, hi);
    for (size_t i = 0; w && s->wbits == 1 && i < n_w; i++) w[i] = (int8_t)(2 * w[i] - 1);
    c->x = codes((size_t)s->ih * s->iw * s->ic, 0, (1 << s->abits) - 1);
    c->y = bwi_malloc((size_t)s->oh * s->ow * s->oc);
    return w;
}

static bool kernel_make(cell *c, int threads)
{
    const bwk_conv_spec *s = &c->s;
    int8_t *w = operands(c);
    c->packed = bwi_malloc(c->k->packed_size(s));
    c->scratch_bytes = (c->k->scratch_size(s) + 127) / 64 * 64;
    c->scratch = bwi_calloc((size_t)threads, c->scratch_bytes);
    c->a = bwi_malloc((size_t)s->oc * sizeof(float));
    c->b = bwi_malloc((size_t)s->oc * sizeof(float));
    const bool good = w && c->x && c->y && c->packed && c->scratch && c->a && c->b;
    if (good) c->k->pack(s, w, c->packed);
    bwi_free(w);
    if (!good) return false;
    for (int o = 0; o < s->oc; o++) c->a[o] = 1 + (float)o / 1000, c->b[o] = (float)o / 300;
    c->finish = (bwk_finish){.channels = s->oc, .sum_mul = 1, .scale = 0.01f, .a = c->a, .b = c->b, .relu = true, .n_codes = 1};
    c->finish.codes[0] = (bwk_codes){.mul = 0.5f, .lo = 0, .hi = (float)((1 << s->abits) - 1), .to = c->y};
    return true;
}

static void kernel_call(cell *c, int threads, bwk_finish_fn *finish)
{
    const int grain = c->k->row_grain, grains = (c->s.oh + grain - 1) / grain;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        const int from = grains * t / threads * grain, to = t + 1 < threads ? grains * (t + 1) / threads * grain : c->s.oh;
        if (to > from)
            c->k->run(&c->s, c->packed, c->x, from, to - from, (char *)c->scratch + (size_t)t * c->scratch_bytes, finish,
                      &c->finish);
    }
}

/* Makes u8 from u8 and s8, scaled, shifted and clipped: less than our finish does. */
static dnnl_status_t onednn_make(cell *c)
{
    const bwk_conv_spec *s = &c->s;
    dnn_conv conv = {.stride = {s->stride, s->stride}, .pad = {s->pad, s->pad}};
    const dnnl_dims_t src = {1, s->ic, s->ih, s->iw}, w = {s->oc, s->ic, s->kh, s->kw}, dst = {1, s->oc, s->oh, s->ow};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnn_md packed = {0};
    bwi_free(operands(c));
#define TRY(call)                                                                                                              \
    do {                                                                                                                       \
        const dnnl_status_t st_ = (call);                                                                                      \
        if (st_ != dnnl_success) return st_;                                                                                   \
    } while (0)
    TRY(dnn_engine_make(&c->engine));
    TRY(dnnl_stream_create(&c->stream, c->engine, dnnl_stream_default_flags));
    conv.engine = c->engine;
    TRY(dnn_md_make(&conv.src, 4, src, dnnl_u8, dnnl_nhwc));
    if (s->groups > 1) {
        const dnnl_dims_t grouped = {s->groups, s->oc / s->groups, s->ic / s->groups, s->kh, s->kw};
        TRY(dnn_md_make(&conv.weights, 5, grouped, dnnl_s8, dnnl_format_tag_any));
    } else
        TRY(dnn_md_make(&conv.weights, 4, w, dnnl_s8, dnnl_format_tag_any));
    TRY(dnn_md_make(&conv.dst, 4, dst, dnnl_u8, dnnl_nhwc));
    TRY(dnnl_primitive_attr_create(&attr));
    TRY(dnnl_post_ops_create(&ops));
#if DNNL_VERSION_MAJOR >= 3
    TRY(dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_linear, 0.005f, 1));
#else
    TRY(dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_linear, 0.005f, 1));
#endif
    TRY(dnnl_primitive_attr_set_post_ops(attr, ops));
    TRY(dnn_forward_pd(&pd, &conv, dnnl_forward_inference, attr));
    TRY(dnn_md_query(&packed, pd, dnnl_query_weights_md));
    c->packed = codes(dnn_md_bytes(&packed), -7, 7); /* any values do */
    if (!c->packed || !c->x || !c->y) return dnnl_out_of_memory;
    TRY(dnnl_primitive_create(&c->primitive, pd));
    TRY(dnn_memory_make(&c->memory[0], &conv.src, c->engine, c->x));
    TRY(dnn_memory_make(&c->memory[1], &packed, c->engine, c->packed));
    TRY(dnn_memory_make(&c->memory[2], &conv.dst, c->engine, c->y));
    dnnl_primitive_desc_destroy(pd);
    dnnl_post_ops_destroy(ops);
    dnnl_primitive_attr_destroy(attr);
    dnn_md_free(&packed), dnn_md_free(&conv.src), dnn_md_free(&conv.weights), dnn_md_free(&conv.dst);
    return dnnl_success;
#undef TRY
}

static void onednn_call(cell *c)
{
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, c->memory[0]}, {DNNL_ARG_WEIGHTS, c->memory[1]}, {DNNL_ARG_DST, c->memory[2]}};
    dnnl_primitive_execute(c->primitive, c->stream, 3, args);
    dnnl_stream_wait(c->stream);
}

static void drop(cell *c)
{
    if (c->primitive) dnnl_primitive_destroy(c->primitive);
    for (int i = 0; i < 3; i++)
        if (c->memory[i]) dnnl_memory_destroy(c->memory[i]);
    if (c->stream) dnnl_stream_destroy(c->stream);
    if (c->engine) dnnl_engine_destroy(c->engine);
    void *all[] = {c->x, c->packed, c->scratch, c->y, c->a, c->b};
    for (size_t i = 0; i < COUNT(all); i++) bwi_free(all[i]);
}

static void call(cell *c, int threads, bwk_finish_fn *finish)
{
    if (c->k)
        kernel_call(c, threads, finish);
    else
        onednn_call(c);
}

/* Least times of all cells, which take turns of about `turn` seconds. */
static void measure(cell *cells, int n, double turn, int threads)
{
    bwk_finish_fn *finish = bwk_finish_for_cpu();
    int calls[MAX_CELLS];
    for (int i = 0; i < n; i++) {
        double took = 1;
        for (int warm = 0; warm < 3; warm++) {
            const double start = bwi_now();
            call(&cells[i], threads, finish);
            took = bwi_now() - start;
        }
        cells[i].least = took;
        calls[i] = took < turn ? (int)(turn / took) : 1;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < n; i++)
            for (int k = 0; k < calls[i]; k++) {
                const double start = bwi_now();
                call(&cells[i], threads, finish);
                const double took = bwi_now() - start;
                if (took < cells[i].least) cells[i].least = took;
            }
}

/* Makes the cells of a shape; *n: how many, also on failure. */
static bw_status make_cells(const struct shape *h, cell *cells, int *n, int threads, bw_error *err)
{
    cells[0] = (cell){.s = spec_of(h, widths[0])};
    *n = 1;
    const dnnl_status_t st = onednn_make(&cells[0]);
    if (st != dnnl_success)
        return bwi_fail(err, BW_UNSUPPORTED, "oneDNN has no u8 x s8 convolution for %s: status %d", h->name, (int)st);
    for (size_t w = 0; w < COUNT(widths); w++)
        for (size_t i = 0; bwk_conv_at(i) && *n < MAX_CELLS; i++) {
            const bwk_conv_spec s = spec_of(h, widths[w]);
            const bwk_conv *k = bwk_conv_at(i);
            if (!k->needs || !bwk_conv_usable(k, &s)) continue; /* plain C takes seconds */
            cell *c = &cells[(*n)++];
            *c = (cell){.k = k, .s = s};
            if (!kernel_make(c, threads)) return bwi_fail(err, BW_NOMEM, "no memory to time %s", h->name);
        }
    return BW_OK;
}

static bw_status shape_time(const struct shape *h, const bw_bench_conv_options *o, bw_bench_row_fn *row, void *user,
                            bw_error *err)
{
    cell cells[MAX_CELLS] = {{0}};
    int n = 0;
    const int threads = o->threads ? o->threads : 1;
    const bw_status st = make_cells(h, cells, &n, threads, err);
    if (!st) {
        measure(cells, n, (o->milliseconds > 0 ? o->milliseconds : 50) / 1e3 / ROUNDS, threads);
        const bwk_conv_spec *s = &cells[0].s;
        const double ops = 2.0 * s->oc * (s->ic / s->groups) * s->kh * s->kw * s->oh * s->ow;
        for (int i = 0; i < n; i++) {
            const cell *c = &cells[i];
            row(user, &(bw_bench_row){.name = c->k ? c->k->name : "onednn-u8s8",
                                      .shape = h->name,
                                      .activation_bits = c->s.abits,
                                      .weight_bits = c->s.wbits,
                                      .threads = threads,
                                      .gops = ops / c->least / 1e9,
                                      .against_onednn = cells[0].least / c->least});
        }
    }
    for (int i = 0; i < n; i++) drop(&cells[i]);
    return st;
}

bw_status bw_bench_conv(const bw_bench_conv_options *options, bw_bench_row_fn *row, void *user, bw_error *err)
{
    const char *names[COUNT(shapes)];
    bool any = false;
    if (err) *err = (bw_error){0};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        names[i] = shapes[i].name;
        any = any || !options->shape || !strcmp(options->shape, names[i]);
    }
    if (!any) {
        const char *near = bwi_nearest(options->shape, names, COUNT(names));
        return bwi_fail(err, BW_ARG, "there is no shape '%s'; the first is %s%s%s", options->shape, names[0],
                        near ? "; did you mean " : "", near ? near : "");
    }
    bwi_threads_set(options->threads ? options->threads : 1);
    for (size_t i = 0; i < COUNT(shapes); i++) {
        if (options->shape && strcmp(options->shape, names[i]) != 0) continue;
        const bw_status st = shape_time(&shapes[i], options, row, user, err);
        if (st) return st;
    }
    return BW_OK;
}
