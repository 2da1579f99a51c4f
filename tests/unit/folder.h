/* A folder of its own for a test program: setup and teardown of its group. */
#ifndef TESTS_FOLDER_H
#define TESTS_FOLDER_H
#include <stdio.h>
#include <stdlib.h>

static char root[256];

static inline int make_root(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/bitwright-test-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static inline int remove_root(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static inline const char *in_root(const char *name) /* valid for four calls */
{
    static char path[4][400];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", root, name);
    return path[i];
}
#endif
