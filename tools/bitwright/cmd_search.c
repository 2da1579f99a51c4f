/* bitwright search: a bit-width for every layer under a budget. */
#include "commands.h"
#include "progress.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct search_options {
    common common;
    const char *model, *budget, *method, *at_least, *bits, *data, *out;
    strings set;
    int64_t calibrate, calibrate_batch, images, seed, threads, stop_after;
    bool resume, overwrite, json, quiet;
} search_options;

#define AT(f) offsetof(search_options, f)
static const option options[] = {
    {OPT_ARG, "MODEL", NULL,
     "what is searched: the model of a MetaQuantNet (hypernet.hidden), or any model, whose weights are then quantized as "
     "they are; a float one by --set quant.weight=, minmax by default",
     AT(model), 0, 0, NULL, NULL},
    {OPT_TEXT, "budget", "NAME=LIMIT", "size=16x, bitops=1.2G, latency=0.2ms ..; 'bitwright list budgets' has all", AT(budget),
     0, 0, NULL, NULL},
    {OPT_TEXT, "method", "NAME",
     "way of searching with its options, such as genetic:population=50 (default: genetic); 'bitwright list searches'",
     AT(method), 0, 0, NULL, NULL},
    {OPT_TEXT, "at-least", "SHARE", "share of the budget, 0 to 1, that has to be used; none by default", AT(at_least), 0, 0,
     NULL, NULL},
    {OPT_TEXT, "bits", "LO-HI", "bits that a layer may get; what the model was trained for by default", AT(bits), 0, 0, NULL,
     NULL},
    {OPT_TEXT, "data", "SPEC",
     "data set: shapes, cifar10:DIR, cifar100:DIR, folder:DIR@SIZE; what the model was trained on by default", AT(data), 0, 0,
     NULL, NULL},
    {OPT_INT, "calibrate", "N", "batches of training images for the batch norms, before each evaluation; 10 by default",
     AT(calibrate), 1, 1000000, NULL, NULL},
    {OPT_INT, "calibrate-batch", "N", "images in each; 256 by default", AT(calibrate_batch), 1, 65536, NULL, NULL},
    {OPT_INT, "images", "N",
     "validation images; by default all that training held out (data.holdout), or else a tenth of the training images",
     AT(images), 1, INT32_MAX, NULL, NULL},
    {OPT_LIST, "set", "KEY=VALUE",
     "change a key of the recipe that is written; its activations count for bitops and latency; may be given several times",
     AT(set), 0, 0, NULL, NULL},
    {OPT_INT, "seed", "N", "seed of the draws; 0 by default", AT(seed), 0, INT32_MAX, NULL, NULL},
    {OPT_INT, "threads", "N", "number of threads; 0: all cores; the result is the same", AT(threads), 0, 1024, NULL, NULL},
    {OPT_TEXT, "out", "DIR", "folder for recipe.yaml, search.json, bits.svg and evaluations.jsonl", AT(out), 0, 0, NULL, NULL},
    {OPT_FLAG, "resume", NULL, "go on from the evaluations in the folder, if there are any", AT(resume), 0, 0, NULL, NULL},
    {OPT_FLAG, "overwrite", NULL, "start anew in a folder that holds a search", AT(overwrite), 0, 0, NULL, NULL},
    {OPT_INT, "stop-after", "N", "stop after N evaluations of this call", AT(stop_after), 1, INT32_MAX, NULL, NULL},
    {OPT_FLAG, "json", NULL, "print one JSON object", AT(json), 0, 0, NULL, NULL},
    {OPT_FLAG, "quiet", NULL, "no progress", AT(quiet), 0, 0, NULL, NULL},
};

static int run(void *o);
const command command_search = {
    .name = "search",
    .summary = "Find a bit-width for every layer under a budget.",
    .text =
        "The recipe in the folder trains the network at these bits. Layers whose bits the model's policy sets (quant.policy:\n"
        "first-last-8) keep them. Ctrl-C stops; --resume goes on and ends in the same result.\n"
        "Progress goes to stderr, the result to stdout.",
    .example = "bitwright search runs/hybrid/model.safetensors --budget size=16x --out runs/hybrid-16x\n"
               "bitwright train runs/hybrid-16x/recipe.yaml\n"
               "bitwright train runs/hybrid-16x/recipe.yaml --set hypernet.hidden=0 --set quant.weight=lsq --out runs/lsq-16x",
    .options = options,
    .n_options = COUNT(options),
    .size = sizeof(search_options),
    .run = run,
};

static bool on_event(void *user, const bw_search_event *event)
{
    progress_search(user, event);
    return stop_asked();
}

/* "1-5" and "4"; EXIT_OK or a message's code. */
static int parse_bits(const char *text, bw_search_options *to)
{
    char *end;
    long lo = strtol(text, &end, 10), hi = lo;
    const bool range = end != text && *end == '-' && end[1] >= '0' && end[1] <= '9';
    if (range) hi = strtol(end + 1, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || lo < 1 || hi < lo || hi > 8) {
        fprintf(stderr, "bitwright search: --bits: '%s' is not a range within 1-8\nSee 'bitwright search --help'.\n", text);
        return EXIT_USAGE;
    }
    to->lo = (int)lo;
    to->hi = (int)hi;
    return EXIT_OK;
}

static int parse_share(const char *text, double *share)
{
    char *end;
    *share = strtod(text, &end);
    if (text[0] >= '0' && text[0] <= '9' && !*end && *share >= 0 && *share <= 1) return EXIT_OK;
    fprintf(stderr, "bitwright search: --at-least: '%s' is not a number from 0 to 1\nSee 'bitwright search --help'.\n", text);
    return EXIT_USAGE;
}

static int print_found(const search_options *o, const bw_search_result *r)
{
    if (o->json) {
        json_t *bits = json_array();
        for (int i = 0; i < r->layers; i++) json_array_append_new(bits, json_integer(r->bits[i]));
        return print_json(json_pack("{s:o, s:i, s:f, s:i, s:b, s:f, s:f, s:s, s:I, s:i, s:s}", "bits", bits, "kept", r->kept,
                                    "error", r->error, "images", r->images, "seen", r->seen, "cost", r->cost, "limit", r->limit,
                                    "unit", r->unit, "packed_bytes", (json_int_t)r->packed_bytes, "evaluations", r->evaluations,
                                    "out", o->out));
    }
    printf("bits");
    for (int i = 0; i < r->layers; i++) printf(" %d", r->bits[i]);
    if (r->kept) printf(" (%d more layers keep what the model's policy gives them)", r->kept);
    printf("\nvalidation error %.2f %% on %d images%s\n%.6g %s of at most %.6g", r->error, r->images,
           r->seen ? ", which the model was trained on" : "", r->cost, r->unit, r->limit);
    if (r->packed_bytes) printf(", packed file %zu bytes", r->packed_bytes);
    printf("; %d evaluations\nbitwright train %s/recipe.yaml\n", r->evaluations, o->out);
    return EXIT_OK;
}

static int run(void *options_)
{
    const search_options *o = options_;
    bw_error err = {0};
    bw_search_result result;
    progress p;
    bw_search_options s = {.budget = o->budget,
                           .method = o->method,
                           .data = o->data,
                           .calibrate = (int)o->calibrate,
                           .calibrate_batch = (int)o->calibrate_batch,
                           .images = (int)o->images,
                           .seed = (int)o->seed,
                           .threads = (int)o->threads,
                           .set = (const char *const *)o->set.v,
                           .n_set = o->set.n,
                           .out_dir = o->out,
                           .resume = o->resume,
                           .overwrite = o->overwrite,
                           .stop_after = (int)o->stop_after,
                           .on_event = on_event,
                           .user = &p};
    if (!o->budget || !o->out) {
        fprintf(stderr, "bitwright search: --%s is missing\nSee 'bitwright search --help'.\n", o->budget ? "out" : "budget");
        return EXIT_USAGE;
    }
    if (o->bits && parse_bits(o->bits, &s) != EXIT_OK) return EXIT_USAGE;
    if (o->at_least && parse_share(o->at_least, &s.at_least) != EXIT_OK) return EXIT_USAGE;
    progress_init(&p, o->quiet);
    catch_signals();
    const bw_status status = bw_search(o->model, &s, &result, &err);
    progress_end(&p);
    if (status == BW_INTERRUPTED) {
        fprintf(stderr, "bitwright search: %s. Continue with:\n  ", err.msg);
        print_resume_line("search", &o->common);
        return EXIT_WORK;
    }
    return status == BW_OK ? print_found(o, &result) : report_failure("search", &err);
}
