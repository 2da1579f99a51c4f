#include "progress.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PLAIN_INTERVAL 30.0 /* seconds between lines within an epoch when stderr is not a terminal */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *duration_text(double seconds, char *buf, size_t size)
{
    long s = seconds < 0 ? 0 : (long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(buf, size, "%ld h %02ld min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(buf, size, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(buf, size, "%ld s", s);
    return buf;
}

void progress_init(progress *p, bool quiet)
{
    *p = (progress){.terminal = isatty(STDERR_FILENO) == 1, .quiet = quiet, .last_plain = now()};
}

void progress_end(progress *p)
{
    if (p->shown) fputc('\n', stderr);
    p->shown = 0;
}

static void rewrite(progress *p, const char *line)
{
    int n = (int)strlen(line), pad = p->shown > n ? p->shown - n : 0;
    fprintf(stderr, "\r%s%*s", line, pad, "");
    fflush(stderr);
    p->shown = n;
}

static void step_line(const bw_event *e, char *buf, size_t size)
{
    char left[40] = "?";
    if (e->seconds_left >= 0) duration_text(e->seconds_left, left, sizeof left);
    if (*e->text) {
        snprintf(buf, size, "epoch %lld/%lld  %s  %s left", (long long)e->epoch, (long long)e->epochs, e->text, left);
        return;
    }
    snprintf(buf, size, "epoch %lld/%lld  step %lld/%lld  loss %.4f  accuracy %.2f %%  %.0f images/s  %s left",
             (long long)e->epoch, (long long)e->epochs, (long long)e->step, (long long)e->steps, e->train_loss, e->train_top1,
             e->images_per_s, left);
}

static void epoch_line(const bw_event *e, char *buf, size_t size)
{
    char left[40] = "?", test[80] = "";
    if (e->seconds_left >= 0) duration_text(e->seconds_left, left, sizeof left);
    if (!isnan(e->test_top1))
        snprintf(test, sizeof test, "  test loss %.4f  test accuracy %.2f %%", e->test_loss, e->test_top1);
    snprintf(buf, size, "epoch %lld/%lld  loss %.4f  accuracy %.2f %%%s  %.0f images/s  %s left", (long long)e->epoch,
             (long long)e->epochs, e->train_loss, e->train_top1, test, e->images_per_s, left);
}

void progress_event(progress *p, const bw_event *e)
{
    char line[240];
    if (p->quiet) return;
    switch (e->kind) {
    case BW_EVENT_NOTE:
        progress_end(p);
        fprintf(stderr, "%s\n", e->text);
        break;
    case BW_EVENT_STEP:
        if (!p->terminal && now() - p->last_plain < PLAIN_INTERVAL) break;
        step_line(e, line, sizeof line);
        p->last_plain = now();
        if (p->terminal)
            rewrite(p, line);
        else
            fprintf(stderr, "%s\n", line);
        break;
    case BW_EVENT_EPOCH:
        epoch_line(e, line, sizeof line);
        p->last_plain = now();
        if (p->terminal) rewrite(p, line);
        if (p->terminal)
            progress_end(p);
        else
            fprintf(stderr, "%s\n", line);
        break;
    }
}

void progress_search(progress *p, const bw_search_event *e)
{
    char line[240], left[40] = "?", found[80] = "";
    if (p->quiet) return;
    const bool last = e->evaluations == e->expected;
    if (!p->terminal && !last && now() - p->last_plain < PLAIN_INTERVAL) return;
    p->last_plain = now();
    if (e->seconds_left >= 0) duration_text(e->seconds_left, left, sizeof left);
    if (!isnan(e->best)) snprintf(found, sizeof found, "  best error %.2f %%  mean %.2f %%", e->best, e->mean);
    snprintf(line, sizeof line, "evaluation %d/%d  generation %d%s  %.2f/s  %s left", e->evaluations, e->expected,
             e->generation, found, e->per_s, left);
    if (p->terminal)
        rewrite(p, line);
    else
        fprintf(stderr, "%s\n", line);
}

static volatile sig_atomic_t asked;
static void on_signal(int number)
{
    (void)number;
    asked = 1;
}

void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool stop_asked(void)
{
    return asked != 0;
}
