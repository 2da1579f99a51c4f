/* Pictures as SVG: text of a fixed size on a white ground, so that they look the same wherever they are shown. Coordinates are pixels from
 * the top left. Everything is appended to a bwi_text, which remembers a lack of memory. */
#ifndef BWI_SVG_H
#define BWI_SVG_H
#include "base/alloc.h"
#include <stdbool.h>

#define BWI_SVG_INK   "#222222"
#define BWI_SVG_FAINT "#bbbbbb"

typedef enum bwi_anchor { BWI_ANCHOR_START, BWI_ANCHOR_MIDDLE, BWI_ANCHOR_END } bwi_anchor;

void bwi_svg_begin(bwi_text *t, double width, double height, const char *title);
void bwi_svg_end(bwi_text *t);
void bwi_svg_rect(bwi_text *t, double x, double y, double width, double height, const char *fill);
void bwi_svg_line(bwi_text *t, double x1, double y1, double x2, double y2, const char *color, double width);
/* Lines between points that follow each other, and a dot on each; a point that is NaN ends a line. */
void bwi_svg_curve(bwi_text *t, const double *x, const double *y, int n, const char *color);
/* Text with its base line at y, turned by `turn` degrees around its anchor. Markup in it is escaped, and what XML forbids is left out. */
void bwi_svg_label(bwi_text *t, double x, double y, double size, bwi_anchor anchor, double turn, const char *label);
/* A color of n that differ as far as they can, "hsl(..)", into text. */
const char *bwi_svg_hue(char text[32], int i, int n);

/* A rectangle of the picture that stands for ranges of values. A logarithmic range is above 0. */
typedef struct bwi_axes {
    double left, top, right, bottom;
    double from_x, to_x, from_y, to_y;
    bool log_y;
} bwi_axes;
double bwi_axes_x(const bwi_axes *a, double x);
double bwi_axes_y(const bwi_axes *a, double y);
/* Base line with about n ticks and their numbers below. */
void bwi_svg_axis_x(bwi_text *t, const bwi_axes *a, int n);
/* Left line with ticks, their numbers and faint lines across: about n, or each power of 10. */
void bwi_svg_axis_y(bwi_text *t, const bwi_axes *a, int n);
#endif
