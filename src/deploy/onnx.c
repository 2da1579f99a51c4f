/* ONNX with QuantizeLinear and DequantizeLinear: runs in ONNX Runtime and what else reads ONNX. Weights are INT8 initialisers that hold the codes,
 * whatever their bits: four bits as INT4 would need operator set 21, which few runtimes have on every device. Codes of activations are UINT8
 * (INT8 when signed); QuantizeLinear rounds half to even, as training does, and saturates, so a Clip stands before it where the trained range
 * is narrower than the type. */
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

/* Integers that fit INT8 stand there as they are. Others (2 * code + 1 of 8-bit codes) are made from the codes. */
static char *weights(bwi_onnx *o, const bwr_layer *l, int ndim, const int64_t *dim, int8_t *code)
{
    const int hi = l->wbits == 1 ? 1 : (1 << (l->wbits - 1)) - 1, lo = l->wbits == 1 ? -1 : -hi - 1;
    const bool fit = l->sum_mul * lo + l->sum_add >= -128 && l->sum_mul * hi + l->sum_add <= 127;
    size_t n = 1;
    for (int i = 0; i < ndim; i++) n *= (size_t)dim[i];
    for (size_t i = 0; fit && i < n; i++) code[i] = (int8_t)(l->sum_mul * code[i] + l->sum_add);
    char *x = bwi_onnx_tensor(o, bwi_onnx_text(o, "%s.weight", l->name), ONNX__TENSOR_PROTO__DATA_TYPE__INT8, ndim, dim, code);
    x = bwi_onnx_node(o, "", "DequantizeLinear", bwi_onnx_text(o, "%s/weight", l->name),
                      (char *[]){x, bwi_onnx_scalar(o, fit ? 1 : (float)l->sum_mul),
                                 bwi_onnx_zero(o, ONNX__TENSOR_PROTO__DATA_TYPE__INT8), NULL});
    if (!fit && l->sum_add)
        x = bwi_onnx_node(o, "", "Add", bwi_onnx_text(o, "%s/integers", l->name),
                          (char *[]){x, bwi_onnx_scalar(o, (float)l->sum_add), NULL});
    return x;
}

static bw_status write_onnx(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    static const bwi_onnx_style style = {.codes = codes, .weights = weights};
    return bwi_onnx_export(&style, m, lowered, path, err);
}

const bwi_exporter bwi_exporter_onnx = {
    .name = "onnx",
    .summary = "an ONNX model with QuantizeLinear and DequantizeLinear, for ONNX Runtime and compilers",
    .suffix = ".onnx",
    .write = write_onnx,
};
