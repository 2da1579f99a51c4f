/* xoshiro256** 1.0 (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021), seeded by splitmix64 as its authors
 * advise. Everything here gives the same bits on every machine: integers, IEEE basic operations and square roots only. */
#include "base/rng.h"
#include <math.h>
#include <string.h>

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

bwi_rng bwi_rng_make(uint64_t seed, bwi_rng_purpose purpose, uint64_t a, uint64_t b)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u, key[4] = {seed, (uint64_t)purpose, a, b};
    uint64_t x = 0;
    bwi_rng r;
    /* Each step is a bijection of x for a fixed key, and of the key for a fixed x: keys that differ in one part never meet. */
    for (int i = 0; i < 4; i++) x = mix((x + golden) ^ key[i]);
    for (int i = 0; i < 4; i++) r.s[i] = mix(x += golden);
    return r;
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t bwi_rng_u64(bwi_rng *r)
{
    uint64_t *s = r->s, result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

/* Lemire, "Fast random integer generation in an interval", 2019: a multiplication, and rejection of the few draws that would make some
 * results more likely. */
uint32_t bwi_rng_below(bwi_rng *r, uint32_t n)
{
    uint64_t m = (bwi_rng_u64(r) >> 32) * n;
    if ((uint32_t)m < n) {
        uint32_t reject = -n % n;
        while ((uint32_t)m < reject) m = (bwi_rng_u64(r) >> 32) * n;
    }
    return (uint32_t)(m >> 32);
}

double bwi_rng_uniform(bwi_rng *r)
{
    return (double)(bwi_rng_u64(r) >> 11) * 0x1p-53;
}

/* ln x for normal x > 0 by the series of atanh. The C library's may differ in the last bit from one CPU to another. */
static double ln(double x)
{
    int e;
    double m = frexp(x, &e);
    if (m < 0.70710678118654752) {
        m *= 2;
        e--;
    }
    double z = (m - 1) / (m + 1), z2 = z * z, sum = 0; /* |z| <= 0.1716: z^24 is below the precision of a double */
    for (int k = 23; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
    return 2 * z * sum + e * 0.69314718055994531;
}

/* Marsaglia's polar method; the second value is thrown away, so that the state is the key and the number of draws. */
double bwi_rng_normal(bwi_rng *r)
{
    double x, y, s;
    do {
        x = 2 * bwi_rng_uniform(r) - 1;
        y = 2 * bwi_rng_uniform(r) - 1;
        s = x * x + y * y;
    } while (s >= 1 || s == 0);
    return x * sqrt(-2 * ln(s) / s);
}

void bwi_rng_shuffle(bwi_rng *r, uint32_t *v, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = bwi_rng_below(r, (uint32_t)i);
        uint32_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

uint64_t bwi_hash(const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

uint64_t bwi_hash_str(const char *s)
{
    return bwi_hash(s, strlen(s));
}
