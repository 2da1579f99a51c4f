/* bitwright bench: the time of a training step, in several configurations.
 *
 * Every configuration runs in a child process of its own (this program with --one NAME), so that its peak memory is its own. There are
 * two rounds over all configurations and the faster run of each counts: what else the machine does then hits all of them alike. */
#include "commands.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 2 };

typedef struct bench_options {
    common common;
    const char *what, *net, *only, *pytorch, *script, *one, *shape, *model, *bits, *save, *plan;
    int64_t batch, threads, steps;
    bool json;
} bench_options;

#define AT(f) offsetof(bench_options, f)
static const option options[] = {
    {OPT_ARG, "WHAT", NULL,
     "train: one training step; conv: the integer convolutions of deployment; infer: a whole network on the engine", AT(what),
     0, 0, NULL, NULL},
    {OPT_TEXT, "net", "NAME", "network; train: resnet20 by default; infer: with random weights", AT(net), 0, 0, NULL, NULL},
    {OPT_INT, "batch", "N", "images a step; train: 128 by default, infer: 32", AT(batch), 1, 65536, NULL, NULL},
    {OPT_INT, "threads", "N", "number of threads; 0: train: all cores, conv: one, infer: one and two", AT(threads), 0, 1024,
     NULL, NULL},
    {OPT_INT, "steps", "N", "steps to time, after warm-up; 20 by default", AT(steps), 1, 1000000, NULL, NULL},
    {OPT_TEXT, "only", "NAMES", "only these configurations, separated by commas", AT(only), 0, 0, NULL, NULL},
    {OPT_TEXT, "pytorch", "PYTHON",
     "interpreter that has PyTorch; auto (default): /usr/bin/python3 if it has it; off: no comparison", AT(pytorch), 0, 0, NULL,
     NULL},
    {OPT_TEXT, "pytorch-script", "FILE", "the script for the comparison; bench/pytorch_lsq.py of this project by default",
     AT(script), 0, 0, NULL, NULL},
    {OPT_TEXT, "one", "NAME", "run one configuration in this process and print its JSON object", AT(one), 0, 0, NULL, NULL},
    {OPT_TEXT, "shape", "NAME", "conv: only this shape, such as 64@56: input channels at map", AT(shape), 0, 0, NULL, NULL},
    {OPT_TEXT, "model", "FILE", "infer: a packed file, or a model of this program", AT(model), 0, 0, NULL, NULL},
    {OPT_TEXT, "bits", "LIST", "infer: bits of weights and activations of --net; 8/8,4/4,2/2,1/1 by default; float is one, too",
     AT(bits), 0, 0, NULL, NULL},
    {OPT_TEXT, "save", "DIR", "infer: keep the models of random weights in this folder", AT(save), 0, 0, NULL, NULL},
    {OPT_CHOICE, "plan", NULL, "of infer: kernels by the table, or by timing them first", AT(plan), 0, 0, "table|measured",
     NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_bench = {
    .name = "bench",
    .summary = "Time a training step against PyTorch's, the integer convolutions against oneDNN's, or a network on the engine.",
    .text = "Configurations: fp32, lsq-w4a4, ewgs-w4a4, dorefa-w1, each also with -fast at the end; pytorch-fp32, "
            "pytorch-lsq-w4a4; only when named: interval-w4a4 (ewgs-w4a4 with STE), fcgrad-w1, multifc-w1, lstmfc-w1 and "
            "lstmfc-stateless-w1 (dorefa-w1 with MetaQuant's gradients).",
    .example = "bitwright bench train\n"
               "bitwright bench train --only fp32,lsq-w4a4,lsq-w4a4-fast --batch 64 --json\n"
               "bitwright bench conv --shape 64@56\n"
               "bitwright bench infer --model demo.packed --threads 2\n"
               "bitwright bench infer --net resnet18 --bits 8/8,2/2",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(bench_options),
    .run = run,
};

/* What is timed, in the order of a round: PyTorch's runs stand next to the ones that they are compared with. */
typedef struct configuration {
    const char *name;
    enum { USUAL, NAMED, PYTORCH } kind; /* NAMED: only when --only names it */
    const char *set[8];                  /* keys of the recipe */
} configuration;

#define FLOAT "quant.weight=none", "quant.activation=none"
#define LSQ4                                                                                                                   \
    "quant.weight=lsq", "quant.activation=lsq", "quant.weight_bits=4", "quant.activation_bits=4", "quant.policy=first-last-8"
#define INTERVAL4                                                                                                              \
    "quant.weight=interval", "quant.activation=interval", "quant.weight_bits=4", "quant.activation_bits=4", "quant.policy=inner"
#define EWGS4   INTERVAL4, "quant.weight_gradient=ewgs", "quant.activation_gradient=ewgs"
#define DOREFA1 "quant.weight=dorefa", "quant.activation=none", "quant.weight_bits=1", "quant.policy=inner"
static const configuration configurations[] = {
    {"fp32", USUAL, {FLOAT}},
    {"pytorch-fp32", PYTORCH, {NULL}},
    {"lsq-w4a4", USUAL, {LSQ4}},
    {"pytorch-lsq-w4a4", PYTORCH, {NULL}},
    {"ewgs-w4a4", USUAL, {EWGS4}},
    {"dorefa-w1", USUAL, {DOREFA1}},
    {"fp32-fast", USUAL, {FLOAT, "train.precision=fast"}},
    {"lsq-w4a4-fast", USUAL, {LSQ4, "train.precision=fast"}},
    {"ewgs-w4a4-fast", USUAL, {EWGS4, "train.precision=fast"}},
    {"dorefa-w1-fast", USUAL, {DOREFA1, "train.precision=fast"}},
    {"interval-w4a4", NAMED, {INTERVAL4}},
    {"fcgrad-w1", NAMED, {DOREFA1, "quant.weight_gradient=fcgrad"}},
    {"multifc-w1", NAMED, {DOREFA1, "quant.weight_gradient=multifc"}},
    {"lstmfc-w1", NAMED, {DOREFA1, "quant.weight_gradient=lstmfc"}},
    {"lstmfc-stateless-w1", NAMED, {DOREFA1, "quant.weight_gradient=lstmfc:state=0"}},
};

static int find_configuration(const char *name, size_t len)
{
    for (size_t i = 0; i < COUNT(configurations); i++) {
        if (strlen(configurations[i].name) == len && memcmp(configurations[i].name, name, len) == 0) return (int)i;
    }
    return -1;
}

static int unknown_configuration(const char *name, size_t len)
{
    const char *names[COUNT(configurations)];
    char word[64], buf[128];
    for (size_t i = 0; i < COUNT(configurations); i++) names[i] = configurations[i].name;
    snprintf(word, sizeof word, "%.*s", (int)len, name);
    fprintf(stderr, "bitwright bench: unknown configuration '%s'%s\nSee 'bitwright bench --help'.\n", word,
            options_suggest(word, names, COUNT(names), "", buf, sizeof buf));
    return EXIT_USAGE;
}

/* ---- One configuration in this process --------------------------------------------------------------------------------- */
static int run_one(const bench_options *o)
{
    int i = find_configuration(o->one, strlen(o->one));
    bw_error err = {0};
    bw_recipe *recipe = NULL;
    bw_bench_result r;
    size_t n = 0;
    if (i < 0 || configurations[i].kind == PYTORCH) return unknown_configuration(o->one, strlen(o->one));
    const configuration *c = &configurations[i];
    const bw_bench_options b = {.net = o->net, .batch = (int)o->batch, .threads = (int)o->threads, .steps = (int)o->steps};
    while (n < COUNT(c->set) && c->set[n]) n++;
    bw_status status = bw_recipe_load(&recipe, NULL, c->set, n, &err);
    if (status == BW_OK) status = bw_bench_train(recipe, &b, &r, &err);
    bw_recipe_destroy(&recipe);
    if (status != BW_OK) return report_failure("bench", &err);
    return print_json(json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "name", c->name, "step_ms",
                                r.step_ms_median, "step_ms_min", r.step_ms_min, "peak_mb", r.peak_mb, "planned_mb",
                                r.planned_mb, "forward_ms", r.forward_ms, "backward_ms", r.backward_ms, "quantizer_ms",
                                r.quantizer_ms, "norm_ms", r.norm_ms, "optimizer_ms", r.optimizer_ms, "other_ms", r.other_ms));
}

/* ---- Child processes --------------------------------------------------------------------------------------------------- */
/* Runs argv and returns its exit code (-1: it could not be run), with up to size - 1 bytes of its stdout in out. */
static int capture(char *const argv[], bool silent, char *out, size_t size)
{
    int fd[2], status = 0;
    size_t n = 0;
    char rest[256];
    fflush(stdout);
    if (pipe(fd) != 0) return -1;
    pid_t pid = fork();
    if (pid < 0) {
        close(fd[0]);
        close(fd[1]);
        return -1;
    }
    if (pid == 0) {
        dup2(fd[1], STDOUT_FILENO);
        close(fd[0]);
        close(fd[1]);
        if (silent && !freopen("/dev/null", "w", stderr)) _exit(127);
        execv(argv[0], argv);
        _exit(127);
    }
    close(fd[1]);
    for (;;) {
        ssize_t got = n + 1 < size ? read(fd[0], out + n, size - 1 - n) : read(fd[0], rest, sizeof rest);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        if (n + 1 < size) n += (size_t)got;
    }
    out[n] = '\0';
    close(fd[0]);
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) return -1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

typedef struct tools {
    char self[4096], python[4096], script[4096]; /* python "": no comparison */
} tools;

/* The folder of this program leads to the script: the root of the project when built there, share/ when installed. */
static bool find_script(const bench_options *o, tools *t)
{
    static const char *const beside[] = {"/../bench/pytorch_lsq.py", "/../share/bitwright/pytorch_lsq.py"};
    const char *slash = strrchr(t->self, '/');
    if (o->script) {
        snprintf(t->script, sizeof t->script, "%s", o->script);
        return access(t->script, R_OK) == 0;
    }
    for (size_t i = 0; slash && i < COUNT(beside); i++) {
        int n = snprintf(t->script, sizeof t->script, "%.*s%s", (int)(slash - t->self), t->self, beside[i]);
        if (n > 0 && (size_t)n < sizeof t->script && access(t->script, R_OK) == 0) return true;
    }
    return false;
}

/* Finds this program, an interpreter with PyTorch and the script. EXIT_OK, or EXIT_WORK when PyTorch was asked for and is not there. */
static int find_tools(const bench_options *o, tools *t)
{
    const char *python = !o->pytorch || strcmp(o->pytorch, "auto") == 0 ? "/usr/bin/python3" : o->pytorch;
    char out[16];
    ssize_t n = readlink("/proc/self/exe", t->self, sizeof t->self - 1);
    if (n <= 0) {
        fprintf(stderr, "bitwright bench: /proc/self/exe cannot be read: %s\n", strerror(errno));
        return EXIT_WORK;
    }
    t->self[n] = '\0';
    t->python[0] = '\0';
    if (o->pytorch && strcmp(o->pytorch, "off") == 0) return EXIT_OK;
    char *const argv[] = {(char *)python, (char *)"-c", (char *)"import torch", NULL};
    bool script = find_script(o, t);
    if (script && capture(argv, true, out, sizeof out) == 0) {
        snprintf(t->python, sizeof t->python, "%s", python);
        return EXIT_OK;
    }
    if (!o->pytorch || strcmp(o->pytorch, "auto") == 0) return EXIT_OK;
    if (script)
        fprintf(stderr, "bitwright bench: --pytorch: '%s' cannot import torch\n", python);
    else
        fputs("bitwright bench: the script pytorch_lsq.py was not found; name it with --pytorch-script\n", stderr);
    return EXIT_WORK;
}

/* Runs one configuration in a child; its JSON object, or NULL after a message. */
static json_t *run_child(const bench_options *o, const tools *t, const configuration *c)
{
    char batch[24], threads[24], steps[24], out[4096];
    const char *argv[20];
    size_t n = 0;
    snprintf(batch, sizeof batch, "%lld", o->batch ? (long long)o->batch : 128LL);
    snprintf(threads, sizeof threads, "%lld", (long long)o->threads);
    snprintf(steps, sizeof steps, "%lld", o->steps ? (long long)o->steps : 20LL);
    if (c->kind == PYTORCH) {
        const char *const head[] = {t->python, t->script, strchr(c->name, '-') + 1};
        for (; n < COUNT(head); n++) argv[n] = head[n];
    } else {
        const char *const head[] = {t->self, "bench", "train", "--one", c->name};
        for (; n < COUNT(head); n++) argv[n] = head[n];
        if (o->net) argv[n++] = "--net", argv[n++] = o->net;
        if (o->common.cpu) argv[n++] = "--cpu", argv[n++] = o->common.cpu;
    }
    const char *const tail[] = {"--batch", batch, "--threads", threads, "--steps", steps, NULL};
    for (size_t i = 0; i < COUNT(tail); i++) argv[n++] = tail[i];
    int code = capture((char *const *)argv, false, out, sizeof out);
    json_t *run = code == 0 ? json_loads(out, 0, NULL) : NULL;
    if (!run) fprintf(stderr, "bitwright bench: configuration %s failed (exit code %d)\n", c->name, code);
    return run;
}

/* ---- Results ----------------------------------------------------------------------------------------------------------- */
static double number(const json_t *run, const char *key)
{
    return json_number_value(json_object_get(run, key));
}

static void print_number(const json_t *run, const char *key, int width)
{
    if (json_is_number(json_object_get(run, key)))
        printf(" %*.1f", width, number(run, key));
    else
        printf(" %*s", width, "-");
}

static void print_table(const bench_options *o, json_t *const *runs)
{
    const json_t *fp32 = runs[0];
    printf("training step of %s, batch %lld, best of %d rounds; ms a step\n", o->net ? o->net : "resnet20",
           o->batch ? (long long)o->batch : 128LL, ROUNDS);
    printf("%-18s %8s %8s %8s %8s %9s %9s %8s %9s %8s %8s %8s\n", "configuration", "fastest", "median", "of fp32", "forward",
           "backward", "quantizer", "norm", "optimizer", "other", "peak MB", "plan MB");
    for (size_t i = 0; i < COUNT(configurations); i++) {
        if (!runs[i]) continue;
        printf("%-18s", configurations[i].name);
        print_number(runs[i], "step_ms_min", 8);
        print_number(runs[i], "step_ms", 8);
        if (fp32)
            printf(" %8.2f", number(runs[i], "step_ms_min") / number(fp32, "step_ms_min"));
        else
            printf(" %8s", "-");
        print_number(runs[i], "forward_ms", 8);
        print_number(runs[i], "backward_ms", 9);
        print_number(runs[i], "quantizer_ms", 9);
        print_number(runs[i], "norm_ms", 8);
        print_number(runs[i], "optimizer_ms", 9);
        print_number(runs[i], "other_ms", 8);
        print_number(runs[i], "peak_mb", 8);
        print_number(runs[i], "planned_mb", 8);
        putchar('\n');
    }
    for (size_t i = 0; i < COUNT(configurations); i++) {
        if (configurations[i].kind != PYTORCH || !runs[i]) continue;
        const char *name = strchr(configurations[i].name, '-') + 1;
        for (size_t k = 0; k < COUNT(configurations); k++) {
            if (!runs[k] || configurations[k].kind == PYTORCH || strncmp(configurations[k].name, name, strlen(name)) != 0)
                continue;
            printf("%s takes %.2f of PyTorch's time for %s\n", configurations[k].name,
                   number(runs[k], "step_ms_min") / number(runs[i], "step_ms_min"), name);
        }
    }
}

static int print_runs(json_t *const *runs)
{
    json_t *list = json_array();
    for (size_t i = 0; i < COUNT(configurations); i++) {
        if (runs[i]) json_array_append(list, runs[i]);
    }
    return print_json(json_pack("{s:o}", "runs", list));
}

/* Which configurations --only asks for; the usual ones without it. */
static int choose(const bench_options *o, bool *wanted)
{
    for (size_t i = 0; i < COUNT(configurations); i++) wanted[i] = !o->only && configurations[i].kind != NAMED;
    for (const char *p = o->only ? o->only : ""; *p;) {
        size_t n = strcspn(p, ",");
        int i = find_configuration(p, n);
        if (i < 0) return unknown_configuration(p, n);
        wanted[i] = true;
        p += n + (p[n] == ',');
    }
    return EXIT_OK;
}

static int run(void *options_)
{
    const bench_options *o = options_;
    bool wanted[COUNT(configurations)];
    json_t *runs[COUNT(configurations)] = {NULL};
    tools t;
    if (!strcmp(o->what, "conv")) return bench_conv(o->shape, (int)o->threads, o->json);
    if (!strcmp(o->what, "infer"))
        return bench_infer(
            &(infer_options){o->model, o->net, o->bits, o->save, o->plan, (int)o->threads, (int)o->batch, o->json});
    if (strcmp(o->what, "train") != 0) {
        fprintf(stderr, "bitwright bench: unknown benchmark '%s'; did you mean 'train'?\nSee 'bitwright bench --help'.\n",
                o->what);
        return EXIT_USAGE;
    }
    if (o->one) return run_one(o);
    int code = choose(o, wanted);
    if (code == EXIT_OK) code = find_tools(o, &t);
    for (int round = 0; round < ROUNDS && code == EXIT_OK; round++) {
        for (size_t i = 0; i < COUNT(configurations) && code == EXIT_OK; i++) {
            if (!wanted[i] || (configurations[i].kind == PYTORCH && !t.python[0])) continue;
            fprintf(stderr, "round %d of %d: %s\n", round + 1, ROUNDS, configurations[i].name);
            json_t *r = run_child(o, &t, &configurations[i]);
            if (!r) {
                code = EXIT_WORK;
            } else if (!runs[i] || number(r, "step_ms_min") < number(runs[i], "step_ms_min")) {
                json_decref(runs[i]);
                runs[i] = r;
            } else {
                json_decref(r);
            }
        }
    }
    if (code == EXIT_OK) {
        if (o->json)
            code = print_runs(runs);
        else
            print_table(o, runs);
    }
    for (size_t i = 0; i < COUNT(configurations); i++) json_decref(runs[i]);
    return code;
}
