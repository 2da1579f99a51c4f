/* YAML into recipes by libcyaml. Its schema is built from the table of keys; every scalar arrives as text, so that a value from a file and
 * one from an override are checked by the same function and a key that is absent differs from one that is zero. */
#include "train/recipe.h"
#include "base/alloc.h"
#include <cyaml/cyaml.h>
#include <stdio.h>
#include <string.h>

enum { MAX_KEYS = 64, MAX_SECTIONS = 8, MAX_RULES = 256, MAX_TEXT = 4096, MAX_FILE = 1 << 20 };

/* What libcyaml fills: for key i one of these. */
typedef struct raw_rule {
    char *match, *weight_bits, *activation_bits;
} raw_rule;
typedef struct raw_value {
    char *text;     /* scalar keys; NULL: absent */
    char **item;    /* INTS */
    raw_rule *rule; /* RULES */
    unsigned n;
} raw_value;

/* The schema: fields of the top level, then of each section; built in place because its pieces point at each other. */
typedef struct schema {
    cyaml_schema_value_t top, rule, item;
    cyaml_schema_field_t rule_field[4], top_field[MAX_KEYS], section_field[MAX_KEYS + MAX_SECTIONS];
    char section[MAX_SECTIONS][16];
    size_t n_keys;
} schema;

static cyaml_schema_value_t text_value(void)
{
    return (cyaml_schema_value_t){.type = CYAML_STRING,
                                  .flags = (cyaml_flag_e)(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL),
                                  .data_size = 1,
                                  .string = {0, MAX_TEXT}};
}

static cyaml_schema_field_t key_field(const schema *s, const bwi_key *key, const char *name, size_t i)
{
    const uint32_t at = (uint32_t)(i * sizeof(raw_value));
    cyaml_schema_field_t f = {.key = name, .data_offset = at + (uint32_t)offsetof(raw_value, text), .value = text_value()};
    if (key->type != BWI_KEY_INTS && key->type != BWI_KEY_RULES) return f;
    const bool rules = key->type == BWI_KEY_RULES;
    f.data_offset = at + (uint32_t)(rules ? offsetof(raw_value, rule) : offsetof(raw_value, item));
    f.count_offset = at + (uint32_t)offsetof(raw_value, n);
    f.count_size = sizeof(unsigned);
    f.value.type = CYAML_SEQUENCE;
    f.value.data_size = rules ? sizeof(raw_rule) : sizeof(char *);
    f.value.sequence.entry = rules ? &s->rule : &s->item;
    f.value.sequence.min = 0;
    f.value.sequence.max = rules ? MAX_RULES : BWI_MILESTONES;
    return f;
}

/* Keys of one section stand together in the table. */
static void build(schema *s)
{
    static const char *const rule_key[] = {"match", "weight_bits", "activation_bits"};
    size_t n_top = 0, n_fields = 0, n_sections = 0;
    memset(s, 0, sizeof *s);
    while (bwi_key_at(s->n_keys)) s->n_keys++;
    for (uint32_t i = 0; i < 3; i++)
        s->rule_field[i] =
            (cyaml_schema_field_t){.key = rule_key[i], .data_offset = i * (uint32_t)sizeof(char *), .value = text_value()};
    s->rule = (cyaml_schema_value_t){.type = CYAML_MAPPING, .data_size = sizeof(raw_rule), .mapping = {s->rule_field}};
    s->item =
        (cyaml_schema_value_t){.type = CYAML_STRING, .flags = CYAML_FLAG_POINTER, .data_size = 1, .string = {0, MAX_TEXT}};
    for (size_t i = 0; i < s->n_keys; i++) {
        const bwi_key *key = bwi_key_at(i);
        const char *dot = strchr(key->name, '.');
        if (!dot) {
            s->top_field[n_top++] = key_field(s, key, key->name, i);
            continue;
        }
        const size_t length = (size_t)(dot - key->name);
        char *section = n_sections ? s->section[n_sections - 1] : NULL;
        if (!section || strlen(section) != length || strncmp(section, key->name, length)) {
            section = s->section[n_sections++];
            memcpy(section, key->name, length);
            if (n_sections > 1) n_fields++; /* the end mark of the section before */
            s->top_field[n_top++] = (cyaml_schema_field_t){.key = section,
                                                           .value = {.type = CYAML_MAPPING,
                                                                     .flags = CYAML_FLAG_OPTIONAL,
                                                                     .data_size = (uint32_t)(s->n_keys * sizeof(raw_value)),
                                                                     .mapping = {&s->section_field[n_fields]}}};
        }
        s->section_field[n_fields++] = key_field(s, key, dot + 1, i);
    }
    s->top = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                    .flags = CYAML_FLAG_POINTER,
                                    .data_size = (uint32_t)(s->n_keys * sizeof(raw_value)),
                                    .mapping = {s->top_field}};
}

static void *memory(void *context, void *p, size_t size)
{
    (void)context;
    if (size) return bwi_realloc(p, size);
    bwi_free(p);
    return NULL;
}

/* libcyaml's messages: the first says what, the first place of its backtrace says where, its mapping fields give the key from inside out. */
typedef struct messages {
    char what[256], unknown[80], path[128];
    unsigned line;
} messages;

static void log_line(cyaml_log_t level, void *context, const char *fmt, va_list args)
{
    messages *m = context;
    char text[256], field[64], path[sizeof m->path];
    const char *at;
    (void)level;
    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\n")] = 0;
    if (!strncmp(text, "Load: ", 6)) {
        sscanf(text, "Load: Unexpected key: %79s", m->unknown);
        if (!m->what[0] && strncmp(text, "Load: Backtrace", 15)) snprintf(m->what, sizeof m->what, "%s", text + 6);
        return;
    }
    if (!m->line && (at = strstr(text, "(line: "))) sscanf(at, "(line: %u", &m->line);
    if (sscanf(text, " in mapping field '%63[^']'", field) != 1) return;
    snprintf(path, sizeof path, "%s", m->path);
    if (snprintf(m->path, sizeof m->path, "%s%s%s", field, path[0] ? "." : "", path) >= (int)sizeof m->path) m->path[0] = 0;
}

/* The valid key nearest to an unknown one in the mapping at `path`. */
static const char *nearest_key(const schema *s, const messages *m)
{
    const cyaml_schema_field_t *fields = strchr(m->path, '.') ? s->rule_field : s->top_field;
    const char *names[MAX_KEYS];
    size_t n = 0;
    for (const cyaml_schema_field_t *f = s->top_field; f->key; f++)
        if (!strcmp(f->key, m->path)) fields = f->value.mapping.fields;
    for (const cyaml_schema_field_t *f = fields; f->key; f++) names[n++] = f->key;
    return bwi_nearest(m->unknown, names, n);
}

static bw_status load_failed(const schema *s, const messages *m, cyaml_err_t code, const char *what, bw_error *err)
{
    char where[32] = "";
    const char *dot = m->path[0] ? "." : "";
    if (m->line) snprintf(where, sizeof where, ", line %u", m->line);
    if (code == CYAML_ERR_OOM) return bwi_fail(err, BW_NOMEM, "%s: out of memory", what);
    if (code == CYAML_ERR_INVALID_KEY && m->unknown[0]) {
        const char *near = nearest_key(s, m);
        if (near)
            return bwi_fail(err, BW_ARG, "%s%s: there is no recipe key '%s%s%s'; did you mean %s%s%s?", what, where, m->path,
                            dot, m->unknown, m->path, dot, near);
        return bwi_fail(err, BW_ARG, "%s%s: there is no recipe key '%s%s%s'; see the list of recipe keys", what, where, m->path,
                        dot, m->unknown);
    }
    return bwi_fail(err, BW_ARG, "%s%s: %s%s%s", what, where, m->path, m->path[0] ? ": " : "",
                    m->what[0] ? m->what : cyaml_strerror(code));
}

static bw_status set_ints(bw_recipe *r, const bwi_key *key, const raw_value *v, bw_error *err)
{
    int *list = (int *)((char *)r + key->offset);
    for (unsigned i = 0; i < v->n; i++) {
        bw_recipe scratch; /* one number is checked as any other */
        const bwi_key one = {key->name, BWI_KEY_INT, offsetof(struct bw_recipe, net.classes), NULL, key->min, key->max,
                             NULL,      NULL};
        bw_status st = bwi_recipe_set(&scratch, &one, v->item[i], err);
        if (st) return st;
        list[i] = scratch.net.classes;
    }
    r->optim.n_milestones = (int)v->n;
    return BW_OK;
}

static void free_rules(bwi_layer_rule *rules, int n)
{
    for (int i = 0; rules && i < n; i++) bwi_free((void *)(uintptr_t)rules[i].match);
    bwi_free(rules);
}

static bw_status set_rules(bw_recipe *r, const bwi_key *key, const raw_value *v, bw_error *err)
{
    bw_recipe scratch;
    const bwi_key bits = {"quant.layers, weight_bits or activation_bits",
                          BWI_KEY_INT,
                          offsetof(struct bw_recipe, net.classes),
                          NULL,
                          key->min,
                          key->max,
                          NULL,
                          NULL};
    bwi_layer_rule *rules = bwi_calloc(v->n + 1, sizeof *rules);
    bw_status st = rules ? BW_OK : bwi_fail(err, BW_NOMEM, "%s: out of memory", key->name);
    for (unsigned i = 0; i < v->n && !st; i++) {
        const raw_rule *rule = &v->rule[i];
        const char *text[2] = {rule->weight_bits, rule->activation_bits};
        int *number[2] = {&rules[i].weight_bits, &rules[i].activation_bits};
        if (!rule->match || !*rule->match)
            st = bwi_fail(err, BW_ARG, "%s: rule %u has no 'match'; give it a layer's name or a pattern such as layer1.*",
                          key->name, i + 1);
        else if (!bwi_recipe_printable(rule->match))
            st = bwi_fail(err, BW_ARG, "%s: the match of rule %u holds a character that is not printable", key->name, i + 1);
        else if (!(rules[i].match = bwi_strdup(rule->match)))
            st = bwi_fail(err, BW_NOMEM, "%s: out of memory", key->name);
        for (int k = 0; k < 2 && !st; k++) {
            if (!text[k]) continue;
            st = bwi_recipe_set(&scratch, &bits, text[k], err);
            *number[k] = scratch.net.classes;
        }
    }
    if (st) {
        free_rules(rules, (int)v->n);
        return st;
    }
    free_rules(r->quant.layers, r->quant.n_layers);
    r->quant.layers = rules;
    r->quant.n_layers = (int)v->n;
    return BW_OK;
}

bw_status bwi_recipe_yaml(bw_recipe *r, const char *what, const uint8_t *yaml, size_t size, bw_error *err)
{
    if (size > MAX_FILE) return bwi_fail(err, BW_ARG, "%s: %zu bytes are too many for a recipe", what, size);
    messages m = {0};
    schema *s = bwi_malloc(sizeof *s);
    if (!s) return bwi_fail(err, BW_NOMEM, "%s: out of memory", what);
    build(s);
    const cyaml_config_t config = {
        .log_fn = log_line, .log_ctx = &m, .mem_fn = memory, .log_level = CYAML_LOG_ERROR, .flags = CYAML_CFG_NO_ALIAS};
    cyaml_data_t *data = NULL;
    static const uint8_t none[1];
    cyaml_err_t code = cyaml_load_data(size ? yaml : none, size, &config, &s->top, &data, NULL);
    bw_status st = code ? load_failed(s, &m, code, what, err) : BW_OK;
    const raw_value *raw = data; /* NULL: an empty file */
    for (size_t i = 0; raw && i < s->n_keys && !st; i++) {
        const bwi_key *key = bwi_key_at(i);
        if (key->type == BWI_KEY_INTS && raw[i].item)
            st = set_ints(r, key, &raw[i], err);
        else if (key->type == BWI_KEY_RULES && raw[i].rule)
            st = set_rules(r, key, &raw[i], err);
        else if (raw[i].text)
            st = bwi_recipe_set(r, key, raw[i].text, err);
        if (st) bwi_fail_in(err, st, "%s", what);
    }
    cyaml_free(&config, &s->top, data, 0);
    bwi_free(s);
    return st;
}
