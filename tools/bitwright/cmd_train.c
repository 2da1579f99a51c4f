/* bitwright train: runs a recipe. */
#include "commands.h"
#include "progress.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_options {
    common common;
    const char *recipe, *out;
    strings set;
    int64_t checkpoint_steps, stop_after_steps;
    bool resume, overwrite, dry_run, keys, json, quiet;
} train_options;

#define AT(f) offsetof(train_options, f)
static const option options[] = {
    {OPT_ARG_MAYBE, "RECIPE", NULL, "YAML file with the settings of the run", AT(recipe), 0, 0, NULL, NULL},
    {OPT_TEXT, "out", "DIR", "folder of checkpoints, log and final model; runs/<name of the recipe> by default", AT(out), 0, 0,
     NULL, NULL},
    {OPT_LIST, "set", "KEY=VALUE", "change a key of the recipe; may be given several times (keys: --keys)", AT(set), 0, 0, NULL,
     NULL},
    {OPT_TEXT, "data", "SPEC", "data set: shapes, cifar10:DIR, cifar100:DIR, folder:DIR@SIZE", AT(set), 0, 0, NULL,
     "data.source"},
    {OPT_TEXT, "init", "FILE", "model whose weights the run starts from", AT(set), 0, 0, NULL, "init"},
    {OPT_INT, "epochs", "N", "number of epochs", AT(set), 1, 1000000, NULL, "train.epochs"},
    {OPT_INT, "seed", "N", "seed of weights, order and augmentation", AT(set), 0, INT32_MAX, NULL, "train.seed"},
    {OPT_CHOICE, "precision", NULL, "f32, or fast: integer convolutions where the CPU has them", AT(set), 0, 0, "f32|fast",
     "train.precision"},
    {OPT_INT, "threads", "N", "number of threads; 0: all cores", AT(set), 0, 1024, NULL, "train.threads"},
    {OPT_FLAG, "resume", NULL,
     "continue from the checkpoint in the folder, if there is one; with other --epochs unless the schedule is cosine",
     AT(resume), 0, 0, NULL, NULL},
    {OPT_FLAG, "overwrite", NULL, "start anew in a folder that holds a run", AT(overwrite), 0, 0, NULL, NULL},
    {OPT_INT, "checkpoint-steps", "N", "also save a checkpoint every N steps, besides every epoch", AT(checkpoint_steps), 1,
     INT64_MAX, NULL, NULL},
    {OPT_INT, "stop-after-steps", "N", "save a checkpoint and stop after N steps of this call", AT(stop_after_steps), 1,
     INT64_MAX, NULL, NULL},
    {OPT_FLAG, "dry-run", NULL, "print the resolved recipe and the layers with their bit-widths, and stop", AT(dry_run), 0, 0,
     NULL, NULL},
    {OPT_FLAG, "keys", NULL, "list the keys of recipes with types and defaults, and stop", AT(keys), 0, 0, NULL, NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object per epoch (with --dry-run: the layers as one object)", AT(json), 0, 0, NULL,
     NULL},
    {OPT_FLAG, "quiet", NULL, "no progress", AT(quiet), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_train = {
    .name = "train",
    .summary = "Train a network by a recipe.",
    .text = "Ctrl-C saves a checkpoint and stops; a second Ctrl-C ends the program at once.\n"
            "Progress goes to stderr, the result to stdout.",
    .example = "bitwright train recipes/demo-fp32.yaml\n"
               "bitwright train recipes/demo-lsq-w4a4.yaml --set quant.weight_bits=3 --epochs 20 --out runs/w3a4",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(train_options),
    .run = run,
};

typedef struct session {
    progress progress;
    bool json;
} session;

static bool on_event(void *user, const bw_event *event)
{
    session *s = user;
    progress_event(&s->progress, event);
    if (s->json && event->kind == BW_EVENT_EPOCH) {
        puts(event->text);
        fflush(stdout);
    }
    return stop_asked();
}

static int print_keys(void)
{
    const char *key, *type, *def, *help;
    for (size_t i = 0; bw_recipe_key(i, &key, &type, &def, &help); i++)
        printf("%-26s %s\n%-26s   %s; default %s\n", key, help, "", type, *def ? def : "empty");
    return EXIT_OK;
}

/* "runs/" and the name that the resolved recipe has in its line "name:", or else the name of its file. */
static char *default_folder(const char *text, const char *path)
{
    const char *line = strncmp(text, "name:", 5) == 0 ? text : strstr(text, "\nname:");
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    size_t len = strrchr(name, '.') > name ? (size_t)(strrchr(name, '.') - name) : strlen(name);
    if (line) {
        line = strchr(line, ':') + 1;
        line += strspn(line, " \"'");
        if (strcspn(line, "\"'\n") > 0) name = line, len = strcspn(line, "\"'\n");
    }
    char *folder = malloc(sizeof "runs/" + len);
    if (!folder) return NULL;
    snprintf(folder, sizeof "runs/" + len, "runs/%.*s", (int)len, name);
    for (char *c = folder + sizeof "runs/" - 1; *c; c++) {
        if (*c == '/' || *c == ' ') *c = '-'; /* a name is one folder */
    }
    return folder;
}

static int dry_run(bw_recipe *recipe, const char *text, bool json)
{
    bw_error err = {0};
    char *layers = NULL;
    int code = EXIT_OK;
    if (bw_describe(recipe, json, &layers, &err) != BW_OK) return report_failure("train", &err);
    if (json)
        code = print_json(json_loads(layers, 0, NULL));
    else
        printf("%s\n%s%s", text, layers, *layers && layers[strlen(layers) - 1] == '\n' ? "" : "\n");
    bw_free(layers);
    return code;
}

static void print_result(const char *folder, const bw_train_result *r)
{
    char time[40];
    printf("test accuracy %.2f %% (best %.2f %%), test loss %.4f, train loss %.4f\n", r->test_top1, r->best_top1, r->test_loss,
           r->train_loss);
    printf("%lld epochs, %lld steps, %s; model of %.3f MB in %s/model.safetensors\n", (long long)r->epochs, (long long)r->steps,
           duration_text(r->seconds, time, sizeof time), (double)r->model_bytes / 1e6, folder);
}

static int train(const train_options *o, bw_recipe *recipe, const char *folder)
{
    bw_error err = {0};
    bw_train_result result;
    session s = {.json = o->json};
    bw_train_options options_ = {.out_dir = folder,
                                 .resume = o->resume,
                                 .overwrite = o->overwrite,
                                 .stop_after_steps = o->stop_after_steps,
                                 .checkpoint_steps = o->checkpoint_steps,
                                 .on_event = on_event,
                                 .user = &s};
    progress_init(&s.progress, o->quiet);
    catch_signals();
    bw_status status = bw_train(recipe, &options_, &result, &err);
    progress_end(&s.progress);
    if (status == BW_INTERRUPTED) {
        fprintf(stderr, "bitwright train: %s. Continue with:\n  ", err.msg[0] ? err.msg : bw_status_text(status));
        print_resume_line("train", &o->common);
        return EXIT_WORK;
    }
    if (status != BW_OK) return report_failure("train", &err);
    if (!o->json) print_result(folder, &result);
    return EXIT_OK;
}

static int run(void *options_)
{
    train_options *o = options_;
    bw_error err = {0};
    bw_recipe *recipe = NULL;
    char *made = NULL;
    int code = EXIT_WORK;
    if (o->keys) return print_keys();
    if (!o->recipe) {
        fputs("bitwright train: RECIPE is missing\nSee 'bitwright train --help'.\n", stderr);
        return EXIT_USAGE;
    }
    if (bw_recipe_load(&recipe, o->recipe, (const char *const *)o->set.v, o->set.n, &err) != BW_OK)
        return report_failure("train", &err);
    const char *text = bw_recipe_text(recipe);
    if (text && !o->out) made = default_folder(text, o->recipe);
    if (!text || (!o->out && !made))
        fputs("bitwright train: out of memory\n", stderr);
    else if (o->dry_run)
        code = dry_run(recipe, text, o->json);
    else
        code = train(o, recipe, o->out ? o->out : made);
    free(made);
    bw_recipe_destroy(&recipe);
    return code;
}
