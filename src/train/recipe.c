/* The table of recipe keys, and what follows from it: setting, writing and comparing values. */
#include "train/recipe.h"
#include "base/alloc.h"
#include "base/file.h"
#include "data/data.h"
#include "optim/optim.h"
#include "train/hyper.h"
#include "zoo/zoo.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The table ----------------------------------------------------------------------------------------------------------- */

#define ROW_NAMES(function, type, at)                                                                                          \
    static const char *function(size_t i)                                                                                      \
    {                                                                                                                          \
        const type *row = at(i);                                                                                               \
        return row ? row->name : NULL;                                                                                         \
    }
ROW_NAMES(families, bwi_family, bwi_family_at)
ROW_NAMES(normalizations, bwi_normalize, bwi_normalize_at)
ROW_NAMES(policies, bwi_policy, bwi_policy_at)
ROW_NAMES(optimizers, bwi_optimizer, bwi_optimizer_at)
ROW_NAMES(schedules, bwi_schedule, bwi_schedule_at)
static const char *shortcuts(size_t i)
{
    return (const char *const[]){"A", "projection", NULL}[i];
}
static const char *periods(size_t i)
{
    return (const char *const[]){"step", "epoch", NULL}[i];
}
static const char *precisions(size_t i)
{
    return (const char *const[]){"f32", "fast", NULL}[i];
}

#define AT(member) offsetof(struct bw_recipe, member)
#define TEXT(key, member, def, help)                                                                                           \
    {                                                                                                                          \
        key, BWI_KEY_TEXT, AT(member), def, 0, 0, NULL, help                                                                   \
    }
#define NAME(key, member, def, choice, help)                                                                                   \
    {                                                                                                                          \
        key, BWI_KEY_NAME, AT(member), def, 0, 0, choice, help                                                                 \
    }
#define BOOL(key, member, def, help)                                                                                           \
    {                                                                                                                          \
        key, BWI_KEY_BOOL, AT(member), def, 0, 0, NULL, help                                                                   \
    }
#define INT(key, member, def, min, max, help)                                                                                  \
    {                                                                                                                          \
        key, BWI_KEY_INT, AT(member), def, min, max, NULL, help                                                                \
    }
#define REAL(key, member, def, min, max, help)                                                                                 \
    {                                                                                                                          \
        key, BWI_KEY_REAL, AT(member), def, min, max, NULL, help                                                               \
    }

static const bwi_key keys[] = {
    TEXT("name", name, "", "a name for the run, for people"),
    TEXT("init", init, "", "weights file to start from, of any known format; empty: random"),

    NAME("net.family", net.family, "resnet20", families, "the network"),
    NAME("net.shortcut", net.shortcut, "A", shortcuts,
         "shortcut where the shape changes: A subsamples and pads with zeros, projection is a 1x1 convolution with batch norm; "
         "ResNets for 32x32 images have the choice"),
    INT("net.image", net.image, "0", 0, 4096, "height and width of the images; 0: those that the network was made for"),
    INT("net.classes", net.classes, "0", 0, 100000, "outputs; 0: as many as the data set has classes"),
    BOOL("net.last_bn", net.last_bn, "false", "a BatchNorm1d before the classifier"),

    TEXT("data.source", data.source, "shapes",
         "data set: shapes, cifar10:FOLDER, cifar100:FOLDER, folder:FOLDER@SIZE (images in FOLDER/train/CLASS and "
         "FOLDER/test/CLASS, fitted "
         "to SIZExSIZE); without a folder $BITWRIGHT_DATA is taken"),
    NAME("data.normalize", data.normalize, "cifar", normalizations, "mean and standard deviation of the channels"),
    BOOL("data.augment", data.augment, "true", "training images: pad by 4, crop at random, flip at random"),
    INT("data.limit", data.limit, "0", 0, 1e9, "use only the first so many images of each split; 0: all"),
    INT("data.holdout", data.holdout, "0", 0, 1e9,
        "training images that are kept apart for search, the same ones in every run and as many of each class; while there are "
        "any, training "
        "is evaluated on them and does not see the test images"),

    TEXT("quant.weight", quant.weight, "none",
         "weight quantizer with its options, such as lsq:nf_with_batch=1; none: weights stay float"),
    TEXT("quant.weight_gradient", quant.weight_gradient, "ste", "gradient method of the weights, such as ewgs:delta=0.001"),
    INT("quant.weight_bits", quant.weight_bits, "8", 1, 8, "bits of a weight"),
    TEXT("quant.activation", quant.activation, "none", "activation quantizer with its options; none: activations stay float"),
    TEXT("quant.activation_gradient", quant.activation_gradient, "ste", "gradient method of the activations"),
    INT("quant.activation_bits", quant.activation_bits, "8", 1, 8, "bits of an activation"),
    NAME("quant.policy", quant.policy, "all", policies, "which layers are quantized"),
    {"quant.layers", BWI_KEY_RULES, AT(quant.layers), "[]", -1, 8, NULL,
     "rules for single layers, later ones win: [{match: 'layer1.*', weight_bits: 4, activation_bits: -1}]; -1: float, 0: "
     "unchanged"},

    INT("hypernet.hidden", hypernet.hidden, "0", 0, BWI_HYPER_HIDDEN,
        "MetaQuantNet: every quantized layer's weights are made from its bit-width by a network of so many hidden units; 0: "
        "no"),
    INT("hypernet.min_bits", hypernet.min_bits, "0", 0, 8,
        "every step draws each layer's bits from min_bits to max_bits; 0: the bits of the quant keys. It is evaluated at "
        "these; "
        "while bits are drawn, with each batch's own statistics, since running ones mix all bit-widths"),
    INT("hypernet.max_bits", hypernet.max_bits, "0", 0, 8, "see hypernet.min_bits"),

    TEXT("distill.teacher", distill.teacher, "",
         "model file whose network teaches, usually the float one of init; the loss, also the one reported for training, is "
         "then "
         "the mean of the cross entropies with the labels and with its probabilities; empty: off"),

    NAME("optim.name", optim.name, "sgd", optimizers, "the optimizer"),
    REAL("optim.lr", optim.lr, "0.1", 0, HUGE_VAL, "learning rate"),
    REAL("optim.weight_decay", optim.weight_decay, "0", 0, HUGE_VAL, "L2 penalty, added to the gradient as lambda * w"),
    REAL("optim.momentum", optim.momentum, "0.9", 0, 1, "momentum of sgd"),
    BOOL("optim.nesterov", optim.nesterov, "false", "Nesterov's momentum in sgd"),
    REAL("optim.beta1", optim.beta1, "0.9", 0, 1, "decay of adam's first moment"),
    REAL("optim.beta2", optim.beta2, "0.999", 0, 1, "decay of adam's second moment"),
    REAL("optim.eps", optim.eps, "1e-8", 0, 1, "added to adam's denominator"),
    NAME("optim.schedule", optim.schedule, "cosine", schedules, "how the learning rate falls"),
    NAME("optim.per", optim.per, "step", periods, "whether the learning rate changes every step or every epoch"),
    REAL("optim.warmup_epochs", optim.warmup_epochs, "0", 0, 1e6, "epochs over which the learning rate rises from 0"),
    REAL("optim.gamma", optim.gamma, "0.1", 0, 1, "schedule step: factor at each milestone"),
    {"optim.milestones", BWI_KEY_INTS, AT(optim.milestones), "[]", 0, 1e6, NULL,
     "schedule step: epochs, from 0 and rising, at whose start the learning rate falls, such as [30, 60, 90]"},
    REAL("optim.quant_lr", optim.quant_lr, "-1", -1, HUGE_VAL, "learning rate of quantizer parameters; negative: as optim.lr"),
    REAL("optim.quant_weight_decay", optim.quant_weight_decay, "0", -1, HUGE_VAL,
         "weight decay of quantizer parameters; negative: as optim.weight_decay"),
    REAL("optim.norm_lr", optim.norm_lr, "-1", -1, HUGE_VAL,
         "learning rate of batch norm parameters and biases; negative: as optim.lr"),
    REAL("optim.norm_weight_decay", optim.norm_weight_decay, "-1", -1, HUGE_VAL,
         "weight decay of batch norm parameters and biases; negative: as optim.weight_decay"),

    INT("train.epochs", train.epochs, "1", 1, 1e6, "passes over the training images"),
    INT("train.batch", train.batch, "128", 1, 65536, "images in a step"),
    BOOL("train.drop_last", train.drop_last, "false", "leave out the last batch of an epoch when it is smaller"),
    INT("train.seed", train.seed, "1", 0, 2147483647, "of initial weights, order and augmentation"),
    NAME("train.precision", train.precision, "f32", precisions,
         "arithmetic of convolutions; fast: integers, codes as they are and in training what is float as 16 bits"),
    INT("train.threads", train.threads, "0", 0, 1024, "threads; 0: one for every core of this process"),
    INT("train.eval_every", train.eval_every, "1", 0, 1e6,
        "evaluate after every so many epochs, and after the last one; 0: only then"),
    INT("train.eval_batch", train.eval_batch, "250", 1, 65536, "images in a step of evaluation"),
};
#define N_KEYS (sizeof keys / sizeof *keys)

const bwi_key *bwi_key_at(size_t i)
{
    return i < N_KEYS ? &keys[i] : NULL;
}

const bwi_key *bwi_key_find(const char *name)
{
    for (size_t i = 0; i < N_KEYS; i++)
        if (!strcmp(keys[i].name, name)) return &keys[i];
    return NULL;
}

/* Appends the choices of a key to a text buffer: "A, projection". */
static void list_choices(const bwi_key *key, char *out, size_t size)
{
    const char *name;
    size_t at = strlen(out);
    for (size_t i = 0; (name = key->choice(i)) && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", name);
}

/* What a key expects: "a whole number from 1 to 8". */
static void expectation(const bwi_key *key, char *out, size_t size)
{
    switch (key->type) {
    case BWI_KEY_TEXT:
        snprintf(out, size, "text");
        break;
    case BWI_KEY_BOOL:
        snprintf(out, size, "true or false");
        break;
    case BWI_KEY_NAME:
        snprintf(out, size, "one of ");
        list_choices(key, out, size);
        break;
    case BWI_KEY_INT:
        snprintf(out, size, "a whole number from %.0f to %.0f", key->min, key->max);
        break;
    case BWI_KEY_REAL:
        if (key->max == HUGE_VAL)
            snprintf(out, size, "a number from %g on", key->min);
        else
            snprintf(out, size, "a number from %g to %g", key->min, key->max);
        break;
    case BWI_KEY_INTS:
        snprintf(out, size, "a list of whole numbers");
        break;
    case BWI_KEY_RULES:
        snprintf(out, size, "a list of rules");
        break;
    }
}

bool bw_recipe_key(size_t i, const char **key, const char **type, const char **def, const char **help)
{
    static _Thread_local char text[256];
    if (i >= N_KEYS) return false;
    expectation(&keys[i], text, sizeof text);
    *key = keys[i].name;
    *type = text;
    *def = keys[i].def;
    *help = keys[i].help;
    return true;
}

/* ---- Setting a value ----------------------------------------------------------------------------------------------------- */

/* One code point that YAML calls printable; advances *s past it. */
static bool printable_character(const unsigned char **s)
{
    const unsigned char *p = *s;
    int more = *p < 0x80 ? 0 : (*p & 0xe0) == 0xc0 ? 1 : (*p & 0xf0) == 0xe0 ? 2 : (*p & 0xf8) == 0xf0 ? 3 : -1;
    if (more < 0) return false;
    uint32_t c = more ? *p & (0x3fu >> more) : *p;
    for (int i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80) return false;
        c = c << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[] = {0x20, 0x80, 0x800, 0x10000};
    if (c < least[more] || c > 0x10ffff) return false;
    *s = p + more + 1;
    return !(c >= 0x7f && c < 0xa0) && !(c >= 0xd800 && c < 0xe000) && c != 0xfeff && c != 0xfffe && c != 0xffff &&
           c != 0x2028 && c != 0x2029;
}

bool bwi_recipe_printable(const char *s)
{
    for (const unsigned char *p = (const unsigned char *)s; *p;)
        if (!printable_character(&p)) return false;
    return true;
}

static bw_status expected(const bwi_key *key, const char *text, bw_error *err)
{
    char what[256];
    const char *names[32], *near = NULL;
    size_t n = 0;
    expectation(key, what, sizeof what);
    if (key->type == BWI_KEY_NAME) {
        while (n < 32 && (names[n] = key->choice(n))) n++;
        near = bwi_nearest(text, names, n);
    }
    return bwi_fail(err, BW_ARG, "%s: expected %s, found '%.80s'%s%s%s", key->name, what, text, near ? "; did you mean '" : "",
                    near ? near : "", near ? "'?" : "");
}

static bw_status set_string(char **member, const bwi_key *key, const char *text, bw_error *err)
{
    if (!bwi_recipe_printable(text))
        return bwi_fail(err, BW_ARG, "%s: the text holds a character that is not printable, or is not UTF-8", key->name);
    char *copy = bwi_strdup(text);
    if (!copy) return bwi_fail(err, BW_NOMEM, "%s: out of memory", key->name);
    bwi_free(*member);
    *member = copy;
    return BW_OK;
}

/* A whole decimal number: no blanks before it, nothing behind it. */
static bool parse_number(const char *text, double *out)
{
    char *end;
    if (!*text || strspn(text, "+-.0123456789eE") != strlen(text)) return false;
    *out = strtod(text, &end);
    return !*end && isfinite(*out);
}

bw_status bwi_recipe_set(bw_recipe *r, const bwi_key *key, const char *text, bw_error *err)
{
    void *member = (char *)r + key->offset;
    double x;
    switch (key->type) {
    case BWI_KEY_NAME:
        for (size_t i = 0; key->choice(i); i++)
            if (!strcmp(key->choice(i), text)) return set_string(member, key, text, err);
        return expected(key, text, err);
    case BWI_KEY_TEXT:
        return set_string(member, key, text, err);
    case BWI_KEY_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false")) return expected(key, text, err);
        *(bool *)member = text[0] == 't';
        return BW_OK;
    case BWI_KEY_INT:
        if (!parse_number(text, &x) || strspn(text, "+-0123456789") != strlen(text) || x < key->min || x > key->max)
            return expected(key, text, err);
        *(int *)member = (int)x;
        return BW_OK;
    case BWI_KEY_REAL:
        if (!parse_number(text, &x) || x < key->min || x > key->max) return expected(key, text, err);
        *(double *)member = x;
        return BW_OK;
    case BWI_KEY_INTS:
    case BWI_KEY_RULES:
        break;
    }
    return bwi_fail(err, BW_INTERNAL, "%s: a list cannot be set from one value", key->name);
}

/* ---- Writing and comparing values ---------------------------------------------------------------------------------------- */

/* A YAML scalar: plain when nothing in it could mean something else, in double quotes otherwise. */
static void add_scalar(bwi_text *t, const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:+-";
    size_t n = strlen(s);
    bool safe = n && strspn(s, plain) == n && (strspn(s, "=:+-") == 0) && s[n - 1] != ':';
    if (safe) {
        bwi_text_add(t, "%s", s);
        return;
    }
    bwi_text_add(t, "\"");
    for (; *s; s++) bwi_text_add(t, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
    bwi_text_add(t, "\"");
}

/* The shortest decimal that reads back as x. */
static void add_real(bwi_text *t, double x)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    bwi_text_add(t, "%s", text);
}

char *bwi_recipe_value(const bw_recipe *r, const bwi_key *key)
{
    const void *member = (const char *)r + key->offset;
    bwi_text t = {0};
    switch (key->type) {
    case BWI_KEY_TEXT:
    case BWI_KEY_NAME:
        add_scalar(&t, *(char *const *)member);
        break;
    case BWI_KEY_BOOL:
        bwi_text_add(&t, *(const bool *)member ? "true" : "false");
        break;
    case BWI_KEY_INT:
        bwi_text_add(&t, "%d", *(const int *)member);
        break;
    case BWI_KEY_REAL:
        add_real(&t, *(const double *)member);
        break;
    case BWI_KEY_INTS:
        bwi_text_add(&t, "[");
        for (int i = 0; i < r->optim.n_milestones; i++) bwi_text_add(&t, "%s%d", i ? ", " : "", r->optim.milestones[i]);
        bwi_text_add(&t, "]");
        break;
    case BWI_KEY_RULES:
        bwi_text_add(&t, "[");
        for (int i = 0; i < r->quant.n_layers; i++) {
            bwi_text_add(&t, "%s{match: ", i ? ", " : "");
            add_scalar(&t, r->quant.layers[i].match);
            bwi_text_add(&t, ", weight_bits: %d, activation_bits: %d}", r->quant.layers[i].weight_bits,
                         r->quant.layers[i].activation_bits);
        }
        bwi_text_add(&t, "]");
        break;
    }
    if (t.failed) {
        bwi_free(t.s);
        return NULL;
    }
    return t.s;
}

const char *bw_recipe_text(bw_recipe *r)
{
    bwi_text t = {0};
    size_t section = 0;
    for (size_t i = 0; i < N_KEYS; i++) {
        const char *dot = strchr(keys[i].name, '.');
        size_t length = dot ? (size_t)(dot - keys[i].name) : 0;
        if (dot && (length != section || strncmp(keys[i].name, keys[i - 1].name, length + 1)))
            bwi_text_add(&t, "%.*s:\n", (int)length, keys[i].name);
        section = length;
        char *value = bwi_recipe_value(r, &keys[i]);
        if (!value) t.failed = 1;
        bwi_text_add(&t, "%s%s: %s\n", dot ? "  " : "", dot ? dot + 1 : keys[i].name, value ? value : "");
        bwi_free(value);
    }
    bwi_free(r->text);
    r->text = t.failed ? NULL : t.s;
    if (t.failed) bwi_free(t.s);
    return r->text;
}

/* What may differ in a resumed run: where its data set lies, and for how long it goes on, unless what was trained would have been otherwise. */
static bool may_differ(const bwi_key *key, const char *a, const char *b, const bwi_schedule *schedule)
{
    const size_t source = strcspn(a, ":");
    if (!strcmp(key->name, "data.source")) return source == strcspn(b, ":") && !strncmp(a, b, source);
    return !strcmp(key->name, "train.epochs") && !schedule->whole_run;
}

bw_status bwi_recipe_same(const bw_recipe *stored, const bw_recipe *given, bw_error *err)
{
    const bwi_schedule *schedule = bwi_schedule_find(stored->optim.schedule);
    bwi_text t = {0};
    bool failed = false;
    for (size_t i = 0; i < N_KEYS; i++) {
        char *a = bwi_recipe_value(stored, &keys[i]), *b = bwi_recipe_value(given, &keys[i]);
        const bool length = !strcmp(keys[i].name, "train.epochs");
        if (!a || !b)
            failed = true;
        else if (strcmp(a, b) && !may_differ(&keys[i], a, b, schedule))
            bwi_text_add(&t, "%s%s (was %s, now %s%s%s)", t.len ? ", " : "", keys[i].name, a, b,
                         length ? ", which changes every step of schedule " : "", length ? schedule->name : "");
        bwi_free(a);
        bwi_free(b);
    }
    bw_status st = BW_OK;
    if (failed || t.failed)
        st = bwi_fail(err, BW_NOMEM, "no memory to compare recipes");
    else if (t.len)
        st = bwi_fail(err, BW_ARG, "the recipe is not the one that the run began with: %s", t.s);
    bwi_free(t.s);
    return st;
}

/* ---- Loading ------------------------------------------------------------------------------------------------------------- */

static void clear_rules(bw_recipe *r)
{
    for (int i = 0; i < r->quant.n_layers; i++) bwi_free((void *)(uintptr_t)r->quant.layers[i].match);
    bwi_free(r->quant.layers);
    r->quant.layers = NULL;
    r->quant.n_layers = 0;
}

void bw_recipe_destroy(bw_recipe **recipe)
{
    bw_recipe *r = *recipe;
    if (!r) return;
    for (size_t i = 0; i < N_KEYS; i++)
        if (keys[i].type == BWI_KEY_TEXT || keys[i].type == BWI_KEY_NAME) bwi_free(*(char **)((char *)r + keys[i].offset));
    clear_rules(r);
    bwi_free(r->text);
    bwi_free(r);
    *recipe = NULL;
}

static bw_status create_default(bw_recipe **out, bw_error *err)
{
    bw_recipe *r = *out = bwi_calloc(1, sizeof *r);
    if (!r) return bwi_fail(err, BW_NOMEM, "no memory for a recipe");
    bw_status st = BW_OK;
    for (size_t i = 0; i < N_KEYS && !st; i++)
        if (keys[i].type != BWI_KEY_INTS && keys[i].type != BWI_KEY_RULES) st = bwi_recipe_set(r, &keys[i], keys[i].def, err);
    return st;
}

static bw_status unknown_key(const char *name, size_t length, bw_error *err)
{
    const char *names[N_KEYS], *near = NULL;
    char *word = bwi_strndup(name, length);
    if (!word) return bwi_fail(err, BW_NOMEM, "no memory for an override");
    for (size_t i = 0; i < N_KEYS; i++) {
        const char *dot = strchr(names[i] = keys[i].name, '.');
        if (dot && !strcmp(dot + 1, word)) near = keys[i].name; /* only the section is missing */
    }
    if (!near) near = bwi_nearest(word, names, N_KEYS);
    bw_status st = bwi_fail(err, BW_ARG, "there is no recipe key '%.80s'; %s%s%s", word,
                            near ? "did you mean " : "see the list of recipe keys", near ? near : "", near ? "?" : "");
    bwi_free(word);
    return st;
}

/* Lists go the way of a file: their value is YAML. */
bw_status bwi_recipe_override(bw_recipe *r, const char *text, bw_error *err)
{
    const char *equals = strchr(text, '=');
    if (!equals) return bwi_fail(err, BW_ARG, "override '%.80s': expected section.key=value", text);
    const bwi_key *key = NULL;
    size_t length = (size_t)(equals - text);
    for (size_t i = 0; i < N_KEYS; i++)
        if (strlen(keys[i].name) == length && !strncmp(keys[i].name, text, length)) key = &keys[i];
    if (!key) return unknown_key(text, length, err);
    if (key->type != BWI_KEY_INTS && key->type != BWI_KEY_RULES) return bwi_recipe_set(r, key, equals + 1, err);
    if (key->type == BWI_KEY_INTS)
        r->optim.n_milestones = 0; /* an empty list is as good as none to libcyaml */
    else
        clear_rules(r);
    const char *dot = strchr(key->name, '.');
    char *yaml = bwi_asprintf("%.*s:\n  %s: %s\n", (int)(dot - key->name), key->name, dot + 1, equals + 1);
    if (!yaml) return bwi_fail(err, BW_NOMEM, "no memory for an override");
    bw_status st = bwi_recipe_yaml(r, "override", (const uint8_t *)yaml, strlen(yaml), err);
    bwi_free(yaml);
    return st;
}

static bw_status check_quantizer(const char *key, const char *quantizer, const char *gradient, bwi_role role, int bits,
                                 bw_error *err)
{
    bwi_quant q;
    if (!strcmp(quantizer, "none")) return BW_OK;
    bw_status st = bwi_quant_make(&q, quantizer, gradient, role, bits, role == BWI_WEIGHT, err);
    return st ? bwi_fail_in(err, st, "%s (with %s_gradient, %s_bits)", key, key, key) : BW_OK;
}

static bw_status check_source(const char *source, bw_error *err)
{
    const char *names[16];
    const bwi_dataset_row *row;
    size_t n = 0;
    const size_t length = strcspn(source, ":");
    for (; n < 16 && (row = bwi_dataset_at(n)); n++) {
        names[n] = row->name;
        if (strlen(row->name) == length && !strncmp(row->name, source, length)) return BW_OK;
    }
    char *name = bwi_strndup(source, length);
    if (!name) return bwi_fail(err, BW_NOMEM, "no memory for the name of a data set");
    const char *near = bwi_nearest(name, names, n);
    const bw_status st = bwi_fail(err, BW_ARG, "data.source: there is no data set '%.80s'; %s%s", name,
                                  near ? "did you mean " : "expected shapes, cifar10:FOLDER or the like", near ? near : "");
    bwi_free(name);
    return st;
}

bw_status bwi_recipe_check(const bw_recipe *r, bw_error *err)
{
    bw_status st;
    for (int i = 1; i < r->optim.n_milestones; i++)
        if (r->optim.milestones[i] <= r->optim.milestones[i - 1])
            return bwi_fail(err, BW_ARG, "optim.milestones: %d follows %d; epochs must rise", r->optim.milestones[i],
                            r->optim.milestones[i - 1]);
    BWI_TRY(check_quantizer("quant.weight", r->quant.weight, r->quant.weight_gradient, BWI_WEIGHT, r->quant.weight_bits, err));
    BWI_TRY(check_quantizer("quant.activation", r->quant.activation, r->quant.activation_gradient, BWI_ACTIVATION,
                            r->quant.activation_bits, err));
    return bwi_hyper_check(r, err);
fail:
    return st;
}

bw_status bw_recipe_load(bw_recipe **out, const char *path, const char *const *overrides, size_t n, bw_error *err)
{
    bwi_file file = {0};
    bw_recipe *r = NULL;
    bw_status st;
    *out = NULL;
    if (err) *err = (bw_error){0};
    BWI_TRY(create_default(&r, err));
    if (path) {
        BWI_TRY(bwi_file_open(&file, path, err));
        BWI_TRY(bwi_recipe_yaml(r, path, file.data, file.size, err));
    }
    for (size_t i = 0; i < n; i++) BWI_TRY(bwi_recipe_override(r, overrides[i], err));
    st = check_source(r->data.source, err);
    if (!st) st = bwi_recipe_check(r, err);
    if (st) {
        if (path) bwi_fail_in(err, st, "%s", path);
        goto fail;
    }
    *out = r;
    r = NULL;
fail:
    bwi_file_close(&file);
    bw_recipe_destroy(&r);
    return st;
}

bw_status bwi_recipe_parse(bw_recipe **out, const char *what, const char *yaml, bw_error *err)
{
    *out = NULL;
    bw_recipe *r = NULL;
    bw_status st;
    BWI_TRY(create_default(&r, err));
    r->data.source[0] = 0; /* a model that was imported does not say what it was trained on */
    BWI_TRY(bwi_recipe_yaml(r, what, (const uint8_t *)yaml, strlen(yaml), err));
    if ((st = bwi_recipe_check(r, err))) {
        bwi_fail_in(err, st, "%s", what);
        goto fail;
    }
    *out = r;
    return BW_OK;
fail:
    bw_recipe_destroy(&r);
    return st;
}

/* ---- What a recipe stands for -------------------------------------------------------------------------------------------- */

bw_status bwi_recipe_graph(bwi_graph **out, const bw_recipe *r, int classes, bw_error *err)
{
    bwi_net_options net = {r->net.shortcut, r->net.last_bn, r->net.classes ? r->net.classes : classes, {0}};
    if (r->net.image) net.input = (bwi_shape){r->net.image, r->net.image, 3};
    const bwi_quant_spec spec = {
        .weight_quantizer = r->quant.weight,
        .weight_gradient = r->quant.weight_gradient,
        .activation_quantizer = r->quant.activation,
        .activation_gradient = r->quant.activation_gradient,
        .weight_bits = r->quant.weight_bits,
        .activation_bits = r->quant.activation_bits,
        .policy = r->quant.policy,
        .rule = r->quant.layers,
        .n_rules = r->quant.n_layers,
    };
    bw_status st;
    BWI_TRY(bwi_net_create(out, r->net.family, &net, BWI_DT_F32, err));
    BWI_TRY(bwi_graph_quantize(*out, &spec, err));
    if (r->hypernet.hidden) BWI_TRY(bwi_hyper_attach(*out, r->hypernet.hidden, err));
    return BW_OK;
fail:
    bwi_graph_destroy(out);
    return st;
}

bwi_precision bwi_recipe_precision(const bw_recipe *r)
{
    return strcmp(r->train.precision, "fast") ? BWI_PRECISION_F32 : BWI_PRECISION_FAST;
}

bool bwi_recipe_draws_bits(const bw_recipe *r)
{
    return r->hypernet.min_bits > 0;
}
