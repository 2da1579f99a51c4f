/* bitwright verify: the engine against the training graph. */
#include "commands.h"
#include <stdio.h>
#include <string.h>

typedef struct verify_options {
    common common;
    const char *model, *data, *compiler;
    int64_t limit, threads;
    bool integer, json;
} verify_options;

#define AT(f) offsetof(verify_options, f)
static const option options[] = {
    {OPT_ARG, "MODEL", NULL, "model or checkpoint (safetensors) of this program", AT(model), 0, 0, NULL, NULL},
    {OPT_TEXT, "data", "SPEC",
     "data set: shapes, cifar10:DIR, cifar100:DIR, folder:DIR@SIZE; what the model was trained on by default", AT(data), 0, 0,
     NULL, NULL},
    {OPT_INT, "limit", "N", "only the first so many test images; 0: all", AT(limit), 0, 1000000000, NULL, NULL},
    {OPT_INT, "threads", "N", "number of threads; 0: all cores", AT(threads), 0, 1024, NULL, NULL},
    {OPT_TEXT, "compiler", "CC", "compiler for the exported C code; cc by default, none: leave the C code out", AT(compiler), 0,
     0, NULL, NULL},
    {OPT_FLAG, "c-integer", NULL, "compile the C code without floats in place of that with them", AT(integer), 0, 0, NULL,
     NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_verify = {
    .name = "verify",
    .summary = "Compare engine, exported C code and training graph on the same images.",
    .text = "The engine runs on every instruction set of this CPU. Exits with 1 when a logit differs between those, or in the "
            "C code.",
    .example = "bitwright verify runs/demo-lsq-w2a2/model.safetensors --limit 500",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(verify_options),
    .run = run,
};

/* Rows as JSON, or as a table. */
typedef struct layers {
    json_t *json; /* NULL: print */
    bool any, failed;
} layers;

static void take(void *user, const bw_verify_layer *l)
{
    layers *all = user;
    if (all->json) {
        if (json_array_append_new(all->json,
                                  json_pack("{s:s, s:i, s:I, s:I, s:I, s:i}", "name", l->name, "bits", l->bits, "codes",
                                            (json_int_t)l->codes, "differing_codes", (json_int_t)l->differing_codes,
                                            "differing_images", (json_int_t)l->differing_images, "largest_difference",
                                            l->largest_difference)))
            all->failed = true;
        return;
    }
    if (!all->any)
        printf("%-36s %4s %13s %11s %10s %8s\n", "codes, training graph and engine", "bits", "codes", "differ", "in images",
               "by up to");
    all->any = true;
    printf("%-36s %4d %13lld %11lld %10lld %8d\n", l->name, l->bits, (long long)l->codes, (long long)l->differing_codes,
           (long long)l->differing_images, l->largest_difference);
}

static int run(void *options_)
{
    const verify_options *o = options_;
    const char *compiler = o->compiler ? o->compiler : "cc";
    layers all = {.json = o->json ? json_array() : NULL};
    const bw_verify_options v = {.data = o->data,
                                 .limit = (int)o->limit,
                                 .threads = (int)o->threads,
                                 .compiler = strcmp(compiler, "none") != 0 ? compiler : NULL,
                                 .integer_code = o->integer,
                                 .layer = take,
                                 .user = &all};
    bw_verify_result r;
    bw_error err = {0};
    if (bw_verify(o->model, &v, &r, &err) != BW_OK) {
        json_decref(all.json);
        return report_failure("verify", &err);
    }
    const int code = r.differing_logits ? EXIT_WORK : EXIT_OK;
    if (o->json) {
        json_t *json =
            json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:s, s:o}", "images", (json_int_t)r.images, "differing_logits",
                      (json_int_t)r.differing_logits, "differing_classes", (json_int_t)r.differing_classes,
                      "largest_difference", r.largest_difference, "graph_top1", r.graph_top1, "engine_top1", r.engine_top1,
                      "packed_bytes", (json_int_t)r.packed_bytes, "engines", r.engines, "layers", all.json);
        if (all.failed) json_decref(json), json = NULL;
        const int printed = print_json(json);
        return printed == EXIT_OK ? code : printed;
    }
    printf("%lld images; engine on %s: %lld logits differ\n", (long long)r.images, r.engines, (long long)r.differing_logits);
    printf("training graph: %lld images get another class, logits differ by at most %.3g\n", (long long)r.differing_classes,
           r.largest_difference);
    printf("top-1: training graph %.2f %%, engine %.2f %%; packed file %llu bytes\n", r.graph_top1, r.engine_top1,
           (unsigned long long)r.packed_bytes);
    return code;
}
