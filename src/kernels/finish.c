/* The finish in plain C, and the choice between it and those for vectors. */
#include "kernels/finish.h"
#include "base/cpu.h"
#include "kernels/finish_scalar.h"

void bwk_finish_ref(void *finish, int pixel, int pixels, int channel, int channels, const int32_t *acc, int stride)
{
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < channels; c++)
            bwk_finish_scalar(finish, (size_t)(pixel + p), (size_t)(channel + c), acc[(size_t)p * stride + c]);
}

bwk_finish_fn bwk_finish_avx2, bwk_finish_avx512; /* finish_avx2.c, finish_avx512.c */

/* Fastest first. */
static const bwk_finish_row finishes[] = {
#if defined(__x86_64__)
    {"avx512", BWI_CPU_AVX512, bwk_finish_avx512},
    {"avx2", BWI_CPU_AVX2, bwk_finish_avx2},
#endif
    {"ref", 0, bwk_finish_ref},
};

const bwk_finish_row *bwk_finish_at(size_t i)
{
    return i < sizeof finishes / sizeof *finishes ? &finishes[i] : NULL;
}

bwk_finish_fn *bwk_finish_for_cpu(void)
{
    const bwk_finish_row *row = finishes;
    while (row->needs & ~bwi_cpu_flags()) row++;
    return row->fn;
}
