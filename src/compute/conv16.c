#include "compute/conv16.h"
#include "base/cpu.h"

const bwi_conv16_table *bwi_conv16_find(void)
{
#if defined(__x86_64__)
    if (bwi_cpu_flags() & BWI_CPU_VNNI) return &bwi_conv16_vnni;
    if (bwi_cpu_flags() & BWI_CPU_AVX2) return &bwi_conv16_avx2;
#endif
    return NULL;
}
