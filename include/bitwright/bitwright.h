/* bitwright: train convolutional networks with 1- to 8-bit weights and activations.
 *
 * This is the whole public interface of training, evaluation and import. Conventions:
 *  - Every fallible function returns a bw_status and, on failure, writes one sentence into *err (err may be NULL) that says
 *    what failed, where (file, key, layer) and what to do.
 *  - Out-parameters are set to NULL or zero before anything can fail. Who creates destroys; destroy takes a pointer to the
 *    pointer, accepts NULL and half-built objects, and nulls it.
 *  - Strings that a function returns are owned by the object that they came from unless the comment says otherwise.
 *  - Nothing in the library prints, exits or aborts. Progress arrives through callbacks. */
#ifndef BITWRIGHT_H
#define BITWRIGHT_H
#include <bitwright/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BW_VERSION "0.1.0"

/* Text of a status code; never NULL. */
const char *bw_status_text(bw_status status);

/* ---- What the library offers (generated from the rows of each room) ---------------------------------------------------- */
typedef enum bw_kind {
    BW_KIND_QUANTIZER,
    BW_KIND_GRADIENT,
    BW_KIND_POLICY,
    BW_KIND_NETWORK,
    BW_KIND_DATASET,
    BW_KIND_OPTIMIZER,
    BW_KIND_SCHEDULE,
    BW_KIND_FORMAT,
    BW_KIND_IMAGE,
    BW_KIND_OPERATION,
    BW_KIND_SEARCH,
    BW_KIND_BUDGET,
    BW_KIND_COUNT
} bw_kind;
/* Row i of a kind: returns false past the end. *help is one line; *detail lists options with ranges (may be ""). Static strings
 * except *detail, which lives until the next call on the same thread. */
bool bw_list(bw_kind kind, size_t i, const char **name, const char **help, const char **detail);
const char *bw_kind_name(bw_kind kind); /* "quantizer" */

/* ---- Recipes ----------------------------------------------------------------------------------------------------------- */
typedef struct bw_recipe bw_recipe;
/* Reads a YAML recipe from path (NULL: all defaults) and applies n overrides of the form "section.key=value". Unknown keys,
 * wrong types and values out of range are errors that name the nearest valid choice. */
BW_MUST_USE bw_status bw_recipe_load(bw_recipe **out, const char *path, const char *const *overrides, size_t n, bw_error *err);
void bw_recipe_destroy(bw_recipe **recipe);
/* The resolved recipe as YAML text, every key present; owned by the recipe. NULL on lack of memory. */
const char *bw_recipe_text(bw_recipe *recipe);
/* Row i of the key table: "train.epochs", type, default, one-line help. False past the end. */
bool bw_recipe_key(size_t i, const char **key, const char **type, const char **def, const char **help);

/* ---- Training ---------------------------------------------------------------------------------------------------------- */
typedef enum bw_event_kind {
    BW_EVENT_NOTE, /* text only: something was resolved, skipped or found out */
    BW_EVENT_STEP, /* some steps were done (at most about 5 a second); text, if there is any, says what is being done besides steps */
    BW_EVENT_EPOCH, /* an epoch ended; text is one JSON object: the line of the log */
} bw_event_kind;

typedef struct bw_event {
    bw_event_kind kind;
    const char *text;            /* valid during the callback */
    int64_t epoch, epochs;       /* epochs counted from 1 */
    int64_t step, steps;         /* in this epoch */
    double images_per_s;         /* recent rate */
    double seconds_left;         /* of the whole run, from the recent rate; < 0: unknown */
    double train_loss;           /* mean since the start of the epoch */
    double train_top1;           /* percent, since the start of the epoch */
    double test_loss, test_top1; /* BW_EVENT_EPOCH only; NaN when not evaluated */
} bw_event;
/* Return true to stop after saving a checkpoint (the run then ends with BW_INTERRUPTED). Called on the thread that called
 * bw_train. */
typedef bool (*bw_event_fn)(void *user, const bw_event *event);

typedef struct bw_train_options {
    const char *out_dir; /* folder for checkpoint.safetensors, best.safetensors, model.safetensors, log.jsonl, recipe.yaml */
    bool resume;         /* continue from out_dir/checkpoint.safetensors when it exists; the recipe must match */
    bool overwrite;      /* start anew even if out_dir holds a run */
    int64_t stop_after_steps; /* > 0: stop (BW_INTERRUPTED) after so many steps of this call; for tests */
    int64_t checkpoint_steps; /* > 0: also checkpoint every so many steps, besides every epoch */
    bw_event_fn on_event;
    void *user;
} bw_train_options;

typedef struct bw_train_result {
    int64_t epochs, steps;
    double train_loss, test_loss, test_top1, best_top1; /* percent */
    double seconds;
    uint64_t model_bytes; /* of weights at their bit-widths plus all other parameters at 4 bytes */
} bw_train_result;
BW_MUST_USE bw_status bw_train(bw_recipe *recipe, const bw_train_options *options, bw_train_result *result, bw_error *err);

/* ---- Evaluation, import, info ------------------------------------------------------------------------------------------ */
typedef struct bw_eval_options {
    const char *data; /* "cifar10:DIR", "cifar100:DIR", "folder:DIR@SIZE", "shapes", or NULL: what the model was trained on */
    const char *normalize; /* "cifar", "imagenet", "half", or NULL: as stored in the model */
    const char *precision; /* "f32" or "fast": the training graph; NULL: quantized models on the engine, float ones in f32 */
    int batch;             /* 0: 250 */
    int threads;           /* 0: all cores */
    bool train_split;      /* evaluate the training images instead, without augmentation */
    const char *plan;      /* on the engine: as in bw_packed_info */
} bw_eval_options;
typedef struct bw_eval_result {
    double top1, top5, loss; /* percent, percent, nats */
    double images_per_s;
    int64_t images;
    bool engine; /* it ran on the engine */
} bw_eval_result;
/* model: a model, a checkpoint or a packed file. */
BW_MUST_USE bw_status bw_eval(const char *model, const bw_eval_options *options, bw_eval_result *result, bw_error *err);

typedef struct bw_import_options {
    const char *net;       /* "resnet20" */
    const char *shortcut;  /* "A" or "projection"; NULL: A */
    int classes;           /* 0: from the shape of the last layer */
    bool last_bn;          /* BatchNorm1d before the classifier */
    bool allow_missing;    /* keep the initial value of parameters that the file lacks, rather than fail */
    const char *normalize; /* constants that the network expects, stored in the model; NULL: "cifar" */
} bw_import_options;
/* Reads a PyTorch (.th, .pth, .pt) or safetensors file and writes a model. *report (freed with bw_free) lists what matched, what is
 * missing and what is left over. */
BW_MUST_USE bw_status bw_import(const char *in, const char *out, const bw_import_options *options, char **report,
                                bw_error *err);
/* Describes a checkpoint, model or foreign weights file; text (json false) or one JSON object, freed with bw_free. */
BW_MUST_USE bw_status bw_info(const char *path, bool json, char **text, bw_error *err);
/* Describes the network of a recipe after its policy: every layer, shape, effective bits; freed with bw_free. */
BW_MUST_USE bw_status bw_describe(bw_recipe *recipe, bool json, char **text, bw_error *err);
void bw_free(void *p);

/* ---- Deployment -------------------------------------------------------------------------------------------------------- */
typedef struct bw_export_sizes {
    size_t flash_bytes; /* the packed file, or the constants of C code; 0: the form says nothing about devices (ONNX) */
    size_t ram_bytes;   /* while it runs, in one thread */
} bw_export_sizes;
/* Writes a trained model in a form that runs without this library's training half. to: "packed" (the engine of run.h), or NULL for it;
 * "c": one C99 file and a header beside it; "c-integer": the same without floats; "onnx": an ONNX model with QuantizeLinear and
 * DequantizeLinear; "onnx13": the same without INT4, for older runtimes; "qonnx": one with QONNX's Quant.
 * ONNX models take `image` [N,channels,height,width] float, normalised with the mean and std of their metadata, and make `logits` [N,classes].
 * BW_UNSUPPORTED names a layer that cannot be packed, and why. sizes: what a device needs; may be NULL. */
BW_MUST_USE bw_status bw_export(const char *model, const char *path, const char *to, bw_export_sizes *sizes, bw_error *err);

/* Whether a file is one that bw_export made for the engine; false when it cannot be read. */
bool bw_is_packed(const char *path);
/* Describes a packed file: layers, bits, bytes, and the kernels that this CPU would run; text (json false) or one JSON object, freed with
 * bw_free. plan, here and elsewhere: how the engine's kernels are chosen: "measured", by timing them now, or "table"; NULL: table. */
BW_MUST_USE bw_status bw_packed_info(const char *path, const char *plan, bool json, char **text, bw_error *err);

/* Codes of one quantizer of activations, in the training graph and in the plain engine. */
typedef struct bw_verify_layer {
    const char *name; /* of the quantizer: "layer1.0.conv2.input_quant" */
    int bits;
    int64_t codes;            /* in all images */
    int64_t differing_codes;  /* of these, those that are other ones in the engine; 0 where every layer before is quantized */
    int64_t differing_images; /* with at least one of them */
    int largest_difference;   /* of a code */
} bw_verify_layer;
typedef void bw_verify_layer_fn(void *user, const bw_verify_layer *layer);

typedef struct bw_verify_options {
    const char *data;          /* NULL: what the model was trained on */
    int limit;                 /* images; 0: the whole test set */
    int threads;               /* 0: all cores */
    const char *compiler;      /* of the exported C code, such as "cc"; NULL: leave it out */
    bool integer_code;         /* the C code is that without floats */
    bw_verify_layer_fn *layer; /* called at the end for every layer, in the order of the graph; NULL: not */
    void *user;
} bw_verify_options;
typedef struct bw_verify_result {
    int64_t images;
    int64_t
        differing_logits; /* between the plain engine, the engine on every instruction set of this CPU and the compiled C code; bit by bit */
    int64_t differing_classes;      /* images whose best class is another one in the training graph (in `fast`) */
    double largest_difference;      /* of a logit, between training graph and engine */
    double graph_top1, engine_top1; /* percent */
    uint64_t packed_bytes;
    char engines[80]; /* instruction sets that were compared */
} bw_verify_result;
/* Runs a trained model as the training graph and as the engine on the test images, and compares. */
BW_MUST_USE bw_status bw_verify(const char *model, const bw_verify_options *options, bw_verify_result *result, bw_error *err);

/* ---- Classifying images ------------------------------------------------------------------------------------------------ */
enum { BW_TOP = 5 };
typedef struct bw_prediction {
    const char *image;      /* path as given, or NULL: of a data set */
    int64_t number;         /* of the image, from 0 */
    int label;              /* its class in the data set; -1: unknown */
    const char *label_name; /* NULL: unknown */
    int n;                  /* at most BW_TOP, and no more than there are classes */
    struct {
        int index;
        const char *name;   /* NULL: unknown */
        double probability; /* 0 to 1, softmax of the logits */
    } best[BW_TOP];         /* most probable first; of equal ones the lower index */
} bw_prediction;            /* strings are valid during the callback */
typedef void bw_prediction_fn(void *user, const bw_prediction *prediction);

typedef struct bw_run_options {
    const char *data;    /* classify test images of a data set, as in bw_eval_options; NULL: the files */
    int limit;           /* of these, the first so many; 0: all */
    const char *classes; /* text file with the name of a class a line; NULL: the names in the model, where it has them */
    int threads;         /* 0: all cores */
    const char *plan;    /* as in bw_packed_info */
} bw_run_options;
typedef struct bw_run_result {
    int64_t images;
    bool engine;       /* it ran on the engine; float models run as the training graph */
    double top1, top5; /* percent of the images with a label; NaN: there are none */
} bw_run_result;
/* Classifies images with a model, checkpoint or packed file. path [n]: PNG or JPEG files, decoded to RGB (gray repeated, 16 bits to 8,
 * transparency on white), the shorter side made as long as the network's (for inputs of 128 pixels and more: 8/7 of it, as 256 for 224),
 * bilinear over all pixels that count, cut to the middle, normalised as the model says. Results come image by image, in order; the first
 * file that cannot be read ends it. BW_FORMAT: a damaged image or of another format; BW_UNSUPPORTED: too large an image, or a network that does
 * not take three colours; BW_ARG: neither files nor a data set, or `classes` has another number of names. */
BW_MUST_USE bw_status bw_run(const char *model, const char *const *path, size_t n, const bw_run_options *options,
                             bw_prediction_fn *fn, void *user, bw_run_result *result, bw_error *err);

/* ---- Analysis of a quantized model --------------------------------------------------------------------------------------- */
typedef struct bw_analyze_options {
    const char *data;      /* as in bw_eval_options */
    const char *normalize; /* as in bw_eval_options */
    const char *run;       /* folder with the log.jsonl of a run; NULL: the model's own folder, if it has one */
    const char *out;       /* folder for analysis.json and pictures (SVG); NULL: none */
    int batches;           /* of the training and of the test images; 0: 8 */
    int batch;             /* images in each; 0: 128 */
    int threads;           /* 0: all cores */
} bw_analyze_options;
/* What quantization did to a model, layer by layer: values, codes and levels of weights and activations, the balance of step size and
 * weight updates (LSQ, equation 4), the distance of learned step sizes from those of least error (LSQ, section 3.6), and step sizes and
 * EWGS's delta by epoch from the log. The model file is only read. *text: a table, or one JSON object; freed with bw_free. */
BW_MUST_USE bw_status bw_analyze(const char *model, const bw_analyze_options *options, bool json, char **text, bw_error *err);

/* ---- Search: a bit-width for every layer ------------------------------------------------------------------------------- */
typedef struct bw_search_event {
    int evaluations, expected; /* done, those of an earlier call that was resumed included; in the whole search */
    int generation;            /* from 1 */
    double best, mean;         /* top-1 errors in percent: of the best so far, of the archive; NaN: none yet */
    double per_s;              /* evaluations a second in this call */
    double seconds_left;       /* < 0: unknown */
} bw_search_event;
/* Return true to stop; the search then ends with BW_INTERRUPTED and can be resumed. Called on the thread that called bw_search. */
typedef bool (*bw_search_event_fn)(void *user, const bw_search_event *event);

typedef struct bw_search_options {
    const char
        *budget; /* what the network may cost at most, "size=16x", "bitops=1.2G", "latency=0.2ms"; bw_list: BW_KIND_BUDGET */
    double at_least;    /* share of the budget, 0 to 1, that has to be used; 0: none */
    const char *method; /* way of searching with its options, "genetic:population=50"; NULL: genetic; bw_list: BW_KIND_SEARCH */
    int lo, hi;         /* bits that a layer may get; 0: the range that the model was trained for */
    const char *data;   /* as in bw_eval_options */
    int calibrate;      /* batches of training images for the batch norms' statistics, before each evaluation; 0: 10 */
    int calibrate_batch; /* images in each; 0: 256 */
    int images;          /* validation images; 0: all that data.holdout kept apart, or a tenth of the training images */
    int seed;            /* of the search's draws */
    int threads;         /* 0: all cores. The result does not depend on it. */
    /* [n_set] "section.key=value" for the recipe that is written. Its activation bits count for bitops and latency; a float model's weights
     * are quantized by its quant.weight, minmax by default. */
    const char *const *set;
    size_t n_set;
    const char
        *out_dir;   /* folder for recipe.yaml, search.json, evaluations.jsonl, bits.svg, and latency.json when latency counts */
    bool resume;    /* take evaluations (and latencies) from out_dir; they must be of the same search */
    bool overwrite; /* start anew even if out_dir holds a search */
    int stop_after; /* > 0: BW_INTERRUPTED after so many evaluations of this call; for tests */
    bw_search_event_fn on_event;
    void *user;
} bw_search_options;
#define BW_SEARCH_LAYERS 256
typedef struct bw_search_result {
    int layers, evaluations;
    int kept;   /* further layers, which keep the bits that the policy gives them, such as first-last-8 */
    int images; /* for validation */
    bool seen;  /* the model, or what it started from, was trained on them: its recipe held none out (data.holdout) */
    uint8_t bits[BW_SEARCH_LAYERS]; /* [layers] in the order of the network */
    double error;                   /* top-1 on the validation images, percent */
    double cost, limit;             /* of the network, and the budget */
    const char *unit;               /* of both: "bit", "bit operations", "ms"; static */
    size_t packed_bytes;            /* of the network's packed file, names included; 0: it cannot be packed */
} bw_search_result;
/* Searches the bit-width of each quantized layer under a budget (Wang et al. 2020, section 3.3; for other ways see their rows in bw_list). model: a
 * model or checkpoint, whose weights come from its hypernetwork when it has one and otherwise are quantized as they are. Layers whose bits
 * its policy sets (quant.policy: first-last-8) keep them. Writes out_dir/recipe.yaml,
 * which bw_recipe_load and bw_train take as it is: the model's recipe with one rule of quant.layers for each layer, and the model as init
 * unless it has a hypernetwork. BW_ARG: a budget that no assignment keeps, or a folder of another search, naming what differs. */
BW_MUST_USE bw_status bw_search(const char *model, const bw_search_options *options, bw_search_result *result, bw_error *err);
/* *text (not NULL; freed with bw_free): a line for each search and a table of the runs. Writes bits.svg (bits of each layer, one row for each search),
 * accuracy.svg (accuracy against size), curves.svg (the runs by epoch) and report.json with the same numbers into out_dir, unless it is
 * NULL. folders: of searches (bw_search) and of trained networks (bw_train), in any order; a search counts by its validation error, a run
 * by its test accuracy; what is neither is left out, which *text says. BW_IO: a folder that does not exist, or nothing left. */
BW_MUST_USE bw_status bw_report(const char *const *folders, size_t n, const char *out_dir, char **text, bw_error *err);

/* ---- Benchmark of a training step -------------------------------------------------------------------------------------- */
typedef struct bw_bench_options {
    const char *net; /* NULL: resnet20 */
    int batch;       /* 0: 128 */
    int threads;     /* 0: all cores */
    int steps;       /* 0: 20, after warm-up */
} bw_bench_options;
typedef struct bw_bench_result {
    double step_ms_min, step_ms_median;
    double forward_ms, backward_ms, quantizer_ms, norm_ms, optimizer_ms, other_ms; /* means a step */
    double peak_mb;                                                                /* of this process so far */
    double planned_mb;                                                             /* of the memory plan */
} bw_bench_result;
/* Times one configuration in this process; the recipe names quantizers, bits and precision. */
BW_MUST_USE bw_status bw_bench_train(bw_recipe *recipe, const bw_bench_options *options, bw_bench_result *result,
                                     bw_error *err);

/* ---- Benchmark of the integer kernels ---------------------------------------------------------------------------------- */
typedef struct bw_bench_conv_options {
    const char *shape;   /* such as "64@56", input channels at map; NULL: all */
    int threads;         /* 0: 1 */
    double milliseconds; /* for each kernel and shape; 0: 50 */
} bw_bench_conv_options;
typedef struct bw_bench_row {
    const char *name; /* of the kernel; "onednn-u8s8": oneDNN's convolution of 8 x 8 bits */
    const char *shape;
    int activation_bits, weight_bits, threads;
    double gops;           /* 1e9 operations a second, a multiplication and an addition each */
    double against_onednn; /* times as fast as oneDNN in the same run */
} bw_bench_row;
typedef void bw_bench_row_fn(void *user, const bw_bench_row *row);
/* Times every kernel that this CPU runs on one image, including what makes the next layer's codes. Calls row once for each, shape by shape. */
BW_MUST_USE bw_status bw_bench_conv(const bw_bench_conv_options *options, bw_bench_row_fn *row, void *user, bw_error *err);

typedef struct bw_infer_result {
    double latency_ms;     /* of one image, whose rows the threads share */
    double images_per_s;   /* in batches, whose images they share */
    uint64_t packed_bytes; /* of the network's packed file */
    uint64_t memory_bytes; /* that the engine wants: weights as its kernels take them, and every thread's values */
} bw_infer_result;
/* Times a whole network on the engine, least times: a packed file, or a model of this program. One thread is timed by its processor time, more by
 * the clock. plan: as in bw_packed_info. */
BW_MUST_USE bw_status bw_bench_infer(const char *path, int threads, int batch, const char *plan, bw_infer_result *result,
                                     bw_error *err);
/* Writes a model of the recipe's network with random weights (train.seed), for benchmarks: its batch norms and quantizers have seen one
 * batch of random images. Sets net.classes 0 to the outputs that the network was published with. */
BW_MUST_USE bw_status bw_random_model(bw_recipe *recipe, const char *path, bw_error *err);

/* Restricts instruction sets for everything that follows in this process: "ref", "avx2", "avx512", "native". The
 * environment variable BITWRIGHT_CPU does the same. */
BW_MUST_USE bw_status bw_cpu_limit(const char *name, bw_error *err);
/* One line: the CPU, what is used of it, threads. Static string. */
const char *bw_cpu_text(void);

#ifdef __cplusplus
}
#endif
#endif
