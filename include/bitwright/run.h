/* Inference of packed models: the small half of bitwright, for programs that only run networks. It allocates nothing, depends on no
 * library but C's, and reads the packed file where it lies, mapped or linked in.
 *
 *   bw_net_info info;
 *   bw_net *net;
 *   bw_net_read(file, size, &info, &err);                      how much memory it wants
 *   memory = aligned_alloc(64, info.net_bytes);                once; threads share it
 *   bw_net_init(&net, file, size, memory, info.net_bytes, &err);
 *   work = aligned_alloc(64, info.work_bytes);                 one for every thread that runs
 *   bw_net_run(net, image, 1, logits, work);
 *
 * The file must stay where it is as long as the net is used. Results do not depend on the CPU: every instruction set gives the same bits. */
#ifndef BITWRIGHT_RUN_H
#define BITWRIGHT_RUN_H
#include <bitwright/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bw_net bw_net;

typedef struct bw_net_info {
    int height, width, channels; /* of an image */
    int classes;
    int layers;
    size_t net_bytes;  /* memory for bw_net_init, aligned to 64 bytes */
    size_t work_bytes; /* memory for bw_net_run, aligned to 64 bytes */
} bw_net_info;

/* How kernels are chosen: from a table that belongs to the kernels, or by timing every kernel that takes a layer's shape, which takes milliseconds
 * a layer. Results are the same bits. */
typedef enum bw_plan { BW_PLAN_TABLE, BW_PLAN_MEASURED } bw_plan;

/* Checks a packed file in memory and says what it needs. BW_FORMAT: damaged, or not a packed model; BW_UNSUPPORTED: of a later version. */
BW_MUST_USE bw_status bw_net_read(const void *file, size_t size, bw_net_info *info, bw_error *err);
/* Prepares the net in `memory`: chooses a kernel for every layer and lays its weights out for it. *net points into memory. BW_ARG: the
 * memory is too small or not aligned. */
BW_MUST_USE bw_status bw_net_init(bw_net **net, const void *file, size_t size, void *memory, size_t bytes, bw_error *err);
/* The same for either plan. BW_PLAN_MEASURED wants more memory, for all kernels that may be chosen, and work [work_bytes] of info in bw_net_init_plan, no
 * contents expected; otherwise work may be NULL. */
BW_MUST_USE bw_status bw_net_read_plan(const void *file, size_t size, bw_plan plan, bw_net_info *info, bw_error *err);
BW_MUST_USE bw_status bw_net_init_plan(bw_net **net, const void *file, size_t size, bw_plan plan, void *memory, size_t bytes,
                                       void *work, bw_error *err);
/* images [n][height][width][channels] uint8, RGB, in; logits [n][classes] float, out; work [work_bytes], no contents expected. May run in
 * several threads at once, each with its own work. */
void bw_net_run(const bw_net *net, const uint8_t *images, int n, float *logits, void *work);

/* Threads that stay between runs. A pool serves one run at a time. It is the one thing here that allocates. */
typedef struct bw_pool bw_pool;
BW_MUST_USE bw_status bw_pool_create(bw_pool **pool, int threads, bw_error *err);
void bw_pool_destroy(bw_pool **pool); /* accepts NULL in *pool */
/* As bw_net_run on the threads of a pool: images side by side when there are at least as many as threads, else rows of each layer. work: work_bytes
 * for every thread of the pool. The same bits with any number of threads. */
void bw_net_run_pool(const bw_net *net, bw_pool *pool, const uint8_t *images, int n, float *logits, void *work);

/* What a layer is, for tables. */
typedef struct bw_layer_info {
    const char *name, *kind, *kernel; /* kernel "": none */
    const char *table_kernel;         /* the one of BW_PLAN_TABLE */
    bool measured; /* this layer's shape was timed: microseconds of both for an image, on one thread; else 0 */
    double microseconds, table_microseconds;
    int height, width, channels;      /* of its output */
    int weight_bits, activation_bits; /* 0: float or none */
    bool activation_signed;
    size_t weight_bytes;   /* in the file */
    int64_t multiply_adds; /* an image */
} bw_layer_info;
/* False past the end. */
bool bw_net_layer(const bw_net *net, int i, bw_layer_info *info);

#ifdef __cplusplus
}
#endif
#endif
