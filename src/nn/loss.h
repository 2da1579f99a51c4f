/* Losses. */
#ifndef BWI_LOSS_H
#define BWI_LOSS_H
#include "base/status.h"
#include "base/variant.h"

/* Softmax cross entropy with the mean over the images: loss = 1/n sum_i (log sum_k exp x_ik - x_i,label), dL/dx = (softmax - onehot) / n.
 * logits [n,classes] real, in; labels [n], in; grad [n,classes] real, out, or NULL (may be logits). *top1, *top5: images whose label is
 * among the 1 and 5 largest logits; among equal logits the lower class comes first, so that all-equal logits count for classes 0 and 0..4
 * only. With fewer than 5 classes every image counts for top5. Sums are in double and do not depend on the number of threads.
 * BW_ARG: a label out of range (names the image). BW_NUMERIC: a logit or the loss is not finite (names the image). */
typedef struct bwi_loss_fns { /* one table per variant */
    bw_status (*loss)(const void *logits, const int32_t *labels, int n, int classes, double *loss, int *top1, int *top5,
                      void *grad, bw_error *err);
    /* The same for distillation at temperature 1 (LSQ, section 3.7): half the cross entropy with the labels and half that with
     * p = softmax(teacher), so dL/dx = (softmax(x) - (onehot + p) / 2) / n. teacher [n,classes] real, in: logits, not grad. Of a student
     * with the teacher's logits the second half has no gradient at all. BW_NUMERIC also for a teacher's logit that is not finite. */
    bw_status (*distill)(const void *logits, const void *teacher, const int32_t *labels, int n, int classes, double *loss,
                         int *top1, int *top5, void *grad, bw_error *err);
    /* R{grad} from R{logits} (nn.h, second derivatives): p * (Rz - <p, Rz>) / n with p = softmax. All [n,classes] real. */
    void (*tangent)(const void *logits, const void *rlogits, int n, int classes, void *rgrad);
} bwi_loss_fns;

extern const bwi_loss_fns *const bwi_softmax_ce[BWI_VARIANTS];
#endif
