#include "base/par.h"
#include <omp.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static int cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* more cores than a cpu_set_t holds */
    return n > 0 ? (int)n : 1;
}

void bwi_threads_set(int n)
{
    omp_set_num_threads(n > 0 ? n : cores());
}

int bwi_threads(void)
{
    return omp_get_max_threads();
}

double bwi_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bwi_peak_mb(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss / 1024 : 0; /* Linux counts in KiB */
}

int bwi_thread(void)
{
    return omp_get_thread_num();
}

bw_status bwi_par_each(int n, int threads, bw_status (*fn)(void *arg, int i, bw_error *err), void *arg, bw_error *err)
{
    int failed = n;
    bw_status st = BW_OK;
#pragma omp parallel num_threads(threads)
    {
        bwi_threads_set(1);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < n; i++) {
            bw_error own = {0};
            const bw_status mine = fn(arg, i, &own);
            if (!mine) continue;
#pragma omp critical(bwi_par_each_error)
            if (i < failed) {
                failed = i;
                st = mine;
                if (err) *err = own;
            }
        }
    }
    return st;
}
