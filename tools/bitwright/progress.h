/* What a training run shows on stderr while it works. On a terminal one line is rewritten in place; elsewhere there is a plain line an
 * epoch and one about every 30 seconds, so that a log file stays readable. */
#ifndef BITWRIGHT_PROGRESS_H
#define BITWRIGHT_PROGRESS_H
#include <bitwright/bitwright.h>

typedef struct progress {
    bool terminal, quiet;
    int shown;         /* length of the line on the terminal that is to be rewritten; 0: none */
    double last_plain; /* seconds, monotonic */
} progress;

void progress_init(progress *p, bool quiet);
void progress_event(progress *p, const bw_event *event);
void progress_search(progress *p, const bw_search_event *event);
/* Ends the rewritten line, so that other text can follow. */
void progress_end(progress *p);
/* The first Ctrl-C or SIGTERM asks to stop; the handler is then gone and a second one has its default effect. */
void catch_signals(void);
bool stop_asked(void);
/* "1 h 02 min", "3 min 05 s", "12 s" into buf. */
const char *duration_text(double seconds, char *buf, size_t size);
#endif
