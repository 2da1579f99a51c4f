#include "compute/backward16.h"
#include "base/cpu.h"

const bwi_back16_table *bwi_back16_find(void)
{
#if defined(__x86_64__)
    if (bwi_cpu_flags() & BWI_CPU_VNNI) return &bwi_back16_vnni;
    if (bwi_cpu_flags() & BWI_CPU_AVX2) return &bwi_back16_avx2;
#endif
    return NULL;
}
