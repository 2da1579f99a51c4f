#include "zoo/builder.h"
#include <stdio.h>

bw_status bwi_build_add(bwi_builder *b, const char *op, const char *name, const int *in, int n_in, const bwi_attr *attr)
{
    char full[BWI_NAME];
    snprintf(full, sizeof full, "%s%s", b->prefix, name);
    return bwi_graph_add(b->g, op, full, in, n_in, attr, &b->at, b->err);
}

bw_status bwi_build_then(bwi_builder *b, const char *op, const char *name, const bwi_attr *attr)
{
    const int in = b->at;
    return bwi_build_add(b, op, name, &in, 1, attr);
}

bw_status bwi_build_conv(bwi_builder *b, const char *name, int out, int kernel, int stride)
{
    const bwi_attr attr = {.out = out, .kh = kernel, .kw = kernel, .stride = stride, .pad = kernel / 2, .groups = 1};
    return bwi_build_then(b, "conv2d", name, &attr);
}

bw_status bwi_build_norm(bwi_builder *b, const char *name)
{
    const bwi_attr attr = {.eps = 1e-5, .momentum = 0.1};
    return bwi_build_then(b, "batch_norm", name, &attr);
}

bw_status bwi_build_linear(bwi_builder *b, const char *name, int out)
{
    const bwi_attr attr = {.out = out, .bias = true};
    return bwi_build_then(b, "linear", name, &attr);
}

bw_status bwi_build_check_image(const bwi_builder *b, const bwi_family *family, int least)
{
    const bwi_shape s = b->g->value[0].shape;
    if (s.h >= least && s.w >= least) return BW_OK;
    return bwi_fail(b->err, BW_SHAPE, "network '%s' needs images of at least %dx%d, not %dx%d", family->name, least, least, s.h,
                    s.w);
}
