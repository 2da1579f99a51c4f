#include "base/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *bw_status_text(bw_status status)
{
    switch (status) {
#define BW_X(name, text)                                                                                                       \
    case BW_##name:                                                                                                            \
        return text;
        BW_STATUS_MAP(BW_X)
#undef BW_X
    }
    return "an unknown status";
}

/* Formats through a buffer of its own, so that an argument may be the message that it replaces. A message that does not fit ends in "...". */
static int format(char *out, size_t size, const char *fmt, va_list args)
{
    int n = vsnprintf(out, size, fmt, args);
    if (n < 0) {
        out[0] = 0;
        return 0;
    }
    if ((size_t)n < size) return n;
    memcpy(out + size - 4, "...", 4);
    return (int)size - 1;
}

bw_status bwi_fail(bw_error *err, bw_status status, const char *fmt, ...)
{
    if (!err) return status;
    char msg[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    int n = format(msg, sizeof msg, fmt, args);
    va_end(args);
    err->status = status;
    memcpy(err->msg, msg, (size_t)n + 1);
    return status;
}

bw_status bwi_fail_in(bw_error *err, bw_status status, const char *fmt, ...)
{
    if (!err) return status;
    char context[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    format(context, sizeof context, fmt, args);
    va_end(args);
    if (err->status != BW_OK) status = err->status;
    return bwi_fail(err, status, "%s: %s", context, err->msg[0] ? err->msg : bw_status_text(status));
}

enum { WORD = 64 };

/* Edits (insert, delete, replace, swap of neighbours) that turn a into b; both shorter than WORD. */
static size_t edits(const char *a, size_t na, const char *b, size_t nb)
{
    size_t row[3][WORD], *before = row[0], *last = row[1], *now = row[2];
    for (size_t j = 0; j <= nb; j++) last[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            now[j] = best;
        }
        size_t *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[nb];
}

const char *bwi_nearest(const char *word, const char *const *names, size_t n)
{
    size_t length = strlen(word), least = length / 3 + 2; /* a third of the letters, and one, may be wrong */
    const char *best = NULL;
    if (length >= WORD) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t l = strlen(names[i]);
        if (l >= WORD) continue;
        size_t d = edits(word, length, names[i], l);
        if (d < least && d < length && d < l) {
            least = d;
            best = names[i];
        }
    }
    return best;
}
