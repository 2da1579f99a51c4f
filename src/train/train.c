/* Training: data set -> loader -> batch -> graph forward -> loss -> graph backward -> optimizer -> parameters. The loop is at the end of this
 * file; what it needs is made ready above. */
#include "train/run.h"
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/par.h"
#include "train/evaluate.h"
#include "train/hessian.h"
#include "train/model.h"
#include "zoo/zoo.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Events -------------------------------------------------------------------------------------------------------------- */

static double mean(double sum, int64_t n)
{
    return n ? sum / (double)n : NAN;
}

static void emit(bwi_run *run, bw_event_kind kind, const char *text)
{
    const bwi_progress *at = &run->at;
    if (!run->options->on_event || !text) return;
    const bool ended = kind == BW_EVENT_EPOCH;
    const int64_t epochs = run->recipe->train.epochs, left = (epochs - at->epoch) * run->steps - at->step;
    const bw_event event = {
        .kind = kind,
        .text = text,
        .epoch = ended ? at->epoch : at->epoch + 1,
        .epochs = epochs,
        .step = ended ? run->steps : at->step,
        .steps = run->steps,
        .images_per_s = run->meter.rate,
        .seconds_left = run->meter.rate > 0 ? (double)left * run->recipe->train.batch / run->meter.rate : -1,
        .train_loss = ended ? at->train_loss : mean(at->loss_sum, at->images),
        .train_top1 = ended ? at->train_top1 : 100 * mean((double)at->top1, at->images),
        .test_loss = ended ? at->test_loss : NAN,
        .test_top1 = ended ? at->test_top1 : NAN,
    };
    if (run->options->on_event(run->options->user, &event)) run->stop = true;
}

static bw_status note(bwi_run *run, char *text, bw_error *err) /* frees text */
{
    if (!text) return bwi_fail(err, BW_NOMEM, "no memory for a message");
    emit(run, BW_EVENT_NOTE, text);
    bwi_free(text);
    return BW_OK;
}

/* Speed since the last measurement, smoothed. */
static void measure(bwi_meter *m)
{
    const double now = bwi_now(), seconds = now - m->last, rate = seconds > 0 ? (double)m->since / seconds : m->rate;
    m->rate = m->rate > 0 ? 0.7 * m->rate + 0.3 * rate : rate;
    m->last = now;
    m->since = 0;
}

/* Counts n images and tells the caller, at most five times a second. */
static void report_step(bwi_run *run, int n)
{
    bwi_meter *m = &run->meter;
    m->since += n;
    m->epoch_images += n;
    m->steps++;
    if (bwi_now() - m->last < 0.2) return;
    measure(m);
    emit(run, BW_EVENT_STEP, "");
}

bool bwi_run_poll(bwi_run *run, const char *doing)
{
    if (bwi_now() - run->meter.last >= 0.2) {
        run->meter.last = bwi_now();
        emit(run, BW_EVENT_STEP, doing);
    }
    return run->stop;
}

/* ---- Getting ready ------------------------------------------------------------------------------------------------------- */

static bw_status set_paths(bwi_run *run, bw_error *err)
{
    const char *dir = run->options->out_dir;
    if (!dir || !*dir) return bwi_fail(err, BW_ARG, "training needs an output folder (out_dir)");
    run->checkpoint = bwi_asprintf("%s/checkpoint.safetensors", dir);
    run->best = bwi_asprintf("%s/best.safetensors", dir);
    run->model = bwi_asprintf("%s/model.safetensors", dir);
    run->log = bwi_asprintf("%s/log.jsonl", dir);
    run->resolved = bwi_asprintf("%s/recipe.yaml", dir);
    if (!run->checkpoint || !run->best || !run->model || !run->log || !run->resolved)
        return bwi_fail(err, BW_NOMEM, "no memory to start training");
    return bwi_make_dir(dir, err);
}

/* A folder that holds a run is touched only on request. */
static bw_status check_folder(const bwi_run *run, bw_error *err)
{
    const bw_train_options *o = run->options;
    if (o->resume && o->overwrite) return bwi_fail(err, BW_ARG, "resume and overwrite exclude each other");
    const bool checkpoint = bwi_file_exists(run->checkpoint), run_there = checkpoint || bwi_file_exists(run->log);
    if (!run_there || o->overwrite || (o->resume && checkpoint)) return BW_OK;
    return bwi_fail(err, BW_ARG, "%s holds a run already%s", o->out_dir,
                    o->resume ? ", but no checkpoint to resume from: choose another folder, or say that it may be overwritten"
                              : ": resume it, choose another folder, or say that it may be overwritten");
}

static bw_status open_data(bwi_run *run, bw_error *err)
{
    bw_recipe *r = run->recipe;
    bw_status st;
    BWI_TRY(bwi_open_data(&run->data, r->data.source, err));
    if (!r->net.classes) r->net.classes = run->data->classes;
    bwi_loader_options o = {
        .split = BWI_TRAIN,
        .batch = r->train.batch,
        .augment = r->data.augment,
        .shuffle = true,
        .drop_last = r->train.drop_last,
        .seed = (uint64_t)r->train.seed,
        .normalize = bwi_normalize_find(r->data.normalize),
        .limit = r->data.limit,
        .holdout = r->data.holdout,
    };
    BWI_TRY(bwi_loader_create(&run->train_loader, run->data, &o, err));
    o.held = o.holdout > 0;
    if (!o.held) o.split = BWI_TEST;
    o.batch = r->train.eval_batch;
    o.augment = o.shuffle = o.drop_last = false;
    BWI_TRY(bwi_loader_create(&run->test_loader, run->data, &o, err));
    run->steps = bwi_loader_steps(run->train_loader);
    if (run->steps < 1)
        return bwi_fail(err, BW_ARG,
                        "train.batch: the training split has fewer than %d images, and train.drop_last leaves them out",
                        r->train.batch);
    return BW_OK;
fail:
    return st;
}

static bw_status build_network(bwi_run *run, char **precision_note, bw_error *err)
{
    const bw_recipe *r = run->recipe;
    bwi_exec_options o = {.batch = r->train.batch, .train = true, .precision = bwi_recipe_precision(r)};
    bw_status st;
    BWI_TRY(bwi_recipe_graph(&run->graph, r, r->net.classes, err));
    BWI_TRY(bwi_data_fits(run->data, run->graph, err));
    BWI_TRY(bwi_exec_create(&run->exec, run->graph, &o, precision_note, err));
    o.batch = r->train.eval_batch;
    o.train = false;
    o.calibrate = bwi_recipe_draws_bits(r);
    BWI_TRY(bwi_exec_create(&run->test_exec, run->graph, &o, NULL, err));
    BWI_TRY(bwi_params_create(&run->params, run->graph, r, run->steps, err));
    BWI_TRY(bwi_meta_create(&run->meta, &run->params, (uint64_t)r->train.seed, err));
    BWI_TRY(bwi_hyper_create(&run->hyper, run->graph, err));
    if (run->hyper) BWI_TRY(bwi_hyper_train(run->hyper, &run->params, r, err));
    BWI_TRY(bwi_teacher_open(&run->teacher, r, run->graph, err));
    return BW_OK;
fail:
    return st;
}

static bw_status write_recipe(bwi_run *run, bw_error *err)
{
    const char *text = bw_recipe_text(run->recipe);
    bwi_writer *w = NULL;
    bw_status st;
    if (!text) return bwi_fail(err, BW_NOMEM, "no memory for the resolved recipe");
    BWI_TRY(bwi_writer_open(&w, run->resolved, err));
    BWI_TRY(bwi_writer_add(w, text, strlen(text), err));
    return bwi_writer_commit(&w, err);
fail:
    bwi_writer_abandon(&w);
    return st;
}

static bw_status remove_file(const char *path, bw_error *err)
{
    if (unlink(path) == 0 || errno == ENOENT) return BW_OK;
    return bwi_fail(err, BW_IO, "%s: cannot remove it: %s", path, strerror(errno));
}

/* Random weights, or those of recipe key init. */
static bw_status init_network(bwi_run *run, bw_error *err)
{
    const char *path = run->recipe->init;
    char *report = NULL;
    int reset = 0;
    bw_status st;
    bwi_graph_init(run->graph, (uint64_t)run->recipe->train.seed);
    bwi_hyper_init(run->graph, (uint64_t)run->recipe->train.seed);
    if (!*path) return BW_OK;
    BWI_TRY(bwi_import_file(run->graph, path, &report, err));
    BWI_TRY(note(run, report, err));
    BWI_TRY(bwi_reset_requantized(run->graph, path, &reset, err));
    if (reset) BWI_TRY(note(run, bwi_asprintf("%d quantizers had other bits in %s and start anew", reset, path), err));
    return BW_OK;
fail:
    return st;
}

static bw_status start_anew(bwi_run *run, bw_error *err)
{
    /* The checkpoint goes first: without it there is no run to resume. */
    const char *const old[] = {run->checkpoint, run->best, run->model, run->log};
    bw_status st;
    run->at = (bwi_progress){.train_loss = NAN, .train_top1 = NAN, .test_loss = NAN, .test_top1 = NAN, .best_top1 = -1};
    BWI_TRY(init_network(run, err)); /* before the old run goes: it may be what this one starts from */
    for (size_t i = 0; i < sizeof old / sizeof *old; i++) BWI_TRY(remove_file(old[i], err));
    BWI_TRY(write_recipe(run, err));
    return bwi_checkpoint_save(run, err); /* so that there is always one to fall back on */
fail:
    return st;
}

static bw_status start(bwi_run *run, bw_error *err)
{
    bw_status st;
    if (!run->options->resume || !bwi_file_exists(run->checkpoint)) return start_anew(run, err);
    BWI_TRY(bwi_checkpoint_load(run, err));
    BWI_TRY(bwi_log_cut(run->log, run->at.epoch, err));
    BWI_TRY(write_recipe(run, err)); /* which may ask for more epochs, of data that lie elsewhere */
    return note(run,
                bwi_asprintf("resumed from %s: epoch %lld after step %lld", run->checkpoint, (long long)run->at.epoch + 1,
                             (long long)run->at.step),
                err);
fail:
    return st;
}

static bw_status announce(bwi_run *run, const char *precision_note, bw_error *err)
{
    const bw_recipe *r = run->recipe;
    const bwi_family *family;
    bw_status st;
    BWI_TRY(bwi_family_find(&family, r->net.family, err));
    const char *shortcut = family->shortcuts ? r->net.shortcut : "";
    BWI_TRY(note(run, bwi_strdup(bwi_cpu_text()), err));
    BWI_TRY(note(run,
                 bwi_asprintf("%s%s%s%s%s, %d classes; %s, %lld steps of %d images an epoch; %d epochs, %s, learning "
                              "rate %g, %s per %s; precision %s",
                              r->name, r->name[0] ? ": " : "", r->net.family, *shortcut ? ", shortcut " : "", shortcut,
                              run->graph->classes, run->data->row->name, (long long)run->steps, r->train.batch, r->train.epochs,
                              r->optim.name, r->optim.lr, r->optim.schedule, r->optim.per, r->train.precision),
                 err));
    BWI_TRY(note(run, bwi_layer_table(run->graph), err));
    if (run->teacher.exec)
        BWI_TRY(
            note(run, bwi_asprintf("distillation from %s in %s", run->teacher.model.graph->family, r->distill.teacher), err));
    if (r->data.holdout)
        BWI_TRY(
            note(run, bwi_asprintf("test figures are of %d training images held out (data.holdout)", r->data.holdout), err));
    if (precision_note && *precision_note) BWI_TRY(note(run, bwi_strdup(precision_note), err));
    return BW_OK;
fail:
    return st;
}

/* ---- The loop ------------------------------------------------------------------------------------------------------------ */

static bw_status train_step(bwi_run *run, const bwi_batch *batch, bw_error *err)
{
    bwi_progress *at = &run->at;
    double loss;
    int top1, top5;
    bw_status st;
    memcpy(bwi_exec_input(run->exec), batch->x, (size_t)batch->n * bwi_shape_size(run->data->shape) * sizeof(float));
    if (run->meta) BWI_TRY(bwi_meta_before(run->meta, at->epoch, at->step, err));
    if (run->hyper) bwi_hyper_before(run->hyper, at->epoch, at->step);
    BWI_TRY(bwi_exec_forward(run->exec, batch->n, true, NULL, err));
    BWI_TRY(bwi_teacher_loss(&run->teacher, run->exec, batch, &loss, &top1, &top5, err));
    if (!isfinite(loss)) return bwi_fail(err, BW_NUMERIC, "the loss is not finite");
    BWI_TRY(bwi_exec_backward(run->exec, err));
    if (run->meta) bwi_meta_after(run->meta, at->epoch, at->step);
    if (run->hyper) bwi_hyper_after(run->hyper, at->epoch, at->step);
    bwi_params_step(&run->params, at->epoch, at->step);
    at->loss_sum += loss * batch->n;
    at->top1 += top1;
    at->images += batch->n;
    at->step++;
    return BW_OK;
fail:
    return st;
}

/* Stops behind a step when somebody asked for it; a checkpoint holds the position. */
static bw_status save_or_stop(bwi_run *run, bw_error *err)
{
    const bw_train_options *o = run->options;
    const int64_t done = run->at.epoch * run->steps + run->at.step;
    const bool stop = run->stop || (o->stop_after_steps > 0 && run->meter.steps >= o->stop_after_steps);
    bw_status st;
    if (stop || (o->checkpoint_steps > 0 && done % o->checkpoint_steps == 0)) BWI_TRY(bwi_checkpoint_save(run, err));
    if (stop)
        return bwi_fail(err, BW_INTERRUPTED,
                        "stopped on request in epoch %lld after step %lld of %lld; resume continues from %s",
                        (long long)run->at.epoch + 1, (long long)run->at.step, (long long)run->steps, run->checkpoint);
    return BW_OK;
fail:
    return st;
}

static bw_status evaluate(bwi_run *run, bw_error *err)
{
    const bwi_progress *at = &run->at;
    const int every = run->recipe->train.eval_every;
    const bool last = at->epoch + 1 == run->recipe->train.epochs;
    bw_eval_result result = {.loss = NAN, .top1 = NAN};
    bw_status st = BW_OK;
    if (last || (every && (at->epoch + 1) % every == 0))
        st = bwi_evaluate(run->test_exec, run->graph, run->test_loader, bwi_recipe_draws_bits(run->recipe), &result, err);
    run->at.test_loss = result.loss;
    run->at.test_top1 = result.top1;
    return st;
}

static void clear_counters(bwi_graph *g)
{
    bwi_quant *q;
    const bwi_node *layer;
    for (int i = 0; bwi_graph_quant(g, i, &q, &layer); i++) {
        q->clipped = q->seen = 0;
        q->constrained = 0;
    }
}

/* Evaluates, logs, saves. The checkpoint is written last: a run killed before it repeats the end of this epoch and writes the same again. */
static bw_status end_epoch(bwi_run *run, bw_error *err)
{
    bwi_progress *at = &run->at;
    const char *what;
    char *line = NULL;
    bw_status st;
    if (bwi_params_out_of_range(&run->params, false, &what)) return bwi_fail(err, BW_NUMERIC, "a parameter is out of range");
    if (run->hyper) bwi_hyper_make(run->hyper, NULL, run->graph);
    BWI_TRY(evaluate(run, err));
    at->train_loss = mean(at->loss_sum, at->images);
    at->train_top1 = 100 * mean((double)at->top1, at->images);
    if (at->test_top1 > at->best_top1) {
        at->best_top1 = at->test_top1;
        BWI_TRY(bwi_model_save(run, run->best, err));
    }
    at->epoch++;
    at->step = at->images = at->top1 = 0;
    at->loss_sum = 0;
    BWI_TRY(bwi_metrics_line(run, &line, err));
    BWI_TRY(bwi_log_add(run->log, line, err));
    clear_counters(run->graph);
    BWI_TRY(bwi_checkpoint_save(run, err));
    emit(run, BW_EVENT_EPOCH, line);
fail:
    free(line);
    return st;
}

/* What happens between epochs: at a position in the middle of one it has been. */
static bw_status begin_epoch(bwi_run *run, bw_error *err)
{
    char *text = NULL;
    bw_status st = run->at.step ? BW_OK : bwi_hessian_update(run, &text, err);
    if (st == BW_INTERRUPTED)
        return save_or_stop(run, err); /* the checkpoint stands before the update: resuming does it again */
    return text ? note(run, text, err) : st;
}

static bw_status train_epoch(bwi_run *run, bw_error *err)
{
    bwi_batch batch;
    bw_status st;
    BWI_TRY(begin_epoch(run, err));
    run->meter.epoch_start = run->meter.last = bwi_now();
    run->meter.epoch_images = run->meter.since = 0;
    BWI_TRY(bwi_loader_start(run->train_loader, run->at.epoch, run->at.step, err));
    for (;;) {
        BWI_TRY(bwi_loader_next(run->train_loader, &batch, err));
        if (!batch.n) break;
        BWI_TRY(train_step(run, &batch, err));
        report_step(run, batch.n);
        BWI_TRY(save_or_stop(run, err));
    }
    if (run->meter.since) measure(&run->meter);
    return end_epoch(run, err);
fail:
    return st;
}

static bw_status train_all(bwi_run *run, bw_error *err)
{
    bw_status st;
    while (run->at.epoch < run->recipe->train.epochs) {
        if (run->stop) return save_or_stop(run, err);
        BWI_TRY(train_epoch(run, err));
    }
    return bwi_model_save(run, run->model, err);
fail:
    return st;
}

/* ---- The whole ----------------------------------------------------------------------------------------------------------- */

/* Says where training stood when values ran away, which parameter shows it first, and what is left. */
static bw_status diverged(const bwi_run *run, bw_error *err)
{
    const char *what, *name = bwi_params_out_of_range(&run->params, true, &what);
    const bwi_progress *at = &run->at, *saved = &run->saved;
    return bwi_fail(
        err, BW_NUMERIC,
        "training stopped in epoch %lld after step %lld: %s%s%s%s%s. The last good checkpoint, epoch %lld after step "
        "%lld, is %s; another run can start from it (recipe key init)",
        (long long)at->epoch + 1, (long long)at->step, err->msg, name ? "; the first parameter with a " : "", name ? what : "",
        name ? " out of range is " : "", name ? name : "", (long long)saved->epoch + 1, (long long)saved->step,
        run->checkpoint);
}

static void close_run(bwi_run *run)
{
    bwi_meta_destroy(&run->meta);
    bwi_hyper_destroy(&run->hyper);
    bwi_params_destroy(&run->params);
    bwi_exec_destroy(&run->exec);
    bwi_exec_destroy(&run->test_exec);
    bwi_teacher_close(&run->teacher);
    bwi_graph_destroy(&run->graph);
    bwi_loader_destroy(&run->train_loader);
    bwi_loader_destroy(&run->test_loader);
    bwi_dataset_close(&run->data);
    bwi_free(run->checkpoint);
    bwi_free(run->best);
    bwi_free(run->model);
    bwi_free(run->log);
    bwi_free(run->resolved);
}

static void fill_result(const bwi_run *run, bw_train_result *result)
{
    *result = (bw_train_result){
        .epochs = run->at.epoch,
        .steps = run->at.epoch * run->steps + run->at.step,
        .train_loss = run->at.train_loss,
        .test_loss = run->at.test_loss,
        .test_top1 = run->at.test_top1,
        .best_top1 = run->at.best_top1,
        .seconds = bwi_now() - run->meter.run_start,
        .model_bytes = bwi_graph_bytes(run->graph, NULL),
    };
}

bw_status bw_train(bw_recipe *recipe, const bw_train_options *options, bw_train_result *result, bw_error *err)
{
    bwi_run run = {.recipe = recipe, .options = options};
    bw_error own = {0};
    char *precision_note = NULL;
    bw_status st;
    if (!err) err = &own;
    *err = (bw_error){0};
    *result = (bw_train_result){0};
    run.meter.run_start = bwi_now();
    bwi_threads_set(recipe->train.threads);
    BWI_TRY(set_paths(&run, err));
    BWI_TRY(check_folder(&run, err));
    BWI_TRY(open_data(&run, err));
    BWI_TRY(build_network(&run, &precision_note, err));
    BWI_TRY(announce(&run, precision_note, err));
    BWI_TRY(start(&run, err));
    st = train_all(&run, err);
    if (st == BW_NUMERIC) st = diverged(&run, err);
    fill_result(&run, result);
fail:
    bwi_free(precision_note);
    close_run(&run);
    return st;
}
