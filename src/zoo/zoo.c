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

bw_status bwi_family_find(const bwi_family **out, const char *name, bw_error *err)
{
    const char *names[N_FAMILIES];
    char all[256] = "";
    for (size_t i = 0, at = 0; i < N_FAMILIES; i++) {
        *out = families[i];
        if (!strcmp(families[i]->name, name)) return BW_OK;
        names[i] = families[i]->name;
        const int n = snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", names[i]);
        at += (size_t)n < sizeof all - at ? (size_t)n : 0;
    }
    *out = NULL;
    const char *near = bwi_nearest(name, names, N_FAMILIES);
    if (near) return bwi_fail(err, BW_ARG, "unknown network '%s': did you mean '%s'?", name, near);
    return bwi_fail(err, BW_ARG, "unknown network '%s': choose one of %s", name, all);
}

bw_status bwi_net_create(bwi_graph **out, const char *name, const bwi_net_options *options, bwi_dtype real, bw_error *err)
{
    *out = NULL;
    const bwi_family *family;
    if (bwi_family_find(&family, name, err)) return BW_ARG;
    if (options->classes < 2)
        return bwi_fail(err, BW_ARG, "network '%s' needs at least 2 classes, not %d", name, options->classes);
    const bwi_shape in = options->input.c ? options->input : (bwi_shape){family->image, family->image, 3};
    bwi_graph *g = NULL;
    bw_status st;
    BWI_TRY(bwi_graph_create(&g, real, in, err));
    snprintf(g->family, sizeof g->family, "%s", family->name);
    g->classes = options->classes;
    BWI_TRY(family->build(family, g, options, err));
    *out = g;
    return BW_OK;
fail:
    bwi_graph_destroy(&g);
    return st;
}
