#include "search/budgets.h"
#include "quant/quant.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(name) extern const bwi_budget bwi_budget_##name;
#include "search/budgets.def"
#undef ROW
static const bwi_budget *const budgets[] = {
#define ROW(name) &bwi_budget_##name,
#include "search/budgets.def"
#undef ROW
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

const bwi_budget *bwi_budget_at(size_t i)
{
    return i < COUNT(budgets) ? budgets[i] : NULL;
}

bw_status bwi_budget_parse(const char *text, const bwi_budget **budget, const char **value, bw_error *err)
{
    const char *names[COUNT(budgets)];
    char word[48];
    const size_t length = strcspn(text, "=");
    *budget = NULL;
    for (size_t i = 0; i < COUNT(budgets); i++) {
        names[i] = budgets[i]->name;
        if (strlen(names[i]) == length && !strncmp(names[i], text, length)) *budget = budgets[i];
    }
    snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1), text);
    if (!*budget) return bwi_fail_unknown(err, "budget", word, names, COUNT(budgets));
    *value = text + length + (text[length] == '=');
    if (!**value)
        return bwi_fail(err, BW_ARG, "budget '%s': the limit is missing; write %s=LIMIT, such as %s", text, word,
                        (*budget)->values);
    return BW_OK;
}

bw_status bwi_budget_value(const bwi_budget *b, const char *value, const char *suffixes, double *number, int *suffix,
                           bw_error *err)
{
    char *end;
    *number = value[0] >= '0' && value[0] <= '9' ? strtod(value, &end) : NAN;
    if (isfinite(*number) && *number > 0) {
        *suffix = 0;
        for (const char *s = suffixes; *s; ++*suffix) {
            const size_t length = strcspn(s, " ");
            if (strlen(end) == length && !strncmp(s, end, length)) return BW_OK;
            s += length + strspn(s + length, " ");
        }
    }
    return bwi_fail(err, BW_ARG, "budget %s=%.40s: expected a limit such as %s", b->name, value, b->values);
}
