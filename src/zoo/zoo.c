/* The rows of zoo.def and the way from a family's name to its graph. */
#include "zoo/zoo.h"
#include <stdio.h>
#include <string.h>

#define ROW(name) extern const bwi_family bwi_family_##name;
#include "zoo/zoo.def"
#undef ROW

static const bwi_family *const families[] = {
#define ROW(name) &bwi_family_##name,
#include "zoo/zoo.def"
#undef ROW
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const bwi_family *bwi_family_at(size_t i)
{
    return i < N_FAMILIES ? families[i] : NULL;
}

static const bwi_family *find(const char *name, bw_error *err)
{
    const char *names[N_FAMILIES];
    char all[256] = "";
    for (size_t i = 0, at = 0; i < N_FAMILIES; i++) {
        if (!strcmp(families[i]->name, name)) return families[i];
        names[i] = families[i]->name;
        const int n = snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", names[i]);
        at += (size_t)n < sizeof all - at ? (size_t)n : 0;
    }
    const char *near = bwi_nearest(name, names, N_FAMILIES);
    if (near)
        bwi_fail(err, BW_ARG, "unknown network '%s': did you mean '%s'?", name, near);
    else
        bwi_fail(err, BW_ARG, "unknown network '%s': choose one of %s", name, all);
    return NULL;
}

bw_status bwi_net_create(bwi_graph **out, const char *name, const bwi_net_options *options, bwi_dtype real, bw_error *err)
{
    *out = NULL;
    const bwi_family *family = find(name, err);
    if (!family) return BW_ARG;
    if (options->classes < 2)
        return bwi_fail(err, BW_ARG, "network '%s' needs at least 2 classes, not %d", name, options->classes);
    bwi_graph *g = NULL;
    bw_status st;
    BWI_TRY(bwi_graph_create(&g, real, options->input, err));
    snprintf(g->family, sizeof g->family, "%s", family->name);
    g->classes = options->classes;
    BWI_TRY(family->build(family, g, options, err));
    *out = g;
    return BW_OK;
fail:
    bwi_graph_destroy(&g);
    return st;
}
