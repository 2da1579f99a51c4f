/* Status codes and messages, for both halves of the interface: bitwright.h and run.h. */
#ifndef BITWRIGHT_STATUS_H
#define BITWRIGHT_STATUS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, text */
#define BW_STATUS_MAP(X)                                                                                                       \
    X(OK, "success")                                                                                                           \
    X(NOMEM, "out of memory")                                                                                                  \
    X(IO, "a file could not be read or written")                                                                               \
    X(FORMAT, "a file is damaged or not of the expected format")                                                               \
    X(ARG, "an argument or recipe key is not valid")                                                                           \
    X(SHAPE, "shapes do not fit")                                                                                              \
    X(UNSUPPORTED, "not supported")                                                                                            \
    X(NUMERIC, "training produced a value that is not finite or a quantizer collapsed")                                        \
    X(INTERRUPTED, "stopped on request")                                                                                       \
    X(INTERNAL, "an internal error, please report it")

typedef enum bw_status {
#define BW_X(name, text) BW_##name,
    BW_STATUS_MAP(BW_X)
#undef BW_X
} bw_status;

#if defined(__GNUC__)
#define BW_MUST_USE __attribute__((warn_unused_result))
#else
#define BW_MUST_USE
#endif

typedef struct bw_error {
    bw_status status;
    char msg[1000];
} bw_error;
#endif
