#include "deploy/onnx_proto.h"
#include "base/alloc.h"
#include "base/file.h"
#include "io/io.h"
#include <bitwright/bitwright.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char nothing[1] = "";

/* ---- Memory -------------------------------------------------------------------------------------------------------------- */

void *bwi_onnx_alloc(bwi_onnx *o, size_t bytes)
{
    void *p = o->failed ? NULL : bwi_own_alloc(&o->own, bytes);
    if (!p) o->failed = true;
    return p;
}

static void *copy(bwi_onnx *o, const void *data, size_t bytes)
{
    void *p = bwi_onnx_alloc(o, bytes);
    if (p) memcpy(p, data, bytes);
    return p;
}

char *bwi_onnx_text(bwi_onnx *o, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *s = n < 0 ? NULL : bwi_onnx_alloc(o, (size_t)n + 1);
    if (!s) return nothing;
    va_start(args, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, args);
    va_end(args);
    return s;
}

/* Room for one element behind n: lists are full when their length is a power of two. */
static void *grow(bwi_onnx *o, void *list, size_t n, size_t size)
{
    if (n & (n - 1)) return list;
    void *more = bwi_onnx_alloc(o, (n ? 2 * n : 1) * size);
    if (more && n) memcpy(more, list, n * size);
    return more;
}

#define PUSH(o, list, n, item)                                                                                                 \
    do {                                                                                                                       \
        void *list_ = grow(o, list, n, sizeof *(list));                                                                        \
        if (!list_) break;                                                                                                     \
        (list) = list_;                                                                                                        \
        (list)[(n)++] = (item);                                                                                                \
    } while (0)

/* ---- The whole ----------------------------------------------------------------------------------------------------------- */

void bwi_onnx_init(bwi_onnx *o)
{
    *o = (bwi_onnx){.model = ONNX__MODEL_PROTO__INIT, .graph = ONNX__GRAPH_PROTO__INIT};
    o->model.graph = &o->graph;
    o->model.has_ir_version = true;
    o->model.producer_name = bwi_onnx_text(o, "bitwright");
    o->model.producer_version = bwi_onnx_text(o, "%s", BW_VERSION);
}

void bwi_onnx_free(bwi_onnx *o)
{
    bwi_own_free(&o->own);
    *o = (bwi_onnx){0};
}

bw_status bwi_onnx_write(const bwi_onnx *o, const char *path, bw_error *err)
{
    bwi_writer *w = NULL;
    const size_t n = o->failed ? 0 : onnx__model_proto__get_packed_size(&o->model);
    if (n > INT32_MAX)
        return bwi_fail(err, BW_UNSUPPORTED, "%s: an ONNX file holds at most 2 GiB, the network takes more", path);
    uint8_t *bytes = o->failed ? NULL : bwi_malloc(n);
    if (!bytes) return bwi_fail(err, BW_NOMEM, "no memory for an ONNX model");
    onnx__model_proto__pack(&o->model, bytes);
    bw_status st = bwi_writer_open(&w, path, err);
    if (!st) st = bwi_writer_add(w, bytes, n, err);
    if (!st)
        st = bwi_writer_commit(&w, err);
    else
        bwi_writer_abandon(&w);
    bwi_free(bytes);
    return st;
}

void bwi_onnx_opset(bwi_onnx *o, const char *domain, int64_t version)
{
    const Onnx__OperatorSetIdProto init = ONNX__OPERATOR_SET_ID_PROTO__INIT;
    Onnx__OperatorSetIdProto *s = copy(o, &init, sizeof init);
    if (!s) return;
    s->domain = bwi_onnx_text(o, "%s", domain);
    s->has_version = true;
    s->version = version;
    PUSH(o, o->model.opset_import, o->model.n_opset_import, s);
    if (!*domain) o->model.ir_version = version < 21 ? 7 : 10; /* of ONNX 1.8, as operator set 13; of ONNX 1.16 */
}

void bwi_onnx_meta(bwi_onnx *o, const char *key, char *value)
{
    const Onnx__StringStringEntryProto init = ONNX__STRING_STRING_ENTRY_PROTO__INIT;
    Onnx__StringStringEntryProto *e = copy(o, &init, sizeof init);
    if (!e) return;
    e->key = bwi_onnx_text(o, "%s", key);
    e->value = value;
    PUSH(o, o->model.metadata_props, o->model.n_metadata_props, e);
}

static Onnx__TensorShapeProto *shape(bwi_onnx *o, int ndim, const int64_t *dim)
{
    const Onnx__TensorShapeProto init = ONNX__TENSOR_SHAPE_PROTO__INIT;
    const Onnx__TensorShapeProto__Dimension dimension = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__INIT;
    Onnx__TensorShapeProto *s = copy(o, &init, sizeof init);
    for (int i = 0; s && i < ndim; i++) {
        Onnx__TensorShapeProto__Dimension *d = copy(o, &dimension, sizeof dimension);
        if (!d) return NULL;
        if (dim[i] < 0) {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
            d->dim_param = bwi_onnx_text(o, "N");
        } else {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            d->dim_value = dim[i];
        }
        PUSH(o, s->dim, s->n_dim, d);
    }
    return s;
}

static Onnx__ValueInfoProto *value(bwi_onnx *o, char *name, int ndim, const int64_t *dim)
{
    const Onnx__ValueInfoProto init = ONNX__VALUE_INFO_PROTO__INIT;
    const Onnx__TypeProto type = ONNX__TYPE_PROTO__INIT;
    const Onnx__TypeProto__Tensor tensor = ONNX__TYPE_PROTO__TENSOR__INIT;
    Onnx__ValueInfoProto *v = copy(o, &init, sizeof init);
    Onnx__TypeProto *t = copy(o, &type, sizeof type);
    Onnx__TypeProto__Tensor *x = copy(o, &tensor, sizeof tensor);
    if (!v || !t || !x) return NULL;
    x->has_elem_type = true;
    x->elem_type = ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT;
    x->shape = shape(o, ndim, dim);
    t->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    t->tensor_type = x;
    v->name = name;
    v->type = t;
    return v;
}

void bwi_onnx_input(bwi_onnx *o, char *name, int ndim, const int64_t *dim)
{
    Onnx__ValueInfoProto *v = value(o, name, ndim, dim);
    if (v) PUSH(o, o->graph.input, o->graph.n_input, v);
}

void bwi_onnx_output(bwi_onnx *o, char *name, int ndim, const int64_t *dim)
{
    Onnx__ValueInfoProto *v = value(o, name, ndim, dim);
    if (v) PUSH(o, o->graph.output, o->graph.n_output, v);
}

/* ---- Nodes --------------------------------------------------------------------------------------------------------------- */

char *bwi_onnx_node(bwi_onnx *o, const char *domain, const char *op, char *out, char *const *in)
{
    const Onnx__NodeProto init = ONNX__NODE_PROTO__INIT;
    Onnx__NodeProto *n = copy(o, &init, sizeof init);
    if (!n) return nothing;
    if (*domain) n->domain = bwi_onnx_text(o, "%s", domain);
    n->op_type = bwi_onnx_text(o, "%s", op);
    n->name = out;
    for (; *in; in++) PUSH(o, n->input, n->n_input, *in);
    PUSH(o, n->output, n->n_output, out);
    PUSH(o, o->graph.node, o->graph.n_node, n);
    return out;
}

static Onnx__AttributeProto *attribute(bwi_onnx *o, const char *name, Onnx__AttributeProto__AttributeType type)
{
    const Onnx__AttributeProto init = ONNX__ATTRIBUTE_PROTO__INIT;
    Onnx__AttributeProto *a = copy(o, &init, sizeof init);
    if (!a) return NULL;
    Onnx__NodeProto *n = o->graph.node[o->graph.n_node - 1];
    a->name = bwi_onnx_text(o, "%s", name);
    a->has_type = true;
    a->type = type;
    PUSH(o, n->attribute, n->n_attribute, a);
    return a;
}

void bwi_onnx_int(bwi_onnx *o, const char *name, int64_t v)
{
    Onnx__AttributeProto *a = attribute(o, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    if (!a) return;
    a->has_i = true;
    a->i = v;
}

void bwi_onnx_ints(bwi_onnx *o, const char *name, size_t n, const int64_t *v)
{
    Onnx__AttributeProto *a = attribute(o, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    if (!a || !(a->ints = copy(o, v, n * sizeof *v))) return;
    a->n_ints = n;
}

void bwi_onnx_string(bwi_onnx *o, const char *name, const char *v)
{
    Onnx__AttributeProto *a = attribute(o, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING);
    if (!a || !(a->s.data = copy(o, v, strlen(v)))) return;
    a->has_s = true;
    a->s.len = strlen(v);
}

/* ---- Initialisers -------------------------------------------------------------------------------------------------------- */

static size_t element_bits(Onnx__TensorProto__DataType type)
{
    if (type == BWI_ONNX_INT4) return 4;
    switch (type) {
    case ONNX__TENSOR_PROTO__DATA_TYPE__INT8:
    case ONNX__TENSOR_PROTO__DATA_TYPE__UINT8:
        return 8;
    case ONNX__TENSOR_PROTO__DATA_TYPE__INT64:
        return 64;
    default:
        return 32;
    }
}

char *bwi_onnx_tensor(bwi_onnx *o, char *name, Onnx__TensorProto__DataType type, int ndim, const int64_t *dim, const void *data)
{
    const Onnx__TensorProto init = ONNX__TENSOR_PROTO__INIT;
    size_t n = 1;
    for (size_t i = 0; i < o->graph.n_initializer; i++)
        if (!strcmp(o->graph.initializer[i]->name, name)) return o->graph.initializer[i]->name;
    Onnx__TensorProto *t = copy(o, &init, sizeof init);
    if (!t) return nothing;
    for (int i = 0; i < ndim; i++) n *= (size_t)dim[i];
    if (ndim && !(t->dims = copy(o, dim, (size_t)ndim * sizeof *dim))) return nothing;
    t->n_dims = (size_t)ndim;
    t->name = name;
    t->has_data_type = true;
    t->data_type = type;
    t->has_raw_data = true;
    t->raw_data = (ProtobufCBinaryData){(n * element_bits(type) + 7) / 8, (uint8_t *)(uintptr_t)data}; /* only read from */
    PUSH(o, o->graph.initializer, o->graph.n_initializer, t);
    return name;
}

char *bwi_onnx_scalar(bwi_onnx *o, float v)
{
    const float *data = copy(o, &v, sizeof v);
    return bwi_onnx_tensor(o, bwi_onnx_text(o, "float.%.9g", (double)v), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, 0, NULL, data);
}

char *bwi_onnx_zero(bwi_onnx *o, Onnx__TensorProto__DataType type)
{
    static const int8_t zero = 0;
    return bwi_onnx_tensor(o, bwi_onnx_text(o, "zero.%s", type == ONNX__TENSOR_PROTO__DATA_TYPE__INT8 ? "int8" : "uint8"), type,
                           0, NULL, &zero);
}

char *bwi_onnx_list(bwi_onnx *o, char *name, int64_t n, const int64_t *v)
{
    return bwi_onnx_tensor(o, name, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, 1, &n, copy(o, v, (size_t)n * sizeof *v));
}
