/* cmocka with what it needs, and a check of calls that report errors. */
#ifndef BWI_TEST_CHECK_H
#define BWI_TEST_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/status.h"

/* expr may name err. */
#define CHECK(expr)                                                                                                            \
    do {                                                                                                                       \
        bw_error err_ = {0};                                                                                                   \
        bw_error *err = &err_;                                                                                                 \
        if ((expr) != BW_OK) fail_msg("%s: %s", #expr, err->msg);                                                              \
    } while (0)
#endif
