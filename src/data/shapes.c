/* The generated data set: a shape of one of five outlines, filled with stripes or with checks, in noise and clutter. An image is a function
 * of its number alone, so nothing is stored and any thread can make any image.
 *
 * Outline and filling together make the class; position, size, angle, colours, contrast, phase and period of the texture are random. The
 * background carries a texture of its own, of either kind, and bars that cross the shape, so no local patch gives the class away: a
 * network has to find the outline and to compare faint fine texture inside it, which is what low-bit weights and activations are bad at.
 *
 * Only +, -, *, / and sqrt in float, which IEEE 754 defines to the bit, so that every machine gets the same images. */
#include "data/data.h"
#include "base/rng.h"
#include <math.h>

enum { SIDE = 32, PIXELS = SIDE * SIDE, N_TRAIN = 20000, N_TEST = 4000, OUTLINES = 5, BARS = 3 };
#define SEED 20240229u

#ifndef CONTRAST_LO
#define CONTRAST_LO 14.0f
#define CONTRAST_HI 40.0f
#define NOISE 22.0f
#define EDGE_LO 12.0f
#define EDGE_HI 60.0f
#define BACK_HI 30.0f
#define PERIOD_LO 3.2f
#define PERIOD_HI 5.0f
#endif

/* A pattern of period p at an angle: stripes, or checks (the product of stripes along both axes). */
typedef struct texture {
    float cx, sx;       /* direction in turns a pixel: cos and sin of the angle, over the period */
    float phase, other; /* in turns, along both axes */
    float amplitude;    /* in grey levels */
    bool checks;
} texture;

static float between(bwi_rng *r, float lo, float hi) { return lo + (hi - lo) * (float)(bwi_rng_u64(r) >> 40) * 0x1p-24f; }

/* A wave of period 1 between -1 and 1, close to a sine: two parabolas. |t| < 2^20. */
static inline float wave(float t)
{
    const float f = t - ((t + 12582912.0f) - 12582912.0f); /* -0.5 .. 0.5 */
    return 8.0f * f * (1.0f - 2.0f * fabsf(f));
}

/* Unit vector at a uniformly random angle: half the turn by the rational parametrisation would not be uniform, so a point of the disc. */
static void direction(bwi_rng *r, float *c, float *s)
{
    float x, y, n;
    do {
        x = between(r, -1, 1);
        y = between(r, -1, 1);
        n = x * x + y * y;
    } while (n > 1 || n < 0.01f);
    n = sqrtf(n);
    *c = x / n;
    *s = y / n;
}

static texture make_texture(bwi_rng *r, bool checks, float amplitude)
{
    texture t = {.checks = checks, .amplitude = amplitude};
    const float period = between(r, PERIOD_LO, PERIOD_HI) * (checks ? 1.2f : 1.0f);
    float c, s;
    direction(r, &c, &s);
    t.cx = c / period;
    t.sx = s / period;
    t.phase = between(r, 0, 1);
    t.other = between(r, 0, 1);
    return t;
}

/* One row of a texture: x from 0, y fixed. */
static void texture_row(const texture *t, float y, float *restrict out)
{
    for (int x = 0; x < SIDE; x++) {
        const float a = wave((float)x * t->cx + y * t->sx + t->phase), b = wave(y * t->cx - (float)x * t->sx + t->other);
        out[x] = t->amplitude * (t->checks ? 1.4f * a * b : a);
    }
}

/* Signed distance in pixels, negative inside, of a point in the shape's own frame; r is its radius. All five have about the same area. */
static inline float outline(int kind, float u, float v, float r)
{
    const float au = fabsf(u), av = fabsf(v), far = au > av ? au : av, near = au > av ? av : au;
    switch (kind) {
    case 0: return sqrtf(u * u + v * v) - 0.90f * r;                                                  /* disc */
    case 1: return far - 0.80f * r;                                                                   /* square */
    case 2: return (0.866f * au + 0.5f * v > -v ? 0.866f * au + 0.5f * v : -v) - 0.70f * r;           /* triangle */
    case 3: return (near - 0.42f * r > far - 1.06f * r ? near - 0.42f * r : far - 1.06f * r);         /* cross */
    default: return fabsf(sqrtf(u * u + v * v) - 0.74f * r) - 0.34f * r;                              /* ring */
    }
}

/* Everything random about one image but its noise. */
typedef struct scene {
    int kind;
    texture in, out;
    float x, y, radius, c, s;                          /* shape: centre, radius, angle */
    float base[3], step[3], slope[3];                  /* background colour, the shape's difference from it, gradient across the image */
    float gx, gy;                                      /* direction of the gradient */
    struct { float c, s, at, half, level[3]; } bar[BARS];
} scene;

static scene make_scene(bwi_rng *r, int label)
{
    scene s = {.kind = label % OUTLINES};
    const bool checks = label >= OUTLINES;
    s.in = make_texture(r, checks, between(r, CONTRAST_LO, CONTRAST_HI));
    s.out = make_texture(r, bwi_rng_below(r, 2), between(r, 0, BACK_HI));
    s.radius = between(r, 8.0f, 12.0f);
    s.x = between(r, s.radius, SIDE - s.radius) - 0.5f;
    s.y = between(r, s.radius, SIDE - s.radius) - 0.5f;
    direction(r, &s.c, &s.s);
    direction(r, &s.gx, &s.gy);
    const float edge = between(r, EDGE_LO, EDGE_HI) * (bwi_rng_below(r, 2) ? 1.0f : -1.0f);
    for (int k = 0; k < 3; k++) {
        s.base[k] = between(r, 80, 176);
        s.step[k] = edge + between(r, -20, 20);
        s.slope[k] = between(r, -1.2f, 1.2f);
    }
    for (int i = 0; i < BARS; i++) {
        direction(r, &s.bar[i].c, &s.bar[i].s);
        s.bar[i].at = between(r, -14, 14);
        s.bar[i].half = between(r, 0.3f, 0.9f);
        for (int k = 0; k < 3; k++) s.bar[i].level[k] = between(r, -50, 50);
    }
    return s;
}

static inline float clamp01(float v) { return v < 0 ? 0 : v > 1 ? 1 : v; }

static void render_row(const scene *s, int y, bwi_rng *r, uint8_t *out)
{
    float in[SIDE], back[SIDE], cover[SIDE], bar[BARS][SIDE];
    const float py = (float)y - s->y, cy = (float)y - 0.5f * (SIDE - 1);
    texture_row(&s->in, (float)y, in);
    texture_row(&s->out, (float)y, back);
    for (int x = 0; x < SIDE; x++) {
        const float px = (float)x - s->x;
        cover[x] = clamp01(0.5f - outline(s->kind, px * s->c + py * s->s, py * s->c - px * s->s, s->radius));
    }
    for (int i = 0; i < BARS; i++)
        for (int x = 0; x < SIDE; x++) {
            const float cx = (float)x - 0.5f * (SIDE - 1);
            bar[i][x] = clamp01(0.5f + s->bar[i].half - fabsf(cx * s->bar[i].c + cy * s->bar[i].s - s->bar[i].at));
        }
    for (int x = 0; x < SIDE; x++) {
        const float along = ((float)x - 0.5f * (SIDE - 1)) * s->gx + cy * s->gy;
        const uint64_t noise = bwi_rng_u64(r);
        for (int k = 0; k < 3; k++) {
            float v = s->base[k] + s->slope[k] * along + back[x] + cover[x] * (s->step[k] + in[x] - back[x]);
            for (int i = 0; i < BARS; i++) v += bar[i][x] * s->bar[i].level[k];
            const int n = (int)(noise >> (16 * k) & 255) + (int)(noise >> (16 * k + 8) & 255) - 255;
            v += NOISE / 104.0f * (float)n + 0.5f; /* the sum of two bytes has the standard deviation 104 */
            out[3 * x + k] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
    }
}

static int32_t shapes_image(const bwi_dataset *d, bwi_split split, int i, uint8_t *out)
{
    (void)d;
    const int label = i % (2 * OUTLINES);
    bwi_rng r = bwi_rng_make(SEED, BWI_RNG_DATASET, split, (uint64_t)i);
    const scene s = make_scene(&r, label);
    for (int y = 0; y < SIDE; y++) render_row(&s, y, &r, out + (size_t)y * SIDE * 3);
    return label;
}

static const char *const names[2 * OUTLINES] = {
    "striped disc", "striped square", "striped triangle", "striped cross", "striped ring",
    "checked disc", "checked square", "checked triangle", "checked cross", "checked ring",
};

static bw_status shapes_open(bwi_dataset *d, const char *path, bw_error *err)
{
    (void)path, (void)err;
    d->n[BWI_TRAIN] = N_TRAIN;
    d->n[BWI_TEST] = N_TEST;
    d->shape = (bwi_shape){SIDE, SIDE, 3};
    d->classes = 2 * OUTLINES;
    d->class_name = names;
    d->image = shapes_image;
    return BW_OK;
}

const bwi_dataset_row bwi_dataset_row_shapes = {
    "shapes", "generated: 20,000 + 4,000 colour images of 32x32, textured shapes in clutter, 10 classes", false, shapes_open};
