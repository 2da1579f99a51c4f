/* CIFAR-10 and CIFAR-100 (Krizhevsky, Learning multiple layers of features from tiny images, 2009) in their official binary layout: a
 * record is its label bytes (CIFAR-100: coarse, fine; the fine one is used) and 3072 bytes of pixels, red, green, blue planes of 32 rows. */
#include "data/data.h"
#include "base/alloc.h"
#include "base/file.h"
#include <string.h>

enum { SIDE = 32, PLANE = SIDE * SIDE, PIXELS = 3 * PLANE, MAX_FILES = 6 };

/* What distinguishes the two. The last file holds the test images. */
typedef struct layout {
    const char *name;
    int classes, label_bytes, n_files, per_file[2]; /* images in a training file and in the test file */
    const char *file[MAX_FILES];
    const char *const *class_name;
    const char *origin;
} layout;

typedef struct cifar {
    const layout *l;
    bwi_file file[MAX_FILES];
} cifar;

static size_t record_size(const layout *l)
{
    return (size_t)l->label_bytes + PIXELS;
}

static int32_t cifar_image(const bwi_dataset *d, bwi_split split, int i, uint8_t *out)
{
    const cifar *c = d->state;
    const layout *l = c->l;
    const int file = split == BWI_TRAIN ? i / l->per_file[0] : l->n_files - 1;
    const uint8_t *rec = c->file[file].data + (size_t)(i % l->per_file[split]) * record_size(l), *p = rec + l->label_bytes;
    for (int k = 0; k < PLANE; k++) {
        out[3 * k] = p[k];
        out[3 * k + 1] = p[k + PLANE];
        out[3 * k + 2] = p[k + 2 * PLANE];
    }
    return p[-1];
}

static bw_status open_file(cifar *c, int i, const char *folder, bw_error *err)
{
    const layout *l = c->l;
    const int images = l->per_file[i == l->n_files - 1];
    const size_t expected = (size_t)images * record_size(l);
    char *path = bwi_asprintf("%s/%s", folder, l->file[i]);
    if (!path) return bwi_fail(err, BW_NOMEM, "no memory to open %s", l->file[i]);
    bw_status st = bwi_file_open(&c->file[i], path, err);
    bwi_free(path);
    const bwi_file *f = &c->file[i];
    if (st == BW_IO) return bwi_fail_in(err, st, "data set '%s' takes a folder with %s", l->name, l->origin);
    if (st != BW_OK) return st;
    if (f->size != expected)
        return bwi_fail(err, BW_FORMAT, "%s: expected %zu bytes (%d records of %zu), found %zu: take the file from %s", f->path,
                        expected, images, record_size(l), f->size, l->origin);
    for (int k = 0; k < images; k++) {
        const int label = f->data[(size_t)k * record_size(l) + (size_t)l->label_bytes - 1];
        if (label >= l->classes)
            return bwi_fail(err, BW_FORMAT, "%s: image %d has the label %d, expected 0 to %d: take the file from %s", f->path,
                            k, label, l->classes - 1, l->origin);
    }
    return BW_OK;
}

static void cifar_close(bwi_dataset *d)
{
    cifar *c = d->state;
    if (!c) return;
    for (int i = 0; i < c->l->n_files; i++) bwi_file_close(&c->file[i]);
    bwi_free(c);
    d->state = NULL;
}

/* Fills d; on failure d stays closeable. */
static bw_status open_layout(bwi_dataset *d, const layout *l, const char *folder, bw_error *err)
{
    cifar *c = bwi_calloc(1, sizeof *c);
    if (!c) return bwi_fail(err, BW_NOMEM, "no memory to open the data set in %s", folder);
    c->l = l;
    d->state = c;
    d->close = cifar_close;
    d->image = cifar_image;
    d->n[BWI_TRAIN] = (l->n_files - 1) * l->per_file[0];
    d->n[BWI_TEST] = l->per_file[1];
    d->shape = (bwi_shape){SIDE, SIDE, 3};
    d->classes = l->classes;
    d->class_name = l->class_name;
    for (int i = 0; i < l->n_files; i++) {
        const bw_status st = open_file(c, i, folder, err);
        if (st != BW_OK) return st;
    }
    return BW_OK;
}

static const char *const names10[10] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                        "dog",      "frog",       "horse", "ship", "truck"};

static const char *const names100[100] = {
    "apple",       "aquarium_fish", "baby",         "bear",         "beaver",     "bed",        "bee",       "beetle",
    "bicycle",     "bottle",        "bowl",         "boy",          "bridge",     "bus",        "butterfly", "camel",
    "can",         "castle",        "caterpillar",  "cattle",       "chair",      "chimpanzee", "clock",     "cloud",
    "cockroach",   "couch",         "crab",         "crocodile",    "cup",        "dinosaur",   "dolphin",   "elephant",
    "flatfish",    "forest",        "fox",          "girl",         "hamster",    "house",      "kangaroo",  "keyboard",
    "lamp",        "lawn_mower",    "leopard",      "lion",         "lizard",     "lobster",    "man",       "maple_tree",
    "motorcycle",  "mountain",      "mouse",        "mushroom",     "oak_tree",   "orange",     "orchid",    "otter",
    "palm_tree",   "pear",          "pickup_truck", "pine_tree",    "plain",      "plate",      "poppy",     "porcupine",
    "possum",      "rabbit",        "raccoon",      "ray",          "road",       "rocket",     "rose",      "sea",
    "seal",        "shark",         "shrew",        "skunk",        "skyscraper", "snail",      "snake",     "spider",
    "squirrel",    "streetcar",     "sunflower",    "sweet_pepper", "table",      "tank",       "telephone", "television",
    "tiger",       "tractor",       "train",        "trout",        "tulip",      "turtle",     "wardrobe",  "whale",
    "willow_tree", "wolf",          "woman",        "worm",
};

static bw_status open10(bwi_dataset *d, const char *folder, bw_error *err)
{
    static const layout l = {
        .name = "cifar10",
        .classes = 10,
        .label_bytes = 1,
        .n_files = 6,
        .per_file = {10000, 10000},
        .file = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin",
                 "test_batch.bin"},
        .class_name = names10,
        .origin = "the \"CIFAR-10 binary version\" by Alex Krizhevsky, unpacked: data_batch_1.bin to data_batch_5.bin and "
                  "test_batch.bin",
    };
    return open_layout(d, &l, folder, err);
}

static bw_status open100(bwi_dataset *d, const char *folder, bw_error *err)
{
    static const layout l = {
        .name = "cifar100",
        .classes = 100,
        .label_bytes = 2,
        .n_files = 2,
        .per_file = {50000, 10000},
        .file = {"train.bin", "test.bin"},
        .class_name = names100,
        .origin = "the \"CIFAR-100 binary version\" by Alex Krizhevsky, unpacked: train.bin and test.bin",
    };
    return open_layout(d, &l, folder, err);
}

const bwi_dataset_row bwi_dataset_row_cifar10 = {
    "cifar10", "CIFAR-10, binary version: 50,000 + 10,000 colour images of 32x32, 10 classes", true, open10};
const bwi_dataset_row bwi_dataset_row_cifar100 = {
    "cifar100", "CIFAR-100, binary version: 50,000 + 10,000 colour images of 32x32, 100 fine classes", true, open100};
