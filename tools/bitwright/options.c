#include "options.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Accepted by every command; its fields live in `common`. */
static const option common_options[] = {
    {OPT_TEXT, "cpu", "NAME", "use no more than these instruction sets: ref, avx2, avx512, native", offsetof(common, cpu), 0, 0,
     NULL, NULL},
};

static int usage_error(const command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int usage_error(const command *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "bitwright %s: ", c->name);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\nSee 'bitwright %s --help'.\n", c->name);
    va_end(ap);
    return EXIT_USAGE;
}

static bool is_positional(const option *o)
{
    return o->type == OPT_ARG || o->type == OPT_ARG_MAYBE || o->type == OPT_ARGS;
}

static bool is_list(const option *o)
{
    return o->key || o->type == OPT_LIST || o->type == OPT_ARGS;
}

/* The i-th option of a command, its own ones first; NULL past the end. */
static const option *option_at(const command *c, size_t i)
{
    if (i < c->n_options) return &c->options[i];
    i -= c->n_options;
    return i < COUNT(common_options) ? &common_options[i] : NULL;
}

static void *field(void *out, const option *o)
{
    return (char *)out + o->offset;
}

/* Edit distance with swaps of neighbours, over words too short for anything cleverer. */
static size_t distance(const char *a, const char *b)
{
    enum { MAX = 40 };
    size_t n = strlen(a), m = strlen(b), d[MAX + 1][MAX + 1];
    if (n > MAX || m > MAX) return MAX;
    for (size_t i = 0; i <= n; i++) {
        for (size_t j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const char *options_suggest(const char *word, const char *const *names, size_t n, const char *prefix, char *buf, size_t size)
{
    const char *best = NULL;
    size_t best_distance = strlen(word) / 3 + 2; /* farther than that is another word, not a typo */
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, names[i]);
        if (d < best_distance) best_distance = d, best = names[i];
    }
    if (best)
        snprintf(buf, size, "; did you mean '%s%s'?", prefix, best);
    else
        buf[0] = '\0';
    return buf;
}

void strings_add(strings *list, const char *prefix, const char *s)
{
    size_t size = strlen(s) + 1 + (prefix ? strlen(prefix) + 1 : 0);
    char **v = realloc(list->v, (list->n + 1) * sizeof *v), *copy = malloc(size);
    if (v) list->v = v;
    if (!v || !copy) {
        fputs("bitwright: out of memory\n", stderr);
        exit(EXIT_WORK);
    }
    snprintf(copy, size, "%s%s%s", prefix ? prefix : "", prefix ? "=" : "", s);
    list->v[list->n++] = copy;
}

void strings_free(strings *list)
{
    for (size_t i = 0; i < list->n; i++) free(list->v[i]);
    free(list->v);
    *list = (strings){0};
}

static bool in_choices(const char *choices, const char *value)
{
    size_t len = strlen(value);
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        if (n == len && memcmp(p, value, n) == 0) return true;
        p += n + (p[n] == '|');
    }
    return false;
}

/* Checks a value by its option's type and stores it; -1 or an exit code. */
static int store(const command *c, const option *o, const char *value, void *out)
{
    const char *dashes = is_positional(o) ? "" : "--";
    int64_t number = 0;
    if (o->type == OPT_INT) {
        char *end;
        errno = 0;
        long long v = strtoll(value, &end, 10);
        if (end == value || *end || value[0] == ' ' || value[0] == '\t' || value[0] == '\n')
            return usage_error(c, "%s%s: '%s' is not a whole number", dashes, o->name, value);
        if (errno == ERANGE || v < o->min || v > o->max)
            return usage_error(c, "%s%s: %s is not between %" PRId64 " and %" PRId64, dashes, o->name, value, o->min, o->max);
        number = v;
    }
    if (o->type == OPT_CHOICE && !in_choices(o->choices, value))
        return usage_error(c, "%s%s: '%s' is not one of %s", dashes, o->name, value, o->choices);
    if (!*value) return usage_error(c, "%s%s: the value is empty", dashes, o->name);

    if (is_list(o))
        strings_add(field(out, o), o->key, value);
    else if (o->type == OPT_INT)
        *(int64_t *)field(out, o) = number;
    else
        *(const char **)field(out, o) = value;
    return -1;
}

static void print_row(const char *left, const char *help, int width)
{
    printf("  %-*s  %s\n", width, left, help);
}

static void left_column(const option *o, char *buf, size_t size)
{
    if (is_positional(o))
        snprintf(buf, size, "%s", o->name);
    else if (o->type == OPT_CHOICE)
        snprintf(buf, size, "--%s %s", o->name, o->choices);
    else
        snprintf(buf, size, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
}

static int print_help(const command *c)
{
    char left[80];
    int width = 0;
    printf("usage: bitwright %s", c->name);
    for (size_t i = 0; i < c->n_options; i++) {
        if (c->options[i].type == OPT_ARG) printf(" %s", c->options[i].name);
        if (c->options[i].type == OPT_ARG_MAYBE) printf(" [%s]", c->options[i].name);
        if (c->options[i].type == OPT_ARGS) printf(" [%s...]", c->options[i].name);
    }
    printf(" [options]\n\n%s\n", c->summary);
    if (c->text) printf("%s\n", c->text);
    for (size_t i = 0; option_at(c, i); i++) {
        left_column(option_at(c, i), left, sizeof left);
        if ((int)strlen(left) > width) width = (int)strlen(left);
    }
    for (int positional = 1; positional >= 0; positional--) {
        bool any = false;
        for (size_t i = 0; option_at(c, i); i++) {
            const option *o = option_at(c, i);
            if (is_positional(o) != (positional == 1)) continue;
            if (!any) puts(positional ? "\narguments:" : "\noptions:");
            any = true;
            left_column(o, left, sizeof left);
            print_row(left, o->help, width);
        }
    }
    print_row("--help", "show this", width);
    puts("\nexample:");
    for (const char *p = c->example; *p;) {
        int n = (int)strcspn(p, "\n");
        printf("  %.*s\n", n, p);
        p += n + (p[n] == '\n');
    }
    return EXIT_OK;
}

static int unknown_option(const command *c, const char *arg, size_t len)
{
    enum { MAX_OPTIONS = 40 };
    const char *names[MAX_OPTIONS];
    char word[64], buf[128];
    size_t n = 0;
    for (size_t i = 0; option_at(c, i) && n + 1 < MAX_OPTIONS; i++) {
        if (!is_positional(option_at(c, i))) names[n++] = option_at(c, i)->name;
    }
    names[n++] = "help";
    snprintf(word, sizeof word, "%.*s", (int)len, arg);
    options_suggest(word + strspn(word, "-"), names, n, "--", buf, sizeof buf);
    return usage_error(c, "unknown option '%s'%s", word, buf);
}

/* One argument that begins with "--"; *next is the one after it. -1 or an exit code. */
static int parse_option(const command *c, const char *arg, char **next, bool *used_next, void *out)
{
    size_t len = strcspn(arg, "=");
    const char *value = arg[len] == '=' ? arg + len + 1 : NULL;
    const option *o = NULL;
    for (size_t i = 0; option_at(c, i); i++) {
        const option *at = option_at(c, i);
        if (!is_positional(at) && strlen(at->name) == len - 2 && memcmp(at->name, arg + 2, len - 2) == 0) o = at;
    }
    if (!o) return unknown_option(c, arg, len);
    if (o->type == OPT_FLAG) {
        if (value) return usage_error(c, "--%s takes no value", o->name);
        *(bool *)field(out, o) = true;
        return -1;
    }
    if (!value) {
        if (!*next || strncmp(*next, "--", 2) == 0) return usage_error(c, "--%s needs a value", o->name);
        value = *next;
        *used_next = true;
    }
    return store(c, o, value, out);
}

int options_parse(const command *c, int argc, char **argv, void *out)
{
    size_t at = 0; /* in c->options, for positional arguments */
    bool only_arguments = false;
    memset(out, 0, c->size);
    ((common *)out)->argv = argv;
    ((common *)out)->argc = argc;
    for (int i = 0; i < argc; i++) {
        int code = -1;
        if (!only_arguments && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) return print_help(c);
        if (!only_arguments && strcmp(argv[i], "--") == 0) {
            only_arguments = true;
        } else if (!only_arguments && strncmp(argv[i], "--", 2) == 0) {
            bool used_next = false;
            code = parse_option(c, argv[i], &argv[i + 1], &used_next, out); /* argv ends with NULL */
            i += used_next;
        } else if (!only_arguments && argv[i][0] == '-' && argv[i][1]) {
            code = unknown_option(c, argv[i], strlen(argv[i]));
        } else {
            while (at < c->n_options && !is_positional(&c->options[at])) at++;
            if (at == c->n_options) return usage_error(c, "unexpected argument '%s'", argv[i]);
            code = store(c, &c->options[at], argv[i], out);
            at += c->options[at].type != OPT_ARGS;
        }
        if (code >= 0) return code;
    }
    for (; at < c->n_options; at++) {
        if (c->options[at].type == OPT_ARG) return usage_error(c, "%s is missing", c->options[at].name);
    }
    return -1;
}

void options_free(const command *c, void *out)
{
    for (size_t i = 0; i < c->n_options; i++) {
        const option *o = &c->options[i];
        if (is_list(o)) strings_free(field(out, o));
    }
}

void print_resume_line(const char *name, const common *c)
{
    static const char *const left_out[] = {"--overwrite", "--resume"}, *const with_value[] = {"--stop-after-steps",
                                                                                              "--stop-after"};
    fprintf(stderr, "bitwright %s", name);
    for (int i = 0; i < c->argc; i++) {
        const char *a = c->argv[i];
        bool skip = false;
        for (size_t k = 0; k < COUNT(left_out); k++) skip = skip || strcmp(a, left_out[k]) == 0;
        for (size_t k = 0; k < COUNT(with_value) && !skip; k++) {
            const size_t n = strlen(with_value[k]);
            skip = strncmp(a, with_value[k], n) == 0 && (a[n] == '=' || !a[n]);
            if (skip && !a[n]) i++;
        }
        if (skip) continue;
        if (!a[strspn(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,.:/@%")]) {
            fprintf(stderr, " %s", a);
            continue;
        }
        fputs(" '", stderr);
        for (const char *p = a; *p; p++) {
            if (*p == '\'')
                fputs("'\\''", stderr);
            else
                fputc(*p, stderr);
        }
        fputc('\'', stderr);
    }
    fputs(" --resume\n", stderr);
}

int report_failure(const char *name, const bw_error *err)
{
    fprintf(stderr, "bitwright %s: %s\n", name, err->msg[0] ? err->msg : bw_status_text(err->status));
    return err->status == BW_ARG ? EXIT_USAGE : EXIT_WORK;
}
