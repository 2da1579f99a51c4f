/* The commands of the program: one file each, one row here. */
#ifndef BITWRIGHT_COMMANDS_H
#define BITWRIGHT_COMMANDS_H
#include "options.h"
#include <jansson.h>

#define COMMANDS(X) X(train) X(eval) X(import) X(info) X(analyze) X(export) X(verify) X(run) X(bench) X(list)
#define X(name)     extern const command command_##name;
COMMANDS(X)
#undef X

/* bench conv; threads 0: one. */
int bench_conv(const char *shape, int threads, bool json);
/* bench infer; batch 0: 32. */
int bench_infer(const char *model, int threads, int batch, bool json);

/* Prints one JSON value as one line on stdout and releases it; EXIT_OK or EXIT_WORK. NULL: it could not be built. */
int print_json(json_t *json);
#endif
