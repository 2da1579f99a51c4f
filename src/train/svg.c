#include "train/svg.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- Shapes -------------------------------------------------------------------------------------------------------------- */

/* Appends label as XML text: markup escaped, control characters, which XML forbids even when escaped, left out. */
static void add_escaped(bwi_text *t, const char *label)
{
    for (; *label; label++) {
        const unsigned char c = (unsigned char)*label;
        if (c == '&')
            bwi_text_add(t, "&amp;");
        else if (c == '<')
            bwi_text_add(t, "&lt;");
        else if (c == '>')
            bwi_text_add(t, "&gt;");
        else if (c == '"')
            bwi_text_add(t, "&quot;");
        else if (c >= 0x20 && c != 0x7f)
            bwi_text_add(t, "%c", c);
    }
}

void bwi_svg_begin(bwi_text *t, double width, double height, const char *title)
{
    bwi_text_add(
        t,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" "
        "viewBox=\"0 0 %g %g\" font-family=\"sans-serif\">\n<title>",
        width, height, width, height);
    add_escaped(t, title);
    bwi_text_add(t, "</title>\n");
    bwi_svg_rect(t, 0, 0, width, height, "#ffffff");
    bwi_svg_label(t, 12, 22, 15, BWI_ANCHOR_START, 0, title);
}

void bwi_svg_end(bwi_text *t)
{
    bwi_text_add(t, "</svg>\n");
}

void bwi_svg_rect(bwi_text *t, double x, double y, double width, double height, const char *fill)
{
    bwi_text_add(t, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"/>\n", x, y, width, height, fill);
}

void bwi_svg_line(bwi_text *t, double x1, double y1, double x2, double y2, const char *color, double width)
{
    bwi_text_add(t, "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" stroke=\"%s\" stroke-width=\"%g\"/>\n", x1, y1, x2,
                 y2, color, width);
}

void bwi_svg_curve(bwi_text *t, const double *x, const double *y, int n, const char *color)
{
    for (int i = 0; i < n; i++) {
        if (isnan(x[i]) || isnan(y[i])) continue;
        if (i && !isnan(x[i - 1]) && !isnan(y[i - 1])) bwi_svg_line(t, x[i - 1], y[i - 1], x[i], y[i], color, 1.5);
        bwi_text_add(t, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"2\" fill=\"%s\"/>\n", x[i], y[i], color);
    }
}

void bwi_svg_label(bwi_text *t, double x, double y, double size, bwi_anchor anchor, double turn, const char *label)
{
    static const char *const anchors[] = {"start", "middle", "end"};
    bwi_text_add(t, "<text x=\"%.2f\" y=\"%.2f\" font-size=\"%g\" fill=\"" BWI_SVG_INK "\" text-anchor=\"%s\"", x, y, size,
                 anchors[anchor]);
    if (turn != 0) bwi_text_add(t, " transform=\"rotate(%g %.2f %.2f)\"", turn, x, y);
    bwi_text_add(t, ">");
    add_escaped(t, label);
    bwi_text_add(t, "</text>\n");
}

const char *bwi_svg_hue(char text[32], int i, int n)
{
    /* two degrees of brightness keep neighbours apart when there are many */
    snprintf(text, 32, "hsl(%d,65%%,%d%%)", n > 0 ? 320 * i / n : 0, i & 1 ? 32 : 48);
    return text;
}

/* ---- Axes ---------------------------------------------------------------------------------------------------------------- */

double bwi_axes_x(const bwi_axes *a, double x)
{
    return a->left + (x - a->from_x) / (a->to_x - a->from_x) * (a->right - a->left);
}

double bwi_axes_y(const bwi_axes *a, double y)
{
    const double at = a->log_y ? log(y / a->from_y) / log(a->to_y / a->from_y) : (y - a->from_y) / (a->to_y - a->from_y);
    return a->bottom - at * (a->bottom - a->top);
}

/* Distance of about n ticks over a range: 1, 2 or 5 times a power of 10. */
static double tick_distance(double range, int n)
{
    const double rough = range / n, power = pow(10, floor(log10(rough)));
    return power * (rough < 1.5 * power ? 1 : rough < 3.5 * power ? 2 : rough < 7.5 * power ? 5 : 10);
}

/* The first multiple of a distance in a range that is not before `from`, and the number of them up to `to`. */
static double first_tick(double from, double to, double distance, int *n)
{
    const double first = ceil(from / distance - 1e-9) * distance;
    *n = (int)floor((to - first) / distance + 1e-9) + 1;
    return first;
}

/* Multiples of a distance go through sums that leave 1e-17 where 0 is meant. */
static void number_label(char text[32], double x, double distance)
{
    snprintf(text, 32, "%g", fabs(x) < 1e-9 * distance ? 0 : x);
}

void bwi_svg_axis_x(bwi_text *t, const bwi_axes *a, int n)
{
    char text[32];
    int count;
    const double distance = tick_distance(a->to_x - a->from_x, n), first = first_tick(a->from_x, a->to_x, distance, &count);
    bwi_svg_line(t, a->left, a->bottom, a->right, a->bottom, BWI_SVG_INK, 1);
    for (int i = 0; i < count; i++) {
        const double value = first + i * distance, x = bwi_axes_x(a, value);
        number_label(text, value, distance);
        bwi_svg_line(t, x, a->bottom, x, a->bottom + 4, BWI_SVG_INK, 1);
        bwi_svg_label(t, x, a->bottom + 15, 10, BWI_ANCHOR_MIDDLE, 0, text);
    }
}

static void tick_y(bwi_text *t, const bwi_axes *a, double value, double distance)
{
    char text[32];
    const double y = bwi_axes_y(a, value);
    number_label(text, value, distance);
    bwi_svg_line(t, a->left, y, a->right, y, BWI_SVG_FAINT, 0.5);
    bwi_svg_line(t, a->left - 4, y, a->left, y, BWI_SVG_INK, 1);
    bwi_svg_label(t, a->left - 7, y + 3.5, 10, BWI_ANCHOR_END, 0, text);
}

void bwi_svg_axis_y(bwi_text *t, const bwi_axes *a, int n)
{
    if (a->log_y) {
        const int last = (int)floor(log10(a->to_y) + 1e-9);
        for (int power = (int)ceil(log10(a->from_y) - 1e-9); power <= last; power++) tick_y(t, a, pow(10, power), 0);
    } else {
        int count;
        const double distance = tick_distance(a->to_y - a->from_y, n), first = first_tick(a->from_y, a->to_y, distance, &count);
        for (int i = 0; i < count; i++) tick_y(t, a, first + i * distance, distance);
    }
    bwi_svg_line(t, a->left, a->top, a->left, a->bottom, BWI_SVG_INK, 1);
}
