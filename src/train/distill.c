#include "train/distill.h"
#include <string.h>

static bw_status check(const bwi_teacher *t, const bw_recipe *r, const bwi_graph *g, bw_error *err)
{
    const bwi_graph *own = t->model.graph;
    const bwi_shape want = own->value[0].shape, have = g->value[0].shape;
    if (strcmp(t->model.normalize, r->data.normalize))
        return bwi_fail(err, BW_ARG,
                        "%s expects images normalised with '%s', the run has data.normalize '%s': both see the same images, so "
                        "set data.normalize to %s or take another teacher",
                        r->distill.teacher, t->model.normalize, r->data.normalize, t->model.normalize);
    if (want.h != have.h || want.w != have.w || want.c != have.c)
        return bwi_fail(err, BW_SHAPE, "%s takes images of %dx%dx%d, the network in training %dx%dx%d", r->distill.teacher,
                        want.h, want.w, want.c, have.h, have.w, have.c);
    if (own->classes != g->classes)
        return bwi_fail(err, BW_SHAPE,
                        "%s tells %d classes apart, the network in training %d; take a teacher of the same classes",
                        r->distill.teacher, own->classes, g->classes);
    return BW_OK;
}

bw_status bwi_teacher_open(bwi_teacher *t, const bw_recipe *r, const bwi_graph *g, bw_error *err)
{
    const bwi_exec_options o = {.batch = r->train.batch}; /* f32: what teaches is the network at its best */
    bw_status st;
    *t = (bwi_teacher){0};
    if (!*r->distill.teacher) return BW_OK;
    BWI_TRY(bwi_model_open(&t->model, r->distill.teacher, err));
    BWI_TRY(check(t, r, g, err));
    BWI_TRY(bwi_exec_create(&t->exec, t->model.graph, &o, NULL, err));
    return BW_OK;
fail:
    bwi_teacher_close(t);
    return bwi_fail_in(err, st, "distill.teacher");
}

bw_status bwi_teacher_loss(bwi_teacher *t, bwi_exec *student, const bwi_batch *batch, double *loss, int *top1, int *top5,
                           bw_error *err)
{
    const void *logits;
    if (!t->exec) return bwi_exec_loss(student, batch->labels, loss, top1, top5, err);
    const size_t image = bwi_shape_size(t->model.graph->value[0].shape);
    memcpy(bwi_exec_input(t->exec), batch->x, (size_t)batch->n * image * sizeof(float));
    const bw_status st = bwi_exec_forward(t->exec, batch->n, false, &logits, err);
    if (st) return bwi_fail_in(err, st, "distill.teacher");
    return bwi_exec_distill(student, batch->labels, logits, loss, top1, top5, err);
}

void bwi_teacher_close(bwi_teacher *t)
{
    bwi_exec_destroy(&t->exec);
    bwi_model_close(&t->model);
}
