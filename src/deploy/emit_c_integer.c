/* C code without floats, for devices that have none. Nothing is approximated: codes and logits are the engine's.
 *
 * Where codes follow from one integer sum, the engine's whole float computation behind it is a monotone map from sums to codes, and becomes at most 15
 * levels for each channel, found by bisection over that computation itself. Else, where a residual is added or the value itself is wanted, floats
 * are computed in integers, with the same roundings (portable_integer.inc), and only what makes codes of them becomes levels. Pixels go through a table. */
#include "deploy/c_code.h"
#include "kernels/finish_scalar.h"
#include <math.h>
#include <string.h>

enum { MOST_LEVELS = 15 }; /* that each channel has */

static const char arithmetic[] =
#include "deploy/portable_integer.h" /* made from portable_integer.inc */
    ;

/* A float as portable_integer.inc holds it, and back. */
static int32_t bits_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u >> 31 ? -(int32_t)(u & 0x7fffffff) : (int32_t)u;
}
static float float_of(int32_t bits)
{
    const uint32_t u = bits < 0 ? (uint32_t)-bits | 0x80000000 : (uint32_t)bits;
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* A map from integers to codes: what the engine makes of a sum, or of the float that the integer stands for. */
typedef struct map {
    bwk_finish f; /* of one channel */
    const bwr_codes *q;
    bool value;
    int sign; /* the integer is multiplied by it first */
} map;

static int code_at(const map *m, int32_t x)
{
    bwk_finish f = m->f;
    uint8_t code = 0;
    const float value = float_of(m->sign * x);
    if (m->value) f.residual = &value;
    f.n_codes = 1;
    f.codes[0] = (bwk_codes){m->q->sub, m->q->mul, m->q->add, m->q->lo, m->q->hi, &code};
    bwk_finish_scalar(&f, 0, 0, m->value ? 0 : m->sign * x);
    return m->q->is_signed ? (int8_t)code : code;
}

/* Levels of a rising map over -most .. most: the least integer of each code above lo. What is never reached has a level beyond. */
static void add_levels(bwi_c_array *to, const map *m, int32_t most)
{
    const int lo = (int)m->q->lo, hi = (int)m->q->hi;
    for (int code = lo + 1; code <= hi; code++) {
        int64_t least = -(int64_t)most, end = (int64_t)most + 1;
        while (least < end) {
            const int64_t middle = least + (end - least) / 2;
            if (code_at(m, (int32_t)middle) >= code)
                end = middle;
            else
                least = middle + 1;
        }
        const int32_t level = (int32_t)(least > INT32_MAX ? INT32_MAX : least);
        bwi_c_add(to, &level, 1);
    }
}

/* Number of levels and least code; what follows are levels. */
static long add_rule(bwi_c_tables *t, const bwr_codes *q)
{
    return bwi_c_add(&t->levels, (const int32_t[]){(int32_t)(q->hi - q->lo), (int32_t)q->lo}, 2);
}

/* Codes of values. */
static bw_status value_rules(bwi_c_tables *t, const bwr_plan *p, int layer, bw_error *err)
{
    const bwr_layer *l = &p->layer[layer];
    const int32_t most = bits_of(0x1.fffffep127f);
    for (int i = 0; i < l->n_codes; i++) {
        const map m = {.f = {.channels = 1, .sum_mul = 1, .scale = 1}, .q = &l->codes[i], .value = true, .sign = 1};
        if (code_at(&m, -most) > code_at(&m, most))
            return bwi_fail(err, BW_UNSUPPORTED, "layer %s: codes that fall where values rise have no integer form", l->name);
        t->layer[layer].rule[i] = add_rule(t, &l->codes[i]);
        add_levels(&t->levels, &m, most);
    }
    return BW_OK;
}

/* Codes of sums, channel by channel. */
static void sum_rules(bwi_c_tables *t, const bwr_plan *p, int layer)
{
    const bwr_layer *l = &p->layer[layer];
    const int64_t weight = (l->wbits == 1 ? 1 : 1 << (l->wbits - 1)) * l->sum_mul + l->sum_add;
    const int64_t taps = (int64_t)(bwr_weights(l, p->value[l->in].c) / (size_t)l->c);
    const int32_t most =
        (int32_t)(taps * (1 << (l->asigned ? l->abits - 1 : l->abits)) * weight); /* read.c: no sum is larger */
    for (int i = 0; i < l->n_codes; i++) {
        t->layer[layer].rule[i] = add_rule(t, &l->codes[i]);
        for (int c = 0; c < l->c; c++) {
            map m = {.f = {.channels = 1, .sum_mul = 1, .scale = l->scale, .relu = l->relu}, .q = &l->codes[i], .sign = 1};
            if (l->bias) m.f.bias = l->bias + c;
            if (l->a) m.f.a = l->a + c, m.f.b = l->b + c;
            if (code_at(&m, -most) > code_at(&m, most)) m.sign = -1;
            bwi_c_add(&t->levels, &(const int32_t){m.sign}, 1);
            add_levels(&t->levels, &m, most);
        }
    }
}

/* What each of 256 pixel values becomes, as the engine has it: codes where nothing else is wanted, otherwise values. */
static bw_status input_rules(bwi_c_tables *t, const bwr_plan *p, bw_error *err)
{
    const bwr_layer *l = &p->layer[0];
    const bool direct = l->out < 0;
    for (int i = 0; direct && i < l->n_codes; i++) t->layer[0].rule[i] = (long)(t->codes.n + (size_t)i * 256 * (size_t)l->c);
    for (int i = 0; i < (direct ? l->n_codes : 1); i++)
        for (int c = 0; c < l->c; c++)
            for (int v = 0; v < 256; v++) {
                const float value = ((float)v / 255.0f - l->mean[c]) / l->deviation[c];
                const map m = {.f = {.channels = 1, .sum_mul = 1, .scale = 1}, .q = &l->codes[i], .value = true, .sign = 1};
                const uint8_t code = direct ? (uint8_t)code_at(&m, bits_of(value)) : 0;
                const long at = direct ? bwi_c_add(&t->codes, &code, 1) : bwi_c_add(&t->constants, &value, 1);
                if (!direct && !c && !v) t->layer[0].weights = at;
            }
    t->layer[0].direct = direct;
    return direct ? BW_OK : value_rules(t, p, 0, err);
}

static bool all_finite(const float *v, size_t n)
{
    for (size_t i = 0; v && i < n; i++)
        if (!isfinite(v[i])) return false;
    return true;
}

static bw_status rules(bwi_c_tables *t, const bwr_plan *p, int layer, bw_error *err)
{
    const bwr_layer *l = &p->layer[layer];
    const size_t c = (size_t)l->c, weights = l->real_weight ? l->weight_bytes / sizeof(float) : 0;
    bool direct = l->kind == BWR_conv && l->out < 0 && l->residual < 0 && l->sum_shift == 0;
    for (int i = 0; i < l->n_codes; i++) {
        const bwr_codes *q = &l->codes[i];
        if (!all_finite((const float[]){q->sub, q->mul, q->add}, 3))
            return bwi_fail(err, BW_NUMERIC, "layer %s: a quantizer of its result is not finite", l->name);
        direct = direct && q->hi - q->lo <= MOST_LEVELS;
    }
    if (!all_finite((const float[]){l->scale, l->sum_shift}, 2) || !all_finite(l->bias, c) || !all_finite(l->a, c) ||
        !all_finite(l->b, c) || !all_finite(l->real_weight, weights) || !all_finite(l->mean, c) || !all_finite(l->deviation, c))
        return bwi_fail(err, BW_NUMERIC, "layer %s: its weights or its batch norm are not finite", l->name);
    if (l->kind == BWR_input) return input_rules(t, p, err);
    if (!direct) return value_rules(t, p, layer, err);
    t->layer[layer].direct = true;
    sum_rules(t, p, layer);
    return BW_OK;
}

static void constant(bwi_text *t, float v)
{
    bwi_text_add(t, "%ld", (long)bits_of(v));
}

static const bwi_c_style style = {.real = "int32_t",
                                  .logit = "int32_t",
                                  .includes = "#include <stdint.h>\n",
                                  .arithmetic = arithmetic,
                                  .levels = true,
                                  .about_logits =
                                      " * No float is computed. A logit is a float in an integer: its bits without the "
                                      "sign, negative for negative numbers. They are\n"
                                      " * ordered as logits are, so the largest is the class; %s_fixed makes fixed point "
                                      "of one: its multiple of 2^-bits that is nearest,\n"
                                      " * for bits from 0 to 30; what does not fit becomes the largest or least number.\n",
                                  .declares = "int32_t %s_fixed(int32_t logit, int bits);\n",
                                  .defines = "\nint32_t %s_fixed(int32_t logit, int bits)\n{\n"
                                             "    word m;\n"
                                             "    const int up = unpack(logit, &m) - 150 + bits;\n"
                                             "    if (up > 7)\n        m = 0x7fffffffu;\n"
                                             "    else if (up >= 0)\n        m <<= up;\n"
                                             "    else\n        m = up < -25 ? 0 : ((m >> (-up - 1)) + 1u) >> 1;\n"
                                             "    return logit < 0 ? -(int32_t)m : (int32_t)m;\n}\n",
                                  .rules = rules,
                                  .constant = constant};

static bw_status write_c_integer(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    (void)m;
    return bwi_c_export(&style, lowered, path, err);
}

static bw_status sizes(const bwi_tensors *lowered, bw_export_sizes *out, bw_error *err)
{
    return bwi_c_sizes(&style, lowered, out, err);
}

const bwi_exporter bwi_exporter_c_integer = {
    .name = "c-integer",
    .summary = "the same without any float, for devices that compute in integers; its codes and logits are still the engine's",
    .suffix = ".c",
    .write = write_c_integer,
    .sizes = sizes,
};
