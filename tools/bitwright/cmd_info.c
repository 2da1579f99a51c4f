/* bitwright info: what is in a weights file. */
#include "commands.h"
#include <stdio.h>
#include <string.h>

typedef struct info_options {
    common common;
    const char *file, *plan;
    bool json;
} info_options;

#define AT(f) offsetof(info_options, f)
static const option options[] = {
    {OPT_ARG, "FILE", NULL, "model, checkpoint, packed file, or weights file of PyTorch or safetensors", AT(file), 0, 0, NULL,
     NULL},
    {OPT_CHOICE, "plan", NULL, "how the engine chooses kernels: by the table, or by timing them first", AT(plan), 0, 0,
     "table|measured", NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_info = {
    .name = "info",
    .summary = "Describe a model, a checkpoint or another weights file.",
    .example = "bitwright info runs/demo-lsq-w4a4/model.safetensors",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(info_options),
    .run = run,
};

static int run(void *options_)
{
    const info_options *o = options_;
    bw_error err = {0};
    char *text = NULL;
    const bw_status st =
        bw_is_packed(o->file) ? bw_packed_info(o->file, o->plan, o->json, &text, &err) : bw_info(o->file, o->json, &text, &err);
    if (st != BW_OK) return report_failure("info", &err);
    int code = EXIT_OK;
    if (o->json)
        code = print_json(json_loads(text, 0, NULL)); /* on one line, as every command prints it */
    else
        printf("%s%s", text, *text && text[strlen(text) - 1] == '\n' ? "" : "\n");
    bw_free(text);
    return code;
}
