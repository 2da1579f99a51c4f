/* Threads. Loops are cut into a fixed number of chunks, whatever the number of threads, so that sums do not depend on it. */
#ifndef BWI_PAR_H
#define BWI_PAR_H
#include "base/status.h"
#include <stddef.h>

#define BWI_CHUNKS 16
/* First element of chunk i of n elements, in units of `grain` (a chunk starts at a multiple of it). i == BWI_CHUNKS gives n. */
static inline size_t bwi_chunk(size_t n, size_t grain, size_t i)
{
    size_t blocks = (n + grain - 1) / grain, at = blocks * i / BWI_CHUNKS * grain;
    return at < n ? at : n;
}
/* For the calling thread's parallel loops; within one, for those nested in it, until it ends. 0: all cores of the process's affinity mask. */
void bwi_threads_set(int n);
int bwi_threads(void);
int bwi_thread(void); /* number of the calling thread in a parallel loop, from 0 */
/* Calls fn for 0 .. n-1 on up to `threads` threads, each of which has one for loops of its own. The error is that of the smallest number. */
BW_MUST_USE bw_status bwi_par_each(int n, int threads, bw_status (*fn)(void *arg, int i, bw_error *err), void *arg,
                                   bw_error *err);
#define BWI_PRAGMA(x) _Pragma(#x)
#define BWI_PARALLEL_CHUNKS(i) BWI_PRAGMA(omp parallel for schedule(static)) for (int i = 0; i < BWI_CHUNKS; i++)
double bwi_now(void);     /* seconds, monotonic */
double bwi_peak_mb(void); /* peak resident set of this process, MiB */
#endif
