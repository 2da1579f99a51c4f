/* Batch normalisation, with what follows it in the same pass over memory: [add a residual] -> [ReLU] -> [quantize for the consumers].
 *
 *   y = gamma * (x - mean) / sqrt(var + eps) + beta = A * x + B        per channel
 *
 * Training needs two passes each way, since batch statistics need the whole batch. Forward: sums; then y and its codes. Backward: sums of
 * dL/dy and dL/dy * x (and the quantizers' parameter sums); then dL/dx = A * dL/dy - k1 - k2 * x. The second backward pass recomputes dL/dy
 * block by block in cache rather than storing it, which costs less than the memory traffic. Nothing but x is kept for backward unless
 * somebody else wants y. */
#include "base/variant.h"
#include "base/inline.h"
#include "base/par.h"
#include "nn/nn.h"
#include <assert.h>
#include <string.h>

#define ROWS_PER_FLUSH 512 /* float partial sums go to double after so many rows */

/* Per-channel buffers, [c] each: the kept ones are filled by forward for backward, r0 and r1 by tangent for backward_tangent. */
typedef struct bn_save {
    real *mean, *istd, *a, *b;
    real *r0, *r1; /* mean of R{x}, and of xh * R{x} */
} bn_save;
static bn_save save_of(const bwi_call *k, size_t c)
{
    real *p = k->save;
    return (bn_save){p, p + c, p + 2 * c, p + 3 * c, p + 4 * c, p + 5 * c};
}

/* Elements of one block: whole rows of c channels, small enough for the first-level cache. */
static size_t block_rows(size_t c)
{
    return c >= BWI_QBLOCK ? 1 : BWI_QBLOCK / c;
}

/* Scratch of one chunk of rows. */
typedef struct bn_chunk {
    double *s, *t;         /* [c] sums */
    double *q;             /* [BWI_MAX_FUSED][BWI_QPARAMS + 1] */
    real *s_part, *t_part; /* [c] */
    real *y, *g, *h;       /* [block] */
} bn_chunk;
static size_t round_up(size_t n)
{
    return (n + 15) / 16 * 16;
}
static size_t chunk_bytes(size_t c)
{
    size_t block = round_up(block_rows(c) * c);
    return sizeof(double) * (2 * round_up(c) + round_up(BWI_MAX_FUSED * (BWI_QPARAMS + 1))) +
           sizeof(real) * (2 * round_up(c) + 3 * block);
}
static bn_chunk chunk_of(const bwi_call *k, size_t c, int i)
{
    size_t block = round_up(block_rows(c) * c);
    bn_chunk p;
    char *at = (char *)k->scratch + (size_t)i * chunk_bytes(c);
    p.s = (double *)at;
    p.t = p.s + round_up(c);
    p.q = p.t + round_up(c);
    p.s_part = (real *)(p.q + round_up(BWI_MAX_FUSED * (BWI_QPARAMS + 1)));
    p.t_part = p.s_part + round_up(c);
    p.y = p.t_part + round_up(c);
    p.g = p.y + block;
    p.h = p.g + block;
    return p;
}

/* s[j] += sum of a, t[j] += sum of a * b over rows. a, b [rows,c] in; s, t [c] in/out. Eight rows at a time, so that the sums of
 * few channels are not a chain of dependent additions through memory. */
BWI_INLINE void add_sums_c(const real *restrict a, const real *restrict b, size_t rows, size_t c, real *restrict s,
                           real *restrict t)
{
    size_t r = 0;
    for (; r + 8 <= rows; r += 8, a += 8 * c, b += 8 * c)
        for (size_t j = 0; j < c; j++) {
            real p0 = a[j] + a[c + j], p1 = a[2 * c + j] + a[3 * c + j], p2 = a[4 * c + j] + a[5 * c + j],
                 p3 = a[6 * c + j] + a[7 * c + j];
            real q0 = a[j] * b[j] + a[c + j] * b[c + j], q1 = a[2 * c + j] * b[2 * c + j] + a[3 * c + j] * b[3 * c + j];
            real q2 = a[4 * c + j] * b[4 * c + j] + a[5 * c + j] * b[5 * c + j],
                 q3 = a[6 * c + j] * b[6 * c + j] + a[7 * c + j] * b[7 * c + j];
            s[j] += (p0 + p1) + (p2 + p3);
            t[j] += (q0 + q1) + (q2 + q3);
        }
    for (; r < rows; r++, a += c, b += c)
        for (size_t j = 0; j < c; j++) {
            s[j] += a[j];
            t[j] += a[j] * b[j];
        }
}
/* y = A x + B [+ residual], [ReLU]. x, res, y [rows,c]; A, B [c]. */
BWI_INLINE void normalise_c(const real *restrict x, const real *restrict a, const real *restrict b, const real *restrict res,
                            bool relu, size_t rows, size_t c, real *restrict y)
{
    real floor = relu ? R(0.0) : -(real)INFINITY;
    if (res) {
        for (size_t r = 0; r < rows; r++, x += c, y += c, res += c)
            for (size_t j = 0; j < c; j++) {
                real v = x[j] * a[j] + b[j] + res[j];
                y[j] = v < floor ? floor : v; /* a NaN stays one */
            }
    } else {
        for (size_t r = 0; r < rows; r++, x += c, y += c)
            for (size_t j = 0; j < c; j++) {
                real v = x[j] * a[j] + b[j];
                y[j] = v < floor ? floor : v; /* a NaN stays one */
            }
    }
}
/* dx = A g - (k1 + k2 x) */
BWI_INLINE void finish_c(const real *restrict g, const real *restrict x, const real *restrict a, const real *restrict k1,
                         const real *restrict k2, size_t rows, size_t c, real *restrict dx)
{
    for (size_t r = 0; r < rows; r++, g += c, x += c, dx += c)
        for (size_t j = 0; j < c; j++) dx[j] = a[j] * g[j] - (k1[j] + k2[j] * x[j]);
}
/* Instances with the channel count known at compile time for the common widths; the compiler keeps per-channel constants in registers. */
#define BY_CHANNELS(f, ...)                                                                                                    \
    do {                                                                                                                       \
        switch (c) {                                                                                                           \
        case 16: {                                                                                                             \
            enum { C = 16 };                                                                                                   \
            f(__VA_ARGS__);                                                                                                    \
            break;                                                                                                             \
        }                                                                                                                      \
        case 32: {                                                                                                             \
            enum { C = 32 };                                                                                                   \
            f(__VA_ARGS__);                                                                                                    \
            break;                                                                                                             \
        }                                                                                                                      \
        case 64: {                                                                                                             \
            enum { C = 64 };                                                                                                   \
            f(__VA_ARGS__);                                                                                                    \
            break;                                                                                                             \
        }                                                                                                                      \
        default: {                                                                                                             \
            const size_t C = c;                                                                                                \
            f(__VA_ARGS__);                                                                                                    \
            break;                                                                                                             \
        }                                                                                                                      \
        }                                                                                                                      \
    } while (0)
static void add_sums(const real *a, const real *b, size_t rows, size_t c, real *s, real *t)
{
    BY_CHANNELS(add_sums_c, a, b, rows, C, s, t);
}
static void normalise(const real *x, const bn_save *v, const real *res, bool relu, size_t rows, size_t c, real *y)
{
    BY_CHANNELS(normalise_c, x, v->a, v->b, res, relu, rows, C, y);
}
static void finish(const real *g, const real *x, const real *a, const real *k1, const real *k2, size_t rows, size_t c, real *dx)
{
    BY_CHANNELS(finish_c, g, x, a, k1, k2, rows, C, dx);
}

static void clear(const bn_chunk *p, size_t c)
{
    memset(p->s, 0, c * sizeof *p->s);
    memset(p->t, 0, c * sizeof *p->t);
    memset(p->s_part, 0, c * sizeof *p->s_part);
    memset(p->t_part, 0, c * sizeof *p->t_part);
    memset(p->q, 0, BWI_MAX_FUSED * (BWI_QPARAMS + 1) * sizeof *p->q);
}
static void flush(const bn_chunk *p, size_t c)
{
    for (size_t j = 0; j < c; j++) {
        p->s[j] += (double)p->s_part[j];
        p->t[j] += (double)p->t_part[j];
        p->s_part[j] = p->t_part[j] = 0;
    }
}
/* Sums of all chunks of channel j, in a fixed order. */
static void total(const bwi_call *k, size_t c, size_t j, double *s, double *t)
{
    *s = *t = 0;
    for (int i = 0; i < BWI_CHUNKS; i++) {
        bn_chunk p = chunk_of(k, c, i);
        *s += p.s[j];
        *t += p.t[j];
    }
}

/* A and B repeated row after row for one block, [block] each: loops over elements need no channel index. They lie behind the chunks. */
static real *repeated_a(const bwi_call *k, size_t c)
{
    return (real *)((char *)k->scratch + BWI_CHUNKS * chunk_bytes(c));
}
static real *repeated_b(const bwi_call *k, size_t c)
{
    return repeated_a(k, c) + round_up(block_rows(c) * c);
}
static void repeat(const bwi_call *k, size_t c, const bn_save *v)
{
    real *a = repeated_a(k, c), *b = repeated_b(k, c);
    for (size_t r = 0; r < block_rows(c); r++, a += c, b += c) {
        memcpy(a, v->a, c * sizeof *a);
        memcpy(b, v->b, c * sizeof *b);
    }
}
/* What stands between memory and a quantizer of this chain, for the block at element `at`. */
static bwi_chain chain_at(const bwi_call *k, size_t c, size_t at)
{
    const void *y = k->out.data ? (const real *)k->out.data + at : NULL;
    bwi_chain chain = {.x = y ? y : (const real *)k->in[0].data + at, .floor = k->relu ? 0 : -(double)INFINITY};
    if (!y) chain.a = repeated_a(k, c), chain.b = repeated_b(k, c);
    assert(y || !k->out.grad); /* what is not stored has no other consumer */
    if (k->out.grad) chain.other = (const real *)k->out.grad + at;
    return chain;
}

static real *param(const bwi_call *k, int i)
{
    return k->graph->param[k->node->param[i]].data;
}
static real *param_grad(const bwi_call *k, int i)
{
    return k->graph->param[k->node->param[i]].grad;
}

/* Sums of a and of a * b over all rows into s and t of the chunks; a, b [rows,c]. */
static void sum_pairs(const bwi_call *k, const real *a, const real *b, size_t rows, size_t c)
{
    BWI_PARALLEL_CHUNKS(i)
    {
        bn_chunk p = chunk_of(k, c, i);
        size_t end = bwi_chunk(rows, 8, (size_t)i + 1);
        clear(&p, c);
        for (size_t r = bwi_chunk(rows, 8, (size_t)i); r < end; r += ROWS_PER_FLUSH) {
            size_t n = end - r < ROWS_PER_FLUSH ? end - r : ROWS_PER_FLUSH;
            add_sums(a + r * c, b + r * c, n, c, p.s_part, p.t_part);
            flush(&p, c);
        }
    }
}

/* mean, 1/sd from the batch (training; running statistics move along) or from the running statistics; A and B from them. */
static void prepare(bwi_call *k, size_t rows, size_t c)
{
    const real *x = k->in[0].data;
    const bwi_attr *at = &k->node->attr;
    bn_save v = save_of(k, c);
    real *run_mean = param(k, 2), *run_var = param(k, 3);
    if (k->train) sum_pairs(k, x, x, rows, c);
    for (size_t j = 0; j < c; j++) {
        double mean, var;
        if (k->train) {
            double s, t;
            total(k, c, j, &s, &t);
            mean = s / (double)rows;
            var = t / (double)rows - mean * mean;
            if (var < 0) var = 0;
            double unbiased = rows > 1 ? var * (double)rows / (double)(rows - 1) : var;
            run_mean[j] = (real)((1 - at->momentum) * (double)run_mean[j] + at->momentum * mean);
            run_var[j] = (real)((1 - at->momentum) * (double)run_var[j] + at->momentum * unbiased);
        } else {
            mean = (double)run_mean[j];
            var = (double)run_var[j];
        }
        double istd = 1 / sqrt(var + at->eps), a = (double)param(k, 0)[j] * istd;
        v.mean[j] = (real)mean;
        v.istd[j] = (real)istd;
        v.a[j] = (real)a;
        v.b[j] = (real)((double)param(k, 1)[j] - a * mean);
    }
}

static size_t size_of_code(bwi_dtype t)
{
    return t == BWI_DT_U8 || t == BWI_DT_I8 ? 1 : sizeof(real);
}

static bw_status BWI_V(bn_forward)(bwi_call *k, bw_error *err)
{
    (void)err;
    double start = bwi_now();
    size_t c = (size_t)k->out.shape.c, rows = (size_t)k->n * (size_t)k->out.shape.h * (size_t)k->out.shape.w;
    prepare(k, rows, c);
    bn_save v = save_of(k, c);
    const real *x = k->in[0].data, *res = k->residual ? k->in[1].data : NULL;
    real *out = k->out.data;
    size_t step = block_rows(c);
    repeat(k, c, &v);
    BWI_PARALLEL_CHUNKS(i)
    {
        size_t end = bwi_chunk(rows, 8, (size_t)i + 1);
        for (size_t r = bwi_chunk(rows, 8, (size_t)i); r < end; r += step) {
            size_t n = end - r < step ? end - r : step, at = r * c;
            bwi_chain chain = chain_at(k, c, at);
            if (out) normalise(x + at, &v, res ? res + at : NULL, k->relu, n, c, out + at);
            for (int q = 0; q < k->n_q; q++) {
                const bwi_qloops *loops = k->aq[q]->q->loops[k->variant];
                void *codes = (char *)k->q[q].data + at * size_of_code(k->q[q].type);
                if (out)
                    loops->codes(&k->aq[q]->k, out + at, n * c, k->q[q].type, codes);
                else
                    loops->chain_codes(&k->aq[q]->k, &chain, n * c, k->q[q].type, codes);
            }
        }
    }
    k->times->norm += bwi_now() - start;
    return BW_OK;
}

/* g = [a] + [b], 0 where the ReLU was off. Element by element: g may be b. */
static void combine(const real *a, const real *b, const real *y, bool relu, size_t n, real *g)
{
#define COMBINE(SUM)                                                                                                           \
    do {                                                                                                                       \
        if (relu)                                                                                                              \
            BWI_PRAGMA(omp simd) for (size_t j = 0; j < n; j++) g[j] = y[j] > R(0.0) ? (SUM) : R(0.0);                         \
        else                                                                                                                   \
            BWI_PRAGMA(omp simd) for (size_t j = 0; j < n; j++) g[j] = (SUM);                                                  \
    } while (0)
    if (a && b)
        COMBINE(a[j] + b[j]);
    else if (a)
        COMBINE(a[j]);
    else
        COMBINE(b[j]);
#undef COMBINE
}

/* dL/dy before the ReLU of one block: what other consumers send (out.grad) plus what comes back through each quantizer. n elements at
 * `at`; q_sums: the quantizers' parameter sums or NULL; g [n], out, may be the block of out.grad. */
static void gather(const bwi_call *k, const bn_save *v, const bn_chunk *p, size_t at, size_t n, size_t c, double *q_sums,
                   real *g)
{
    const real *y = p->y;
    if (k->n_q == 1) { /* one loop for everything */
        for (size_t b = 0; b < n; b += BWI_QBLOCK) {
            size_t m = n - b < BWI_QBLOCK ? n - b : BWI_QBLOCK;
            bwi_chain chain = chain_at(k, c, at + b);
            if (chain.a) chain.a = repeated_a(k, c) + b, chain.b = repeated_b(k, c) + b;
            k->aq[0]->q->loops[k->variant]->chain_backward(&k->aq[0]->k, &chain, (const real *)k->q[0].grad + at + b,
                                                           k->q[0].gscale, m, g + b, q_sums);
        }
        return;
    }
    if (k->out.data)
        y = (const real *)k->out.data + at;
    else if (k->relu || k->n_q)
        normalise((const real *)k->in[0].data + at, v, NULL, k->relu, n / c, c, p->y);
    for (int q = 0; q < k->n_q; q++) {
        real *to = q ? p->g : p->h;
        for (size_t b = 0; b < n; b += BWI_QBLOCK)
            k->aq[q]->q->loops[k->variant]->backward(&k->aq[q]->k, y + b, (const real *)k->q[q].grad + at + b, k->q[q].gscale,
                                                     n - b < BWI_QBLOCK ? n - b : BWI_QBLOCK, to + b,
                                                     q_sums ? q_sums + q * (BWI_QPARAMS + 1) : NULL);
        if (q)
            for (size_t j = 0; j < n; j++) p->h[j] += to[j];
    }
    combine(k->n_q ? p->h : NULL, k->out.grad ? (const real *)k->out.grad + at : NULL, y, k->relu, n, g);
}

static void first_pass(bwi_call *k, size_t rows, size_t c)
{
    const bn_save v = save_of(k, c);
    const real *x = k->in[0].data;
    real *gres = k->residual ? k->in[1].grad : NULL;
    size_t step = block_rows(c);
    BWI_PARALLEL_CHUNKS(i)
    {
        bn_chunk p = chunk_of(k, c, i);
        size_t end = bwi_chunk(rows, 8, (size_t)i + 1);
        clear(&p, c);
        for (size_t r = bwi_chunk(rows, 8, (size_t)i); r < end; r += step) {
            size_t n = end - r < step ? end - r : step, at = r * c;
            real *g = gres && !k->in[1].acc ? gres + at : p.g;
            gather(k, &v, &p, at, n * c, c, p.q, g);
            if (gres && k->in[1].acc)
                for (size_t j = 0; j < n * c; j++) gres[at + j] += g[j];
            add_sums(g, x + at, n, c, p.s_part, p.t_part);
            flush(&p, c);
        }
    }
    for (int q = 0; q < k->n_q; q++) {
        double sums[BWI_QPARAMS + 1] = {0};
        for (int i = 0; i < BWI_CHUNKS; i++)
            for (int j = 0; j <= BWI_QPARAMS; j++) sums[j] += chunk_of(k, c, i).q[q * (BWI_QPARAMS + 1) + j];
        bwi_quant_backward_end(k->aq[q], sums, rows * c);
    }
}

/* k1, k2 [c] of the second pass; behind the repeated constants. */
static real *slope_constants(const bwi_call *k, size_t c)
{
    return repeated_b(k, c) + round_up(block_rows(c) * c);
}

/* dL/dx of rows from .. to - 1 into dx. */
static void second_pass(const bwi_call *k, size_t c, size_t from, size_t to, real *dx)
{
    const bn_save v = save_of(k, c);
    const real *x = k->in[0].data, *k1 = slope_constants(k, c), *k2 = k1 + round_up(c);
    const real *kept = k->residual && !k->in[1].acc ? k->in[1].grad : NULL; /* dL/dy as the first pass left it */
    const bool acc = k->in[0].acc;
    const size_t step = block_rows(c), rows = to - from;
    BWI_PARALLEL_CHUNKS(i)
    {
        bn_chunk p = chunk_of(k, c, i);
        size_t end = bwi_chunk(rows, 8, (size_t)i + 1);
        for (size_t r = bwi_chunk(rows, 8, (size_t)i); r < end; r += step) {
            size_t n = end - r < step ? end - r : step, at = (from + r) * c;
            const real *g = kept ? kept + at : p.g;
            if (!kept) gather(k, &v, &p, at, n * c, c, NULL, p.g);
            real *out = dx + r * c;
            finish(g, x + at, v.a, k1, k2, n, c, acc ? p.h : out);
            if (acc)
                for (size_t j = 0; j < n * c; j++) out[j] += p.h[j];
        }
    }
}

static bw_status BWI_V(bn_backward)(bwi_call *k, bw_error *err)
{
    (void)err;
    double start = bwi_now();
    size_t c = (size_t)k->out.shape.c, rows = (size_t)k->n * (size_t)k->out.shape.h * (size_t)k->out.shape.w;
    bn_save v = save_of(k, c);
    repeat(k, c, &v);
    first_pass(k, rows, c);
    real *k1 = slope_constants(k, c), *k2 = k1 + round_up(c);
    for (size_t j = 0; j < c; j++) {
        double s, t;
        total(k, c, j, &s, &t);
        double mean = (double)v.mean[j], istd = (double)v.istd[j], dgamma = (t - s * mean) * istd, a = (double)v.a[j];
        param_grad(k, 0)[j] = (real)dgamma;
        param_grad(k, 1)[j] = (real)s;
        double slope = a * istd * dgamma / (double)rows;
        k2[j] = (real)slope;
        k1[j] = (real)(a * s / (double)rows - slope * mean);
    }
    if (k->in[0].grad && !k->by_parts) second_pass(k, c, 0, rows, k->in[0].grad);
    k->times->norm += bwi_now() - start;
    return BW_OK;
}

static void BWI_V(bn_backward_part)(bwi_call *k, int first, int n, void *to)
{
    double start = bwi_now();
    const bwi_shape s = k->out.shape;
    const size_t c = (size_t)s.c, image = (size_t)s.h * (size_t)s.w;
    const int there = first + n < k->n ? n : first < k->n ? k->n - first : 0;
    const size_t from = (size_t)first * image, rows = (size_t)there * image, row = c * sizeof(real);
    second_pass(k, c, from, from + rows, to);
    memset((char *)to + rows * row, 0, (size_t)(n - there) * image * row);
    k->times->norm += bwi_now() - start;
}

/* ---- Second derivatives, of a batch norm by itself and with the batch's statistics (methods: 2.3) ---- */

/* With xh = (x - mean) / s, s^2 = var + eps:  R{y} = gamma / s * (R{x} - mean(R{x}) - xh * mean(xh * R{x})), the map that backward applies to
 * dL/dy, since it is symmetric. */
static bw_status BWI_V(bn_tangent)(const bwi_call *k, bwi_call *t, bw_error *err)
{
    (void)err;
    const size_t c = (size_t)k->out.shape.c, rows = (size_t)k->n * (size_t)k->out.shape.h * (size_t)k->out.shape.w;
    const bn_save v = save_of(k, c);
    const real *x = k->in[0].data, *rx = t->in[0].data;
    real *ry = t->out.data, *k1 = slope_constants(k, c), *k2 = k1 + round_up(c);
    sum_pairs(k, rx, x, rows, c);
    for (size_t j = 0; j < c; j++) {
        double sum, product, mean = (double)v.mean[j], istd = (double)v.istd[j], a = (double)v.a[j];
        total(k, c, j, &sum, &product);
        double r0 = sum / (double)rows, r1 = (product / (double)rows - mean * r0) * istd;
        v.r0[j] = (real)r0;
        v.r1[j] = (real)r1;
        k2[j] = (real)(a * r1 * istd);
        k1[j] = (real)(a * (r0 - r1 * istd * mean));
    }
    BWI_PARALLEL_CHUNKS(i)
    {
        const size_t from = bwi_chunk(rows, 8, (size_t)i), to = bwi_chunk(rows, 8, (size_t)i + 1);
        finish(rx + from * c, x + from * c, v.a, k1, k2, to - from, c, ry + from * c);
    }
    return BW_OK;
}

/* With A = g - mean(g) - xh * m, m = mean(g * xh), and R{xh} from above,
 *   R{A} = R{g} - mean(R{g}) - R{xh} * m - xh * mean(R{g} * xh + g * R{xh})
 *   R{gx} = gamma * (R{A} / s - A * mean(xh * R{x}) / s^2),
 * which is a R{g} + p R{x} + q g minus a constant and a multiple of x, channel by channel. mean(g) and m are what backward has left in the
 * gradients of beta and gamma. */
static bw_status BWI_V(bn_backward_tangent)(const bwi_call *k, bwi_call *t, bw_error *err)
{
    (void)err;
    if (!t->in[0].grad) return BW_OK;
    const size_t c = (size_t)k->out.shape.c, rows = (size_t)k->n * (size_t)k->out.shape.h * (size_t)k->out.shape.w;
    const bn_save v = save_of(k, c);
    const real *x = k->in[0].data, *g = k->out.grad, *rx = t->in[0].data, *rg = t->out.grad;
    real *to = t->in[0].grad, *k1 = slope_constants(k, c), *k2 = k1 + round_up(c);
    real *p = repeated_a(k, c), *q = repeated_b(k, c); /* their first rows */
    const bool acc = t->in[0].acc;
    sum_pairs(k, rx, g, rows, c);
    for (size_t j = 0; j < c; j++) {
        double sum, product;
        total(k, c, j, &sum, &product);
        k1[j] = (real)(product / (double)rows); /* mean(g * R{x}) */
    }
    sum_pairs(k, rg, x, rows, c);
    for (size_t j = 0; j < c; j++) {
        double sum, product, n = (double)rows, mean = (double)v.mean[j], istd = (double)v.istd[j], a = (double)v.a[j];
        total(k, c, j, &sum, &product);
        double r0 = (double)v.r0[j], r1 = (double)v.r1[j], g0 = (double)param_grad(k, 1)[j] / n;
        double m = (double)param_grad(k, 0)[j] / n, rg0 = sum / n, rg1 = (product / n - mean * rg0) * istd;
        double cross = ((double)k1[j] - r0 * g0 - r1 * m) * istd; /* mean(g * R{xh}) */
        double along = a * (rg1 + cross - 2 * m * r1 * istd);     /* what is multiplied by -xh */
        p[j] = (real)(-a * istd * m);
        q[j] = (real)(-a * istd * r1);
        k2[j] = (real)(along * istd);
        k1[j] = (real)(a * (rg0 - istd * (m * r0 + r1 * g0)) - along * istd * mean);
    }
    BWI_PARALLEL_CHUNKS(i)
    {
        for (size_t r = bwi_chunk(rows, 8, (size_t)i); r < bwi_chunk(rows, 8, (size_t)i + 1); r++)
#pragma omp simd
            for (size_t j = 0; j < c; j++) {
                const size_t e = r * c + j;
                real d = v.a[j] * rg[e] + p[j] * rx[e] + q[j] * g[e] - (k1[j] + k2[j] * x[e]);
                to[e] = acc ? to[e] + d : d;
            }
    }
    return BW_OK;
}

const bwi_op_fns BWI_V(bwi_batch_norm_fns) = {BWI_V(bn_forward), BWI_V(bn_backward), BWI_V(bn_backward_part), BWI_V(bn_tangent),
                                              BWI_V(bn_backward_tangent)};

#if BWI_MAIN
static bw_status infer(const bwi_node *node, const bwi_shape *in, bwi_shape *out, bw_error *err)
{
    if (!(node->attr.eps > 0) || !(node->attr.momentum >= 0 && node->attr.momentum <= 1))
        return bwi_fail(err, BW_ARG, "eps is %g and momentum %g; expected eps > 0 and momentum from 0 to 1", node->attr.eps,
                        node->attr.momentum);
    *out = in[0];
    return BW_OK;
}

static bw_status params(bwi_graph *g, bwi_node *node, const bwi_shape *in, bw_error *err)
{
    static const char *const suffix[4] = {"weight", "bias", "running_mean", "running_var"};
    int64_t dim[1] = {in[0].c};
    for (int i = 0; i < 4; i++) {
        bw_status st = bwi_graph_add_param(g, node->name, suffix[i], i < 2 ? BWI_PARAM_NORM : BWI_PARAM_STATE, 1, dim,
                                           &node->param[i], err);
        if (st) return st;
        const bwi_param *p = &g->param[node->param[i]];
        if (i == 1 || i == 2) continue;
        for (size_t j = 0; j < p->numel; j++) bwi_real_put(p->dtype, p->data, j, 1);
    }
    return BW_OK;
}

static size_t save_size(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out, bwi_dtype dtype)
{
    (void)node, (void)n, (void)in;
    return 6 * (size_t)out->c * bwi_dtype_size(dtype);
}

static size_t scratch_size(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out, bwi_dtype dtype)
{
    (void)node, (void)n, (void)in;
    size_t c = (size_t)out->c, wide = bwi_dtype_size(dtype) / sizeof(real); /* this variant's real is float */
    return wide * (BWI_CHUNKS * chunk_bytes(c) + 2 * (round_up(c) + round_up(block_rows(c) * c)) * sizeof(real));
}

BWI_VARIANT_DECLARE(bwi_op_fns, bwi_batch_norm_fns);
const bwi_op bwi_op_batch_norm = {
    .name = "batch_norm",
    .summary = "batch normalisation per channel (training and running statistics)",
    .n_in = 1,
    .sign = BWI_SIGN_ANY,
    .infer = infer,
    .params = params,
    .save_size = save_size,
    .scratch_size = scratch_size,
    .needs_in = true,
    .fns = BWI_VARIANT_TABLE(bwi_batch_norm_fns),
};
#endif
