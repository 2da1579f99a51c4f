/* The header of a safetensors file, read where it lies: no allocation, no library. For files that pack.c writes; JSON with escapes in its
 * strings is not among them and is refused. */
#ifndef BWR_HEADER_H
#define BWR_HEADER_H
#include "base/status.h"

typedef struct bwr_text {
    const char *s; /* not terminated */
    size_t n;
} bwr_text;

typedef struct bwr_header {
    bwr_text json;
    const uint8_t *data; /* of tensors */
    size_t data_size;
} bwr_header;

typedef enum bwr_type { BWR_U8, BWR_F32 } bwr_type;
typedef struct bwr_tensor {
    bwr_type type;
    size_t n; /* elements */
    const void *data;
} bwr_tensor;

/* Checks the whole header: every tensor's type is known, and its bytes lie in the file and are as many as its shape asks for. */
BW_MUST_USE bw_status bwr_header_read(bwr_header *h, const void *file, size_t size, bw_error *err);
/* A tensor by its name; false: there is none. */
bool bwr_header_tensor(const bwr_header *h, const char *name, bwr_tensor *out);
/* A value of __metadata__; false: there is none. */
bool bwr_header_meta(const bwr_header *h, const char *key, bwr_text *out);

static inline bool bwr_text_is(bwr_text t, const char *s)
{
    size_t i = 0;
    while (i < t.n && s[i] && s[i] == t.s[i]) i++;
    return i == t.n && !s[i];
}
#endif
