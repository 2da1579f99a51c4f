/* Random numbers. Generators are keyed, not carried along: a draw depends only on (seed, purpose, a, b), e.g. on the run's seed,
 * "augment", the epoch and the image's index. So the state of every random stream in a checkpoint is the seed and the step, and
 * results do not depend on the number of threads or on prefetching. */
#ifndef BWI_RNG_H
#define BWI_RNG_H
#include <stddef.h>
#include <stdint.h>

typedef enum bwi_rng_purpose {
    BWI_RNG_INIT = 1,
    BWI_RNG_ORDER,
    BWI_RNG_AUGMENT,
    BWI_RNG_DATASET,
    BWI_RNG_METHOD,
    BWI_RNG_TEST,
    BWI_RNG_HESSIAN,
    BWI_RNG_SEARCH
} bwi_rng_purpose;
/* xoshiro256**, seeded by splitmix64 of the key */
typedef struct bwi_rng {
    uint64_t s[4];
} bwi_rng;

bwi_rng bwi_rng_make(uint64_t seed, bwi_rng_purpose purpose, uint64_t a, uint64_t b);
uint64_t bwi_rng_u64(bwi_rng *r);
uint32_t bwi_rng_below(bwi_rng *r, uint32_t n); /* uniform in [0, n), n > 0, unbiased */
double bwi_rng_uniform(bwi_rng *r);             /* [0, 1), 53 bits */
double bwi_rng_normal(bwi_rng *r);              /* mean 0, sd 1 */
void bwi_rng_shuffle(bwi_rng *r, uint32_t *v, size_t n);
uint64_t bwi_hash(const void *data, size_t n); /* FNV-1a */
uint64_t bwi_hash_str(const char *s);          /* the same of a name */
#endif
