/* All memory of the library. Every allocation goes through here so that tests can make the n-th one fail (see bwi_alloc_fail_at). */
#ifndef BWI_ALLOC_H
#define BWI_ALLOC_H
#include <stddef.h>
#include <stdint.h>

void *bwi_malloc(size_t size);           /* 64-byte aligned; NULL on failure; size 0 gives a unique pointer */
void *bwi_calloc(size_t n, size_t size); /* zeroed; NULL on overflow of n * size */
void *bwi_realloc(void *p, size_t size); /* keeps contents; old block stays valid on failure; result 64-byte aligned */
void bwi_free(void *p);
char *bwi_strdup(const char *s);
char *bwi_strndup(const char *s, size_t n);
/* printf into a fresh string; NULL on lack of memory. */
char *bwi_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Growing text, for reports and JSON lines. Zero-initialise. After a failed append `failed` stays set and text may be NULL. */
typedef struct bwi_text {
    char *s;
    size_t len, cap;
    int failed;
} bwi_text;
void bwi_text_add(bwi_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Tests: the n-th allocation from now (counted from 0) fails, and every later one too when sticky; n < 0 switches this off. */
void bwi_alloc_fail_at(int64_t n, int sticky);
int64_t bwi_alloc_count(void);       /* allocations since the last call of bwi_alloc_fail_at */
int64_t bwi_alloc_live_blocks(void); /* blocks not yet freed */
int64_t bwi_alloc_live_bytes(void);
#endif
