/* Failing with a message. Every fallible function takes a bw_error * as its last parameter (NULL allowed) and returns a bw_status. */
#ifndef BWI_STATUS_H
#define BWI_STATUS_H
#include "bitwright/bitwright.h"

/* Writes status and message into *err (when not NULL) and returns status. A message that is already there is replaced. */
bw_status bwi_fail(bw_error *err, bw_status status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "context: " before the message that is already in *err; returns err's status, or status when err is NULL. For callers that know the
 * file, key or layer that the callee did not. */
bw_status bwi_fail_in(bw_error *err, bw_status status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Runs expr; on failure stores the status in a local variable named st and goes to fail. */
#define BWI_TRY(expr)                                                                                                          \
    do {                                                                                                                       \
        st = (expr);                                                                                                           \
        if (st != BW_OK) goto fail;                                                                                            \
    } while (0)

/* The entry of names[0..n) nearest to word by edit distance, or NULL when none is close enough to be a typo of it. */
const char *bwi_nearest(const char *word, const char *const *names, size_t n);
#endif
