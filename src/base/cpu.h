/* Which instruction sets may be used: what the CPU has, what the operating system saves, minus what BITWRIGHT_CPU or --cpu masks. */
#ifndef BWI_CPU_H
#define BWI_CPU_H
#include "base/status.h"

enum {
    BWI_CPU_AVX2 = 1,        /* AVX2 and FMA */
    BWI_CPU_AVX512 = 2,      /* F, BW, DQ, VL */
    BWI_CPU_VNNI = 4,        /* AVX512-VNNI */
    BWI_CPU_BF16 = 8,        /* AVX512-BF16 */
    BWI_CPU_VPOPCNT = 16,    /* AVX512-VPOPCNTDQ */
};
unsigned bwi_cpu_flags(void); /* detected once, masked */
bw_status bwi_cpu_limit(const char *name, bw_error *err);
const char *bwi_cpu_text(void);
#endif
