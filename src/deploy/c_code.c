#include "deploy/c_code.h"
#include "base/alloc.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char layer_part[] =
#include "deploy/portable_layer.h" /* made from portable_layer.inc */
    ;
static const char body[] =
#include "deploy/portable.h" /* made from portable.inc */
    ;

/* ---- Tables -------------------------------------------------------------------------------------------------------------- */

long bwi_c_add(bwi_c_array *a, const void *data, size_t n)
{
    const size_t at = a->n;
    if (at + n > a->room && !a->failed) {
        const size_t room = 2 * a->room + n;
        void *more = bwi_realloc(a->data, room * a->size);
        a->failed = !more;
        if (more) a->data = more, a->room = room;
    }
    if (a->failed) return 0;
    if (n) memcpy((char *)a->data + at * a->size, data, n * a->size);
    a->n += n;
    return (long)at;
}

/* A pool's factor, as the engine computes it. */
static float factor_of(const bwr_layer *l, const bwr_value *in)
{
    return l->kind == BWR_global_pool ? 1 / (float)((size_t)in->h * (size_t)in->w) : 1 / ((float)l->kh * (float)l->kw);
}

/* Constants of a layer whose values are computed. */
static void add_constants(bwi_c_tables *t, const bwr_plan *p, int layer)
{
    const bwr_layer *l = &p->layer[layer];
    bwi_c_layer *at = &t->layer[layer];
    const size_t c = (size_t)l->c;
    float factor = l->scale;
    if (l->kind == BWR_global_pool || l->kind == BWR_avg_pool) factor = factor_of(l, &p->value[l->in]);
    at->scale = bwi_c_add(&t->constants, &factor, 1);
    if (l->sum_shift != 0) at->shift = bwi_c_add(&t->constants, &l->sum_shift, 1);
    if (l->bias) at->bias = bwi_c_add(&t->constants, l->bias, c);
    if (l->a) {
        at->norm = bwi_c_add(&t->constants, l->a, c);
        bwi_c_add(&t->constants, l->b, c);
    }
    if (l->real_weight) at->weights = bwi_c_add(&t->constants, l->real_weight, l->weight_bytes / sizeof(float));
}

static bw_status make_tables(bwi_c_tables *t, const bwi_c_style *style, const bwr_plan *p, bw_error *err)
{
    t->constants.size = sizeof(float), t->codes.size = 1, t->levels.size = sizeof(int32_t);
    for (int i = 0; i < p->n_layers; i++) {
        const bwr_layer *l = &p->layer[i];
        bwi_c_layer *at = &t->layer[i];
        *at = (bwi_c_layer){.codes = -1, .weights = -1, .scale = -1, .shift = -1, .bias = -1, .norm = -1};
        bw_status st = style->rules(t, p, i, err);
        if (st) return st;
        if (!at->direct) add_constants(t, p, i);
        if (l->weight) at->codes = bwi_c_add(&t->codes, l->weight, l->weight_bytes);
    }
    if (t->constants.failed || t->codes.failed || t->levels.failed) return bwi_fail(err, BW_NOMEM, "no memory for C code");
    return BW_OK;
}

/* ---- Text ---------------------------------------------------------------------------------------------------------------- */

typedef struct emitter {
    bwi_writer *w;
    bwi_text text;
    bw_error *err;
} emitter;

static bw_status flush(emitter *e)
{
    bw_status st = e->text.failed ? bwi_fail(e->err, BW_NOMEM, "no memory for C code")
                                  : bwi_writer_add(e->w, e->text.s, e->text.len, e->err);
    bwi_free(e->text.s);
    e->text = (bwi_text){0};
    return st;
}

static bw_status emit_codes(emitter *e, const bwi_c_array *codes)
{
    bw_status st;
    bwi_text_add(&e->text, "static const unsigned char net_codes[] = {");
    for (size_t i = 0; i < codes->n; i++) {
        bwi_text_add(&e->text, i % 32 ? "%u," : "\n    %u,", ((const uint8_t *)codes->data)[i]);
        if (i % 4096 == 4095) BWI_TRY(flush(e));
    }
    bwi_text_add(&e->text, "%s};\n", codes->n ? "\n" : "0");
    return flush(e);
fail:
    return st;
}

static bw_status emit_constants(emitter *e, const bwi_c_style *style, const bwi_c_array *constants)
{
    bw_status st;
    bwi_text_add(&e->text, "static const real net_constants[] = {");
    for (size_t i = 0; i < constants->n; i++) {
        bwi_text_add(&e->text, i % 8 ? " " : "\n    ");
        style->constant(&e->text, ((const float *)constants->data)[i]);
        bwi_text_add(&e->text, ",");
        if (i % 4096 == 4095) BWI_TRY(flush(e));
    }
    bwi_text_add(&e->text, "%s};\n", constants->n ? "\n" : "0");
    return flush(e);
fail:
    return st;
}

static bw_status emit_levels(emitter *e, const bwi_c_array *levels)
{
    bw_status st;
    bwi_text_add(&e->text, "static const int32_t net_levels[] = {");
    for (size_t i = 0; i < levels->n; i++) {
        bwi_text_add(&e->text, i % 16 ? " %ld," : "\n    %ld,", (long)((const int32_t *)levels->data)[i]);
        if (i % 4096 == 4095) BWI_TRY(flush(e));
    }
    bwi_text_add(&e->text, "%s};\n", levels->n ? "\n" : "0");
    return flush(e);
fail:
    return st;
}

/* Offset of a value in the buffer, or -1. */
static long place(const bwr_plan *p, int value)
{
    return value < 0 ? -1 : (long)p->value[value].offset;
}

/* Bytes that a layer needs beside its values: the weights of one output channel. */
static size_t channel_bytes(const bwr_plan *p)
{
    size_t most = 0;
    for (int i = 0; i < p->n_layers; i++) {
        const bwr_layer *l = &p->layer[i];
        const size_t n = l->kind == BWR_conv ? bwr_weights(l, p->value[l->in].c) / (size_t)l->c * sizeof(int16_t) : 0;
        most = n > most ? n : most;
    }
    return most;
}

static bw_status emit_layers(emitter *e, const bwr_plan *p, const bwi_c_tables *t)
{
    bwi_text_add(&e->text, "\nenum { ");
    for (int k = 0; k < BWR_N_KINDS; k++) bwi_text_add(&e->text, "%sKIND_%s", k ? ", " : "", bwr_kind_name[k]);
    bwi_text_add(&e->text, " };\nstatic const layer net_layers[] = {\n");
    for (int i = 0; i < p->n_layers; i++) {
        const bwr_layer *l = &p->layer[i];
        const bwi_c_layer *at = &t->layer[i];
        const bwr_value none = {0}, *in = l->in < 0 ? &none : &p->value[l->in];
        const bool whole = l->kind == BWR_global_pool;
        bwi_text_add(&e->text, "    /* %s */ {KIND_%s, %ld, %ld, %ld, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, ", l->name,
                     bwr_kind_name[l->kind], place(p, l->in), place(p, l->residual), place(p, l->out), in->h, in->w,
                     l->kind == BWR_input ? l->c : in->c, l->h, l->w, l->c, whole ? in->h : l->kh, whole ? in->w : l->kw,
                     l->stride, l->pad, l->groups);
        bwi_text_add(&e->text, "%d, %d, %d, %d, %d, %ld, %ld, %ld, %ld, %ld, %ld, %d, %d, {", l->wbits, l->asigned, l->sum_mul,
                     l->sum_add, l->relu, at->codes, at->weights, at->scale, at->shift, at->bias, at->norm, at->direct,
                     l->n_codes);
        for (int q = 0; q < BWK_MAX_CODES; q++)
            bwi_text_add(&e->text, "%s%ld", q ? ", " : "", q < l->n_codes ? place(p, l->codes[q].value) : 0);
        bwi_text_add(&e->text, "}, {");
        for (int q = 0; q < BWK_MAX_CODES; q++) bwi_text_add(&e->text, "%s%ld", q ? ", " : "", at->rule[q]);
        bwi_text_add(&e->text, "}},\n");
    }
    bwi_text_add(&e->text, "};\n\n");
    return flush(e);
}

static void emit_run(emitter *e, const bwi_c_style *style, const bwr_plan *p, const char *name, size_t values, size_t buffer)
{
    const bwr_layer *last = &p->layer[p->n_layers - 1];
    bwi_text_add(&e->text, "\nconst unsigned long %s_buffer_bytes = %zu;\n\n", name, buffer);
    bwi_text_add(&e->text,
                 "void %s_run(const unsigned char *image, %s *logits, void *buffer)\n{\n"
                 "    const real *last = (const real *)(const void *)((const char *)buffer + %ld);\n    int i;\n"
                 "    run(image, buffer, (short *)(void *)((char *)buffer + %zu));\n"
                 "    for (i = 0; i < %d; i++) logits[i] = last[i];\n}\n",
                 name, style->logit, place(p, last->out), values, last->c);
    if (style->defines) bwi_text_add(&e->text, style->defines, name);
}

static bw_status write_header(const char *path, const bwi_c_style *style, const char *name, const bwr_plan *p, size_t buffer,
                              size_t constants, bw_error *err)
{
    emitter e = {.err = err};
    char upper[BWR_NAME];
    bw_status st;
    size_t i = 0;
    for (; name[i]; i++) upper[i] = (char)toupper((unsigned char)name[i]);
    upper[i] = 0;
    BWI_TRY(bwi_writer_open(&e.w, path, err));
    bwi_text_add(&e.text,
                 "/* Generated by bitwright. %zu bytes of constants, %zu bytes of memory while it runs. */\n#ifndef "
                 "%s_H\n#define %s_H\n%s\n"
                 "#define %s_HEIGHT %d\n#define %s_WIDTH %d\n#define %s_CHANNELS %d\n#define %s_CLASSES %d\n#define "
                 "%s_BUFFER_BYTES %zu\n\n",
                 constants, buffer, upper, upper, style->includes, upper, p->image_h, upper, p->image_w, upper, p->image_c,
                 upper, p->layer[p->n_layers - 1].c, upper, buffer);
    bwi_text_add(&e.text,
                 "/* image [HEIGHT][WIDTH][CHANNELS], in; logits [CLASSES], out; buffer of BUFFER_BYTES bytes, aligned as a "
                 "float, no contents\n"
                 " * expected. May run at once in several threads, each with its own buffer.%s",
                 *style->about_logits ? "\n" : " */\n");
    if (*style->about_logits) {
        bwi_text_add(&e.text, style->about_logits, name);
        bwi_text_add(&e.text, " */\n");
    }
    bwi_text_add(&e.text, "void %s_run(const unsigned char *image, %s *logits, void *buffer);\n", name, style->logit);
    if (style->declares) bwi_text_add(&e.text, style->declares, name);
    bwi_text_add(&e.text, "extern const unsigned long %s_buffer_bytes; /* BUFFER_BYTES */\n\n#endif\n", name);
    BWI_TRY(flush(&e));
    return bwi_writer_commit(&e.w, err);
fail:
    bwi_free(e.text.s);
    bwi_writer_abandon(&e.w);
    return st;
}

static bw_status write_source(const char *path, const bwi_c_style *style, const char *name, const bwr_plan *p,
                              const bwi_c_tables *t, size_t values, bw_error *err)
{
    emitter e = {.err = err};
    bw_status st;
    BWI_TRY(bwi_writer_open(&e.w, path, err));
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    bwi_text_add(
        &e.text,
        "/* Generated by bitwright: a network as C99. */\n#include \"%.*sh\"\n#include <stddef.h>\n\ntypedef %s real;\n",
        (int)strlen(file) - 1, file, style->real);
    BWI_TRY(emit_constants(&e, style, &t->constants));
    BWI_TRY(emit_codes(&e, &t->codes));
    if (style->levels) BWI_TRY(emit_levels(&e, &t->levels));
    bwi_text_add(&e.text, "\n%s", layer_part);
    BWI_TRY(emit_layers(&e, p, t));
    bwi_text_add(&e.text, "%s%s", style->arithmetic, body);
    emit_run(&e, style, p, name, values, values + channel_bytes(p));
    BWI_TRY(flush(&e));
    return bwi_writer_commit(&e.w, err);
fail:
    bwi_free(e.text.s);
    bwi_writer_abandon(&e.w);
    return st;
}

/* The file's name without folder and ".c", as an identifier. */
static bw_status name_of(const char *path, char name[BWR_NAME], bw_error *err)
{
    const char *slash = strrchr(path, '/'), *from = slash ? slash + 1 : path;
    const size_t n = strlen(from);
    if (n < 3 || n >= BWR_NAME || strcmp(from + n - 2, ".c") != 0)
        return bwi_fail(err, BW_ARG, "%s: C code is written to a file whose name ends in .c, with a header beside it", path);
    for (size_t i = 0; i < n - 2; i++) name[i] = isalnum((unsigned char)from[i]) ? from[i] : '_';
    name[n - 2] = 0;
    if (isdigit((unsigned char)name[0])) name[0] = '_';
    return BW_OK;
}

static size_t table_bytes(const bwi_c_tables *t)
{
    return t->constants.n * sizeof(float) + t->codes.n + t->levels.n * sizeof(int32_t);
}

/* A network laid out and its tables. */
typedef struct job {
    uint8_t *image;
    bwr_plan *p;
    bwi_c_tables *t;
    size_t values; /* bytes of the buffer that values take; the rest is for weights */
} job;

static void end(job *j)
{
    if (j->t) bwi_free(j->t->constants.data), bwi_free(j->t->codes.data), bwi_free(j->t->levels.data);
    bwi_free(j->t);
    bwi_free(j->image);
    bwi_free(j->p);
}

/* To be ended even when it fails. */
static bw_status begin(job *j, const bwi_c_style *style, const bwi_tensors *lowered, bw_error *err)
{
    size_t size;
    bw_status st;
    *j = (job){.p = bwi_calloc(1, sizeof *j->p), .t = bwi_calloc(1, sizeof *j->t)};
    if (!j->p || !j->t) return bwi_fail(err, BW_NOMEM, "no memory for C code");
    BWI_TRY(bwi_safetensors_image(&j->image, &size, lowered, err));
    BWI_TRY(bwr_plan_read(j->p, j->image, size, err));
    BWI_TRY(make_tables(j->t, style, j->p, err));
    j->values = bwr_place_values(j->p);
fail:
    return st;
}

static size_t buffer_bytes(const job *j)
{
    return j->values + channel_bytes(j->p);
}

bw_status bwi_c_sizes(const bwi_c_style *style, const bwi_tensors *lowered, bw_export_sizes *out, bw_error *err)
{
    job j;
    bw_status st = begin(&j, style, lowered, err);
    if (!st) *out = (bw_export_sizes){.flash_bytes = table_bytes(j.t), .ram_bytes = buffer_bytes(&j)};
    end(&j);
    return st;
}

bw_status bwi_c_export(const bwi_c_style *style, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    char name[BWR_NAME], *header = NULL;
    job j;
    bw_status st;
    BWI_TRY(begin(&j, style, lowered, err));
    BWI_TRY(name_of(path, name, err));
    header = bwi_strdup(path);
    if (!header) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for C code"));
    header[strlen(header) - 1] = 'h';
    BWI_TRY(write_header(header, style, name, j.p, buffer_bytes(&j), table_bytes(j.t), err));
    BWI_TRY(write_source(path, style, name, j.p, j.t, j.values, err));
fail:
    bwi_free(header);
    end(&j);
    return st;
}
