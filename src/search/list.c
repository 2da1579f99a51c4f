/* What the library offers, row by row, as text. It stands in the highest room, from where all rows are seen. */
#include "data/data.h"
#include "io/image.h"
#include "io/io.h"
#include "optim/optim.h"
#include "search/budgets.h"
#include "search/methods.h"
#include "zoo/zoo.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct row {
    const char *name, *help;
    char *detail;
} row;
enum { DETAIL = 1024 };

__attribute__((format(printf, 2, 3))) static void add(row *r, const char *fmt, ...)
{
    const size_t at = strlen(r->detail);
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->detail + at, DETAIL - at, fmt, args);
    va_end(args);
}

static void add_options(row *r, const bwi_option *o)
{
    for (int i = 0; i < BWI_OPTIONS && o[i].key; i++)
        add(r, "%s%s (%g to %g, default %g): %s", r->detail[0] ? "; " : "", o[i].key, o[i].min, o[i].max, o[i].def, o[i].doc);
}

static void add_bits(row *r, const char *role, const int bits[2])
{
    if (!bits[1]) return;
    add(r, bits[0] == bits[1] ? "%s%s %d bit" : "%s%s %d to %d bits", r->detail[0] ? "; " : "", role, bits[0], bits[1]);
}

static bool quantizer(size_t i, row *r)
{
    const bwi_quantizer *q = bwi_quantizer_at(i);
    if (!q) return false;
    r->name = q->name;
    r->help = q->summary;
    add_bits(r, "weights", q->weight_bits);
    add_bits(r, "activations", q->activation_bits);
    add_options(r, q->option);
    add(r, "; %s", q->cite);
    return true;
}

static bool gradient(size_t i, row *r)
{
    const bwi_gradient *g = bwi_gradient_at(i);
    if (!g) return false;
    r->name = g->name;
    r->help = g->summary;
    add(r, "%s%s%s", g->weights ? "weights" : "", g->weights && g->activations ? " and " : "",
        g->activations ? "activations" : "");
    add_options(r, g->option);
    add(r, "; %s", g->cite);
    return true;
}

static void add_policy_bits(row *r, const char *which, int bits)
{
    if (bits > 0)
        add(r, "%s layer %d bits; ", which, bits);
    else
        add(r, "%s layer %s; ", which, bits ? "float" : "as the others");
}

static bool policy(size_t i, row *r)
{
    const bwi_policy *p = bwi_policy_at(i);
    if (!p) return false;
    r->name = p->name;
    r->help = p->summary;
    add_policy_bits(r, "first", p->first_bits);
    add_policy_bits(r, "last", p->last_bits);
    add(r, "shortcut convolutions %s", p->shortcuts ? "as the others" : "float");
    return true;
}

static bool network(size_t i, row *r)
{
    const bwi_family *f = bwi_family_at(i);
    if (!f) return false;
    r->name = f->name;
    r->help = f->summary;
    return true;
}

static bool dataset(size_t i, row *r)
{
    const bwi_dataset_row *d = bwi_dataset_at(i);
    if (!d) return false;
    r->name = d->name;
    r->help = d->summary;
    if (d->needs_path) add(r, "%s:FOLDER, or %s alone with the folder in BITWRIGHT_DATA", d->name, d->name);
    return true;
}

static bool optimizer(size_t i, row *r)
{
    const bwi_optimizer *o = bwi_optimizer_at(i);
    if (!o) return false;
    r->name = o->name;
    r->help = o->summary;
    add(r, "%s", o->cite);
    return true;
}

static bool schedule(size_t i, row *r)
{
    const bwi_schedule *s = bwi_schedule_at(i);
    if (!s) return false;
    r->name = s->name;
    r->help = s->summary;
    return true;
}

static bool format(size_t i, row *r)
{
    const bwi_format *f = bwi_format_at(i);
    if (!f) return false;
    r->name = f->name;
    r->help = f->summary;
    add(r, "%s", f->suffixes);
    return true;
}

static bool image(size_t i, row *r)
{
    const bwi_image_format *f = bwi_image_format_at(i);
    if (!f) return false;
    r->name = f->name;
    r->help = f->summary;
    add(r, "%s", f->suffixes);
    return true;
}

static bool operation(size_t i, row *r)
{
    const bwi_op *o = bwi_op_at(i);
    if (!o) return false;
    r->name = o->name;
    r->help = o->summary;
    return true;
}

static bool search(size_t i, row *r)
{
    const bwi_method *m = bwi_method_at(i);
    if (!m) return false;
    r->name = m->name;
    r->help = m->summary;
    add_options(r, m->option);
    add(r, "%s%s", r->detail[0] ? "; " : "", m->cite);
    return true;
}

static bool budget(size_t i, row *r)
{
    const bwi_budget *b = bwi_budget_at(i);
    if (!b) return false;
    r->name = b->name;
    r->help = b->summary;
    add(r, "%s=LIMIT: %s%s%s", b->name, b->values, *b->cite ? "; " : "", b->cite);
    return true;
}

static const struct kind {
    const char *name;
    bool (*row)(size_t i, row *r);
} kinds[BW_KIND_COUNT] = {
    [BW_KIND_QUANTIZER] = {"quantizer", quantizer},
    [BW_KIND_GRADIENT] = {"gradient", gradient},
    [BW_KIND_POLICY] = {"policy", policy},
    [BW_KIND_NETWORK] = {"network", network},
    [BW_KIND_DATASET] = {"dataset", dataset},
    [BW_KIND_OPTIMIZER] = {"optimizer", optimizer},
    [BW_KIND_SCHEDULE] = {"schedule", schedule},
    [BW_KIND_FORMAT] = {"format", format},
    [BW_KIND_IMAGE] = {"image", image},
    [BW_KIND_OPERATION] = {"operation", operation},
    [BW_KIND_SEARCH] = {"search", search},
    [BW_KIND_BUDGET] = {"budget", budget},
};

const char *bw_kind_name(bw_kind kind)
{
    return (unsigned)kind < BW_KIND_COUNT ? kinds[kind].name : "unknown";
}

bool bw_list(bw_kind kind, size_t i, const char **name, const char **help, const char **detail)
{
    static _Thread_local char text[DETAIL];
    row r = {.detail = text};
    text[0] = 0;
    if ((unsigned)kind >= BW_KIND_COUNT || !kinds[kind].row(i, &r)) return false;
    *name = r.name;
    *help = r.help;
    *detail = text;
    return true;
}
