/* Feeds every file of a folder to a fuzz target, so that its corpus is replayed by the ordinary tests. Exit status 77: there is none. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    uint8_t *data = NULL;
    size_t size = 0, cap = 1 << 12;
    for (;;) {
        uint8_t *p = realloc(data, cap);
        if (!p) abort();
        data = p;
        size += fread(data + size, 1, cap - size, f);
        if (size < cap) break;
        cap *= 2;
    }
    fclose(f);
    /* A block of exactly its size: address checkers then see a read of one byte too many. */
    uint8_t *exact = realloc(data, size ? size : 1);
    if (!exact) abort();
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 0;
}

int main(int argc, char **argv)
{
    int failed = 0, n = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    struct dirent **entry;
    int entries = scandir(argv[1], &entry, NULL, alphasort);
    for (int i = 0; i < entries; i++) {
        char path[4096];
        if (entry[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", argv[1], entry[i]->d_name);
            printf("%s\n", path);
            fflush(stdout); /* names the file when it crashes */
            failed += replay(path);
            n++;
        }
        free(entry[i]);
    }
    if (entries >= 0) free(entry);
    printf("%d inputs from %s\n", n, argv[1]);
    return failed ? 1 : n ? 0 : 77;
}
