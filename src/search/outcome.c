#include "search/outcome.h"
#include "base/alloc.h"
#include "base/file.h"
#include "train/describe.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

double bwi_weight_bytes(const bwi_graph *g)
{
    double bits = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const bwi_node *n = &g->node[i];
        if (n->param[0] < 0 || g->param[n->param[0]].role != BWI_PARAM_WEIGHT) continue;
        bits += (double)g->param[n->param[0]].numel * (n->wq ? n->wq->bits : 32);
    }
    return bits / 8;
}

/* ---- search.json --------------------------------------------------------------------------------------------------------- */

static double bytes_of(const bwi_outcome *o, const uint8_t *bits)
{
    double sum = 0;
    for (int i = 0; i < o->problem->n; i++) sum += o->layer[i].weights * bits[i];
    return o->kept_bytes + sum / 8;
}

/* {"bits", "error", "cost", "weight_bytes"} */
static json_t *assignment(const bwi_outcome *o, const uint8_t *bits, double error)
{
    json_t *list = json_array();
    for (int i = 0; i < o->problem->n; i++) json_array_append_new(list, json_integer(bits[i]));
    return json_pack("{s:o, s:o, s:f, s:f}", "bits", list, "error", bwi_json_number(error), "cost",
                     bwi_problem_cost(o->problem, bits) / o->budget->unit_costs, "weight_bytes", bytes_of(o, bits));
}

static json_t *layers_json(const bwi_outcome *o, const uint8_t *bits)
{
    json_t *list = json_array();
    for (int i = 0; i < o->problem->n; i++) {
        const bwi_searched_layer *l = &o->layer[i];
        json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:I, s:I}", "name", l->name, "bits", bits[i], "activation_bits",
                                              l->activation_bits ? l->activation_bits : 32, "weights", (json_int_t)l->weights,
                                              "multiplications", (json_int_t)l->multiplications));
    }
    return list;
}

static json_t *history_json(const bwi_trials *t)
{
    json_t *list = json_array();
    for (int i = 0; i < t->generations; i++)
        json_array_append_new(list, json_pack("{s:i, s:o, s:o}", "evaluations", t->generation[i].evaluations, "best",
                                              bwi_json_number(t->generation[i].best), "mean",
                                              bwi_json_number(t->generation[i].mean)));
    return list;
}

static json_t *uniform_json(const bwi_outcome *o)
{
    json_t *list = json_array();
    uint8_t bits[BWI_SEARCH_LAYERS];
    for (int b = o->problem->lo; b <= o->problem->hi; b++) {
        memset(bits, b, sizeof bits);
        json_array_append_new(list, assignment(o, bits, bwi_trials_error(o->trials, bits)));
    }
    return list;
}

json_t *bwi_outcome_json(const bwi_outcome *o)
{
    const bwi_trial *best = bwi_trials_best(o->trials, 0), *other;
    const bwi_problem *p = o->problem;
    json_t *archive = json_array();
    for (int i = 0; i < 10 && (other = bwi_trials_best(o->trials, i)); i++)
        json_array_append_new(archive, assignment(o, other->bits, other->error));
    return json_pack("{s:s, s:s, s:s, s:O, s:b, s:s, s:f, s:f, s:f, s:f, s:f, s:I, s:i, s:i, s:o, s:o, s:o, s:o}", "model",
                     o->model, "budget", o->budget_text, "method", o->method, "search", o->key, "seen", o->seen, "unit",
                     o->budget->unit, "limit", p->limit / o->budget->unit_costs, "least", p->least / o->budget->unit_costs,
                     "cost", bwi_problem_cost(p, best->bits) / o->budget->unit_costs, "error", best->error, "weight_bytes",
                     bytes_of(o, best->bits), "packed_bytes", (json_int_t)o->packed_bytes, "evaluations", o->trials->asked,
                     "kept", o->kept, "layers", layers_json(o, best->bits), "uniform", uniform_json(o), "archive", archive,
                     "history", history_json(o->trials));
}

/* ---- Files --------------------------------------------------------------------------------------------------------------- */

static bw_status write_text(const bwi_outcome *o, const char *name, const char *text, bw_error *err)
{
    char *path = bwi_asprintf("%s/%s", o->out_dir, name);
    const bw_status st =
        path && text ? bwi_file_write(path, text, strlen(text), err) : bwi_fail(err, BW_NOMEM, "no memory for %s", name);
    bwi_free(path);
    return st;
}

static bw_status write_recipe(const bwi_outcome *o, bw_error *err)
{
    bwi_text t = {0};
    const char *text = bw_recipe_text(o->recipe);
    const bwi_trial *best = bwi_trials_best(o->trials, 0);
    bwi_text_add(&t,
                 "# Bits of each layer as 'bitwright search' found them for %s (%s): %.6g %s of at most %.6g, validation error "
                 "%.2f %%.\n"
                 "# Train it as it is:            bitwright train recipe.yaml\n"
                 "# or with another quantizer:    bitwright train recipe.yaml --set hypernet.hidden=0 --set quant.weight=lsq\n",
                 o->budget_text, o->method, bwi_problem_cost(o->problem, best->bits) / o->budget->unit_costs, o->budget->unit,
                 o->problem->limit / o->budget->unit_costs, best->error);
    bwi_text_add(&t, "%s", text ? text : "");
    const bw_status st =
        text && !t.failed ? write_text(o, "recipe.yaml", t.s, err) : bwi_fail(err, BW_NOMEM, "no memory for recipe.yaml");
    bwi_free(t.s);
    return st;
}

bw_status bwi_outcome_write(const bwi_outcome *o, bw_error *err)
{
    json_t *json = bwi_outcome_json(o), *all = json ? json_pack("[O]", json) : NULL;
    char *text = json ? json_dumps(json, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) : NULL;
    char *svg = all && !json_object_set_new(json, "label", json_string(o->budget_text)) ? bwi_bits_picture(all) : NULL;
    bw_status st;
    BWI_TRY(write_recipe(o, err));
    BWI_TRY(write_text(o, "bits.svg", svg, err));
    BWI_TRY(write_text(o, "search.json", text, err)); /* last: where it is, the search is finished */
fail:
    json_decref(all);
    json_decref(json);
    free(text);
    bwi_free(svg);
    return st;
}
