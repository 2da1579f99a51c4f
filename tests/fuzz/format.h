/* What the fuzz targets of weights formats share: parse one input from a buffer of exactly its size, then read all that came of it. */
#ifndef FUZZ_FORMAT_H
#define FUZZ_FORMAT_H
#include "base/alloc.h"
#include "io/io.h"
#include <stdlib.h>
#include <string.h>

static inline void fuzz_format(const char *name, const uint8_t *data, size_t size)
{
    const bwi_format *format;
    for (size_t i = 0; (format = bwi_format_at(i)) && strcmp(format->name, name);) i++;
    if (!format) abort();
    uint8_t *copy = bwi_malloc(size);
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    bwi_file f = {.data = copy, .size = size};
    bwi_tensors ts = {0};
    bw_error err = {0};
    volatile double sum = 0;
    format->probe(f.data, f.size);
    bw_status st = format->read(&f, &ts, &err);
    if (st == BW_OK ? f.data != NULL : (err.status != st || !err.msg[0])) abort();
    for (size_t i = 0; i < ts.n; i++)
        for (size_t k = 0, n = bwi_tensor_numel(&ts.t[i]); k < n; k++) sum += bwi_tensor_at(&ts.t[i], k);
    for (size_t i = 0; i < ts.n_meta; i++) sum += (double)strlen(ts.key[i]) + (double)strlen(ts.value[i]);
    bwi_tensors_free(&ts);
    bwi_file_close(&f);
    if (bwi_alloc_live_blocks()) abort();
}
#endif
