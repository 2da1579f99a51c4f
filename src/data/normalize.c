/* Named constants of normalisation. Published weights expect the one that they were trained with. */
#include "data/data.h"
#include <string.h>

static const bwi_normalize rows[] = {
    {"cifar", "mean and deviation customary for CIFAR", {.4914f, .4822f, .4465f}, {.2023f, .1994f, .2010f}},
    {"imagenet", "mean and deviation of ImageNet", {.485f, .456f, .406f}, {.229f, .224f, .225f}},
    {"half", "maps 0..255 to -1..1", {.5f, .5f, .5f}, {.5f, .5f, .5f}},
};

const bwi_normalize *bwi_normalize_at(size_t i)
{
    return i < sizeof rows / sizeof *rows ? &rows[i] : NULL;
}

const bwi_normalize *bwi_normalize_find(const char *name)
{
    const bwi_normalize *n;
    for (size_t i = 0; (n = bwi_normalize_at(i)); i++)
        if (!strcmp(n->name, name)) return n;
    return NULL;
}

/* In float and in this order, as torchvision's ToTensor and Normalize. */
float bwi_normalized(const bwi_normalize *n, int channel, int v)
{
    return ((float)v / 255.0f - n->mean[channel]) / n->std[channel];
}

bw_status bwi_normalize_check(const char *name, bw_error *err)
{
    const char *names[sizeof rows / sizeof *rows];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) names[i] = rows[i].name;
    if (bwi_normalize_find(name)) return BW_OK;
    const char *near = bwi_nearest(name, names, sizeof rows / sizeof *rows);
    return bwi_fail(err, BW_ARG, "unknown normalisation '%s': did you mean '%s'?", name, near ? near : names[0]);
}
