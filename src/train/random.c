/* Networks with random weights, for benchmarks: the network of a recipe as a model, as if it had been trained. */
#include "base/rng.h"
#include "io/io.h"
#include "train/import.h"
#include "train/recipe.h"
#include "zoo/zoo.h"
#include <bitwright/bitwright.h>

enum { BATCH = 4 };

/* Batch norms take the statistics of one batch of random images, and quantizers begin with what they see of it. */
static bw_status see_a_batch(bwi_graph *g, uint64_t seed, bw_error *err)
{
    const bwi_exec_options o = {.batch = BATCH, .train = true};
    bwi_rng rng = bwi_rng_make(seed, BWI_RNG_TEST, 0, 0);
    bwi_exec *e = NULL;
    bw_status st;
    for (int i = 0; i < g->n_nodes; i++)
        if (g->node[i].attr.momentum > 0) g->node[i].attr.momentum = 1;
    BWI_TRY(bwi_exec_create(&e, g, &o, NULL, err));
    float *x = bwi_exec_input(e);
    for (size_t i = 0; i < BATCH * bwi_shape_size(g->value[0].shape); i++) x[i] = (float)bwi_rng_normal(&rng);
    BWI_TRY(bwi_exec_forward(e, BATCH, true, NULL, err));
fail:
    bwi_exec_destroy(&e);
    return st;
}

bw_status bw_random_model(bw_recipe *recipe, const char *path, bw_error *err)
{
    const uint64_t seed = (uint64_t)recipe->train.seed;
    const bwi_family *family;
    bwi_graph *g = NULL;
    bwi_tensors ts = {0};
    bw_status st;
    if (err) *err = (bw_error){0};
    BWI_TRY(bwi_family_find(&family, recipe->net.family, err));
    if (!recipe->net.classes) recipe->net.classes = family->classes;
    BWI_TRY(bwi_recipe_graph(&g, recipe, 0, err));
    bwi_graph_init(g, seed);
    BWI_TRY(see_a_batch(g, seed, err));
    const char *text = bw_recipe_text(recipe);
    if (!text) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for the resolved recipe"));
    BWI_TRY(bwi_export_params(g, false, &ts, err));
    BWI_TRY(bwi_export_meta(&ts, "model", text, recipe->data.normalize, err));
    BWI_TRY(
        bwi_safetensors_write(path, ts.t, ts.n, (const char *const *)ts.key, (const char *const *)ts.value, ts.n_meta, err));
fail:
    bwi_tensors_free(&ts);
    bwi_graph_destroy(&g);
    return st;
}
