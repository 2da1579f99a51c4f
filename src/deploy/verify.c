/* One truth: the same images through the training graph, through the engine on every instruction set that this CPU has, and through the compiled
 * C code. The last two kinds must agree to the bit; what the training graph says otherwise is counted. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/par.h"
#include "deploy/codes.h"
#include "deploy/export.h"
#include "train/evaluate.h"
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
typedef void c_code(const unsigned char *image, float *logits, void *buffer);

static const char *const levels[] = {"ref", "avx2", "avx512", "native"};
enum { LEVELS = sizeof levels / sizeof *levels, BATCH = 100 };

typedef struct engine {
    const char *level;
    bw_net *net;
    void *memory;
} engine;

typedef struct verification {
    bwi_model m;
    bwi_tensors lowered;
    uint8_t *image; /* the packed file in memory */
    size_t image_bytes;
    bw_net_info info;
    engine engine[LEVELS];
    int n_engines;
    bwi_dataset *data;
    bwi_exec *exec;
    bwi_codes codes;
    int batch;     /* images at a time */
    void *library; /* the compiled C code */
    c_code *compiled;
    bool integer;              /* it writes logits as integers: their bits without the sign, negative for negative ones */
    uint8_t *pixels;           /* [BATCH] images */
    float *logits[LEVELS + 1]; /* [BATCH][classes]; of the C code last */
    int32_t labels[BATCH];
    void *work; /* [threads][work_bytes] */
    size_t work_bytes;
} verification;

static bw_status no_memory(bw_error *err)
{
    return bwi_fail(err, BW_NOMEM, "no memory to verify the model");
}

/* An engine for each instruction set that makes a difference, the plain one first. */
static bw_status open_engines(verification *v, bw_error *err)
{
    unsigned before = ~0u;
    const unsigned now = bwi_cpu_flags();
    const char *limit = NULL; /* a level that means what is allowed now */
    bw_status st = BW_OK;
    for (int i = 0; i < LEVELS && !st; i++) {
        if ((st = bwi_cpu_limit(levels[i], err)) != BW_OK) break;
        const unsigned flags = bwi_cpu_flags(), own = flags & ~(unsigned)BWI_CPU_MORE; /* what engines know */
        if (flags == now) limit = levels[i];
        if (own == before || (own & ~now)) continue; /* a limit that was set stands */
        before = own;
        engine *e = &v->engine[v->n_engines];
        st = bw_net_read(v->image, v->image_bytes, &v->info, err);
        if (st) break;
        e->level = levels[i];
        if (!(e->memory = bwi_malloc(v->info.net_bytes))) {
            st = no_memory(err);
            break;
        }
        v->n_engines++;
        v->work_bytes = v->info.work_bytes > v->work_bytes ? v->info.work_bytes : v->work_bytes;
        st = bw_net_init(&e->net, v->image, v->image_bytes, e->memory, v->info.net_bytes, err);
    }
    const bw_status back = bwi_cpu_limit(limit, st ? NULL : err);
    return st ? st : back;
}

/* Runs a program and waits for it. */
static bw_status execute(const char *const *argv, bw_error *err)
{
    pid_t pid;
    int status;
    const int failed = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ);
    if (failed) return bwi_fail(err, BW_IO, "cannot run the compiler %s: %s", argv[0], strerror(failed));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return bwi_fail(err, BW_IO, "cannot wait for the compiler %s: %s", argv[0], strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status)) return bwi_fail(err, BW_IO, "the compiler %s rejects the C code", argv[0]);
    return BW_OK;
}

/* Exports the model as C code into a folder of its own, compiles it and loads it. */
static bw_status compile(verification *v, const char *compiler, const char *form, bw_error *err)
{
    static const char *const files[] = {"net.c", "net.h", "net.so"};
    const char *tmp = getenv("TMPDIR");
    char folder[200], path[3][240];
    const bwi_exporter *row;
    bw_status st;
    size_t i = 0;
    snprintf(folder, sizeof folder, "%.180s/bitwright-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return bwi_fail(err, BW_IO, "%s: cannot make a folder for the C code: %s", folder, strerror(errno));
    for (int k = 0; k < 3; k++) snprintf(path[k], sizeof path[k], "%s/%s", folder, files[k]);
    while ((row = bwi_exporter_at(i)) && strcmp(row->name, form) != 0) i++;
    const char *const argv[] = {compiler, "-std=c99", "-O3", "-shared", "-fPIC", "-o", path[2], path[0], NULL};
    BWI_TRY(row->write(&v->m, &v->lowered, path[0], err));
    BWI_TRY(execute(argv, err));
    v->library = dlopen(path[2], RTLD_NOW);
    void *symbol = v->library ? dlsym(v->library, "net_run") : NULL;
    const unsigned long *bytes = symbol ? dlsym(v->library, "net_buffer_bytes") : NULL;
    if (!bytes) BWI_TRY(bwi_fail(err, BW_IO, "the compiled C code cannot be loaded: %s", dlerror()));
    v->work_bytes = *bytes > v->work_bytes ? *bytes : v->work_bytes;
    memcpy(&v->compiled, &symbol, sizeof symbol); /* ISO C has no conversion from void * to a function */
fail:
    for (int k = 0; k < 3; k++) unlink(path[k]);
    rmdir(folder);
    return st;
}

static bw_status prepare(verification *v, const char *path, const bw_verify_options *o, bw_error *err)
{
    bwi_exec_options eo = {.precision = BWI_PRECISION_FAST, .observe = bwi_codes_take, .observer = &v->codes};
    bw_status st;
    BWI_TRY(bwi_lower_model(&v->m, &v->lowered, path, err));
    BWI_TRY(bwi_safetensors_image(&v->image, &v->image_bytes, &v->lowered, err));
    BWI_TRY(open_engines(v, err));
    v->integer = o->integer_code;
    if (o->compiler) BWI_TRY(compile(v, o->compiler, v->integer ? "c-integer" : "c", err));
    BWI_TRY(bwi_open_data(&v->data, o->data ? o->data : v->m.recipe->data.source, err));
    BWI_TRY(bwi_data_fits(v->data, v->m.graph, err));
    BWI_TRY(bwi_codes_create(&v->codes, v->m.graph, BATCH, err));
    eo.batch = v->batch = v->codes.batch;
    BWI_TRY(bwi_exec_create(&v->exec, v->m.graph, &eo, NULL, err));
    v->work_bytes = (v->work_bytes + 63) / 64 * 64;
    v->pixels = bwi_malloc(BATCH * bwi_shape_size(v->data->shape));
    v->work = bwi_malloc((size_t)bwi_threads() * v->work_bytes);
    if (!v->pixels || !v->work) BWI_TRY(no_memory(err));
    for (int i = 0; i <= LEVELS; i++)
        if (!(v->logits[i] = bwi_malloc(BATCH * (size_t)v->info.classes * sizeof(float)))) BWI_TRY(no_memory(err));
fail:
    return st;
}

static void release(verification *v)
{
    for (int i = 0; i < LEVELS; i++) bwi_free(v->engine[i].memory);
    for (int i = 0; i <= LEVELS; i++) bwi_free(v->logits[i]);
    if (v->library) dlclose(v->library);
    bwi_free(v->work);
    bwi_free(v->pixels);
    bwi_free(v->image);
    bwi_exec_destroy(&v->exec);
    bwi_codes_destroy(&v->codes);
    bwi_dataset_close(&v->data);
    bwi_tensors_free(&v->lowered);
    bwi_model_close(&v->m);
}

static int best(const float *logits, int classes)
{
    int k = 0;
    for (int i = 1; i < classes; i++) k = logits[i] > logits[k] ? i : k;
    return k;
}

/* Logits of the C code without floats, in place. */
static void make_floats(float *logits, int n)
{
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        if (bits < 0) bits = (int32_t)(0x80000000u | (0u - (uint32_t)bits));
        memcpy(&logits[i], &bits, sizeof bits);
    }
}

/* n images from number `first` on, through everything. */
static bw_status batch(verification *v, int first, int n, bw_verify_result *r, double *top1, bw_error *err)
{
    const size_t image = bwi_shape_size(v->data->shape);
    const int classes = v->info.classes;
    const bwi_normalize *normalize = bwi_normalize_find(v->m.normalize);
    const void *graph;
    float *x = bwi_exec_input(v->exec);
    for (int i = 0; i < n; i++) v->labels[i] = v->data->image(v->data, BWI_TEST, first + i, v->pixels + (size_t)i * image);
    for (size_t i = 0; i < (size_t)n * image; i++)
        x[i] = bwi_normalized(normalize, (int)(i % (size_t)v->data->shape.c), v->pixels[i]);
    bw_status st = bwi_exec_forward(v->exec, n, false, &graph, err);
    if (st) return st;
    BWI_PARALLEL_CHUNKS(c)
    {
        char *work = (char *)v->work + (size_t)bwi_thread() * v->work_bytes;
        for (size_t i = bwi_chunk((size_t)n, 1, (size_t)c); i < bwi_chunk((size_t)n, 1, (size_t)c + 1); i++) {
            const uint8_t *pixels = v->pixels + i * image;
            const size_t at = i * (size_t)classes;
            bwi_codes_compare(&v->codes, v->engine[0].net, pixels, (int)i, (int)c, v->logits[0] + at, work);
            for (int e = 1; e < v->n_engines; e++) bw_net_run(v->engine[e].net, pixels, 1, v->logits[e] + at, work);
            if (v->compiled) v->compiled(pixels, v->logits[LEVELS] + at, work);
            if (v->compiled && v->integer) make_floats(v->logits[LEVELS] + at, classes);
        }
    }
    for (int i = 0; i < n; i++) {
        const float *g = (const float *)graph + (size_t)i * (size_t)classes, *own = v->logits[0] + (size_t)i * (size_t)classes;
        for (int k = 0; k < classes; k++)
            r->largest_difference = fmax(r->largest_difference, fabs((double)own[k] - (double)g[k]));
        r->differing_classes += best(g, classes) != best(own, classes);
        top1[0] += best(g, classes) == v->labels[i];
        top1[1] += best(own, classes) == v->labels[i];
        for (int e = 1; e <= LEVELS; e++) {
            const float *other = v->logits[e] + (size_t)i * (size_t)classes;
            const bool ran = e < v->n_engines || (e == LEVELS && v->compiled);
            for (int k = 0; ran && k < classes; k++) r->differing_logits += memcmp(&own[k], &other[k], sizeof *own) != 0;
        }
    }
    return BW_OK;
}

bw_status bw_verify(const char *model, const bw_verify_options *options, bw_verify_result *result, bw_error *err)
{
    verification v = {0};
    double top1[2] = {0, 0};
    bw_status st;
    size_t at = 0;
    *result = (bw_verify_result){0};
    if (err) *err = (bw_error){0};
    bwi_threads_set(options->threads);
    BWI_TRY(prepare(&v, model, options, err));
    const int all = v.data->n[BWI_TEST], n = options->limit > 0 && options->limit < all ? options->limit : all;
    for (int i = 0; i < n; i += v.batch) BWI_TRY(batch(&v, i, n - i < v.batch ? n - i : v.batch, result, top1, err));
    for (int i = 0; options->layer && i < v.codes.n; i++) {
        const bw_verify_layer l = bwi_codes_layer(&v.codes, i);
        options->layer(options->user, &l);
    }
    for (int e = 0; e < v.n_engines && at < sizeof result->engines; e++)
        at += (size_t)snprintf(result->engines + at, sizeof result->engines - at, "%s%s", e ? ", " : "", v.engine[e].level);
    if (v.compiled && at < sizeof result->engines)
        snprintf(result->engines + at, sizeof result->engines - at, ", %sC code", v.integer ? "integer " : "");
    result->images = n;
    result->graph_top1 = 100 * top1[0] / n;
    result->engine_top1 = 100 * top1[1] / n;
    result->packed_bytes = v.image_bytes;
fail:
    release(&v);
    return st;
}
