/* bitwright eval: accuracy of a model. */
#include "commands.h"
#include <stdio.h>

typedef struct eval_options {
    common common;
    const char *model, *data, *normalize, *precision, *plan;
    int64_t batch, threads;
    bool train_split, json;
} eval_options;

#define AT(f) offsetof(eval_options, f)
static const option options[] = {
    {OPT_ARG, "MODEL", NULL, "model, checkpoint or packed file of this program", AT(model), 0, 0, NULL, NULL},
    {OPT_TEXT, "data", "SPEC",
     "data set: shapes, cifar10:DIR, cifar100:DIR, folder:DIR@SIZE; what the model was trained on by default", AT(data), 0, 0,
     NULL, NULL},
    {OPT_TEXT, "normalize", "NAME", "constants: cifar, imagenet or half; as stored in the model by default", AT(normalize), 0,
     0, NULL, NULL},
    {OPT_CHOICE, "precision", NULL,
     "the training graph in f32, or fast: integer convolutions; without it, quantized models run on the engine", AT(precision),
     0, 0, "f32|fast", NULL},
    {OPT_CHOICE, "plan", NULL, "how the engine chooses kernels: by the table, or by timing them first", AT(plan), 0, 0,
     "table|measured", NULL},
    {OPT_INT, "batch", "N", "images at a time; 250 by default", AT(batch), 1, 65536, NULL, NULL},
    {OPT_INT, "threads", "N", "number of threads; 0: all cores", AT(threads), 0, 1024, NULL, NULL},
    {OPT_FLAG, "train-split", NULL, "the training images, without augmentation, instead of the test images", AT(train_split), 0,
     0, NULL, NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_eval = {
    .name = "eval",
    .summary = "Measure the accuracy of a model.",
    .example = "bitwright eval runs/demo-fp32/model.safetensors\n"
               "bitwright eval model.safetensors --data cifar10:data/cifar-10-batches-bin --json",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(eval_options),
    .run = run,
};

static int run(void *options_)
{
    const eval_options *o = options_;
    bw_error err = {0};
    bw_eval_result r;
    bw_eval_options e = {.data = o->data,
                         .normalize = o->normalize,
                         .precision = o->precision,
                         .batch = (int)o->batch,
                         .threads = (int)o->threads,
                         .train_split = o->train_split,
                         .plan = o->plan};
    if (bw_eval(o->model, &e, &r, &err) != BW_OK) return report_failure("eval", &err);
    if (o->json)
        return print_json(json_pack("{s:f, s:f, s:f, s:f, s:I, s:b}", "top1", r.top1, "top5", r.top5, "loss", r.loss,
                                    "images_per_s", r.images_per_s, "images", (json_int_t)r.images, "engine", r.engine));
    printf("top-1 %.2f %%, top-5 %.2f %%, loss %.4f, %lld images, %.0f images/s%s\n", r.top1, r.top5, r.loss,
           (long long)r.images, r.images_per_s, r.engine ? ", on the engine" : "");
    return EXIT_OK;
}
