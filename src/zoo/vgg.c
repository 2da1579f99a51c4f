/* VGG-16 with batch norm for 32x32 images: Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition,
 * ICLR 2015, configuration D. Thirteen 3x3 convolutions without bias, five max pools, and one linear layer in place of three. The small
 * one has a quarter of the channels. Layers are numbered as in PyTorch's Sequential, where ReLUs and pools count. */
#include "zoo/builder.h"
#include <stdio.h>

static bw_status then_numbered(bwi_builder *b, int *number, const char *op, const bwi_attr *attr)
{
    char name[BWI_NAME / 2];
    snprintf(name, sizeof name, "features.%d", (*number)++);
    return bwi_build_then(b, op, name, attr);
}

static bw_status build(const bwi_family *family, bwi_graph *g, const bwi_net_options *o, bw_error *err)
{
    static const struct {
        int convs, width; /* convolutions before a pool; channels, as multiples of the first one's */
    } stage[] = {{2, 1}, {2, 2}, {3, 4}, {3, 8}, {3, 8}};
    enum { STAGES = sizeof stage / sizeof *stage };
    const bwi_attr norm = {.eps = 1e-5, .momentum = 0.1}, pool = {.kh = 2, .kw = 2, .stride = 2};
    bwi_builder b = {.g = g, .err = err};
    int number = 0;
    bw_status st;
    BWI_TRY(bwi_build_check_image(&b, family, 1 << STAGES));
    for (int s = 0; s < STAGES; s++) {
        const bwi_attr conv = {.out = family->width * stage[s].width, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .groups = 1};
        for (int i = 0; i < stage[s].convs; i++) {
            BWI_TRY(then_numbered(&b, &number, "conv2d", &conv));
            BWI_TRY(then_numbered(&b, &number, "batch_norm", &norm));
            BWI_TRY(then_numbered(&b, &number, "relu", NULL));
        }
        BWI_TRY(then_numbered(&b, &number, "max_pool", &pool));
    }
    const bwi_shape map = g->value[b.at].shape;
    if (map.h != 1 || map.w != 1) BWI_TRY(bwi_build_then(&b, "global_pool", "pool", NULL)); /* larger images */
    if (o->last_bn) BWI_TRY(bwi_build_norm(&b, "bn_last"));
    BWI_TRY(bwi_build_linear(&b, "classifier", o->classes));
    g->output = b.at;
fail:
    return st;
}

#define VGG(id, label, text, channels)                                                                                         \
    const bwi_family bwi_family_##id = {                                                                                       \
        .name = label, .summary = text, .depth = 16, .width = channels, .image = 32, .classes = 10, .build = build};
VGG(vgg16bn, "vgg16bn", "VGG-16 with batch norm for 32x32 images", 64)
VGG(vgg16bn_small, "vgg16bn-small", "VGG-16 with batch norm for 32x32 images, a quarter of the channels", 16)
