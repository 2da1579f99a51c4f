#include "deploy/run/pool.h"
#include "base/status.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST = 256,
    SPINS = 4000
}; /* looks at the clock of jobs before a worker goes to sleep: layers follow each other closely */

typedef struct worker {
    struct bw_pool *pool;
    pthread_t thread;
    int i;
} worker;

struct bw_pool {
    int n, started;
    atomic_uint job; /* number of the job under way */
    atomic_int left; /* workers that are not done with it */
    atomic_int asleep;
    bool quit;
    void (*fn)(void *arg, int i, int n);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    worker worker[]; /* [n - 1] */
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Waits until the job's number is no longer `last`. */
static void wait_for_job(bw_pool *p, unsigned last)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&p->job) != last) return;
        pause_briefly();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->asleep, 1);
    while (atomic_load(&p->job) == last) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg)
{
    worker *w = arg;
    bw_pool *p = w->pool;
    for (unsigned last = 0;; last++) {
        wait_for_job(p, last);
        if (p->quit) return NULL;
        p->fn(p->arg, w->i, p->n);
        atomic_fetch_sub(&p->left, 1);
    }
}

/* Makes the next job visible and wakes who sleeps. */
static void post(bw_pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->job, 1);
    if (atomic_load(&p->asleep)) pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

bw_status bw_pool_create(bw_pool **out, int threads, bw_error *err)
{
    *out = NULL;
    if (threads < 1 || threads > MOST) return bwi_fail(err, BW_ARG, "a pool of %d threads; it has 1 to %d", threads, MOST);
    bw_pool *p = calloc(1, sizeof *p + (size_t)(threads - 1) * sizeof *p->worker);
    if (!p) return bwi_fail(err, BW_NOMEM, "no memory for a pool of %d threads", threads);
    p->n = threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 0; i < threads - 1; i++) {
        worker *w = &p->worker[i];
        w->pool = p;
        w->i = i + 1;
        const int failed = pthread_create(&w->thread, NULL, work, w);
        if (failed) {
            bw_pool_destroy(&p);
            return bwi_fail(err, BW_NOMEM, "cannot start thread %d of %d: %s", i + 2, threads, strerror(failed));
        }
        p->started++;
    }
    *out = p;
    return BW_OK;
}

void bw_pool_destroy(bw_pool **pp)
{
    bw_pool *p = *pp;
    if (!p) return;
    p->quit = true;
    post(p);
    for (int i = 0; i < p->started; i++) pthread_join(p->worker[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
    *pp = NULL;
}

int bwr_pool_threads(const bw_pool *pool)
{
    return pool->n;
}

void bwr_pool_run(bw_pool *p, void (*fn)(void *arg, int i, int n), void *arg)
{
    if (p->n > 1) {
        p->fn = fn;
        p->arg = arg;
        atomic_store(&p->left, p->n - 1);
        post(p);
    }
    fn(arg, 0, p->n);
    for (int spins = 0; p->n > 1 && atomic_load(&p->left) > 0;) {
        if (++spins < SPINS)
            pause_briefly();
        else
            sched_yield();
    }
}
