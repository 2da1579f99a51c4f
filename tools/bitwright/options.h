/* Command-line options of every command: one table a command, from which parsing, checks, suggestions and --help all come. */
#ifndef BITWRIGHT_OPTIONS_H
#define BITWRIGHT_OPTIONS_H
#include <bitwright/bitwright.h>

enum { EXIT_OK = 0, EXIT_WORK = 1, EXIT_USAGE = 2 };

typedef enum option_type {
    OPT_ARG,       /* positional, required: const char * */
    OPT_ARG_MAYBE, /* positional, may be left out: const char * (NULL) */
    OPT_ARGS,      /* positional, any number of them, behind all others: strings */
    OPT_FLAG,      /* bool */
    OPT_TEXT,      /* const char * */
    OPT_INT,       /* int64_t in [min, max] */
    OPT_CHOICE,    /* const char *, one of `choices` */
    OPT_LIST,      /* strings; may be given several times */
} option_type;

/* Strings in the order in which they were given; each one is owned. */
typedef struct strings {
    char **v;
    size_t n;
} strings;

typedef struct option {
    option_type type;
    const char *name;  /* "out" for --out, "RECIPE" for a positional argument */
    const char *value; /* what help calls the value: "DIR"; NULL for flags and positional arguments */
    const char *help;
    size_t offset;       /* of the field in the command's options */
    int64_t min, max;    /* OPT_INT */
    const char *choices; /* OPT_CHOICE: "f32|fast" */
    const char
        *key; /* not NULL: the value is checked by the type and then appended as "key=value" to the strings at `offset` */
} option;

/* First member of every command's options. */
typedef struct common {
    const char *cpu;
    char **argv; /* what followed the command's name */
    int argc;
} common;

typedef struct command {
    const char *name, *summary;
    const char *text;    /* further lines of help, or NULL */
    const char *example; /* one command line a line */
    const option *options;
    size_t n_options;
    size_t size; /* of its options; all zero is the default */
    int (*run)(void *options);
} command;

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Fills `out` (c->size bytes, zeroed here). Returns -1 to go on; otherwise the exit code: EXIT_OK after --help, EXIT_USAGE after a message. */
int options_parse(const command *c, int argc, char **argv, void *out);
/* Frees the strings that parsing made. */
void options_free(const command *c, void *out);
/* "..., did you mean 'train'?" for the closest of n names, or "" when none is close; into buf. */
const char *options_suggest(const char *word, const char *const *names, size_t n, const char *prefix, char *buf, size_t size);
/* Appends a copy of s, or prefix, '=' and s; exits with EXIT_WORK when there is no memory. */
void strings_add(strings *list, const char *prefix, const char *s);
void strings_free(strings *list);
/* The command line that continues what was stopped, ready to be pasted into a shell, on stderr: that of this call, with --resume. */
void print_resume_line(const char *name, const common *c);
/* Says what went wrong and returns the exit code for it: bad arguments are bad usage, everything else is failed work. */
int report_failure(const char *name, const bw_error *err);
#endif
