/* bitwright run: what is in these images? */
#include "commands.h"
#include <math.h>
#include <stdio.h>

typedef struct run_options {
    common common;
    const char *model, *data, *classes, *plan;
    strings images;
    int64_t limit, threads;
    bool json;
} run_options;

#define AT(f) offsetof(run_options, f)
static const option options[] = {
    {OPT_ARG, "MODEL", NULL, "model, checkpoint or packed file of this program", AT(model), 0, 0, NULL, NULL},
    {OPT_ARGS, "IMAGE", NULL, "PNG or JPEG files; they are made smaller and cut to what the network takes", AT(images), 0, 0,
     NULL, NULL},
    {OPT_TEXT, "data", "SPEC", "the test images of a data set instead: shapes, cifar10:DIR, cifar100:DIR, folder:DIR@SIZE",
     AT(data), 0, 0, NULL, NULL},
    {OPT_INT, "limit", "N", "only the first so many of them; 0: all", AT(limit), 0, 1000000000, NULL, NULL},
    {OPT_TEXT, "classes", "FILE", "names of the classes, one a line; those in the model by default", AT(classes), 0, 0, NULL,
     NULL},
    {OPT_INT, "threads", "N", "number of threads; 0: all cores", AT(threads), 0, 1024, NULL, NULL},
    {OPT_CHOICE, "plan", NULL, "how the engine chooses kernels: by the table, or by timing them first", AT(plan), 0, 0,
     "table|measured", NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_run = {
    .name = "run",
    .summary = "Classify images: the five most probable classes of each.",
    .text = "A quantized model runs on the engine, as it is deployed. The first file that cannot be read ends it.",
    .example = "bitwright run demo.packed cat.jpg dog.png\n"
               "bitwright run runs/demo-lsq-w2a2/model.safetensors --data shapes --limit 10 --json",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(run_options),
    .run = run,
};

typedef struct output {
    json_t *images; /* NULL: print as they come */
    bool failed;
} output;

static void print_class(const char *name, int index)
{
    if (name)
        printf("%s", name);
    else
        printf("class %d", index);
}

static void print_prediction(const bw_prediction *p)
{
    if (p->image)
        printf("%s:", p->image);
    else
        printf("%lld (", (long long)p->number), print_class(p->label_name, p->label), printf("):");
    for (int i = 0; i < p->n; i++) {
        printf(i ? ", " : " ");
        print_class(p->best[i].name, p->best[i].index);
        printf(" %.2f %%", 100 * p->best[i].probability);
    }
    putchar('\n');
}

/* A file's name need not be UTF-8, which JSON wants; then there is none. */
static json_t *text_or_null(const char *s)
{
    json_t *text = s ? json_string(s) : NULL;
    return text ? text : json_null();
}

static void take(void *user, const bw_prediction *p)
{
    output *out = user;
    if (!out->images) {
        print_prediction(p);
        return;
    }
    json_t *top = json_array();
    for (int i = 0; i < p->n; i++)
        if (json_array_append_new(top, json_pack("{s:i, s:o, s:f}", "class", p->best[i].index, "name",
                                                 text_or_null(p->best[i].name), "probability", p->best[i].probability)))
            out->failed = true;
    json_t *image = p->image ? json_pack("{s:o, s:o}", "image", text_or_null(p->image), "top", top)
                             : json_pack("{s:I, s:i, s:o, s:o}", "number", (json_int_t)p->number, "label", p->label,
                                         "label_name", text_or_null(p->label_name), "top", top);
    if (json_array_append_new(out->images, image)) out->failed = true;
}

static int run(void *options_)
{
    const run_options *o = options_;
    const bw_run_options r = {
        .data = o->data, .limit = (int)o->limit, .classes = o->classes, .threads = (int)o->threads, .plan = o->plan};
    output out = {.images = o->json ? json_array() : NULL};
    bw_run_result result;
    bw_error err = {0};
    const bw_status st = bw_run(o->model, (const char *const *)o->images.v, o->images.n, &r, take, &out, &result, &err);
    if (st != BW_OK) {
        json_decref(out.images);
        return report_failure("run", &err);
    }
    const bool labels = !isnan(result.top1);
    if (!o->json) {
        if (labels) printf("%lld images: top-1 %.2f %%, top-5 %.2f %%\n", (long long)result.images, result.top1, result.top5);
        return EXIT_OK;
    }
    json_t *json = out.failed ? NULL : json_pack("{s:o, s:b}", "images", out.images, "engine", result.engine);
    if (json && labels) {
        json_object_set_new(json, "top1", json_real(result.top1));
        json_object_set_new(json, "top5", json_real(result.top5));
    }
    return print_json(json);
}
