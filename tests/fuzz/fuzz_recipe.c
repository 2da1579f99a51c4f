/* Recipes from arbitrary bytes: whatever loads must write a text that loads as the same recipe; nothing may leak. */
#include "base/alloc.h"
#include "train/recipe.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int64_t live = bwi_alloc_live_blocks();
    bw_recipe *r = NULL, *again = NULL;
    bw_error err;
    if (bw_recipe_load(&r, NULL, NULL, 0, &err)) abort();
    if (bwi_recipe_yaml(r, "input", data, size, &err) == BW_OK) {
        const char *text = bw_recipe_text(r);
        bw_recipe *copy = NULL;
        if (!text) abort();
        if (bw_recipe_load(&copy, NULL, NULL, 0, &err) ||
            bwi_recipe_yaml(copy, "text", (const uint8_t *)text, strlen(text), &err) || bwi_recipe_same(r, copy, &err)) {
            fprintf(stderr, "%s\n%s", err.msg, text);
            abort();
        }
        if (bwi_recipe_parse(&again, "text", text, &err) && err.status != BW_ARG && err.status != BW_UNSUPPORTED) abort();
        bw_recipe_destroy(&copy);
        bw_recipe_destroy(&again);
    }
    bw_recipe_destroy(&r);
    if (bwi_alloc_live_blocks() != live) abort();
    return 0;
}
