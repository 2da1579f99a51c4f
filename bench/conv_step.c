/* Times the convolutions of one ResNet-20 training step (batch 128, CIFAR), one line for each distinct layer and pass:
 *   conv_step [BATCH [THREADS [MILLISECONDS per line]]]
 * f32: floats; u8: codes of 4 bits as bytes forward and gradients of 16 bits; i16: float sources as 16 bits as well. Both are what `precision: fast`
 * runs. Columns: least and median time of a call in ms, 2 x multiply-adds / least time in GF/s, and the number of such layers in the network.
 * `pack` is what new weights cost. Sums are over the network, of least times. */
#include "base/alloc.h"
#include "base/par.h"
#include "compute/compute.h"
#include "compute/spec.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORWARD, BACKWARD, PACK, PASSES };
static const char *const pass_name[PASSES] = {"forward", "backward", "pack"};

static const struct layer {
    int ic, oc, map, stride, count;
} layer[] = {{3, 16, 32, 1, 1},  {16, 16, 32, 1, 6}, {16, 32, 32, 2, 1}, {32, 32, 16, 1, 5},
             {32, 64, 16, 2, 1}, {64, 64, 8, 1, 5},  {64, 10, 1, 1, 1}};
enum { LAYERS = sizeof layer / sizeof layer[0], MAX_CALLS = 1000 };

typedef struct work {
    bwi_conv *conv;
    void *src, *dst, *gdst, *gsrc, *w, *gw, *scratch;
    int n;
    size_t gdst_image; /* bytes */
} work;

/* A backward pass over the whole batch. */
static bw_status backward(work *k)
{
    const bwi_compute *t = &bwi_compute_onednn;
    const int piece = t->conv_piece(k->conv);
    bw_status st = BW_OK;
    for (int first = 0; first < k->n && !st; first += piece) {
        const char *g = (const char *)k->gdst + k->gdst_image * (size_t)first;
        st = t->conv_backward(k->conv, first, k->src, g, k->gw, k->gsrc, k->scratch);
    }
    return st;
}

static bw_status call(work *k, int pass)
{
    const bwi_compute *t = &bwi_compute_onednn;
    switch (pass) {
    case FORWARD:
        return t->conv_forward(k->conv, k->src, k->dst, k->scratch);
    case BACKWARD:
        return backward(k);
    default:
        return t->conv_weights(k->conv, k->w, 0.5, 0.25, k->scratch);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Least and median seconds of a call, from as many calls as fit into `budget` seconds (at least 10). */
static bw_status time_pass(work *k, int pass, double budget, double *least, double *median)
{
    double took[MAX_CALLS], start = bwi_now();
    int n = 0;
    bw_status st = call(k, pass);
    while (st == BW_OK && n < MAX_CALLS && (n < 10 || bwi_now() - start < budget)) {
        double t = bwi_now();
        st = call(k, pass);
        took[n++] = bwi_now() - t;
    }
    qsort(took, (size_t)n, sizeof *took, compare);
    *least = n ? took[0] : 0;
    *median = n ? took[n / 2] : 0;
    return st;
}

/* Buffer of n values of a type: codes 0..15, or floats small and never denormal. NULL on lack of memory. */
static void *operand(size_t n, bwi_dtype type)
{
    void *p = bwi_malloc(n * bwi_dtype_size(type));
    for (size_t i = 0; p && i < n; i++) {
        int code = (int)(i * 2654435761u >> 8 & 15);
        if (type == BWI_DT_U8)
            ((uint8_t *)p)[i] = (uint8_t)code;
        else
            ((float *)p)[i] = (float)(code - 8);
    }
    return p;
}

static void drop(work *k)
{
    void *all[] = {k->src, k->dst, k->gdst, k->gsrc, k->w, k->gw, k->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bwi_free(all[i]);
    bwi_compute_onednn.conv_destroy(&k->conv);
}

static bw_status time_layer(const char *mode, const struct layer *l, bwi_conv_spec s, double budget, double sum[PASSES],
                            bw_error *err)
{
    work k = {0};
    bw_status st = bwi_compute_onednn.conv_create(&s, &k.conv, err);
    if (st != BW_OK) return st;
    const size_t in = bwi_conv_src_size(&s), out = bwi_conv_dst_size(&s), w = bwi_conv_weights_size(&s);
    k.n = s.n, k.gdst_image = out / (size_t)s.n * sizeof(float);
    k.src = operand(in, s.src), k.gdst = operand(out, BWI_DT_F32), k.w = operand(w, BWI_DT_F32);
    k.dst = operand(out, BWI_DT_F32), k.gsrc = s.need_gsrc ? operand(in, BWI_DT_F32) : NULL, k.gw = operand(w, BWI_DT_F32);
    k.scratch = bwi_malloc(bwi_compute_onednn.conv_scratch(k.conv));
    if (!k.src || !k.gdst || !k.w || !k.dst || (s.need_gsrc && !k.gsrc) || !k.gw || !k.scratch)
        st = bwi_fail(err, BW_NOMEM, "out of memory");
    if (st == BW_OK) st = call(&k, PACK);
    for (int pass = 0; pass < PASSES && st == BW_OK; pass++) {
        double least, median, flop = 2.0 * (double)out * s.kh * s.kw * s.ic * (pass == BACKWARD && s.need_gsrc ? 2 : 1);
        st = time_pass(&k, pass, budget, &least, &median);
        sum[pass] += least * l->count;
        printf("%-5s %2d>%2d @%-2d /%d  %-8s %8.3f %8.3f ms %7.1f GF/s  x%d\n", mode, s.ic, s.oc, s.ih, s.stride,
               pass_name[pass], least * 1e3, median * 1e3, pass == PACK ? 0 : flop / least / 1e9, l->count);
    }
    drop(&k);
    return st;
}

/* Every layer in one mode; the first layer and the linear one have float operands in each, as a policy that spares them has it. */
static bw_status time_mode(const char *mode, bwi_dtype src, bwi_dtype operand, int batch, double budget, bw_error *err)
{
    double sum[PASSES] = {0};
    bw_status st = BW_OK;
    for (int i = 0; i < LAYERS && st == BW_OK; i++) {
        const struct layer *l = &layer[i];
        const bool spared = i == 0 || l->map == 1;
        const int k = l->map == 1 ? 1 : 3;
        bwi_conv_spec s = {.n = batch,
                           .ih = l->map,
                           .iw = l->map,
                           .ic = l->ic,
                           .oc = l->oc,
                           .kh = k,
                           .kw = k,
                           .stride = l->stride,
                           .pad = k / 2,
                           .groups = 1,
                           .src = spared ? BWI_DT_F32 : src,
                           .wbits = 4,
                           .abits = 4,
                           .operand = spared ? BWI_DT_F32 : operand,
                           .train = true,
                           .need_gsrc = i > 0};
        st = time_layer(mode, l, s, budget, sum, err);
    }
    if (st != BW_OK) return st;
    printf("%-5s sum of the step:", mode);
    for (int pass = 0; pass < PASSES; pass++) printf("  %s %.2f", pass_name[pass], sum[pass] * 1e3);
    printf("  all %.2f ms\n\n", (sum[FORWARD] + sum[BACKWARD] + sum[PACK]) * 1e3);
    return BW_OK;
}

int main(int argc, char **argv)
{
    const int batch = argc > 1 ? atoi(argv[1]) : 128, threads = argc > 2 ? atoi(argv[2]) : 0;
    const double budget = (argc > 3 ? atof(argv[3]) : 300) / 1e3;
    bw_error err = {0};
    bwi_threads_set(threads);
    printf("%s; batch %d\n", bw_cpu_text(), batch);
    bw_status st = time_mode("f32", BWI_DT_F32, BWI_DT_F32, batch, budget, &err);
    if (st == BW_OK) st = time_mode("u8", BWI_DT_U8, BWI_DT_I16, batch, budget, &err);
    if (st == BW_OK) st = time_mode("i16", BWI_DT_F32, BWI_DT_I16, batch, budget, &err);
    if (st == BW_OK) return 0;
    fprintf(stderr, "conv_step: %s\n", err.msg[0] ? err.msg : bw_status_text(st));
    return 1;
}
