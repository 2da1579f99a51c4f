/* Images: every decoder, and fitting what it made. Corpus: build/tests/test_image --corpus tests/fuzz/corpus/fuzz_image */
#include "base/alloc.h"
#include "io/image.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bwi_image image;
    bw_error err = {0};
    uint8_t window[32 * 24 * 3], *copy = bwi_malloc(size ? size : 1); /* of exactly this size */
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    const bw_status st = bwi_image_decode(&image, copy, size, (size_t)1 << 20, &err);
    if (st == BW_OK) {
        volatile unsigned sum = 0;
        for (size_t i = 0; i < (size_t)image.h * (size_t)image.w * 3; i++) sum += image.pixel[i];
        if (bwi_image_fit(&image, 32, 24, window, &err) != BW_OK) abort();
    } else if (image.pixel || err.status != st || !err.msg[0]) {
        abort();
    }
    bwi_image_free(&image);
    bwi_free(copy);
    if (bwi_alloc_live_blocks()) abort();
    return 0;
}
