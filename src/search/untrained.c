#include "search/untrained.h"
#include "base/alloc.h"
#include "base/rng.h"
#include "data/data.h"
#include "deploy/lower.h"
#include "search/policy.h"
#include "train/model.h"
#include <math.h>

enum { SAMPLES = 4096 };

/* Quantizers that have seen no data yet are initialised from random numbers: the time of integer kernels does not depend on values. */
static bw_status initialise(bwi_graph *g, bw_error *err)
{
    bwi_quant *q;
    const bwi_node *layer;
    float *x = bwi_malloc(SAMPLES * sizeof *x);
    bw_status st = x ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory to initialise quantizers");
    bwi_rng rng = bwi_rng_make(1, BWI_RNG_SEARCH, 0, 0);
    bwi_graph_init(g, 1);
    for (int i = 0; !st && bwi_graph_quant(g, i, &q, &layer); i++) {
        if (q->role != BWI_ACTIVATION) continue;
        for (int k = 0; k < SAMPLES; k++) {
            const double v = bwi_rng_normal(&rng);
            x[k] = (float)(q->is_signed ? v : fabs(v));
        }
        st = bwi_quant_prepare(q, x, BWI_DT_F32, SAMPLES, err);
        q->ready = true;
    }
    bwi_free(x);
    return st;
}

bw_status bwi_lower_untrained(bwi_tensors *lowered, bw_recipe *recipe, bw_error *err)
{
    bw_recipe *r = NULL;
    bwi_graph *g = NULL;
    bw_status st;
    BWI_TRY(bwi_recipe_copy(&r, recipe, err));
    BWI_TRY(bwi_recipe_override(r, "hypernet.hidden=0", err));
    BWI_TRY(bwi_recipe_graph(&g, r, 0, err));
    BWI_TRY(initialise(g, err));
    BWI_TRY(bwi_lower(lowered, g, bwi_normalize_find(r->data.normalize), err));
fail:
    bwi_graph_destroy(&g);
    bw_recipe_destroy(&r);
    return st;
}

bw_status bwi_packed_bytes(size_t *bytes, bw_recipe *r, const char *classes, bw_error *err)
{
    bwi_tensors lowered = {0};
    uint8_t *image = NULL;
    bw_status st;
    *bytes = 0;
    BWI_TRY(bwi_lower_untrained(&lowered, r, err));
    if (classes) BWI_TRY(bwi_tensors_add_meta(&lowered, BWI_META_CLASSES, classes, err));
    BWI_TRY(bwi_safetensors_image(&image, bytes, &lowered, err));
fail:
    bwi_free(image);
    bwi_tensors_free(&lowered);
    return st;
}
