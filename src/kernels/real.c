/* Float layers for any CPU, and the choice between them and those for vectors. */
#include "base/cpu.h"

extern const struct bwk_real bwk_real_ref, bwk_real_avx2, bwk_real_avx512; /* real_avx2.c, real_avx512.c */
#define LANES      4
#define REAL_ROW   bwk_real_ref
#define REAL_NAME  "ref"
#define REAL_NEEDS 0
#include "kernels/real_loops.h"

/* Fastest first. */
static const bwk_real *const rows[] = {
#if defined(__x86_64__)
    &bwk_real_avx512,
    &bwk_real_avx2,
#endif
    &bwk_real_ref,
};

const bwk_real *bwk_real_at(size_t i)
{
    return i < sizeof rows / sizeof *rows ? rows[i] : NULL;
}

const bwk_real *bwk_real_for_cpu(void)
{
    size_t i = 0;
    while (rows[i]->needs & ~bwi_cpu_flags()) i++;
    return rows[i];
}
