/* The engine with everything that it wants, for the half of the library that may allocate. */
#ifndef BWI_ENGINE_H
#define BWI_ENGINE_H
#include "base/file.h"
#include "io/io.h"
#include <bitwright/run.h>

typedef struct bwi_engine {
    bwi_file file;  /* of a packed file, or */
    uint8_t *image; /* the same made in memory */
    size_t size;    /* of either */
    void *memory, *work;
    bw_net_info info;
    bw_net *net;
    bw_pool *pool;
} bwi_engine;

/* Whether a file is a packed one; no, when it cannot be read. BW_NOMEM. */
BW_MUST_USE bw_status bwi_is_packed(bool *packed, const char *path, bw_error *err);
/* From a packed file, or from what bwi_lower made. threads 0: all cores; plan: "table" (NULL) or "measured". */
BW_MUST_USE bw_status bwi_engine_open(bwi_engine *e, const char *path, int threads, const char *plan, bw_error *err);
BW_MUST_USE bw_status bwi_engine_from(bwi_engine *e, const bwi_tensors *lowered, int threads, const char *plan, bw_error *err);
void bwi_engine_close(bwi_engine *e); /* accepts a zeroed struct */
#endif
