/* Element types and shapes. Activations are NHWC. Convolution weights live in memory as [Cout, Kh, Kw, Cin/groups] (OHWI) and in files as
 * PyTorch's [Cout, Cin/groups, Kh, Kw] (OIHW), so that a Python user can load_state_dict a checkpoint. */
#ifndef BWI_TENSOR_H
#define BWI_TENSOR_H
#include <stddef.h>
#include <stdint.h>

typedef enum bwi_dtype {
    BWI_DT_F32,
    BWI_DT_F64,
    BWI_DT_F16,
    BWI_DT_BF16,
    BWI_DT_U8,
    BWI_DT_I8,
    BWI_DT_I16,
    BWI_DT_I32,
    BWI_DT_I64,
    BWI_DT_BOOL,
    BWI_DT_COUNT
} bwi_dtype;
size_t bwi_dtype_size(bwi_dtype t);
const char *bwi_dtype_name(bwi_dtype t);               /* safetensors' name: "F32", "BF16", "U8" */
int bwi_dtype_from_name(const char *name, size_t len); /* -1: unknown */

/* Element i of an array of F32 or F64, for loops that need not be fast. */
static inline double bwi_real_get(bwi_dtype t, const void *x, size_t i)
{
    return t == BWI_DT_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}
static inline void bwi_real_put(bwi_dtype t, void *x, size_t i, double v)
{
    if (t == BWI_DT_F64)
        ((double *)x)[i] = v;
    else
        ((float *)x)[i] = (float)v;
}

/* Shape of one image's activation; the batch is a property of the execution. */
typedef struct bwi_shape {
    int h, w, c;
} bwi_shape;
static inline size_t bwi_shape_size(bwi_shape s)
{
    return (size_t)s.h * (size_t)s.w * (size_t)s.c;
}

#define BWI_MAX_DIMS 8
/* A named tensor in a file or on its way to one. */
typedef struct bwi_tensor {
    char *name;
    bwi_dtype dtype;
    int ndim;
    int64_t dim[BWI_MAX_DIMS];
    const void *data; /* contiguous, row-major; owned by the list that holds the tensor or borrowed, as that says */
    size_t bytes;
} bwi_tensor;

float bwi_f16_to_f32(uint16_t h);
static inline float bwi_bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}
#endif
