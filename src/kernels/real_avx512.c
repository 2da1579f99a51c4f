/* Float layers for AVX-512. */
#if defined(__x86_64__)
#include "base/cpu.h"

extern const struct bwk_real bwk_real_avx512;
#define LANES      16
#define REAL_ROW   bwk_real_avx512
#define REAL_NAME  "avx512"
#define REAL_NEEDS BWI_CPU_AVX512
#include "kernels/real_loops.h"
#endif
