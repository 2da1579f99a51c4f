/* C code: one self-contained C99 file and its header. Weights stay packed in constant arrays, memory is one buffer that the caller brings, and
 * nothing is called but code in the file. portable.inc is its body; tables of layers, codes and floats stand before it. Floats are written in
 * hexadecimal, so that compilers read back the very numbers. */
#include "base/alloc.h"
#include "base/file.h"
#include "deploy/export.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char body[] =
#include "deploy/portable.h" /* made from portable.inc */
    ;

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

static bw_status emit_codes(emitter *e, const uint8_t *codes, size_t n)
{
    bw_status st;
    bwi_text_add(&e->text, "static const unsigned char net_codes[] = {");
    for (size_t i = 0; i < n; i++) {
        bwi_text_add(&e->text, i % 32 ? "%u," : "\n    %u,", codes[i]);
        if (i % 4096 == 4095) BWI_TRY(flush(e));
    }
    bwi_text_add(&e->text, "%s};\n", n ? "\n" : "0");
    return flush(e);
fail:
    return st;
}

static bw_status emit_floats(emitter *e, const float *v, size_t n)
{
    bw_status st;
    bwi_text_add(&e->text, "static const float net_floats[] = {");
    for (size_t i = 0; i < n; i++) {
        bwi_text_add(&e->text, i % 8 ? " %af," : "\n    %af,", (double)v[i]);
        if (i % 4096 == 4095) BWI_TRY(flush(e));
    }
    bwi_text_add(&e->text, "\n};\n\n");
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

static bw_status emit_layers(emitter *e, const bwr_plan *p)
{
    bwi_text_add(&e->text, "\nenum { ");
    for (int k = 0; k < BWR_N_KINDS; k++) bwi_text_add(&e->text, "%sKIND_%s", k ? ", " : "", bwr_kind_name[k]);
    bwi_text_add(&e->text, " };\nstatic const layer net_layers[] = {\n");
    for (int i = 0; i < p->n_layers; i++) {
        const bwr_layer *l = &p->layer[i];
        const bwr_value none = {0}, *in = l->in < 0 ? &none : &p->value[l->in];
        bwi_text_add(&e->text,
                     "    /* %s */ {KIND_%s, %ld, %ld, %ld, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, "
                     "%d, %d, %d, %ld, %ld, %d, {",
                     l->name, bwr_kind_name[l->kind], place(p, l->in), place(p, l->residual), place(p, l->out), in->h, in->w,
                     l->kind == BWR_input ? l->c : in->c, l->h, l->w, l->c, l->kh, l->kw, l->stride, l->pad, l->groups,
                     l->wbits, l->asigned, l->sum_mul, l->sum_add, l->relu, l->has_shift, l->has_bias, l->has_norm,
                     (long)l->codes_at, (long)l->floats_at, l->n_codes);
        for (int q = 0; q < BWK_MAX_CODES; q++)
            bwi_text_add(&e->text, "%s%ld", q ? ", " : "", q < l->n_codes ? place(p, l->codes[q].value) : 0);
        bwi_text_add(&e->text, "}},\n");
    }
    bwi_text_add(&e->text, "};\n\n");
    return flush(e);
}

static void emit_run(emitter *e, const bwr_plan *p, const char *name, size_t values, size_t buffer)
{
    bwi_text_add(&e->text, "const unsigned long %s_buffer_bytes = %zu;\n\n", name, buffer);
    bwi_text_add(
        &e->text,
        "void %s_run(const unsigned char *image, float *logits, void *buffer)\n{\n"
        "    short *weights = (short *)(void *)((char *)buffer + %zu);\n    size_t i;\n"
        "    for (i = 0; i < sizeof net_layers / sizeof *net_layers; i++) {\n"
        "        const layer *l = &net_layers[i];\n        switch (l->kind) {\n"
        "        case KIND_conv:\n            conv(l, buffer, weights);\n            break;\n"
        "        case KIND_conv_real:\n            conv_real(l, buffer);\n            break;\n"
        "        case KIND_max_pool:\n            pool(l, buffer, 1, 1);\n            break;\n"
        "        case KIND_avg_pool:\n            pool(l, buffer, 0, 1 / ((float)l->kh * (float)l->kw));\n            break;\n"
        "        case KIND_global_pool: {\n            layer whole = *l;\n            whole.kh = l->ih;\n            whole.kw "
        "= l->iw;\n"
        "            pool(&whole, buffer, 0, 1 / (float)(l->ih * l->iw));\n            break;\n        }\n"
        "        default:\n            pick(l, buffer, image);\n        }\n    }\n"
        "    for (i = 0; i < %d; i++) logits[i] = ((const float *)(const void *)((const char *)buffer + %ld))[i];\n}\n",
        name, values, p->layer[p->n_layers - 1].c, place(p, p->layer[p->n_layers - 1].out));
}

static bw_status write_header(const char *path, const char *name, const bwr_plan *p, size_t buffer, size_t constants,
                              bw_error *err)
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
                 "%s_H\n#define %s_H\n\n"
                 "#define %s_HEIGHT %d\n#define %s_WIDTH %d\n#define %s_CHANNELS %d\n#define %s_CLASSES %d\n#define "
                 "%s_BUFFER_BYTES %zu\n\n"
                 "/* image [HEIGHT][WIDTH][CHANNELS], in; logits [CLASSES], out; buffer of BUFFER_BYTES bytes, aligned as a "
                 "float, no contents\n"
                 " * expected. May run at once in several threads, each with its own buffer. */\n"
                 "void %s_run(const unsigned char *image, float *logits, void *buffer);\n"
                 "extern const unsigned long %s_buffer_bytes; /* BUFFER_BYTES */\n\n#endif\n",
                 constants, buffer, upper, upper, upper, p->image_h, upper, p->image_w, upper, p->image_c, upper,
                 p->layer[p->n_layers - 1].c, upper, buffer, name, name);
    BWI_TRY(flush(&e));
    return bwi_writer_commit(&e.w, err);
fail:
    bwi_free(e.text.s);
    bwi_writer_abandon(&e.w);
    return st;
}

static bw_status write_source(const char *path, const char *name, const bwr_plan *p, const bwi_tensors *lowered, size_t values,
                              bw_error *err)
{
    emitter e = {.err = err};
    const bwi_tensor *floats = bwi_tensors_find(lowered, "floats"), *codes = bwi_tensors_find(lowered, "codes");
    bw_status st;
    BWI_TRY(bwi_writer_open(&e.w, path, err));
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    bwi_text_add(&e.text, "/* Generated by bitwright: a network as C99. */\n#include \"%.*sh\"\n#include <stddef.h>\n\n",
                 (int)strlen(file) - 1, file);
    BWI_TRY(emit_floats(&e, floats->data, bwi_tensor_numel(floats)));
    BWI_TRY(emit_codes(&e, codes->data, bwi_tensor_numel(codes)));
    bwi_text_add(&e.text, "\n%s", body);
    BWI_TRY(emit_layers(&e, p));
    emit_run(&e, p, name, values, values + channel_bytes(p));
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

static bw_status write_c(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    char name[BWR_NAME], *header = NULL;
    uint8_t *image = NULL;
    size_t size;
    bwr_plan *p = bwi_calloc(1, sizeof *p);
    bw_status st;
    (void)m;
    if (!p) return bwi_fail(err, BW_NOMEM, "no memory for C code");
    BWI_TRY(name_of(path, name, err));
    BWI_TRY(bwi_safetensors_image(&image, &size, lowered, err));
    BWI_TRY(bwr_plan_read(p, image, size, err));
    const size_t values = bwr_place_values(p);
    const bwi_tensor *floats = bwi_tensors_find(lowered, "floats"), *codes = bwi_tensors_find(lowered, "codes");
    header = bwi_strdup(path);
    if (!header) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for C code"));
    header[strlen(header) - 1] = 'h';
    BWI_TRY(write_header(header, name, p, values + channel_bytes(p), floats->bytes + codes->bytes, err));
    BWI_TRY(write_source(path, name, p, lowered, values, err));
fail:
    bwi_free(header);
    bwi_free(image);
    bwi_free(p);
    return st;
}

const bwi_exporter bwi_exporter_c = {
    .name = "c",
    .summary = "one C99 file and its header, for devices: no library, no allocation",
    .suffix = ".c",
    .write = write_c,
};
