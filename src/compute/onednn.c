/* Convolutions by oneDNN, but for those of integers: forward8.h, which is exact on every CPU, and conv16.h. Sources and destinations are
 * NHWC everywhere; each pass has its weights in the layout that its kernel likes best, and a reorder from or to [oc,kh,kw,ic/groups].
 * Everything is created once; a call only swaps data handles. All primitives use the caller's scratch, so that one buffer serves every
 * convolution of a network. */
#include "compute/compute.h"
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/par.h"
#include "compute/conv16.h"
#include "compute/forward8.h"
#include "compute/onednn_api.h"
#include "compute/spec.h"
#include <assert.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>

/* A primitive with its share of scratch. */
typedef struct task {
    dnnl_primitive_t primitive;
    dnnl_memory_t scratchpad; /* NULL: it needs none */
} task;

/* Weights of one pass in its own layout. */
typedef struct packed {
    task reorder; /* from OHWI (forward, backward data) or to it (backward weights) */
    dnnl_memory_t memory;
    void *data; /* what memory points to; owned */
} packed;

struct bwi_conv {
    bwi_conv_spec spec;
    dnnl_stream_t stream;
    task forward, backward_data, backward_weights;
    packed w_forward, w_backward, gw;
    dnnl_memory_t src, dst, gdst, gsrc; /* NHWC, of the caller */
    dnnl_memory_t w;                    /* OHWI f32, of the caller or in scratch */
    dnnl_memory_t scale_memory;
    float scale;                      /* of the forward pass when the source holds codes; otherwise folded into the weights */
    bwi_forward8 *forward8;           /* the forward pass of a U8 source; NULL: conv16 or oneDNN in float */
    const bwi_conv16_table *integers; /* what makes the passes of conv16; NULL: oneDNN in float */
    bwi_conv16 *conv16;               /* backward passes and, of a float source, the forward one */

    /* The weight gradient is taken over pieces of the batch; see piece_of. */
    int piece;                          /* images; divides n */
    task convert;                       /* a piece of codes to float; absent: the source is float */
    dnnl_memory_t piece_src, converted; /* of the caller; in scratch */
    dnnl_memory_t piece_gdst;           /* of the caller */
    dnnl_memory_t gw_part;              /* like gw.memory, in scratch: of a piece but the first */
    size_t converted_bytes, gw_bytes;   /* in scratch; the first is a multiple of 64 */

    size_t scratchpad; /* bytes of scratch that the primitives need, a multiple of 64 */
    size_t staging;    /* bytes behind them: scaled weights, or a converted piece and gw_part, or what integers need */
};

/* What conv_create needs while it builds. */
typedef struct builder {
    bwi_conv *conv;
    dnnl_engine_t engine;
    dnnl_primitive_attr_t plain, scaled; /* both: scratchpad of the caller */
    dnn_md w;                            /* OHWI f32 */
    bw_error *err;
} builder;

static bw_status status_of(dnnl_status_t status)
{
    if (status == dnnl_success) return BW_OK;
    if (status == dnnl_out_of_memory) return BW_NOMEM;
    return status == dnnl_unimplemented ? BW_UNSUPPORTED : BW_INTERNAL;
}

/* Runs a oneDNN call while building; on failure the message says which step of which convolution. */
static bw_status check(const builder *b, dnnl_status_t status, const char *what)
{
    if (status == dnnl_success) return BW_OK;
    char text[BWI_CONV_TEXT];
    return bwi_fail(b->err, status_of(status), "%s: oneDNN cannot make its %s: %s", bwi_conv_text(&b->conv->spec, text), what,
                    dnnl_status2str(status));
}

/* ---- The engine ---------------------------------------------------------------------------------------------------------- */
/* One engine for the process, made on first use and kept: it holds no memory of convolutions. */
static dnnl_status_t get_engine(dnnl_engine_t *out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static dnnl_engine_t engine;
    dnnl_status_t status = dnnl_success;
    pthread_mutex_lock(&lock);
    if (!engine) status = dnn_engine_make(&engine);
    *out = engine;
    pthread_mutex_unlock(&lock);
    return status;
}

/* ---- Building ------------------------------------------------------------------------------------------------------------ */
/* Makes the primitive of *pd and gives *pd back in any case. */
static bw_status make_task(builder *b, task *t, dnnl_primitive_desc_t *pd, const char *what)
{
    bw_status st = BW_OK;
    dnn_md scratch = {0};
    BWI_TRY(check(b, dnnl_primitive_create(&t->primitive, *pd), what));
    BWI_TRY(check(b, dnn_md_query(&scratch, *pd, dnnl_query_scratchpad_md), what));
    size_t bytes = bwi_conv_round(dnn_md_bytes(&scratch));
    if (bytes) BWI_TRY(check(b, dnn_memory_make(&t->scratchpad, &scratch, b->engine, NULL), what));
    if (bytes > b->conv->scratchpad) b->conv->scratchpad = bytes;
fail:
    dnn_md_free(&scratch);
    dnnl_primitive_desc_destroy(*pd);
    *pd = NULL;
    return st;
}

static bw_status make_reorder(builder *b, task *t, const dnn_md *from, const dnn_md *to, const char *what)
{
    dnnl_primitive_desc_t pd = NULL;
    bw_status st = check(b, dnn_reorder_pd(&pd, from, to, b->engine, b->plain), what);
    return st == BW_OK ? make_task(b, t, &pd, what) : st;
}

/* Memory for the weights that pd wants as `arg`, and the reorder between it and OHWI. */
static bw_status make_packed(builder *b, packed *p, const_dnnl_primitive_desc_t pd, dnnl_query_t arg)
{
    bw_status st;
    dnn_md md = {0};
    BWI_TRY(check(b, dnn_md_query(&md, pd, arg), "weights"));
    p->data = bwi_calloc(1, dnn_md_bytes(&md));
    if (!p->data) {
        st = bwi_fail(b->err, BW_NOMEM, "out of memory for the packed weights of a convolution (%zu bytes)", dnn_md_bytes(&md));
        goto fail;
    }
    BWI_TRY(check(b, dnn_memory_make(&p->memory, &md, b->engine, p->data), "weights"));
    bool out = arg == dnnl_query_diff_weights_md;
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* as run_reorder runs it */
    st = make_reorder(b, &p->reorder, out ? &md : &b->w, out ? &b->w : &md, "reorder of weights");
    omp_set_num_threads(threads);
fail:
    dnn_md_free(&md);
    return st;
}

/* Weights in OHWI or, with `any`, in the layout that the pass will choose. */
static dnnl_status_t weights_md(const bwi_conv_spec *s, dnn_md *md, bool any)
{
    const dnnl_dims_t dense = {s->oc, s->ic, s->kh, s->kw};
    const dnnl_dims_t grouped = {s->groups, s->oc / s->groups, s->ic / s->groups, s->kh, s->kw};
    if (s->groups == 1) return dnn_md_make(md, 4, dense, dnnl_f32, any ? dnnl_format_tag_any : dnnl_ohwi);
    return dnn_md_make(md, 5, grouped, dnnl_f32, any ? dnnl_format_tag_any : dnnl_gohwi);
}

/* Layouts of the tensors of a pass over n images; all but the source are float. */
static bw_status make_geometry(builder *b, dnn_conv *g, int n, dnnl_data_type_t src)
{
    bw_status st;
    const bwi_conv_spec *s = &b->conv->spec;
    const int oh = bwi_conv_out(s->ih, s->kh, s->stride, s->pad), ow = bwi_conv_out(s->iw, s->kw, s->stride, s->pad);
    const dnnl_dims_t src_dims = {n, s->ic, s->ih, s->iw}, dst_dims = {n, s->oc, oh, ow};
    *g = (dnn_conv){.engine = b->engine, .stride = {s->stride, s->stride}, .pad = {s->pad, s->pad}};
    BWI_TRY(check(b, dnn_md_make(&g->src, 4, src_dims, src, dnnl_nhwc), "source"));
    BWI_TRY(check(b, weights_md(s, &g->weights, true), "weights"));
    BWI_TRY(check(b, dnn_md_make(&g->dst, 4, dst_dims, dnnl_f32, dnnl_nhwc), "destination"));
fail:
    return st;
}

static void free_geometry(dnn_conv *g)
{
    dnn_md_free(&g->src);
    dnn_md_free(&g->weights);
    dnn_md_free(&g->dst);
}

/* Attributes of a forward pass of codes: its sums are multiplied by the scale, which is known only at run time. That is a
 * multiplication by a tensor of one element after the sum: convolutions of 2.x refuse scales that they do not know when made. */
static bw_status make_scaled(builder *b)
{
    bw_status st;
    const dnnl_dims_t one = {1, 1, 1, 1};
    dnn_md md = {0};
    dnnl_post_ops_t ops = NULL;
    BWI_TRY(check(b, dnn_md_make(&md, 4, one, dnnl_f32, dnnl_nhwc), "scale"));
    BWI_TRY(check(b, dnn_memory_make(&b->conv->scale_memory, &md, b->engine, &b->conv->scale), "scale"));
    BWI_TRY(check(b, dnnl_post_ops_create(&ops), "scale"));
    BWI_TRY(check(b, dnn_append_multiply(ops, &md), "scale"));
    BWI_TRY(check(b, dnnl_primitive_attr_clone(&b->scaled, b->plain), "scale"));
    BWI_TRY(check(b, dnnl_primitive_attr_set_post_ops(b->scaled, ops), "scale"));
fail:
    if (ops) dnnl_post_ops_destroy(ops);
    dnn_md_free(&md);
    return st;
}

static bw_status make_forward(builder *b)
{
    bw_status st;
    bwi_conv *c = b->conv;
    dnn_conv g = {0};
    dnnl_primitive_desc_t pd = NULL;
    BWI_TRY(make_geometry(b, &g, c->spec.n, dnnl_f32));
    BWI_TRY(check(b, dnn_memory_make(&c->src, &g.src, b->engine, NULL), "source"));
    BWI_TRY(check(b, dnn_memory_make(&c->dst, &g.dst, b->engine, NULL), "destination"));
    if (c->spec.codes) BWI_TRY(make_scaled(b));
    BWI_TRY(check(b, dnn_forward_pd(&pd, &g, dnnl_forward_inference, c->spec.codes ? b->scaled : b->plain), "forward pass"));
    BWI_TRY(make_packed(b, &c->w_forward, pd, dnnl_query_weights_md));
    BWI_TRY(make_task(b, &c->forward, &pd, "forward pass"));
fail:
    if (pd) dnnl_primitive_desc_destroy(pd);
    free_geometry(&g);
    return st;
}

/* The forward pass in float, which oneDNN asks for to make backward passes; never run. */
static bw_status make_hint(builder *b, dnnl_primitive_desc_t *hint, int n)
{
    dnn_conv g = {0};
    bw_status st = make_geometry(b, &g, n, dnnl_f32);
    if (st == BW_OK) st = check(b, dnn_forward_pd(hint, &g, dnnl_forward_training, b->plain), "backward hint");
    free_geometry(&g);
    return st;
}

static bw_status make_backward_data(builder *b)
{
    bw_status st;
    bwi_conv *c = b->conv;
    dnn_conv g = {0};
    dnnl_primitive_desc_t hint = NULL, pd = NULL;
    BWI_TRY(make_hint(b, &hint, c->piece));
    BWI_TRY(make_geometry(b, &g, c->piece, dnnl_f32));
    BWI_TRY(check(b, dnn_memory_make(&c->gsrc, &g.src, b->engine, NULL), "source gradient"));
    BWI_TRY(check(b, dnn_memory_make(&c->gdst, &g.dst, b->engine, NULL), "destination gradient"));
    BWI_TRY(check(b, dnn_backward_data_pd(&pd, &g, hint, b->plain), "backward data pass"));
    BWI_TRY(make_packed(b, &c->w_backward, pd, dnnl_query_weights_md));
    BWI_TRY(make_task(b, &c->backward_data, &pd, "backward data pass"));
fail:
    if (hint) dnnl_primitive_desc_destroy(hint);
    if (pd) dnnl_primitive_desc_destroy(pd);
    free_geometry(&g);
    return st;
}

/* Images in a piece of the batch. A piece of the gradient, and of a source that must be converted, goes through both passes while it is in
 * the threads' caches: about 1 MiB for each. Pieces are equal and no thread must be without an image, so a batch size without a
 * fitting divisor is done at once. */
static int piece_of(const bwi_conv_spec *s)
{
    const int threads = bwi_threads();
    size_t image = bwi_conv_dst_size(s) / (size_t)s->n * sizeof(float), cache = (size_t)threads << 20;
    if (s->src == BWI_DT_U8 && s->operand == BWI_DT_F32) image += bwi_conv_src_size(s) / (size_t)s->n * sizeof(float);
    for (int piece = s->n; piece >= threads; piece--)
        if (s->n % piece == 0 && (size_t)piece * image <= cache) return piece;
    return s->n;
}

static bw_status make_backward_weights(builder *b)
{
    bw_status st;
    bwi_conv *c = b->conv;
    const bwi_conv_spec *s = &c->spec;
    const int piece = c->piece;
    dnn_conv g = {0}, from = {0};
    dnn_md gw = {0};
    dnnl_primitive_desc_t hint = NULL, pd = NULL;
    BWI_TRY(make_hint(b, &hint, piece));
    BWI_TRY(make_geometry(b, &g, piece, dnnl_f32));
    BWI_TRY(make_geometry(b, &from, piece, s->src == BWI_DT_U8 ? dnnl_u8 : dnnl_f32));
    BWI_TRY(check(b, dnn_memory_make(&c->piece_src, &from.src, b->engine, NULL), "source"));
    BWI_TRY(check(b, dnn_memory_make(&c->piece_gdst, &g.dst, b->engine, NULL), "destination gradient"));
    BWI_TRY(check(b, dnn_backward_weights_pd(&pd, &g, hint, b->plain), "backward weights pass"));
    BWI_TRY(make_packed(b, &c->gw, pd, dnnl_query_diff_weights_md));
    BWI_TRY(check(b, dnn_md_query(&gw, pd, dnnl_query_diff_weights_md), "weight gradient"));
    BWI_TRY(check(b, dnn_memory_make(&c->gw_part, &gw, b->engine, NULL), "weight gradient"));
    BWI_TRY(make_task(b, &c->backward_weights, &pd, "backward weights pass"));
    c->gw_bytes = dnn_md_bytes(&gw);
    if (s->src != BWI_DT_F32) {
        BWI_TRY(check(b, dnn_memory_make(&c->converted, &g.src, b->engine, NULL), "source"));
        BWI_TRY(make_reorder(b, &c->convert, &from.src, &g.src, "conversion of the source"));
        c->converted_bytes = bwi_conv_round(dnn_md_bytes(&g.src));
    }
fail:
    if (hint) dnnl_primitive_desc_destroy(hint);
    if (pd) dnnl_primitive_desc_destroy(pd);
    dnn_md_free(&gw);
    free_geometry(&g);
    free_geometry(&from);
    return st;
}

/* oneDNN's weight gradient of strided 1x1 convolutions writes past its scratch memory when there are fewer input channels than a vector has, 8 with
 * AVX2 and 16 with AVX-512; up to release 3.12 at least (its issue 6035). */
static bool overruns(const bwi_conv_spec *s)
{
    return s->train && s->operand == BWI_DT_F32 && s->kh == 1 && s->kw == 1 && s->stride > 1 && s->ic / s->groups < 16;
}

static bw_status build(builder *b)
{
    bw_status st;
    bwi_conv *c = b->conv;
    BWI_TRY(check(b, get_engine(&b->engine), "engine"));
    if (overruns(&c->spec)) {
        char text[BWI_CONV_TEXT];
        return bwi_fail(b->err, BW_UNSUPPORTED,
                        "%s: oneDNN's weight gradient of it writes outside its memory (oneDNN issue 6035); it needs 16 input "
                        "channels, or no stride",
                        bwi_conv_text(&c->spec, text));
    }
    BWI_TRY(check(b, dnnl_stream_create(&c->stream, b->engine, dnnl_stream_default_flags), "stream"));
    BWI_TRY(check(b, dnnl_primitive_attr_create(&b->plain), "attributes"));
    BWI_TRY(check(b, dnnl_primitive_attr_set_scratchpad_mode(b->plain, dnnl_scratchpad_mode_user), "attributes"));
    BWI_TRY(check(b, weights_md(&c->spec, &b->w, false), "weights"));
    BWI_TRY(check(b, dnn_memory_make(&c->w, &b->w, b->engine, NULL), "weights"));
    if (c->spec.operand == BWI_DT_I16) {
        char text[BWI_CONV_TEXT];
        if (!(c->integers = bwi_conv16_find()))
            return bwi_fail(b->err, BW_UNSUPPORTED, "%s: no products of 16-bit integers on this CPU",
                            bwi_conv_text(&c->spec, text));
        BWI_TRY(c->integers->create(&c->spec, &c->conv16, b->err));
    }
    if (c->spec.src == BWI_DT_U8)
        BWI_TRY(bwi_forward8_create(&c->spec, &c->forward8, b->err));
    else if (!c->integers)
        BWI_TRY(make_forward(b));
    c->piece = piece_of(&c->spec);
    if (c->spec.need_gsrc && !c->integers) BWI_TRY(make_backward_data(b));
    if (c->spec.train && !c->integers) BWI_TRY(make_backward_weights(b));
    const size_t scaled = bwi_conv_round(bwi_conv_weights_size(&c->spec) * sizeof(float));
    const size_t gradient = c->converted_bytes + (c->piece < c->spec.n ? bwi_conv_round(c->gw_bytes) : 0);
    c->staging = scaled > gradient ? scaled : gradient;
    const size_t integers[] = {c->forward8 ? bwi_forward8_scratch(c->forward8) : 0,
                               c->integers ? c->integers->scratch(c->conv16) : 0};
    for (int i = 0; i < 2; i++)
        if (integers[i] > c->staging) c->staging = integers[i];
fail:
    return st;
}

static void free_task(task *t)
{
    if (t->primitive) dnnl_primitive_destroy(t->primitive);
    if (t->scratchpad) dnnl_memory_destroy(t->scratchpad);
}

static void free_packed(packed *p)
{
    free_task(&p->reorder);
    if (p->memory) dnnl_memory_destroy(p->memory);
    bwi_free(p->data);
}

static void conv_destroy(bwi_conv **conv)
{
    bwi_conv *c = *conv;
    if (!c) return;
    task *tasks[] = {&c->forward, &c->backward_data, &c->backward_weights, &c->convert};
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) free_task(tasks[i]);
    packed *weights[] = {&c->w_forward, &c->w_backward, &c->gw};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) free_packed(weights[i]);
    dnnl_memory_t memories[] = {c->src,       c->dst,        c->gdst,      c->gsrc,    c->w,
                                c->piece_src, c->piece_gdst, c->converted, c->gw_part, c->scale_memory};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
        if (memories[i]) dnnl_memory_destroy(memories[i]);
    if (c->stream) dnnl_stream_destroy(c->stream);
    bwi_forward8_destroy(&c->forward8);
    if (c->integers) c->integers->destroy(&c->conv16);
    bwi_free(c);
    *conv = NULL;
}

static bw_status conv_create(const bwi_conv_spec *spec, bwi_conv **out, bw_error *err)
{
    *out = NULL;
    bw_status st = bwi_conv_check(spec, BWI_DT_F32, err);
    if (st != BW_OK) return st;
    bwi_conv *c = bwi_calloc(1, sizeof *c);
    if (!c) return bwi_fail(err, BW_NOMEM, "out of memory for a convolution");
    c->spec = *spec;
    builder b = {.conv = c, .err = err};
    st = build(&b);
    dnn_md_free(&b.w);
    if (b.plain) dnnl_primitive_attr_destroy(b.plain);
    if (b.scaled) dnnl_primitive_attr_destroy(b.scaled);
    if (st == BW_OK)
        *out = c;
    else
        conv_destroy(&c);
    return st;
}

/* ---- Running ------------------------------------------------------------------------------------------------------------- */
static size_t conv_scratch(const bwi_conv *c)
{
    return c->scratchpad + c->staging;
}

/* One argument of a primitive; data NULL: the memory keeps the handle that it has. */
typedef struct argument {
    int index;
    dnnl_memory_t memory;
    const void *data;
} argument;

static bw_status run(bwi_conv *c, const task *t, const argument *arg, int n, void *scratch)
{
    dnnl_exec_arg_t exec[6];
    dnnl_status_t status = dnnl_success;
    assert(t->primitive && n < 6);
    for (int i = 0; i < n && status == dnnl_success; i++) {
        exec[i] = (dnnl_exec_arg_t){arg[i].index, arg[i].memory};
        if (arg[i].data) status = dnnl_memory_set_data_handle(arg[i].memory, (void *)(uintptr_t)arg[i].data);
    }
    if (t->scratchpad && status == dnnl_success) {
        exec[n++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, t->scratchpad};
        status = dnnl_memory_set_data_handle(t->scratchpad, scratch);
    }
    if (status == dnnl_success) status = dnnl_primitive_execute(t->primitive, c->stream, n, exec);
    if (status == dnnl_success) status = dnnl_stream_wait(c->stream);
    return status_of(status);
}

/* Reorders weights on one thread: they are so small that waking the others takes longer, far longer where cores are shared. */
static bw_status run_reorder(bwi_conv *c, const packed *p, const argument *arg, void *scratch)
{
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    bw_status st = run(c, &p->reorder, arg, 2, scratch);
    omp_set_num_threads(threads);
    return st;
}

static void *staging(const bwi_conv *c, void *scratch)
{
    return (char *)scratch + c->scratchpad;
}

/* Packs scale * w, passing through scratch unless scale is 1. */
static bw_status pack(bwi_conv *c, const packed *p, const float *restrict w, float scale, void *scratch)
{
    if (scale != 1.0f) {
        float *restrict scaled = staging(c, scratch);
        size_t n = bwi_conv_weights_size(&c->spec);
        for (size_t i = 0; i < n; i++) scaled[i] = w[i] * scale;
        w = scaled;
    }
    const argument arg[] = {{DNNL_ARG_FROM, c->w, w}, {DNNL_ARG_TO, p->memory, NULL}};
    return run_reorder(c, p, arg, scratch);
}

static bw_status conv_weights(bwi_conv *c, const void *w, double scale, double back_scale, void *scratch)
{
    c->scale = (float)scale;
    bw_status st = BW_OK;
    if (c->forward8)
        bwi_forward8_weights(c->forward8, w, scale);
    else if (!c->integers)
        st = pack(c, &c->w_forward, w, c->scale_memory ? 1.0f : c->scale, scratch);
    if (st != BW_OK) return st;
    if (c->integers)
        c->integers->weights(c->conv16, w, scale, back_scale);
    else if (c->spec.need_gsrc)
        st = pack(c, &c->w_backward, w, (float)back_scale, scratch);
    return st;
}

static bw_status conv_forward(bwi_conv *c, const void *src, void *dst, void *scratch)
{
    if (c->forward8) {
        bwi_forward8_run(c->forward8, src, dst, staging(c, scratch));
        return BW_OK;
    }
    if (c->integers) {
        c->integers->forward(c->conv16, src, dst, staging(c, scratch));
        return BW_OK;
    }
    const argument arg[] = {{DNNL_ARG_SRC, c->src, src},
                            {DNNL_ARG_WEIGHTS, c->w_forward.memory, NULL},
                            {DNNL_ARG_DST, c->dst, dst},
                            {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, c->scale_memory, NULL}};
    return run(c, &c->forward, arg, c->scale_memory ? 4 : 3, scratch);
}

static int conv_piece(const bwi_conv *c)
{
    return c->piece;
}

static size_t image_bytes(const bwi_conv *c, bwi_dtype type)
{
    return bwi_conv_src_size(&c->spec) / (size_t)c->spec.n * bwi_dtype_size(type);
}

static bw_status backward_data(bwi_conv *c, int first, const void *gdst, void *gsrc, void *scratch)
{
    const argument arg[] = {{DNNL_ARG_DIFF_DST, c->gdst, gdst},
                            {DNNL_ARG_WEIGHTS, c->w_backward.memory, NULL},
                            {DNNL_ARG_DIFF_SRC, c->gsrc, (char *)gsrc + (size_t)first * image_bytes(c, BWI_DT_F32)}};
    return run(c, &c->backward_data, arg, 3, scratch);
}

/* Adds part [n] to sum. */
static void add(float *restrict sum, const float *restrict part, size_t n)
{
    for (size_t i = 0; i < n; i++) sum[i] += part[i];
}

static bw_status backward_weights(bwi_conv *c, int first, const void *src, const void *gdst, void *gw, void *scratch)
{
    bw_status st;
    char *converted = staging(c, scratch), *part = converted + c->converted_bytes;
    const void *piece = (const char *)src + (size_t)first * image_bytes(c, c->spec.src);
    dnnl_memory_t operand = c->piece_src, sum = first ? c->gw_part : c->gw.memory;
    if (c->convert.primitive) {
        const argument arg[] = {{DNNL_ARG_FROM, operand, piece}, {DNNL_ARG_TO, c->converted, converted}};
        BWI_TRY(run(c, &c->convert, arg, 2, scratch));
        operand = c->converted;
        piece = converted;
    }
    const argument arg[] = {{DNNL_ARG_SRC, operand, piece},
                            {DNNL_ARG_DIFF_DST, c->piece_gdst, gdst},
                            {DNNL_ARG_DIFF_WEIGHTS, sum, first ? part : NULL}};
    BWI_TRY(run(c, &c->backward_weights, arg, 3, scratch));
    if (first) add(c->gw.data, (const float *)(const void *)part, c->gw_bytes / sizeof(float));
    if (first + c->piece < c->spec.n) return BW_OK;
    const argument out[] = {{DNNL_ARG_FROM, c->gw.memory, NULL}, {DNNL_ARG_TO, c->w, gw}};
    BWI_TRY(run_reorder(c, &c->gw, out, scratch));
fail:
    return st;
}

static bw_status conv_backward(bwi_conv *c, int first, const void *src, const void *gdst, void *gw, void *gsrc, void *scratch)
{
    if (c->integers) {
        c->integers->backward(c->conv16, first, c->piece, src, gdst, gw, gsrc, staging(c, scratch));
        return BW_OK;
    }
    bw_status st = gw ? backward_weights(c, first, src, gdst, gw, scratch) : BW_OK;
    if (gsrc && st == BW_OK) st = backward_data(c, first, gdst, gsrc, scratch);
    return st;
}

const bwi_compute bwi_compute_onednn = {"onednn",     BWI_DT_F32,   conv_create, conv_destroy, conv_scratch,
                                        conv_weights, conv_forward, conv_piece,  conv_backward};
