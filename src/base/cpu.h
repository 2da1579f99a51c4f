/* Which instruction sets may be used: what the CPU has, what the operating system saves, minus what BITWRIGHT_CPU or --cpu masks. */
#ifndef BWI_CPU_H
#define BWI_CPU_H
#include "base/status.h"

enum {
    BWI_CPU_AVX2 = 1,    /* AVX2 and FMA */
    BWI_CPU_AVX512 = 2,  /* F, BW, DQ, VL */
    BWI_CPU_VNNI = 4,    /* AVX512-VNNI */
    BWI_CPU_VPOPCNT = 8, /* AVX512-VPOPCNTDQ */
    BWI_CPU_MORE = 16,   /* whatever else the CPU has, by libraries */
};
unsigned bwi_cpu_flags(void); /* detected once, masked; a value of BITWRIGHT_CPU that is not valid masks nothing */
/* Sets what may be used to what the CPU has of "ref", "avx2", "avx512" or "native", in place of any earlier limit. NULL: to BITWRIGHT_CPU,
 * or "native" when it is not set. BW_ARG when the name is unknown: the limit is then as before. */
BW_MUST_USE bw_status bwi_cpu_limit(const char *name, bw_error *err);
const char *bwi_cpu_text(void);
#endif
