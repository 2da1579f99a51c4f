/* Public entry points when memory runs out, for those whose rooms have no such test of their own: BW_NOMEM, a message, and nothing left behind. */
#include "check.h"
#include "base/alloc.h"
#include "bitwright/bitwright.h"
#include <string.h>
#include "folder.h"
#include "images.h"

static bw_recipe *recipe(const char *set)
{
    static const char *const small[] = {"net.family=resnet20",  "quant.weight=lsq",        "quant.weight_bits=2",
                                        "quant.activation=lsq", "quant.activation_bits=2", "quant.policy=first-last-8",
                                        "data.source=shapes",   "data.limit=200",          "data.holdout=60",
                                        "train.threads=1",      "net.classes=10"};
    const char *all[sizeof small / sizeof *small + 1];
    bw_recipe *r;
    memcpy(all, small, sizeof small);
    all[sizeof small / sizeof *small] = set;
    CHECK(bw_recipe_load(&r, NULL, all, sizeof small / sizeof *small + (set ? 1 : 0), err));
    return r;
}

static const char *model(void)
{
    static char path[400];
    if (!*path) {
        bw_recipe *r = recipe(NULL);
        snprintf(path, sizeof path, "%s", in_root("model.safetensors"));
        CHECK(bw_random_model(r, path, err));
        bw_recipe_destroy(&r);
    }
    return path;
}

static const char *packed(void)
{
    static char path[400];
    if (!*path) {
        snprintf(path, sizeof path, "%s", in_root("packed.safetensors"));
        CHECK(bw_export(model(), path, "packed", NULL, err));
    }
    return path;
}

/* Calls with memory running out earlier and later, for one allocation or for all from then on, until a call succeeds. */
static void starve(const char *what, bw_status (*call)(void *arg, bw_error *err), void *arg, int at_least)
{
    CHECK(call(arg, err)); /* what a first call keeps */
    const int64_t live = bwi_alloc_live_blocks();
    int failed = 0;
    for (int64_t n = 0;; n += n / 6 + 2) {
        bw_error err = {0};
        bwi_alloc_fail_at(n, n & 1);
        const bw_status st = call(arg, &err);
        bwi_alloc_fail_at(-1, 0);
        if (bwi_alloc_live_blocks() != live)
            fail_msg("%s, allocation %lld: %lld blocks are left", what, (long long)n,
                     (long long)(bwi_alloc_live_blocks() - live));
        if (st == BW_OK) break;
        if (st != BW_NOMEM || !*err.msg) fail_msg("%s, allocation %lld: status %d, '%s'", what, (long long)n, st, err.msg);
        failed++;
    }
    if (failed < at_least) fail_msg("%s: only %d calls failed", what, failed);
}

static bw_status make_random(void *arg, bw_error *err)
{
    return bw_random_model(arg, in_root("random.safetensors"), err);
}
static void test_random_model(void **state)
{
    (void)state;
    bw_recipe *r = recipe(NULL);
    starve("bw_random_model", make_random, r, 10);
    bw_recipe_destroy(&r);
}

static bw_status export_as(void *arg, bw_error *err)
{
    bw_export_sizes sizes;
    return bw_export(model(), in_root("exported.c"), arg, &sizes, err);
}
static void test_export(void **state)
{
    (void)state;
    static char forms[][12] = {"packed", "c", "c-integer", "onnx", "onnx13", "qonnx"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) starve(forms[i], export_as, forms[i], 10);
}

static bw_status inform(void *arg, bw_error *err)
{
    char *text = NULL;
    const bw_status st = bw_packed_info(packed(), NULL, arg != NULL, &text, err);
    if (st) assert_null(text);
    bw_free(text);
    return st;
}
static void test_packed_info(void **state)
{
    (void)state;
    starve("bw_packed_info", inform, NULL, 3);
    starve("bw_packed_info, JSON", inform, "json", 3);
}

static bw_status verify(void *arg, bw_error *err)
{
    const bw_verify_options o = {.data = "shapes", .limit = 2, .threads = 1};
    bw_verify_result r;
    (void)arg;
    return bw_verify(model(), &o, &r, err);
}
static void test_verify(void **state)
{
    (void)state;
    starve("bw_verify", verify, NULL, 10);
}

static void ignore(void *user, const bw_prediction *p)
{
    (void)user, (void)p;
}
static bw_status classify(void *arg, bw_error *err)
{
    const bw_run_options o = {.threads = 1};
    const char *const image[] = {arg};
    bw_run_result r;
    return bw_run(packed(), image, 1, &o, ignore, NULL, &r, err);
}
static void test_run(void **state)
{
    (void)state;
    static uint8_t pixels[40 * 30 * 3];
    char path[400];
    made_file f = make_jpeg(40, 30, TJPF_RGB, TJSAMP_444, 0, pixels);
    snprintf(path, sizeof path, "%s", in_root("image.jpg"));
    FILE *to = fopen(path, "wb");
    assert_non_null(to);
    assert_int_equal(fwrite(f.data, 1, f.size, to), f.size);
    fclose(to);
    free(f.data);
    starve("bw_run", classify, path, 5);
}

static bw_status time_network(void *arg, bw_error *err)
{
    bw_infer_result r;
    return bw_bench_infer(arg, 1, 1, NULL, &r, err);
}
static void test_bench_infer(void **state)
{
    (void)state;
    char path[400];
    snprintf(path, sizeof path, "%s", model());
    starve("bw_bench_infer", time_network, path, 10);
}

static bw_status search(void *arg, bw_error *err)
{
    const bw_search_options o = {.budget = "size=14x",
                                 .method = arg,
                                 .lo = 2,
                                 .hi = 3,
                                 .calibrate = 1,
                                 .calibrate_batch = 8,
                                 .images = 8,
                                 .threads = 1,
                                 .out_dir = in_root("search"),
                                 .overwrite = true};
    bw_search_result r;
    return bw_search(model(), &o, &r, err);
}
static void test_search(void **state)
{
    (void)state;
    static char method[] = "random:evaluations=2";
    starve("bw_search", search, method, 10);
}

static bw_status report(void *arg, bw_error *err)
{
    const char *const folder[] = {arg};
    char *text = NULL;
    const bw_status st = bw_report(folder, 1, in_root("report"), &text, err);
    bw_free(text);
    return st;
}
static void test_report(void **state)
{
    (void)state;
    char path[400];
    snprintf(path, sizeof path, "%s", in_root("search"));
    starve("bw_report", report, path, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_model), cmocka_unit_test(test_export), cmocka_unit_test(test_packed_info),
        cmocka_unit_test(test_verify),       cmocka_unit_test(test_run),    cmocka_unit_test(test_bench_infer),
        cmocka_unit_test(test_search),       cmocka_unit_test(test_report),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
