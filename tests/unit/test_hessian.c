/* EWGS's strength from the Hessian's trace as a part of training: what an update says and sets, that it disturbs nothing else, that a run that
 * was stopped before or behind it ends in the same bytes, and that the ways to stop drawing agree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "folder.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/par.h"
#include "quant/hessian.h"
#include "train/hessian.h"
#include "train/model.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Three steps an epoch, three epochs, updates before the second and the third. The last stage is quantized: products for it are cheap. */
#define LAYERS                                                                                                                 \
    "quant.layers=[{match: '*', weight_bits: -1, activation_bits: -1}, {match: 'layer3.*', weight_bits: 2, activation_bits: "  \
    "2}]"
#define METHOD "ewgs-hessian:period=1,batches=2,draws=4"
static const char *const small[] = {"data.limit=40",
                                    "train.batch=16",
                                    "train.epochs=3",
                                    "train.eval_batch=20",
                                    "train.threads=1",
                                    "quant.weight=interval",
                                    "quant.activation=interval",
                                    "quant.weight_bits=2",
                                    "quant.activation_bits=2",
                                    LAYERS,
                                    "optim.name=adam",
                                    "optim.lr=0.001",
                                    "optim.quant_lr=1e-5"};
enum { N_SMALL = sizeof small / sizeof *small, STEPS = 3, EPOCHS = 3, TENSORS = 12 };

static char init[400]; /* a network that fits the images: before, most traces are negative */

static bw_recipe *recipe(const char *weight_gradient, const char *activation_gradient)
{
    const char *all[N_SMALL + 3];
    char gradient[2][200];
    bw_recipe *r;
    bw_error err;
    memcpy(all, small, sizeof small);
    if (!init[0]) all[2] = "train.epochs=20";
    snprintf(gradient[0], sizeof gradient[0], "quant.weight_gradient=%s", weight_gradient);
    snprintf(gradient[1], sizeof gradient[1], "quant.activation_gradient=%s", activation_gradient);
    all[N_SMALL] = gradient[0];
    all[N_SMALL + 1] = gradient[1];
    all[N_SMALL + 2] = init[0] ? init : "init=";
    if (bw_recipe_load(&r, NULL, all, N_SMALL + 3, &err)) fail_msg("%s", err.msg);
    return r;
}

typedef struct notes {
    int updates, stopped;
    bool stop; /* in the middle of the next update */
    char last[256];
} notes;
static bool listen(void *user, const bw_event *event)
{
    notes *n = user;
    if (n->stop && event->kind == BW_EVENT_STEP && !strncmp(event->text, "Hessian: batch", 14)) {
        n->stop = false;
        n->stopped++;
        return true;
    }
    if (event->kind != BW_EVENT_NOTE || strncmp(event->text, "Hessian update", 14)) return false;
    n->updates++;
    snprintf(n->last, sizeof n->last, "%s", event->text);
    return false;
}

static bw_status train(const char *weight_gradient, const char *activation_gradient, const char *folder, int stop_after,
                       notes *heard, bw_error *err)
{
    bw_recipe *r = recipe(weight_gradient, activation_gradient);
    bw_train_result result;
    const bw_train_options o = {.out_dir = in_root(folder),
                                .resume = stop_after != 0,
                                .stop_after_steps = stop_after > 0 ? stop_after : 0,
                                .on_event = listen,
                                .user = heard};
    const bw_status st = bw_train(r, &o, &result, err);
    bw_recipe_destroy(&r);
    return st;
}

/* Line `epoch` of a log. Freed by json_decref. */
static json_t *log_line(const char *folder, int epoch)
{
    static char line[1 << 16];
    char path[400];
    snprintf(path, sizeof path, "%s/%s/log.jsonl", root, folder);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int i = 0; i < epoch; i++) assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    json_t *object = json_loads(line, 0, NULL);
    assert_non_null(object);
    return object;
}

/* Tensors of a role whose delta in the log is above 0. */
static int positive(const char *folder, int epoch, const char *role)
{
    json_t *line = log_line(folder, epoch), *list = json_object_get(line, "quantizers"), *q;
    size_t i;
    int n = 0;
    assert_int_equal(json_array_size(list), TENSORS);
    json_array_foreach(list, i, q)
    {
        if (strcmp(json_string_value(json_object_get(q, "role")), role)) continue;
        assert_true(json_is_number(json_object_get(q, "delta")));
        n += json_number_value(json_object_get(q, "delta")) > 0;
    }
    json_decref(line);
    return n;
}

static void assert_same_file(const char *a, const char *b, const char *name)
{
    char path[2][400];
    bwi_file f[2];
    bw_error err;
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s/%s", root, i ? b : a, name);
        if (bwi_file_open(&f[i], path[i], &err)) fail_msg("%s", err.msg);
    }
    if (f[0].size != f[1].size || memcmp(f[0].data, f[1].data, f[0].size)) fail_msg("%s and %s differ", path[0], path[1]);
    for (int i = 0; i < 2; i++) bwi_file_close(&f[i]);
}

static void fits_first(void **state)
{
    (void)state;
    notes heard = {0};
    bw_error err;
    if (train("ste", "ste", "start", 0, &heard, &err)) fail_msg("%s", err.msg);
    snprintf(init, sizeof init, "init=%s/start/model.safetensors", root);
}

static void updates_set_delta(void **state)
{
    (void)state;
    notes heard = {0};
    bw_error err;
    if (train(METHOD, METHOD, "whole", 0, &heard, &err)) fail_msg("%s", err.msg);
    assert_int_equal(heard.updates, EPOCHS - 1);
    assert_non_null(strstr(heard.last, "products"));
    assert_non_null(strstr(heard.last, "delta weights"));
    assert_non_null(strstr(heard.last, ", activations"));
    assert_int_equal(positive("whole", 1, "weight") + positive("whole", 1, "activation"), 0); /* STE until the first update */
    assert_true(positive("whole", 2, "weight") + positive("whole", 2, "activation") > 0);
}

/* Every step by itself, so that runs end right before an update, right behind it, and in the middle of what it has set. */
static void resumes_to_the_same_bytes(void **state)
{
    (void)state;
    notes heard = {0};
    bw_error err;
    for (int i = 0; i < EPOCHS * STEPS; i++) assert_int_equal(train(METHOD, METHOD, "steps", 1, &heard, &err), BW_INTERRUPTED);
    if (train(METHOD, METHOD, "steps", -1, &heard, &err)) fail_msg("%s", err.msg);
    assert_true(heard.updates >= EPOCHS - 1);
    assert_same_file("whole", "steps", "checkpoint.safetensors");
    assert_same_file("whole", "steps", "model.safetensors");
    assert_same_file("whole", "steps", "best.safetensors");
}

/* Somebody who asks to stop during an update need not wait for its end; the update is done again by the run that goes on. */
static void stops_in_an_update(void **state)
{
    (void)state;
    static const char method[] = "ewgs-hessian:period=1,batches=2,draws=120,rule=1"; /* long enough to be reported */
    notes heard = {0};
    bw_error err;
    if (train(method, method, "long", 0, &heard, &err)) fail_msg("%s", err.msg);
    heard.stop = true;
    assert_int_equal(train(method, method, "long-stopped", -1, &heard, &err), BW_INTERRUPTED);
    assert_int_equal(heard.stopped, 1);
    assert_non_null(strstr(err.msg, "epoch 2 after step 0"));
    if (train(method, method, "long-stopped", -1, &heard, &err)) fail_msg("%s", err.msg);
    assert_same_file("long", "long-stopped", "checkpoint.safetensors");
}

/* Until an update is due the run is that of STE; and one in which updates find delta = 0 for all, since no tensor asks, does not draw. */
static void disturbs_nothing(void **state)
{
    (void)state;
    notes heard = {0};
    bw_error err;
    if (train("ste", "ste", "ste", 0, &heard, &err)) fail_msg("%s", err.msg);
    if (train("ewgs-hessian:period=3", "ewgs-hessian:period=4", "late", 0, &heard, &err)) fail_msg("%s", err.msg);
    assert_int_equal(heard.updates, 0);
    for (int epoch = 1; epoch <= EPOCHS; epoch++) {
        json_t *a = log_line("ste", epoch), *b = log_line("late", epoch);
        assert_true(json_equal(json_object_get(a, "train_loss"), json_object_get(b, "train_loss")));
        assert_true(json_equal(json_object_get(a, "test_loss"), json_object_get(b, "test_loss")));
        assert_null(json_object_get(json_array_get(json_object_get(a, "quantizers"), 0), "delta"));
        assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(b, "quantizers"), 0), "gradient")),
                            "ewgs-hessian");
        json_decref(a);
        json_decref(b);
    }
}

/* ---- Updates by themselves ------------------------------------------------------------------------------------------------ */

/* A run as train.c has it between epochs, with the network of a finished run. */
static void open_run(bwi_run *run, bw_recipe *r)
{
    bw_error err;
    static const bw_train_options silent;
    *run = (bwi_run){.recipe = r, .options = &silent, .at = {.epoch = 1}};
    if (bwi_dataset_open(&run->data, r->data.source, &err)) fail_msg("%s", err.msg);
    if (bwi_recipe_graph(&run->graph, r, run->data->classes, &err)) fail_msg("%s", err.msg);
    char *report = NULL;
    if (bwi_import_file(run->graph, in_root("ste/model.safetensors"), &report, &err)) fail_msg("%s", err.msg);
    bwi_free(report);
}
static void close_run(bwi_run *run)
{
    bwi_graph_destroy(&run->graph);
    bwi_dataset_close(&run->data);
    bw_recipe_destroy(&run->recipe);
}

static void update(bwi_run *run, double *delta)
{
    bw_error err;
    bwi_quant *q;
    const bwi_node *layer;
    char *text;
    if (bwi_hessian_update(run, &text, &err)) fail_msg("%s", err.msg);
    assert_non_null(text);
    bwi_free(text);
    for (int i = 0; bwi_graph_quant(run->graph, i, &q, &layer); i++) {
        delta[i] = q->delta;
        assert_true(q->delta >= 0 && isfinite(q->delta));
        assert_true(q->seen == 0 && q->clipped == 0);
        q->delta = 0; /* every update starts from the same network */
    }
}

/* Few draws by the standard error against many by the paper's rules: within what the first promises, three times over. */
static void rules_agree(void **state)
{
    (void)state;
    static const char *const method[] = {"ewgs-hessian:period=1,batches=2", "ewgs-hessian:period=1,batches=2,rule=1,draws=200",
                                         "ewgs-hessian:period=1,batches=2,rule=2,draws=200"};
    double delta[3][TENSORS];
    for (int k = 0; k < 3; k++) {
        bwi_run run;
        open_run(&run, recipe(method[k], method[k]));
        update(&run, delta[k]);
        close_run(&run);
    }
    int above = 0;
    for (int i = 0; i < TENSORS; i++) {
        printf("%d: %.5f by error, %.5f by change, %.5f by signed change\n", i, delta[0][i], delta[1][i], delta[2][i]);
        above += delta[1][i] > 0.004;
        const double allowed = 3 * fmax(0.2 * delta[1][i], 0.002);
        if (fabs(delta[0][i] - delta[1][i]) > allowed)
            fail_msg("tensor %d: delta is %g by its standard error, %g by the paper's rule", i, delta[0][i], delta[1][i]);
    }
    assert_true(above > 0);
}

/* Statistics, repetition, the size of the gradient, and a batch of its own. */
static void options_matter(void **state)
{
    (void)state;
    static const char *const method[] = {
        "ewgs-hessian:period=1,batches=1,draws=2,g=0", "ewgs-hessian:period=1,batches=1,draws=2,g=1",
        "ewgs-hessian:period=1,batches=1,draws=2,g=2", "ewgs-hessian:period=1,batches=5,draws=2,batch=9"};
    double delta[4][TENSORS], again[TENSORS];
    for (int k = 0; k < 4; k++) {
        bwi_run run;
        open_run(&run, recipe(method[k], method[k]));
        const bwi_param *p = bwi_graph_param(run.graph, "layer3.0.bn1.running_var");
        float before[64];
        assert_int_equal(p->numel, 64);
        memcpy(before, p->data, sizeof before);
        bwi_quant *q;
        const bwi_node *layer;
        float asked = 7; /* what MetaQuant keeps of the step before is not overwritten */
        assert_true(bwi_graph_quant(run.graph, 0, &q, &layer));
        q->gxq = &asked;
        update(&run, delta[k]);
        assert_ptr_equal(q->gxq, &asked);
        assert_true(asked == 7);
        q->gxq = NULL;
        update(&run, again);
        assert_memory_equal(before, p->data, sizeof before);
        assert_memory_equal(delta[k], again, sizeof again);
        run.at.epoch = 2; /* other batches and directions */
        update(&run, again);
        assert_memory_not_equal(delta[k], again, sizeof again);
        close_run(&run);
    }
    for (int i = 0; i < TENSORS; i++) {
        assert_true((delta[0][i] > 0) == (delta[1][i] > 0) && (delta[0][i] > 0) == (delta[2][i] > 0));
        if (delta[0][i] > 0) assert_true(delta[1][i] < delta[0][i] && delta[2][i] > delta[0][i]); /* mean < 3 sd < max */
    }
}

/* Directions, sums and their order do not depend on the threads. */
static void any_number_of_threads(void **state)
{
    (void)state;
    double delta[2][TENSORS];
    for (int k = 0; k < 2; k++) {
        bwi_run run;
        open_run(&run, recipe("ewgs-hessian:period=1,batches=1,draws=2", "ewgs-hessian:period=1,batches=1,draws=2"));
        bwi_threads_set(k + 1);
        update(&run, delta[k]);
        close_run(&run);
    }
    bwi_threads_set(1);
    assert_memory_equal(delta[0], delta[1], sizeof delta[0]);
}

static void no_memory(void **state)
{
    (void)state;
    bwi_run run;
    bw_error err;
    bwi_quant *q;
    const bwi_node *layer;
    open_run(&run, recipe("ewgs-hessian:period=1,batches=1,draws=2,batch=2", "ste"));
    const int64_t live = bwi_alloc_live_blocks();
    bw_status st = BW_NOMEM;
    int failed = 0;
    for (int64_t n = 0; st != BW_OK; n += 1 + n / 4) {
        char *text;
        bwi_alloc_fail_at(n, 0);
        st = bwi_hessian_update(&run, &text, &err);
        bwi_alloc_fail_at(-1, 0);
        bwi_free(text);
        assert_true(st == BW_OK || st == BW_NOMEM);
        assert_int_equal(bwi_alloc_live_blocks(), live);
        failed += st != BW_OK;
        for (int i = 0; bwi_graph_quant(run.graph, i, &q, &layer); i++) assert_true(q->seen == 0);
    }
    assert_true(failed > 10);
    close_run(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fits_first),
        cmocka_unit_test(updates_set_delta),
        cmocka_unit_test(resumes_to_the_same_bytes),
        cmocka_unit_test(stops_in_an_update),
        cmocka_unit_test(disturbs_nothing),
        cmocka_unit_test(rules_agree),
        cmocka_unit_test(options_matter),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
