#include "base/cpu.h"
#include "base/par.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* What each name of BITWRIGHT_CPU and --cpu lets through. */
static const struct {
    const char *name;
    unsigned mask;
} level[] = {
    {"ref", 0},
    {"avx2", BWI_CPU_AVX2},
    {"avx512", BWI_CPU_AVX2 | BWI_CPU_AVX512 | BWI_CPU_VNNI | BWI_CPU_VPOPCNT},
    {"native", ~0u},
};
enum { LEVELS = sizeof level / sizeof level[0] };

static unsigned detect(void)
{
    unsigned flags = BWI_CPU_MORE;
#if defined(__x86_64__)
    unsigned a, b, c, d, xcr0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return flags;
    bool fma = c & bit_FMA, osxsave = c & bit_OSXSAVE;
    if (!osxsave) return flags;
    /* Registers that the operating system does not save across a context switch must not be used, whatever the CPU has. */
    __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    bool ymm = (xcr0 & 0x06) == 0x06, zmm = (xcr0 & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return flags;
    if (ymm && fma && (b & bit_AVX2)) flags |= BWI_CPU_AVX2;
    unsigned need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (!(flags & BWI_CPU_AVX2) || !zmm || (b & need) != need) return flags;
    flags |= BWI_CPU_AVX512;
    if (c & bit_AVX512VNNI) flags |= BWI_CPU_VNNI;
    if (c & bit_AVX512VPOPCNTDQ) flags |= BWI_CPU_VPOPCNT;
#endif
    return flags;
}

static int level_find(const char *name)
{
    for (int i = 0; i < LEVELS; i++)
        if (!strcmp(level[i].name, name)) return i;
    return -1;
}

enum { KNOWN = 1 << 30 };     /* set beside the flags once they have been found out */
static atomic_uint flags_now; /* a race at the first call finds out the same twice */

unsigned bwi_cpu_flags(void)
{
    unsigned flags = atomic_load(&flags_now);
    if (!(flags & KNOWN)) {
        const char *name = getenv("BITWRIGHT_CPU");
        int i = name ? level_find(name) : -1; /* a name that is not valid is reported by bwi_cpu_limit(NULL) */
        flags = (detect() & (i < 0 ? ~0u : level[i].mask)) | KNOWN;
        unsigned unknown = 0; /* a limit that was set meanwhile stands */
        if (!atomic_compare_exchange_strong(&flags_now, &unknown, flags)) flags = unknown;
    }
    return flags & ~(unsigned)KNOWN;
}

bw_status bwi_cpu_limit(const char *name, bw_error *err)
{
    const char *from = "";
    if (!name) {
        name = getenv("BITWRIGHT_CPU");
        from = "BITWRIGHT_CPU: ";
        if (!name) name = "native";
    }
    int i = level_find(name);
    if (i < 0) {
        const char *names[LEVELS];
        for (int k = 0; k < LEVELS; k++) names[k] = level[k].name;
        const char *near = bwi_nearest(name, names, LEVELS);
        return bwi_fail(err, BW_ARG, "%sunknown instruction set \"%s\"%s%s%s; choose ref, avx2, avx512 or native", from, name,
                        near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
    }
    atomic_store(&flags_now, (detect() & level[i].mask) | KNOWN);
    return BW_OK;
}

/* The CPU's name, at most 48 characters. */
static void brand(char out[49])
{
    strcpy(out, "unknown CPU");
#if defined(__x86_64__)
    unsigned r[12];
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3])) return;
    memcpy(out, r, 48);
    out[48] = 0;
    size_t n = strlen(out), lead = strspn(out, " ");
    while (n > lead && out[n - 1] == ' ') n--;
    memmove(out, out + lead, n - lead);
    out[n - lead] = 0;
#endif
}

const char *bwi_cpu_text(void)
{
    static _Thread_local char text[160];
    char name[49];
    unsigned f = bwi_cpu_flags();
    int threads = bwi_threads();
    brand(name);
    snprintf(text, sizeof text, "%s, using%s%s%s%s%s, %d thread%s", name,
             f & ~(unsigned)BWI_CPU_MORE ? "" : " no vector extensions", f & BWI_CPU_AVX2 ? " AVX2" : "",
             f & BWI_CPU_AVX512 ? " AVX-512" : "", f & BWI_CPU_VNNI ? " VNNI" : "", f & BWI_CPU_VPOPCNT ? " VPOPCNTDQ" : "",
             threads, threads == 1 ? "" : "s");
    return text;
}

bw_status bw_cpu_limit(const char *name, bw_error *err)
{
    return bwi_cpu_limit(name, err);
}
const char *bw_cpu_text(void)
{
    return bwi_cpu_text();
}
