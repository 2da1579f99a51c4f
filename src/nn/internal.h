/* What the files of this room share among themselves. */
#ifndef BWI_NN_INTERNAL_H
#define BWI_NN_INTERNAL_H
#include "base/alloc.h"
#include "nn/nn.h"

/* Registers the learned parameters of a quantizer as parameters of the graph, named LAYER.weight_quant.NAME or LAYER.input_quant.NAME. */
BW_MUST_USE bw_status bwi_graph_add_quant_params(bwi_graph *g, const char *layer, bwi_quant *q, bw_error *err);

/* A node, or a chain batch_norm -> [add] -> [relu] -> [quantize...], as one unit of execution. Backward runs the steps in reverse. */
typedef struct bwi_step {
    int node;                       /* the head: its operation runs */
    int in[2], n_in;                /* values read; a chain's residual is in[1] */
    int out;                        /* value made; the chain's last before quantization */
    int q_node[BWI_MAX_FUSED], n_q; /* quantize nodes run along */
    bool residual, relu;
    bwi_conv *conv;
    bool by_parts; /* its backward leaves in[0].grad to the convolution of the step before */
    void *save;
    bwi_call call;
} bwi_step;

/* What the executor knows about a value. */
typedef struct bwi_slot_info {
    int step;                /* that makes it; -1: the input */
    int first_use, last_use; /* steps that read it, outside fused quantize nodes; -1: none */
    bool stored;             /* has a data buffer */
    bool needs_grad;
    bwi_dtype type;
    int data, grad; /* buffers; -1: none */
    double gscale;  /* of grad, as the consumer left it */
    bwi_quant *aq;  /* of the quantize node that made it */
} bwi_slot_info;

typedef struct bwi_buffer {
    size_t size, offset;
    int first, last;
} bwi_buffer; /* alive from time first to time last */

struct bwi_exec {
    bwi_graph *g;
    const bwi_compute *compute;
    int batch, variant;
    bool train, calibrate, fused, second_order;
    bwi_precision precision;
    bool round_sources;
    bwi_step *step;
    int n_steps;
    bwi_slot_info *value; /* [g->n_values] */
    bwi_buffer *buffer;
    int n_buffers;
    char *arena, *scratch, *saves;
    char *tangents; /* second_order: R{.} of what lies in the arena, at the same places */
    bool *active;   /* [n_values] second_order: values that the tensor in question reaches */
    char *parts;    /* scratch of steps that run by parts, which outlives the step; behind it a piece of gradient */
    size_t arena_bytes, scratch_bytes, save_bytes, conv_scratch, part_scratch, part_bytes;
    uint64_t packed;     /* graph version whose weights the convolutions hold */
    int n;               /* images of the last forward; 0: none */
    bool trained;        /* the last forward was a training one */
    bool have_loss;      /* its loss gradient is in place */
    bool differentiated; /* its backward has run, and nothing since */
    const void **init_x; /* [n_values]: float values behind codes, while output scales are initialised */
    bool *init_owned;    /* [n_values] */
    bool *scale_pending; /* [n_nodes]: the output scale waits for its first forward */
    bwi_times times;
    void (*observe)(void *observer, const bwi_call *step);
    void *observer;
    bwi_text *note;
};

/* plan.c: steps and fusion, types, convolutions, buffers and their places. */
BW_MUST_USE bw_status bwi_plan_steps(bwi_exec *e, bw_error *err);
BW_MUST_USE bw_status bwi_plan_convs(bwi_exec *e, bw_error *err);
BW_MUST_USE bw_status bwi_plan_memory(bwi_exec *e, bw_error *err);
/* exec.c: convolutions always run on the whole planned batch, so rows behind image n must be zero. */
void bwi_zero_tail(const bwi_exec *e, void *data, bwi_dtype type, bwi_shape shape);
static inline void *bwi_buffer_at(const bwi_exec *e, int buffer)
{
    return buffer < 0 ? NULL : e->arena + e->buffer[buffer].offset;
}
#endif
