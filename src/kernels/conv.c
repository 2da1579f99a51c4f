/* Rows of convolution kernels. */
#include "kernels/conv.h"
#include "base/cpu.h"
#include <string.h>

#define ROW(name) extern const bwk_conv bwk_conv_##name;
#include "kernels/conv/conv.def"
#undef ROW

static const bwk_conv *const convs[] = {
#define ROW(name) &bwk_conv_##name,
#include "kernels/conv/conv.def"
#undef ROW
};

const bwk_conv *bwk_conv_at(size_t i)
{
    return i < sizeof convs / sizeof *convs ? convs[i] : NULL;
}

const bwk_conv *bwk_conv_find(const char *name)
{
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++)
        if (!strcmp(convs[i]->name, name)) return convs[i];
    return NULL;
}

bool bwk_conv_usable(const bwk_conv *k, const bwk_conv_spec *s)
{
    return (k->needs & ~bwi_cpu_flags()) == 0 && k->accepts(s);
}

const bwk_conv *bwk_conv_choose(const bwk_conv_spec *s)
{
    size_t i = 0;
    while (!bwk_conv_usable(convs[i], s) || (convs[i]->pays && !convs[i]->pays(s))) i++;
    return convs[i];
}
