/* ONNX with QuantizeLinear and DequantizeLinear: runs in ONNX Runtime and what else reads ONNX. Weights are initialisers that hold the codes:
 * INT4 up to four bits, otherwise INT8. (INT2, of operator set 25, is too young for runtimes.) INT4 needs operator set 21 and ONNX Runtime 1.19;
 * the form onnx13 writes all weights as INT8 for older ones. Codes of activations are UINT8 (INT8 when signed); QuantizeLinear rounds half to
 * even, as training does, and saturates, so a Clip stands before it where the trained range is narrower than the type. */
#include "deploy/onnx_net.h"

static char *codes(bwi_onnx *o, const char *name, char *x, const bwr_codes *q)
{
    const float least = q->is_signed ? -128 : 0, most = q->is_signed ? 127 : 255;
    char *one = bwi_onnx_scalar(o, 1);
    char *zero = bwi_onnx_zero(o, q->is_signed ? ONNX__TENSOR_PROTO__DATA_TYPE__INT8 : ONNX__TENSOR_PROTO__DATA_TYPE__UINT8);
    if (q->lo > least || q->hi < most)
        x = bwi_onnx_node(o, "", "Clip", bwi_onnx_text(o, "%s/clipped", name),
                          (char *[]){x, bwi_onnx_scalar(o, q->lo), bwi_onnx_scalar(o, q->hi), NULL});
    x = bwi_onnx_node(o, "", "QuantizeLinear", bwi_onnx_text(o, "%s/codes", name), (char *[]){x, one, zero, NULL});
    return bwi_onnx_node(o, "", "DequantizeLinear", bwi_onnx_text(o, "%s/values", name), (char *[]){x, one, zero, NULL});
}

/* Two codes a byte, the first one in the low half; in place. */
static void halve(int8_t *code, size_t n)
{
    for (size_t i = 0; i < n; i += 2) {
        const unsigned second = i + 1 < n ? (unsigned)code[i + 1] : 0;
        code[i / 2] = (int8_t)(uint8_t)(((unsigned)code[i] & 15) | (second & 15) << 4);
    }
}

/* Integers that fit the type stand there as they are. Others (2 * code + 1 of 8-bit codes) are made from the codes. */
static char *write_weights(bwi_onnx *o, const bwr_layer *l, int ndim, const int64_t *dim, int8_t *code, bool four_bits)
{
    const int hi = l->wbits == 1 ? 1 : (1 << (l->wbits - 1)) - 1, lo = l->wbits == 1 ? -1 : -hi - 1, most = four_bits ? 7 : 127;
    const bool fit = l->sum_mul * lo + l->sum_add >= -most - 1 && l->sum_mul * hi + l->sum_add <= most;
    size_t n = 1;
    for (int i = 0; i < ndim; i++) n *= (size_t)dim[i];
    for (size_t i = 0; fit && i < n; i++) code[i] = (int8_t)(l->sum_mul * code[i] + l->sum_add);
    if (four_bits) halve(code, n);
    char *x = bwi_onnx_tensor(o, bwi_onnx_text(o, "%s.weight", l->name),
                              four_bits ? BWI_ONNX_INT4 : ONNX__TENSOR_PROTO__DATA_TYPE__INT8, ndim, dim, code);
    char *scale = bwi_onnx_scalar(o, fit ? 1 : (float)l->sum_mul);
    char *zero = four_bits ? NULL : bwi_onnx_zero(o, ONNX__TENSOR_PROTO__DATA_TYPE__INT8); /* none is one of 0 */
    x = bwi_onnx_node(o, "", "DequantizeLinear", bwi_onnx_text(o, "%s/weight", l->name), (char *[]){x, scale, zero, NULL});
    if (!fit && l->sum_add)
        x = bwi_onnx_node(o, "", "Add", bwi_onnx_text(o, "%s/integers", l->name),
                          (char *[]){x, bwi_onnx_scalar(o, (float)l->sum_add), NULL});
    return x;
}

static char *weights(bwi_onnx *o, const bwr_layer *l, int ndim, const int64_t *dim, int8_t *code)
{
    return write_weights(o, l, ndim, dim, code, l->wbits <= 4);
}

static char *weights13(bwi_onnx *o, const bwr_layer *l, int ndim, const int64_t *dim, int8_t *code)
{
    return write_weights(o, l, ndim, dim, code, false);
}

static bw_status write_onnx(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    static const bwi_onnx_style style = {.four_bits = true, .codes = codes, .weights = weights};
    return bwi_onnx_export(&style, m, lowered, path, err);
}

static bw_status write_onnx13(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    static const bwi_onnx_style style = {.codes = codes, .weights = weights13};
    return bwi_onnx_export(&style, m, lowered, path, err);
}

const bwi_exporter bwi_exporter_onnx = {
    .name = "onnx",
    .summary = "an ONNX model with QuantizeLinear and DequantizeLinear, for ONNX Runtime and compilers",
    .suffix = ".onnx",
    .write = write_onnx,
};

const bwi_exporter bwi_exporter_onnx13 = {
    .name = "onnx13",
    .summary = "the same for runtimes without INT4: operator set 13, weights of any bits as INT8",
    .suffix = ".onnx",
    .write = write_onnx13,
};
