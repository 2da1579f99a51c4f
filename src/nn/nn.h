/* Networks: operations, graph, quantization policy, memory plan, execution.
 *
 * A graph is a list of nodes in topological order; each node makes one value from earlier ones. A network family (zoo) builds it from plain
 * operations; bwi_graph_quantize inserts `quantize` nodes and weight quantizers by a policy; bwi_exec_create fuses chains
 * batch_norm -> [add] -> [relu] -> [quantize...] into one pass over memory, plans the memory and runs. */
#ifndef BWI_NN_H
#define BWI_NN_H
#include "compute/compute.h"
#include "quant/quant.h"

#define BWI_NAME      96
#define BWI_MAX_FUSED 4 /* quantize nodes in one fused chain */

/* ---- Parameters --------------------------------------------------------------------------------------------------------- */
typedef enum bwi_param_role {
    BWI_PARAM_WEIGHT,
    BWI_PARAM_BIAS,
    BWI_PARAM_NORM,
    BWI_PARAM_QUANT,
    BWI_PARAM_STATE, /* not trained: running statistics */
    BWI_PARAM_HYPER  /* of a network that makes weights (train/hyper.h); not part of the model's size */
} bwi_param_role;
typedef struct bwi_param {
    char name[BWI_NAME]; /* PyTorch's: "layer1.0.conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight_quant.step" */
    bwi_param_role role;
    int ndim;
    int64_t dim[4];  /* PyTorch's order: [O,I,H,W], [O,I], [C], [1] */
    bwi_dtype dtype; /* the graph's real type; quantizer parameters are F64 */
    size_t numel;
    void *data; /* in memory 4-dimensional weights are OHWI */
    void *grad; /* NULL for STATE and HYPER */
} bwi_param;

/* ---- Nodes -------------------------------------------------------------------------------------------------------------- */
typedef struct bwi_attr {
    int out, kh, kw, stride, pad,
        groups;           /* conv2d, linear (out), pools (kh, kw, stride, pad), shortcut_a (out, stride); stride and
                                             groups: 0 means 1 */
    bool bias;            /* conv2d, linear */
    double eps, momentum; /* batch_norm: 1e-5, 0.1 (PyTorch's meaning) */
} bwi_attr;

struct bwi_op;
typedef struct bwi_node {
    const struct bwi_op *op;
    char name[BWI_NAME]; /* "layer1.0.conv1" */
    int in[2], n_in;     /* values */
    int out;             /* value */
    bwi_attr attr;
    int param[4];  /* indices into graph->param: weight, bias | weight, bias, running_mean, running_var; -1: none */
    bwi_quant *wq; /* weight quantizer of conv2d and linear, or NULL */
    bool fixed;    /* the policy set wq's bits, not the recipe's bits or a rule: no search changes them */
    bwi_quant *aq; /* of quantize */
} bwi_node;

typedef struct bwi_value {
    bwi_shape shape;
    int producer; /* node, -1: the network's input */
} bwi_value;

typedef struct bwi_graph {
    bwi_dtype real; /* F32, or F64 for gradient checks */
    bwi_node *node;
    int n_nodes;
    bwi_value *value;
    int n_values; /* value 0 is the input */
    bwi_param *param;
    int n_params;
    int output; /* value of the logits */
    int classes;
    char family[BWI_NAME]; /* "resnet20" */
    uint64_t version;      /* changes when parameters are about to change, so that executors pack weights anew */
} bwi_graph;

BW_MUST_USE bw_status bwi_graph_create(bwi_graph **out, bwi_dtype real, bwi_shape input, bw_error *err);
void bwi_graph_destroy(bwi_graph **g);
/* Appends a node; infers its shape and makes its parameters (uninitialised: zero; batch_norm 1/0/0/1). Returns the new value in *value (which may be &in[0]); errors name the
 * layer and both shapes. `attr` may be NULL. */
BW_MUST_USE bw_status bwi_graph_add(bwi_graph *g, const char *op, const char *name, const int *in, int n_in,
                                    const bwi_attr *attr, int *value, bw_error *err);
bwi_param *bwi_graph_param(const bwi_graph *g, const char *name);
/* Sets the momentum of all batch norms: the share that a batch's statistics have in the running ones behind it, 0: none. Returns what it was. */
double bwi_graph_momentum(bwi_graph *g, double momentum);
/* Kaiming-normal (fan in) convolutions and linear layers as PyTorch's kaiming_normal_, biases U(+-1/sqrt(fan_in)); keyed by seed and name. */
void bwi_graph_init(bwi_graph *g, uint64_t seed);

/* ---- Quantization policy ------------------------------------------------------------------------------------------------ */
/* A row of policy.def: which convolutions and linear layers are quantized, and the bits of the first and the last one. */
typedef struct bwi_policy {
    const char *name, *summary;
    int first_bits, last_bits; /* 0: the recipe's bits; -1: not quantized */
    bool shortcuts;
} bwi_policy;
const bwi_policy *bwi_policy_at(size_t i);

typedef struct bwi_layer_rule {
    const char *match;
    int weight_bits, activation_bits;
} bwi_layer_rule; /* glob on the layer's name; -1: float, 0: unchanged */
typedef struct bwi_quant_spec {
    const char *weight_quantizer, *weight_gradient;         /* "lsq", "ste"; NULL or "none": weights stay float */
    const char *activation_quantizer, *activation_gradient; /* NULL or "none": activations stay float */
    int weight_bits, activation_bits;
    const char *policy; /* NULL: "all" */
    const bwi_layer_rule *rule;
    int n_rules; /* later rules win */
} bwi_quant_spec;
/* Inserts quantizers. A rule that matches no layer is an error, as is a bit-width that its quantizer does not have. */
BW_MUST_USE bw_status bwi_graph_quantize(bwi_graph *g, const bwi_quant_spec *spec, bw_error *err);
/* Quantizers in the order of their layers, weights before activations: for logs and tables. False past the end. `layer` is the convolution's or linear layer's node. */
bool bwi_graph_quant(const bwi_graph *g, int i, bwi_quant **q, const bwi_node **layer);
/* Bytes of the model: weights at their bits, everything else at 4 bytes a parameter; what float takes goes to *float_bytes. */
uint64_t bwi_graph_bytes(const bwi_graph *g, uint64_t *float_bytes);

/* ---- Execution ---------------------------------------------------------------------------------------------------------- */
struct bwi_call;
typedef enum bwi_precision { BWI_PRECISION_F32, BWI_PRECISION_FAST } bwi_precision;
typedef struct bwi_exec_options {
    int batch;      /* largest batch */
    bool train;     /* with backward */
    bool calibrate; /* without it, but forward passes may use and average batch statistics as in training */
    bwi_precision precision;
    bool round_sources;         /* FAST: float sources of convolutions are rounded to 16 bits outside training as well */
    const bwi_compute *compute; /* NULL: oneDNN for F32 graphs, reference for F64 */
    bool no_fusion;             /* every node by itself, for tests */
    /* Called behind each step of forward, while what it read and wrote is still there; NULL: not. With no_fusion every node is a step. */
    void (*observe)(void *observer, const struct bwi_call *step);
    void *observer;
    bool second_order; /* for second derivatives (below): unfused, F32, all values and gradients stay in memory */
} bwi_exec_options;
typedef struct bwi_times {
    double forward, backward, quantizers, norm, other;
} bwi_times; /* seconds since cleared */
typedef struct bwi_exec bwi_exec;

/* Plans and allocates everything; nothing is allocated while it runs. *note (may be NULL; freed with bwi_free) says what `fast` resolved to here. */
BW_MUST_USE bw_status bwi_exec_create(bwi_exec **out, bwi_graph *g, const bwi_exec_options *options, char **note,
                                      bw_error *err);
void bwi_exec_destroy(bwi_exec **e);
/* Input buffer [batch,h,w,c] real, to be filled before forward. */
void *bwi_exec_input(bwi_exec *e);
/* One forward pass of n <= batch images. train: batch statistics (running ones are updated) and quantizer initialisation on first use;
 * otherwise running statistics. Logits [n,classes] real. BW_NUMERIC names the layer whose quantizer collapsed. */
BW_MUST_USE bw_status bwi_exec_forward(bwi_exec *e, int n, bool train, const void **logits, bw_error *err);
/* Softmax cross entropy of the last forward's logits: mean loss over n, number of correct top-1 and top-5, and, with backward, gradients
 * of every parameter (param->grad and quantizer dtheta are overwritten). labels [n] in [0, classes). */
BW_MUST_USE bw_status bwi_exec_loss(bwi_exec *e, const int32_t *labels, double *loss, int *top1, int *top5, bw_error *err);
/* The same with a teacher's logits [n,classes] real: the mean of the cross entropies with the labels and with softmax(teacher). */
BW_MUST_USE bw_status bwi_exec_distill(bwi_exec *e, const int32_t *labels, const void *teacher, double *loss, int *top1,
                                       int *top5, bw_error *err);
BW_MUST_USE bw_status bwi_exec_backward(bwi_exec *e, bw_error *err);
/* Backward of an arbitrary gradient of the logits, [n,classes] real: for checks and distillation. */
BW_MUST_USE bw_status bwi_exec_backward_from(bwi_exec *e, const void *glogits, bw_error *err);
/* The gradient of the input after backward of an executor whose options asked for nothing else does not exist: the input has none. */
const bwi_times *bwi_exec_times(const bwi_exec *e);
void bwi_exec_times_clear(bwi_exec *e);
size_t bwi_exec_bytes(const bwi_exec *e); /* of the memory plan */

/* ---- Second derivatives (hvp.c) ----------------------------------------------------------------------------------------- */
/* For executors made with second_order. Between a training forward, its loss and its backward, and the next forward, they answer any number
 * of questions about the Hessian H of that loss with respect to one quantized tensor, all others held: tensor i of bwi_graph_quant. What H
 * is taken by is the tensor behind the rounding in units of a grid on [0, 1], xq = (c - lo) / (hi - lo) (methods: 2.3): n elements, the
 * weights in the order of memory or the activations [images,h,w,c]. Roundings further down pass tangents unchanged and gradients as
 * their gradient method says; statistics of batch norms are the batch's. */
/* Elements of tensor i in the last forward; 0: there is no such tensor. */
size_t bwi_exec_tensor_size(const bwi_exec *e, int i);
/* v'Hv and, with hv, Hv. v, hv [n] real; hv may be NULL. Parameters' gradients, times and statistics stay as they are. */
BW_MUST_USE bw_status bwi_exec_hvp(bwi_exec *e, int i, const void *v, void *hv, double *vhv, bw_error *err);
/* Statistics of the gradient dL/dxq of tensor i, before its gradient method scales it. */
BW_MUST_USE bw_status bwi_exec_code_gradient(bwi_exec *e, int i, bwi_qstats *stats, bw_error *err);

/* ---- Operations: one file in ops/, one row in ops.def ------------------------------------------------------------------- */
/* What an operation sees of a value at run time. */
typedef struct bwi_buf {
    void *data; /* [n,h,w,c]: real, or codes of type `type` behind a quantize node */
    bwi_dtype type;
    double scale;  /* value = scale * data; 1 unless codes */
    void *grad;    /* real: dL/d(data), to be multiplied by gscale; NULL: not needed */
    double gscale; /* of inputs: 1 when backward begins unless acc; conv2d and linear set it when they take codes */
    bool acc;      /* backward: add to grad, in units of the gscale that is there, instead of overwriting both (inputs only) */
    bwi_shape shape;
} bwi_buf;
typedef struct bwi_call {
    const bwi_node *node;
    bwi_graph *graph;
    const bwi_compute *compute;
    bwi_conv *conv; /* conv2d and linear: made by the executor from the op's conv_spec */
    int n;
    bool train;
    bool repack; /* weights (or their or the input's scale) changed since the last forward of this node */
    int variant;
    bwi_buf in[2], out;
    /* batch_norm at the head of a fused chain: a residual in in[1] (node->n_in is 1 all the same), ReLU, and quantize nodes that take its
     * result. out.data is NULL when nobody else wants the values, out.grad when only the quantize nodes send a gradient. */
    bool residual, relu;
    bwi_quant *aq[BWI_MAX_FUSED];
    bwi_buf q[BWI_MAX_FUSED]; /* their codes and gradients */
    int n_q;
    void *save; /* [save_size] kept from forward to backward: batch statistics, pooling indices */
    int batch;  /* images that the executor was planned for; those behind n are zero */
    /* conv2d and linear: the batch_norm behind it whose backward_part makes out.grad a piece at a time, into `part`; NULL: out.grad is
     * there. by_parts is that batch_norm's side: its backward leaves in[0].grad to backward_part. */
    struct bwi_call *behind;
    void *part;
    bool by_parts;
    void *
        scratch; /* [scratch_size]; of conv2d and linear: conv_scratch of the convolution rounded up to 64, then scratch_size */
    bwi_times *times; /* conv2d, linear and quantize add the time that they take; the executor that of the others */
} bwi_call;

typedef struct bwi_op_fns { /* one table per variant */
    bw_status (*forward)(bwi_call *c, bw_error *err);
    bw_status (*backward)(bwi_call *c,
                          bw_error *err); /* reads out.grad, writes in[].grad (where not NULL) and parameter gradients */
    /* For an operation whose backward can leave its input's gradient for later (call->by_parts): the gradient of images first ..
     * first + n - 1 into to [n,h,w,c] real, zero behind image call->n. NULL: cannot. */
    void (*backward_part)(bwi_call *c, int first, int n, void *to);
    /* Second derivatives: R{x} is the derivative of x along a direction (Pearlmutter, Fast exact multiplication by the Hessian, 1994). c is the
     * call as backward left it, t a copy whose data and grad are R{data} and R{grad}, in the units of what they belong to.
     * tangent: t->out.data from t->in[].data. NULL: forward(t) when the operation is linear. */
    bw_status (*tangent)(const bwi_call *c, bwi_call *t, bw_error *err);
    /* t->in[].grad (where not NULL, added when acc) from t->out.grad, t->in[].data and c. NULL: backward(t) with the data of c, right for
     * operations whose gradient is linear in out.grad and else constant. */
    bw_status (*backward_tangent)(const bwi_call *c, bwi_call *t, bw_error *err);
} bwi_op_fns;
typedef enum bwi_sign {
    BWI_SIGN_ANY,
    BWI_SIGN_NONNEGATIVE,
    BWI_SIGN_KEEPS /* negative results only from negative inputs */
} bwi_sign;
typedef struct bwi_op {
    const char *name, *summary;
    int n_in;      /* 1 or 2 */
    bwi_sign sign; /* of results: relu NONNEGATIVE; add, pools, shortcut_a, quantize KEEPS; conv2d, linear, batch_norm ANY */
    bw_status (*infer)(const bwi_node *node, const bwi_shape *in, bwi_shape *out,
                       bw_error *err); /* err without the layer's name */
    /* Adds parameters to the graph (may be NULL). */
    bw_status (*params)(bwi_graph *g, bwi_node *node, const bwi_shape *in, bw_error *err);
    size_t (*save_size)(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out, bwi_dtype real); /* NULL: 0 */
    size_t (*scratch_size)(const bwi_node *node, int n, const bwi_shape *in, const bwi_shape *out,
                           bwi_dtype real); /* NULL: 0 */
    /* conv2d and linear, otherwise NULL: fills n, ih .. groups; the executor fills src, back, train and need_gsrc. `in` passed infer. */
    bw_status (*conv_spec)(const bwi_node *node, int n, const bwi_shape *in, bwi_conv_spec *spec);
    bool needs_in, needs_out; /* backward reads in[].data / out.data */
    bool linear;              /* tangents may run through forward; others without fns->tangent have no second derivatives */
    const bwi_op_fns *fns[BWI_VARIANTS];
} bwi_op;
const bwi_op *bwi_op_at(size_t i);
const bwi_op *bwi_op_find(const char *name);
BW_MUST_USE bw_status bwi_graph_add_param(bwi_graph *g, const char *node, const char *suffix, bwi_param_role role, int ndim,
                                          const int64_t *dim, int *index, bw_error *err);
#endif
