/* Distillation: a trained network that teaches the one in training (Esser et al., Learned Step Size Quantization, ICLR 2020, section 3.7:
 * temperature 1, the two losses weigh the same, the teacher is frozen). */
#ifndef BWI_DISTILL_H
#define BWI_DISTILL_H
#include "data/data.h"
#include "train/model.h"

typedef struct bwi_teacher {
    bwi_model model;
    bwi_exec *exec; /* NULL: there is no teacher */
} bwi_teacher;

/* Opens the model of recipe key distill.teacher for students of the network g; no key, no teacher. BW_ARG or BW_SHAPE when it expects
 * other pixels, images or classes than the run has. */
BW_MUST_USE bw_status bwi_teacher_open(bwi_teacher *t, const bw_recipe *r, const bwi_graph *g, bw_error *err);
/* Loss of the student's last forward pass, which saw batch: with the teacher's probabilities for the same images when there is one,
 * otherwise bwi_exec_loss. The teacher runs with its running statistics. */
BW_MUST_USE bw_status bwi_teacher_loss(bwi_teacher *t, bwi_exec *student, const bwi_batch *batch, double *loss, int *top1,
                                       int *top5, bw_error *err);
void bwi_teacher_close(bwi_teacher *t); /* accepts a zeroed struct */
#endif
