/* What tests share with the scripts of tests/golden: numbers that both sides draw instead of storing them, and the order of PyTorch's tensors. */
#ifndef BWI_TEST_GOLDEN_H
#define BWI_TEST_GOLDEN_H
#include "nn/nn.h"
#include <math.h>
#include <string.h>

/* Number i of key: splitmix64 at FNV-1a(key) + (i + 1) * golden ratio. */
static inline uint64_t key_of(const char *prefix, const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (const char *s = prefix; *s; s++) h = (h ^ (uint8_t)*s) * 0x100000001B3u;
    for (const char *s = name; *s; s++) h = (h ^ (uint8_t)*s) * 0x100000001B3u;
    return h;
}
static inline uint64_t bits(uint64_t key, size_t i)
{
    uint64_t z = key + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static inline double draw(uint64_t key, size_t i)
{
    return (double)(bits(key, i) >> 11) / 4503599627370496.0 - 1.0;
}

/* Position in memory (OHWI) of element i in PyTorch's order (OIHW). */
static inline size_t place(const bwi_param *p, size_t i)
{
    if (p->ndim != 4) return i;
    size_t ic = (size_t)p->dim[1], hw = (size_t)(p->dim[2] * p->dim[3]);
    size_t o = i / (ic * hw), c = i / hw % ic, k = i % hw;
    return (o * hw + k) * ic + c;
}

static inline void fill_params(bwi_graph *g)
{
    for (int i = 0; i < g->n_params; i++) {
        bwi_param *p = &g->param[i];
        if (p->role == BWI_PARAM_STATE || p->role == BWI_PARAM_QUANT) continue;
        size_t len = strlen(p->name);
        double bound = p->role == BWI_PARAM_WEIGHT ? sqrt(6.0 / (double)(p->numel / (size_t)p->dim[0])) : 0.2;
        double middle = p->role == BWI_PARAM_NORM && strcmp(p->name + len - 7, ".weight") == 0 ? 1 : 0;
        uint64_t key = key_of("", p->name);
        for (size_t k = 0; k < p->numel; k++)
            bwi_real_put(p->dtype, p->data, place(p, k), (double)(float)(draw(key, k) * bound + middle));
    }
    g->version++;
}
#endif
