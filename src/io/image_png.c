/* PNG by libpng: every colour type, depth and interlacing, as eight bits of RGB. */
#include "base/alloc.h"
#include "io/image.h"
#include <png.h>
#include <stdio.h>
#include <string.h>

typedef struct reading {
    const uint8_t *data;
    size_t size, at;
    bool no_memory;
    char problem[120];
    bwi_image image; /* [h,w,4] RGBA; outside of what longjmp may undo */
} reading;

static bool probe(const uint8_t *data, size_t size)
{
    return size >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8);
}

static void on_error(png_structp png, png_const_charp text)
{
    reading *r = png_get_error_ptr(png);
    snprintf(r->problem, sizeof r->problem, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png, (void)text; /* the library never prints */
}

static png_voidp allocate(png_structp png, png_alloc_size_t size)
{
    reading *r = png_get_mem_ptr(png);
    void *p = bwi_malloc(size);
    if (!p) r->no_memory = true;
    return p;
}

static void release(png_structp png, png_voidp p)
{
    (void)png;
    bwi_free(p);
}

static void read_bytes(png_structp png, png_bytep to, size_t n)
{
    reading *r = png_get_io_ptr(png);
    if (n > r->size - r->at) png_error(png, "it is cut short");
    memcpy(to, r->data + r->at, n);
    r->at += n;
}

/* From here on errors of libpng come back through setjmp; what they must not lose is in *r. */
static bw_status read_image(png_structp png, png_infop info, reading *r, size_t most, bw_error *err)
{
    if (setjmp(png_jmpbuf(png)))
        return r->no_memory ? bwi_fail(err, BW_NOMEM, "no memory for an image")
                            : bwi_fail(err, BW_FORMAT, "a damaged PNG file: %s", r->problem);
    png_set_read_fn(png, r, read_bytes);
    png_read_info(png, info);
    const bw_status st =
        bwi_image_alloc(&r->image, png_get_image_height(png, info), png_get_image_width(png, info), 4, most, err);
    if (st) return st;
    png_set_expand(png); /* palettes, few bits and transparent colours */
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
    const int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    const size_t line = (size_t)r->image.w * 4;
    if (png_get_rowbytes(png, info) != line) png_error(png, "its lines have another length than its colours");
    for (int k = 0; k < passes; k++)
        for (int y = 0; y < r->image.h; y++) png_read_row(png, r->image.pixel + (size_t)y * line, NULL);
    png_read_end(png, NULL);
    return BW_OK;
}

/* RGBA to RGB on white, in place. */
static void blend(bwi_image *image)
{
    uint8_t *to = image->pixel;
    const uint8_t *from = to;
    for (size_t i = 0; i < (size_t)image->h * (size_t)image->w; i++, to += 3, from += 4)
        for (int c = 0, a = from[3]; c < 3; c++) to[c] = (uint8_t)((from[c] * a + 255 * (255 - a) + 127) / 255);
}

static bw_status decode(bwi_image *out, const uint8_t *data, size_t size, size_t most, bw_error *err)
{
    reading r = {.data = data, .size = size};
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning, &r, allocate, release);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    const bw_status st = info ? read_image(png, info, &r, most, err) : bwi_fail(err, BW_NOMEM, "no memory for an image");
    png_destroy_read_struct(&png, &info, NULL);
    if (st) {
        bwi_image_free(&r.image);
        return st;
    }
    blend(&r.image);
    *out = r.image;
    return BW_OK;
}

const bwi_image_format bwi_image_format_png = {
    .name = "png",
    .summary = "PNG: every colour type and depth; what is transparent lies on white",
    .suffixes = ".png",
    .probe = probe,
    .decode = decode,
};
