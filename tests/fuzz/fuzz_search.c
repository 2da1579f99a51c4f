/* Files of a search's folder from arbitrary bytes: evaluations that a search resumes from, and a result that a report draws. */
#include "base/alloc.h"
#include "search/trials.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char folder[40], evaluations[80], result[80];

static void remove_folder(void)
{
    char command[80];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) perror(command);
}

static void make_folder(void)
{
    struct stat s;
    if (*folder) return;
    snprintf(folder, sizeof folder, "%s/bitwright-fuzz-XXXXXX", stat("/dev/shm", &s) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(folder) || atexit(remove_folder)) abort();
    snprintf(evaluations, sizeof evaluations, "%s/evaluations.jsonl", folder);
    snprintf(result, sizeof result, "%s/search.json", folder);
}

static void put_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
}

/* Whatever is read of the evaluations is within the problem. */
static void resume(const uint8_t *data, size_t size)
{
    const bwi_problem p = {.n = 3, .lo = 1, .hi = 4, .limit = 100};
    bwi_trials t;
    bw_error err = {0};
    json_t *key = json_pack("{s:s, s:i}", "model", "00", "seed", 1);
    put_file(evaluations, data, size);
    const bw_status st = bwi_trials_open(&t, &p, evaluations, key, true, 5, &err);
    if (st && (err.status != st || !*err.msg)) abort();
    for (int i = 0; !st && i < t.n; i++)
        for (int l = 0; l < p.n; l++)
            if (t.trial[i].bits[l] < p.lo || t.trial[i].bits[l] > p.hi) abort();
    bwi_trials_close(&t);
    json_decref(key);
}

static void draw(const uint8_t *data, size_t size)
{
    const char *const folders[] = {folder};
    bw_error err = {0};
    put_file(result, data, size);
    char *text = NULL;
    const bw_status st = bw_report(folders, 1, folder, &text, &err);
    bw_free(text);
    if (st && (err.status != st || !*err.msg)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    make_folder();
    resume(data, size);
    draw(data, size);
    if (bwi_alloc_live_blocks()) abort();
    return 0;
}
