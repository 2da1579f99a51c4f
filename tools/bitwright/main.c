/* bitwright: the program. Finds the command, parses its options by its table and runs it. */
#include "commands.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command *const commands[] = {
#define X(name) &command_##name,
    COMMANDS(X)
#undef X
};

static int print_usage(FILE *f)
{
    fputs("usage: bitwright COMMAND [arguments] [options]\n\n"
          "Trains convolutional networks with 1- to 8-bit weights and activations.\n\ncommands:\n",
          f);
    for (size_t i = 0; i < COUNT(commands); i++) fprintf(f, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n'bitwright COMMAND --help' describes a command; 'bitwright --version' names the version and the CPU.\n"
          "Exit codes: 0 success, 1 the work failed, 2 bad usage.\n",
          f);
    return f == stdout ? EXIT_OK : EXIT_USAGE;
}

static const command *find(const char *name)
{
    for (size_t i = 0; i < COUNT(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    }
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[COUNT(commands)];
    char buf[128];
    for (size_t i = 0; i < COUNT(commands); i++) names[i] = commands[i]->name;
    fprintf(stderr, "bitwright: unknown command '%s'%s\nSee 'bitwright --help'.\n", name,
            options_suggest(name, names, COUNT(names), "", buf, sizeof buf));
    return EXIT_USAGE;
}

int print_json(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(8)) : NULL;
    if (json) json_decref(json);
    if (!text) {
        fputs("bitwright: out of memory\n", stderr);
        return EXIT_WORK;
    }
    puts(text);
    free(text);
    return EXIT_OK;
}

/* A full disk or a closed pipe shows only when the buffer is written. */
static int flush_stdout(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    perror("bitwright: standard output");
    return code ? code : EXIT_WORK;
}

static int run(const command *c, int argc, char **argv)
{
    bw_error err = {0};
    void *options = malloc(c->size);
    if (!options) {
        fputs("bitwright: out of memory\n", stderr);
        return EXIT_WORK;
    }
    int code = options_parse(c, argc, argv, options);
    if (code < 0) {
        const char *cpu = ((const common *)options)->cpu;
        code = cpu && bw_cpu_limit(cpu, &err) != BW_OK ? report_failure(c->name, &err) : c->run(options);
    }
    options_free(c, options);
    free(options);
    return code;
}

int main(int argc, char **argv)
{
    int code;
    if (argc < 2) return print_usage(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        code = print_usage(stdout);
    } else if (strcmp(argv[1], "--version") == 0) {
        printf("bitwright %s\n%s\n", BW_VERSION, bw_cpu_text());
        code = EXIT_OK;
    } else {
        const command *c = find(argv[1]);
        code = c ? run(c, argc - 2, argv + 2) : unknown_command(argv[1]);
    }
    return flush_stdout(code);
}
