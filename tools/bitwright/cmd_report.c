/* bitwright report: pictures of what was searched and trained. */
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
    {OPT_TEXT, "out", "DIR", "folder for bits.svg, accuracy.svg and report.json", AT(out), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_report = {
    .name = "report",
    .summary = "Draw the bits that searches found, and accuracy against size.",
    .text = "A search counts by its error on validation images, with the uniform bit-widths that it evaluated beside it; a run "
            "of training\n"
            "by its last accuracy on the images that it was evaluated on.",
    .example = "bitwright report runs/hybrid-10x runs/hybrid-16x runs/hybrid-20x runs/uniform-3 --out pictures",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(report_options),
    .run = run,
};

static int run(void *options_)
{
    const report_options *o = options_;
    bw_error err = {0};
    if (!o->folders.n || !o->out) {
        fprintf(stderr, "bitwright report: %s is missing\nSee 'bitwright report --help'.\n", o->folders.n ? "--out" : "DIR");
        return EXIT_USAGE;
    }
    if (bw_report((const char *const *)o->folders.v, o->folders.n, o->out, &err) != BW_OK)
        return report_failure("report", &err);
    printf("%s/bits.svg\n%s/accuracy.svg\n%s/report.json\n", o->out, o->out, o->out);
    return EXIT_OK;
}
