/* Softmax cross entropy and accuracy counts; see nn/loss.h. Not a row: it is no node of a graph. */
#include "base/par.h"
#include "base/status.h"
#include "nn/loss.h"
#include <assert.h>

typedef struct ce_sum {
    double loss;
    int top1, top5, bad; /* bad: first image that failed, or -1 */
} ce_sum;

/* One image: its loss, the rank of its label (0: top-1) and, with g, its gradient times 1 / n. */
static double ce_image(const real *x, int label, int classes, double inv_n, int *rank, real *g)
{
    const real xl = x[label];
    double largest = (double)x[0], sum = 0;
    int before = 0;
    for (int k = 1; k < classes; k++) largest = (double)x[k] > largest ? (double)x[k] : largest;
    for (int k = 0; k < classes; k++) {
        before += (x[k] > xl) | ((x[k] == xl) & (k < label));
        sum += exp((double)x[k] - largest);
    }
    *rank = before;
    /* the label's own entry as -(sum of the others) / sum: p - 1 would cancel for images that are nearly certain */
    if (g) {
        double others = 0;
        for (int k = 0; k < classes; k++) {
            double e = exp((double)x[k] - largest);
            others += k == label ? 0 : e;
            g[k] = (real)(e / sum * inv_n);
        }
        g[label] = (real)(-others / sum * inv_n);
    }
    return largest - (double)xl + log(sum);
}

static bw_status ce_fail(const real *logits, const int32_t *labels, int image, int classes, bw_error *err)
{
    if (labels[image] < 0 || labels[image] >= classes)
        return bwi_fail(err, BW_ARG,
                        "label %d of image %d of the batch is out of range: expected 0 to %d, as the network has %d classes",
                        (int)labels[image], image, classes - 1, classes);
    for (int k = 0; k < classes; k++) {
        double v = (double)logits[(size_t)image * (size_t)classes + (size_t)k];
        if (!isfinite(v))
            return bwi_fail(
                err, BW_NUMERIC,
                "logit %d of image %d of the batch is %f: training has diverged; lower the learning rate or warm it up", k,
                image, v);
    }
    return bwi_fail(err, BW_NUMERIC, "the loss of image %d of the batch is not finite: its logits are too far apart", image);
}

static bw_status ce_loss(const void *logits, const int32_t *labels, int n, int classes, double *loss, int *top1, int *top5,
                         void *grad, bw_error *err)
{
    const real *x = logits;
    ce_sum part[BWI_CHUNKS], all = {0, 0, 0, -1};
    assert(n > 0 && classes > 0);
    *loss = 0, *top1 = *top5 = 0;
    BWI_PARALLEL_CHUNKS(i)
    {
        ce_sum s = {0, 0, 0, -1};
        int end = (int)bwi_chunk((size_t)n, 1, (size_t)i + 1);
        for (int image = (int)bwi_chunk((size_t)n, 1, (size_t)i); image < end && s.bad < 0; image++) {
            size_t at = (size_t)image * (size_t)classes;
            bool ok = labels[image] >= 0 && labels[image] < classes;
            for (int k = 0; k < classes; k++) ok &= isfinite(x[at + (size_t)k]) != 0;
            if (ok) {
                int rank;
                double l = ce_image(x + at, labels[image], classes, 1.0 / n, &rank, grad ? (real *)grad + at : NULL);
                ok = isfinite(l);
                s.loss += l;
                s.top1 += rank < 1;
                s.top5 += rank < 5;
            }
            if (!ok) s.bad = image;
        }
        part[i] = s;
    }
    for (int i = 0; i < BWI_CHUNKS; i++) {
        all.loss += part[i].loss;
        all.top1 += part[i].top1;
        all.top5 += part[i].top5;
        if (all.bad < 0) all.bad = part[i].bad;
    }
    if (all.bad >= 0) return ce_fail(x, labels, all.bad, classes, err);
    *loss = all.loss / n;
    *top1 = all.top1;
    *top5 = all.top5;
    return BW_OK;
}

BWI_VARIANT_DECLARE(bwi_loss_fns, bwi_softmax_ce_fns);
const bwi_loss_fns BWI_V(bwi_softmax_ce_fns) = {ce_loss};

#if BWI_MAIN
const bwi_loss_fns *const bwi_softmax_ce[BWI_VARIANTS] = BWI_VARIANT_TABLE(bwi_softmax_ce_fns);
#endif
