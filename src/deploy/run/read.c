/* Reads and checks packed files. */
#include "deploy/run/net.h"
#include <stdio.h>
#include <string.h>

const char *const bwr_kind_name[BWR_N_KINDS] = {
#define BWR_X(name) #name,
    BWR_KINDS(BWR_X)
#undef BWR_X
};

size_t bwr_weights(const bwr_layer *l, int ic)
{
    return (size_t)l->c * (size_t)l->kh * (size_t)l->kw * (size_t)(ic / l->groups);
}

bwk_conv_spec bwr_spec(const bwr_layer *l, const bwr_value *in)
{
    return (bwk_conv_spec){.ih = in->h,
                           .iw = in->w,
                           .ic = in->c,
                           .oh = l->h,
                           .ow = l->w,
                           .oc = l->c,
                           .kh = l->kh,
                           .kw = l->kw,
                           .stride = l->stride,
                           .pad = l->pad,
                           .groups = l->groups,
                           .wbits = l->wbits,
                           .abits = l->abits,
                           .asigned = l->asigned};
}

/* ---- Words --------------------------------------------------------------------------------------------------------------- */

/* The next piece of *text up to `separator`; false: nothing is left. */
static bool piece(bwr_text *text, char separator, bwr_text *out)
{
    if (!text->n) return false;
    size_t n = 0;
    while (n < text->n && text->s[n] != separator) n++;
    *out = (bwr_text){text->s, n};
    const size_t skip = n < text->n ? n + 1 : n;
    text->s += skip;
    text->n -= skip;
    return true;
}

/* A whole number from 0 to 2^20. */
static bool whole(bwr_text t, int *out)
{
    int v = 0;
    size_t i = 0;
    for (; i < t.n && t.s[i] >= '0' && t.s[i] <= '9' && v <= (1 << 20); i++) v = v * 10 + (t.s[i] - '0');
    *out = v;
    return t.n && i == t.n && v <= (1 << 20);
}

/* "3" or "3x5" into one or two numbers; a trailing z sets *z. */
static bool pair(bwr_text t, int *first, int *second, bool *z)
{
    bwr_text part;
    if (z && (*z = t.n && t.s[t.n - 1] == 'z')) t.n--;
    if (!piece(&t, 'x', &part) || !whole(part, first)) return false;
    if (second) *second = *first;
    return !t.n || (second && whole(t, second));
}

static bool parse_word(bwr_text word, bwr_layer *l)
{
    const bwr_text rest = {word.s + 1, word.n - 1};
    bwr_codes *c = &l->codes[l->n_codes < BWK_MAX_CODES ? l->n_codes : 0];
    switch (word.s[0]) {
    case 'i':
        return pair(rest, &l->in, NULL, NULL);
    case 'r':
        return pair(rest, &l->residual, NULL, NULL);
    case 'o':
        return pair(rest, &l->out, NULL, NULL);
    case 'q':
        if (l->n_codes == BWK_MAX_CODES) return false;
        l->n_codes++;
        return pair(rest, &c->value, NULL, &c->is_signed);
    case 'c':
        return pair(rest, &l->c, NULL, NULL);
    case 'h':
        return pair(rest, &l->h, &l->w, NULL);
    case 'k':
        return pair(rest, &l->kh, &l->kw, NULL);
    case 's':
        return pair(rest, &l->stride, NULL, NULL);
    case 'p':
        return pair(rest, &l->pad, NULL, NULL);
    case 'g':
        return pair(rest, &l->groups, NULL, NULL);
    case 'w':
        return pair(rest, &l->wbits, NULL, NULL);
    case 'a':
        return pair(rest, &l->abits, NULL, &l->asigned);
    case 'm':
        return pair(rest, &l->sum_mul, NULL, NULL);
    case 't':
        return pair(rest, &l->sum_add, NULL, NULL);
    case 'T':
        l->has_shift = true;
        return !rest.n;
    case 'R':
        l->relu = true;
        return !rest.n;
    case 'B':
        l->has_bias = true;
        return !rest.n;
    case 'N':
        l->has_norm = true;
        return !rest.n;
    default:
        return false;
    }
}

static bool parse_layer(bwr_text line, bool usual_pad, bwr_layer *l)
{
    bwr_text kind, name, word;
    int k = 0;
    *l = (bwr_layer){
        .in = -1, .residual = -1, .out = -1, .kh = 1, .kw = 1, .pad = -1, .stride = 1, .groups = 1, .sum_mul = 1, .scale = 1};
    if (!piece(&line, ' ', &kind) || !piece(&line, ' ', &name) || name.n >= BWR_NAME) return false;
    while (k < BWR_N_KINDS && !bwr_text_is(kind, bwr_kind_name[k])) k++;
    if (k == BWR_N_KINDS) return false;
    l->kind = (bwr_kind)k;
    memcpy(l->name, name.s, name.n);
    while (piece(&line, ' ', &word))
        if (!word.n || !parse_word(word, l)) return false;
    if (l->kind == BWR_conv && !l->abits) l->kind = BWR_conv_real;
    if (l->pad < 0) l->pad = usual_pad ? bwr_usual_pad(l) : 0;
    return true;
}

/* ---- Values and shapes --------------------------------------------------------------------------------------------------- */

/* Sets the shape of a layer's result; false: it has none. */
static bool infer_shape(bwr_layer *l, const bwr_value *in)
{
    const int64_t most = 1 << 28;
    const bool conv = l->kind == BWR_conv || l->kind == BWR_conv_real,
               pool = l->kind == BWR_avg_pool || l->kind == BWR_max_pool;
    if (l->kind != BWR_input) {
        if (l->kh < 1 || l->kw < 1 || l->stride < 1 || l->groups < 1 || l->h || (l->c && !conv && l->kind != BWR_shortcut_a))
            return false;
        if (!l->c) l->c = in->c;
        l->h = in->h;
        l->w = in->w;
    }
    if (l->kind == BWR_global_pool) l->h = l->w = 1;
    if (l->kind == BWR_shortcut_a) {
        l->h = (in->h - 1) / l->stride + 1;
        l->w = (in->w - 1) / l->stride + 1;
        if (l->c < in->c) return false;
    }
    if (conv || pool) {
        if (in->h + 2 * l->pad < l->kh || in->w + 2 * l->pad < l->kw || (pool && (l->pad >= l->kh || l->pad >= l->kw)))
            return false;
        l->h = (in->h + 2 * l->pad - l->kh) / l->stride + 1;
        l->w = (in->w + 2 * l->pad - l->kw) / l->stride + 1;
    }
    if (conv && (in->c % l->groups || l->c % l->groups || (int64_t)l->c * l->kh > most / l->kw / in->c ||
                 (int64_t)l->kh * l->kw > (1 << 16) / in->c))
        return false;
    return l->h >= 1 && l->w >= 1 && l->c >= 1 && (int64_t)l->h * l->w <= most / l->c;
}

static bool write_value(bwr_plan *p, int value, int layer, bool codes, bool is_signed)
{
    const bwr_layer *l = &p->layer[layer];
    if (value < 0 || value >= BWR_MAX_VALUES || p->value[value].known) return false;
    p->value[value] = (bwr_value){
        .h = l->h, .w = l->w, .c = l->c, .known = true, .codes = codes, .is_signed = is_signed, .first = layer, .last = layer};
    if (value >= p->n_values) p->n_values = value + 1;
    p->newest = value;
    return true;
}

/* The codes that come are codes of the bits that the kernel is chosen for, and no sum can overflow. */
static bool codes_fit(const bwr_layer *l, const bwr_value *in)
{
    if (l->wbits < 1 || l->wbits > 8 || l->abits < 1 || l->abits > 8 || in->is_signed != l->asigned) return false;
    const int top = 1 << (l->asigned ? l->abits - 1 : l->abits), least = l->asigned ? -top : 0;
    const int64_t taps = (int64_t)l->kh * l->kw * (in->c / l->groups), weight = l->wbits == 1 ? 1 : 1 << (l->wbits - 1);
    return in->lo >= least && in->hi < top && taps * top * (weight * l->sum_mul + l->sum_add) <= INT32_MAX;
}

static bool connect(bwr_plan *p, int layer)
{
    bwr_layer *l = &p->layer[layer];
    const bwr_value none = {0};
    const bool input = l->kind == BWR_input;
    if (!input && l->in < 0) l->in = p->newest;
    if (input != (layer == 0) || l->in >= BWR_MAX_VALUES || l->residual >= BWR_MAX_VALUES) return false;
    if (!input && !p->value[l->in].known) return false;
    const bwr_value *in = input ? &none : &p->value[l->in];
    if (!infer_shape(l, in)) return false;
    const bool codes = l->kind == BWR_conv;
    if (!input && in->codes != codes) return false;
    if (!codes && (l->abits != 0 || l->wbits < 0 || l->wbits > 8)) return false;
    if (l->sum_mul < 1 || l->sum_mul > 255 || l->sum_add < 0 || l->sum_add > 255) return false;
    if (codes && !codes_fit(l, in)) return false;
    if (!input) p->value[l->in].last = layer;
    if (l->residual >= 0) {
        bwr_value *r = &p->value[l->residual];
        if (!r->known || r->codes || r->h != l->h || r->w != l->w || r->c != l->c) return false;
        r->last = layer;
    }
    if (l->out < 0 && !l->n_codes) return false;
    if (l->out >= 0 && !write_value(p, l->out, layer, false, false)) return false;
    for (int i = 0; i < l->n_codes; i++)
        if (!write_value(p, l->codes[i].value, layer, true, l->codes[i].is_signed)) return false;
    return true;
}

/* ---- Tensors ------------------------------------------------------------------------------------------------------------- */

/* Takes n floats or codes from the front of a tensor; false: it has fewer left. */
static bool take_floats(bwr_tensor *t, size_t n, const float **out)
{
    if (t->n < n) return false;
    *out = t->data;
    t->data = *out + n;
    t->n -= n;
    return true;
}
static bool take_codes(bwr_tensor *t, size_t n, const uint8_t **out)
{
    if (t->n < n) return false;
    *out = t->data;
    t->data = *out + n;
    t->n -= n;
    return true;
}

/* lo <= hi are whole and codes fit a byte; NaN fits nothing. */
static bool grid_fits(const bwr_codes *c)
{
    const float least = c->is_signed ? -128 : 0, most = c->is_signed ? 127 : 255;
    return c->lo >= least && c->hi <= most && c->lo <= c->hi && (float)(int)c->lo == c->lo && (float)(int)c->hi == c->hi;
}

static bool attach(bwr_tensor *floats, bwr_tensor *codes, bwr_plan *p, int layer)
{
    bwr_layer *l = &p->layer[layer];
    const size_t c = (size_t)l->c;
    const float *v;
    if (l->kind == BWR_input) {
        if (!take_floats(floats, c, &l->mean) || !take_floats(floats, c, &l->deviation)) return false;
    }
    l->floats_at = p->n_floats - floats->n;
    l->codes_at = p->n_codes - codes->n;
    if (!take_floats(floats, 1, &v)) return false;
    l->scale = *v;
    if (l->has_shift) {
        if (!take_floats(floats, 1, &v)) return false;
        l->sum_shift = *v;
    }
    for (int i = 0; i < l->n_codes; i++) {
        bwr_codes *q = &l->codes[i];
        if (!take_floats(floats, 5, &v)) return false;
        q->sub = v[0], q->mul = v[1], q->add = v[2], q->lo = v[3], q->hi = v[4];
        if (!grid_fits(q)) return false;
        p->value[q->value].lo = (int)q->lo;
        p->value[q->value].hi = (int)q->hi;
    }
    if (l->has_bias && !take_floats(floats, c, &l->bias)) return false;
    if (l->has_norm && (!take_floats(floats, c, &l->a) || !take_floats(floats, c, &l->b))) return false;
    if (l->kind != BWR_conv && l->kind != BWR_conv_real) return true;
    const size_t n = bwr_weights(l, p->value[l->in].c);
    l->weight_bytes = l->wbits ? (n * (size_t)l->wbits + 7) / 8 : n * sizeof(float);
    return l->wbits ? take_codes(codes, l->weight_bytes, &l->weight) : take_floats(floats, n, &l->real_weight);
}

bw_status bwr_plan_read(bwr_plan *p, const void *file, size_t size, bw_error *err)
{
    bwr_header h;
    bwr_text kind, version, layers, line;
    bwr_tensor floats = {0}, codes = {0};
    memset(p, 0, sizeof *p);
    bw_status st = bwr_header_read(&h, file, size, err);
    if (st) return st;
    if (!bwr_header_meta(&h, "bitwright.kind", &kind) || !bwr_text_is(kind, "packed") ||
        !bwr_header_meta(&h, "bitwright.packed", &version) || !bwr_header_meta(&h, "bitwright.layers", &layers))
        return bwi_fail(err, BW_FORMAT, "it is not a packed model; make one with bitwright export");
    const bool first = bwr_text_is(version, "1");
    if (!first && !bwr_text_is(version, BWR_VERSION))
        return bwi_fail(err, BW_UNSUPPORTED, "it has version %.*s of the packed layout, this program knows %s; export it anew",
                        (int)(version.n < 20 ? version.n : 20), version.s, BWR_VERSION);
    if (!bwr_header_tensor(&h, "floats", &floats) || !bwr_header_tensor(&h, "codes", &codes) || floats.type != BWR_F32 ||
        codes.type != BWR_U8 || (uintptr_t)floats.data % sizeof(float))
        return bwi_fail(err, BW_FORMAT, "its tensors are missing or do not lie where floats can be read");
    p->n_floats = floats.n;
    p->n_codes = codes.n;
    while (piece(&layers, ';', &line)) {
        if (p->n_layers == BWR_MAX_LAYERS) return bwi_fail(err, BW_UNSUPPORTED, "it has more than %d layers", BWR_MAX_LAYERS);
        const int i = p->n_layers++;
        if (!parse_layer(line, !first, &p->layer[i])) return bwi_fail(err, BW_FORMAT, "layer number %d is not well-formed", i);
        if (!connect(p, i) || !attach(&floats, &codes, p, i))
            return bwi_fail(err, BW_FORMAT, "layer %s: its shape, values or tensors do not fit", p->layer[i].name);
    }
    if (!p->n_layers || floats.n || codes.n) return bwi_fail(err, BW_FORMAT, "its tensors are longer than its layers need");
    const bwr_layer *last = &p->layer[p->n_layers - 1];
    if (last->out < 0 || last->h != 1 || last->w != 1) return bwi_fail(err, BW_FORMAT, "its last layer does not make logits");
    p->image_h = p->layer[0].h, p->image_w = p->layer[0].w, p->image_c = p->layer[0].c;
    return BW_OK;
}

/* ---- Memory -------------------------------------------------------------------------------------------------------------- */

static size_t value_bytes(const bwr_value *v)
{
    const size_t n = (size_t)v->h * (size_t)v->w * (size_t)v->c;
    return ((v->codes ? n : n * sizeof(float)) + 63) / 64 * 64;
}

/* Each at the first gap among those placed before. */
size_t bwr_place_values(bwr_plan *p)
{
    size_t end = 0;
    for (int i = 0; i < p->n_values; i++) {
        bwr_value *v = &p->value[i];
        if (!v->known) continue;
        const size_t bytes = value_bytes(v);
        for (bool moved = true; moved;) {
            moved = false;
            for (int k = 0; k < i; k++) {
                const bwr_value *o = &p->value[k];
                const bool together = o->known && o->first <= v->last && v->first <= o->last;
                if (!together || v->offset >= o->offset + value_bytes(o) || o->offset >= v->offset + bytes) continue;
                v->offset = o->offset + value_bytes(o);
                moved = true;
            }
        }
        if (v->offset + bytes > end) end = v->offset + bytes;
    }
    return end;
}
