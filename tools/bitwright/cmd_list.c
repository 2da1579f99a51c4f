/* bitwright list: the rows that the library is built from. */
#include "commands.h"
#include <stdio.h>
#include <string.h>

typedef struct list_options {
    common common;
    const char *kind;
    bool json, markdown;
} list_options;

#define AT(f) offsetof(list_options, f)
static const option options[] = {
    {OPT_ARG_MAYBE, "KIND", NULL,
     "quantizer, gradient, policy, network, dataset, optimizer, schedule, format, operation, search or budget; all by default",
     AT(kind), 0, 0, NULL, NULL},
    {OPT_FLAG, "markdown", NULL, "print tables for documentation", AT(markdown), 0, 0, NULL, NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_list = {
    .name = "list",
    .summary = "List quantizers, gradient methods, networks and whatever else there is to choose from.",
    .example = "bitwright list quantizers",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(list_options),
    .run = run,
};

/* "quantizer" and "quantizers" both name the kind; -1: no such kind. */
static int kind_of(const char *word)
{
    for (int k = 0; k < BW_KIND_COUNT; k++) {
        const char *name = bw_kind_name((bw_kind)k);
        size_t n = strlen(name), stem = n && name[n - 1] == 'y' ? n - 1 : n; /* policy, policies */
        if (strcmp(word, name) == 0) return k;
        if (strncmp(word, name, stem) == 0 && strcmp(word + stem, stem < n ? "ies" : "s") == 0) return k;
    }
    return -1;
}

static int unknown_kind(const char *word)
{
    const char *names[BW_KIND_COUNT];
    char buf[128];
    for (int k = 0; k < BW_KIND_COUNT; k++) names[k] = bw_kind_name((bw_kind)k);
    fprintf(stderr, "bitwright list: unknown kind '%s'%s\nSee 'bitwright list --help'.\n", word,
            options_suggest(word, names, BW_KIND_COUNT, "", buf, sizeof buf));
    return EXIT_USAGE;
}

/* Text in a cell of a table: a bar would end the cell, a newline the row. */
static void print_cell(const char *s)
{
    for (; *s; s++) {
        if (*s == '|')
            fputs("\\|", stdout);
        else if (*s == '\n')
            fputs("; ", stdout);
        else
            putchar(*s);
    }
}

static void print_markdown(bw_kind kind)
{
    const char *name, *help, *detail;
    printf("## %c%s\n\n| name | what it does | options and ranges |\n|---|---|---|\n", bw_kind_name(kind)[0] - 'a' + 'A',
           bw_kind_name(kind) + 1);
    for (size_t i = 0; bw_list(kind, i, &name, &help, &detail); i++) {
        printf("| `%s` | ", name);
        print_cell(help);
        fputs(" | ", stdout);
        print_cell(detail);
        puts(" |");
    }
    putchar('\n');
}

static void print_text(bw_kind kind)
{
    const char *name, *help, *detail;
    printf("%s\n", bw_kind_name(kind));
    for (size_t i = 0; bw_list(kind, i, &name, &help, &detail); i++) {
        printf("  %-16s %s\n", name, help);
        for (const char *p = detail; *p;) {
            int n = (int)strcspn(p, "\n");
            printf("  %-16s   %.*s\n", "", n, p);
            p += n + (p[n] == '\n');
        }
    }
}

static json_t *rows_json(bw_kind kind)
{
    const char *name, *help, *detail;
    json_t *rows = json_array();
    for (size_t i = 0; bw_list(kind, i, &name, &help, &detail); i++)
        json_array_append_new(rows, json_pack("{s:s, s:s, s:s}", "name", name, "help", help, "detail", detail));
    return rows;
}

static int run(void *options_)
{
    const list_options *o = options_;
    int only = o->kind ? kind_of(o->kind) : -1;
    if (o->kind && only < 0) return unknown_kind(o->kind);
    json_t *all = o->json ? json_object() : NULL;
    if (o->markdown)
        puts("# Methods\n\nThe rows that the library is built from, as `bitwright list --markdown` prints them.\n");
    for (int k = 0; k < BW_KIND_COUNT; k++) {
        if (o->kind && k != only) continue;
        if (o->json)
            json_object_set_new(all, bw_kind_name((bw_kind)k), rows_json((bw_kind)k));
        else if (o->markdown)
            print_markdown((bw_kind)k);
        else
            print_text((bw_kind)k);
    }
    return o->json ? print_json(all) : EXIT_OK;
}
