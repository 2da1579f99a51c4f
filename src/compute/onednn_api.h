/* oneDNN 2.x and 3.x behind one set of names: only what convolutions need. The two differ in that a memory descriptor is a plain
 * struct in 2.x and an owned handle in 3.x, and that 2.x has operation descriptors between descriptors and primitives. All other
 * calls are spelled alike. Every dnn_md is zero-initialised by its owner and given back with dnn_md_free. */
#ifndef BWI_ONEDNN_API_H
#define BWI_ONEDNN_API_H
#include "base/cpu.h"
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>
#include <stddef.h>

typedef dnnl_memory_desc_t dnn_md;

/* An engine that uses no more instruction sets than bwi_cpu_limit allows; without a limit also those that only oneDNN knows, such as AMX.
 * oneDNN asks once in a process, before it makes anything. */
static inline dnnl_status_t dnn_engine_make(dnnl_engine_t *engine)
{
#if defined(__x86_64__)
    const unsigned flags = bwi_cpu_flags();
    if (!(flags & BWI_CPU_MORE))
        (void)dnnl_set_max_cpu_isa(flags & BWI_CPU_VNNI     ? dnnl_cpu_isa_avx512_core_vnni
                                   : flags & BWI_CPU_AVX512 ? dnnl_cpu_isa_avx512_core
                                   : flags & BWI_CPU_AVX2   ? dnnl_cpu_isa_avx2
                                                            : dnnl_cpu_isa_sse41);
#endif
    return dnnl_engine_create(engine, dnnl_cpu, 0);
}

/* Geometry of a convolution. */
typedef struct dnn_conv {
    dnnl_engine_t engine;
    dnn_md src, weights, dst; /* or their gradients; borrowed */
    dnnl_dims_t stride, pad;  /* vertical, horizontal; symmetric padding */
} dnn_conv;

#if DNNL_VERSION_MAJOR >= 3

static inline dnnl_status_t dnn_md_make(dnn_md *md, int ndims, const dnnl_dims_t dims, dnnl_data_type_t type,
                                        dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(md, ndims, dims, type, tag);
}
/* A copy of the descriptor that pd chose for `what`. */
static inline dnnl_status_t dnn_md_query(dnn_md *md, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    return dnnl_memory_desc_clone(md, dnnl_primitive_desc_query_md(pd, what, 0));
}
static inline void dnn_md_free(dnn_md *md)
{
    if (*md) dnnl_memory_desc_destroy(*md);
    *md = NULL;
}
static inline size_t dnn_md_bytes(const dnn_md *md)
{
    return dnnl_memory_desc_get_size(*md);
}
static inline dnnl_status_t dnn_memory_make(dnnl_memory_t *memory, const dnn_md *md, dnnl_engine_t engine, void *data)
{
    return dnnl_memory_create(memory, *md, engine, data);
}
static inline dnnl_status_t dnn_reorder_pd(dnnl_primitive_desc_t *pd, const dnn_md *from, const dnn_md *to,
                                           dnnl_engine_t engine, const_dnnl_primitive_attr_t attr)
{
    return dnnl_reorder_primitive_desc_create(pd, *from, engine, *to, engine, attr);
}
static inline dnnl_status_t dnn_forward_pd(dnnl_primitive_desc_t *pd, const dnn_conv *c, dnnl_prop_kind_t kind,
                                           const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t dense = {0};
    return dnnl_convolution_forward_primitive_desc_create(pd, c->engine, kind, dnnl_convolution_direct, c->src, c->weights,
                                                          NULL, c->dst, c->stride, dense, c->pad, c->pad, attr);
}
static inline dnnl_status_t dnn_backward_data_pd(dnnl_primitive_desc_t *pd, const dnn_conv *c, const_dnnl_primitive_desc_t hint,
                                                 const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t dense = {0};
    return dnnl_convolution_backward_data_primitive_desc_create(pd, c->engine, dnnl_convolution_direct, c->src, c->weights,
                                                                c->dst, c->stride, dense, c->pad, c->pad, hint, attr);
}
static inline dnnl_status_t dnn_backward_weights_pd(dnnl_primitive_desc_t *pd, const dnn_conv *c,
                                                    const_dnnl_primitive_desc_t hint, const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t dense = {0};
    return dnnl_convolution_backward_weights_primitive_desc_create(pd, c->engine, dnnl_convolution_direct, c->src, c->weights,
                                                                   NULL, c->dst, c->stride, dense, c->pad, c->pad, hint, attr);
}
static inline dnnl_status_t dnn_append_multiply(dnnl_post_ops_t ops, const dnn_md *factor)
{
    return dnnl_post_ops_append_binary(ops, dnnl_binary_mul, *factor);
}

#else

static inline dnnl_status_t dnn_md_make(dnn_md *md, int ndims, const dnnl_dims_t dims, dnnl_data_type_t type,
                                        dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(md, ndims, dims, type, tag);
}
/* A copy of the descriptor that pd chose for `what`. */
static inline dnnl_status_t dnn_md_query(dnn_md *md, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    const dnnl_memory_desc_t *chosen = dnnl_primitive_desc_query_md(pd, what, 0);
    if (!chosen) return dnnl_invalid_arguments;
    *md = *chosen;
    return dnnl_success;
}
static inline void dnn_md_free(dnn_md *md)
{
    (void)md;
}
static inline size_t dnn_md_bytes(const dnn_md *md)
{
    return dnnl_memory_desc_get_size(md);
}
static inline dnnl_status_t dnn_memory_make(dnnl_memory_t *memory, const dnn_md *md, dnnl_engine_t engine, void *data)
{
    return dnnl_memory_create(memory, md, engine, data);
}
static inline dnnl_status_t dnn_reorder_pd(dnnl_primitive_desc_t *pd, const dnn_md *from, const dnn_md *to,
                                           dnnl_engine_t engine, const_dnnl_primitive_attr_t attr)
{
    return dnnl_reorder_primitive_desc_create(pd, from, engine, to, engine, attr);
}
static inline dnnl_status_t dnn_forward_pd(dnnl_primitive_desc_t *pd, const dnn_conv *c, dnnl_prop_kind_t kind,
                                           const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t op;
    dnnl_status_t status = dnnl_convolution_forward_desc_init(&op, kind, dnnl_convolution_direct, &c->src, &c->weights, NULL,
                                                              &c->dst, c->stride, c->pad, c->pad);
    return status == dnnl_success ? dnnl_primitive_desc_create(pd, &op, attr, c->engine, NULL) : status;
}
static inline dnnl_status_t dnn_backward_data_pd(dnnl_primitive_desc_t *pd, const dnn_conv *c, const_dnnl_primitive_desc_t hint,
                                                 const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t op;
    dnnl_status_t status = dnnl_convolution_backward_data_desc_init(&op, dnnl_convolution_direct, &c->src, &c->weights, &c->dst,
                                                                    c->stride, c->pad, c->pad);
    return status == dnnl_success ? dnnl_primitive_desc_create(pd, &op, attr, c->engine, hint) : status;
}
static inline dnnl_status_t dnn_backward_weights_pd(dnnl_primitive_desc_t *pd, const dnn_conv *c,
                                                    const_dnnl_primitive_desc_t hint, const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t op;
    dnnl_status_t status = dnnl_convolution_backward_weights_desc_init(&op, dnnl_convolution_direct, &c->src, &c->weights, NULL,
                                                                       &c->dst, c->stride, c->pad, c->pad);
    return status == dnnl_success ? dnnl_primitive_desc_create(pd, &op, attr, c->engine, hint) : status;
}
static inline dnnl_status_t dnn_append_multiply(dnnl_post_ops_t ops, const dnn_md *factor)
{
    return dnnl_post_ops_append_binary(ops, dnnl_binary_mul, factor);
}

#endif
#endif
