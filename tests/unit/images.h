/* Images for tests, made here: every kind of PNG and JPEG that the decoders have to know, and damaged ones. */
#ifndef TEST_IMAGES_H
#define TEST_IMAGES_H
#include <png.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

typedef struct made_file {
    uint8_t *data;
    size_t size;
} made_file;

static inline void made_add(png_structp png, png_bytep data, size_t n)
{
    made_file *f = png_get_io_ptr(png);
    uint8_t *more = realloc(f->data, f->size + n);
    if (!more) abort();
    memcpy(more + f->size, data, n);
    f->data = more;
    f->size += n;
}

static inline void made_flush(png_structp png)
{
    (void)png;
}

/* rows [h][png_get_rowbytes]: samples as PNG stores them. palette, alpha [16] or NULL: of PNG_COLOR_TYPE_PALETTE. */
static inline made_file make_png(int w, int h, int depth, int colour, int interlace, const uint8_t *rows,
                                 const png_color *palette, const uint8_t *alpha)
{
    made_file f = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(png_jmpbuf(png))) abort();
    png_set_write_fn(png, &f, made_add, made_flush);
    png_set_IHDR(png, info, (unsigned)w, (unsigned)h, depth, colour, interlace, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (palette) png_set_PLTE(png, info, palette, 16);
    if (alpha) png_set_tRNS(png, info, alpha, 16, NULL);
    png_write_info(png, info);
    const int passes = png_set_interlace_handling(png);
    const size_t line = png_get_rowbytes(png, info);
    for (int k = 0; k < passes; k++)
        for (int y = 0; y < h; y++) png_write_row(png, rows + (size_t)y * line);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return f;
}

/* pixels [h][w] in `format` of TurboJPEG. */
static inline made_file make_jpeg(int w, int h, int format, int subsampling, int flags, const uint8_t *pixels)
{
    made_file f = {0};
    unsigned char *data = NULL;
    unsigned long size = 0;
    tjhandle handle = tjInitCompress();
    if (!handle || tjCompress2(handle, pixels, w, 0, h, format, &data, &size, subsampling, 95, flags)) abort();
    f.data = malloc(size);
    if (!f.data) abort();
    memcpy(f.data, data, size);
    f.size = size;
    tjFree(data);
    tjDestroy(handle);
    return f;
}

/* Sets the sides that the header of a JPEG file claims. */
static inline void claim_sides(made_file *f, int w, int h)
{
    for (size_t i = 0; i + 9 < f->size; i++)
        if (f->data[i] == 0xff && (f->data[i + 1] == 0xc0 || f->data[i + 1] == 0xc2)) {
            f->data[i + 5] = (uint8_t)(h >> 8), f->data[i + 6] = (uint8_t)h;
            f->data[i + 7] = (uint8_t)(w >> 8), f->data[i + 8] = (uint8_t)w;
            return;
        }
    abort();
}

/* The same for PNG, with a checksum that fits. */
static inline void claim_png_sides(made_file *f, uint32_t w, uint32_t h)
{
    uint32_t crc = ~0u;
    for (int i = 0; i < 4; i++) f->data[16 + i] = (uint8_t)(w >> (24 - 8 * i)), f->data[20 + i] = (uint8_t)(h >> (24 - 8 * i));
    for (int i = 12; i < 29; i++) {
        crc ^= f->data[i];
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    for (int i = 0; i < 4; i++) f->data[29 + i] = (uint8_t)(~crc >> (24 - 8 * i));
}
#endif
