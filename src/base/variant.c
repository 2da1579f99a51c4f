#include "base/variant.h"
#include "base/cpu.h"

int bwi_variant_for(bwi_dtype dtype)
{
    if (dtype == BWI_DT_F64) return BWI_F64;
    unsigned flags = bwi_cpu_flags();
    if (flags & BWI_CPU_AVX512) return BWI_F32_AVX512;
    return flags & BWI_CPU_AVX2 ? BWI_F32_AVX2 : BWI_F32;
}
