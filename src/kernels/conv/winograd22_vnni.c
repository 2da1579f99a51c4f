#if defined(__x86_64__)
#include "kernels/conv/winograd_vnni.h"
#include "kernels/conv/winograd22.h"

#include "kernels/conv/winograd.h"

static bool accepts(const bwk_conv_spec *s)
{
    return takes_shape(s) && s->wbits <= 4 && s->abits <= (s->asigned ? 6 : 5);
}

const bwk_conv bwk_conv_winograd22_vnni = {
    .name = "winograd-2x2",
    .summary = "exact Winograd F(2x2,3x3), AVX512-VNNI: 3x3, stride 1, weights up to 4 bits, codes up to 5",
    .needs = BWI_CPU_AVX512 | BWI_CPU_VNNI,
    .row_grain = OUT_Y,
    .accepts = accepts,
    .pays = pays,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
#endif
