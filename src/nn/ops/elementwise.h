/* Loops over whole buffers that several operations share. For files that are compiled once per variant. No pointer is `restrict`: an
 * operation may run in place (dst == src), which `omp simd` allows since each element depends on its own only. */
#ifndef BWI_ELEMENTWISE_H
#define BWI_ELEMENTWISE_H
#include "base/par.h"
#include "base/variant.h"

#define BWI_LINE 16 /* elements of float in a cache line: chunks that start there do not share lines */

/* dst[i] += factor * src[i] for n elements; src and dst real. */
static inline void bwi_accumulate(real *dst, const real *src, size_t n, real factor)
{
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t end = bwi_chunk(n, BWI_LINE, (size_t)i + 1);
#pragma omp simd
        for (size_t k = bwi_chunk(n, BWI_LINE, (size_t)i); k < end; k++) dst[k] += factor * src[k];
    }
}
#endif
