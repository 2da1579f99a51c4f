/* ResNet for 32x32 images: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2. Depth 6n + 2: a 3x3
 * convolution, three stages of n blocks with 16, 32 and 64 channels at 1, 1/2 and 1/4 of the resolution, global average pooling and a
 * linear layer. Where a stage begins, the shortcut is option A (every second pixel, missing channels zero, no parameters) or a
 * projection (1x1 convolution and batch norm). Layers are named as in the PyTorch implementations whose weights are in circulation. */
#include "zoo/zoo.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

/* A network being built: `at` is the value that the next layer takes. */
typedef struct builder {
    bwi_graph *g;
    bw_error *err;
    int at;
    bool projection;
    char block[BWI_NAME / 2]; /* prefix of layer names: "layer1.0." or "" */
} builder;

/* Appends one layer with inputs in[0..n_in). */
static bw_status add(builder *b, const char *op, const char *name, const int *in, int n_in, const bwi_attr *attr)
{
    char full[BWI_NAME];
    snprintf(full, sizeof full, "%s%s", b->block, name);
    return bwi_graph_add(b->g, op, full, in, n_in, attr, &b->at, b->err);
}

/* Appends one layer that takes the value at hand. */
static bw_status then(builder *b, const char *op, const char *name, const bwi_attr *attr)
{
    const int in = b->at;
    return add(b, op, name, &in, 1, attr);
}

static bw_status then_conv(builder *b, const char *name, int out, int kernel, int stride)
{
    const bwi_attr attr = {.out = out, .kh = kernel, .kw = kernel, .stride = stride, .pad = kernel / 2, .groups = 1};
    return then(b, "conv2d", name, &attr);
}

static bw_status then_norm(builder *b, const char *name)
{
    const bwi_attr attr = {.eps = 1e-5, .momentum = 0.1};
    return then(b, "batch_norm", name, &attr);
}

/* Two 3x3 convolutions and the shortcut around them. */
static bw_status add_block(builder *b, int stage, int index, int out, int stride)
{
    bw_status st;
    const int in = b->at;
    int sum[2];
    snprintf(b->block, sizeof b->block, "layer%d.%d.", stage, index);
    BWI_TRY(then_conv(b, "conv1", out, 3, stride));
    BWI_TRY(then_norm(b, "bn1"));
    BWI_TRY(then(b, "relu", "relu1", NULL));
    BWI_TRY(then_conv(b, "conv2", out, 3, 1));
    BWI_TRY(then_norm(b, "bn2"));
    sum[0] = b->at, sum[1] = in;
    if (b->g->value[in].shape.c != out || stride != 1) {
        b->at = in;
        if (b->projection) {
            BWI_TRY(then_conv(b, "downsample.0", out, 1, stride));
            BWI_TRY(then_norm(b, "downsample.1"));
        } else {
            const bwi_attr attr = {.out = out, .stride = stride};
            BWI_TRY(then(b, "shortcut_a", "shortcut", &attr));
        }
        sum[1] = b->at;
    }
    BWI_TRY(add(b, "add", "add", sum, 2, NULL));
    BWI_TRY(then(b, "relu", "relu2", NULL));
    b->block[0] = 0;
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

static bw_status build(const bwi_family *family, bwi_graph *g, const bwi_net_options *o, bw_error *err)
{
    const int blocks = (family->variant - 2) / 6;
    assert(6 * blocks + 2 == family->variant);
    builder b = {.g = g, .err = err};
    bw_status st;
    BWI_TRY(check_shortcut(o->shortcut, &b.projection, err));
    if (o->input.h < 4 || o->input.w < 4) {
        st = bwi_fail(err, BW_SHAPE, "network '%s' needs images of at least 4x4, not %dx%d", family->name, o->input.h,
                      o->input.w);
        goto fail;
    }
    BWI_TRY(then_conv(&b, "conv1", 16, 3, 1));
    BWI_TRY(then_norm(&b, "bn1"));
    BWI_TRY(then(&b, "relu", "relu", NULL));
    for (int stage = 1; stage <= 3; stage++)
        for (int i = 0; i < blocks; i++) BWI_TRY(add_block(&b, stage, i, 8 << stage, stage > 1 && i == 0 ? 2 : 1));
    BWI_TRY(then(&b, "global_pool", "pool", NULL));
    if (o->last_bn) BWI_TRY(then_norm(&b, "bn_last"));
    const bwi_attr linear = {.out = o->classes, .bias = true};
    BWI_TRY(then(&b, "linear", "linear", &linear));
    g->output = b.at;
fail:
    return st;
}

#define RESNET(depth)                                                                                                          \
    const bwi_family bwi_family_resnet##depth = {"resnet" #depth, "ResNet-" #depth " for 32x32 images", depth, build};
RESNET(20)
RESNET(32)
RESNET(44)
RESNET(56)
RESNET(110)
