/* C code in float: each operation as the engine has it. Floats are written in hexadecimal, so that compilers read back the very numbers. */
#include "deploy/c_code.h"

static const char arithmetic[] =
#include "deploy/portable_float.h" /* made from portable_float.inc */
    ;

static bw_status rules(bwi_c_tables *t, const bwr_plan *p, int layer, bw_error *err)
{
    const bwr_layer *l = &p->layer[layer];
    bwi_c_layer *at = &t->layer[layer];
    (void)err;
    for (int i = 0; i < l->n_codes; i++) {
        const bwr_codes *q = &l->codes[i];
        at->rule[i] = bwi_c_add(&t->constants, (const float[]){q->sub, q->mul, q->add, q->lo, q->hi}, 5);
    }
    if (l->kind == BWR_input) {
        at->weights = bwi_c_add(&t->constants, l->mean, (size_t)l->c);
        bwi_c_add(&t->constants, l->deviation, (size_t)l->c);
    }
    return BW_OK;
}

static void constant(bwi_text *t, float v)
{
    bwi_text_add(t, "%af", (double)v);
}

static const bwi_c_style style = {.real = "float",
                                  .logit = "float",
                                  .includes = "",
                                  .arithmetic = arithmetic,
                                  .about_logits = "",
                                  .rules = rules,
                                  .constant = constant};

static bw_status write_c(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    (void)m;
    return bwi_c_export(&style, lowered, path, err);
}

static bw_status sizes(const bwi_tensors *lowered, bw_export_sizes *out, bw_error *err)
{
    return bwi_c_sizes(&style, lowered, out, err);
}

const bwi_exporter bwi_exporter_c = {
    .name = "c",
    .summary = "one C99 file and its header, for devices: no library, no allocation",
    .suffix = ".c",
    .write = write_c,
    .sizes = sizes,
};
