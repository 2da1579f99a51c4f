/* What tests of deployment share: a network as a short training leaves it, and an exporter by name. */
#ifndef BWI_TEST_NETS_H
#define BWI_TEST_NETS_H
#include "base/rng.h"
#include "check.h"
#include "deploy/export.h"
#include <stdio.h>
#include <string.h>

/* Random weights, batch norms with negative and zero gamma, running statistics and step sizes of two batches of noise. */
static inline void warm_up(bwi_graph *g)
{
    enum { BATCH = 4 };
    bwi_exec *e;
    bwi_rng r = bwi_rng_make(3, BWI_RNG_TEST, 1, 0);
    const bwi_exec_options o = {.batch = BATCH, .train = true};
    bwi_graph_init(g, 11);
    for (int i = 0; i < g->n_params; i++) {
        bwi_param *p = &g->param[i];
        if (p->role != BWI_PARAM_NORM) continue;
        for (size_t k = 0; k < p->numel; k++)
            ((float *)p->data)[k] += (float)(0.4 * bwi_rng_normal(&r)) - (k % 7 == 3 ? 1.0f : 0);
        if (p->numel > 5) ((float *)p->data)[5] = 0;
    }
    g->version++;
    CHECK(bwi_exec_create(&e, g, &o, NULL, err));
    float *x = bwi_exec_input(e);
    for (int step = 0; step < 2; step++) {
        for (size_t i = 0; i < BATCH * bwi_shape_size(g->value[0].shape); i++) x[i] = (float)bwi_rng_normal(&r);
        CHECK(bwi_exec_forward(e, BATCH, true, NULL, err));
    }
    bwi_exec_destroy(&e);
}

/* Convolution `name` of value `in`, batch norm and ReLU; returns their value. */
static inline int add_layer(bwi_graph *g, const char *name, const bwi_attr *conv, int in)
{
    const bwi_attr norm = {.eps = 1e-5, .momentum = 0.1};
    char text[40];
    int v;
    CHECK(bwi_graph_add(g, "conv2d", name, &in, 1, conv, &v, err));
    snprintf(text, sizeof text, "%s.bn", name);
    CHECK(bwi_graph_add(g, "batch_norm", text, &v, 1, &norm, &v, err));
    snprintf(text, sizeof text, "%s.relu", name);
    CHECK(bwi_graph_add(g, "relu", text, &v, 1, NULL, &v, err));
    return v;
}

static inline const bwi_exporter *exporter(const char *form)
{
    const bwi_exporter *row;
    size_t i = 0;
    while ((row = bwi_exporter_at(i)) && strcmp(row->name, form) != 0) i++;
    assert_non_null(row);
    return row;
}
#endif
