/* Data sets, normalisation and the loader. Small damaged CIFAR folders are made here; the real ones are read when BITWRIGHT_DATA names
 * a folder that holds cifar10 in its binary version. */
#include "data/data.h"
#include "base/alloc.h"
#include "base/rng.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static bwi_dataset *open_set(const char *spec)
{
    bwi_dataset *d = NULL;
    bw_error err = {0};
    if (bwi_dataset_open(&d, spec, &err) != BW_OK) fail_msg("%s: %s", spec, err.msg);
    return d;
}

/* Opening must fail with a status and a message that contains each of the texts. */
static void refused(const char *spec, bw_status want, const char *a, const char *b)
{
    bw_error err = {0};
    bwi_dataset *d = (bwi_dataset *)&err;
    const bw_status st = bwi_dataset_open(&d, spec, &err);
    if (st != want || !strstr(err.msg, a) || !strstr(err.msg, b)) fail_msg("%s: status %d, %s", spec, st, err.msg);
    assert_null(d);
    assert_int_equal(bwi_dataset_open(&d, spec, NULL), want);
}

/* ---- specifications and rows ------------------------------------------------------------------------------------------------------ */

static void mistakes_are_named(void **state)
{
    (void)state;
    refused("cifar", BW_ARG, "unknown data set 'cifar'", "did you mean 'cifar10'?");
    refused("shape:x", BW_ARG, "unknown data set 'shape'", "did you mean 'shapes'?");
    refused("imagenet-1000", BW_ARG, "choose one of", "shapes, cifar10:FOLDER, cifar100:FOLDER, folder:FOLDER");
    refused("", BW_ARG, "choose one of", "shapes");
    refused("cifar10", BW_ARG, "needs the folder", "cifar10:FOLDER");
    refused("cifar100:", BW_ARG, "needs the folder", "cifar100:FOLDER");
    refused("shapes:/data", BW_ARG, "takes no folder", "shapes:/data");
}

static void rows_are_complete(void **state)
{
    (void)state;
    const bwi_dataset_row *r;
    const bwi_normalize *n;
    size_t i;
    for (i = 0; (r = bwi_dataset_at(i)); i++) assert_true(r->open && strlen(r->summary) > 10);
    assert_int_equal(i, 4);
    for (i = 0; (n = bwi_normalize_at(i)); i++) assert_ptr_equal(bwi_normalize_find(n->name), n);
    assert_int_equal(i, 3);
    assert_null(bwi_normalize_find("Cifar"));
    n = bwi_normalize_find("imagenet");
    assert_true(n->mean[0] == 0.485f && n->std[2] == 0.225f);
}

/* ---- CIFAR ------------------------------------------------------------------------------------------------------------------------ */

enum { RECORD10 = 3073, RECORD100 = 3074, IMAGES = 10000 };

/* A sparse file of n bytes, so that a whole data set costs no disk; returns its path. */
static const char *make_file(const char *folder, const char *name, long n)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), n), 0);
    fclose(f);
    return path;
}

static void put(const char *path, long at, int byte)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fputc(byte, f), byte);
    fclose(f);
}

static const char *const files10[] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                      "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};

static char folder[256], spec10[300], spec100[300];

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bitwright-data-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return -1;
    snprintf(spec10, sizeof spec10, "cifar10:%s", folder);
    snprintf(spec100, sizeof spec100, "cifar100:%s", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    char path[512];
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files10[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/train.bin", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/test.bin", folder);
    unlink(path);
    return rmdir(folder);
}

static void cifar10_is_checked_and_decoded(void **state)
{
    (void)state;
    refused(spec10, BW_IO, "CIFAR-10 binary version", "data_batch_1.bin");
    for (int i = 0; i < 5; i++) make_file(folder, files10[i], (long)RECORD10 * IMAGES);
    refused(spec10, BW_IO, "CIFAR-10 binary version", "test_batch.bin");
    const char *path = make_file(folder, files10[5], (long)RECORD10 * IMAGES - 1);
    refused(spec10, BW_FORMAT, path, "expected 30730000 bytes (10000 records of 3073), found 30729999");
    make_file(folder, files10[5], (long)RECORD10 * IMAGES + 1);
    refused(spec10, BW_FORMAT, path, "found 30730001");
    make_file(folder, files10[5], 0);
    refused(spec10, BW_FORMAT, path, "found 0");
    make_file(folder, files10[5], (long)RECORD10 * IMAGES);
    put(path, (long)RECORD10 * 9999, 10);
    refused(spec10, BW_FORMAT, path, "image 9999 has the label 10, expected 0 to 9");

    /* The last image of the test file: label 9, first pixel 1 2 3, second row's first pixel 4 5 6. */
    const long at = (long)RECORD10 * 9999;
    const int plane[6] = {1, 2, 3, 4, 5, 6};
    put(path, at, 9);
    for (int k = 0; k < 6; k++) put(path, at + 1 + k % 3 * 1024 + k / 3 * 32, plane[k]);
    char third[512];
    snprintf(third, sizeof third, "%s/%s", folder, files10[2]);
    put(third, 0, 7); /* the first image of the third file is training image 20000 */
    put(third, 3072, 200);
    bwi_dataset *d = open_set(spec10);
    assert_int_equal(d->n[BWI_TRAIN], 50000);
    assert_int_equal(d->n[BWI_TEST], 10000);
    assert_int_equal(d->classes, 10);
    assert_string_equal(d->class_name[9], "truck");
    uint8_t x[3072];
    assert_int_equal(d->image(d, BWI_TEST, 9999, x), 9);
    const uint8_t first[4] = {1, 2, 3, 0}, second[4] = {4, 5, 6, 0};
    assert_memory_equal(x, first, 4);
    assert_memory_equal(x + 96, second, 4);
    assert_int_equal(d->image(d, BWI_TRAIN, 20000, x), 7);
    assert_int_equal(x[3071], 200);
    assert_int_equal(d->image(d, BWI_TRAIN, 19999, x), 0);
    assert_int_equal(d->image(d, BWI_TRAIN, 49999, x), 0);
    bwi_dataset_close(&d);
    assert_null(d);
    bwi_dataset_close(&d);
}

static void cifar100_is_checked_and_decoded(void **state)
{
    (void)state;
    refused(spec100, BW_IO, "CIFAR-100 binary version", "train.bin");
    char path[512];
    snprintf(path, sizeof path, "%s", make_file(folder, "train.bin", (long)RECORD100 * 50000));
    make_file(folder, "test.bin", (long)RECORD100 * IMAGES);
    put(path, (long)RECORD100 * 49999, 19);
    put(path, (long)RECORD100 * 49999 + 1, 100);
    refused(spec100, BW_FORMAT, path, "image 49999 has the label 100, expected 0 to 99");
    put(path, (long)RECORD100 * 49999 + 1, 99);
    put(path, (long)RECORD100 * 49999 + 2 + 1024, 77);
    bwi_dataset *d = open_set(spec100);
    uint8_t x[3072];
    assert_int_equal(d->image(d, BWI_TRAIN, 49999, x), 99);
    assert_int_equal(x[1], 77);
    assert_int_equal(d->n[BWI_TRAIN], 50000);
    assert_int_equal(d->classes, 100);
    assert_string_equal(d->class_name[0], "apple");
    assert_string_equal(d->class_name[99], "worm");
    for (int i = 1; i < 100; i++) assert_true(strcmp(d->class_name[i - 1], d->class_name[i]) < 0); /* the official order */
    bwi_dataset_close(&d);
}

static uint64_t fnv(uint64_t h, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)data)[i]) * 1099511628211u;
    return h;
}

/* The first test image of the real CIFAR-10 is a cat; its bytes from the file itself. */
static void real_cifar10_when_at_hand(void **state)
{
    (void)state;
    const char *base = getenv("BITWRIGHT_DATA");
    char spec[640], path[512];
    if (!base) skip();
    snprintf(path, sizeof path, "%s/cifar10", base);
    struct stat s;
    snprintf(spec, sizeof spec, "cifar10:%s", stat(path, &s) == 0 ? path : base);
    bwi_dataset *d = open_set(spec);
    uint8_t x[3072];
    int count[10] = {0};
    assert_int_equal(d->image(d, BWI_TEST, 0, x), 3);
    const uint8_t pixel[3] = {158, 112, 49};
    assert_memory_equal(x, pixel, 3);
    assert_int_equal(d->image(d, BWI_TRAIN, 0, x), 6);
    const uint8_t frog[3] = {59, 62, 63};
    assert_memory_equal(x, frog, 3);
    for (int i = 0; i < 10000; i++) count[d->image(d, BWI_TEST, i, x)]++;
    for (int i = 0; i < 10; i++) assert_int_equal(count[i], 1000);
    bwi_dataset_close(&d);
}

/* ---- shapes ----------------------------------------------------------------------------------------------------------------------- */

/* Accuracies on this data set are comparable only as long as its images stay the same, with every compiler. */
static void shapes_never_change(void **state)
{
    (void)state;
    bwi_dataset *d = open_set("shapes");
    uint8_t x[3072], y[3072];
    uint64_t h[2] = {14695981039346656037u, 14695981039346656037u};
    for (int split = 0; split < 2; split++)
        for (int i = 0; i < 100; i++) {
            const int32_t label = d->image(d, (bwi_split)split, i, x);
            h[split] = fnv(fnv(h[split], x, sizeof x), &label, 1);
            assert_int_equal(d->image(d, (bwi_split)split, i, y), label);
            assert_memory_equal(x, y, sizeof x);
        }
    if (h[0] != 0xd19c1309d138e2fu || h[1] != 0xe07cc0c35976d595u)
        fail_msg("train %#llxu, test %#llxu", (unsigned long long)h[0], (unsigned long long)h[1]);
    bwi_dataset_close(&d);
}

static void shapes_are_balanced_and_distinct(void **state)
{
    (void)state;
    bwi_dataset *d = open_set("shapes");
    assert_int_equal(d->n[BWI_TRAIN], 20000);
    assert_int_equal(d->n[BWI_TEST], 4000);
    assert_int_equal(d->classes, 10);
    for (int split = 0; split < 2; split++) {
        int count[10] = {0};
        double sum = 0, squares = 0;
        uint64_t seen[1000];
        for (int i = 0; i < 1000; i++) {
            uint8_t x[3072];
            const int32_t label = d->image(d, (bwi_split)split, i, x);
            assert_in_range(label, 0, 9);
            count[label]++;
            seen[i] = fnv(0, x, sizeof x);
            for (int j = 0; j < i; j++) assert_true(seen[j] != seen[i]);
            for (int k = 0; k < 3072; k++) sum += x[k], squares += x[k] * x[k];
        }
        for (int i = 0; i < 10; i++) assert_int_equal(count[i], 100);
        const double mean = sum / 3072e3, sd = sqrt(squares / 3072e3 - mean * mean);
        if (mean < 100 || mean > 155 || sd < 30 || sd > 75) fail_msg("mean %g, deviation %g", mean, sd);
    }
    bwi_dataset_close(&d);
}

/* ---- loader ----------------------------------------------------------------------------------------------------------------------- */

/* A data set of n images of 6x5x3 whose pixels tell image, row, column and channel apart. */
enum { H = 6, W = 5 };
static int32_t tiny_image(const bwi_dataset *d, bwi_split split, int i, uint8_t *out)
{
    (void)d, (void)split;
    for (int k = 0; k < H * W * 3; k++) out[k] = (uint8_t)(1 + (i * 31 + k) % 255);
    return i % 7;
}
static const bwi_dataset_row tiny_row = {.name = "tiny"};
static bwi_dataset tiny(int n)
{
    return (bwi_dataset){.row = &tiny_row, .n = {n, n / 2}, .shape = {H, W, 3}, .classes = 7, .image = tiny_image};
}

static bwi_loader_options plain(int batch)
{
    return (bwi_loader_options){.split = BWI_TRAIN, .batch = batch, .seed = 5, .normalize = bwi_normalize_find("cifar")};
}

static bwi_loader *create(const bwi_dataset *d, const bwi_loader_options *o)
{
    bwi_loader *l = NULL;
    bw_error err = {0};
    if (bwi_loader_create(&l, d, o, &err) != BW_OK) fail_msg("%s", err.msg);
    return l;
}

static bwi_batch next(bwi_loader *l)
{
    bwi_batch b;
    assert_int_equal(bwi_loader_next(l, &b, NULL), BW_OK);
    return b;
}

static void start(bwi_loader *l, int64_t epoch, int64_t step)
{
    assert_int_equal(bwi_loader_start(l, epoch, step, NULL), BW_OK);
}

/* Hash of everything in a batch. */
static uint64_t batch_hash(const bwi_batch *b)
{
    const uint64_t h = fnv(14695981039346656037u, b->x, (size_t)b->n * H * W * 3 * sizeof(float));
    return fnv(fnv(h, b->labels, (size_t)b->n * sizeof *b->labels), b->index, (size_t)b->n * sizeof *b->index);
}

static void values_are_normalised_like_torchvision(void **state)
{
    (void)state;
    const bwi_dataset d = tiny(10);
    const bwi_loader_options o = plain(4);
    bwi_loader *l = create(&d, &o);
    assert_int_equal(bwi_loader_steps(l), 3);
    start(l, 0, 0);
    for (int step = 0, i = 0; step < 3; step++) {
        const bwi_batch b = next(l);
        assert_int_equal(b.n, step < 2 ? 4 : 2);
        for (int k = 0; k < b.n; k++, i++) {
            uint8_t x[H * W * 3];
            assert_int_equal(b.index[k], i); /* not shuffled */
            assert_int_equal(b.labels[k], tiny_image(&d, BWI_TRAIN, i, x));
            for (int j = 0; j < H * W * 3; j++) {
                const float want = ((float)x[j] / 255.0f - o.normalize->mean[j % 3]) / o.normalize->std[j % 3];
                assert_true(b.x[k * H * W * 3 + j] == want);
            }
        }
    }
    for (int i = 0; i < 3; i++) {
        const bwi_batch b = next(l);
        assert_int_equal(b.n, 0);
    }
    bwi_loader_destroy(&l);
    assert_null(l);
    bwi_loader_destroy(&l);
}

static void epochs_cover_every_image_once(void **state)
{
    (void)state;
    const bwi_dataset d = tiny(103);
    bwi_loader_options o = plain(8);
    o.shuffle = true;
    for (int variant = 0; variant < 3; variant++) {
        o.drop_last = variant == 1;
        o.limit = variant == 2 ? 50 : 0;
        const int n = o.limit ? 50 : 103, total = o.drop_last ? 96 : n;
        bwi_loader *l = create(&d, &o);
        assert_int_equal(bwi_loader_steps(l), o.drop_last ? 12 : (n + 7) / 8);
        uint32_t order[3][103];
        for (int epoch = 0; epoch < 3; epoch++) {
            int seen[103] = {0}, at = 0;
            start(l, epoch, 0);
            for (bwi_batch b = next(l); b.n; b = next(l))
                for (int k = 0; k < b.n; k++, at++) {
                    assert_in_range(b.index[k], 0, n - 1);
                    assert_int_equal(seen[b.index[k]]++, 0);
                    assert_int_equal(b.labels[k], b.index[k] % 7);
                    order[epoch][at] = b.index[k];
                }
            assert_int_equal(at, total);
        }
        assert_memory_not_equal(order[0], order[1], (size_t)total * sizeof **order);
        assert_memory_not_equal(order[1], order[2], (size_t)total * sizeof **order);
        bwi_loader_destroy(&l);
    }
}

static void another_seed_gives_another_order(void **state)
{
    (void)state;
    const bwi_dataset d = tiny(64);
    bwi_loader_options o = plain(64);
    o.shuffle = true;
    uint64_t hash[3];
    for (int i = 0; i < 3; i++) {
        o.seed = i == 1 ? 6 : 5;
        bwi_loader *l = create(&d, &o);
        start(l, 0, 0);
        const bwi_batch b = next(l);
        hash[i] = batch_hash(&b);
        bwi_loader_destroy(&l);
    }
    assert_true(hash[0] == hash[2] && hash[0] != hash[1]);
}

/* Whatever the loader did before, (epoch, step) gives the same batch. */
static void restarts_are_exact(void **state)
{
    (void)state;
    const bwi_dataset d = tiny(61);
    bwi_loader_options o = plain(8);
    o.shuffle = o.augment = true;
    enum { EPOCHS = 3, BATCHES = 8 };
    uint64_t want[EPOCHS][BATCHES];
    bwi_loader *l = create(&d, &o);
    for (int e = 0; e < EPOCHS; e++) {
        start(l, e, 0);
        for (int k = 0; k < BATCHES; k++) {
            const bwi_batch b = next(l);
            want[e][k] = batch_hash(&b);
            for (int j = 0; j < k; j++) assert_true(want[e][j] != want[e][k]);
        }
    }
    bwi_loader_destroy(&l);
    bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, 0, 0);
    l = create(&d, &o);
    for (int i = 0; i < 600; i++) {
        const int e = (int)bwi_rng_below(&r, EPOCHS), from = (int)bwi_rng_below(&r, BATCHES + 1), n = (int)bwi_rng_below(&r, 5);
        start(l, e, from);
        for (int k = from; k < from + n; k++) {
            const bwi_batch b = next(l);
            if (k >= BATCHES) {
                assert_int_equal(b.n, 0);
                break;
            }
            if (batch_hash(&b) != want[e][k]) fail_msg("restart %d: epoch %d, step %d differs", i, e, k);
        }
    }
    bwi_loader_destroy(&l);
}

/* Finds the crop and flip of each image; every one of the 81 * 2 must be possible and about equally frequent. */
static void augmentation_crops_and_flips(void **state)
{
    (void)state;
    enum { IMAGES_SEEN = 8100, PER = H * W * 3 };
    const bwi_dataset d = tiny(90);
    bwi_loader_options o = plain(90);
    o.augment = true;
    bwi_loader *l = create(&d, &o);
    int count[9][9][2] = {0};
    for (int epoch = 0; epoch < IMAGES_SEEN / 90; epoch++) {
        start(l, epoch, 0);
        const bwi_batch b = next(l);
        for (int i = 0; i < b.n; i++) {
            uint8_t x[PER];
            int found = 0;
            tiny_image(&d, BWI_TRAIN, i, x);
            for (int c = 0; c < 162; c++) {
                const int top = c / 18, left = c / 2 % 9, flip = c % 2;
                bool same = true;
                for (int k = 0; k < PER && same; k++) {
                    const int ch = k % 3, col = k / 3 % W, sy = k / 3 / W + top - 4, sx = (flip ? W - 1 - col : col) + left - 4;
                    const int v = sy < 0 || sy >= H || sx < 0 || sx >= W ? 0 : x[(sy * W + sx) * 3 + ch]; /* outside is black */
                    same = b.x[i * PER + k] == ((float)v / 255.0f - o.normalize->mean[ch]) / o.normalize->std[ch];
                }
                if (same) count[top][left][flip]++, found++;
            }
            assert_int_equal(found, 1);
        }
    }
    for (int c = 0; c < 162; c++) assert_in_range(count[c / 18][c / 2 % 9][c % 2], 20, 90); /* 50 expected, deviation 7 */
    int flips = 0;
    for (int c = 0; c < 81; c++) flips += count[c / 9][c % 9][1];
    assert_in_range(flips, 3870, 4230); /* 4050 expected, deviation 45 */
    bwi_loader_destroy(&l);
}

static void refuse_loader(const bwi_dataset *d, const bwi_loader_options *o, const char *text)
{
    bw_error err = {0};
    bwi_loader *l = (bwi_loader *)&err;
    assert_int_not_equal(bwi_loader_create(&l, d, o, &err), BW_OK);
    assert_null(l);
    if (!strstr(err.msg, text)) fail_msg("%s", err.msg);
}

static void loader_refuses_what_it_cannot_do(void **state)
{
    (void)state;
    bwi_dataset d = tiny(10);
    bwi_loader_options o = plain(0);
    refuse_loader(&d, &o, "batch size must be at least 1");
    o = plain(11);
    o.drop_last = true;
    refuse_loader(&d, &o, "10 images make no whole batch of 11");
    o = plain(4);
    o.normalize = NULL;
    refuse_loader(&d, &o, "normalisation");
    o = plain(4);
    d.shape.c = 4;
    refuse_loader(&d, &o, "4 channels");

    d = tiny(10);
    bwi_loader *l = create(&d, &o);
    bw_error err = {0};
    bwi_batch b;
    assert_int_equal(bwi_loader_next(l, &b, &err), BW_INTERNAL);
    assert_int_equal(bwi_loader_start(l, 0, 4, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "an epoch has 3 steps"));
    assert_int_equal(bwi_loader_start(l, -1, 0, &err), BW_ARG);
    start(l, 0, 3); /* the end of an epoch is a place too */
    b = next(l);
    assert_int_equal(b.n, 0);
    bwi_loader_destroy(&l);
}

/* Destroyed before, during and after work. */
static void destroyed_at_any_moment(void **state)
{
    (void)state;
    const bwi_dataset d = tiny(40);
    const bwi_loader_options o = plain(4);
    const int64_t before = bwi_alloc_live_blocks();
    for (int i = 0; i < 300; i++) {
        bwi_loader *l = create(&d, &o);
        if (i % 3) start(l, 0, i % 10);
        for (int k = 0; k < i % 3 * 4; k++) next(l);
        if (i % 5 == 0) start(l, 1, 0);
        if (i % 7 == 0) usleep(200);
        bwi_loader_destroy(&l);
    }
    assert_int_equal(bwi_alloc_live_blocks(), before);
}

static void lack_of_memory_leaves_nothing(void **state)
{
    (void)state;
    const bwi_dataset d = tiny(10);
    const bwi_loader_options o = plain(4);
    const int64_t before = bwi_alloc_live_blocks();
    const char *specs[] = {"shapes", spec10};
    for (int k = 0; k < 3; k++) {
        int64_t n = 0;
        bw_status st = BW_NOMEM;
        for (; st == BW_NOMEM; n++) {
            bwi_loader *l = NULL;
            bwi_dataset *set = NULL;
            bwi_alloc_fail_at(n, 0);
            st = k < 2 ? bwi_dataset_open(&set, specs[k], NULL) : bwi_loader_create(&l, &d, &o, NULL);
            bwi_alloc_fail_at(-1, 0);
            assert_true(st == BW_OK || (!l && !set));
            bwi_loader_destroy(&l);
            bwi_dataset_close(&set);
            assert_int_equal(bwi_alloc_live_blocks(), before);
        }
        assert_int_equal(st, BW_OK);
        assert_true(n >= 3);
    }
}

/* Training images that are held out: as many of each class, the same ones whatever the loader's seed, and no image on both sides. */
static void holdout_is_disjoint(void **state)
{
    (void)state;
    bwi_dataset *d = open_set("shapes");
    enum { HELD = 105 };
    uint8_t *seen = calloc((size_t)d->n[BWI_TRAIN], 1);
    int of_class[10] = {0}, all = 0;
    uint32_t first[HELD];
    for (int round = 0; round < 3; round++) { /* held, held again with another seed, the rest */
        bwi_loader_options o = {.split = BWI_TRAIN,
                                .batch = 50,
                                .normalize = bwi_normalize_find("half"),
                                .holdout = HELD,
                                .held = round < 2,
                                .shuffle = round == 2,
                                .seed = (uint64_t)round};
        bwi_loader *l;
        bwi_batch b;
        bw_error err;
        int n = 0;
        if (bwi_loader_create(&l, d, &o, &err) != BW_OK) fail_msg("%s", err.msg);
        assert_int_equal(bwi_loader_start(l, 0, 0, &err), BW_OK);
        for (;;) {
            assert_int_equal(bwi_loader_next(l, &b, &err), BW_OK);
            if (!b.n) break;
            for (int i = 0; i < b.n; i++, n++) {
                if (round == 0) first[n] = b.index[i], of_class[b.labels[i]]++;
                if (round == 1) assert_int_equal(b.index[i], first[n]);
                if (round != 1) assert_int_equal(seen[b.index[i]]++, 0);
            }
        }
        assert_int_equal(n, round < 2 ? HELD : d->n[BWI_TRAIN] - HELD);
        all += round != 1 ? n : 0;
        bwi_loader_destroy(&l);
    }
    assert_int_equal(all, d->n[BWI_TRAIN]);
    for (int c = 0; c < 10; c++) assert_int_equal(of_class[c], 10 + (c < 5));
    bwi_loader *none;
    bw_error err;
    bwi_loader_options o = {.split = BWI_TRAIN, .batch = 5, .normalize = bwi_normalize_find("half"), .holdout = 1 << 30};
    assert_int_equal(bwi_loader_create(&none, d, &o, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "held out"));
    free(seen);
    bwi_dataset_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holdout_is_disjoint),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(rows_are_complete),
        cmocka_unit_test(cifar10_is_checked_and_decoded),
        cmocka_unit_test(cifar100_is_checked_and_decoded),
        cmocka_unit_test(real_cifar10_when_at_hand),
        cmocka_unit_test(shapes_never_change),
        cmocka_unit_test(shapes_are_balanced_and_distinct),
        cmocka_unit_test(values_are_normalised_like_torchvision),
        cmocka_unit_test(epochs_cover_every_image_once),
        cmocka_unit_test(another_seed_gives_another_order),
        cmocka_unit_test(restarts_are_exact),
        cmocka_unit_test(augmentation_crops_and_flips),
        cmocka_unit_test(loader_refuses_what_it_cannot_do),
        cmocka_unit_test(destroyed_at_any_moment),
        cmocka_unit_test(lack_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
