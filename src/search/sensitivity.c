#include "search/sensitivity.h"
#include "base/alloc.h"
#include <math.h>

bw_status bwi_loss_of(bwi_loss **loss, const bwi_problem *p, bw_error *err)
{
    *loss = bwi_calloc((size_t)p->n, sizeof **loss);
    if (!*loss) return bwi_fail(err, BW_NOMEM, "no memory for the sensitivities of %d layers", p->n);
    bw_status st = p->sensitivity(p->context, *loss, err);
    for (int i = 0; !st && i < p->n; i++)
        for (int b = p->lo; !st && b <= p->hi; b++)
            if (!isfinite((*loss)[i][b]))
                st = bwi_fail(err, BW_NUMERIC, "the sensitivity of layer %d at %d bits is not a finite number", i + 1, b);
    if (!st) return BW_OK;
    bwi_free(*loss);
    *loss = NULL;
    return st;
}
