/* bitwright import: weights of PyTorch or safetensors into a model. */
#include "commands.h"
#include <stdio.h>
#include <string.h>

typedef struct import_options {
    common common;
    const char *in, *out, *net, *shortcut, *normalize;
    int64_t classes;
    bool last_bn, allow_missing, json;
} import_options;

#define AT(f) offsetof(import_options, f)
static const option options[] = {
    {OPT_ARG, "IN", NULL, "weights: a PyTorch (.th, .pth, .pt) or safetensors file", AT(in), 0, 0, NULL, NULL},
    {OPT_TEXT, "net", "NAME", "the network that the weights are of, such as resnet20 (see 'bitwright list networks')", AT(net),
     0, 0, NULL, NULL},
    {OPT_TEXT, "out", "FILE", "the model to write", AT(out), 0, 0, NULL, NULL},
    {OPT_CHOICE, "shortcut", NULL, "shortcuts between stages: A (subsample and pad, default) or projection (1x1 convolution)",
     AT(shortcut), 0, 0, "A|projection", NULL},
    {OPT_INT, "classes", "N", "number of classes; from the shape of the last layer by default", AT(classes), 1, 1000000, NULL,
     NULL},
    {OPT_FLAG, "last-bn", NULL, "the network has a BatchNorm before the classifier", AT(last_bn), 0, 0, NULL, NULL},
    {OPT_TEXT, "normalize", "NAME", "constants that the network expects: cifar (default), imagenet or half", AT(normalize), 0,
     0, NULL, NULL},
    {OPT_FLAG, "allow-missing", NULL, "keep initial values of parameters that the file lacks", AT(allow_missing), 0, 0, NULL,
     NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_import = {
    .name = "import",
    .summary = "Turn a PyTorch or safetensors weights file into a model.",
    .example = "bitwright import resnet20.th --net resnet20 --normalize imagenet --out resnet20.safetensors",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(import_options),
    .run = run,
};

/* {"in", "out", "report": [lines], "model": what info says of the model} */
static int print_report_json(const import_options *o, const char *report)
{
    bw_error err = {0};
    char *info = NULL;
    if (bw_info(o->out, true, &info, &err) != BW_OK) return report_failure("import", &err);
    json_t *lines = json_array(), *model = json_loads(info, 0, NULL);
    bw_free(info);
    for (const char *p = report; *p;) {
        size_t n = strcspn(p, "\n");
        json_array_append_new(lines, json_stringn(p, n));
        p += n + (p[n] == '\n');
    }
    return print_json(json_pack("{s:s, s:s, s:o, s:o}", "in", o->in, "out", o->out, "report", lines, "model", model));
}

/* The report but for the names that were matched, of which there are as many as parameters; --json has them all. */
static void print_report(const char *report, FILE *to)
{
    for (const char *p = report; *p;) {
        const int n = (int)strcspn(p, "\n");
        if (strncmp(p, "found: ", 7) != 0) fprintf(to, "%.*s\n", n, p);
        p += n + (p[n] == '\n');
    }
}

static int run(void *options_)
{
    const import_options *o = options_;
    bw_error err = {0};
    char *report = NULL;
    bw_import_options i = {.net = o->net,
                           .shortcut = o->shortcut,
                           .classes = (int)o->classes,
                           .last_bn = o->last_bn,
                           .allow_missing = o->allow_missing,
                           .normalize = o->normalize};
    if (!o->net || !o->out) {
        fprintf(stderr, "bitwright import: --%s is missing\nSee 'bitwright import --help'.\n", o->net ? "out" : "net");
        return EXIT_USAGE;
    }
    bw_status status = bw_import(o->in, o->out, &i, &report, &err);
    int code = EXIT_OK;
    if (status != BW_OK) {
        if (report) print_report(report, stderr);
        code = report_failure("import", &err);
    } else if (o->json) {
        code = print_report_json(o, report);
    } else {
        print_report(report, stdout);
        printf("wrote %s\n", o->out);
    }
    bw_free(report);
    return code;
}
