/* The generated data set: one of five shapes, filled with level or with upright stripes, in noise and clutter. An image is a function of
 * its number alone, so nothing is stored and any thread can make any image.
 *
 * Shape and direction of the stripes together make the class. Colours lean on the shape but overlap widely: they give training a start,
 * not an answer. Position, size, angle, contrast, phase and period are random, the background has faint stripes of any direction, and bars
 * cross the image. So a network has to find the outline and to weigh faint fine texture inside it against noise, which is what few bits
 * are bad at.
 *
 * Only +, -, *, / and sqrt in float, which IEEE 754 defines to the bit: every machine gets the same images. */
#include "data/data.h"
#include "base/rng.h"
#include <math.h>

enum { SIDE = 32, N_TRAIN = 20000, N_TEST = 4000, SHAPES = 5, BARS = 2, SEED = 20240229 };

/* Grey levels that set the difficulty. */
static const float stripes_min = 10, stripes_max = 36; /* amplitude inside the shape */
static const float back_max = 26;                      /* amplitude in the background */
static const float edge_min = 8, edge_max = 52;        /* step from the background to the shape */
static const float noise = 30;                         /* standard deviation */
static const float lean = 10;                          /* of a shape's colour */

/* A pattern of parallel stripes. */
typedef struct stripes {
    float dx, dy, phase; /* turns a pixel, turns */
    float amplitude;     /* grey levels */
} stripes;

/* A straight bar across the image. */
typedef struct bar {
    float c, s, at, half; /* normal, distance from the centre, half the width in pixels */
    float level;          /* added grey levels */
} bar;

/* Everything random about one image but its noise. */
typedef struct scene {
    int shape;
    float x, y, radius, c, s;         /* of the shape: centre, radius, angle */
    stripes in, out;                  /* in the shape, in the background */
    float base[3], step[3], slope[3]; /* background colour, the shape's difference from it, gradient across the image */
    float gx, gy;                     /* direction of the gradient */
    bar bars[BARS];
} scene;

static inline float larger(float a, float b)
{
    return a > b ? a : b;
} /* fmaxf, but one instruction */
static inline float smaller(float a, float b)
{
    return a < b ? a : b;
}

static float between(bwi_rng *r, float lo, float hi)
{
    return lo + (hi - lo) * ((float)(bwi_rng_u64(r) >> 40) * 0x1p-24f);
}

/* A wave of period 1 between -1 and 1, close to a sine: two parabolas. |t| < 2^20. */
static inline float wave(float t)
{
    const float f = t - ((t + 12582912.0f) - 12582912.0f); /* -0.5 .. 0.5 */
    return 8.0f * f * (1.0f - 2.0f * fabsf(f));
}

/* Unit vector within 2 atan(spread) of the x axis, by the rational parametrisation of the circle. */
static void direction(bwi_rng *r, float spread, float *c, float *s)
{
    const float t = between(r, -spread, spread);
    *c = (1 - t * t) / (1 + t * t);
    *s = 2 * t / (1 + t * t);
}

static stripes make_stripes(bwi_rng *r, bool upright, float spread, float amplitude)
{
    float c, s;
    direction(r, spread, &c, &s);
    const float period = between(r, 3.5f, 5.0f), phase = between(r, 0, 1);
    return (stripes){(upright ? c : s) / period, (upright ? s : c) / period, phase, amplitude};
}

static bar make_bar(bwi_rng *r)
{
    bar b;
    direction(r, 1, &b.c, &b.s);
    b.at = between(r, -14, 14);
    b.half = between(r, 0.3f, 0.9f);
    b.level = between(r, -30, 30);
    return b;
}

static scene make_scene(bwi_rng *r, int label)
{
    static const float hue[SHAPES][3] = {{1, 0, -1}, {-1, 1, 0}, {0, -1, 1}, {-1, -1, 1}, {1, 1, -1}};
    scene s = {.shape = label % SHAPES};
    /* One draw a statement: C leaves the order of draws within an expression open. */
    const float in = between(r, stripes_min, stripes_max), back = between(r, 0, back_max);
    const bool upright = bwi_rng_below(r, 2), darker = bwi_rng_below(r, 2);
    s.in = make_stripes(r, label >= SHAPES, 0.15f, in);
    s.out = make_stripes(r, upright, 0.42f, back);
    s.radius = between(r, 8, 12);
    s.x = between(r, s.radius, SIDE - s.radius) - 0.5f;
    s.y = between(r, s.radius, SIDE - s.radius) - 0.5f;
    direction(r, 0.15f, &s.c, &s.s);
    direction(r, 1, &s.gx, &s.gy);
    const float strength = between(r, edge_min, edge_max), edge = darker ? -strength : strength;
    for (int k = 0; k < 3; k++) {
        s.base[k] = between(r, 80, 176);
        s.step[k] = edge + lean * hue[s.shape][k] + between(r, -20, 20);
        s.slope[k] = between(r, -1.2f, 1.2f);
    }
    for (int i = 0; i < BARS; i++) s.bars[i] = make_bar(r);
    return s;
}

/* Distance in pixels, negative inside, of a point in the shape's own frame; all shapes of one radius have about the same area. */
static inline float outline(int shape, float u, float v, float radius)
{
    const float au = fabsf(u), av = fabsf(v), far = larger(au, av), near = smaller(au, av);
    switch (shape) {
    case 0:
        return sqrtf(u * u + v * v) - 0.90f * radius; /* disc */
    case 1:
        return far - 0.80f * radius; /* square */
    case 2:
        return larger(0.866f * au + 0.5f * v, -v) - 0.70f * radius; /* triangle */
    case 3:
        return larger(near - 0.42f * radius, far - 1.06f * radius); /* cross */
    default:
        return fabsf(sqrtf(u * u + v * v) - 0.74f * radius) - 0.34f * radius; /* ring */
    }
}

/* How much of a pixel lies inside an edge at this distance. */
static inline float coverage(float distance)
{
    return smaller(larger(0.5f - distance, 0), 1);
}

/* Row y of the image, [32,3], out. */
static void render_row(const scene *s, int y, bwi_rng *r, uint8_t *out)
{
    const float centre = 0.5f * (SIDE - 1), fy = (float)y, cy = fy - centre, py = fy - s->y;
    float cover[SIDE], grey[SIDE], along[SIDE];
    for (int x = 0; x < SIDE; x++) {
        const float fx = (float)x, px = fx - s->x;
        cover[x] = coverage(outline(s->shape, px * s->c + py * s->s, py * s->c - px * s->s, s->radius));
        const float in = s->in.amplitude * wave(fx * s->in.dx + fy * s->in.dy + s->in.phase);
        const float back = s->out.amplitude * wave(fx * s->out.dx + fy * s->out.dy + s->out.phase);
        grey[x] = back + cover[x] * (in - back);
        along[x] = (fx - centre) * s->gx + cy * s->gy;
    }
    for (const bar *b = s->bars; b < s->bars + BARS; b++)
        for (int x = 0; x < SIDE; x++) {
            grey[x] += b->level * coverage(fabsf(((float)x - centre) * b->c + cy * b->s - b->at) - b->half);
        }
    for (int x = 0; x < SIDE; x++) {
        const uint64_t bits = bwi_rng_u64(r);
        for (int k = 0; k < 3; k++) {
            /* The sum of two random bytes: its standard deviation is 104.5. */
            const int n = (int)(bits >> (16 * k) & 255) + (int)(bits >> (16 * k + 8) & 255) - 255;
            const float v = s->base[k] + s->slope[k] * along[x] + s->step[k] * cover[x] + grey[x] + noise / 104.5f * (float)n;
            out[3 * x + k] = (uint8_t)(smaller(larger(v, 0), 255) + 0.5f);
        }
    }
}

static int32_t shapes_image(const bwi_dataset *d, bwi_split split, int i, uint8_t *out)
{
    const int label = i % d->classes;
    bwi_rng r = bwi_rng_make(SEED, BWI_RNG_DATASET, (uint64_t)split, (uint64_t)i);
    const scene s = make_scene(&r, label);
    for (int y = 0; y < SIDE; y++) render_row(&s, y, &r, out + y * SIDE * 3);
    return label;
}

static const char *const names[2 * SHAPES] = {
    "level disc",   "level square",   "level triangle",   "level cross",   "level ring",
    "upright disc", "upright square", "upright triangle", "upright cross", "upright ring",
};

static bw_status shapes_open(bwi_dataset *d, const char *path, bw_error *err)
{
    (void)path, (void)err;
    d->n[BWI_TRAIN] = N_TRAIN;
    d->n[BWI_TEST] = N_TEST;
    d->shape = (bwi_shape){SIDE, SIDE, 3};
    d->classes = 2 * SHAPES;
    d->class_name = names;
    d->image = shapes_image;
    return BW_OK;
}

const bwi_dataset_row bwi_dataset_row_shapes = {
    "shapes", "generated: 20,000 + 4,000 colour images of 32x32, striped shapes in clutter, 10 classes", false, shapes_open};
