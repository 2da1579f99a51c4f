#include "search/policy.h"
#include "base/alloc.h"
#include <string.h>

bw_status bwi_recipe_copy(bw_recipe **out, bw_recipe *r, bw_error *err)
{
    *out = NULL;
    const char *text = bw_recipe_text(r);
    return text ? bwi_recipe_parse(out, "recipe", text, err) : bwi_fail(err, BW_NOMEM, "no memory to copy a recipe");
}

bw_status bwi_recipe_asked(bw_recipe **out, bw_recipe *r, const char *const *set, size_t n_set, bw_error *err)
{
    bw_status st;
    BWI_TRY(bwi_recipe_copy(out, r, err));
    for (size_t i = 0; i < n_set; i++) BWI_TRY(bwi_recipe_override(*out, set[i], err));
    if (!strcmp((*out)->quant.weight, "none")) BWI_TRY(bwi_recipe_override(*out, "quant.weight=minmax", err));
    return BW_OK;
fail:
    bw_recipe_destroy(out);
    return st;
}

static bool is_of(const bwi_layer_rule *rule, const bwi_searched_layer *layer, int n)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(rule->match, layer[i].name)) return true;
    return false;
}

static void add_rule(bwi_text *t, const char *match, int weight_bits, int activation_bits)
{
    bwi_text_add(t, "%s{match: \"", strchr(t->s, '{') ? ", " : "");
    for (; *match; match++) bwi_text_add(t, *match == '"' || *match == '\\' ? "\\%c" : "%c", *match);
    bwi_text_add(t, "\", weight_bits: %d, activation_bits: %d}", weight_bits, activation_bits);
}

bw_status bwi_recipe_set_bits(bw_recipe *r, const bwi_searched_layer *layer, const uint8_t *bits, int n, bw_error *err)
{
    bwi_text t = {0};
    bwi_text_add(&t, "quant.layers=[");
    for (int i = 0; i < r->quant.n_layers && !t.failed; i++) {
        const bwi_layer_rule *rule = &r->quant.layers[i];
        if (!is_of(rule, layer, n)) add_rule(&t, rule->match, rule->weight_bits, rule->activation_bits);
    }
    for (int i = 0; i < n && !t.failed; i++) {
        int activation_bits = 0; /* as it is, unless a rule that makes way has set it */
        for (int k = 0; k < r->quant.n_layers; k++)
            if (!strcmp(r->quant.layers[k].match, layer[i].name) && r->quant.layers[k].activation_bits)
                activation_bits = r->quant.layers[k].activation_bits;
        add_rule(&t, layer[i].name, bits[i], activation_bits);
    }
    bwi_text_add(&t, "]");
    const bw_status st =
        t.failed ? bwi_fail(err, BW_NOMEM, "no memory for the rules of %d layers", n) : bwi_recipe_override(r, t.s, err);
    bwi_free(t.s);
    return st;
}
