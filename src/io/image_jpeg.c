/* JPEG by TurboJPEG: gray, YCbCr and RGB, and the four colours of print. */
#include "base/alloc.h"
#include "io/image.h"
#include <string.h>
#include <turbojpeg.h>

static bool probe(const uint8_t *data, size_t size)
{
    return size >= 3 && !memcmp(data, "\xff\xd8\xff", 3);
}

/* CMYK to RGB, in place. Its values are what programs write, turned round: 255 is no ink. */
static void print_colours(bwi_image *image)
{
    uint8_t *to = image->pixel;
    const uint8_t *from = to;
    for (size_t i = 0; i < (size_t)image->h * (size_t)image->w; i++, to += 3, from += 4)
        for (int c = 0, k = from[3]; c < 3; c++) to[c] = (uint8_t)((from[c] * k + 127) / 255);
}

static bw_status damaged(tjhandle h, bw_error *err)
{
    return bwi_fail(err, BW_FORMAT, "a damaged JPEG file: %s", tjGetErrorStr2(h));
}

static bw_status decode(bwi_image *out, const uint8_t *data, size_t size, size_t most, bw_error *err)
{
    int w = 0, h = 0, subsampling, colours;
    tjhandle handle = tjInitDecompress();
    bw_status st;
    if (!handle) return bwi_fail(err, BW_NOMEM, "no memory to decode JPEG");
    if (tjDecompressHeader3(handle, data, (unsigned long)size, &w, &h, &subsampling, &colours)) BWI_TRY(damaged(handle, err));
    const bool cmyk = colours == TJCS_CMYK || colours == TJCS_YCCK;
    BWI_TRY(bwi_image_alloc(out, h, w, cmyk ? 4 : 3, most, err));
    /* Only the first of several warnings can be seen, and behind any of them half of the image may be missing: none is passed over. */
    if (tjDecompress2(handle, data, (unsigned long)size, out->pixel, w, 0, h, cmyk ? TJPF_CMYK : TJPF_RGB,
                      TJFLAG_LIMITSCANS | TJFLAG_STOPONWARNING))
        BWI_TRY(damaged(handle, err));
    if (cmyk) print_colours(out);
fail:
    if (st) bwi_image_free(out);
    tjDestroy(handle);
    return st;
}

const bwi_image_format bwi_image_format_jpeg = {
    .name = "jpeg",
    .summary = "JPEG: baseline and progressive; gray, colour, CMYK",
    .suffixes = ".jpg .jpeg",
    .probe = probe,
    .decode = decode,
};
