/* Workers that stay: threads that run the same function side by side, over and over, without being made anew. */
#ifndef BWR_POOL_H
#define BWR_POOL_H
#include <bitwright/run.h>

/* Calls fn(arg, i, n) for i = 0 .. n - 1, each on its own thread, the first on the caller's; returns when all are done. n: threads of the pool. */
void bwr_pool_run(bw_pool *pool, void (*fn)(void *arg, int i, int n), void *arg);
int bwr_pool_threads(const bw_pool *pool);
#endif
