/* Packed models: the header, the layers, and running what opens. */
#include "base/alloc.h"
#include <bitwright/run.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bw_net_info info;
    bw_error err = {0};
    bw_net *net;
    uint8_t *copy = bwi_malloc(size ? size : 1); /* of exactly this size, aligned as a mapped file */
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    const bw_status st = bw_net_read(copy, size, &info, &err);
    if (st != BW_OK && (err.status != st || !err.msg[0])) abort();
    if (st == BW_OK && info.net_bytes < (32 << 20) && info.work_bytes < (4 << 20)) {
        void *memory = bwi_malloc(info.net_bytes), *work = bwi_malloc(info.work_bytes);
        uint8_t *image = bwi_calloc((size_t)info.height * (size_t)info.width, (size_t)info.channels);
        float *logits = bwi_malloc((size_t)info.classes * sizeof *logits);
        if (!memory || !work || !image || !logits || bw_net_init(&net, copy, size, memory, info.net_bytes, &err) != BW_OK)
            abort();
        bw_net_run(net, image, 1, logits, work);
        bwi_free(memory);
        bwi_free(work);
        bwi_free(image);
        bwi_free(logits);
    }
    bwi_free(copy);
    return 0;
}
