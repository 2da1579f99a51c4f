/* bitwright export: a trained model in a form that is deployed. */
#include "commands.h"
#include <stdio.h>

typedef struct export_options {
    common common;
    const char *model, *out, *to;
    bool json;
} export_options;

#define AT(f) offsetof(export_options, f)
static const option options[] = {
    {OPT_ARG, "MODEL", NULL, "model or checkpoint (safetensors) of this program", AT(model), 0, 0, NULL, NULL},
    {OPT_TEXT, "out", "FILE", "the file to write", AT(out), 0, 0, NULL, NULL},
    {OPT_TEXT, "to", "FORM",
     "packed (default): for the engine; c: a C99 file and its header; c-integer: the same without floats; onnx: "
     "QuantizeLinear, "
     "weights in int8 and int4; onnx13: int8 alone, for older runtimes; qonnx: Quant at its bits",
     AT(to), 0, 0, NULL, NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_export = {
    .name = "export",
    .summary = "Write a trained model in a form that is deployed.",
    .example = "bitwright export runs/demo-lsq-w2a2/model.safetensors --out demo.packed.safetensors\n"
               "bitwright export runs/demo-lsq-w2a2/model.safetensors --to c --out demo.c\n"
               "bitwright export runs/demo-lsq-w2a2/model.safetensors --to onnx --out demo.onnx",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(export_options),
    .run = run,
};

static int run(void *options_)
{
    const export_options *o = options_;
    bw_export_sizes sizes;
    bw_error err = {0};
    if (!o->out) {
        fprintf(stderr, "bitwright export: --out is missing: name the file to write\nSee 'bitwright export --help'.\n");
        return EXIT_USAGE;
    }
    if (bw_export(o->model, o->out, o->to, &sizes, &err) != BW_OK) return report_failure("export", &err);
    if (o->json)
        return print_json(json_pack("{s:s, s:I, s:I}", "file", o->out, "flash_bytes", (json_int_t)sizes.flash_bytes,
                                    "ram_bytes", (json_int_t)sizes.ram_bytes));
    if (sizes.flash_bytes)
        printf("%s: flash %zu bytes%s, RAM %zu bytes\n", o->out, sizes.flash_bytes,
               o->to && *o->to == 'c' ? " and its code" : "", sizes.ram_bytes);
    return EXIT_OK;
}
