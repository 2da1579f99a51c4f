/* Recipes: the table of keys, YAML, overrides, writing, comparing, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "train/recipe.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/bitwright-recipe-XXXXXX";

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

/* Loads `yaml` through a file (NULL: no file) with one override (NULL: none). */
static bw_status load(bw_recipe **r, const char *yaml, const char *override, bw_error *err)
{
    if (yaml) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(yaml, 1, strlen(yaml), f), strlen(yaml));
        assert_int_equal(fclose(f), 0);
    }
    return bw_recipe_load(r, yaml ? path : NULL, &override, override ? 1 : 0, err);
}

static bw_recipe *load_good(const char *yaml, const char *override)
{
    bw_recipe *r;
    bw_error err;
    if (load(&r, yaml, override, &err)) fail_msg("%s", err.msg);
    return r;
}

/* The load fails and its message holds every one of the words (NULL-terminated). */
static void refused(const char *yaml, const char *override, const char *const *words)
{
    const int64_t live = bwi_alloc_live_blocks();
    bw_recipe *r;
    bw_error err;
    const bw_status st = load(&r, yaml, override, &err);
    assert_true(st == BW_ARG || st == BW_UNSUPPORTED); /* unsupported: bits that a quantizer does not have */
    assert_null(r);
    for (; *words; words++)
        if (!strstr(err.msg, *words)) fail_msg("'%s' is not in: %s", *words, err.msg);
    assert_int_equal(bwi_alloc_live_blocks(), live);
}
#define REFUSED(yaml, override, ...) refused(yaml, override, (const char *const[]){__VA_ARGS__, NULL})

static void test_defaults(void **state)
{
    (void)state;
    bw_recipe *r = load_good(NULL, NULL);
    assert_string_equal(r->net.family, "resnet20");
    assert_string_equal(r->net.shortcut, "A");
    assert_string_equal(r->quant.weight, "none");
    assert_true(r->data.augment);
    assert_false(r->net.last_bn);
    assert_int_equal(r->train.batch, 128);
    assert_true(r->optim.lr == 0.1 && r->optim.eps == 1e-8 && r->optim.quant_lr == -1);
    assert_int_equal(r->optim.n_milestones, 0);
    assert_int_equal(r->quant.n_layers, 0);
    bw_recipe_destroy(&r);
    assert_null(r);
    bw_recipe_destroy(&r);
}

static void test_file(void **state)
{
    (void)state;
    bw_recipe *r =
        load_good("# comment\nname: 'a run: with # signs'\nnet:\n  last_bn: true\nquant:\n  weight: lsq:nf_with_batch=1\n  "
                  "weight_bits: 3\n"
                  "  layers:\n    - {match: conv1, weight_bits: -1}\n    - match: 'layer?.*'\n      activation_bits: 4\n"
                  "optim: {lr: 1e-3, milestones: [30, 60, 90], name: adam}\n",
                  NULL);
    assert_string_equal(r->name, "a run: with # signs");
    assert_true(r->net.last_bn);
    assert_string_equal(r->quant.weight, "lsq:nf_with_batch=1");
    assert_int_equal(r->quant.weight_bits, 3);
    assert_int_equal(r->quant.activation_bits, 8);
    assert_int_equal(r->quant.n_layers, 2);
    assert_string_equal(r->quant.layers[0].match, "conv1");
    assert_int_equal(r->quant.layers[0].weight_bits, -1);
    assert_int_equal(r->quant.layers[0].activation_bits, 0);
    assert_string_equal(r->quant.layers[1].match, "layer?.*");
    assert_int_equal(r->quant.layers[1].activation_bits, 4);
    assert_true(r->optim.lr == 1e-3);
    assert_int_equal(r->optim.n_milestones, 3);
    assert_int_equal(r->optim.milestones[2], 90);
    bw_recipe_destroy(&r);
    r = load_good("", NULL); /* an empty file is a recipe of defaults */
    assert_int_equal(r->train.epochs, 1);
    bw_recipe_destroy(&r);
}

static void test_overrides(void **state)
{
    (void)state;
    const char *const overrides[] = {"train.epochs=3",
                                     "train.epochs=4",
                                     "data.source=cifar10:/a b/c",
                                     "optim.milestones=[1, 5]",
                                     "quant.layers=[{match: linear, weight_bits: 8}]",
                                     "name=",
                                     "data.augment=false"};
    bw_recipe *r;
    bw_error err;
    assert_int_equal(bw_recipe_load(&r, NULL, overrides, sizeof overrides / sizeof *overrides, &err), BW_OK);
    assert_int_equal(r->train.epochs, 4);
    assert_string_equal(r->data.source, "cifar10:/a b/c");
    assert_int_equal(r->optim.n_milestones, 2);
    assert_int_equal(r->optim.milestones[1], 5);
    assert_int_equal(r->quant.n_layers, 1);
    assert_string_equal(r->quant.layers[0].match, "linear");
    assert_string_equal(r->name, "");
    assert_false(r->data.augment);
    bw_recipe_destroy(&r);
    r = load_good("optim: {milestones: [3]}", "optim.milestones=[]"); /* an empty list takes the place of the file's */
    assert_int_equal(r->optim.n_milestones, 0);
    bw_recipe_destroy(&r);
    r = load_good("quant: {layers: [{match: conv1, weight_bits: 8}]}", "quant.layers=[]");
    assert_int_equal(r->quant.n_layers, 0);
    bw_recipe_destroy(&r);
}

static void test_unknown_keys(void **state)
{
    (void)state;
    REFUSED("train:\n  epohcs: 3\n", NULL, "train.epohcs", "train.epochs", "line 2", path);
    REFUSED("tarin:\n  epochs: 3\n", NULL, "'tarin'", "did you mean train?");
    REFUSED("quant:\n  layers:\n    - {match: a, wieght_bits: 3}\n", NULL, "wieght_bits", "quant.layers.weight_bits", "line 3");
    REFUSED("zzzzzzzz: 1\n", NULL, "zzzzzzzz", "list of recipe keys");
    REFUSED(NULL, "train.epohcs=3", "train.epohcs", "train.epochs");
    REFUSED(NULL, "epochs=3", "'epochs'", "train.epochs");
    REFUSED(NULL, "train.epochs", "section.key=value");
    REFUSED(NULL, "=3", "''");
}

static void test_wrong_values(void **state)
{
    (void)state;
    REFUSED("train:\n  epochs: many\n", NULL, "train.epochs", "whole number from 1 to 1000000", "'many'", path);
    REFUSED("train: {epochs: 1.5}", NULL, "train.epochs", "'1.5'");
    REFUSED("train: {epochs: 0}", NULL, "train.epochs", "from 1", "'0'");
    REFUSED("train: {epochs: ''}", NULL, "train.epochs", "''");
    REFUSED("quant: {weight_bits: 9}", NULL, "quant.weight_bits", "from 1 to 8", "'9'");
    REFUSED("data: {augment: yes}", NULL, "data.augment", "true or false", "'yes'");
    REFUSED("optim: {lr: fast}", NULL, "optim.lr", "a number", "'fast'");
    REFUSED("optim: {lr: nan}", NULL, "optim.lr", "'nan'");
    REFUSED("optim: {lr: 1e999}", NULL, "optim.lr", "'1e999'");
    REFUSED("optim: {momentum: 1.1}", NULL, "optim.momentum", "from 0 to 1");
    REFUSED("optim: {name: sdg}", NULL, "optim.name", "one of sgd, adam", "did you mean 'sgd'");
    REFUSED("net: {family: resnet21}", NULL, "net.family", "resnet20");
    REFUSED("optim: {milestones: [1, x]}", NULL, "optim.milestones", "'x'");
    REFUSED("optim: {milestones: [5, 5]}", NULL, "optim.milestones", "rise");
    REFUSED("optim: {milestones: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", NULL, "optim.milestones");
    REFUSED("quant: {layers: [{weight_bits: 3}]}", NULL, "quant.layers", "match");
    REFUSED("quant: {layers: [{match: a, weight_bits: 99}]}", NULL, "quant.layers", "from -1 to 8", "'99'");
    REFUSED("quant: {weight: lsqq}", NULL, "quant.weight", "lsq");
    REFUSED("quant: {weight: bwn, weight_bits: 3}", NULL, "quant.weight", "bwn", "3");
    REFUSED("quant: {weight: lsq, weight_gradient: stee}", NULL, "quant.weight", "ste");
    REFUSED("data: {source: cifra10}", NULL, "data.source", "cifar10");
    REFUSED("data: {source: ''}", NULL, "data.source");
    REFUSED(NULL, "train.batch=0", "train.batch", "from 1");
    REFUSED(NULL, "train.batch= 8", "train.batch", "' 8'");
    REFUSED(NULL, "name=a\nb", "name", "not printable");
    REFUSED(NULL, "name=\xff", "name", "not UTF-8");
}

static void test_wrong_yaml(void **state)
{
    (void)state;
    REFUSED("train: 5\n", NULL, "train", "line 1", "MAPPING");
    REFUSED("name: [1]\n", NULL, "name", "STRING");
    REFUSED("train:\n  epochs: 1\n  epochs: 2\n", NULL, "already seen", "epochs");
    REFUSED("name: a\n b: : x\n", NULL, "line 1", "mapping values");
    REFUSED("- a\n- b\n", NULL, "MAPPING");
    REFUSED("name: &x a\ninit: *x\n", NULL, "alias", "line 2");
    REFUSED(NULL, "quant.layers=[", "quant.layers");
    REFUSED(NULL, "optim.milestones=3", "optim.milestones");
}

static void test_missing_file(void **state)
{
    (void)state;
    bw_recipe *r;
    bw_error err;
    assert_int_equal(bw_recipe_load(&r, "/nonexistent/recipe.yaml", NULL, 0, &err), BW_IO);
    assert_non_null(strstr(err.msg, "/nonexistent/recipe.yaml"));
    assert_int_equal(bw_recipe_load(&r, "/nonexistent/recipe.yaml", NULL, 0, NULL), BW_IO);
}

/* The text of a recipe is a recipe, and the same one. */
static void check_round_trip(bw_recipe *r)
{
    bw_recipe *again;
    bw_error err;
    const char *text = bw_recipe_text(r);
    assert_non_null(text);
    if (bwi_recipe_parse(&again, "text", text, &err)) fail_msg("%s\n%s", err.msg, text);
    assert_int_equal(bwi_recipe_same(r, again, &err), BW_OK);
    assert_string_equal(bw_recipe_text(again), text);
    bw_recipe_destroy(&again);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const names[] = {
        "",       "true", "5",       "- x",   "a: b", "a #b",    "\"quoted\\\"",         "'single'",         "%50",
        "{a: b}", "[x]",  " blank ", "*star", "x:",   "&anchor", "\xc3\xa4\xe2\x82\xac", "\xf0\x9f\x98\x80", "~"};
    bw_recipe *r = load_good(
        "quant: {layers: [{match: 'l*[12].conv?', weight_bits: 3}, {match: '\"', activation_bits: -1}], weight: lsq}\n"
        "optim: {lr: 0.1234567890123456789, milestones: [1, 2, 1000000], eps: 1e-300, weight_decay: 0.25e-4}\n",
        NULL);
    check_round_trip(r);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        bw_error err;
        assert_int_equal(bwi_recipe_set(r, bwi_key_find("name"), names[i], &err), BW_OK);
        check_round_trip(r);
        assert_string_equal(r->name, names[i]);
    }
    bw_recipe_destroy(&r);
}

/* Every recipe of the project loads, resolves, and names itself after its file. */
static void test_recipes(void **state)
{
    (void)state;
    DIR *dir = opendir("recipes");
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        const char *end = strstr(e->d_name, ".yaml");
        char file[512];
        bw_recipe *r;
        bw_error err;
        if (!end) continue;
        snprintf(file, sizeof file, "recipes/%s", e->d_name);
        if (bw_recipe_load(&r, file, NULL, 0, &err)) fail_msg("%s", err.msg);
        check_round_trip(r);
        assert_memory_equal(r->name, e->d_name, strlen(r->name));
        assert_int_equal(strlen(r->name), end - e->d_name);
        char *text;
        if (bw_describe(r, false, &text, &err)) fail_msg("%s: %s", file, err.msg); /* its policy and rules fit its network */
        bw_free(text);
        bw_recipe_destroy(&r);
        n++;
    }
    closedir(dir);
    assert_true(n >= 15);
}

static void test_same(void **state)
{
    (void)state;
    bw_recipe *a = load_good("data: {source: 'cifar10:/here'}", NULL), *b = load_good("data: {source: 'cifar10:/there'}", NULL);
    bw_error err;
    assert_int_equal(bwi_recipe_same(a, b, &err), BW_OK); /* data may move */
    bw_recipe_destroy(&b);
    b = load_good("data: {source: 'cifar100:/here'}\ntrain: {epochs: 2}\nquant: {layers: [{match: a, weight_bits: 2}]}", NULL);
    assert_int_equal(bwi_recipe_same(a, b, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "data.source"));
    assert_non_null(strstr(err.msg, "train.epochs (was 1, now 2, which changes every step of schedule cosine)"));
    assert_non_null(strstr(err.msg, "quant.layers"));
    assert_null(strstr(err.msg, "train.batch"));
    bw_recipe_destroy(&a);
    bw_recipe_destroy(&b);
}

/* The table documents itself, and every default is a value that its key takes. */
static void test_keys(void **state)
{
    (void)state;
    const char *key, *type, *def, *help;
    bw_recipe *r = load_good(NULL, NULL);
    size_t n = 0;
    for (; bw_recipe_key(n, &key, &type, &def, &help); n++) {
        const bwi_key *k = bwi_key_find(key);
        assert_non_null(k);
        assert_true(*type && *help && def);
        char *value = bwi_recipe_value(r, k);
        assert_string_equal(value, *def ? k->type == BWI_KEY_REAL ? value : def : "\"\"");
        if (k->type == BWI_KEY_REAL) assert_true(strtod(value, NULL) == strtod(def, NULL));
        bwi_free(value);
    }
    assert_true(n > 40);
    assert_false(bw_recipe_key(n, &key, &type, &def, &help));
    bw_recipe_destroy(&r);
}

static void test_no_memory(void **state)
{
    (void)state;
    const char *const overrides[] = {"train.epochs=3", "optim.milestones=[1, 5]",
                                     "quant.layers=[{match: linear, weight_bits: 8}]"};
    bw_recipe *r = load_good(
        "name: x\nquant:\n  weight: lsq\n  layers: [{match: a, weight_bits: 2}, {match: b}]\noptim: {milestones: [2]}\n", NULL);
    bw_recipe_destroy(&r);
    const int64_t live = bwi_alloc_live_blocks();
    int64_t n = 0;
    for (;; n++) {
        bw_error err;
        bwi_alloc_fail_at(n, 0);
        const bw_status st = bw_recipe_load(&r, path, overrides, 3, &err);
        bwi_alloc_fail_at(-1, 0);
        if (st == BW_OK) break;
        assert_int_equal(st, BW_NOMEM);
        assert_null(r);
        assert_int_equal(bwi_alloc_live_blocks(), live);
    }
    assert_true(n > 60);
    assert_int_equal(r->train.epochs, 3);
    bwi_alloc_fail_at(0, 1);
    assert_null(bw_recipe_text(r));
    bwi_alloc_fail_at(-1, 0);
    assert_non_null(bw_recipe_text(r));
    bw_recipe_destroy(&r);
    assert_int_equal(bwi_alloc_live_blocks(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),     cmocka_unit_test(test_file),         cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_unknown_keys), cmocka_unit_test(test_wrong_values), cmocka_unit_test(test_wrong_yaml),
        cmocka_unit_test(test_missing_file), cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_recipes),
        cmocka_unit_test(test_same),         cmocka_unit_test(test_keys),         cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
