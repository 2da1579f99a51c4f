/* Training as a whole on small sets of the generated images: it learns, it resumes to the same bytes however it ended, and it fails without
 * harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "folder.h"

#include "base/alloc.h"
#include "base/file.h"
#include "data/data.h"
#include "train/distill.h"
#include "train/evaluate.h"
#include "train/model.h"
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Folders and recipes ------------------------------------------------------------------------------------------------- */

/* Three steps an epoch, the last one of a part of a batch, two epochs; quantizers with learned parameters. */
static const char *const small[] = {"data.limit=40",        "train.batch=16",         "train.epochs=2",
                                    "train.eval_batch=20",  "train.threads=1",        "quant.weight=lsq",
                                    "quant.activation=lsq", "quant.weight_bits=4",    "quant.activation_bits=4",
                                    "optim.lr=0.01",        "optim.weight_decay=1e-4"};
enum { N_SMALL = sizeof small / sizeof *small, STEPS = 3, EPOCHS = 2 };

static bw_recipe *recipe(const char *const *more, size_t n)
{
    const char *all[N_SMALL + 16];
    bw_recipe *r;
    bw_error err;
    memcpy(all, small, sizeof small);
    if (n) memcpy(all + N_SMALL, more, n * sizeof *more);
    if (bw_recipe_load(&r, NULL, all, N_SMALL + n, &err)) fail_msg("%s", err.msg);
    return r;
}

static bw_status train_with(const char *const *more, size_t n, const bw_train_options *o, bw_train_result *result,
                            bw_error *err)
{
    bw_recipe *r = recipe(more, n);
    const bw_status st = bw_train(r, o, result, err);
    bw_recipe_destroy(&r);
    return st;
}

static void train_good(const char *const *more, size_t n, const bw_train_options *o, bw_train_result *result)
{
    bw_error err;
    if (train_with(more, n, o, result, &err)) fail_msg("%s", err.msg);
}

/* ---- What runs leave ----------------------------------------------------------------------------------------------------- */

static void assert_same_file(const char *a, const char *b, const char *name)
{
    char path[2][400];
    bwi_file f[2];
    bw_error err;
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", i ? b : a, name);
        if (bwi_file_open(&f[i], path[i], &err)) fail_msg("%s", err.msg);
    }
    if (f[0].size != f[1].size || memcmp(f[0].data, f[1].data, f[0].size)) fail_msg("%s and %s differ", path[0], path[1]);
    for (int i = 0; i < 2; i++) bwi_file_close(&f[i]);
}

/* The log holds one line for every epoch, and, with `other`, the same but for the clock. */
static void assert_log(const char *folder, const char *other)
{
    char path[2][400], line[2][1 << 16];
    FILE *f[2];
    for (int i = 0; i < (other ? 2 : 1); i++) {
        snprintf(path[i], sizeof path[i], "%s/log.jsonl", i ? other : folder);
        assert_non_null(f[i] = fopen(path[i], "r"));
    }
    for (int epoch = 1; epoch <= EPOCHS; epoch++) {
        json_t *object[2] = {NULL, NULL};
        for (int i = 0; i < (other ? 2 : 1); i++) {
            assert_non_null(fgets(line[i], sizeof line[i], f[i]));
            assert_non_null(object[i] = json_loads(line[i], 0, NULL));
            assert_int_equal(json_integer_value(json_object_get(object[i], "epoch")), epoch);
            assert_int_equal(json_array_size(json_object_get(object[i], "quantizers")), 40);
            json_object_del(object[i], "seconds");
            json_object_del(object[i], "images_per_s");
        }
        if (other) assert_true(json_equal(object[0], object[1]));
        json_decref(object[0]);
        json_decref(object[1]);
    }
    for (int i = 0; i < (other ? 2 : 1); i++) {
        assert_null(fgets(line[i], sizeof line[i], f[i]));
        fclose(f[i]);
    }
}

static void assert_same_run(const char *a, const char *b)
{
    assert_same_file(a, b, "checkpoint.safetensors");
    assert_same_file(a, b, "model.safetensors");
    assert_same_file(a, b, "best.safetensors");
    assert_same_file(a, b, "recipe.yaml");
    assert_log(a, b);
}

/* ---- Killed --------------------------------------------------------------------------------------------------------------- */

typedef struct killer {
    int events, kill_at;
} killer;

static bool kill_on_event(void *user, const bw_event *event)
{
    killer *k = user;
    (void)event;
    if (k->events++ == k->kill_at) raise(SIGKILL);
    return false;
}

/* Comes first: a child of fork must not find threads of OpenMP that only its parent had. All training of this test is in children. */
static void test_killed(void **state)
{
    (void)state;
    int killed = 0;
    for (int kill_at = 0; kill_at < 40; kill_at++) { /* at an ever later event; a fast machine reports epochs only */
        const pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            killer k = {0, kill_at};
            bw_train_result result;
            bw_error err;
            const bw_train_options o = {
                .out_dir = in_root("killed"), .resume = true, .checkpoint_steps = 1, .on_event = kill_on_event, .user = &k};
            _exit(train_with(NULL, 0, &o, &result, &err) == BW_OK ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), 0);
            break;
        }
        assert_int_equal(WTERMSIG(status), SIGKILL);
        killed++;
    }
    assert_true(killed >= 2);
    assert_log(in_root("killed"), NULL); /* its bytes are compared in test_resume */
}

/* ---- Exactly resumed ------------------------------------------------------------------------------------------------------ */

static void test_uninterrupted(void **state)
{
    (void)state;
    bw_train_result result;
    const bw_train_options o = {.out_dir = in_root("whole")};
    train_good(NULL, 0, &o, &result);
    assert_int_equal(result.epochs, EPOCHS);
    assert_int_equal(result.steps, EPOCHS * STEPS);
    assert_true(isfinite(result.train_loss) && isfinite(result.test_loss));
    assert_true(result.best_top1 >= result.test_top1);
    assert_true(result.model_bytes > 100000 && result.model_bytes < 200000);
    assert_log(in_root("whole"), NULL);
}

/* One step a call, checkpoints in the middle of epochs included, then as killed. */
static void test_resume(void **state)
{
    (void)state;
    bw_train_result result = {0}, whole;
    const bw_train_options o = {.out_dir = in_root("steps"), .resume = true, .stop_after_steps = 1};
    for (int step = 1; step <= EPOCHS * STEPS; step++) {
        bw_error err;
        assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_INTERRUPTED);
        assert_non_null(strstr(err.msg, "checkpoint.safetensors"));
        assert_int_equal(result.steps, step);
    }
    train_good(NULL, 0, &o, &result); /* evaluates the last epoch and writes the model */
    assert_same_run(in_root("whole"), in_root("steps"));
    assert_same_run(in_root("whole"), in_root("killed"));
    const bw_train_options again = {.out_dir = in_root("whole"), .resume = true};
    train_good(NULL, 0, &again, &whole); /* a finished run has nothing left to do */
    assert_true(result.train_loss == whole.train_loss && result.test_loss == whole.test_loss &&
                result.test_top1 == whole.test_top1);
    assert_true(result.best_top1 == whole.best_top1);
}

/* A finished run goes on to the same bytes as one that was longer from the start; a cosine would have been another from its first step. */
static void test_longer(void **state)
{
    (void)state;
    static const char *const two[] = {"optim.schedule=constant"}, *const one[] = {"optim.schedule=constant", "train.epochs=1"},
                             *const cosine[] = {"train.epochs=3"};
    bw_train_options o = {.out_dir = in_root("longer-whole")};
    bw_train_result result;
    bw_error err;
    train_good(two, 1, &o, &result);
    o = (bw_train_options){.out_dir = in_root("longer"), .resume = true};
    train_good(one, 2, &o, &result);
    train_good(two, 1, &o, &result);
    assert_int_equal(result.epochs, EPOCHS);
    assert_int_equal(train_with(one, 2, &o, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "epoch 3, behind the end of a run of train.epochs: 1"));
    assert_same_file(in_root("longer-whole"), in_root("longer"), "checkpoint.safetensors");
    assert_same_file(in_root("longer-whole"), in_root("longer"), "model.safetensors");
    assert_same_file(in_root("longer-whole"), in_root("longer"), "recipe.yaml");
    assert_log(in_root("longer-whole"), in_root("longer"));
    o.out_dir = in_root("whole");
    assert_int_equal(train_with(cosine, 1, &o, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "train.epochs (was 2, now 3, which changes every step of schedule cosine)"));
}

/* Learned gradients: their networks, what they keep of the weights and of the iteration before are in the checkpoint, not in the model. */
static void test_resume_learned(void **state)
{
    (void)state;
    static const char *const method[] = {"fcgrad:stale_lookahead=1", "multifc:eq8=1", "lstmfc"};
    for (size_t i = 0; i < sizeof method / sizeof *method; i++) {
        char gradient[60], whole[40], steps[40];
        const char *const set[] = {gradient,
                                   "quant.weight=bwn",
                                   "quant.weight_bits=1",
                                   "quant.activation=none",
                                   "quant.layers=[{match: '*', weight_bits: -1}, {match: layer1.0.conv*, weight_bits: 1}]",
                                   "optim.name=adam",
                                   "train.epochs=1"};
        const size_t n = sizeof set / sizeof *set;
        bw_train_result result;
        bwi_model m;
        bw_error err;
        snprintf(gradient, sizeof gradient, "quant.weight_gradient=%s", method[i]);
        snprintf(whole, sizeof whole, "learned-%zu", i);
        snprintf(steps, sizeof steps, "learned-steps-%zu", i);
        const bw_train_options o = {.out_dir = in_root(whole)},
                               one = {.out_dir = in_root(steps), .resume = true, .stop_after_steps = 1};
        train_good(set, n, &o, &result);
        for (int step = 1; step <= STEPS; step++) assert_int_equal(train_with(set, n, &one, &result, &err), BW_INTERRUPTED);
        train_good(set, n, &one, &result);
        assert_same_file(in_root(whole), in_root(steps), "checkpoint.safetensors");
        assert_same_file(in_root(whole), in_root(steps), "model.safetensors");
        for (int k = 0; k < 2; k++) {
            char path[450];
            snprintf(path, sizeof path, "%s/%s.safetensors", in_root(whole), k ? "checkpoint" : "model");
            if (bwi_model_open(&m, path, &err)) fail_msg("%s", err.msg);
            assert_int_equal(bwi_tensors_find(&m.file, "meta.phi") != NULL, k);
            assert_int_equal(bwi_tensors_find(&m.file, "meta.layer1.0.conv1.weight.gradient") != NULL, k);
            bwi_model_close(&m);
        }
    }
}

/* BinaryConnect: the optimizer keeps weights in [-1, 1], and a rate that would lead out of it is seen to. */
static void test_bounded_weights(void **state)
{
    (void)state;
    const char *const set[] = {"quant.weight=binaryconnect", "quant.weight_bits=1", "quant.activation=none", "optim.lr=1",
                               "optim.quant_lr=0",           "optim.norm_lr=0.001"};
    const bw_train_options o = {.out_dir = in_root("bounded")};
    bw_train_result result;
    bwi_model m;
    bw_error err;
    char path[450];
    int at_bound = 0;
    train_good(set, sizeof set / sizeof *set, &o, &result);
    snprintf(path, sizeof path, "%s/model.safetensors", in_root("bounded"));
    if (bwi_model_open(&m, path, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < m.graph->n_nodes; i++) {
        if (!m.graph->node[i].wq) continue;
        const bwi_param *w = &m.graph->param[m.graph->node[i].param[0]];
        for (size_t k = 0; k < w->numel; k++) {
            const float v = ((const float *)w->data)[k];
            assert_true(v >= -1 && v <= 1);
            at_bound += v == 1 || v == -1;
        }
    }
    assert_true(at_bound > 0);
    bwi_model_close(&m);
}

/* A line that was torn, and one behind the checkpoint's epoch. */
static void test_torn_log(void **state)
{
    (void)state;
    bw_train_result result;
    bw_error err;
    bw_train_options o = {.out_dir = in_root("torn"), .resume = true, .stop_after_steps = STEPS + 1};
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_INTERRUPTED);
    FILE *f = fopen(in_root("torn/log.jsonl"), "a");
    assert_non_null(f);
    fputs("{\"epoch\":2,\"steps\":3}\n{\"epoch\":3,\"st", f);
    fclose(f);
    o.stop_after_steps = 0;
    train_good(NULL, 0, &o, &result);
    assert_same_run(in_root("whole"), in_root("torn"));
}

/* Whatever allocation fails, the run ends with BW_NOMEM, nothing leaks, and what it leaves resumes to the same bytes. */
static void test_no_memory(void **state)
{
    (void)state;
    bw_train_result result;
    bw_error err;
    bw_recipe *r = recipe(NULL, 0);
    bw_train_options o = {.out_dir = in_root("nomem"), .resume = true};
    const int64_t live = bwi_alloc_live_blocks();
    int64_t failed = 0;
    bw_status st = BW_NOMEM;
    for (int64_t n = 0; st != BW_OK && n < 1000000; n += n / 4 + 15) {
        bwi_alloc_fail_at(n, n & 1);
        st = bw_train(r, &o, &result, &err);
        bwi_alloc_fail_at(-1, 0);
        if (st == BW_OK) break;
        if (st != BW_NOMEM) fail_msg("allocation %lld: %s", (long long)n, err.msg);
        failed++;
        bwi_free(r->text);
        r->text = NULL; /* the one block that a recipe keeps */
        assert_int_equal(bwi_alloc_live_blocks(), live);
    }
    assert_int_equal(st, BW_OK);
    assert_true(failed >= 10);
    bw_recipe_destroy(&r);
    assert_same_run(in_root("whole"), in_root("nomem"));
}

/* ---- Refused -------------------------------------------------------------------------------------------------------------- */

static void test_recipe_mismatch(void **state)
{
    (void)state;
    bw_train_result result;
    bw_error err;
    const bw_train_options o = {.out_dir = in_root("steps"), .resume = true};
    static const char *const more[] = {"train.epochs=3", "quant.layers=[{match: conv1, weight_bits: 8}]",
                                       "train.precision=fast"};
    assert_int_equal(train_with(more, 3, &o, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "train.epochs (was 2, now 3, which changes"));
    assert_non_null(strstr(err.msg, "quant.layers"));
    assert_non_null(strstr(err.msg, "train.precision"));
    assert_null(strstr(err.msg, "train.batch"));
    assert_same_run(in_root("whole"), in_root("steps"));
}

static void test_folder_in_use(void **state)
{
    (void)state;
    bw_train_result result;
    bw_error err;
    bw_train_options o = {.out_dir = in_root("torn")};
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "torn"));
    assert_non_null(strstr(err.msg, "resume"));
    assert_same_run(in_root("whole"), in_root("torn"));
    o.overwrite = o.resume = true;
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_ARG);
    o.resume = false;
    train_good(NULL, 0, &o, &result);
    assert_same_run(in_root("whole"), in_root("torn"));
}

static void test_damaged_checkpoint(void **state)
{
    (void)state;
    bw_train_result result;
    bw_error err;
    const bw_train_options o = {.out_dir = in_root("damaged"), .resume = true, .stop_after_steps = 1};
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_INTERRUPTED);
    assert_int_equal(truncate(in_root("damaged/checkpoint.safetensors"), 100000), 0);
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_FORMAT);
    assert_non_null(strstr(err.msg, "damaged/checkpoint.safetensors"));
    assert_int_equal(rename(in_root("whole/model.safetensors"), in_root("damaged/checkpoint.safetensors")), 0);
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_FORMAT);
    assert_non_null(strstr(err.msg, "not a checkpoint"));
    assert_int_equal(rename(in_root("damaged/checkpoint.safetensors"), in_root("whole/model.safetensors")), 0);
}

static void test_unwritable(void **state)
{
    (void)state;
    bw_train_result result;
    bw_error err;
    FILE *f = fopen(in_root("file"), "w");
    assert_non_null(f);
    fclose(f);
    bw_train_options o = {.out_dir = in_root("file/run")};
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_IO);
    assert_non_null(strstr(err.msg, "file/run"));
    assert_int_equal(mkdir(in_root("readonly"), 0555), 0);
    o.out_dir = in_root("readonly");
    if (geteuid() != 0) { /* nothing is read-only to root */
        assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_IO);
        assert_non_null(strstr(err.msg, "readonly"));
    }
    assert_int_equal(mkdir(in_root("blocked"), 0777), 0); /* to anybody: a folder where a file is to be written */
    assert_int_equal(mkdir(in_root("blocked/checkpoint.safetensors.tmp"), 0777), 0);
    o.out_dir = in_root("blocked");
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_IO);
    assert_non_null(strstr(err.msg, "blocked/checkpoint.safetensors"));
    o.out_dir = NULL;
    assert_int_equal(train_with(NULL, 0, &o, &result, &err), BW_ARG);
}

/* ---- Diverged ------------------------------------------------------------------------------------------------------------- */

static void test_diverged(void **state)
{
    (void)state;
    static const char *const more[] = {"quant.weight=none", "quant.activation=none", "optim.lr=1e30",
                                       "optim.schedule=constant"};
    bw_train_result result;
    bw_error err;
    const bw_train_options o = {.out_dir = in_root("diverged"), .checkpoint_steps = 1};
    assert_int_equal(train_with(more, 4, &o, &result, &err), BW_NUMERIC);
    assert_non_null(strstr(err.msg, "epoch 1 after step"));
    assert_non_null(strstr(err.msg, "diverged/checkpoint.safetensors"));
    assert_non_null(strstr(err.msg, "out of range"));
    assert_true(strstr(err.msg, "conv1") || strstr(err.msg, "bn1") || strstr(err.msg, "linear") || strstr(err.msg, "layer"));
    bwi_model m; /* every value of the checkpoint is sane: it is from before the first step */
    if (bwi_model_open(&m, in_root("diverged/checkpoint.safetensors"), &err)) fail_msg("%s", err.msg);
    for (size_t i = 0; i < m.file.n; i++)
        for (size_t k = 0; k < bwi_tensor_numel(&m.file.t[i]); k++)
            if (!(fabs(bwi_tensor_at(&m.file.t[i], k)) < 1e3)) fail_msg("%s[%zu] is out of range", m.file.t[i].name, k);
    bwi_model_close(&m);
}

/* ---- Learning and evaluating ---------------------------------------------------------------------------------------------- */

typedef struct seen {
    int notes, steps, epochs;
    double first_loss, last_loss;
    bool stop;
} seen;

static bool watch(void *user, const bw_event *e)
{
    seen *s = user;
    s->notes += e->kind == BW_EVENT_NOTE;
    s->steps += e->kind == BW_EVENT_STEP;
    if (e->kind == BW_EVENT_STEP) {
        assert_in_range(e->step, 1, e->steps);
        assert_true(e->images_per_s > 0 && e->seconds_left >= 0 && isfinite(e->train_loss));
    }
    if (e->kind == BW_EVENT_EPOCH) {
        json_t *line = json_loads(e->text, 0, NULL);
        assert_non_null(line);
        assert_int_equal(json_integer_value(json_object_get(line, "epoch")), e->epoch);
        json_decref(line);
        assert_int_equal(e->epoch, ++s->epochs);
        if (e->epoch == 1) s->first_loss = e->train_loss;
        s->last_loss = e->train_loss;
    }
    return s->stop;
}

static void test_learns(void **state)
{
    (void)state;
    static const char *const more[] = {"data.limit=64", "train.epochs=8", "data.augment=false", "train.eval_every=0",
                                       "optim.lr=0.05"};
    seen s = {0};
    bw_train_result result;
    const bw_train_options o = {.out_dir = in_root("learns"), .on_event = watch, .user = &s};
    train_good(more, 5, &o, &result);
    assert_int_equal(s.epochs, 8);
    assert_true(s.notes >= 3);
    if (!(s.last_loss < 0.7 * s.first_loss)) fail_msg("the loss only fell from %g to %g", s.first_loss, s.last_loss);
    assert_true(result.train_loss == s.last_loss);
}

/* The saved model evaluates as it did in training. */
static void test_model_file(void **state)
{
    (void)state;
    bw_error err;
    bw_train_result trained;
    const bw_train_options to = {.out_dir = in_root("whole"), .resume = true};
    train_good(NULL, 0, &to, &trained);
    static const char *const names[] = {"whole/model.safetensors", "whole/checkpoint.safetensors"};
    for (int i = 0; i < 2; i++) {
        bwi_model m;
        bwi_dataset *d = NULL;
        bwi_loader *l = NULL;
        bwi_exec *e = NULL;
        bw_eval_result result;
        assert_int_equal(bwi_model_open(&m, in_root(names[i]), &err), BW_OK);
        const bwi_exec_options eo = {.batch = 20};
        const bwi_loader_options lo = {
            .split = BWI_TEST, .batch = 20, .limit = 40, .normalize = bwi_normalize_find(m.normalize)};
        assert_int_equal(bwi_open_data(&d, m.recipe->data.source, &err), BW_OK);
        assert_int_equal(bwi_loader_create(&l, d, &lo, &err), BW_OK);
        assert_int_equal(bwi_exec_create(&e, m.graph, &eo, NULL, &err), BW_OK);
        assert_int_equal(bwi_evaluate(e, m.graph, l, false, &result, &err), BW_OK);
        assert_int_equal(result.images, 40);
        assert_true(result.loss == trained.test_loss && result.top1 == trained.test_top1 && result.top5 >= result.top1);
        bwi_loader_destroy(&l);
        bwi_exec_destroy(&e);
        bwi_dataset_close(&d);
        bwi_model_close(&m);
    }
    for (int json = 0; json < 2; json++) {
        char *text;
        assert_int_equal(bw_info(in_root("whole/checkpoint.safetensors"), json, &text, &err), BW_OK);
        assert_non_null(strstr(text, "layer3.2.conv2"));
        assert_non_null(strstr(text, "resnet20"));
        json_t *object = json_loads(text, 0, NULL);
        assert_true((object != NULL) == (json == 1));
        if (object) assert_int_equal(json_integer_value(json_object_get(json_object_get(object, "progress"), "epoch")), EPOCHS);
        json_decref(object);
        bw_free(text);
    }
}

/* A run from a run: the same bits keep their quantizers, other bits start them anew; the folder that it starts from may be its own. */
static void test_init(void **state)
{
    (void)state;
    char init[500], bits[500];
    bw_train_result first, same, fewer;
    bw_error err;
    bw_train_options o = {.out_dir = in_root("init")};
    train_good(NULL, 0, &o, &first);
    snprintf(init, sizeof init, "init=%s", in_root("init/model.safetensors"));
    snprintf(bits, sizeof bits, "quant.weight_bits=2");
    const char *const more[] = {init, bits, "optim.lr=0"};
    o.overwrite = true;
    bwi_model m;
    const bwi_param *p;
    train_good((const char *const[]){init, "optim.lr=0"}, 2, &o, &same); /* nothing moves but running statistics */
    assert_int_equal(bwi_model_open(&m, in_root("init/model.safetensors"), &err), BW_OK);
    assert_non_null(p = bwi_graph_param(m.graph, "layer1.0.conv1.weight_quant.step"));
    const double step = *(const double *)p->data;
    bwi_model_close(&m);
    assert_true(step > 0 && fabs(same.train_loss - first.train_loss) < 1);
    train_good(more, 3, &o, &fewer);
    assert_int_equal(bwi_model_open(&m, in_root("init/model.safetensors"), &err), BW_OK);
    assert_non_null(p = bwi_graph_param(m.graph, "layer1.0.conv1.weight_quant.step"));
    assert_true(*(const double *)p->data > 1.5 * step); /* 2 mean|w| / sqrt(Qp): sqrt(7) times that of 4 bits */
    bwi_model_close(&m);
    assert_int_equal(train_with((const char *const[]){"init=/nonexistent.th"}, 1, &o, &fewer, &err), BW_IO);
    assert_true(bwi_file_exists(in_root("init/checkpoint.safetensors"))); /* a run that cannot begin removes nothing */
}

/* ---- Distillation --------------------------------------------------------------------------------------------------------- */

/* A float network for a teacher, as the key that names it. */
static const char *teacher(void)
{
    static char key[500];
    bw_train_result result;
    const bw_train_options o = {.out_dir = in_root("teacher"), .resume = true};
    train_good((const char *const[]){"quant.weight=none", "quant.activation=none"}, 2, &o, &result);
    snprintf(key, sizeof key, "distill.teacher=%s", in_root("teacher/model.safetensors"));
    return key;
}

static void test_distill(void **state)
{
    (void)state;
    bw_train_result whole, result, alone;
    bw_error err;
    const char *const more[] = {teacher()};
    const bw_train_options o = {.out_dir = in_root("distill")};
    train_good(more, 1, &o, &whole);
    const bw_train_options other = {.out_dir = in_root("whole"), .resume = true};
    train_good(NULL, 0, &other, &alone);
    assert_true(isfinite(whole.train_loss) && whole.train_loss != alone.train_loss);
    const bw_train_options part = {.out_dir = in_root("distill-steps"), .resume = true, .stop_after_steps = 2};
    for (int i = 1; i <= EPOCHS * STEPS / 2; i++) assert_int_equal(train_with(more, 1, &part, &result, &err), BW_INTERRUPTED);
    train_good(more, 1, &part, &result);
    assert_same_run(in_root("distill"), in_root("distill-steps"));
    assert_int_equal(train_with(NULL, 0, &part, &result, &err), BW_ARG); /* the recipe of the run had a teacher */
    assert_non_null(strstr(err.msg, "distill.teacher"));
}

/* The student is the teacher, in evaluation mode too: the loss that distillation reports is the mean of the two cross entropies. */
static void test_distill_itself(void **state)
{
    (void)state;
    bwi_model m;
    bwi_teacher t;
    bwi_dataset *d = NULL;
    bwi_loader *l = NULL;
    bwi_exec *e = NULL;
    bwi_batch batch;
    bw_error err;
    double mixed, hard, entropy = 0;
    int top1, top5;
    const void *logits;
    bw_recipe *r = recipe((const char *const[]){teacher()}, 1);
    const bwi_exec_options eo = {.batch = 16};
    const bwi_loader_options lo = {.split = BWI_TRAIN, .batch = 16, .normalize = bwi_normalize_find("cifar")};
    assert_int_equal(bwi_model_open(&m, r->distill.teacher, &err), BW_OK);
    assert_int_equal(bwi_teacher_open(&t, r, m.graph, &err), BW_OK);
    assert_int_equal(bwi_open_data(&d, "shapes", &err), BW_OK);
    assert_int_equal(bwi_loader_create(&l, d, &lo, &err), BW_OK);
    assert_int_equal(bwi_exec_create(&e, m.graph, &eo, NULL, &err), BW_OK);
    assert_int_equal(bwi_loader_start(l, 0, 0, &err), BW_OK);
    assert_int_equal(bwi_loader_next(l, &batch, &err), BW_OK);
    memcpy(bwi_exec_input(e), batch.x, (size_t)batch.n * bwi_shape_size(d->shape) * sizeof(float));
    assert_int_equal(bwi_exec_forward(e, batch.n, false, &logits, &err), BW_OK);
    assert_int_equal(bwi_teacher_loss(&t, e, &batch, &mixed, &top1, &top5, &err), BW_OK);
    assert_int_equal(bwi_exec_loss(e, batch.labels, &hard, &top1, &top5, &err), BW_OK);
    for (int i = 0; i < batch.n; i++) {
        const float *x = (const float *)logits + i * 10;
        double sum = 0;
        for (int k = 0; k < 10; k++) sum += exp((double)x[k]);
        for (int k = 0; k < 10; k++) entropy -= exp((double)x[k]) / sum * log(exp((double)x[k]) / sum) / batch.n;
    }
    assert_true(fabs(mixed - (hard + entropy) / 2) < 1e-9);
    bwi_teacher_close(&t);
    const int64_t live = bwi_alloc_live_blocks();
    for (int64_t n = 0;; n += n / 4 + 1) {
        bwi_alloc_fail_at(n, 0);
        const bw_status st = bwi_teacher_open(&t, r, m.graph, &err);
        bwi_alloc_fail_at(-1, 0);
        if (st == BW_OK) break;
        assert_int_equal(st, BW_NOMEM);
        assert_int_equal(bwi_alloc_live_blocks(), live);
    }
    bwi_teacher_close(&t);
    bwi_exec_destroy(&e);
    bwi_loader_destroy(&l);
    bwi_dataset_close(&d);
    bwi_model_close(&m);
    bw_recipe_destroy(&r);
}

static void test_distill_refused(void **state)
{
    (void)state;
    bw_train_result result;
    bw_error err;
    char folder[400];
    snprintf(folder, sizeof folder, "%s", in_root("distill-refused"));
    const bw_train_options o = {.out_dir = folder, .resume = true};
    assert_int_equal(train_with((const char *const[]){"distill.teacher=/nonexistent.safetensors"}, 1, &o, &result, &err),
                     BW_IO);
    assert_non_null(strstr(err.msg, "distill.teacher: "));
    assert_non_null(strstr(err.msg, "/nonexistent.safetensors"));
    assert_int_equal(
        train_with((const char *const[]){"distill.teacher=tests/golden/resnet20.safetensors"}, 1, &o, &result, &err),
        BW_FORMAT);
    assert_non_null(strstr(err.msg, "import it first"));
    assert_int_equal(train_with((const char *const[]){teacher(), "data.normalize=half"}, 2, &o, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "distill.teacher: "));
    assert_non_null(strstr(err.msg, "set data.normalize to cifar"));
    assert_int_equal(train_with((const char *const[]){teacher(), "net.classes=12"}, 2, &o, &result, &err), BW_SHAPE);
    assert_non_null(strstr(err.msg, "10 classes"));
    assert_false(bwi_file_exists(in_root("distill-refused/checkpoint.safetensors")));
}

/* Stopped before its first step: activation quantizers have seen nothing. */
static void test_never_initialised(void **state)
{
    (void)state;
    seen s = {.stop = true};
    bw_train_result trained;
    bw_eval_result result;
    bw_error err;
    const bw_train_options o = {.out_dir = in_root("new"), .on_event = watch, .user = &s};
    assert_int_equal(train_with(NULL, 0, &o, &trained, &err), BW_INTERRUPTED);
    assert_int_equal(trained.steps, 0);
    const bw_eval_options eo = {0};
    assert_int_equal(bw_eval(in_root("new/checkpoint.safetensors"), &eo, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "never initialised"));
    assert_non_null(strstr(err.msg, "conv1"));
}

static void test_eval_errors(void **state)
{
    (void)state;
    bw_eval_result result;
    bw_error err;
    bw_eval_options o = {.precision = "fats"};
    assert_int_equal(bw_eval(in_root("whole/model.safetensors"), &o, &result, &err), BW_ARG);
    o = (bw_eval_options){.normalize = "cfar"};
    assert_int_equal(bw_eval(in_root("whole/model.safetensors"), &o, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "cfar"));
    o = (bw_eval_options){.data = "cifar10"};
    unsetenv("BITWRIGHT_DATA");
    assert_int_equal(bw_eval(in_root("whole/model.safetensors"), &o, &result, &err), BW_ARG);
    assert_non_null(strstr(err.msg, "BITWRIGHT_DATA"));
    assert_int_equal(bw_eval(in_root("nothing"), &o, &result, &err), BW_IO);
    assert_int_equal(bw_eval(in_root("whole/log.jsonl"), &o, &result, &err), BW_FORMAT);
}

static void test_bench(void **state)
{
    (void)state;
    bw_recipe *r = recipe(NULL, 0);
    bw_bench_result b;
    bw_error err;
    const bw_bench_options o = {.batch = 4, .threads = 1, .steps = 3};
    if (bw_bench_train(r, &o, &b, &err)) fail_msg("%s", err.msg);
    assert_true(b.step_ms_min > 0 && b.step_ms_median >= b.step_ms_min);
    assert_true(b.forward_ms > 0 && b.backward_ms > 0 && b.quantizer_ms > 0 && b.optimizer_ms > 0 && b.other_ms >= 0);
    assert_true(b.peak_mb > b.planned_mb && b.planned_mb > 0);
    bw_recipe_destroy(&r);
}

static void test_list(void **state)
{
    (void)state;
    const char *name, *help, *detail;
    for (int kind = 0; kind < BW_KIND_COUNT; kind++) {
        size_t n = 0;
        for (; bw_list((bw_kind)kind, n, &name, &help, &detail); n++) assert_true(*name && *help && detail);
        assert_true(n >= 1);
        assert_false(bw_list((bw_kind)kind, n, &name, &help, &detail));
        assert_true(strcmp(bw_kind_name((bw_kind)kind), "unknown") != 0);
    }
    assert_false(bw_list(BW_KIND_COUNT, 0, &name, &help, &detail));
    bool found = false;
    for (size_t i = 0; bw_list(BW_KIND_QUANTIZER, i, &name, &help, &detail); i++)
        found = found || (!strcmp(name, "lsq") && strstr(detail, "nf_with_batch"));
    assert_true(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_uninterrupted),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_longer),
        cmocka_unit_test(test_resume_learned),
        cmocka_unit_test(test_bounded_weights),
        cmocka_unit_test(test_torn_log),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_recipe_mismatch),
        cmocka_unit_test(test_folder_in_use),
        cmocka_unit_test(test_damaged_checkpoint),
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_diverged),
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_model_file),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_never_initialised),
        cmocka_unit_test(test_eval_errors),
        cmocka_unit_test(test_bench),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_distill),
        cmocka_unit_test(test_distill_itself),
        cmocka_unit_test(test_distill_refused),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
