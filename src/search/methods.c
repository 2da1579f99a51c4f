#include "search/methods.h"
#include <stdio.h>
#include <string.h>

#define ROW(name) extern const bwi_method bwi_method_##name;
#include "search/methods.def"
#undef ROW
static const bwi_method *const methods[] = {
#define ROW(name) &bwi_method_##name,
#include "search/methods.def"
#undef ROW
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

const bwi_method *bwi_method_at(size_t i)
{
    return i < COUNT(methods) ? methods[i] : NULL;
}

bw_status bwi_method_parse(const char *text, const bwi_method **method, double *opt, bw_error *err)
{
    const char *names[COUNT(methods)];
    char word[48];
    const size_t length = strcspn(text, ":");
    *method = NULL;
    for (size_t i = 0; i < COUNT(methods); i++) {
        names[i] = methods[i]->name;
        if (strlen(names[i]) == length && !strncmp(names[i], text, length)) *method = methods[i];
    }
    snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1), text);
    if (!*method) return bwi_fail_unknown(err, "way of searching", word, names, COUNT(methods));
    return bwi_options_parse((*method)->name, (*method)->option, text[length] ? text + length + 1 : NULL, opt, err);
}
