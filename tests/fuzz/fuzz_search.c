/* Files of a search's folder from arbitrary bytes: evaluations that a search resumes from, and a result that a report draws; and the log of a
 * run, which it draws as well. */
#include "base/alloc.h"
#include "search/trials.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char folder[40], evaluations[80], result[80], run[80], run_log[100];

static void remove_folder(void)
{
    char command[80];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) perror(command);
}

static void put_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
}

static void put_recipe(void)
{
    static const char text[] = "net: {family: resnet20}\n";
    char path[100];
    snprintf(path, sizeof path, "%s/recipe.yaml", run);
    put_file(path, (const uint8_t *)text, sizeof text - 1);
}

static void make_folder(void)
{
    struct stat s;
    if (*folder) return;
    snprintf(folder, sizeof folder, "%s/bitwright-fuzz-XXXXXX", stat("/dev/shm", &s) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(folder) || atexit(remove_folder)) abort();
    snprintf(evaluations, sizeof evaluations, "%s/evaluations.jsonl", folder);
    snprintf(result, sizeof result, "%s/search.json", folder);
    snprintf(run, sizeof run, "%s/run", folder);
    snprintf(run_log, sizeof run_log, "%s/log.jsonl", run);
    if (mkdir(run, 0700)) abort();
    put_recipe();
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

/* What a report makes of a folder with these bytes as this file. */
static void draw(const char *from, const char *path, const uint8_t *data, size_t size)
{
    const char *const folders[] = {from};
    bw_error err = {0};
    put_file(path, data, size);
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
    draw(folder, result, data, size);
    draw(run, run_log, data, size);
    if (bwi_alloc_live_blocks()) abort();
    return 0;
}
