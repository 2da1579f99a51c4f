#include "tensor/tensor.h"
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtype[BWI_DT_COUNT] = {
    [BWI_DT_F32] = {"F32", 4}, [BWI_DT_F64] = {"F64", 8},   [BWI_DT_F16] = {"F16", 2}, [BWI_DT_BF16] = {"BF16", 2},
    [BWI_DT_U8] = {"U8", 1},   [BWI_DT_I8] = {"I8", 1},     [BWI_DT_I16] = {"I16", 2}, [BWI_DT_I32] = {"I32", 4},
    [BWI_DT_I64] = {"I64", 8}, [BWI_DT_BOOL] = {"BOOL", 1},
};

size_t bwi_dtype_size(bwi_dtype t)
{
    return dtype[t].size;
}
const char *bwi_dtype_name(bwi_dtype t)
{
    return dtype[t].name;
}

int bwi_dtype_from_name(const char *name, size_t len)
{
    for (int i = 0; i < BWI_DT_COUNT; i++)
        if (strlen(dtype[i].name) == len && !memcmp(dtype[i].name, name, len)) return i;
    return -1;
}

/* IEEE binary16: sign, 5 bits of exponent (bias 15), 10 of mantissa. Every value is exact in binary32. */
float bwi_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    union {
        uint32_t u;
        float f;
    } v;
    if (exponent == 31) { /* infinity, NaN */
        v.u = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent) {
        v.u = sign | (exponent + 127 - 15) << 23 | mantissa << 13;
    } else { /* zero, subnormal: mantissa * 2^-24 */
        v.f = (float)mantissa * 0x1p-24f;
        v.u |= sign;
    }
    return v.f;
}
