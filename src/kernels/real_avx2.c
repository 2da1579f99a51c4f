/* Float layers for AVX2. */
#if defined(__x86_64__)
#include "base/cpu.h"

extern const struct bwk_real bwk_real_avx2;
#define LANES      8
#define REAL_ROW   bwk_real_avx2
#define REAL_NAME  "avx2"
#define REAL_NEEDS BWI_CPU_AVX2
#include "kernels/real_loops.h"
#endif
