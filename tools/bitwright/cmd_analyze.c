/* bitwright analyze: what quantization did to a model. */
#include "commands.h"
#include <stdio.h>
#include <string.h>

typedef struct analyze_options {
    common common;
    const char *model, *data, *normalize, *run, *out;
    int64_t batches, batch, threads;
    bool json;
} analyze_options;

#define AT(f) offsetof(analyze_options, f)
static const option options[] = {
    {OPT_ARG, "MODEL", NULL, "model or checkpoint (safetensors) of this program, with quantized layers", AT(model), 0, 0, NULL,
     NULL},
    {OPT_TEXT, "data", "SPEC",
     "data set: shapes, cifar10:DIR, cifar100:DIR, folder:DIR@SIZE; what the model was trained on by default", AT(data), 0, 0,
     NULL, NULL},
    {OPT_TEXT, "normalize", "NAME", "constants: cifar, imagenet or half; as stored in the model by default", AT(normalize), 0,
     0, NULL, NULL},
    {OPT_TEXT, "run", "DIR", "folder of a run, for values by epoch from its log.jsonl; the model's folder by default", AT(run),
     0, 0, NULL, NULL},
    {OPT_INT, "batches", "N", "batches of test and of training images to look at; 8 by default", AT(batches), 1, 1000000, NULL,
     NULL},
    {OPT_INT, "batch", "N", "images in a batch; 128 by default", AT(batch), 1, 65536, NULL, NULL},
    {OPT_TEXT, "out", "DIR", "also write analysis.json and pictures (SVG) into this folder", AT(out), 0, 0, NULL, NULL},
    {OPT_INT, "threads", "N", "number of threads; 0: all cores", AT(threads), 0, 1024, NULL, NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_analyze = {
    .name = "analyze",
    .summary = "Show what quantization did to a model, layer by layer.",
    .text =
        "R: relative update of the step size over that of the weights, for the gradient scales 1, 1/sqrt(N) and 1/sqrt(N*Qp)\n"
        "(LSQ, equation 4). |s - s_min| / s: how far the learned step size s is from the one that minimises the mean absolute\n"
        "error, the mean square error and the KL divergence (LSQ, section 3.6). Both are for LSQ quantizers.",
    .example = "bitwright analyze runs/demo-lsq-w2a2/model.safetensors\n"
               "bitwright analyze model.safetensors --data cifar10:data/cifar-10-batches-bin --out analysis",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(analyze_options),
    .run = run,
};

static int run(void *options_)
{
    const analyze_options *o = options_;
    bw_error err = {0};
    char *text = NULL;
    const bw_analyze_options a = {.data = o->data,
                                  .normalize = o->normalize,
                                  .run = o->run,
                                  .out = o->out,
                                  .batches = (int)o->batches,
                                  .batch = (int)o->batch,
                                  .threads = (int)o->threads};
    if (bw_analyze(o->model, &a, o->json, &text, &err) != BW_OK) return report_failure("analyze", &err);
    printf("%s%s", text, *text && text[strlen(text) - 1] == '\n' ? "" : "\n");
    bw_free(text);
    return EXIT_OK;
}
