/* One block of the C library for each of ours, so that address checkers see every overrun. The size stands in front of the block, in an
 * alignment unit of its own. */
#include "base/alloc.h"
#include "bitwright/bitwright.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, HUGE = 2 << 20 };

static atomic_llong fail_at = -1, count, live_blocks, live_bytes;
static atomic_int fail_sticky;

static bool should_fail(void)
{
    long long i = atomic_fetch_add(&count, 1), at = atomic_load(&fail_at);
    return at >= 0 && (i == at || (i > at && atomic_load(&fail_sticky)));
}

static size_t size_of(const void *p)
{
    size_t size;
    memcpy(&size, (const char *)p - ALIGN, sizeof size);
    return size;
}

void *bwi_malloc(size_t size)
{
    void *block;
    if (should_fail() || size > PTRDIFF_MAX - ALIGN) return NULL;
    const bool large = size >= 2 * HUGE;
    if (posix_memalign(&block, large ? HUGE : ALIGN, size + ALIGN) != 0) return NULL;
    if (large)
        (void)madvise(block, size + ALIGN,
                      MADV_HUGEPAGE); /* passes over activations miss the TLB otherwise; refusal is harmless */
    memcpy(block, &size, sizeof size);
    atomic_fetch_add(&live_blocks, 1);
    atomic_fetch_add(&live_bytes, (long long)size);
    return (char *)block + ALIGN;
}

void *bwi_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) return NULL;
    void *p = bwi_malloc(bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void *bwi_realloc(void *p, size_t size)
{
    void *q = bwi_malloc(size);
    if (!q || !p) return q;
    size_t old = size_of(p);
    memcpy(q, p, old < size ? old : size);
    bwi_free(p);
    return q;
}

void bwi_free(void *p)
{
    if (!p) return;
    atomic_fetch_sub(&live_blocks, 1);
    atomic_fetch_sub(&live_bytes, (long long)size_of(p));
    free((char *)p - ALIGN);
}

void bw_free(void *p)
{
    bwi_free(p);
}

char *bwi_strndup(const char *s, size_t n)
{
    n = strnlen(s, n);
    char *t = bwi_malloc(n + 1);
    if (!t) return NULL;
    memcpy(t, s, n);
    t[n] = 0;
    return t;
}

char *bwi_strdup(const char *s)
{
    return bwi_strndup(s, SIZE_MAX);
}

char *bwi_asprintf(const char *fmt, ...)
{
    va_list args, again;
    char *s = NULL;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    if (n >= 0) s = bwi_malloc((size_t)n + 1);
    if (s) vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    return s;
}

void bwi_text_add(bwi_text *t, const char *fmt, ...)
{
    va_list args, again;
    if (t->failed) return;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(t->s ? t->s + t->len : NULL, t->cap - t->len, fmt, args);
    if (n >= 0 && (size_t)n >= t->cap - t->len) {
        size_t need = t->len + (size_t)n + 1, cap = need > 2 * t->cap ? need : 2 * t->cap;
        char *s = bwi_realloc(t->s, cap);
        if (s) {
            t->s = s;
            t->cap = cap;
            vsnprintf(s + t->len, cap - t->len, fmt, again);
        } else {
            if (t->s) t->s[t->len] = 0;
            n = -1;
        }
    }
    va_end(again);
    va_end(args);
    if (n < 0)
        t->failed = 1;
    else
        t->len += (size_t)n;
}

void bwi_alloc_fail_at(int64_t n, int sticky)
{
    atomic_store(&fail_at, -1); /* so that no other thread sees the new count with the old mark */
    atomic_store(&count, 0);
    atomic_store(&fail_sticky, sticky);
    atomic_store(&fail_at, n < 0 ? -1 : n);
}

int64_t bwi_alloc_count(void)
{
    return atomic_load(&count);
}
int64_t bwi_alloc_live_blocks(void)
{
    return atomic_load(&live_blocks);
}
int64_t bwi_alloc_live_bytes(void)
{
    return atomic_load(&live_bytes);
}
