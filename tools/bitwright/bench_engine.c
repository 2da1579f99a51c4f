/* bitwright bench conv: the integer kernels against oneDNN. */
#include "commands.h"
#include <stdio.h>

typedef struct table {
    json_t *rows; /* NULL: print as they come */
    bool failed;
} table;

static void show(void *user, const bw_bench_row *r)
{
    table *t = user;
    if (!t->rows) {
        printf("%-12s %dx%-4d %-14s %8.1f %9.2f\n", r->shape, r->activation_bits, r->weight_bits, r->name, r->gops,
               r->against_onednn);
        fflush(stdout);
        return;
    }
    if (json_array_append_new(t->rows, json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:f}", "name", r->name, "shape", r->shape,
                                                 "activation_bits", r->activation_bits, "weight_bits", r->weight_bits,
                                                 "threads", r->threads, "gops", r->gops, "against_onednn", r->against_onednn)))
        t->failed = true;
}

int bench_conv(const char *shape, int threads, bool json)
{
    const bw_bench_conv_options o = {.shape = shape, .threads = threads};
    table t = {.rows = json ? json_array() : NULL};
    bw_error err = {0};
    if (!json)
        printf("%s; one image\n%-12s %-6s %-14s %8s %9s\n", bw_cpu_text(), "shape", "AxW", "kernel", "GOP/s", "x oneDNN");
    if (bw_bench_conv(&o, show, &t, &err) != BW_OK) {
        json_decref(t.rows);
        return report_failure("bench", &err);
    }
    if (!json) return EXIT_OK;
    return print_json(t.failed ? NULL : json_pack("{s:s, s:o}", "cpu", bw_cpu_text(), "rows", t.rows));
}
