/* bw_search: opens what is searched, counts what its layers cost, runs a way of searching and writes what it found. */
#include "base/alloc.h"
#include "base/file.h"
#include "base/par.h"
#include "base/rng.h"
#include "search/methods.h"
#include "search/outcome.h"
#include "search/policy.h"
#include "search/untrained.h"
#include <stdio.h>
#include <string.h>

typedef struct searching {
    const char *model;
    const bw_search_options *options; /* borrowed */
    const bwi_budget *budget;
    const bwi_method *method;
    const char *limit; /* text behind "size=" */
    double opt[BWI_OPTIONS];
    bwi_candidates *candidates;
    bwi_problem problem;
    bwi_searched_layer layer[BWI_SEARCH_LAYERS]; /* [problem.n] searched, [n_kept] behind them keep their bits */
    int n_kept;
    bw_recipe *recipe; /* the one that is written */
    double kept_bytes; /* of weights that are not searched */
    int images;
    bool seen; /* bwi_candidates_images */
    bwi_trials trials;
    json_t *key;
    char *evaluations, *table, *result; /* paths */
} searching;

/* ---- Before anything is computed ------------------------------------------------------------------------------------------ */

static bw_status check_options(searching *s, bw_error *err)
{
    const bw_search_options *o = s->options;
    bw_status st;
    if (!o->budget) return bwi_fail(err, BW_ARG, "a search needs a budget, such as size=16x");
    if (!o->out_dir || !*o->out_dir) return bwi_fail(err, BW_ARG, "a search needs a folder for what it finds");
    if (!(o->at_least >= 0 && o->at_least <= 1))
        return bwi_fail(err, BW_ARG, "the share of the budget that is used at least is %g; expected 0 to 1", o->at_least);
    if (o->lo < 0 || o->hi < o->lo || o->hi > BWI_SEARCH_BITS || (!o->lo && o->hi))
        return bwi_fail(err, BW_ARG, "bits %d to %d; expected a range within 1 to %d", o->lo, o->hi, BWI_SEARCH_BITS);
    if (o->resume && o->overwrite) return bwi_fail(err, BW_ARG, "resume and overwrite exclude each other");
    BWI_TRY(bwi_budget_parse(o->budget, &s->budget, &s->limit, err));
    BWI_TRY(bwi_method_parse(o->method ? o->method : "genetic", &s->method, s->opt, err));
    return BW_OK;
fail:
    return st;
}

/* A folder that holds a search is touched only on request. */
static bw_status check_folder(searching *s, bw_error *err)
{
    const bw_search_options *o = s->options;
    s->evaluations = bwi_asprintf("%s/evaluations.jsonl", o->out_dir);
    s->table = bwi_asprintf("%s/latency.json", o->out_dir);
    s->result = bwi_asprintf("%s/search.json", o->out_dir);
    if (!s->evaluations || !s->table || !s->result) return bwi_fail(err, BW_NOMEM, "no memory to start a search");
    if (bwi_file_exists(s->evaluations) && !o->resume && !o->overwrite)
        return bwi_fail(err, BW_ARG,
                        "%s holds a search already: resume it, choose another folder, or say that it may be overwritten",
                        o->out_dir);
    return bwi_make_dir(o->out_dir, err);
}

/* ---- What is searched ---------------------------------------------------------------------------------------------------- */

static bw_status take_range(searching *s, bw_error *err)
{
    const bw_search_options *o = s->options;
    int lo, hi;
    bwi_candidates_range(s->candidates, &lo, &hi);
    if (o->lo && (o->lo < lo || o->hi > hi))
        return bwi_fail(err, BW_ARG, "bits %d to %d: %s has weights for %d to %d", o->lo, o->hi, s->model, lo, hi);
    s->problem.lo = o->lo ? o->lo : lo;
    s->problem.hi = o->lo ? o->hi : hi;
    return BW_OK;
}

static bw_status take_layers(searching *s, bw_error *err)
{
    bwi_searched_layer layer;
    int n = 0;
    for (; bwi_candidates_layer(s->candidates, n, &layer); n++) {
        if (n == BWI_SEARCH_LAYERS)
            return bwi_fail(err, BW_UNSUPPORTED, "the network has more than %d layers whose bits can be searched", n);
        s->layer[n] = layer;
        layer.kept ? s->n_kept++ : s->problem.n++;
    }
    return s->problem.n ? BW_OK
                        : bwi_fail(err, BW_ARG, "%s has no layer with quantized weights%s", s->model,
                                   s->n_kept ? " whose bits its policy leaves open" : "");
}

/* Names of the model's classes as its file holds them; NULL: it has none. */
static const char *classes_of(const searching *s)
{
    return bwi_tensors_meta(&bwi_candidates_model(s->candidates)->file, BWI_META_CLASSES);
}

/* "hybrid-resnet20" and "size=16x" to "name=hybrid-resnet20-size-16x"; freed with bwi_free, NULL on lack of memory. */
static char *name_key(const char *model, const char *budget)
{
    char *text = bwi_asprintf("name=%s-%s", *model ? model : "search", budget);
    for (char *c = text ? text + 5 : NULL; c && *c; c++)
        if (*c == '=') *c = '-';
    return text;
}

/* The model's recipe for training at fixed bits, on all training images, with the changes that the options ask for. Without a hypernetwork,
 * which is trained anew, the run starts from what was searched. */
static bw_status make_recipe(searching *s, bw_error *err)
{
    static const char *const fixed[] = {"hypernet.min_bits=0", "hypernet.max_bits=0", "data.holdout=0"};
    enum { FIXED = sizeof fixed / sizeof *fixed, OWN = FIXED + 2 };
    const bw_search_options *o = s->options;
    bw_recipe *of_model = bwi_candidates_model(s->candidates)->recipe;
    char *name = name_key(of_model->name, o->budget);
    char *init = bwi_asprintf("init=%s", of_model->hypernet.hidden ? of_model->init : s->model);
    const char **set = bwi_calloc(OWN + o->n_set, sizeof *set);
    bw_status st;
    if (!name || !init || !set) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for a recipe"));
    memcpy(set, fixed, sizeof fixed);
    set[FIXED] = name;
    set[FIXED + 1] = init;
    if (o->n_set) memcpy(set + OWN, o->set, o->n_set * sizeof *set);
    BWI_TRY(bwi_recipe_asked(&s->recipe, of_model, set, OWN + o->n_set, err));
    if (o->data) BWI_TRY(bwi_recipe_set(s->recipe, bwi_key_find("data.source"), o->data, err));
    BWI_TRY(bwi_recipe_check(s->recipe, err));
fail:
    bwi_free(set);
    bwi_free(init);
    bwi_free(name);
    return st;
}

/* What the recipe makes of a layer: the bits of its activations. A layer that keeps its bits has to have them there, too. */
static bw_status see_layer(bwi_searched_layer *l, const bwi_graph *g, bw_error *err)
{
    bwi_quant *q;
    const bwi_node *node;
    int bits = 32;
    l->activation_bits = 0;
    for (int k = 0; bwi_graph_quant(g, k, &q, &node); k++) {
        if (strcmp(node->name, l->name) != 0) continue;
        if (q->role == BWI_ACTIVATION) l->activation_bits = q->bits;
        if (q->role == BWI_WEIGHT) bits = q->bits;
    }
    if (!l->kept || l->kept == bits) return BW_OK;
    return bwi_fail(err, BW_ARG,
                    "layer %s keeps the %d bits that the model's policy gives it, and the recipe would give it %d: leave "
                    "quant.policy as it is, or search a model of another policy",
                    l->name, l->kept, bits);
}

/* What the recipe makes of the network: the bits of its activations, and weights that are not searched. */
static bw_status see_network(searching *s, bw_error *err)
{
    bwi_graph *g = NULL;
    uint8_t most[BWI_SEARCH_LAYERS];
    bw_recipe *r = NULL;
    double searched = 0;
    bw_status st;
    memset(most, s->problem.hi, sizeof most);
    BWI_TRY(bwi_recipe_copy(&r, s->recipe, err));
    BWI_TRY(bwi_recipe_set_bits(r, s->layer, most, s->problem.n, err));
    BWI_TRY(bwi_recipe_graph(&g, r, 0, err));
    for (int i = 0; i < s->problem.n + s->n_kept; i++) BWI_TRY(see_layer(&s->layer[i], g, err));
    for (int i = 0; i < s->problem.n; i++) searched += s->layer[i].weights * s->problem.hi / 8;
    s->kept_bytes = bwi_weight_bytes(g) - searched;
fail:
    bwi_graph_destroy(&g);
    bw_recipe_destroy(&r);
    return st;
}

static bw_status make_problem(searching *s, bw_error *err)
{
    const bw_search_options *o = s->options;
    bwi_problem *p = &s->problem;
    bw_status st;
    BWI_TRY(take_range(s, err));
    BWI_TRY(take_layers(s, err));
    BWI_TRY(make_recipe(s, err));
    BWI_TRY(see_network(s, err));
    const bwi_costing c = {.layer = s->layer,
                           .n = p->n,
                           .n_kept = s->n_kept,
                           .lo = p->lo,
                           .hi = p->hi,
                           .recipe = s->recipe,
                           .classes = classes_of(s),
                           .table = s->table};
    if (o->overwrite) remove(s->table);
    BWI_TRY(s->budget->cost(s->budget, &c, s->limit, p, err));
    p->least = o->at_least * p->limit;
    p->unit = s->budget->unit;
    p->unit_costs = s->budget->unit_costs;
    p->seed = (uint64_t)o->seed;
    p->context = s->candidates;
    p->evaluate = bwi_candidates_evaluate;
    p->sensitivity = bwi_candidates_sensitivity;
    st = bwi_problem_check(p, err);
    if (st) bwi_fail_in(err, st, "budget %s", o->budget);
fail:
    return st;
}

/* ---- The search ---------------------------------------------------------------------------------------------------------- */

static bw_status hash_file(const char *path, char text[24], bw_error *err)
{
    bwi_file f;
    const bw_status st = bwi_file_open(&f, path, err);
    if (st) return st;
    snprintf(text, 24, "%016llx", (unsigned long long)bwi_hash(f.data, f.size));
    bwi_file_close(&f);
    return BW_OK;
}

/* "genetic:population=50,parents=10,..", every option with its value; freed with bwi_free, NULL on lack of memory. */
static char *method_text(const searching *s)
{
    bwi_text t = {0};
    bwi_text_add(&t, "%s", s->method->name);
    for (int i = 0; i < BWI_OPTIONS && s->method->option[i].key; i++)
        bwi_text_add(&t, "%s%s=%g", i ? "," : ":", s->method->option[i].key, s->opt[i]);
    if (!t.failed) return t.s;
    bwi_free(t.s);
    return NULL;
}

/* What evaluations and decisions depend on. */
static bw_status make_key(searching *s, const bwi_candidates_options *c, const char *method, bw_error *err)
{
    const bw_search_options *o = s->options;
    const bwi_problem *p = &s->problem;
    char hash[24];
    bw_status st = hash_file(s->model, hash, err);
    s->images = bwi_candidates_images(s->candidates, &s->seen);
    if (st) return st;
    json_t *set = json_array();
    for (size_t i = 0; i < o->n_set; i++) json_array_append_new(set, json_string(o->set[i]));
    s->key = json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:[i,i], s:s, s:i, s:i, s:i, s:o}", "model", hash, "budget", o->budget,
                       "method", method, "seed", o->seed, "limit", p->limit, "least", p->least, "bits", p->lo, p->hi, "data",
                       o->data ? o->data : "", "images", s->images, "calibrate", c->calibrate_batches, "calibrate_batch",
                       c->calibrate_batch, "set", set);
    return s->key ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory to start a search");
}

/* All layers at the same bits, to compare with. */
static bw_status ask_uniform(searching *s, bw_error *err)
{
    const bwi_problem *p = &s->problem;
    uint8_t bits[BWI_SEARCH_BITS * BWI_SEARCH_LAYERS];
    for (int b = p->lo; b <= p->hi; b++) memset(bits + (size_t)(b - p->lo) * (size_t)p->n, b, (size_t)p->n);
    return bwi_trials_run(&s->trials, bits, p->hi - p->lo + 1, false, err);
}

static bw_status run(searching *s, bw_error *err)
{
    const bw_search_options *o = s->options;
    const bwi_problem *p = &s->problem;
    bw_status st;
    BWI_TRY(bwi_trials_open(&s->trials, p, s->evaluations, s->key, o->resume, 50, err));
    remove(s->result);
    s->trials.total = p->hi - p->lo + 1 + s->method->evaluations(s->opt);
    s->trials.stop_after = o->stop_after;
    s->trials.on_event = o->on_event;
    s->trials.user = o->user;
    BWI_TRY(ask_uniform(s, err));
    BWI_TRY(s->method->run(&s->trials, s->opt, err));
    if (!s->trials.archived)
        return bwi_fail(err, BW_UNSUPPORTED,
                        "budget %s: no assignment that keeps it was drawn; take greedy or knapsack, which look for one",
                        o->budget);
fail:
    return st;
}

static bw_status finish(searching *s, const char *method, bw_search_result *result, bw_error *err)
{
    const bwi_problem *p = &s->problem;
    const bwi_trial *best = bwi_trials_best(&s->trials, 0);
    bwi_outcome outcome = {.model = s->model,
                           .method = method,
                           .budget_text = s->options->budget,
                           .budget = s->budget,
                           .problem = p,
                           .layer = s->layer,
                           .trials = &s->trials,
                           .recipe = s->recipe,
                           .key = s->key,
                           .kept = s->n_kept,
                           .kept_bytes = s->kept_bytes,
                           .seen = s->seen,
                           .out_dir = s->options->out_dir};
    bw_status st = bwi_recipe_set_bits(s->recipe, s->layer, best->bits, p->n, err);
    if (!st) st = bwi_packed_bytes(&outcome.packed_bytes, s->recipe, classes_of(s), err);
    if (st == BW_UNSUPPORTED) { /* what cannot be packed can still be searched and trained */
        if (err) *err = (bw_error){0};
        st = BW_OK;
    }
    if (!st) st = bwi_outcome_write(&outcome, err);
    if (st) return st;
    *result = (bw_search_result){.layers = p->n,
                                 .kept = s->n_kept,
                                 .evaluations = s->trials.asked,
                                 .images = s->images,
                                 .seen = s->seen,
                                 .error = best->error,
                                 .cost = bwi_problem_cost(p, best->bits) / s->budget->unit_costs,
                                 .limit = p->limit / s->budget->unit_costs,
                                 .unit = s->budget->unit,
                                 .packed_bytes = outcome.packed_bytes};
    memcpy(result->bits, best->bits, (size_t)p->n);
    return BW_OK;
}

bw_status bw_search(const char *model, const bw_search_options *options, bw_search_result *result, bw_error *err)
{
    const bwi_candidates_options c = {.data = options->data,
                                      .calibrate_batches = options->calibrate ? options->calibrate : 10,
                                      .calibrate_batch = options->calibrate_batch ? options->calibrate_batch : 256,
                                      .limit = options->images,
                                      .set = options->set,
                                      .n_set = options->n_set,
                                      .threads = options->threads};
    char *method = NULL;
    bw_status st;
    *result = (bw_search_result){0};
    if (err) *err = (bw_error){0};
    searching *s = bwi_calloc(1, sizeof *s);
    if (!s) return bwi_fail(err, BW_NOMEM, "no memory to start a search");
    s->model = model;
    s->options = options;
    bwi_threads_set(options->threads);
    BWI_TRY(check_options(s, err));
    if (!(method = method_text(s))) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory to start a search"));
    BWI_TRY(check_folder(s, err));
    BWI_TRY(bwi_candidates_open(&s->candidates, model, &c, err));
    BWI_TRY(make_problem(s, err));
    BWI_TRY(make_key(s, &c, method, err));
    BWI_TRY(run(s, err));
    BWI_TRY(finish(s, method, result, err));
fail:
    bwi_trials_close(&s->trials);
    bwi_candidates_close(&s->candidates);
    bw_recipe_destroy(&s->recipe);
    json_decref(s->key);
    bwi_free(s->evaluations);
    bwi_free(s->table);
    bwi_free(s->result);
    bwi_free(method);
    bwi_free(s);
    return st;
}
