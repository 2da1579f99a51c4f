/* Runs ONNX and QONNX graphs of the exporters on one image: each operator as its specification states it, plainly, every tensor as floats. For
 * tests, which have no ONNX Runtime; tests/golden/check_onnx.py asks that one. */
#ifndef ONNX_RUN_H
#define ONNX_RUN_H
#include "deploy/onnx.pb-c.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct onnx_tensor {
    const char *name;
    size_t ndim;
    int64_t dim[8];
    size_t n;
    float *v;
} onnx_tensor;

typedef struct onnx_run {
    onnx_tensor t[2000];
    size_t n;
} onnx_run;

static onnx_tensor *onnx_find(onnx_run *r, const char *name)
{
    for (size_t i = 0; i < r->n; i++)
        if (!strcmp(r->t[i].name, name)) return &r->t[i];
    return NULL;
}

static onnx_tensor *onnx_new(onnx_run *r, const char *name, size_t ndim, const int64_t *dim)
{
    assert_true(r->n < sizeof r->t / sizeof *r->t && ndim <= 8);
    if (onnx_find(r, name)) fail_msg("%s is made twice", name);
    onnx_tensor *t = &r->t[r->n++];
    *t = (onnx_tensor){.name = name, .ndim = ndim, .n = 1};
    for (size_t i = 0; i < ndim; i++) t->n *= (size_t)(t->dim[i] = dim[i]);
    assert_non_null(t->v = calloc(t->n ? t->n : 1, sizeof *t->v));
    return t;
}

/* An initialiser; its bytes are as many as its shape asks for. */
static void onnx_load(onnx_run *r, const Onnx__TensorProto *p)
{
    onnx_tensor *t = onnx_new(r, p->name, p->n_dims, p->dims);
    size_t size = 4;
    if (p->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__INT8 || p->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__UINT8) size = 1;
    if (p->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__INT64) size = 8;
    if (p->data_type == 22) { /* INT4: two elements a byte, the first one in the low half */
        assert_int_equal(p->raw_data.len, (t->n + 1) / 2);
        for (size_t i = 0; i < t->n; i++) {
            const int half = p->raw_data.data[i / 2] >> (i % 2 ? 4 : 0) & 15;
            t->v[i] = (float)(half < 8 ? half : half - 16);
        }
        return;
    }
    assert_int_equal(p->raw_data.len, t->n * size);
    for (size_t i = 0; i < t->n; i++) {
        const uint8_t *at = p->raw_data.data + i * size;
        int64_t whole = 0;
        if (size == 4)
            memcpy(&t->v[i], at, 4);
        else if (size == 8)
            memcpy(&whole, at, 8), t->v[i] = (float)whole;
        else
            t->v[i] = p->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__INT8 ? (float)*(const int8_t *)at : (float)*at;
    }
}

static const Onnx__AttributeProto *onnx_attribute(const Onnx__NodeProto *n, const char *name)
{
    for (size_t i = 0; i < n->n_attribute; i++)
        if (!strcmp(n->attribute[i]->name, name)) return n->attribute[i];
    return NULL;
}

static int64_t onnx_get(const Onnx__NodeProto *n, const char *name, size_t i)
{
    const Onnx__AttributeProto *a = onnx_attribute(n, name);
    if (!a) fail_msg("%s: no attribute %s", n->name, name);
    return a->n_ints ? a->ints[i] : a->i;
}

/* The element of b that goes with element i of a: b is a scalar, like a, one value a channel, or one channel for all. */
static float onnx_with(const onnx_tensor *a, const onnx_tensor *b, size_t i)
{
    if (b->n == 1) return b->v[0];
    if (b->n == a->n) return b->v[i];
    const size_t inner = a->ndim == 4 ? (size_t)(a->dim[2] * a->dim[3]) : 1;
    if (b->ndim == 4 && b->dim[1] == 1) {
        assert_int_equal(b->n, inner);
        return b->v[i % inner];
    }
    assert_int_equal(b->n, a->dim[1]);
    assert_int_equal(b->ndim, a->ndim == 4 ? 3 : 1);
    return b->v[i / inner % b->n];
}

/* Operators of one element; false: op is none. */
static bool onnx_element(const Onnx__NodeProto *n, onnx_tensor *const *in, size_t i, float *out)
{
    const char *op = n->op_type;
    const float x = in[0]->v[i], y = n->n_input > 1 ? onnx_with(in[0], in[1], i) : 0;
    if (!strcmp(op, "Add"))
        *out = x + y;
    else if (!strcmp(op, "Sub"))
        *out = x - y;
    else if (!strcmp(op, "Mul"))
        *out = x * y;
    else if (!strcmp(op, "Relu"))
        *out = x < 0 ? 0 : x;
    else if (!strcmp(op, "Clip"))
        *out = fminf(fmaxf(x, y), in[2]->v[0]);
    else if (!strcmp(op, "QuantizeLinear")) {
        const bool is_signed = !strcmp(in[2]->name, "zero.int8");
        *out = fminf(fmaxf(rintf(x / y) + in[2]->v[0], is_signed ? -128 : 0), is_signed ? 127 : 255);
    } else if (!strcmp(op, "DequantizeLinear"))
        *out = (x - (n->n_input > 2 ? in[2]->v[0] : 0)) * y;
    else if (!strcmp(op, "Quant")) {
        const bool is_signed = onnx_get(n, "signed", 0);
        const float top = exp2f(in[3]->v[0] - (float)is_signed);
        assert_false(is_signed && in[3]->v[0] == 1);
        *out = (rintf(fminf(fmaxf(x / y + in[2]->v[0], is_signed ? -top : 0), top - 1)) - in[2]->v[0]) * y;
    } else if (!strcmp(op, "BipolarQuant"))
        *out = x >= 0 ? y : -y;
    else if (!strcmp(op, "Flatten"))
        *out = x;
    else
        return false;
    return true;
}

/* Convolutions and pools: one element of the result. */
static float onnx_window(const Onnx__NodeProto *n, onnx_tensor *const *in, size_t o, int64_t oy, int64_t ox, size_t group_in,
                         size_t first)
{
    const onnx_tensor *x = in[0];
    const bool conv = !strcmp(n->op_type, "Conv"), most = !strcmp(n->op_type, "MaxPool");
    const int64_t kh = onnx_get(n, "kernel_shape", 0), kw = onnx_get(n, "kernel_shape", 1);
    float sum = most ? -INFINITY : 0;
    for (size_t c = 0; c < group_in; c++)
        for (int64_t ky = 0; ky < kh; ky++)
            for (int64_t kx = 0; kx < kw; kx++) {
                const int64_t y = oy * onnx_get(n, "strides", 0) + ky - onnx_get(n, "pads", 0),
                              z = ox * onnx_get(n, "strides", 1) + kx - onnx_get(n, "pads", 1);
                if (y < 0 || y >= x->dim[2] || z < 0 || z >= x->dim[3]) continue;
                const float v = x->v[((first + c) * (size_t)x->dim[2] + (size_t)y) * (size_t)x->dim[3] + (size_t)z];
                if (most)
                    sum = fmaxf(sum, v);
                else
                    sum += conv ? v * in[1]->v[((o * group_in + c) * (size_t)kh + (size_t)ky) * (size_t)kw + (size_t)kx] : v;
            }
    return conv || most ? sum : sum * (1 / ((float)kh * (float)kw));
}

static void onnx_windows(onnx_run *r, const Onnx__NodeProto *n, onnx_tensor *const *in)
{
    const bool conv = !strcmp(n->op_type, "Conv");
    const size_t c = (size_t)in[0]->dim[1], groups = conv ? (size_t)onnx_get(n, "group", 0) : c;
    const size_t oc = conv ? (size_t)in[1]->dim[0] : c;
    int64_t dim[4] = {1, (int64_t)oc, 0, 0};
    if (!strcmp(n->op_type, "AveragePool")) assert_int_equal(onnx_get(n, "count_include_pad", 0), 1);
    if (conv) assert_int_equal(in[1]->dim[1], c / groups);
    for (size_t k = 0; k < 2; k++) {
        if (conv) assert_int_equal(in[1]->dim[2 + k], onnx_get(n, "kernel_shape", k));
        dim[2 + k] =
            (in[0]->dim[2 + k] + onnx_get(n, "pads", k) + onnx_get(n, "pads", k + 2) - onnx_get(n, "kernel_shape", k)) /
                onnx_get(n, "strides", k) +
            1;
    }
    onnx_tensor *out = onnx_new(r, n->output[0], 4, dim);
    for (size_t i = 0; i < out->n; i++) {
        const size_t o = i / (size_t)(dim[2] * dim[3]);
        out->v[i] = onnx_window(n, in, o, (int64_t)i / dim[3] % dim[2], (int64_t)i % dim[3], c / groups,
                                o / (oc / groups) * (c / groups));
    }
}

/* Slice over rows and columns with steps, and Pad of channels: element by element from where it stood. */
static void onnx_move(onnx_run *r, const Onnx__NodeProto *n, onnx_tensor *const *in)
{
    const onnx_tensor *x = in[0];
    const bool slice = !strcmp(n->op_type, "Slice");
    const int64_t step = slice ? (int64_t)in[4]->v[0] : 1, front = slice ? 0 : (int64_t)in[1]->v[1];
    int64_t dim[4] = {1, x->dim[1], (x->dim[2] + step - 1) / step, (x->dim[3] + step - 1) / step};
    if (slice) {
        assert_true(in[1]->v[0] == 0 && in[1]->v[1] == 0 && in[2]->v[0] > 1e9f && in[2]->v[1] > 1e9f);
        assert_true(in[3]->v[0] == 2 && in[3]->v[1] == 3 && in[4]->v[1] == (float)step);
    } else {
        dim[1] += front + (int64_t)in[1]->v[5];
    }
    onnx_tensor *out = onnx_new(r, n->output[0], 4, dim);
    for (int64_t i = 0; i < (int64_t)out->n; i++) {
        const int64_t c = i / (dim[2] * dim[3]) - front, y = i / dim[3] % dim[2] * step, z = i % dim[3] * step;
        out->v[i] = c < 0 || c >= x->dim[1] ? 0 : x->v[(c * x->dim[2] + y) * x->dim[3] + z];
    }
}

static void onnx_mean(onnx_run *r, const Onnx__NodeProto *n, const onnx_tensor *x)
{
    const size_t map = (size_t)(x->dim[2] * x->dim[3]);
    onnx_tensor *out = onnx_new(r, n->output[0], 4, (int64_t[]){1, x->dim[1], 1, 1});
    for (size_t c = 0; c < out->n; c++) {
        for (size_t i = 0; i < map; i++) out->v[c] += x->v[c * map + i];
        out->v[c] *= 1 / (float)map;
    }
}

static void onnx_product(onnx_run *r, const Onnx__NodeProto *n, onnx_tensor *const *in)
{
    assert_int_equal(onnx_get(n, "transB", 0), 1);
    assert_int_equal(in[0]->dim[1], in[1]->dim[1]);
    const size_t k = (size_t)in[1]->dim[1];
    onnx_tensor *out = onnx_new(r, n->output[0], 2, (int64_t[]){1, in[1]->dim[0]});
    for (size_t o = 0; o < out->n; o++)
        for (size_t i = 0; i < k; i++) out->v[o] += in[0]->v[i] * in[1]->v[o * k + i];
}

static void onnx_step(onnx_run *r, const Onnx__NodeProto *n)
{
    onnx_tensor *in[8];
    assert_true(n->n_input >= 1 && n->n_input <= 8 && n->n_output == 1);
    for (size_t i = 0; i < n->n_input; i++)
        if (!(in[i] = onnx_find(r, n->input[i]))) fail_msg("%s reads %s, which nobody has made", n->name, n->input[i]);
    const char *op = n->op_type;
    if (!strcmp(op, "Conv") || !strcmp(op, "MaxPool") || !strcmp(op, "AveragePool"))
        onnx_windows(r, n, in);
    else if (!strcmp(op, "Slice") || !strcmp(op, "Pad"))
        onnx_move(r, n, in);
    else if (!strcmp(op, "GlobalAveragePool"))
        onnx_mean(r, n, in[0]);
    else if (!strcmp(op, "Gemm"))
        onnx_product(r, n, in);
    else {
        const bool flat = !strcmp(op, "Flatten");
        const int64_t two[2] = {1, (int64_t)in[0]->n};
        onnx_tensor *out = onnx_new(r, n->output[0], flat ? 2 : in[0]->ndim, flat ? two : in[0]->dim);
        for (size_t i = 0; i < out->n; i++)
            if (!onnx_element(n, in, i, &out->v[i])) fail_msg("%s: there is no operator %s", n->name, op);
    }
}

/* Runs the graph on image [1,c,h,w] and leaves every tensor in r, to be freed with onnx_end. */
static void onnx_begin(onnx_run *r, const Onnx__GraphProto *g, const float *image)
{
    r->n = 0;
    for (size_t i = 0; i < g->n_initializer; i++) onnx_load(r, g->initializer[i]);
    const Onnx__TensorShapeProto *s = g->input[0]->type->tensor_type->shape;
    onnx_tensor *x =
        onnx_new(r, g->input[0]->name, 4, (int64_t[]){1, s->dim[1]->dim_value, s->dim[2]->dim_value, s->dim[3]->dim_value});
    memcpy(x->v, image, x->n * sizeof *image);
    for (size_t i = 0; i < g->n_node; i++) onnx_step(r, g->node[i]);
}

static void onnx_end(onnx_run *r)
{
    for (size_t i = 0; i < r->n; i++) free(r->t[i].v);
    r->n = 0;
}
#endif
