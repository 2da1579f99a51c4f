/* MetaQuant with LSTMFC: an LSTM of 100 cells and a linear layer see the latent weight, m = f(wt) * dL/dwq. Every weight is a sequence of
 * its own, one step long a training step: its state (h, c) is kept, and gradients do not go back through it (methods 1.3).
 *
 *   (i f g o) = W_ih wt + b_ih + W_hh h + b_hh;  c' = s(f) c + s(i) tanh(g);  h' = s(o) tanh(c');  f = w . h' + b
 *
 * phi is PyTorch's LSTM(1, 100) and Linear(100, 1) in order: W_ih [400], W_hh [400,100], b_ih [400], b_hh [400], w [100], b: 41,301 numbers.
 * Option state = 0 forgets the state, as the released code of the published runs does; then W_hh and f have no part.
 *
 * LANES weights at a time: [cell][lane], so that every loop runs over lanes or over cells. Products with W_hh are most of the work. */
#include "quant/metanet.h"
#include "quant/tanh.h"
#include <string.h>

enum { H = 100, GATES = 4 * H, LANES = BWI_META_LANES };
enum { W_IH, W_HH = W_IH + GATES, B_IH = W_HH + GATES * H, B_HH = B_IH + GATES, FC_W = B_HH + GATES, FC_B = FC_W + H, N_PHI };
enum { STATE = BWI_META_OWN };
enum { I, F, G, O }; /* gates */

/* Values of LANES weights in one step. */
typedef struct cells {
    real gate[4][H][LANES]; /* after their nonlinearities */
    real c[H][LANES], tc[H][LANES] /* tanh(c) */, h[H][LANES];
} cells;

/* pre [H][LANES] += W h for the H rows of one gate; four rows at a time, whose sums stay in registers. */
static void add_recurrent(const real *w, const real (*restrict h)[LANES], real (*restrict pre)[LANES])
{
    for (size_t r = 0; r < H; r += 4) {
        real s0[LANES] = {0}, s1[LANES] = {0}, s2[LANES] = {0}, s3[LANES] = {0};
        const real *row = w + r * H;
        for (size_t k = 0; k < H; k++) {
            const real w0 = row[k], w1 = row[H + k], w2 = row[2 * H + k], w3 = row[3 * H + k];
#pragma omp simd
            for (size_t l = 0; l < LANES; l++) {
                const real v = h[k][l];
                s0[l] += w0 * v;
                s1[l] += w1 * v;
                s2[l] += w2 * v;
                s3[l] += w3 * v;
            }
        }
        for (size_t l = 0; l < LANES; l++) {
            pre[r][l] += s0[l];
            pre[r + 1][l] += s1[l];
            pre[r + 2][l] += s2[l];
            pre[r + 3][l] += s3[l];
        }
    }
}

static void add_gate(const real *phi, int gate, const real *restrict x, const real (*h)[LANES], real (*restrict pre)[LANES])
{
    for (size_t r = 0; r < H; r++) {
        const size_t at = (size_t)gate * H + r;
        const real w = phi[W_IH + at], b = phi[B_IH + at] + phi[B_HH + at];
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) pre[r][l] = w * x[l] + b;
    }
    if (h) add_recurrent(phi + W_HH + (size_t)gate * H * H, h, pre);
}

static void sigmoid(real *restrict v)
{
#pragma omp simd
    for (size_t i = 0; i < H * LANES; i++) v[i] = R(0.5) + R(0.5) * q_tanh(R(0.5) * v[i]);
}
static void tanh_of(const real *v, real *y)
{
#pragma omp simd
    for (size_t i = 0; i < H * LANES; i++) y[i] = q_tanh(v[i]);
}

/* x [LANES]; h, c [H][LANES] of the step before, NULL: 0. */
static void run_cells(const real *phi, const real *x, const real (*h)[LANES], const real (*c)[LANES], cells *s)
{
    for (int gate = I; gate <= O; gate++) {
        if (gate == F && !h) continue; /* multiplies a c of 0 */
        add_gate(phi, gate, x, h, s->gate[gate]);
        if (gate == G)
            tanh_of(&s->gate[G][0][0], &s->gate[G][0][0]);
        else
            sigmoid(&s->gate[gate][0][0]);
    }
    for (size_t k = 0; k < H; k++)
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) {
            const real kept = c ? s->gate[F][k][l] * c[k][l] : 0;
            s->c[k][l] = kept + s->gate[I][k][l] * s->gate[G][k][l];
        }
    tanh_of(&s->c[0][0], &s->tc[0][0]);
    for (size_t k = 0; k < H; k++)
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) s->h[k][l] = s->gate[O][k][l] * s->tc[k][l];
}

/* Gates' values become dL/d(before their nonlinearities). a [LANES] = dL/df. */
static void gate_gradients(const real *phi, const real *restrict a, const real (*c)[LANES], cells *s)
{
    for (size_t k = 0; k < H; k++) {
        const real w = phi[FC_W + k];
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) {
            const real i = s->gate[I][k][l], f = c ? s->gate[F][k][l] : 0, g = s->gate[G][k][l], o = s->gate[O][k][l];
            const real tc = s->tc[k][l], dh = w * a[l], dc = dh * o * (1 - tc * tc), before = c ? c[k][l] : 0;
            s->gate[I][k][l] = dc * g * i * (1 - i);
            s->gate[F][k][l] = dc * before * f * (1 - f);
            s->gate[G][k][l] = dc * i * (1 - g * g);
            s->gate[O][k][l] = dh * tc * o * (1 - o);
        }
    }
}

/* sums += of W_hh: the outer product of gate gradients and h, summed over lanes. ht [LANES][H]: h transposed. */
static void add_outer(const real (*restrict gate)[LANES], const real (*restrict ht)[H], double *restrict sums)
{
    for (size_t r = 0; r < H; r++) {
        real s[H] = {0};
        for (size_t l = 0; l < LANES; l++) {
            const real g = gate[r][l];
#pragma omp simd
            for (size_t k = 0; k < H; k++) s[k] += g * ht[l][k];
        }
        for (size_t k = 0; k < H; k++) sums[r * H + k] += (double)s[k];
    }
}

static void add_gradients(const real *phi, const real *x, const real *a, const real (*h)[LANES], const real (*c)[LANES],
                          cells *s, double *sums)
{
    real ones[LANES], ht[LANES][H];
    for (size_t l = 0; l < LANES; l++) ones[l] = 1;
    for (size_t k = 0; k < H; k++) sums[FC_W + k] += bwi_dot_lanes(a, s->h[k]);
    sums[FC_B] += bwi_dot_lanes(a, ones);
    gate_gradients(phi, a, c, s);
    for (size_t k = 0; h && k < H; k++)
        for (size_t l = 0; l < LANES; l++) ht[l][k] = h[k][l];
    for (int gate = I; gate <= O; gate++) {
        for (size_t r = 0; r < H; r++) {
            const size_t at = (size_t)gate * H + r;
            const double b = bwi_dot_lanes(s->gate[gate][r], ones);
            sums[W_IH + at] += bwi_dot_lanes(s->gate[gate][r], x);
            sums[B_IH + at] += b;
            sums[B_HH + at] += b;
        }
        if (h) add_outer(s->gate[gate], ht, sums + W_HH + (size_t)gate * H * H);
    }
}

/* ---- The network's loops ---------------------------------------------------------------------------------------------------- */

static void prepare(const double *opt, const double *phi, void *work)
{
    (void)opt;
    for (size_t i = 0; i < N_PHI; i++) ((real *)work)[i] = (real)phi[i];
}

/* h and c of the LANES weights at `at`. */
static real (*state_at(const void *state, size_t at))[LANES]
{
    return state ? (real(*)[LANES])(uintptr_t)((const real *)state + at * 2 * H) : NULL;
}

static void forward(const double *opt, const void *work, const void *wt, const void *state, size_t n, void *f)
{
    (void)opt;
    const real *phi = work;
    for (size_t at = 0; at < n; at += LANES) {
        const size_t m = n - at < LANES ? n - at : LANES;
        real(*h)[LANES] = state_at(state, at), x[LANES], out[LANES];
        cells s;
        bwi_load_lanes(x, (const real *)wt + at, m);
        run_cells(phi, x, (const real(*)[LANES])h, (const real(*)[LANES])(h ? h + H : NULL), &s);
        for (size_t l = 0; l < LANES; l++) out[l] = phi[FC_B];
        for (size_t k = 0; k < H; k++)
#pragma omp simd
            for (size_t l = 0; l < LANES; l++) out[l] += phi[FC_W + k] * s.h[k][l];
        memcpy((real *)f + at, out, m * sizeof *out);
    }
}

static void backward(const double *opt, const void *work, const void *wt, const void *a, size_t n, void *state, double *sums)
{
    (void)opt;
    const real *phi = work;
    for (size_t at = 0; at < n; at += LANES) {
        const size_t m = n - at < LANES ? n - at : LANES;
        real(*h)[LANES] = state_at(state, at), x[LANES], g[LANES];
        const real(*c)[LANES] = (const real(*)[LANES])(h ? h + H : NULL);
        cells s;
        bwi_load_lanes(x, (const real *)wt + at, m);
        bwi_load_lanes(g, (const real *)a + at, m);
        run_cells(phi, x, (const real(*)[LANES])h, c, &s);
        add_gradients(phi, x, g, (const real(*)[LANES])h, c, &s, sums);
        if (h) {
            memcpy(h, s.h, sizeof s.h);
            memcpy(h + H, s.c, sizeof s.c);
        }
    }
}

BWI_VARIANT_DECLARE(bwi_metanet_fns, bwi_lstmfc_fns);
const bwi_metanet_fns BWI_V(bwi_lstmfc_fns) = {prepare, forward, backward};

#if BWI_MAIN
static size_t n_phi(const double *opt)
{
    (void)opt;
    return N_PHI;
}
static size_t n_state(const double *opt)
{
    return opt[STATE] ? 2 * H : 0;
}

static void init(const double *opt, bwi_rng *r, double *phi)
{
    (void)opt;
    for (size_t i = 0; i < N_PHI; i++) phi[i] = 0.1 * (2 * bwi_rng_uniform(r) - 1); /* 1 / sqrt(100), LSTM and linear layer */
}

static void finish(const double *opt, const double *phi, const double *sums, double *dphi)
{
    (void)opt, (void)phi;
    memcpy(dphi, sums, N_PHI * sizeof *dphi);
}

static const bwi_metanet net = {
    .sees_weight = true,
    .n_phi = n_phi,
    .n_work = n_phi,
    .n_sums = n_phi,
    .n_state = n_state,
    .init = init,
    .finish = finish,
    .fns = BWI_VARIANT_TABLE(bwi_lstmfc_fns),
};

const bwi_gradient bwi_gradient_lstmfc = {
    .name = "lstmfc",
    .summary = "MetaQuant: an LSTM learns a factor on each weight's gradient from its latent value",
    .cite = "Chen, Wang, Pan, MetaQuant: Learning to Quantize by Learning to Penetrate Non-differentiable Quantization, "
            "NeurIPS 2019",
    .weights = true,
    .option = {BWI_META_OPTIONS,
               {.key = "state",
                .doc = "1: each weight's state is kept; 0: forgotten, as in the published runs",
                .def = 1,
                .max = 1,
                .integer = true}},
    .delta = -1,
    .meta = &net,
};
#endif
