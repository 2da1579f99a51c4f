/* The public headers stand alone: nothing is included before them, and nothing of their own is missing. */
#include <bitwright/run.h>
static const size_t size_of_info = sizeof(bw_net_info);

#include <bitwright/bitwright.h>

static bool has_text(bw_status status)
{
    return bw_status_text(status) != NULL;
}
static int header_works(void)
{
    return has_text(BW_OK) && sizeof(bw_error) > sizeof(bw_status) && BW_VERSION[0] != 0;
}

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void header_stands_alone(void **state)
{
    (void)state;
    assert_true(size_of_info > 0 && header_works());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(header_stands_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
