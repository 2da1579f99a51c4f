#include "search/runs.h"
#include "base/alloc.h"
#include "base/file.h"
#include "search/outcome.h"
#include "train/describe.h"
#include "train/svg.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LAST = 10 }; /* epochs whose mean the papers report */

static double number_of(const json_t *value)
{
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------- */

/* Adds a line's value, null unless it is from 0 to most. */
static bool add_value(json_t *values, const json_t *line, const char *key, double most)
{
    const double v = number_of(json_object_get(line, key));
    return !json_array_append_new(values, v >= 0 && v <= most ? json_real(v) : json_null());
}

/* Lines that are no epochs, such as a torn last one, do not count. */
static bool read_log(const bwi_file *f, json_t *loss, json_t *top1)
{
    const uint8_t *end;
    bool good = loss && top1;
    for (size_t at = 0; good && at < f->size && (end = memchr(f->data + at, '\n', f->size - at));
         at = (size_t)(end - f->data) + 1) {
        json_t *line = json_loadb((const char *)f->data + at, (size_t)(end - f->data) - at, 0, NULL);
        if (json_is_integer(json_object_get(line, "epoch")))
            good = add_value(loss, line, "train_loss", 1e9) && add_value(top1, line, "test_top1", 100);
        json_decref(line);
    }
    return good;
}

typedef struct summary {
    double last, best, mean;
} summary;

/* Of the epochs that were evaluated. */
static summary summarize(const json_t *top1)
{
    summary s = {NAN, NAN, 0};
    int known = 0;
    for (size_t i = json_array_size(top1); i-- > 0;) {
        const double v = number_of(json_array_get(top1, i));
        if (isnan(v)) continue;
        if (!known) s.last = v;
        if (known < LAST) s.mean += v / LAST;
        s.best = fmax(s.best, v);
        known++;
    }
    if (known < LAST) s.mean = NAN;
    return s;
}

/* Least and most bits of a role; false: nothing has any. */
static bool bits_of(const bwi_graph *g, bwi_role role, int *low, int *high)
{
    bwi_quant *q;
    const bwi_node *layer;
    *low = 99, *high = 0;
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++) {
        if (q->role != role) continue;
        if (q->bits < *low) *low = q->bits;
        if (q->bits > *high) *high = q->bits;
    }
    return *high > 0;
}

static json_t *bits_text(const bwi_graph *g, bwi_role role)
{
    int low, high;
    if (!bits_of(g, role, &low, &high)) return json_string("float");
    return low == high ? json_sprintf("%d", low) : json_sprintf("%d-%d", low, high);
}

static json_t *describe(const char *folder, const bwi_graph *g, const json_t *loss, const json_t *top1)
{
    int low, high;
    const bool hybrid = bits_of(g, BWI_WEIGHT, &low, &high) && low != high;
    const summary s = summarize(top1);
    return json_pack("{s:s, s:o, s:o, s:s, s:o, s:O, s:O, s:o, s:o, s:o}", "folder", folder, "weights",
                     bits_text(g, BWI_WEIGHT), "activations", bits_text(g, BWI_ACTIVATION), "kind",
                     hybrid ? "hybrid" : "uniform", "weight_bytes", bwi_json_number(bwi_weight_bytes(g)), "train_loss", loss,
                     "test_top1", top1, "last", bwi_json_number(s.last), "best", bwi_json_number(s.best), "mean_of_last_10",
                     bwi_json_number(s.mean));
}

bw_status bwi_run_read(const char *folder, json_t **run, bw_error *err)
{
    bwi_file f = {0};
    bw_recipe *recipe = NULL;
    bwi_graph *g = NULL;
    json_t *loss = json_array(), *top1 = json_array();
    bw_status st;
    char *path = bwi_asprintf("%s/recipe.yaml", folder), *log = bwi_asprintf("%s/log.jsonl", folder);
    *run = NULL;
    if (!path || !log) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the run in %s", folder));
    BWI_TRY(bwi_file_open(&f, log, err));
    BWI_TRY(bw_recipe_load(&recipe, path, NULL, 0, err));
    if ((st = bwi_recipe_graph(&g, recipe, 10, err)) != BW_OK) BWI_TRY(bwi_fail_in(err, st, "%s", path));
    if (read_log(&f, loss, top1)) *run = describe(folder, g, loss, top1);
    st = *run ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for the run in %s", folder);
fail:
    json_decref(loss);
    json_decref(top1);
    bwi_graph_destroy(&g);
    bw_recipe_destroy(&recipe);
    bwi_file_close(&f);
    bwi_free(path);
    bwi_free(log);
    return st;
}

/* ---- Table --------------------------------------------------------------------------------------------------------------- */

static void add_cell(bwi_text *t, int width, int digits, double value)
{
    if (isfinite(value))
        bwi_text_add(t, " %*.*f", width, digits, value);
    else
        bwi_text_add(t, " %*s", width, "-");
}

void bwi_runs_table(bwi_text *t, const json_t *runs)
{
    const json_t *run;
    size_t i;
    int width = 3;
    json_array_foreach(runs, i, run)
    {
        const int n = (int)strlen(bwi_json_text(run, "folder"));
        width = n > width ? n : width;
    }
    bwi_text_add(t, "%-*s %7s %11s %9s %6s %10s %7s %7s %10s\n", width, "run", "weights", "activations", "weight kB", "epochs",
                 "train loss", "last %", "best %", "last 10 %");
    json_array_foreach(runs, i, run)
    {
        const json_t *loss = json_object_get(run, "train_loss");
        const size_t n = json_array_size(loss);
        bwi_text_add(t, "%-*s %7s %11s", width, bwi_json_text(run, "folder"), bwi_json_text(run, "weights"),
                     bwi_json_text(run, "activations"));
        add_cell(t, 9, 1, number_of(json_object_get(run, "weight_bytes")) / 1e3);
        bwi_text_add(t, " %6zu", n);
        add_cell(t, 10, 4, n ? number_of(json_array_get(loss, n - 1)) : NAN);
        add_cell(t, 7, 2, number_of(json_object_get(run, "last")));
        add_cell(t, 7, 2, number_of(json_object_get(run, "best")));
        add_cell(t, 10, 2, number_of(json_object_get(run, "mean_of_last_10")));
        bwi_text_add(t, "\n");
    }
}

/* ---- Curves -------------------------------------------------------------------------------------------------------------- */

enum { LEFT = 58, RIGHT = 560, HEAD = 40, PANEL = 240, GAP = 56, LEGEND = 300, LINE = 16 };

static void range_of(const json_t *runs, const char *key, bwi_axes *a)
{
    const json_t *run, *value;
    size_t i, k;
    double low = INFINITY, high = -INFINITY;
    json_array_foreach(runs, i, run)
    {
        json_array_foreach(json_object_get(run, key), k, value)
        {
            low = fmin(low, isnan(number_of(value)) ? low : number_of(value));
            high = fmax(high, isnan(number_of(value)) ? high : number_of(value));
        }
    }
    if (!(low <= high)) low = 0, high = 1;
    const double room = fmax(0.05 * (high - low), 1e-3);
    a->from_y = fmax(low - room, 0);
    a->to_y = high + room;
}

static bool draw_run(bwi_text *t, const bwi_axes *a, const json_t *values, const char *color)
{
    const size_t n = json_array_size(values);
    double *x = bwi_malloc((2 * n + 1) * sizeof *x), *y = x + n;
    int known = 0;
    if (!x) return false;
    for (size_t i = 0; i < n; i++) {
        const double v = number_of(json_array_get(values, i));
        if (isnan(v)) continue;
        x[known] = bwi_axes_x(a, (double)i + 1);
        y[known++] = bwi_axes_y(a, v);
    }
    bwi_svg_curve(t, x, y, known, color);
    bwi_free(x);
    return true;
}

static bool draw_panel(bwi_text *t, const json_t *runs, const char *key, const char *title, double top, double epochs)
{
    bwi_axes a = {.left = LEFT, .right = RIGHT, .top = top, .bottom = top + PANEL, .from_x = 1, .to_x = fmax(epochs, 2)};
    const json_t *run;
    char color[32];
    size_t i;
    bool good = true;
    range_of(runs, key, &a);
    bwi_svg_axis_x(t, &a, 8);
    bwi_svg_axis_y(t, &a, 6);
    bwi_svg_label(t, (a.left + a.right) / 2, a.bottom + 34, 11, BWI_ANCHOR_MIDDLE, 0, "epoch");
    bwi_svg_label(t, 16, (a.top + a.bottom) / 2, 11, BWI_ANCHOR_MIDDLE, -90, title);
    json_array_foreach(runs, i, run)
    {
        good = good && draw_run(t, &a, json_object_get(run, key), bwi_svg_hue(color, (int)i, (int)json_array_size(runs)));
    }
    return good;
}

char *bwi_curves_picture(const json_t *runs)
{
    const size_t n = json_array_size(runs);
    const double panels = HEAD + 2 * (PANEL + GAP), names = HEAD + LINE * ((double)n + 1);
    const json_t *run;
    char color[32];
    double epochs = 0;
    size_t i;
    bwi_text t = {0};
    json_array_foreach(runs, i, run)
    {
        epochs = fmax(epochs, (double)json_array_size(json_object_get(run, "test_top1")));
    }
    bwi_svg_begin(&t, RIGHT + LEGEND, fmax(panels, names), "Runs");
    const bool good = draw_panel(&t, runs, "test_top1", "top-1 accuracy, %", HEAD, epochs) &&
                      draw_panel(&t, runs, "train_loss", "training loss", HEAD + PANEL + GAP, epochs);
    json_array_foreach(runs, i, run)
    {
        const double x = RIGHT + 16, y = HEAD + LINE * ((double)i + 0.5);
        bwi_svg_curve(&t, &x, &y, 1, bwi_svg_hue(color, (int)i, (int)n));
        bwi_svg_label(&t, x + 8, y + 4, 11, BWI_ANCHOR_START, 0, bwi_json_text(run, "folder"));
    }
    bwi_svg_end(&t);
    char *picture = bwi_text_take(&t);
    if (good) return picture;
    bwi_free(picture);
    return NULL;
}
