/* Quantizers and gradient methods: two independent choices.
 *
 * A quantizer is three maps of one element x:
 *   latent  u = A(x; theta, stats)   clipped to the grid [lo, hi]
 *   grid    c = D(u)                 an integer: round half to even, or a sign
 *   value   xq = scale * code        with code = mul * c + add, the integer that convolutions multiply and deployment packs (see real_codes)
 * A gradient method says how a gradient passes D. All of them scale it element by element,
 *   dL/du = dL/dc * (1 + delta * sign(dL/dc) * (u - c) / (hi - lo))         (EWGS; delta = 0 is STE)
 * and differ in where delta comes from; MetaQuant's methods also replace the step of the weights (metanet.h).
 *
 * One file and one row each: quantizers/<name>.c + quantizers.def, gradients/<name>.c + gradients.def. A file holds scalar functions
 * of one element; quantizers/loops.h turns them into threaded, vectorized loops (see base/variant.h). */
#ifndef BWI_QUANT_H
#define BWI_QUANT_H
#include "base/status.h"
#include "base/variant.h"

#define BWI_QPARAMS 3 /* most learned parameters of a quantizer */
#define BWI_OPTIONS 8 /* most options of a method */

typedef enum bwi_role { BWI_WEIGHT, BWI_ACTIVATION } bwi_role;

/* An option of a method, written "lsq:nf_with_batch=1" in recipes. */
typedef struct bwi_option {
    const char *key, *doc;
    double def, min, max;
    bool integer; /* whole numbers only */
} bwi_option;

/* Options of a method, whose rows end at key NULL or at BWI_OPTIONS: text is "key=value,key=value", or NULL for none; opt [BWI_OPTIONS]
 * starts with the defaults. */
BW_MUST_USE bw_status bwi_options_parse(const char *method, const bwi_option *option, const char *text, double *opt,
                                        bw_error *err);
/* BW_ARG: "unknown quantizer 'lsw': did you mean 'lsq'? Known: lsq, interval" */
bw_status bwi_fail_unknown(bw_error *err, const char *what, const char *word, const char *const *names, size_t n);

/* Statistics of a tensor that some quantizers need: at initialisation, or before every use (weights only). */
typedef struct bwi_qstats {
    double n, mean, mean_abs, std /* unbiased, N-1 */, min, max,
        max_abs;       /* all but n NaN when a value or a sum is not finite */
    double mean_large; /* mean |x| of those above bwi_quantizer.large times mean_abs; 0 where that is 0 */
} bwi_qstats;

/* Constants of one quantized tensor, made by prepare from theta and statistics, read by the loops (which convert them to real). */
typedef struct bwi_qk {
    double lo, hi;   /* grid bounds of u and c */
    double unit;     /* 1 / (hi - lo): (u - c) * unit is the residual on [0,1] that EWGS scales by */
    double mul, add; /* code = mul * c + add */
    double scale;    /* xq = scale * code */
    double delta;    /* of the gradient method, times unit; bwi_quant_prepare sets it */
    double v[6];     /* the method's own */
    bool direct;     /* weights: MetaQuant's networks see x itself, and its calibration is 1 (BWN) */
    int mode;        /* BWI_QMODE_SIGN or 0, plus the method's own bits: loops are compiled once for each mode */
} bwi_qk;
#define BWI_QMODE_SIGN 1 /* D is a sign with sign(0) = +1 on the grid {-1, +1}, not a round: 1-bit weights */

struct bwi_quant;

/* What batch_norm does in front of a quantizer, so that one loop can do both: y = max(a * x + b, floor), element by element. */
typedef struct bwi_chain {
    const void *x;     /* [n] real */
    const void *a, *b; /* [n] real, constants of the channels repeated row after row; NULL: x is y already (backward only) */
    double floor;      /* 0: ReLU; -INFINITY: none */
    const void *other; /* [n] real, dL/dy from other consumers of y, where a and b are NULL; backward only; NULL: none */
} bwi_chain;

#define BWI_QBLOCK 2048 /* elements of a block: what loops take at once at most where they say so */

/* Loops of a quantizer in one variant. n elements, any n; x, u, c, g are `real` arrays (float or double). Single-threaded: callers
 * cut the work into blocks that stay in cache. */
typedef struct bwi_qloops {
    /* codes (as real, uint8_t or int8_t by `type`: BWI_DT_F32/F64, U8, I8) of x */
    void (*codes)(const bwi_qk *k, const void *x, size_t n, bwi_dtype type, void *codes);
    /* u and c of x, on the grid; for second derivatives */
    void (*latents)(const bwi_qk *k, const void *x, size_t n, void *u, void *c);
    /* MetaQuant, methods 1.2: wt = A(x) as its networks see it, on [0, 1] or x itself, and cal = dxq/dx with the rounding passed as
     * the identity, or 1. Either may be NULL. */
    void (*calibrate)(const bwi_qk *k, const void *x, size_t n, void *wt, void *cal);
    /* gx = dL/dx. gcode: dL/d(code), to be multiplied by gscale first. sums (may be NULL): sums[0..BWI_QPARAMS) += partial sums of the
     * parameters' gradients, sums[BWI_QPARAMS] += number of clipped elements. gx may alias gcode. */
    void (*backward)(const bwi_qk *k, const void *x, const void *gcode, double gscale, size_t n, void *gx, double *sums);
    /* codes of y */
    void (*chain_codes)(const bwi_qk *k, const bwi_chain *chain, size_t n, bwi_dtype type, void *codes);
    /* As backward, of y; gx = dL/d(a * x + b): chain->other added, 0 where y is at the floor. n <= BWI_QBLOCK. gx may alias other. */
    void (*chain_backward)(const bwi_qk *k, const bwi_chain *chain, const void *gcode, double gscale, size_t n, void *gx,
                           double *sums);
} bwi_qloops;

typedef struct bwi_quantizer {
    const char *name, *summary, *cite;
    int weight_bits[2], activation_bits[2]; /* inclusive range allowed; {0,0}: not for that role */
    bool signed_activations;                /* may take the network's input, which is below zero too */
    bool idempotent[2];                     /* by role: the codes of xq are the codes of x (xq lives where x does); for tests */
    int n_params;                           /* of weights; activations lack the one at output_scale: bwi_quant_n_params */
    const char *param[BWI_QPARAMS];         /* names of learned parameters in checkpoints: "step" */
    bwi_option option[BWI_OPTIONS];         /* ends at key NULL */
    int levels;                             /* of weights, where they are not 2^bits; 0: they are */
    double weight_bound;                    /* the optimizer keeps weights in [-weight_bound, weight_bound]; 0: no */
    double large;                           /* see bwi_qstats.mean_large */
    bool real_codes;                        /* `add` is not an integer, so codes are no bytes, but still 1 apart */
    bool needs_stats;                       /* statistics before every prepare, not only before init (weights only) */
    int output_scale; /* index of a parameter that init sets to mean|conv(x,w)| / mean|conv(xq,wq)| (weights), or -1 */
    /* Sets theta from statistics of the tensor: weights at load, activations on the first training batch. NULL: no parameters. */
    void (*init)(struct bwi_quant *q, const bwi_qstats *stats);
    /* Fills q->k from theta (and stats when needs_stats; NULL otherwise). BW_NUMERIC with a message when theta is not usable (a step
     * size of 0 or NaN, l >= u); the caller adds the layer's name. */
    bw_status (*prepare)(struct bwi_quant *q, const bwi_qstats *stats, bw_error *err);
    /* Turns the loops' sums into q->dtheta (gradient scale of LSQ, sign of alpha). NULL: no parameters. */
    void (*finish)(struct bwi_quant *q, const double *sums);
    /* After an optimizer step: keeps theta in its domain; true when something had to be changed (counted as an event). May be NULL. */
    bool (*constrain)(struct bwi_quant *q);
    /* The function that backward differentiates: scale(theta) * code with c replaced by c0 + factor * (u(x; theta) - u0), where c0, u0
     * and whatever is held constant are taken at x_base from q (which is prepared at the base point), and factor is the
     * gradient method's. A gradient scale is part of it: theta moves by that share of its change. Written from the paper,
     * apart from the loops, and checked against them by central differences. */
    double (*surrogate)(const struct bwi_quant *q, double x, double x_base, const double *theta, double factor);
    /* Activations: the latent before it is clipped, as the float loops compute it from what prepare made: (x - map[0]) * map[1] + map[2].
     * For deployment; NULL: it is not of that form. */
    void (*affine)(const struct bwi_quant *q, float map[3]);
    const bwi_qloops *loops[BWI_VARIANTS];
} bwi_quantizer;

struct bwi_metanet;
typedef struct bwi_gradient {
    const char *name, *summary, *cite;
    bool weights, activations;
    bwi_option option[BWI_OPTIONS];
    int delta;                      /* index of the option that sets delta, or -1: delta is 0 until somebody sets it */
    const struct bwi_metanet *meta; /* the network that learns the gradient, or NULL */
} bwi_gradient;

/* A quantized tensor: what was asked for, what was learned. */
typedef struct bwi_quant {
    const bwi_quantizer *q;
    const bwi_gradient *g;
    bwi_role role;
    int bits;
    bool is_signed;  /* activations: codes from -2^(b-1) (only the first layer's input) */
    double features; /* elements of the tensor: of the weight, or of one image's activation; LSQ's N */
    int batch;       /* images in a batch, for options that want it */
    double opt[BWI_OPTIONS], gopt[BWI_OPTIONS];
    double delta; /* of the gradient method: EWGS's strength, for this tensor */
    bool ready;   /* theta is initialised */
    double theta[BWI_QPARAMS], theta0[BWI_QPARAMS] /* right after init */, dtheta[BWI_QPARAMS];
    bwi_qk k;
    void *gxq;            /* weights: where backward also leaves dL/dxq, [numel] real; NULL: nobody asks */
    double clipped, seen; /* since they were last cleared */
    int64_t constrained;  /* times constrain had to act */
} bwi_quant;

/* Rows. NULL past the end / when unknown. */
const bwi_quantizer *bwi_quantizer_at(size_t i);
const bwi_quantizer *bwi_quantizer_find(const char *name);
const bwi_gradient *bwi_gradient_at(size_t i);
const bwi_gradient *bwi_gradient_find(const char *name);

/* Learned parameters of q in its role. */
static inline int bwi_quant_n_params(const bwi_quant *q)
{
    return q->q->n_params - (q->role == BWI_ACTIVATION && q->q->output_scale >= 0);
}

/* Parses "lsq" or "ewgs:delta=0.01" against the rows (gradient NULL: "ste"), checks role, bits and ranges, and fills q (theta not ready;
 * features and batch are the caller's to set). Unknown names and keys are errors with the nearest valid choice; unsupported bits name the
 * range. */
BW_MUST_USE bw_status bwi_quant_make(bwi_quant *q, const char *quantizer, const char *gradient, bwi_role role, int bits,
                                     bool is_signed, bw_error *err);

/* Statistics of n values of dtype (threaded, sums in double, same result for any number of threads). */
void bwi_qstats_of(const void *x, bwi_dtype dtype, size_t n, bwi_qstats *out);
/* init or prepare of a whole tensor when needed: computes the statistics that the quantizer asks for. x is used only for them. */
BW_MUST_USE bw_status bwi_quant_prepare(bwi_quant *q, const void *x, bwi_dtype dtype, size_t n, bw_error *err);
/* Whole-tensor passes over n values, threaded over fixed chunks (weights, and activations outside fused loops). */
void bwi_quant_codes(const bwi_quant *q, const void *x, bwi_dtype dtype, size_t n, bwi_dtype type, void *codes);
/* gx (may alias gcode) and q->dtheta via finish; also adds to q->clipped and q->seen. */
void bwi_quant_backward(bwi_quant *q, const void *x, bwi_dtype dtype, const void *gcode, double gscale, size_t n, void *gx);
/* Adds what blocks of loops->backward inside somebody else's loop have summed: finish, clipped, seen. n: elements in all. */
void bwi_quant_backward_end(bwi_quant *q, const double *sums, size_t n);
#endif
