/* ResNets of two 3x3 convolutions a block: He et al., Deep residual learning for image recognition, CVPR 2016.
 *
 * For 32x32 images (section 4.2), depth 6n + 2: a 3x3 convolution, three stages of n blocks with w, 2w and 4w channels at 1, 1/2 and 1/4 of the
 * resolution, global average pooling and a linear layer. w is 16; the wide ones have 32 (Zagoruyko and Komodakis, Wide residual networks,
 * BMVC 2016, k = 2). Where a stage begins, the shortcut is option A (every second pixel, missing channels zero, no parameters) or a projection
 * (1x1 convolution and batch norm).
 *
 * For 224x224 images (table 1): a 7x7 convolution and a 3x3 max pool, both with stride 2, and four stages with 64 to 512 channels; shortcuts are projections.
 *
 * Layers are named as in the PyTorch implementations whose weights are in circulation, torchvision's for the second kind. */
#include "zoo/builder.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Two 3x3 convolutions and the shortcut around them. */
static bw_status add_block(bwi_builder *b, int stage, int index, int out, int stride, bool projection)
{
    bw_status st;
    const int in = b->at;
    int sum[2];
    snprintf(b->prefix, sizeof b->prefix, "layer%d.%d.", stage, index);
    BWI_TRY(bwi_build_conv(b, "conv1", out, 3, stride));
    BWI_TRY(bwi_build_norm(b, "bn1"));
    BWI_TRY(bwi_build_then(b, "relu", "relu1", NULL));
    BWI_TRY(bwi_build_conv(b, "conv2", out, 3, 1));
    BWI_TRY(bwi_build_norm(b, "bn2"));
    sum[0] = b->at, sum[1] = in;
    if (b->g->value[in].shape.c != out || stride != 1) {
        b->at = in;
        if (projection) {
            BWI_TRY(bwi_build_conv(b, "downsample.0", out, 1, stride));
            BWI_TRY(bwi_build_norm(b, "downsample.1"));
        } else {
            const bwi_attr attr = {.out = out, .stride = stride};
            BWI_TRY(bwi_build_then(b, "shortcut_a", "shortcut", &attr));
        }
        sum[1] = b->at;
    }
    BWI_TRY(bwi_build_add(b, "add", "add", sum, 2, NULL));
    BWI_TRY(bwi_build_then(b, "relu", "relu2", NULL));
    b->prefix[0] = 0;
fail:
    return st;
}

/* `stages` stages of blocks; the first keeps the resolution, the others halve it and double the channels. */
static bw_status add_stages(bwi_builder *b, int stages, int blocks, int width, bool projection)
{
    bw_status st = BW_OK;
    for (int stage = 1; stage <= stages; stage++)
        for (int i = 0; i < blocks; i++)
            BWI_TRY(add_block(b, stage, i, width << (stage - 1), stage > 1 && i == 0 ? 2 : 1, projection));
fail:
    return st;
}

static bw_status check_shortcut(const char *shortcut, bool *projection, bw_error *err)
{
    static const char *const names[] = {"A", "projection"};
    const char *name = shortcut ? shortcut : "A";
    *projection = !strcmp(name, "projection");
    if (*projection || !strcmp(name, "A")) return BW_OK;
    const char *near = bwi_nearest(name, names, 2);
    return bwi_fail(err, BW_ARG, "unknown shortcut '%s': %s%s%s", name, near ? "did you mean '" : "choose ",
                    near ? near : "A or projection", near ? "'?" : "");
}

static bw_status build_cifar(const bwi_family *family, bwi_graph *g, const bwi_net_options *o, bw_error *err)
{
    const int blocks = (family->depth - 2) / 6;
    assert(6 * blocks + 2 == family->depth);
    bwi_builder b = {.g = g, .err = err};
    bool projection;
    bw_status st;
    BWI_TRY(check_shortcut(o->shortcut, &projection, err));
    BWI_TRY(bwi_build_check_image(&b, family, 4));
    BWI_TRY(bwi_build_conv(&b, "conv1", family->width, 3, 1));
    BWI_TRY(bwi_build_norm(&b, "bn1"));
    BWI_TRY(bwi_build_then(&b, "relu", "relu", NULL));
    BWI_TRY(add_stages(&b, 3, blocks, family->width, projection));
    BWI_TRY(bwi_build_then(&b, "global_pool", "pool", NULL));
    if (o->last_bn) BWI_TRY(bwi_build_norm(&b, "bn_last"));
    BWI_TRY(bwi_build_linear(&b, "linear", o->classes));
    g->output = b.at;
fail:
    return st;
}

#define CIFAR(id, label, layers, channels)                                                                                     \
    const bwi_family bwi_family_##id = {.name = #id,                                                                           \
                                        .summary = label " for 32x32 images",                                                  \
                                        .depth = layers,                                                                       \
                                        .width = channels,                                                                     \
                                        .image = 32,                                                                           \
                                        .classes = 10,                                                                         \
                                        .shortcuts = true,                                                                     \
                                        .build = build_cifar};
CIFAR(resnet20, "ResNet-20", 20, 16)
CIFAR(resnet32, "ResNet-32", 32, 16)
CIFAR(resnet44, "ResNet-44", 44, 16)
CIFAR(resnet56, "ResNet-56", 56, 16)
CIFAR(resnet110, "ResNet-110", 110, 16)
CIFAR(wrn20, "ResNet-20 of twice the width (32, 64 and 128 channels)", 20, 32)

static bw_status build_imagenet(const bwi_family *family, bwi_graph *g, const bwi_net_options *o, bw_error *err)
{
    const int blocks = (family->depth - 2) / 8;
    assert(8 * blocks + 2 == family->depth);
    const bwi_attr pool = {.kh = 3, .kw = 3, .stride = 2, .pad = 1};
    bwi_builder b = {.g = g, .err = err};
    bw_status st;
    BWI_TRY(bwi_build_check_image(&b, family, 32));
    BWI_TRY(bwi_build_conv(&b, "conv1", family->width, 7, 2));
    BWI_TRY(bwi_build_norm(&b, "bn1"));
    BWI_TRY(bwi_build_then(&b, "relu", "relu", NULL));
    BWI_TRY(bwi_build_then(&b, "max_pool", "maxpool", &pool));
    BWI_TRY(add_stages(&b, 4, blocks, family->width, true));
    BWI_TRY(bwi_build_then(&b, "global_pool", "avgpool", NULL));
    if (o->last_bn) BWI_TRY(bwi_build_norm(&b, "bn_last"));
    BWI_TRY(bwi_build_linear(&b, "fc", o->classes));
    g->output = b.at;
fail:
    return st;
}

const bwi_family bwi_family_resnet18 = {.name = "resnet18",
                                        .summary = "ResNet-18 for 224x224 images (torchvision's)",
                                        .depth = 18,
                                        .width = 64,
                                        .image = 224,
                                        .classes = 1000,
                                        .build = build_imagenet};
