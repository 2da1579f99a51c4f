/* Pictures of an analysis: histograms with levels, one panel a tensor; LSQ's R by layer; learned numbers by epoch. */
#include "train/analyze.h"
#include "train/svg.h"
#include <math.h>
#include <string.h>

#define LEVEL_COLOR "#c0392b"
#define BAR_COLOR   "#7f9fc4"

static double number_at(const json_t *list, size_t i)
{
    const json_t *value = json_array_get(list, i);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* ---- Histograms ---------------------------------------------------------------------------------------------------------- */

enum { COLUMNS = 4, PANEL_WIDTH = 262, PANEL_HEIGHT = 172, HEAD = 34, MANY_LEVELS = 16, FEW_LEVELS = 4, LABEL_WIDTH = 24 };

/* Lines at the levels, with the share of each code where there is room; of many levels only the first and the last. */
static void draw_levels(bwi_text *t, const bwi_axes *a, const json_t *codes)
{
    const json_t *level = json_object_get(codes, "level"), *share = json_object_get(codes, "share");
    const size_t n = json_array_size(level);
    char text[32];
    double labelled = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        const double at = number_at(level, i);
        if (n > MANY_LEVELS && i && i + 1 < n) continue;
        if (!(at >= a->from_x && at <= a->to_x)) continue;
        const double x = bwi_axes_x(a, at);
        bwi_svg_line(t, x, a->top, x, a->bottom, LEVEL_COLOR, 1);
        if (n > FEW_LEVELS || x - labelled < LABEL_WIDTH) continue;
        labelled = x;
        snprintf(text, sizeof text, "%.0f %%", 100 * number_at(share, i));
        bwi_svg_label(t, x, a->top - 3, 9, BWI_ANCHOR_MIDDLE, 0, text);
    }
}

static void draw_panel(bwi_text *t, const json_t *tensor, double left, double top)
{
    const json_t *h = json_object_get(tensor, "histogram"), *counts = json_object_get(h, "counts");
    const double zeros = bwi_json_at(h, "zeros") / bwi_json_at(tensor, "values");
    const int bins = (int)json_array_size(counts);
    char text[128];
    double most = 0;
    for (int i = 0; i < bins; i++) most = fmax(most, number_at(counts, (size_t)i));
    const bwi_axes a = {.left = left + 14,
                        .right = left + PANEL_WIDTH - 14,
                        .top = top + 48,
                        .bottom = top + PANEL_HEIGHT - 24,
                        .from_x = bwi_json_at(h, "from"),
                        .to_x = bwi_json_at(h, "to"),
                        .to_y = most > 0 ? most : 1};
    const double width = (a.right - a.left) / bins;
    bwi_svg_label(t, left + 14, top + 14, 12, BWI_ANCHOR_START, 0, bwi_json_text(tensor, "layer"));
    int at = snprintf(text, sizeof text, "%d bit %s, %.1f %% clipped, %.2f bits", (int)bwi_json_at(tensor, "bits"),
                      bwi_json_text(tensor, "quantizer"), 100 * bwi_json_at(tensor, "clipped"), bwi_json_at(tensor, "entropy"));
    if (zeros > 0.0005 && at < (int)sizeof text) snprintf(text + at, sizeof text - (size_t)at, ", %.0f %% zero", 100 * zeros);
    bwi_svg_label(t, left + 14, top + 28, 10, BWI_ANCHOR_START, 0, text);
    for (int i = 0; i < bins; i++) {
        const double y = bwi_axes_y(&a, number_at(counts, (size_t)i));
        if (y < a.bottom) bwi_svg_rect(t, a.left + i * width, y, width, a.bottom - y, BAR_COLOR);
    }
    draw_levels(t, &a, json_object_get(tensor, "codes"));
    bwi_svg_axis_x(t, &a, 5);
}

static size_t count_role(const json_t *analysis, const char *role)
{
    const json_t *x;
    size_t i, n = 0;
    json_array_foreach(json_object_get(analysis, "tensors"), i, x) n += !strcmp(bwi_json_text(x, "role"), role);
    return n;
}

static void draw_histograms(bwi_text *t, const json_t *analysis, const char *role)
{
    const size_t n = count_role(analysis, role), rows = (n + COLUMNS - 1) / COLUMNS;
    const json_t *x;
    size_t i, at = 0;
    bwi_svg_begin(t, COLUMNS * PANEL_WIDTH, HEAD + (double)rows * PANEL_HEIGHT,
                  !strcmp(role, "weight")
                      ? "Weights before quantization, levels in red with the share of their codes"
                      : "Activations before quantization but zeros, levels in red with the share of their codes");
    json_array_foreach(json_object_get(analysis, "tensors"), i, x)
    {
        if (strcmp(bwi_json_text(x, "role"), role)) continue;
        draw_panel(t, x, (double)(at % COLUMNS) * PANEL_WIDTH, HEAD + (double)(at / COLUMNS) * PANEL_HEIGHT);
        at++;
    }
    bwi_svg_end(t);
}

/* ---- R by layer ---------------------------------------------------------------------------------------------------------- */

static const char *const scales[BWI_RATIOS] = {"1", "1/sqrt(N)", "1/sqrt(N*Qp)"};
static const char *const scale_color[BWI_RATIOS] = {"#c0392b", "#e0a030", "#2e7d5b"};

/* Layers that have R, and the least and the largest of it. */
static size_t ratio_range(const json_t *analysis, double *least, double *most)
{
    const json_t *x;
    size_t i, n = 0;
    *least = *most = 1; /* what R should be is always in sight */
    json_array_foreach(json_object_get(analysis, "tensors"), i, x)
    {
        const json_t *ratio = json_object_get(x, "ratio");
        n += json_is_object(ratio);
        for (int k = 0; k < BWI_RATIOS; k++) {
            const double r = bwi_json_at(ratio, scales[k]);
            if (r > 0) *least = fmin(*least, r), *most = fmax(*most, r);
        }
    }
    return n;
}

static void draw_ratios(bwi_text *t, const json_t *analysis)
{
    enum { GROUP = 30, BAR = 8, FOOT = 130, HEIGHT = 300 };
    double least, most;
    const size_t n = ratio_range(analysis, &least, &most);
    const json_t *x;
    size_t i;
    int at = 0;
    const bwi_axes a = {.left = 60,
                        .top = 64,
                        .right = 60 + (double)GROUP * (double)(n < 12 ? 12 : n),
                        .bottom = 64 + HEIGHT,
                        .from_y = pow(10, floor(log10(least) - 1e-9)),
                        .to_y = pow(10, ceil(log10(most) + 1e-9)),
                        .log_y = true};
    bwi_svg_begin(t, a.right + 20, a.bottom + FOOT, "R: update of the step size over that of the weights");
    for (int k = 0; k < BWI_RATIOS; k++) {
        bwi_svg_rect(t, a.left + k * 110, 36, 10, 10, scale_color[k]);
        bwi_svg_label(t, a.left + k * 110 + 14, 45, 11, BWI_ANCHOR_START, 0, scales[k]);
    }
    bwi_svg_axis_y(t, &a, 0);
    json_array_foreach(json_object_get(analysis, "tensors"), i, x)
    {
        const json_t *ratio = json_object_get(x, "ratio");
        if (!json_is_object(ratio)) continue;
        const double left = a.left + at++ * GROUP + 4;
        for (int k = 0; k < BWI_RATIOS; k++) {
            const double r = bwi_json_at(ratio, scales[k]);
            if (!(r > 0)) continue;
            const double y = bwi_axes_y(&a, r);
            bwi_svg_rect(t, left + k * BAR, y, BAR - 1, a.bottom - y, scale_color[k]);
        }
        bwi_svg_label(t, left + 1.5 * BAR, a.bottom + 12, 10, BWI_ANCHOR_END, -60, bwi_json_text(x, "layer"));
    }
    bwi_svg_line(t, a.left, bwi_axes_y(&a, 1), a.right, bwi_axes_y(&a, 1), BWI_SVG_INK, 1);
    bwi_svg_line(t, a.left, a.bottom, a.right, a.bottom, BWI_SVG_INK, 1);
    bwi_svg_end(t);
}

/* ---- By epoch ------------------------------------------------------------------------------------------------------------ */

static const json_t *series_of(const json_t *analysis)
{
    return json_object_get(json_object_get(analysis, "history"), "series");
}

/* Whether a file may be named after it: keys come from a file too. */
static bool is_plain(const char *key)
{
    const size_t n = strlen(key);
    return n && n < 32 && strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

/* The i-th of the different keys of the series; NULL past the end. */
static const char *history_key(const json_t *analysis, int i)
{
    const json_t *list = series_of(analysis), *s, *before;
    size_t k, j;
    json_array_foreach(list, k, s)
    {
        const char *key = bwi_json_text(s, "key");
        bool seen = !is_plain(key);
        json_array_foreach(list, j, before) seen = seen || (j < k && !strcmp(bwi_json_text(before, "key"), key));
        if (!seen && i-- == 0) return key;
    }
    return NULL;
}

/* Series of one key and role: their number, and the range of their values. */
static int series_range(const json_t *analysis, const char *key, const char *role, double *least, double *most)
{
    const json_t *s, *v;
    size_t i, j;
    int n = 0;
    *least = INFINITY;
    *most = -INFINITY;
    json_array_foreach(series_of(analysis), i, s)
    {
        if (strcmp(bwi_json_text(s, "key"), key) || strcmp(bwi_json_text(s, "role"), role)) continue;
        n++;
        json_array_foreach(json_object_get(s, "values"), j, v)
        {
            if (json_is_number(v)) *least = fmin(*least, json_number_value(v)), *most = fmax(*most, json_number_value(v));
        }
    }
    return n;
}

/* One line of a chart in pieces of two points, so that no memory is needed for it. */
static void draw_series(bwi_text *t, const bwi_axes *a, const json_t *epochs, const json_t *values, const char *color)
{
    double x[2], y[2];
    for (size_t i = 0; i < json_array_size(values); i++) {
        x[1] = bwi_axes_x(a, number_at(epochs, i));
        y[1] = bwi_axes_y(a, number_at(values, i));
        if (i)
            bwi_svg_curve(t, x, y, 2, color);
        else
            bwi_svg_curve(t, x + 1, y + 1, 1, color);
        x[0] = x[1];
        y[0] = y[1];
    }
}

enum { CHART_WIDTH = 620, CHART_HEIGHT = 330, LEGEND_ROW = 13 };

static void draw_chart(bwi_text *t, const json_t *analysis, const char *key, const char *role, double left)
{
    const json_t *epochs = json_object_get(json_object_get(analysis, "history"), "epochs"), *s;
    const size_t last = json_array_size(epochs) - 1;
    char color[32];
    size_t i;
    int at = 0;
    bwi_axes a = {.left = left + 64, .top = 60, .right = left + CHART_WIDTH - 150, .bottom = 60 + CHART_HEIGHT - 40};
    const int n = series_range(analysis, key, role, &a.from_y, &a.to_y);
    a.from_x = number_at(epochs, 0);
    a.to_x = number_at(epochs, last);
    if (!(a.to_x > a.from_x)) a.to_x = a.from_x + 1;
    if (a.from_y > 0) a.from_y = 0;
    if (a.to_y < 0) a.to_y = 0;
    if (!(a.to_y > a.from_y)) a.to_y = a.from_y + 1;
    bwi_svg_label(t, a.left, 50, 12, BWI_ANCHOR_START, 0, !strcmp(role, "weight") ? "weights" : "activations");
    bwi_svg_axis_y(t, &a, 6);
    bwi_svg_axis_x(t, &a, last < 8 ? (last ? (int)last : 1) : 8); /* epochs are whole numbers */
    bwi_svg_label(t, (a.left + a.right) / 2, a.bottom + 30, 10, BWI_ANCHOR_MIDDLE, 0, "epoch");
    json_array_foreach(series_of(analysis), i, s)
    {
        if (strcmp(bwi_json_text(s, "key"), key) || strcmp(bwi_json_text(s, "role"), role)) continue;
        const double y = a.top + at * LEGEND_ROW;
        bwi_svg_hue(color, at++, n);
        draw_series(t, &a, epochs, json_object_get(s, "values"), color);
        bwi_svg_rect(t, a.right + 14, y - 4, 12, 3, color);
        bwi_svg_label(t, a.right + 30, y, 10, BWI_ANCHOR_START, 0, bwi_json_text(s, "layer"));
    }
}

static void draw_history(bwi_text *t, const json_t *analysis, const char *key)
{
    static const char *const roles[] = {"weight", "activation"};
    double least, most;
    int n, tallest = 0, charts = 0;
    char title[64];
    for (int i = 0; i < 2; i++) {
        n = series_range(analysis, key, roles[i], &least, &most);
        charts += n > 0;
        tallest = n > tallest ? n : tallest;
    }
    const double legend = 70 + LEGEND_ROW * tallest, height = 60 + CHART_HEIGHT;
    snprintf(title, sizeof title, "%s by epoch", key);
    bwi_svg_begin(t, (double)charts * CHART_WIDTH, legend > height ? legend : height, title);
    charts = 0;
    for (int i = 0; i < 2; i++)
        if (series_range(analysis, key, roles[i], &least, &most) > 0)
            draw_chart(t, analysis, key, roles[i], (double)charts++ * CHART_WIDTH);
    bwi_svg_end(t);
}

/* ---- All ----------------------------------------------------------------------------------------------------------------- */

bool bwi_analysis_picture(const json_t *analysis, int i, char name[BWI_PICTURE_NAME], char **svg)
{
    static const char *const roles[] = {"weight", "activation"};
    bwi_text t = {0};
    double least, most;
    *svg = NULL;
    for (int k = 0; k < 2; k++)
        if (count_role(analysis, roles[k]) && i-- == 0) {
            snprintf(name, BWI_PICTURE_NAME, "%s.svg", k ? "activations" : "weights");
            draw_histograms(&t, analysis, roles[k]);
            *svg = bwi_text_take(&t);
            return true;
        }
    if (ratio_range(analysis, &least, &most) && i-- == 0) {
        snprintf(name, BWI_PICTURE_NAME, "ratio.svg");
        draw_ratios(&t, analysis);
        *svg = bwi_text_take(&t);
        return true;
    }
    const char *key = i >= 0 ? history_key(analysis, i) : NULL;
    if (!key) return false;
    snprintf(name, BWI_PICTURE_NAME, "history-%s.svg", key);
    draw_history(&t, analysis, key);
    *svg = bwi_text_take(&t);
    return true;
}
