/* QONNX: ONNX with the operators Quant and BipolarQuant, which carry any number of bits, for compilers to FPGAs and the like.
 * Pappalardo et al., QONNX: Representing Arbitrary-Precision Quantized Neural Networks, 2022.
 *   Quant(x, scale, zeropt, bitwidth) = scale * (round(clip(x / scale + zeropt)) - zeropt), half to even
 *   BipolarQuant(x, scale) = scale * (x >= 0 ? 1 : -1)
 * A scale of 1 and a zero point of 0 tell such compilers that the tensor holds integers of that many bits. */
#include "deploy/onnx_net.h"

#define DOMAIN "qonnx.custom_op.general"

static char *quant(bwi_onnx *o, char *out, char *x, int bits, bool is_signed)
{
    bwi_onnx_node(o, DOMAIN, "Quant", out,
                  (char *[]){x, bwi_onnx_scalar(o, 1), bwi_onnx_scalar(o, 0), bwi_onnx_scalar(o, (float)bits), NULL});
    bwi_onnx_int(o, "signed", is_signed);
    bwi_onnx_int(o, "narrow", 0);
    bwi_onnx_string(o, "rounding_mode", "ROUND");
    return out;
}

/* At the fewest bits that hold the codes. */
static char *codes(bwi_onnx *o, const char *name, char *x, const bwr_codes *q)
{
    int bits = 1;
    while ((float)(1 << (q->is_signed ? bits - 1 : bits)) <= q->hi || -(float)(1 << (bits - 1)) > q->lo) bits++;
    const float top = (float)(1 << (q->is_signed ? bits - 1 : bits));
    if (q->lo > (q->is_signed ? -top : 0) || q->hi < top - 1)
        x = bwi_onnx_node(o, "", "Clip", bwi_onnx_text(o, "%s/clipped", name),
                          (char *[]){x, bwi_onnx_scalar(o, q->lo), bwi_onnx_scalar(o, q->hi), NULL});
    return quant(o, bwi_onnx_text(o, "%s/codes", name), x, bits, q->is_signed);
}

static char *weights(bwi_onnx *o, const bwr_layer *l, int ndim, const int64_t *dim, int8_t *code)
{
    size_t n = 1;
    for (int i = 0; i < ndim; i++) n *= (size_t)dim[i];
    float *real = bwi_onnx_alloc(o, n * sizeof *real);
    for (size_t i = 0; real && i < n; i++) real[i] = (float)code[i];
    char *x = bwi_onnx_tensor(o, bwi_onnx_text(o, "%s.weight", l->name), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, ndim, dim, real);
    char *out = bwi_onnx_text(o, "%s/weight", l->name);
    if (l->wbits == 1)
        x = bwi_onnx_node(o, DOMAIN, "BipolarQuant", out, (char *[]){x, bwi_onnx_scalar(o, 1), NULL});
    else
        x = quant(o, out, x, l->wbits, true);
    if (l->sum_mul != 1)
        x = bwi_onnx_node(o, "", "Mul", bwi_onnx_text(o, "%s/weight_mul", l->name),
                          (char *[]){x, bwi_onnx_scalar(o, (float)l->sum_mul), NULL});
    if (l->sum_add)
        x = bwi_onnx_node(o, "", "Add", bwi_onnx_text(o, "%s/weight_add", l->name),
                          (char *[]){x, bwi_onnx_scalar(o, (float)l->sum_add), NULL});
    return x;
}

static bw_status write_qonnx(const bwi_model *m, const bwi_tensors *lowered, const char *path, bw_error *err)
{
    static const bwi_onnx_style style = {.domain = DOMAIN, .codes = codes, .weights = weights};
    return bwi_onnx_export(&style, m, lowered, path, err);
}

const bwi_exporter bwi_exporter_qonnx = {
    .name = "qonnx",
    .summary = "an ONNX model with QONNX's Quant and BipolarQuant at their bits, for compilers to FPGAs",
    .suffix = ".onnx",
    .write = write_qonnx,
};
