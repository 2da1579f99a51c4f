/* The table of operations, from ops.def. */
#include "nn/nn.h"
#include <string.h>

#define ROW(name) extern const bwi_op bwi_op_##name;
#include "nn/ops.def"
#undef ROW

static const bwi_op *const ops[] = {
#define ROW(name) &bwi_op_##name,
#include "nn/ops.def"
#undef ROW
};

const bwi_op *bwi_op_at(size_t i)
{
    return i < sizeof ops / sizeof *ops ? ops[i] : NULL;
}

const bwi_op *bwi_op_find(const char *name)
{
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (!strcmp(ops[i]->name, name)) return ops[i];
    return NULL;
}
