/* MetaQuant with LSTMFC: an LSTM of 100 cells and a linear layer see the latent weight, m = f(wt) * dL/dwq. Every weight is a sequence of
 * its own, one step long a training step: its state (h, c) is kept, and gradients do not go back through it (methods 1.3).
 *
 *   (i f g o) = W_ih wt + b_ih + W_hh h + b_hh;  c' = s(f) c + s(i) tanh(g);  h' = s(o) tanh(c');  f = w . h' + b
 *
 * phi is PyTorch's LSTM(1, 100) and Linear(100, 1) in order: W_ih [400], W_hh [400,100], b_ih [400], b_hh [400], w [100], b: 41,301 numbers.
 * Option state = 0 forgets the state, as the released code of the published runs does; then W_hh and the gate f have no part.
 *
 * Without a state, f is an analytic function of one number, and a step needs it and its gradient at few points. With t = wt / EDGE in [-1, 1],
 *   f = sum_k c_k T_k(t),  c_k = (2 - [k = 0]) / N sum_j f(EDGE t_j) T_k(t_j),  k < K <= N,
 * where T_k are Chebyshev polynomials and t_j = cos(pi (j + 1/2) / N), j < N, nodes. With S_k = sum_i dL/df_i T_k(t_i) over all weights,
 *   dL/dphi = sum_j A_j df/dphi(EDGE t_j),  A_j = 1 / N sum_k (2 - [k = 0]) S_k T_k(t_j).
 * So cells run for nodes, and what a weight costs is K times a recurrence, in double. K follows from phi (terms_of) such that what is left out
 * is below rounding. Cells run for each weight when K would be more than TERMS, and for LANES weights of which one is not INSIDE.
 *
 * LANES weights at a time: [cell][lane], so that every loop runs over lanes or over cells. Products with W_hh, where they have a part, are
 * most of the work. */
#include "quant/metanet.h"
#include "quant/tanh.h"
#include <string.h>

enum { H = 100, GATES = 4 * H, LANES = BWI_META_LANES };
enum { W_IH, W_HH = W_IH + GATES, B_IH = W_HH + GATES * H, B_HH = B_IH + GATES, FC_W = B_HH + GATES, FC_B = FC_W + H, N_PHI };
enum { STATE = BWI_META_OWN };
enum { I, F, G, O }; /* gates */
enum { TERMS = 1024 /* a multiple of LANES */ };
#define EDGE   2.25
#define INSIDE 2 /* weights are collapsed up to here: nearer to the edge the recurrences would lose digits as K^2 */
/* Sums: dL/d of W_ih, of a bias, of the linear layer; then of W_hh with a state, and S_k without. */
enum { S_IH, S_B = S_IH + GATES, S_FC = S_B + GATES, S_HH = S_FC + H + 1, S_K = S_HH };

static inline bool has_state(const double *opt)
{
    return opt[STATE] != 0;
}

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

/* f [LANES]. */
static void linear_layer(const real *phi, const cells *s, real *restrict f)
{
    for (size_t l = 0; l < LANES; l++) f[l] = phi[FC_B];
    for (size_t k = 0; k < H; k++)
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) f[l] += phi[FC_W + k] * s->h[k][l];
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
    for (size_t k = 0; k < H; k++) sums[S_FC + k] += bwi_dot_lanes(a, s->h[k]);
    sums[S_FC + H] += bwi_dot_lanes(a, ones);
    gate_gradients(phi, a, c, s);
    for (size_t k = 0; h && k < H; k++)
        for (size_t l = 0; l < LANES; l++) ht[l][k] = h[k][l];
    for (int gate = I; gate <= O; gate++) {
        for (size_t r = 0; r < H; r++) {
            const size_t at = (size_t)gate * H + r;
            sums[S_IH + at] += bwi_dot_lanes(s->gate[gate][r], x);
            sums[S_B + at] += bwi_dot_lanes(s->gate[gate][r], ones);
        }
        if (h) add_outer(s->gate[gate], ht, sums + S_HH + (size_t)gate * H * H);
    }
}

/* ---- Without a state -------------------------------------------------------------------------------------------------------- */

/* Terms that leave out about e^-TAIL of what a cell amounts to: 1e-10, or 4e-18 in double. f may be small beside the sum of its cells. */
#define TAIL_F64 40
#define TAIL     (BWI_VARIANT == BWI_F64 ? TAIL_F64 : 23)

/* K, or 0 when it would be more than TERMS. While |Im| of what enters a gate is at most pi / 4, sigmoid and tanh are analytic and at most 1,
 * so |c| <= 1, |tanh c| <= tan 1, and derivatives are as tame. This holds for every cell in the ellipse with foci t = -1 and 1 whose half-axis
 * along the imaginary axis is pi / (4 EDGE max|W_ih|) = sinh(log rho), and coefficients of what is bounded there fall as rho^-k (Bernstein's
 * ellipse). So one K serves f and df/dphi. The c_k could not tell it: they know nothing of a cell whose w is 0, but its dL/dw needs it. */
static size_t terms_of(const double *phi, double tail)
{
    double steepest = 0;
    for (size_t i = 0; i < GATES; i++)
        if (i / H != F) steepest = fmax(steepest, fabs(phi[W_IH + i]));
    const double terms = 2 + ceil(tail / asinh(0.785398163397448 / (EDGE * steepest)));
    return terms <= TERMS ? (size_t)terms : 0;
}

static size_t nodes_of(size_t terms)
{
    return (terms + LANES - 1) / LANES * LANES;
}

/* t_j of LANES nodes from j = at on, and the weights x that they stand for. */
static void nodes_at(size_t at, size_t nodes, double *t, real *x)
{
    for (size_t l = 0; l < LANES; l++) {
        t[l] = cos(3.14159265358979324 * ((double)(at + l) + 0.5) / (double)nodes);
        x[l] = (real)(EDGE * t[l]);
    }
}

/* t [LANES] of x; false: one of them is not INSIDE, or a NaN. */
static bool inside(const real *restrict x, double *restrict t)
{
    int n = 0;
#pragma omp simd reduction(+ : n)
    for (size_t l = 0; l < LANES; l++) {
        t[l] = (double)x[l] / EDGE;
        n += r_fabs(x[l]) <= INSIDE;
    }
    return n == LANES;
}

/* f [LANES] = sum_k c_k T_k(t), by Clenshaw's recurrence. */
static void sum_terms(const double *restrict c, size_t terms, const double *restrict t, real *restrict f)
{
    double b1[LANES] = {0}, b2[LANES] = {0};
    for (size_t k = terms - 1; k > 0; k--)
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) {
            const double b = 2 * t[l] * b1[l] + (c[k] - b2[l]);
            b2[l] = b1[l];
            b1[l] = b;
        }
    for (size_t l = 0; l < LANES; l++) f[l] = (real)(t[l] * b1[l] + (c[0] - b2[l]));
}

/* sums [terms] += a T_k(t), over LANES. */
static void add_terms(const real *restrict a, size_t terms, const double *restrict t, double *restrict sums)
{
    double u[LANES], before[LANES]; /* a T_k and a T_(k-1) */
    for (size_t l = 0; l < LANES; l++) {
        u[l] = (double)a[l];
        before[l] = t[l] * u[l];
    }
    for (size_t k = 0; k < terms; k++) {
        double s = 0;
#pragma omp simd reduction(+ : s)
        for (size_t l = 0; l < LANES; l++) {
            const double next = 2 * t[l] * u[l] - before[l];
            s += u[l];
            before[l] = u[l];
            u[l] = next;
        }
        sums[k] += s;
    }
}

/* c_k from sums over nodes, and what A_j is made of from S_k. c and sums may be the same. */
static void scale_terms(const double *sums, size_t terms, double *c)
{
    for (size_t k = 0; k < terms; k++) c[k] = sums[k] * (k ? 2.0 : 1.0) / (double)nodes_of(terms);
}

static void collapse(const real *phi, size_t terms, double *c)
{
    memset(c, 0, terms * sizeof *c);
    for (size_t at = 0; at < nodes_of(terms); at += LANES) {
        double t[LANES];
        real x[LANES], f[LANES];
        cells s;
        nodes_at(at, nodes_of(terms), t, x);
        run_cells(phi, x, NULL, NULL, &s);
        linear_layer(phi, &s, f);
        add_terms(f, terms, t, c);
    }
    scale_terms(c, terms, c);
}

/* sums += dL/dphi from their S_k. In double for all variants: finish calls it. What floats collapse, doubles may take more than TERMS for. */
#if BWI_VARIANT == BWI_F64
void bwi_lstmfc_nodes_backward(const double *phi, double *sums)
{
    const size_t wanted = terms_of(phi, TAIL_F64), terms = wanted ? wanted : TERMS;
    double c[TERMS];
    scale_terms(sums + S_K, terms, c);
    for (size_t at = 0; at < nodes_of(terms); at += LANES) {
        double t[LANES], x[LANES], a[LANES];
        cells s;
        nodes_at(at, nodes_of(terms), t, x);
        sum_terms(c, terms, t, a);
        run_cells(phi, x, NULL, NULL, &s);
        add_gradients(phi, x, a, NULL, NULL, &s, sums);
    }
}
#endif

/* ---- The network's loops ---------------------------------------------------------------------------------------------------- */

typedef struct network {
    double c[TERMS];
    size_t terms; /* 0: cells run for each weight */
    real phi[N_PHI];
} network;
enum { N_WORK = N_PHI + 2 * (TERMS + 2) }; /* a network in floats, and so in doubles */
_Static_assert(sizeof(network) <= N_WORK * sizeof(real), "work is too small");

static void prepare(const double *opt, const double *phi, void *work)
{
    network *net = work;
    for (size_t i = 0; i < N_PHI; i++) net->phi[i] = (real)phi[i];
    net->terms = has_state(opt) ? 0 : terms_of(phi, TAIL);
    if (net->terms) collapse(net->phi, net->terms, net->c);
}

/* h and c of the LANES weights at `at`. */
static real (*state_at(const void *state, size_t at))[LANES]
{
    return state ? (real(*)[LANES])(uintptr_t)((const real *)state + at * 2 * H) : NULL;
}

static void forward(const double *opt, const void *work, const void *wt, const void *state, size_t n, void *f)
{
    (void)opt;
    const network *net = work;
    for (size_t at = 0; at < n; at += LANES) {
        const size_t m = n - at < LANES ? n - at : LANES;
        real(*h)[LANES] = state_at(state, at), x[LANES], out[LANES];
        double t[LANES];
        bwi_load_lanes(x, (const real *)wt + at, m);
        if (net->terms && inside(x, t)) {
            sum_terms(net->c, net->terms, t, out);
        } else {
            cells s;
            run_cells(net->phi, x, (const real(*)[LANES])h, (const real(*)[LANES])(h ? h + H : NULL), &s);
            linear_layer(net->phi, &s, out);
        }
        memcpy((real *)f + at, out, m * sizeof *out);
    }
}

static void backward(const double *opt, const void *work, const void *wt, const void *a, size_t n, void *state, double *sums)
{
    (void)opt;
    const network *net = work;
    for (size_t at = 0; at < n; at += LANES) {
        const size_t m = n - at < LANES ? n - at : LANES;
        real(*h)[LANES] = state_at(state, at), x[LANES], g[LANES];
        const real(*c)[LANES] = (const real(*)[LANES])(h ? h + H : NULL);
        double t[LANES];
        cells s;
        bwi_load_lanes(x, (const real *)wt + at, m);
        bwi_load_lanes(g, (const real *)a + at, m);
        if (net->terms && inside(x, t)) {
            add_terms(g, net->terms, t, sums + S_K);
            continue;
        }
        run_cells(net->phi, x, (const real(*)[LANES])h, c, &s);
        add_gradients(net->phi, x, g, (const real(*)[LANES])h, c, &s, sums);
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
static size_t n_work(const double *opt)
{
    (void)opt;
    return N_WORK;
}
static size_t n_sums(const double *opt)
{
    return S_HH + (has_state(opt) ? GATES * H : TERMS);
}
static size_t n_state(const double *opt)
{
    return has_state(opt) ? 2 * H : 0;
}

static void init(const double *opt, bwi_rng *r, double *phi)
{
    (void)opt;
    for (size_t i = 0; i < N_PHI; i++) phi[i] = 0.1 * (2 * bwi_rng_uniform(r) - 1); /* 1 / sqrt(100), LSTM and linear layer */
}

static void finish(const double *opt, const double *phi, const double *sums, double *dphi)
{
    double own[S_K + TERMS];
    memset(dphi, 0, N_PHI * sizeof *dphi);
    if (has_state(opt)) {
        memcpy(dphi + W_HH, sums + S_HH, GATES * H * sizeof *dphi);
    } else {
        memcpy(own, sums, sizeof own);
        bwi_lstmfc_nodes_backward(phi, own);
        sums = own;
    }
    memcpy(dphi + W_IH, sums + S_IH, GATES * sizeof *dphi);
    memcpy(dphi + B_IH, sums + S_B, GATES * sizeof *dphi);
    memcpy(dphi + B_HH, sums + S_B, GATES * sizeof *dphi);
    memcpy(dphi + FC_W, sums + S_FC, (H + 1) * sizeof *dphi);
}

static const bwi_metanet net = {
    .sees_weight = true,
    .n_phi = n_phi,
    .n_work = n_work,
    .n_sums = n_sums,
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
