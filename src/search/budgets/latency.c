/* Latency: milliseconds of one image on one thread of this machine, measured (search/measure.h): the time of each layer at each bit-width in the
 * engine, at its own shape and activation bits, and a constant for the rest of a run. What a whole network is predicted to take is their sum.
 *
 * A layer whose activations are float multiplies in float whatever its weights' bits are, and takes the same time at all of them. Costs are
 * whole nanoseconds; the first layer carries the constant. */
#include "search/budgets.h"
#include "search/measure.h"
#include "base/cpu.h"
#include "base/alloc.h"
#include "base/file.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The table in a file ------------------------------------------------------------------------------------------------- */

/* The machine: what the CPU is and what is used of it, without the number of threads. */
static void machine(char text[200])
{
    snprintf(text, 200, "%s", bwi_cpu_text());
    char *comma = strrchr(text, ',');
    if (comma) *comma = 0;
}

static json_t *table_json(const bwi_latencies *l, const bwi_costing *c)
{
    char cpu[200], network[24];
    json_t *layers = json_array(), *whole = json_array();
    machine(cpu);
    snprintf(network, sizeof network, "%016llx", (unsigned long long)l->network);
    for (int i = 0; i < c->n; i++) {
        json_t *ns = json_array();
        for (int b = c->lo; b <= c->hi; b++) json_array_append_new(ns, json_integer((json_int_t)l->ns[i][b]));
        json_array_append_new(layers, json_pack("{s:s, s:b, s:o}", "name", c->layer[i].name, "float", l->real[i], "ns", ns));
    }
    for (int b = c->lo; b <= c->hi; b++) json_array_append_new(whole, json_integer((json_int_t)l->whole[b]));
    return json_pack("{s:s, s:s, s:[i,i], s:I, s:o, s:o}", "machine", cpu, "network", network, "bits", c->lo, c->hi, "rest_ns",
                     (json_int_t)l->rest, "uniform_ns", whole, "layers", layers);
}

static bw_status write_table(const bwi_latencies *l, const bwi_costing *c, bw_error *err)
{
    json_t *table = table_json(l, c);
    char *text = table ? json_dumps(table, JSON_INDENT(1)) : NULL;
    const bw_status st =
        text ? bwi_file_write(c->table, text, strlen(text), err) : bwi_fail(err, BW_NOMEM, "no memory for %s", c->table);
    json_decref(table);
    free(text);
    return st;
}

static bool same_text(const json_t *table, const char *key, const char *text)
{
    const char *s = json_string_value(json_object_get(table, key));
    return s && !strcmp(s, text);
}

/* Whether the file holds what would be measured, and then fills l. */
static bool read_table(bwi_latencies *l, const bwi_costing *c)
{
    char cpu[200], network[24];
    json_t *table = bwi_file_exists(c->table) ? json_load_file(c->table, 0, NULL) : NULL;
    const json_t *layers = json_object_get(table, "layers"), *rest = json_object_get(table, "rest_ns"),
                 *bits = json_object_get(table, "bits");
    machine(cpu);
    snprintf(network, sizeof network, "%016llx", (unsigned long long)l->network);
    bool good = same_text(table, "machine", cpu) && same_text(table, "network", network) && json_is_number(rest) &&
                json_integer_value(json_array_get(bits, 0)) == c->lo && json_integer_value(json_array_get(bits, 1)) == c->hi &&
                json_array_size(layers) == (size_t)c->n;
    l->rest = json_number_value(rest);
    for (int i = 0; good && i < c->n; i++) {
        const json_t *layer = json_array_get(layers, (size_t)i), *ns = json_object_get(layer, "ns");
        good = same_text(layer, "name", c->layer[i].name);
        for (int b = c->lo; good && b <= c->hi; b++) {
            const json_t *one = json_array_get(ns, (size_t)(b - c->lo));
            l->ns[i][b] = json_number_value(one);
            good = json_is_number(one) && l->ns[i][b] > 0;
        }
    }
    json_decref(table);
    return good;
}

/* ---- The row ------------------------------------------------------------------------------------------------------------- */

static bw_status cost(const bwi_budget *row, const bwi_costing *c, const char *value, bwi_problem *p, bw_error *err)
{
    static const double ns_of[] = {1e6, 1e3};
    double number;
    int suffix;
    bool any = false;
    bw_status st = bwi_budget_value(row, value, "ms us", &number, &suffix, err);
    if (st) return st;
    for (int i = 0; i < c->n; i++) any = any || c->layer[i].activation_bits;
    if (!any)
        return bwi_fail(err, BW_ARG,
                        "budget latency: all activations are float (quant.activation: none), so that the engine multiplies in "
                        "float and no weight's bits change its time; name the activations that the network will be deployed "
                        "with, such as --set quant.activation=lsq --set quant.activation_bits=4, or take another budget");
    bwi_latencies *l = bwi_malloc(sizeof *l);
    if (!l) return bwi_fail(err, BW_NOMEM, "no memory for a table of latencies");
    BWI_TRY(bwi_latencies_identify(l, c, err));
    if (!read_table(l, c)) {
        BWI_TRY(bwi_latencies_measure(l, c, err));
        BWI_TRY(write_table(l, c, err));
    }
    for (int i = 0; i < c->n; i++)
        for (int b = c->lo; b <= c->hi; b++) p->cost[i][b] = l->ns[i][b] + (i ? 0 : l->rest);
    p->limit = number * ns_of[suffix];
fail:
    bwi_free(l);
    return st;
}

const bwi_budget bwi_budget_latency = {
    .name = "latency",
    .summary =
        "time of one image on one thread, of layers measured in the engine on this machine; layers with float activations take "
        "the same time at any bits",
    .cite = "Wang et al. 2019, HAQ, for tables of measured latencies",
    .values = "0.2ms, 150us",
    .unit = "ms",
    .unit_costs = 1e6,
    .cost = cost,
};
