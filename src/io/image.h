/* Images of files: one file a format, one row in images.def. A format recognises its files by content and trusts nothing in them. */
#ifndef BWI_IMAGE_H
#define BWI_IMAGE_H
#include "base/status.h"

#define BWI_IMAGE_PIXELS ((size_t)1 << 27) /* largest image that is read from a file: 134 million pixels */

typedef struct bwi_image {
    int h, w;
    uint8_t *pixel; /* [h,w,3] RGB */
} bwi_image;

typedef struct bwi_image_format {
    const char *name, *summary, *suffixes;           /* ".jpg .jpeg" */
    bool (*probe)(const uint8_t *data, size_t size); /* by content, not by name */
    /* Decodes into out, zeroed before and on failure. most: pixels; more are BW_UNSUPPORTED before memory is asked for. Messages do not name
     * the file. */
    bw_status (*decode)(bwi_image *out, const uint8_t *data, size_t size, size_t most, bw_error *err);
} bwi_image_format;
const bwi_image_format *bwi_image_format_at(size_t i); /* NULL past the end */

/* data [size] of any format to RGB: gray is repeated, 16 bits become 8, what is transparent lies on white. Colour profiles and the orientation in
 * EXIF are not looked at. BW_FORMAT: damaged, cut short or of no known format. */
BW_MUST_USE bw_status bwi_image_decode(bwi_image *out, const uint8_t *data, size_t size, size_t most, bw_error *err);
/* The same from a file, whose path errors begin with. */
BW_MUST_USE bw_status bwi_image_read(bwi_image *out, const char *path, bw_error *err);
void bwi_image_free(bwi_image *image); /* accepts a zeroed struct */

/* For formats: memory of an image of h x w, checked against `most`. BW_UNSUPPORTED, BW_FORMAT (no pixels), BW_NOMEM. */
BW_MUST_USE bw_status bwi_image_alloc(bwi_image *image, int64_t h, int64_t w, size_t bytes_per_pixel, size_t most,
                                      bw_error *err);

/* The window of a network, [h,w,3] uint8, out. The image is made so small (or large) that it just covers the window, or, for windows of 128 pixels and
 * more, one 8/7 as large in both directions, as is customary (256 for 224); the middle of that is the result. Bilinear; where the image
 * shrinks the triangle grows with the step, so that every pixel counts. */
BW_MUST_USE bw_status bwi_image_fit(const bwi_image *image, int h, int w, uint8_t *out, bw_error *err);
#endif
