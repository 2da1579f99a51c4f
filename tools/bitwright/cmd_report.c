/* bitwright report: what was searched and trained, side by side. */
#include "commands.h"
#include <stdio.h>

typedef struct report_options {
    common common;
    strings folders;
    const char *out;
} report_options;

#define AT(f) offsetof(report_options, f)
static const option options[] = {
    {OPT_ARGS, "DIR", NULL, "folders of searches and of training runs", AT(folders), 0, 0, NULL, NULL},
    {OPT_TEXT, "out", "DIR", "also write bits.svg, accuracy.svg, curves.svg and report.json into this folder", AT(out), 0, 0,
     NULL, NULL},
};

static int run(void *o);
const command command_report = {
    .name = "report",
    .summary = "Compare searches and training runs: a table, and pictures of bits, sizes and curves.",
    .text = "A search counts by its error on validation images, with the uniform bit-widths that it evaluated beside it; a run "
            "of training\n"
            "by its accuracy on the images that it was evaluated on: of the last epoch, the best, the mean of the last ten.",
    .example = "bitwright report runs/lsq-*\n"
               "bitwright report runs/hybrid-10x runs/hybrid-16x runs/hybrid-20x runs/uniform-3 --out pictures",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(report_options),
    .run = run,
};

static int run(void *options_)
{
    const report_options *o = options_;
    bw_error err = {0};
    char *text = NULL;
    if (!o->folders.n) {
        fprintf(stderr, "bitwright report: DIR is missing\nSee 'bitwright report --help'.\n");
        return EXIT_USAGE;
    }
    if (bw_report((const char *const *)o->folders.v, o->folders.n, o->out, &text, &err) != BW_OK)
        return report_failure("report", &err);
    fputs(text, stdout);
    bw_free(text);
    if (o->out) fprintf(stderr, "pictures and report.json are in %s\n", o->out);
    return EXIT_OK;
}
