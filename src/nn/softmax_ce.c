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

/* Largest logit in *largest, its class in *top, and the sum of exp(logit - largest). */
static double exp_sum(const real *x, int classes, double *largest, int *top)
{
    double sum = 0;
    *top = 0;
    for (int k = 1; k < classes; k++) *top = x[k] > x[*top] ? k : *top;
    *largest = (double)x[*top];
    for (int k = 0; k < classes; k++) sum += exp((double)x[k] - *largest);
    return sum;
}

/* One image with a teacher: as ce_image, half of it against the label and half against p = softmax(t). */
static double distill_image(const real *x, const real *t, int label, int classes, double inv_n, int *rank, real *g)
{
    double largest, t_largest, cross = 0, others = 0, soft_others = 0, q_label = 0, q_top = 0, soft_label = 0;
    int top, t_top;
    const double hard = ce_image(x, label, classes, inv_n, rank, NULL);
    const double sum = exp_sum(x, classes, &largest, &top), t_sum = exp_sum(t, classes, &t_largest, &t_top);
    for (int k = 0; k < classes; k++) {
        const double q = exp((double)x[k] - largest) / sum, p = exp((double)t[k] - t_largest) / t_sum;
        cross += p * (largest - (double)x[k]);
        others += k == label ? 0 : q;
        soft_others += k == t_top ? 0 : q - p;
        q_label = k == label ? q : q_label;
        soft_label = k == label ? q - p : soft_label;
        q_top = k == t_top ? q : q_top;
        if (g) g[k] = (real)((q + (q - p)) / 2 * inv_n); /* x[k] is not read again: g may be x */
    }
    if (g) {
        /* As in ce_image, an entry that would cancel where both distributions are nearly certain is taken from the others: the label's
         * q - 1, and q - p of the teacher's first choice. */
        if (t_top != label) g[t_top] = (real)((q_top - soft_others) / 2 * inv_n);
        g[label] = (real)((-others + (t_top == label ? -soft_others : soft_label)) / 2 * inv_n);
    }
    return (hard + (log(sum) + cross)) / 2;
}

static bool finite_row(const real *x, int classes)
{
    bool ok = true;
    for (int k = 0; k < classes; k++) ok &= isfinite(x[k]) != 0;
    return ok;
}

static bw_status ce_fail(const real *logits, const real *teacher, const int32_t *labels, int image, int classes, bw_error *err)
{
    const size_t at = (size_t)image * (size_t)classes;
    if (labels[image] < 0 || labels[image] >= classes)
        return bwi_fail(err, BW_ARG,
                        "label %d of image %d of the batch is out of range: expected 0 to %d, as the network has %d classes",
                        (int)labels[image], image, classes - 1, classes);
    for (int k = 0; k < classes; k++) {
        double v = (double)logits[at + (size_t)k];
        if (!isfinite(v))
            return bwi_fail(
                err, BW_NUMERIC,
                "logit %d of image %d of the batch is %f: training has diverged; lower the learning rate or warm it up", k,
                image, v);
    }
    if (teacher && !finite_row(teacher + at, classes))
        return bwi_fail(
            err, BW_NUMERIC,
            "the teacher's logits for image %d of the batch are not finite: its file does not hold a trained network", image);
    return bwi_fail(err, BW_NUMERIC, "the loss of image %d of the batch is not finite: its logits are too far apart", image);
}

/* teacher: logits, or NULL for labels alone. */
static bw_status ce_batch(const real *x, const real *teacher, const int32_t *labels, int n, int classes, double *loss,
                          int *top1, int *top5, real *grad, bw_error *err)
{
    ce_sum part[BWI_CHUNKS], all = {0, 0, 0, -1};
    assert(n > 0 && classes > 0);
    *loss = 0, *top1 = *top5 = 0;
    BWI_PARALLEL_CHUNKS(i)
    {
        ce_sum s = {0, 0, 0, -1};
        int end = (int)bwi_chunk((size_t)n, 1, (size_t)i + 1);
        for (int image = (int)bwi_chunk((size_t)n, 1, (size_t)i); image < end && s.bad < 0; image++) {
            size_t at = (size_t)image * (size_t)classes;
            const real *t = teacher ? teacher + at : NULL;
            real *g = grad ? grad + at : NULL;
            bool ok = labels[image] >= 0 && labels[image] < classes && finite_row(x + at, classes);
            if (ok && t) ok = finite_row(t, classes);
            if (ok) {
                int rank;
                double l = t ? distill_image(x + at, t, labels[image], classes, 1.0 / n, &rank, g)
                             : ce_image(x + at, labels[image], classes, 1.0 / n, &rank, g);
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
    if (all.bad >= 0) return ce_fail(x, teacher, labels, all.bad, classes, err);
    *loss = all.loss / n;
    *top1 = all.top1;
    *top5 = all.top5;
    return BW_OK;
}

static bw_status ce_loss(const void *logits, const int32_t *labels, int n, int classes, double *loss, int *top1, int *top5,
                         void *grad, bw_error *err)
{
    return ce_batch(logits, NULL, labels, n, classes, loss, top1, top5, grad, err);
}

static bw_status ce_distill(const void *logits, const void *teacher, const int32_t *labels, int n, int classes, double *loss,
                            int *top1, int *top5, void *grad, bw_error *err)
{
    assert(teacher);
    return ce_batch(logits, teacher, labels, n, classes, loss, top1, top5, grad, err);
}

static void ce_tangent(const void *logits, const void *rlogits, int n, int classes, void *rgrad)
{
    const size_t width = (size_t)classes;
    for (size_t image = 0; image < (size_t)n; image++) {
        const real *x = (const real *)logits + image * width, *rz = (const real *)rlogits + image * width;
        real *rg = (real *)rgrad + image * width;
        double largest = (double)x[0], sum = 0, along = 0;
        for (size_t k = 1; k < width; k++) largest = (double)x[k] > largest ? (double)x[k] : largest;
        for (size_t k = 0; k < width; k++) {
            const double e = exp((double)x[k] - largest);
            sum += e;
            along += e * (double)rz[k];
        }
        for (size_t k = 0; k < width; k++)
            rg[k] = (real)(exp((double)x[k] - largest) / sum * ((double)rz[k] - along / sum) / n);
    }
}

BWI_VARIANT_DECLARE(bwi_loss_fns, bwi_softmax_ce_fns);
const bwi_loss_fns BWI_V(bwi_softmax_ce_fns) = {ce_loss, ce_distill, ce_tangent};

#if BWI_MAIN
const bwi_loss_fns *const bwi_softmax_ce[BWI_VARIANTS] = BWI_VARIANT_TABLE(bwi_softmax_ce_fns);
#endif
