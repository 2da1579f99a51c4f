/* Recipes: everything that decides a training run, as one struct. One table of keys (recipe.c) gives each its name, type, range and
 * help; reading YAML, `--set`, writing, comparing and documentation all come from that table. */
#ifndef BWI_RECIPE_H
#define BWI_RECIPE_H
#include "nn/nn.h"

#define BWI_MILESTONES 16

struct bw_recipe {
    char *name, *init; /* init: a weights file to start from; "": random */
    struct {
        char *family, *shortcut;
        int image, classes;
        bool last_bn;
    } net; /* image 0: as the family is made for; classes 0: as many as the data set has */
    struct {
        char *source, *normalize;
        bool augment;
        int limit, holdout;
    } data;
    struct {
        char *weight, *weight_gradient, *activation, *activation_gradient, *policy;
        int weight_bits, activation_bits;
        bwi_layer_rule *layers; /* owned, as their match */
        int n_layers;
    } quant;
    struct {
        int hidden, min_bits, max_bits;
    } hypernet; /* hidden 0: none; min_bits 0: the layers' own bits */
    struct {
        char *teacher;
    } distill; /* a model of this library; "": none */
    struct {
        char *name, *schedule, *per;
        double lr, weight_decay, momentum, beta1, beta2, eps, warmup_epochs, gamma;
        double quant_lr, quant_weight_decay, norm_lr, norm_weight_decay; /* negative: as the weights' */
        bool nesterov;
        int milestones[BWI_MILESTONES], n_milestones;
    } optim;
    struct {
        int epochs, batch, seed, threads, eval_every, eval_batch;
        bool drop_last;
        char *precision;
    } train;
    char *text; /* what bw_recipe_text returned last */
};

typedef enum bwi_key_type {
    BWI_KEY_TEXT,
    BWI_KEY_NAME,
    BWI_KEY_BOOL,
    BWI_KEY_INT,
    BWI_KEY_REAL,
    BWI_KEY_INTS,
    BWI_KEY_RULES
} bwi_key_type;
typedef struct bwi_key {
    const char *name; /* "train.epochs"; without a dot at the top level */
    bwi_key_type type;
    size_t offset; /* of the member in struct bw_recipe */
    const char *def;
    double min, max;                 /* INT, REAL, INTS: inclusive */
    const char *(*choice)(size_t i); /* NAME: the valid ones; NULL past the end */
    const char *help;
} bwi_key;
const bwi_key *bwi_key_at(size_t i); /* NULL past the end */
const bwi_key *bwi_key_find(const char *name);

/* Sets one key of a type other than INTS and RULES from text; err names the key, what was expected and what was found. */
BW_MUST_USE bw_status bwi_recipe_set(bw_recipe *r, const bwi_key *key, const char *text, bw_error *err);
/* The value of a key as YAML on one line, as bw_recipe_text writes it. Freed with bwi_free; NULL on lack of memory. */
char *bwi_recipe_value(const bw_recipe *r, const bwi_key *key);
/* Applies YAML text to a recipe (recipe_yaml.c). `what` names the text in messages: a file or "--set". */
BW_MUST_USE bw_status bwi_recipe_yaml(bw_recipe *r, const char *what, const uint8_t *yaml, size_t size, bw_error *err);
/* Applies one override "section.key=value". */
BW_MUST_USE bw_status bwi_recipe_override(bw_recipe *r, const char *text, bw_error *err);
/* What no single key can know: whether quantizers and bits go together, whether lists rise. */
BW_MUST_USE bw_status bwi_recipe_check(const bw_recipe *r, bw_error *err);
/* A recipe from the YAML text that a model or checkpoint holds; data.source is empty when that does not give it. */
BW_MUST_USE bw_status bwi_recipe_parse(bw_recipe **out, const char *what, const char *yaml, bw_error *err);
/* BW_ARG when two recipes differ: err lists every key that does, with both values. The folder of data.source may differ,
 * and train.epochs where the schedule lets the steps of a longer run begin like those of a shorter one. */
BW_MUST_USE bw_status bwi_recipe_same(const bw_recipe *stored, const bw_recipe *given, bw_error *err);
/* Whether a string may stand in a recipe: valid UTF-8 of printable characters. */
bool bwi_recipe_printable(const char *s);

/* The network of a recipe: built and quantized, not initialised. classes stands in for net.classes 0. */
BW_MUST_USE bw_status bwi_recipe_graph(bwi_graph **out, const bw_recipe *r, int classes, bw_error *err);
bwi_precision bwi_recipe_precision(const bw_recipe *r);
/* Whether every step draws the layers' bits anew, so that running statistics fit none of them. */
bool bwi_recipe_draws_bits(const bw_recipe *r);
#endif
