#include "search/trials.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/par.h"
#include "base/rng.h"
#include "train/run.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- The table of trials ------------------------------------------------------------------------------------------------- */

static uint64_t hash(const uint8_t *bits, int n)
{
    const uint64_t h = bwi_hash(bits, (size_t)n);
    return h ^ h >> 29;
}

/* Where bits stand or would stand. */
static int *slot_of(const bwi_trials *t, const uint8_t *bits)
{
    const int n = t->problem->n;
    size_t at = (size_t)hash(bits, n) % (size_t)t->n_slots;
    while (t->slot[at] >= 0 && memcmp(t->trial[t->slot[at]].bits, bits, (size_t)n) != 0) at = (at + 1) % (size_t)t->n_slots;
    return &t->slot[at];
}

static bw_status grow(bwi_trials *t, bw_error *err)
{
    const int room = t->room ? 2 * t->room : 1024;
    bwi_trial *trial = bwi_realloc(t->trial, (size_t)room * sizeof *trial);
    if (trial) t->trial = trial;
    int *slot = trial ? bwi_malloc(2 * (size_t)room * sizeof *slot) : NULL;
    if (!slot) return bwi_fail(err, BW_NOMEM, "no memory for %d evaluations", room);
    bwi_free(t->slot);
    t->slot = slot;
    t->n_slots = 2 * room;
    t->room = room;
    for (int i = 0; i < t->n_slots; i++) slot[i] = -1;
    for (int i = 0; i < t->n; i++) *slot_of(t, t->trial[i].bits) = i;
    return BW_OK;
}

static bw_status add(bwi_trials *t, const uint8_t *bits, double error, bw_error *err)
{
    bw_status st = t->n == t->room ? grow(t, err) : BW_OK;
    if (st) return st;
    t->trial[t->n] = (bwi_trial){.error = error};
    memcpy(t->trial[t->n].bits, bits, (size_t)t->problem->n);
    *slot_of(t, bits) = t->n;
    t->n++;
    return BW_OK;
}

bool bwi_trials_seen(const bwi_trials *t, const uint8_t *bits)
{
    const int i = *slot_of(t, bits);
    return i >= 0 && t->trial[i].asked && !t->trial[i].reference;
}

double bwi_trials_error(const bwi_trials *t, const uint8_t *bits)
{
    const int i = *slot_of(t, bits);
    return i >= 0 && t->trial[i].asked ? t->trial[i].error : NAN;
}

const bwi_trial *bwi_trials_best(const bwi_trials *t, int i)
{
    return i < t->archived ? &t->trial[t->archive[i]] : NULL;
}

/* ---- The file ------------------------------------------------------------------------------------------------------------ */

static bw_status write_line(const char *path, json_t *object, bw_error *err)
{
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    const bw_status st = line ? bwi_log_add(path, line, err) : bwi_fail(err, BW_NOMEM, "no memory for a line of %s", path);
    free(line);
    json_decref(object);
    return st;
}

static json_t *bits_json(const uint8_t *bits, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_integer(bits[i]));
    return list;
}

/* "model (was 1, now 2), seed (was 3, now 4)" */
static void differing(const json_t *was, json_t *now, bwi_text *t)
{
    const char *name;
    json_t *value;
    json_object_foreach(now, name, value)
    {
        json_t *old = json_object_get(was, name);
        if (old && json_equal(old, value)) continue;
        char *a = old ? json_dumps(old, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)) : NULL;
        char *b = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        bwi_text_add(t, "%s%s (was %s, now %s)", t->len ? ", " : "", name, a ? a : "absent", b ? b : "?");
        free(a);
        free(b);
    }
}

static bw_status check_key(const bwi_trials *t, const json_t *line, json_t *key, bw_error *err)
{
    const json_t *was = json_object_get(line, "search");
    bwi_text text = {0};
    if (!json_is_object(was))
        return bwi_fail(err, BW_FORMAT,
                        "%s: it does not begin as a file of evaluations does; remove it, or choose another folder", t->path);
    differing(was, key, &text);
    bw_status st = BW_OK;
    if (text.failed)
        st = bwi_fail(err, BW_NOMEM, "no memory to compare searches");
    else if (text.len)
        st = bwi_fail(err, BW_ARG, "%s: its evaluations are of another search: %s", t->path, text.s);
    bwi_free(text.s);
    return st;
}

/* One evaluation; false when the line is not one of this problem. */
static bool read_trial(bwi_trials *t, const json_t *line, bw_status *st, bw_error *err)
{
    const bwi_problem *p = t->problem;
    const json_t *list = json_object_get(line, "bits"), *error = json_object_get(line, "error");
    uint8_t bits[BWI_SEARCH_LAYERS];
    if (!json_is_number(error) || json_array_size(list) != (size_t)p->n) return false;
    for (int i = 0; i < p->n; i++) {
        const json_int_t b = json_integer_value(json_array_get(list, (size_t)i));
        if (b < p->lo || b > p->hi) return false;
        bits[i] = (uint8_t)b;
    }
    if (t->room && *slot_of(t, bits) >= 0) return false;
    *st = add(t, bits, json_number_value(error), err);
    return !*st;
}

/* Complete lines up to the first that is not an evaluation; what a killed search left half-written behind them is cut off. *empty: not even
 * the first line is there. */
static bw_status read_file(bwi_trials *t, json_t *key, bool *empty, bw_error *err)
{
    bwi_file f;
    size_t good = 0;
    const uint8_t *end;
    bw_status st = bwi_file_open(&f, t->path, err);
    if (st) return st;
    while (!st && good < f.size && (end = memchr(f.data + good, '\n', f.size - good))) {
        const size_t length = (size_t)(end - f.data) - good;
        json_t *line = json_loadb((const char *)f.data + good, length, 0, NULL);
        bool fine = true;
        if (!good)
            st = check_key(t, line, key, err);
        else
            fine = read_trial(t, line, &st, err);
        json_decref(line);
        if (!fine) break;
        good += length + 1;
    }
    const size_t size = f.size;
    bwi_file_close(&f);
    *empty = !good;
    if (!st && good < size && truncate(t->path, (off_t)good))
        return bwi_fail(err, BW_IO, "%s: cannot cut off its torn end: %s", t->path, strerror(errno));
    return st;
}

bw_status bwi_trials_open(bwi_trials *t, const bwi_problem *p, const char *path, json_t *key, bool resume, int keep,
                          bw_error *err)
{
    bool empty = true;
    bw_status st;
    *t = (bwi_trials){.problem = p, .keep = keep, .chunk = bwi_threads(), .start = bwi_now()};
    t->archive = bwi_malloc((size_t)keep * sizeof *t->archive);
    if (!t->archive || (path && !(t->path = bwi_strdup(path)))) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory for a search"));
    BWI_TRY(grow(t, err));
    if (!path) return BW_OK;
    if (resume && bwi_file_exists(path)) BWI_TRY(read_file(t, key, &empty, err));
    if (!empty) return BW_OK;
    if (bwi_file_exists(path) && remove(path) != 0)
        BWI_TRY(bwi_fail(err, BW_IO, "%s: cannot be replaced: %s", path, strerror(errno)));
    BWI_TRY(write_line(path, json_pack("{s:O}", "search", key), err));
    return BW_OK;
fail:
    bwi_trials_close(t);
    return st;
}

void bwi_trials_close(bwi_trials *t)
{
    bwi_free(t->path);
    bwi_free(t->trial);
    bwi_free(t->slot);
    bwi_free(t->archive);
    bwi_free(t->generation);
    *t = (bwi_trials){0};
}

/* ---- Asking -------------------------------------------------------------------------------------------------------------- */

static void enter_archive(bwi_trials *t, int trial)
{
    const bwi_trial *new = &t->trial[trial];
    int at = t->archived;
    while (at > 0) {
        const bwi_trial *old = &t->trial[t->archive[at - 1]];
        if (bwi_problem_compare(t->problem, old->bits, old->error, new->bits, new->error) <= 0) break;
        at--;
    }
    if (at == t->keep) return;
    if (t->archived < t->keep) t->archived++;
    memmove(t->archive + at + 1, t->archive + at, (size_t)(t->archived - 1 - at) * sizeof *t->archive);
    t->archive[at] = trial;
}

static double mean_error(const bwi_trials *t)
{
    double sum = 0;
    for (int i = 0; i < t->archived; i++) sum += t->trial[t->archive[i]].error;
    return t->archived ? sum / t->archived : NAN;
}

/* True when the callback asks to stop. */
static bool tell(const bwi_trials *t)
{
    const double seconds = bwi_now() - t->start, rate = seconds > 0 ? t->fresh / seconds : 0;
    const bwi_trial *best = bwi_trials_best(t, 0);
    const bw_search_event event = {.evaluations = t->asked,
                                   .expected = t->total > t->asked ? t->total : t->asked,
                                   .generation = t->generations + 1,
                                   .best = best ? best->error : NAN,
                                   .mean = mean_error(t),
                                   .per_s = rate,
                                   .seconds_left = t->fresh && t->total >= t->asked ? (t->total - t->asked) / rate : -1};
    return t->on_event && t->on_event(t->user, &event);
}

/* Evaluates `count` of bits that the table lacks, and writes them down. */
static bw_status evaluate(bwi_trials *t, const uint8_t *bits, int count, bw_error *err)
{
    const bwi_problem *p = t->problem;
    double *error = bwi_malloc((size_t)count * sizeof *error);
    if (!error) return bwi_fail(err, BW_NOMEM, "no memory for %d errors", count);
    bw_status st = p->evaluate(p->context, bits, count, error, err);
    for (int i = 0; i < count && !st; i++) {
        const uint8_t *one = bits + (size_t)i * (size_t)p->n;
        if (!isfinite(error[i]))
            st = bwi_fail(err, BW_NUMERIC, "an evaluation gave an error that is not a finite number");
        else if (t->path)
            st = write_line(
                t->path,
                json_pack("{s:o, s:f, s:f}", "bits", bits_json(one, p->n), "error", error[i], "cost", bwi_problem_cost(p, one)),
                err);
        if (!st) st = add(t, one, error[i], err);
        t->fresh += !st;
    }
    bwi_free(error);
    return st;
}

static void ask(bwi_trials *t, const uint8_t *bits, bool member)
{
    const int i = *slot_of(t, bits);
    bwi_trial *trial = &t->trial[i];
    const bool was_member = trial->asked && !trial->reference;
    t->asked += !trial->asked;
    trial->asked = true;
    trial->reference = !member && !was_member;
    if (member && !was_member) enter_archive(t, i);
}

bw_status bwi_trials_run(bwi_trials *t, const uint8_t *bits, int count, bool members, bw_error *err)
{
    const size_t n = (size_t)t->problem->n;
    bw_status st = BW_OK;
    uint8_t *unknown = bwi_malloc((size_t)t->chunk * n);
    if (!unknown) return bwi_fail(err, BW_NOMEM, "no memory for %d assignments", t->chunk);
    for (int from = 0; from < count;) {
        int to = from, fresh = 0;
        for (; to < count && fresh < t->chunk; to++)
            if (*slot_of(t, bits + (size_t)to * n) < 0) memcpy(unknown + (size_t)fresh++ * n, bits + (size_t)to * n, n);
        if (fresh && t->stop_after > 0 && t->fresh >= t->stop_after)
            BWI_TRY(bwi_fail(err, BW_INTERRUPTED, "stopped after %d evaluations, as asked for", t->fresh));
        if (fresh) BWI_TRY(evaluate(t, unknown, fresh, err));
        for (; from < to; from++) ask(t, bits + (size_t)from * n, members);
        if (tell(t)) BWI_TRY(bwi_fail(err, BW_INTERRUPTED, "stopped on request after %d evaluations", t->asked));
    }
fail:
    bwi_free(unknown);
    return st;
}

bw_status bwi_trials_generation(bwi_trials *t, bw_error *err)
{
    bwi_generation *more = bwi_realloc(t->generation, (size_t)(t->generations + 1) * sizeof *more);
    if (!more) return bwi_fail(err, BW_NOMEM, "no memory for the history of a search");
    t->generation = more;
    const bwi_trial *best = bwi_trials_best(t, 0);
    more[t->generations++] = (bwi_generation){t->asked, best ? best->error : NAN, mean_error(t)};
    return BW_OK;
}
