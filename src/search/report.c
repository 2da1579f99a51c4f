/* Tables and pictures of searches and runs: bits of each layer, accuracy against size, curves; the same numbers as JSON. */
#include "base/alloc.h"
#include "base/file.h"
#include "search/outcome.h"
#include "search/runs.h"
#include "train/describe.h"
#include "train/svg.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Bits of each layer -------------------------------------------------------------------------------------------------- */

enum { LEFT = 58, BAR = 26, ROW = 118, HEAD = 40, FOOT = 120, LEGEND = 230 };

static void draw_bits(bwi_text *t, const json_t *search, double top, int i, int n)
{
    const json_t *layers = json_object_get(search, "layers"), *layer;
    const int count = (int)json_array_size(layers);
    const bwi_axes a = {.left = LEFT,
                        .right = LEFT + BAR * count,
                        .top = top + 22,
                        .bottom = top + ROW - 8,
                        .to_x = count,
                        .to_y = BWI_SEARCH_BITS};
    char color[32], label[200], number[8];
    size_t k;
    snprintf(label, sizeof label, "%.60s: %.5g %s, validation error %.2f %%", bwi_json_text(search, "label"),
             bwi_json_at(search, "cost"), bwi_json_text(search, "unit"), bwi_json_at(search, "error"));
    bwi_svg_label(t, LEFT, top + 14, 12, BWI_ANCHOR_START, 0, label);
    bwi_svg_axis_y(t, &a, 4);
    bwi_svg_hue(color, i, n);
    json_array_foreach(layers, k, layer)
    {
        const int bits = (int)bwi_json_at(layer, "bits");
        const double x = bwi_axes_x(&a, (double)k), y = bwi_axes_y(&a, bits);
        bwi_svg_rect(t, x + 3, y, BAR - 6, a.bottom - y, color);
        snprintf(number, sizeof number, "%d", bits);
        bwi_svg_label(t, x + BAR / 2.0, y - 2, 9, BWI_ANCHOR_MIDDLE, 0, number);
    }
    bwi_svg_line(t, a.left, a.bottom, a.right, a.bottom, BWI_SVG_INK, 1);
}

static bool same_layers(const json_t *a, const json_t *b)
{
    const json_t *x = json_object_get(a, "layers"), *y = json_object_get(b, "layers"), *layer;
    size_t i;
    if (json_array_size(x) != json_array_size(y)) return false;
    json_array_foreach(x, i, layer)
    {
        if (strcmp(bwi_json_text(layer, "name"), bwi_json_text(json_array_get(y, i), "name")) != 0) return false;
    }
    return true;
}

char *bwi_bits_picture(const json_t *searches)
{
    const json_t *search, *layer;
    const int n = (int)json_array_size(searches);
    size_t i, k, most = 8;
    int named = 0;
    double top = HEAD;
    bwi_text t = {0};
    json_array_foreach(searches, i, search)
    {
        const size_t count = json_array_size(json_object_get(search, "layers"));
        most = count > most ? count : most;
        named += i + 1 == (size_t)n || !same_layers(search, json_array_get(searches, i + 1));
    }
    bwi_svg_begin(&t, LEFT + BAR * (double)most + 20, HEAD + (double)n * ROW + (double)named * FOOT, "Bits of each layer");
    json_array_foreach(searches, i, search)
    {
        draw_bits(&t, search, top, (int)i, n);
        top += ROW;
        if (i + 1 < (size_t)n && same_layers(search, json_array_get(searches, i + 1))) continue;
        json_array_foreach(json_object_get(search, "layers"), k, layer) /* names below the last of those that share them */
        {
            bwi_svg_label(&t, LEFT + BAR * ((double)k + 0.5) + 3, top, 10, BWI_ANCHOR_END, -60, bwi_json_text(layer, "name"));
        }
        top += FOOT;
    }
    bwi_svg_end(&t);
    return bwi_text_take(&t);
}

/* ---- Accuracy against size ----------------------------------------------------------------------------------------------- */

static const struct series {
    const char *kind, *split, *title, *color;
    bool joined;
} series[] = {{"uniform", "validation", "uniform, validation", "#7f9fc4", true},
              {"search", "validation", "found, validation", "#c0392b", false},
              {"uniform", "run", "trained, one bit-width", "#1f4e8c", true},
              {"hybrid", "run", "trained, hybrid", "#8c1f6b", false}};
enum { N_SERIES = sizeof series / sizeof *series, MOST_POINTS = 1000 };

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0];
}

static bool in_series(const json_t *point, const struct series *s)
{
    return !strcmp(bwi_json_text(point, "kind"), s->kind) && !strcmp(bwi_json_text(point, "split"), s->split);
}

/* Points of a series that are of one network, sorted by size. */
static int points_of(const json_t *points, const struct series *s, const char *network, double (*at)[2])
{
    const json_t *point;
    size_t i;
    int n = 0;
    json_array_foreach(points, i, point)
    {
        if (!in_series(point, s) || strcmp(bwi_json_text(point, "network"), network) != 0 || n == MOST_POINTS) continue;
        at[n][0] = bwi_json_at(point, "weight_bytes") / 1e3;
        at[n][1] = bwi_json_at(point, "accuracy");
        n += isfinite(at[n][0]) && isfinite(at[n][1]);
    }
    qsort(at, (size_t)n, sizeof *at, by_size);
    return n;
}

/* The range of all points, a little wider. */
static void range_of(const json_t *points, bwi_axes *a)
{
    const json_t *point;
    size_t i;
    double low = INFINITY, high = -INFINITY, most = 0;
    json_array_foreach(points, i, point)
    {
        const double y = bwi_json_at(point, "accuracy"), x = bwi_json_at(point, "weight_bytes") / 1e3;
        if (isfinite(y)) low = fmin(low, y), high = fmax(high, y);
        if (isfinite(x)) most = fmax(most, x);
    }
    if (!(low <= high)) low = 0, high = 100;
    const double room = fmax(0.08 * (high - low), 0.5);
    a->from_y = fmax(low - room, 0);
    a->to_y = fmin(high + room, 100.5);
    a->from_x = 0;
    a->to_x = most > 0 ? 1.05 * most : 1;
}

/* Whether an earlier point than number i has the same series and network. */
static bool was_drawn(const json_t *points, size_t i, const struct series *s)
{
    const json_t *point = json_array_get(points, i), *earlier;
    for (size_t k = 0; k < i; k++) {
        earlier = json_array_get(points, k);
        if (in_series(earlier, s) && !strcmp(bwi_json_text(earlier, "network"), bwi_json_text(point, "network"))) return true;
    }
    return false;
}

static void draw_network(bwi_text *t, const bwi_axes *a, const struct series *s, int n, const double (*at)[2])
{
    for (int i = 0; i < n; i++) {
        double x[2] = {bwi_axes_x(a, at[i][0])}, y[2] = {bwi_axes_y(a, at[i][1])};
        const bool joined = s->joined && i + 1 < n;
        if (joined) x[1] = bwi_axes_x(a, at[i + 1][0]), y[1] = bwi_axes_y(a, at[i + 1][1]);
        bwi_svg_curve(t, x, y, joined ? 2 : 1, s->color);
    }
}

static void draw_series(bwi_text *t, const bwi_axes *a, const json_t *points, int k, double (*at)[2])
{
    const struct series *s = &series[k];
    const double x = a->right + 20, y = a->top + 10 + 18 * k, middle = y - 4;
    const json_t *point;
    size_t i;
    json_array_foreach(points, i, point)
    {
        if (!in_series(point, s) || was_drawn(points, i, s)) continue;
        const int n = points_of(points, s, bwi_json_text(point, "network"), at);
        draw_network(t, a, s, n, (const double(*)[2])at);
    }
    bwi_svg_curve(t, &x, &middle, 1, s->color);
    bwi_svg_label(t, x + 10, y, 11, BWI_ANCHOR_START, 0, s->title);
}

static char *accuracy_picture(const json_t *points)
{
    bwi_text t = {0};
    bwi_axes a = {.left = LEFT, .top = HEAD, .right = 560, .bottom = 360};
    double(*at)[2] = bwi_malloc(MOST_POINTS * sizeof *at);
    if (!at) return NULL;
    range_of(points, &a);
    bwi_svg_begin(&t, 560 + LEGEND, 410, "Accuracy against size");
    bwi_svg_axis_x(&t, &a, 8);
    bwi_svg_axis_y(&t, &a, 8);
    bwi_svg_label(&t, (a.left + a.right) / 2, a.bottom + 36, 11, BWI_ANCHOR_MIDDLE, 0, "weights, kB");
    bwi_svg_label(&t, 16, (a.top + a.bottom) / 2, 11, BWI_ANCHOR_MIDDLE, -90, "top-1 accuracy, %");
    for (int k = 0; k < N_SERIES; k++) draw_series(&t, &a, points, k, at);
    bwi_svg_end(&t);
    bwi_free(at);
    return bwi_text_take(&t);
}

/* ---- Folders ------------------------------------------------------------------------------------------------------------- */

typedef struct report {
    json_t *searches, *points, *runs;
    bwi_text left_out; /* a line for each folder that holds neither */
} report;

static bw_status no_memory(bw_error *err)
{
    return bwi_fail(err, BW_NOMEM, "no memory for a report");
}

/* network: hash of the model that was searched, "" for runs; points of one network are joined. */
static bw_status add_point(report *r, const char *folder, const char *network, const char *kind, const char *split,
                           double bytes, double accuracy, bw_error *err)
{
    json_t *point = json_pack("{s:s, s:s, s:s, s:s, s:o, s:o}", "folder", folder, "network", network, "kind", kind, "split",
                              split, "weight_bytes", bwi_json_number(bytes), "accuracy", bwi_json_number(accuracy));
    return point && !json_array_append_new(r->points, point) ? BW_OK : no_memory(err);
}

/* Errors are percentages, and bytes fit a file; either may be unknown. */
static bool is_measured(const json_t *object)
{
    const double error = bwi_json_at(object, "error"), bytes = bwi_json_at(object, "weight_bytes");
    return !(error < 0 || error > 100 || bytes < 0 || bytes > 1e15);
}

static bool is_result(const json_t *search)
{
    const json_t *layers = json_object_get(search, "layers"), *other;
    size_t i;
    if (!json_is_array(layers) || !is_measured(search)) return false;
    json_array_foreach(layers, i, other)
    {
        const json_int_t bits = json_integer_value(json_object_get(other, "bits"));
        if (bits < 1 || bits > BWI_SEARCH_BITS || !json_is_string(json_object_get(other, "name"))) return false;
    }
    json_array_foreach(json_object_get(search, "uniform"), i, other)
    {
        if (!is_measured(other)) return false;
    }
    return true;
}

static bw_status add_search(report *r, const char *folder, const char *path, bw_error *err)
{
    json_error_t where;
    json_t *search = json_load_file(path, 0, &where), *other;
    const char *network = bwi_json_text(json_object_get(search, "search"), "model");
    size_t i;
    bw_status st;
    if (!is_result(search)) {
        json_decref(search);
        return bwi_fail(err, BW_FORMAT, "%s: it is not the result of a search; search again with resume", path);
    }
    if (json_object_set_new(search, "folder", json_string(folder)) ||
        json_object_set_new(search, "label",
                            json_sprintf("%s, %s", bwi_json_text(search, "budget"), bwi_json_text(search, "method"))) ||
        json_array_append_new(r->searches, search))
        return no_memory(err);
    BWI_TRY(add_point(r, folder, network, "search", "validation", bwi_json_at(search, "weight_bytes"),
                      100 - bwi_json_at(search, "error"), err));
    json_array_foreach(json_object_get(search, "uniform"), i, other)
    {
        BWI_TRY(add_point(r, folder, network, "uniform", "validation", bwi_json_at(other, "weight_bytes"),
                          100 - bwi_json_at(other, "error"), err));
    }
fail:
    return st;
}

static bw_status add_run(report *r, const char *folder, bw_error *err)
{
    json_t *run = NULL;
    const bw_status st = bwi_run_read(folder, &run, err);
    if (st) return st;
    if (json_array_append_new(r->runs, run)) return no_memory(err);
    return add_point(r, folder, "", bwi_json_text(run, "kind"), "run", bwi_json_at(run, "weight_bytes"),
                     bwi_json_at(run, "last"), err);
}

static bw_status add_folder(report *r, const char *folder, bw_error *err)
{
    char *search = bwi_asprintf("%s/search.json", folder), *log = bwi_asprintf("%s/log.jsonl", folder);
    bw_status st = BW_OK;
    if (!search || !log)
        st = no_memory(err);
    else if (!bwi_file_exists(folder))
        st = bwi_fail(err, BW_IO, "%s: no such folder", folder);
    else if (!bwi_file_exists(search) && !bwi_file_exists(log))
        bwi_text_add(&r->left_out, "%s: left out, neither a finished search nor a run\n", folder);
    if (!st && bwi_file_exists(search)) st = add_search(r, folder, search, err);
    if (!st && bwi_file_exists(log)) st = add_run(r, folder, err);
    bwi_free(search);
    bwi_free(log);
    return st;
}

static bw_status write_in(const char *folder, const char *name, const char *text, bw_error *err)
{
    char *path = bwi_asprintf("%s/%s", folder, name);
    const bw_status st = path && text ? bwi_file_write(path, text, strlen(text), err) : no_memory(err);
    bwi_free(path);
    return st;
}

/* What is printed: a line a search, then the runs. */
static bw_status make_text(const report *r, char **text, bw_error *err)
{
    const json_t *search;
    size_t i;
    bwi_text t = {0};
    json_array_foreach(r->searches, i, search)
    {
        bwi_text_add(&t, "%s: %s: %.5g %s, weights %.1f kB, validation error %.2f %%\n", bwi_json_text(search, "folder"),
                     bwi_json_text(search, "label"), bwi_json_at(search, "cost"), bwi_json_text(search, "unit"),
                     bwi_json_at(search, "weight_bytes") / 1e3, bwi_json_at(search, "error"));
    }
    if (json_array_size(r->runs)) bwi_runs_table(&t, r->runs);
    if (r->left_out.len) bwi_text_add(&t, "%s", r->left_out.s);
    *text = bwi_text_take(&t);
    return *text ? BW_OK : no_memory(err);
}

static bw_status write_all(const report *r, const char *out_dir, bw_error *err)
{
    char *bits = bwi_bits_picture(r->searches), *accuracy = accuracy_picture(r->points), *curves = bwi_curves_picture(r->runs);
    json_t *all = json_pack("{s:O, s:O, s:O}", "searches", r->searches, "points", r->points, "runs", r->runs);
    char *text = all ? json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) : NULL;
    bw_status st;
    BWI_TRY(bwi_make_dir(out_dir, err));
    BWI_TRY(write_in(out_dir, "bits.svg", bits, err));
    BWI_TRY(write_in(out_dir, "accuracy.svg", accuracy, err));
    BWI_TRY(write_in(out_dir, "curves.svg", curves, err));
    BWI_TRY(write_in(out_dir, "report.json", text, err));
fail:
    bwi_free(bits);
    bwi_free(accuracy);
    bwi_free(curves);
    free(text);
    json_decref(all);
    return st;
}

bw_status bw_report(const char *const *folders, size_t n, const char *out_dir, char **text, bw_error *err)
{
    report r = {json_array(), json_array(), json_array(), {0}};
    bw_status st;
    if (err) *err = (bw_error){0};
    *text = NULL;
    if (!r.searches || !r.points || !r.runs) BWI_TRY(no_memory(err));
    if (!n) BWI_TRY(bwi_fail(err, BW_ARG, "a report needs at least one folder of a search or a run"));
    for (size_t i = 0; i < n; i++) BWI_TRY(add_folder(&r, folders[i], err));
    if (r.left_out.failed) BWI_TRY(no_memory(err));
    if (!json_array_size(r.searches) && !json_array_size(r.runs))
        BWI_TRY(bwi_fail(err, BW_IO, "%s%s: it holds neither a finished search (search.json) nor a run (log.jsonl)", folders[0],
                         n > 1 ? ", and the others" : ""));
    BWI_TRY(make_text(&r, text, err));
    if (out_dir) BWI_TRY(write_all(&r, out_dir, err));
fail:
    if (st) bwi_free(*text), *text = NULL;
    json_decref(r.searches);
    json_decref(r.points);
    json_decref(r.runs);
    bwi_free(r.left_out.s);
    return st;
}
