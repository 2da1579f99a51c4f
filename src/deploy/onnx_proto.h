/* ONNX models in memory: messages of ONNX's own schema, linked together and written. Everything a model holds lives in one chain of memory and
 * is freed as a whole. After a failed allocation `failed` stays set, names are empty and nothing else goes wrong: bwi_onnx_write reports it, so
 * that whoever builds a graph need not look at every step. */
#ifndef BWI_ONNX_PROTO_H
#define BWI_ONNX_PROTO_H
#include "base/status.h"
#include "deploy/onnx.pb-c.h" /* made from the schema of libonnx-dev */

/* Type of ONNX 1.16, which the schema here may be too old to name; two elements a byte, the first one in the low half. */
#define BWI_ONNX_INT4 ((Onnx__TensorProto__DataType)22)

typedef struct bwi_onnx {
    Onnx__ModelProto model;
    Onnx__GraphProto graph;
    void *own;
    bool failed;
} bwi_onnx;

/* Not to be copied afterwards: model points to graph. */
void bwi_onnx_init(bwi_onnx *o);
void bwi_onnx_free(bwi_onnx *o);
BW_MUST_USE bw_status bwi_onnx_write(const bwi_onnx *o, const char *path, bw_error *err);

/* printf into memory of the model. */
char *bwi_onnx_text(bwi_onnx *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Memory of the model; NULL on failure. */
void *bwi_onnx_alloc(bwi_onnx *o, size_t bytes);
/* What the model keeps of a whole: version of an operator set and, for ONNX's own, of the format that belongs to it ("" is ONNX's own), metadata, an input or output [dim] of floats; a dim of -1 is
 * the batch, "N". */
void bwi_onnx_opset(bwi_onnx *o, const char *domain, int64_t version);
void bwi_onnx_meta(bwi_onnx *o, const char *key, char *value);
void bwi_onnx_input(bwi_onnx *o, char *name, int ndim, const int64_t *dim);
void bwi_onnx_output(bwi_onnx *o, char *name, int ndim, const int64_t *dim);

/* Appends a node named like its only output, which is returned. in ends at NULL; domain "": ONNX's own. */
char *bwi_onnx_node(bwi_onnx *o, const char *domain, const char *op, char *out, char *const *in);
/* Attributes of the node that was appended last. */
void bwi_onnx_int(bwi_onnx *o, const char *name, int64_t v);
void bwi_onnx_ints(bwi_onnx *o, const char *name, size_t n, const int64_t *v);
void bwi_onnx_string(bwi_onnx *o, const char *name, const char *v);

/* Appends an initialiser unless there is one of this name, and returns the name. data [product of dim], two a byte of BWI_ONNX_INT4, is borrowed. */
char *bwi_onnx_tensor(bwi_onnx *o, char *name, Onnx__TensorProto__DataType type, int ndim, const int64_t *dim,
                      const void *data);
/* The same, copied and named after what it holds: a scalar, a zero point of 0, a list. */
char *bwi_onnx_scalar(bwi_onnx *o, float v);
char *bwi_onnx_zero(bwi_onnx *o, Onnx__TensorProto__DataType type);
char *bwi_onnx_list(bwi_onnx *o, char *name, int64_t n, const int64_t *v);
#endif
