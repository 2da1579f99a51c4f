/* Trials: the assignments that a search has asked about, what they are worth, and the best of them. Every evaluation is a line of a file
 * (evaluations.jsonl) as soon as it is known, so a search that was killed repeats its decisions from there. */
#ifndef BWI_TRIALS_H
#define BWI_TRIALS_H
#include "search/search.h"
#include <jansson.h>

typedef struct bwi_trial {
    uint8_t bits[BWI_SEARCH_LAYERS];
    double error;
    bool asked;     /* in this search, not only in the file that it found */
    bool reference; /* only asked for comparison: no member of the archive */
} bwi_trial;

typedef struct bwi_generation {
    int evaluations;   /* up to here */
    double best, mean; /* of the archive */
} bwi_generation;

typedef struct bwi_trials {
    const bwi_problem *problem; /* borrowed */
    char *path;                 /* NULL: in memory alone */
    bwi_trial *trial;
    int n, room;
    int *slot; /* hash table of trials; -1: free */
    int n_slots;
    int *archive; /* [keep] trials, best first */
    int keep, archived;
    bwi_generation *generation;
    int generations;
    int asked, fresh, total; /* fresh: evaluated by this call; total: expected */
    int chunk;               /* evaluated at a time */
    int stop_after;          /* > 0: fresh evaluations before BW_INTERRUPTED */
    double start;
    bw_search_event_fn on_event;
    void *user;
} bwi_trials;

/* key: a flat object of what evaluations depend on. path NULL: no file. resume: a file that is there is read, its torn end cut off;
 * BW_ARG when it was made under another key, naming what differs. Otherwise a file is replaced. keep: size of the archive. */
BW_MUST_USE bw_status bwi_trials_open(bwi_trials *t, const bwi_problem *p, const char *path, json_t *key, bool resume, int keep,
                                      bw_error *err);
void bwi_trials_close(bwi_trials *t); /* accepts a zeroed struct */
bool bwi_trials_seen(const bwi_trials *t, const uint8_t *bits);
/* Errors of count different assignments, bits [count][problem->n]; those of members compete for the archive. BW_INTERRUPTED: a callback asked to stop. */
BW_MUST_USE bw_status bwi_trials_run(bwi_trials *t, const uint8_t *bits, int count, bool members, bw_error *err);
/* Trial number i of the archive, the best is 0; NULL past the end. */
const bwi_trial *bwi_trials_best(const bwi_trials *t, int i);
/* Error of an assignment that was asked for; NaN: it was not. */
double bwi_trials_error(const bwi_trials *t, const uint8_t *bits);
/* Notes where the search stands. */
BW_MUST_USE bw_status bwi_trials_generation(bwi_trials *t, bw_error *err);
#endif
