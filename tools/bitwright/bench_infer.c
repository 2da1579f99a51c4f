/* bitwright bench infer: whole networks on the engine, from a file or with random weights. */
#include "commands.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROUNDS = 2, MAX_NETS = 16, THREADS = 2, BITS = 8 };

/* One network: bits 0 are float; a file, which a network of random weights gets first. */
typedef struct network {
    char name[128], path[4096 + 256];
    int weight_bits, activation_bits;
    bool ours; /* the file is a temporary one */
    bw_infer_result best[THREADS];
} network;

typedef struct bench {
    const infer_options *o;
    network net[MAX_NETS];
    int n, batch, threads[THREADS], n_threads;
    char folder[4096]; /* of temporary files; "": none */
} bench;

/* ---- What is timed ----------------------------------------------------------------------------------------------------- */

static int usage(const char *message, const char *text)
{
    fprintf(stderr, "bitwright bench: ");
    fprintf(stderr, message, text);
    fputs("\nSee 'bitwright bench --help'.\n", stderr);
    return EXIT_USAGE;
}

/* "2/4" or "float", n characters. */
static bool parse_bits(const char *text, size_t n, network *net)
{
    if (n == 5 && !memcmp(text, "float", n)) return true;
    if (n != 3 || text[1] != '/') return false;
    net->weight_bits = text[0] - '0';
    net->activation_bits = text[2] - '0';
    return net->weight_bits >= 1 && net->weight_bits <= BITS && net->activation_bits >= 1 && net->activation_bits <= BITS;
}

static int list_networks(bench *b)
{
    const infer_options *o = b->o;
    if (!o->model == !o->net)
        return usage("infer wants a network: --model FILE, or --net NAME for one with random weights%s", "");
    if (o->model) {
        if (o->bits) return usage("--bits goes with --net; %s has its own", o->model);
        b->n = 1;
        snprintf(b->net[0].name, sizeof b->net[0].name, "%s", o->model);
        snprintf(b->net[0].path, sizeof b->net[0].path, "%s", o->model);
        return EXIT_OK;
    }
    for (const char *p = o->bits ? o->bits : "8/8,4/4,2/2,1/1"; *p; b->n++) {
        const size_t n = strcspn(p, ",");
        network *net = &b->net[b->n];
        if (b->n == MAX_NETS) return usage("--bits: '%s' is too long a list", o->bits);
        if (!parse_bits(p, n, net))
            return usage("--bits: expected bits of weights and of activations, such as 8/8,2/2, or float; found '%s'", o->bits);
        snprintf(net->name, sizeof net->name, "%s %.*s", o->net, (int)n, p);
        p += n + (p[n] == ',');
    }
    return EXIT_OK;
}

/* ---- Random weights ---------------------------------------------------------------------------------------------------- */

static int make_folder(bench *b)
{
    const char *tmp = getenv("TMPDIR");
    if (!b->o->net) return EXIT_OK;
    if (b->o->save) {
        if (mkdir(b->o->save, 0777) == 0 || errno == EEXIST) return EXIT_OK;
        fprintf(stderr, "bitwright bench: %s: cannot make the folder: %s\n", b->o->save, strerror(errno));
        return EXIT_WORK;
    }
    snprintf(b->folder, sizeof b->folder, "%s/bitwright-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (mkdtemp(b->folder)) return EXIT_OK;
    fprintf(stderr, "bitwright bench: %s: cannot make a folder for models: %s; set TMPDIR to another place\n", b->folder,
            strerror(errno));
    b->folder[0] = 0;
    return EXIT_WORK;
}

/* LSQ with the first and last layer at 8 bits: what a kernel takes to run does not depend on how its codes were made. */
static int make_model(bench *b, network *net)
{
    char family[128], weight_bits[40], activation_bits[40], bits[16] = "float";
    const char *set[] = {family,      "quant.weight=lsq", "quant.activation=lsq", "quant.policy=first-last-8",
                         weight_bits, activation_bits};
    bw_recipe *recipe = NULL;
    bw_error err = {0};
    snprintf(family, sizeof family, "net.family=%s", b->o->net);
    snprintf(weight_bits, sizeof weight_bits, "quant.weight_bits=%d", net->weight_bits);
    snprintf(activation_bits, sizeof activation_bits, "quant.activation_bits=%d", net->activation_bits);
    if (net->weight_bits) snprintf(bits, sizeof bits, "w%da%d", net->weight_bits, net->activation_bits);
    snprintf(net->path, sizeof net->path, "%.4095s/%.100s-%s.safetensors", b->o->save ? b->o->save : b->folder, b->o->net,
             bits);
    net->ours = !b->o->save;
    bw_status st = bw_recipe_load(&recipe, NULL, set, net->weight_bits ? COUNT(set) : 1, &err);
    if (st == BW_OK) st = bw_random_model(recipe, net->path, &err);
    bw_recipe_destroy(&recipe);
    return st == BW_OK ? EXIT_OK : report_failure("bench", &err);
}

static void remove_models(const bench *b)
{
    for (int i = 0; i < b->n; i++)
        if (b->net[i].ours) unlink(b->net[i].path);
    if (b->folder[0]) rmdir(b->folder);
}

/* ---- Times ------------------------------------------------------------------------------------------------------------- */

static void keep_best(bw_infer_result *best, const bw_infer_result *r)
{
    const bw_infer_result old = *best;
    *best = *r;
    if (old.latency_ms > 0 && old.latency_ms < r->latency_ms) best->latency_ms = old.latency_ms;
    if (old.images_per_s > r->images_per_s) best->images_per_s = old.images_per_s;
}

/* Networks take turns, so that whatever else the machine does hits all of them. */
static int measure(bench *b)
{
    bw_infer_result r;
    bw_error err = {0};
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < b->n; i++)
            for (int t = 0; t < b->n_threads; t++) {
                network *net = &b->net[i];
                if (bw_bench_infer(net->path, b->threads[t], b->batch, b->o->plan, &r, &err) != BW_OK)
                    return report_failure("bench", &err);
                keep_best(&net->best[t], &r);
            }
    return EXIT_OK;
}

/* The same network with 8-bit weights and activations, or NULL. */
static const network *int8(const bench *b)
{
    for (int i = 0; i < b->n; i++)
        if (b->net[i].weight_bits == BITS && b->net[i].activation_bits == BITS) return &b->net[i];
    return NULL;
}

/* How many times as fast as int8: one image, and in batches. */
static double by_latency(const bw_infer_result *r, const bw_infer_result *int8)
{
    return int8->latency_ms / r->latency_ms;
}

static double by_batch(const bw_infer_result *r, const bw_infer_result *int8)
{
    return r->images_per_s / int8->images_per_s;
}

/* Above this, it is not just what timing leaves open. */
#define FASTER 1.03

static void print_table(const bench *b)
{
    const network *base = int8(b);
    printf("%s\n%-20s %7s %13s %8s %15s %8s %10s %10s\n", bw_cpu_text(), b->o->net ? "weights/activations" : "network",
           "threads", "one image, ms", "x int8", "images/s of", "x int8", "packed MB", "memory MB");
    printf("%-20s %7s %13s %8s %12d %11s\n", "", "", "", "", b->batch, "");
    for (int i = 0; i < b->n; i++)
        for (int t = 0; t < b->n_threads; t++) {
            const bw_infer_result *r = &b->net[i].best[t];
            char latency[16] = "-", batch[16] = "-";
            if (base) snprintf(latency, sizeof latency, "%.2f", by_latency(r, &base->best[t]));
            if (base) snprintf(batch, sizeof batch, "%.2f", by_batch(r, &base->best[t]));
            printf("%-20s %7d %13.3f %8s %15.1f %8s %10.3f %10.3f\n", b->net[i].name, b->threads[t], r->latency_ms, latency,
                   r->images_per_s, batch, (double)r->packed_bytes / 1e6, (double)r->memory_bytes / 1e6);
        }
    for (int i = 0; base && i < b->n; i++)
        for (int t = 0; t < b->n_threads; t++) {
            const network *net = &b->net[i];
            if (net == base || by_latency(&net->best[t], &base->best[t]) >= FASTER) continue;
            printf("%s is no faster than int8 on this CPU with %d thread%s\n", net->name, b->threads[t],
                   b->threads[t] == 1 ? "" : "s");
        }
}

static json_t *row(const bench *b, const network *net, int t)
{
    const network *base = int8(b);
    const bw_infer_result *r = &net->best[t];
    json_t *j = json_pack("{s:s, s:i, s:i, s:f, s:f, s:I, s:I}", "name", net->name, "threads", b->threads[t], "batch", b->batch,
                          "latency_ms", r->latency_ms, "images_per_s", r->images_per_s, "packed_bytes",
                          (json_int_t)r->packed_bytes, "memory_bytes", (json_int_t)r->memory_bytes);
    bool good = j;
    if (good && b->o->net)
        good = !json_object_set_new(j, "weight_bits", json_integer(net->weight_bits ? net->weight_bits : 32)) &&
               !json_object_set_new(j, "activation_bits", json_integer(net->weight_bits ? net->activation_bits : 32));
    if (good && base)
        good = !json_object_set_new(j, "latency_against_int8", json_real(by_latency(r, &base->best[t]))) &&
               !json_object_set_new(j, "batch_against_int8", json_real(by_batch(r, &base->best[t]))) &&
               !json_object_set_new(j, "faster_than_int8", json_boolean(by_latency(r, &base->best[t]) >= FASTER));
    if (good) return j;
    json_decref(j);
    return NULL;
}

static int print_rows(const bench *b)
{
    json_t *rows = json_array();
    for (int i = 0; rows && i < b->n; i++)
        for (int t = 0; rows && t < b->n_threads; t++)
            if (json_array_append_new(rows, row(b, &b->net[i], t))) {
                json_decref(rows);
                rows = NULL;
            }
    return print_json(rows ? json_pack("{s:s, s:o}", "cpu", bw_cpu_text(), "rows", rows) : NULL);
}

int bench_infer(const infer_options *o)
{
    static bench b; /* large */
    b = (bench){.o = o, .batch = o->batch ? o->batch : 32, .threads = {o->threads ? o->threads : 1, 2}};
    b.n_threads = o->threads ? 1 : THREADS;
    int code = list_networks(&b);
    if (code == EXIT_OK) code = make_folder(&b);
    for (int i = 0; o->net && i < b.n && code == EXIT_OK; i++) code = make_model(&b, &b.net[i]);
    if (code == EXIT_OK) code = measure(&b);
    if (code == EXIT_OK && o->json) code = print_rows(&b);
    if (code == EXIT_OK && !o->json) print_table(&b);
    remove_models(&b);
    return code;
}
