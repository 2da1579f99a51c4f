/* The data set of images in folders (data/folder.c): order, labels, pixels, and what is wrong with a folder. */
#include "check.h"
#include "folder.h"
#include "images.h"

#include "base/alloc.h"
#include "base/file.h"
#include "data/data.h"
#include "io/image.h"
#include <string.h>
#include <unistd.h>

static char spec[400];

static const char *in_set(const char *name)
{
    char path[100];
    snprintf(path, sizeof path, "set/%s", name);
    return in_root(path);
}

static void write_file(const char *name, const void *data, size_t n)
{
    char folder[400];
    snprintf(folder, sizeof folder, "%s", in_set(name));
    *strrchr(folder, '/') = 0;
    CHECK(bwi_make_dir(folder, err));
    CHECK(bwi_file_write(in_set(name), data, n, err));
}

/* A PNG of one gray. */
static void write_gray(const char *name, int w, int h, int gray)
{
    uint8_t pixels[64 * 64];
    memset(pixels, gray, sizeof pixels);
    made_file f = make_png(w, h, 8, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE, pixels, NULL, NULL);
    write_file(name, f.data, f.size);
    free(f.data);
}

/* Three cats, a dog, a test cat; and things that are no images. */
static void make_set(void)
{
    write_gray("train/cat/a.png", 40, 30, 10);
    write_gray("train/cat/b.png", 8, 8, 20);
    write_gray("train/cat/c.PNG", 5, 9, 30);
    write_gray("train/dog/a.png", 64, 64, 40);
    write_gray("test/cat/x.png", 8, 16, 50);
    write_file("train/README", "x", 1);
    write_file("train/cat/notes.txt", "x", 1);
    write_file("train/cat/png", "x", 1);
    write_file("train/dog/.hidden.png", "x", 1);
    write_file("train/.cache/a.png", "x", 1);
    snprintf(spec, sizeof spec, "folder:%s@8", in_root("set"));
}

static void remove_set(void)
{
    char command[500];
    snprintf(command, sizeof command, "rm -rf '%s'", in_root("set"));
    assert_int_equal(system(command), 0);
}

static void refused(const char *which, bw_status want, const char *a, const char *b)
{
    bw_error err = {0};
    bwi_dataset *d = NULL;
    const int64_t before = bwi_alloc_live_blocks();
    const bw_status st = bwi_dataset_open(&d, which, &err);
    if (st != want || !strstr(err.msg, a) || !strstr(err.msg, b)) fail_msg("%s: status %d, %s", which, st, err.msg);
    assert_null(d);
    assert_int_equal(bwi_alloc_live_blocks(), before);
}

static void test_images(void **state)
{
    static const int label[] = {0, 1, 0, 0}, gray[] = {10, 40, 20, 30}; /* classes take turns */
    uint8_t x[8 * 8 * 3];
    bwi_dataset *d;
    (void)state;
    make_set();
    CHECK(bwi_dataset_open(&d, spec, err));
    assert_int_equal(d->n[BWI_TRAIN], 4);
    assert_int_equal(d->n[BWI_TEST], 1);
    assert_int_equal(d->classes, 2);
    assert_string_equal(d->class_name[0], "cat");
    assert_string_equal(d->class_name[1], "dog");
    assert_true(d->shape.h == 8 && d->shape.w == 8 && d->shape.c == 3);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(d->image(d, BWI_TRAIN, i, x), label[i]);
        for (size_t k = 0; k < sizeof x; k++) assert_int_equal(x[k], gray[i]);
    }
    assert_int_equal(d->image(d, BWI_TEST, 0, x), 0);
    assert_int_equal(x[0], 50);
    bwi_dataset_close(&d);
    remove_set();
}

/* A picture becomes what bwi_image_fit makes of it, in JPEG too, 32x32 when no size is given; val stands for test. */
static void test_fit(void **state)
{
    uint8_t pixels[48 * 40 * 3], want[32 * 32 * 3], x[32 * 32 * 3];
    bwi_image image = {0};
    bwi_dataset *d;
    (void)state;
    make_set();
    assert_int_equal(rename(in_set("test"), in_set("val")), 0);
    for (int i = 0; i < 48 * 40 * 3; i++) pixels[i] = (uint8_t)(i * 7 % 251);
    made_file f = make_jpeg(48, 40, TJPF_RGB, TJSAMP_444, 0, pixels);
    write_file("val/dog/a.jpeg", f.data, f.size);
    CHECK(bwi_image_decode(&image, f.data, f.size, BWI_IMAGE_PIXELS, err));
    CHECK(bwi_image_fit(&image, 32, 32, want, err));
    bwi_image_free(&image);
    free(f.data);
    *strrchr(spec, '@') = 0;
    CHECK(bwi_dataset_open(&d, spec, err));
    assert_int_equal(d->image(d, BWI_TEST, 1, x), 1);
    assert_memory_equal(x, want, sizeof x);
    bwi_dataset_close(&d);
    remove_set();
}

static void test_mistakes(void **state)
{
    char path[400];
    (void)state;
    refused("folder", BW_ARG, "needs the folder", "folder:FOLDER");
    snprintf(path, sizeof path, "folder:%s", in_root("nowhere"));
    refused(path, BW_IO, "nowhere: expected the folders train and test (or val)", "for every class");
    make_set();
    snprintf(path, sizeof path, "folder:%s@0", in_root("set"));
    refused(path, BW_ARG, "images of 0 pixels", "1 to 4096");
    snprintf(path, sizeof path, "folder:%s@99999999999999999999", in_root("set"));
    refused(path, BW_ARG, "images of 99999999999999999999 pixels", "1 to 4096");
    write_file("train/dog/z.png", "no image", 8);
    refused(spec, BW_FORMAT, in_set("train/dog/z.png"), "");
    unlink(in_set("train/dog/z.png"));
    write_gray("test/cow/a.png", 8, 8, 1);
    refused(spec, BW_FORMAT, in_set("test/cow"), "training has no class of this name");
    CHECK(bwi_make_dir(in_set("train/cow"), err));
    refused(spec, BW_FORMAT, in_set("train/cow"), "holds no image");
    rmdir(in_set("train/cow"));
    unlink(in_set("test/cow/a.png"));
    rmdir(in_set("test/cow"));
    CHECK(bwi_make_dir(in_set("train/a|b"), err));
    refused(spec, BW_ARG, in_set("train/a|b"), "rename the folder");
    rmdir(in_set("train/a|b"));
    unlink(in_set("test/cat/x.png"));
    refused(spec, BW_FORMAT, in_set("test"), "no images in folders of classes");
    assert_int_equal(rename(in_set("train/dog"), in_root("dog")), 0);
    refused(spec, BW_FORMAT, in_set("train"), "1 folders of classes; expected at least 2");
    remove_set();
}

static void test_no_memory(void **state)
{
    const int64_t before = bwi_alloc_live_blocks();
    bw_status st = BW_NOMEM;
    (void)state;
    make_set();
    for (int64_t n = 0; st == BW_NOMEM; n++) {
        bwi_dataset *d = NULL;
        bwi_alloc_fail_at(n, 0);
        st = bwi_dataset_open(&d, spec, NULL);
        bwi_alloc_fail_at(-1, 0);
        assert_true(st == BW_OK || !d);
        bwi_dataset_close(&d);
        assert_int_equal(bwi_alloc_live_blocks(), before);
        assert_true(n < 1000);
    }
    assert_int_equal(st, BW_OK);
    remove_set();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_images), cmocka_unit_test(test_fit),
                                       cmocka_unit_test(test_mistakes), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
