/* Data sets (one file, one row in datasets.def), normalisation, augmentation, prefetching loader. */
#ifndef BWI_DATA_H
#define BWI_DATA_H
#include "base/status.h"
#include "tensor/tensor.h"

typedef enum bwi_split { BWI_TRAIN, BWI_TEST } bwi_split;
struct bwi_dataset;
typedef struct bwi_dataset_row {
    const char *name, *summary;
    bool needs_path;
    bw_status (*open)(struct bwi_dataset *d, const char *path, bw_error *err); /* fills d; err names the file */
} bwi_dataset_row;
typedef struct bwi_dataset {
    const bwi_dataset_row *row;
    int n[2];        /* images per split */
    bwi_shape shape; /* 32, 32, 3 */
    int classes;
    const char *const *class_name; /* [classes] or NULL */
    /* Image i of a split as [h,w,c] uint8 into out (thread-safe); returns its label. */
    int32_t (*image)(const struct bwi_dataset *d, bwi_split split, int i, uint8_t *out);
    void (*close)(struct bwi_dataset *d);
    void *state;
} bwi_dataset;
const bwi_dataset_row *bwi_dataset_at(size_t i);
/* spec: "cifar10:DIR", "cifar100:DIR", "folder:DIR@64" (images in folders, fitted to 64x64), "shapes" (generated, embedded). */
BW_MUST_USE bw_status bwi_dataset_open(bwi_dataset **out, const char *spec, bw_error *err);
void bwi_dataset_close(bwi_dataset **d);

/* Normalisation by name: (x/255 - mean) / std per channel. Rows: "cifar" (.4914,.4822,.4465 / .2023,.1994,.2010), "imagenet", "half" (.5 / .5). */
typedef struct bwi_normalize {
    const char *name, *summary;
    float mean[3], std[3];
} bwi_normalize;
const bwi_normalize *bwi_normalize_at(size_t i);
const bwi_normalize *bwi_normalize_find(const char *name);
/* What byte v of a channel becomes. */
float bwi_normalized(const bwi_normalize *n, int channel, int v);
/* BW_ARG with the nearest valid name when there is no such row. */
BW_MUST_USE bw_status bwi_normalize_check(const char *name, bw_error *err);

typedef struct bwi_loader_options {
    bwi_split split;
    int batch;
    bool
        augment; /* random crop of the image padded by 4 black pixels, then a horizontal flip with probability 1/2, as torchvision */
    bool shuffle;
    bool drop_last; /* otherwise the last batch of an epoch may be smaller */
    uint64_t seed;
    const bwi_normalize *normalize;
    int limit; /* > 0: use only the first so many images of the split; more than there are means all */
    /* Training split, > 0: so many images, a fixed random choice with as many of each class as can be, are kept apart: the loader gives all but
     * them, or with `held` them alone. */
    int holdout;
    bool held;
} bwi_loader_options;
typedef struct bwi_batch {
    const float *x;        /* [n,h,w,c], normalised; valid, like the rest, until the next call of next, start or destroy */
    const int32_t *labels; /* [n] */
    const uint32_t *index; /* [n] image numbers */
    int n;
} bwi_batch;
/* Prefetching loader: a thread prepares the next batches while the caller computes. Order, crops and flips depend only on seed, epoch and image
 * number, so a loader started at (epoch, step) continues exactly. The data set and the normalisation must outlive the loader. */
typedef struct bwi_loader bwi_loader;
BW_MUST_USE bw_status bwi_loader_create(bwi_loader **out, const bwi_dataset *d, const bwi_loader_options *options,
                                        bw_error *err);
void bwi_loader_destroy(bwi_loader **l);
int bwi_loader_steps(const bwi_loader *l); /* batches an epoch */
/* Begins epoch (from 0) at batch `step`, at any moment: batches prepared for another place are dropped. */
BW_MUST_USE bw_status bwi_loader_start(bwi_loader *l, int64_t epoch, int64_t step, bw_error *err);
/* Next batch; b->n == 0 at the end of the epoch. */
BW_MUST_USE bw_status bwi_loader_next(bwi_loader *l, bwi_batch *b, bw_error *err);
#endif
