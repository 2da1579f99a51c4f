/* What a run tells: the table of layers before it, one line of JSON an epoch. */
#include "train/run.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/par.h"
#include "quant/hessian.h"
#include "train/describe.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- Lines --------------------------------------------------------------------------------------------------------------- */

static json_t *quantizer(const bwi_quant *q, const bwi_node *layer)
{
    json_t *params = json_object();
    for (int i = 0; i < bwi_quant_n_params(q); i++)
        if (json_object_set_new(params, q->q->param[i], bwi_json_number(q->theta[i]))) {
            json_decref(params);
            return NULL;
        }
    const bool scales = q->g->delta >= 0 || q->g == &bwi_gradient_ewgs_hessian;
    return json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:I, s:s, s:o*}", "layer", layer->name, "role",
                     q->role == BWI_WEIGHT ? "weight" : "activation", "quantizer", q->q->name, "bits", q->bits, "params",
                     params, "clipped", bwi_json_number(q->seen > 0 ? q->clipped / q->seen : NAN), "constrained",
                     (json_int_t)q->constrained, "gradient", q->g->name, "delta", scales ? bwi_json_number(q->delta) : NULL);
}

static json_t *quantizers(const bwi_graph *g)
{
    json_t *list = json_array();
    bwi_quant *q;
    const bwi_node *layer;
    for (int i = 0; list && bwi_graph_quant(g, i, &q, &layer); i++)
        if (json_array_append_new(list, quantizer(q, layer))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* MetaQuant's factor on gradients; null for runs without. */
static json_t *learned_factor(const bwi_run *run)
{
    double mean, min, max;
    if (!run->meta) return json_null();
    bwi_meta_factor(run->meta, &mean, &min, &max);
    return json_pack("{s:o, s:o, s:o}", "mean", bwi_json_number(mean), "min", bwi_json_number(min), "max",
                     bwi_json_number(max));
}

bw_status bwi_metrics_line(const bwi_run *run, char **line, bw_error *err)
{
    const bwi_progress *at = &run->at;
    const double seconds = bwi_now() - run->meter.epoch_start;
    const int64_t epoch = at->epoch - 1, step = run->steps - 1; /* the last ones done */
    json_t *object = json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "epoch", (json_int_t)at->epoch,
                               "steps", (json_int_t)run->steps, "train_loss", bwi_json_number(at->train_loss), "train_top1",
                               bwi_json_number(at->train_top1), "test_loss", bwi_json_number(at->test_loss), "test_top1",
                               bwi_json_number(at->test_top1), "seconds", bwi_json_number(seconds), "images_per_s",
                               bwi_json_number(seconds > 0 ? (double)run->meter.epoch_images / seconds : NAN), "lr",
                               bwi_json_number(bwi_params_lr(&run->params, BWI_GROUP_WEIGHTS, epoch, step)), "lr_quant",
                               bwi_json_number(bwi_params_lr(&run->params, BWI_GROUP_QUANT, epoch, step)), "learned_factor",
                               learned_factor(run), "quantizers", quantizers(run->graph));
    *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    return *line ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for the line of the log");
}

char *bwi_layer_table(const bwi_graph *g)
{
    bwi_text t = {0};
    json_t *description = bwi_describe(g);
    if (description) bwi_describe_text(description, &t);
    json_decref(description);
    return bwi_text_take(&t);
}

/* ---- The log ------------------------------------------------------------------------------------------------------------- */

/* Length of the leading complete lines that are JSON objects of an epoch up to `epochs`. */
static size_t good_length(const bwi_file *f, int64_t epochs)
{
    size_t good = 0;
    const uint8_t *end;
    while (good < f->size && (end = memchr(f->data + good, '\n', f->size - good))) {
        const size_t length = (size_t)(end - f->data) - good;
        json_t *line = json_loadb((const char *)f->data + good, length, 0, NULL);
        const json_int_t epoch = json_integer_value(json_object_get(line, "epoch"));
        json_decref(line);
        if (epoch < 1 || epoch > epochs) break;
        good += length + 1;
    }
    return good;
}

bw_status bwi_log_cut(const char *path, int64_t epochs, bw_error *err)
{
    bwi_file f;
    bw_status st;
    if (!bwi_file_exists(path)) return BW_OK;
    BWI_TRY(bwi_file_open(&f, path, err));
    const size_t good = good_length(&f, epochs), size = f.size;
    bwi_file_close(&f);
    if (good < size && truncate(path, (off_t)good))
        return bwi_fail(err, BW_IO, "%s: cannot cut what follows the checkpoint: %s", path, strerror(errno));
    return BW_OK;
fail:
    return st;
}

static bool write_all(int fd, const char *s, size_t n)
{
    while (n) {
        const ssize_t done = write(fd, s, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return false;
        s += done;
        n -= (size_t)done;
    }
    return true;
}

bw_status bwi_log_add(const char *path, const char *line, bw_error *err)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    bool good = fd >= 0 && write_all(fd, line, strlen(line)) && write_all(fd, "\n", 1) && fsync(fd) == 0;
    const int error = errno;
    if (fd >= 0 && close(fd) != 0) good = false;
    return good ? BW_OK : bwi_fail(err, BW_IO, "%s: cannot add a line: %s", path, strerror(error));
}
