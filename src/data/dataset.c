/* The rows of datasets.def and opening a data set by its specification. */
#include "data/data.h"
#include "base/alloc.h"
#include <stdio.h>
#include <string.h>

#define ROW(name) extern const bwi_dataset_row bwi_dataset_row_##name;
#include "data/datasets.def"
#undef ROW

static const bwi_dataset_row *const rows[] = {
#define ROW(name) &bwi_dataset_row_##name,
#include "data/datasets.def"
#undef ROW
};
enum { N_ROWS = sizeof rows / sizeof *rows };

const bwi_dataset_row *bwi_dataset_at(size_t i)
{
    return i < N_ROWS ? rows[i] : NULL;
}

static const bwi_dataset_row *find(const char *name, bw_error *err)
{
    const char *names[N_ROWS];
    char all[256] = "";
    for (size_t i = 0, at = 0; i < N_ROWS; i++) {
        if (!strcmp(rows[i]->name, name)) return rows[i];
        names[i] = rows[i]->name;
        const int n =
            snprintf(all + at, sizeof all - at, "%s%s%s", i ? ", " : "", names[i], rows[i]->needs_path ? ":FOLDER" : "");
        at += (size_t)n < sizeof all - at ? (size_t)n : 0;
    }
    const char *near = bwi_nearest(name, names, N_ROWS);
    if (near)
        bwi_fail(err, BW_ARG, "unknown data set '%s': did you mean '%s'?", name, near);
    else
        bwi_fail(err, BW_ARG, "unknown data set '%s': choose one of %s", name, all);
    return NULL;
}

bw_status bwi_dataset_open(bwi_dataset **out, const char *spec, bw_error *err)
{
    *out = NULL;
    const char *colon = strchr(spec, ':');
    const char *path = colon ? colon + 1 : "";
    bw_status st;
    bwi_dataset *d = NULL;
    char *name = bwi_strndup(spec, colon ? (size_t)(colon - spec) : strlen(spec));
    if (!name) return bwi_fail(err, BW_NOMEM, "no memory to open the data set '%s'", spec);

    const bwi_dataset_row *row = find(name, err);
    if (!row) {
        st = BW_ARG;
        goto fail;
    }
    if (row->needs_path && !*path) {
        st = bwi_fail(err, BW_ARG, "data set '%s' needs the folder of its files: write %s:FOLDER", name, name);
        goto fail;
    }
    if (!row->needs_path && colon) {
        st = bwi_fail(err, BW_ARG, "data set '%s' is generated and takes no folder: write '%s', not '%s'", name, name, spec);
        goto fail;
    }
    d = bwi_calloc(1, sizeof *d);
    if (!d) {
        st = bwi_fail(err, BW_NOMEM, "no memory to open the data set '%s'", spec);
        goto fail;
    }
    d->row = row;
    BWI_TRY(row->open(d, path, err));
    bwi_free(name);
    *out = d;
    return BW_OK;
fail:
    bwi_free(name);
    bwi_dataset_close(&d);
    return st;
}

void bwi_dataset_close(bwi_dataset **d)
{
    if (!*d) return;
    if ((*d)->close) (*d)->close(*d);
    bwi_free(*d);
    *d = NULL;
}
