/* The commands of the program: one file each, one row here. */
#ifndef BITWRIGHT_COMMANDS_H
#define BITWRIGHT_COMMANDS_H
#include "options.h"
#include <jansson.h>

#define COMMANDS(X)                                                                                                            \
    X(train) X(eval) X(import) X(info) X(analyze) X(search) X(report) X(export) X(verify) X(run) X(bench) X(list)
#define X(name) extern const command command_##name;
COMMANDS(X)
#undef X

/* bench conv; threads 0: one. */
int bench_conv(const char *shape, int threads, bool json);
/* bench infer */
typedef struct infer_options {
    const char *model;       /* a file, or */
    const char *net, *bits;  /* a family with random weights; bits "8/8,2/2", NULL: usual ones */
    const char *save, *plan; /* folder for the models; "measured", NULL: kernels by the table */
    int threads, batch;      /* 0: one and two; 0: 32 */
    bool json;
} infer_options;
int bench_infer(const infer_options *o);

/* Prints one JSON value as one line on stdout and releases it; EXIT_OK or EXIT_WORK. NULL: it could not be built. */
int print_json(json_t *json);
#endif
