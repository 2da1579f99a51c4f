/* The log of a run as one series of values for each learned number of each quantizer. */
#include "train/analyze.h"
#include "base/file.h"
#include <string.h>

typedef struct log_reader {
    json_t *epochs, *series;
    bool failed; /* no memory */
} log_reader;

/* The series of a number, found or made. */
static json_t *find_series(log_reader *r, const char *layer, const char *role, const char *key)
{
    json_t *s;
    size_t i;
    json_array_foreach(r->series, i, s)
    {
        if (!strcmp(json_string_value(json_object_get(s, "layer")), layer) &&
            !strcmp(json_string_value(json_object_get(s, "role")), role) &&
            !strcmp(json_string_value(json_object_get(s, "key")), key))
            return s;
    }
    s = json_pack("{s:s, s:s, s:s, s:[]}", "layer", layer, "role", role, "key", key, "values");
    if (!s || json_array_append_new(r->series, s)) return NULL;
    return s;
}

/* Pads a series with null up to `length` values. */
static void pad(log_reader *r, json_t *series, size_t length)
{
    json_t *values = json_object_get(series, "values");
    while (json_array_size(values) < length && !r->failed) r->failed = json_array_append_new(values, json_null()) != 0;
}

static void add_value(log_reader *r, size_t epoch, const json_t *quantizer, const char *key, json_t *value)
{
    const char *layer = json_string_value(json_object_get(quantizer, "layer")),
               *role = json_string_value(json_object_get(quantizer, "role"));
    if (!layer || !role || !json_is_number(value)) return;
    json_t *s = find_series(r, layer, role, key);
    if (!s) {
        r->failed = true;
        return;
    }
    pad(r, s, epoch);
    json_t *values = json_object_get(s, "values");
    if (json_array_size(values) == epoch && json_array_append(values, value)) r->failed = true;
}

/* One line of the log; false when it is none. */
static bool add_line(log_reader *r, const json_t *line)
{
    json_t *epoch = json_object_get(line, "epoch"), *q, *value;
    const char *key;
    size_t i;
    const size_t at = json_array_size(r->epochs);
    if (!json_is_integer(epoch)) return false;
    if (json_array_append(r->epochs, epoch)) r->failed = true;
    json_array_foreach(json_object_get(line, "quantizers"), i, q)
    {
        json_object_foreach(json_object_get(q, "params"), key, value)
        {
            add_value(r, at, q, key, value);
        }
        add_value(r, at, q, "delta", json_object_get(q, "delta"));
    }
    return true;
}

/* Lines until the first that is torn, which a run in progress or a killed one may leave. */
static void read_lines(log_reader *r, const bwi_file *f)
{
    const uint8_t *end;
    for (size_t at = 0; at < f->size && !r->failed; at = (size_t)(end - f->data) + 1) {
        if (!(end = memchr(f->data + at, '\n', f->size - at))) return;
        json_t *line = json_loadb((const char *)f->data + at, (size_t)(end - f->data) - at, 0, NULL);
        const bool good = line && add_line(r, line);
        json_decref(line);
        if (!good) return;
    }
}

bw_status bwi_log_read(const char *folder, bool must, json_t **out, bw_error *err)
{
    bwi_file f = {0};
    bw_status st;
    log_reader r = {0};
    size_t i;
    json_t *s;
    *out = NULL;
    char *path = bwi_asprintf("%s/log.jsonl", folder);
    if (!path) return bwi_fail(err, BW_NOMEM, "no memory to read the log of %s", folder);
    if (must || bwi_file_exists(path)) {
        BWI_TRY(bwi_file_open(&f, path, err));
        r = (log_reader){json_array(), json_array(), false};
        if (!r.epochs || !r.series) r.failed = true;
        read_lines(&r, &f);
        if (must && !r.failed && !json_array_size(r.epochs))
            BWI_TRY(bwi_fail(err, BW_FORMAT, "%s does not begin with an epoch of a training run", path));
        json_array_foreach(r.series, i, s)
        {
            pad(&r, s, json_array_size(r.epochs));
        }
        if (!r.failed) *out = json_pack("{s:O, s:O}", "epochs", r.epochs, "series", r.series);
    } else {
        *out = json_null();
    }
    st = *out ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory to read %s", path);
fail:
    json_decref(r.epochs);
    json_decref(r.series);
    bwi_file_close(&f);
    bwi_free(path);
    return st;
}
