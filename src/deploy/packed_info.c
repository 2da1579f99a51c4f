/* Packed files, told as text or as JSON: every layer with its bits, bytes, work and the kernel that this CPU would run. */
#include "base/alloc.h"
#include "deploy/engine.h"
#include <bitwright/bitwright.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

bool bw_is_packed(const char *path)
{
    bool packed;
    return bwi_is_packed(&packed, path, NULL) == BW_OK && packed;
}

static json_t *layer_json(const bw_layer_info *l)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:f, s:f, s:[i,i,i], s:i, s:i, s:b, s:I, s:I}", "name", l->name, "kind",
                     l->kind, "kernel", l->kernel, "table_kernel", l->table_kernel, "measured", l->measured, "microseconds",
                     l->microseconds, "table_microseconds", l->table_microseconds, "shape", l->height, l->width, l->channels,
                     "weight_bits", l->weight_bits, "activation_bits", l->activation_bits, "activation_signed",
                     l->activation_signed, "weight_bytes", (json_int_t)l->weight_bytes, "multiply_adds",
                     (json_int_t)l->multiply_adds);
}

static void layer_text(const bw_layer_info *l, bwi_text *t)
{
    bwi_text_add(t, "%-24s %-12s %4dx%-3dx%-5d", l->name, l->kind, l->height, l->width, l->channels);
    if (l->multiply_adds)
        bwi_text_add(t, " %dx%d bit%s %9zu bytes %8.2f M  %s", l->activation_bits, l->weight_bits,
                     l->activation_signed ? "s" : " ", l->weight_bytes, (double)l->multiply_adds / 1e6, l->kernel);
    if (l->measured) bwi_text_add(t, ", measured: %.1f us", l->microseconds);
    if (strcmp(l->kernel, l->table_kernel) != 0)
        bwi_text_add(t, " (%s, of the table: %.1f us)", l->table_kernel, l->table_microseconds);
    bwi_text_add(t, "\n");
}

bw_status bw_packed_info(const char *path, const char *plan, bool json, char **text, bw_error *err)
{
    bwi_engine e = {0};
    bw_layer_info l;
    bwi_text t = {0};
    json_t *layers = json_array();
    *text = NULL;
    if (err) *err = (bw_error){0};
    bw_status st = bwi_engine_open(&e, path, 1, plan, err);
    if (!st) {
        bwi_text_add(&t, "%s: packed, %zu bytes; images %dx%dx%d, %d classes; memory: %zu bytes prepared, %zu a thread\n", path,
                     e.file.size, e.info.height, e.info.width, e.info.channels, e.info.classes, e.info.net_bytes,
                     e.info.work_bytes);
        bwi_text_add(&t, "%-24s %-12s %15s %s\n", "layer", "kind", "result",
                     "activations x weights, bytes of weights, multiply-adds, kernel");
        for (int i = 0; bw_net_layer(e.net, i, &l); i++) {
            layer_text(&l, &t);
            json_array_append_new(layers, layer_json(&l));
        }
        json_t *object =
            json_pack("{s:s, s:s, s:I, s:[i,i,i], s:i, s:I, s:I, s:O}", "file", path, "kind", "packed", "bytes",
                      (json_int_t)e.file.size, "image", e.info.height, e.info.width, e.info.channels, "classes", e.info.classes,
                      "net_bytes", (json_int_t)e.info.net_bytes, "work_bytes", (json_int_t)e.info.work_bytes, "layers", layers);
        char *dump = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
        const bool complete = layers && (int)json_array_size(layers) == e.info.layers && !t.failed;
        *text = complete ? bwi_strdup(json ? (dump ? dump : "") : t.s) : NULL;
        if (!*text || (json && !dump)) st = bwi_fail(err, BW_NOMEM, "no memory to describe %s", path);
        free(dump);
        json_decref(object);
    }
    json_decref(layers);
    bwi_free(t.s);
    bwi_engine_close(&e);
    return st;
}
