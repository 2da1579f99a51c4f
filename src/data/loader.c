/* Prefetching loader. One thread fills a ring of batches; the caller holds at most one of them. The thread alone writes slots and the
 * order of images; what both sides see is under one mutex. A restart raises `generation`, and what the thread was preparing is dropped. */
#include "data/data.h"
#include "base/alloc.h"
#include "base/rng.h"
#include <pthread.h>
#include <string.h>

enum { RING = 3, PAD = 4, MAX_CHANNELS = 3 };

typedef struct slot {
    float *x;        /* [batch,h,w,c] */
    int32_t *labels; /* [batch] */
    uint32_t *index; /* [batch] */
    int n;
} slot;

struct bwi_loader {
    const bwi_dataset *d;
    bwi_loader_options o;
    int n, steps;                   /* images and batches an epoch */
    float value[MAX_CHANNELS][256]; /* normalised value of a pixel */

    /* of the thread */
    uint32_t *pool;      /* [n], the images that it gives */
    uint32_t *order;     /* [n] */
    int64_t order_epoch; /* the epoch that `order` belongs to, -1: none */
    uint8_t *image;      /* [h,w,c] */
    uint8_t *padded;     /* [h+8,w+8,c], its border stays black */

    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t work, ready; /* a slot came free or a restart; a slot was filled */
    bool has_mutex, has_work, has_ready, has_thread;

    /* under the mutex */
    bool stop, started, held; /* held: the caller has slot `first` - 1 */
    uint64_t generation;
    int64_t epoch;
    int prepared, delivered; /* batches of this epoch */
    int first, filled;       /* the oldest filled slot, filled slots */
    slot ring[RING];
};

static void make_order(bwi_loader *l, int64_t epoch)
{
    if (l->order_epoch == epoch) return;
    memcpy(l->order, l->pool, (size_t)l->n * sizeof *l->order);
    if (l->o.shuffle) {
        bwi_rng r = bwi_rng_make(l->o.seed, BWI_RNG_ORDER, (uint64_t)epoch, 0);
        bwi_rng_shuffle(&r, l->order, (size_t)l->n);
    }
    l->order_epoch = epoch;
}

/* Looks up `pixels` pixels of c channels. */
static void normalize(const bwi_loader *l, const uint8_t *restrict in, float *restrict out, int pixels)
{
    const int c = l->d->shape.c;
    if (c == 3) {
        for (int i = 0; i < pixels; i++, in += 3, out += 3) {
            out[0] = l->value[0][in[0]];
            out[1] = l->value[1][in[1]];
            out[2] = l->value[2][in[2]];
        }
        return;
    }
    for (int i = 0; i < pixels; i++)
        for (int k = 0; k < c; k++) *out++ = l->value[k][*in++];
}

/* One row, mirrored. */
static void mirror(const uint8_t *restrict in, uint8_t *restrict out, int w, int c)
{
    for (int x = 0; x < w; x++)
        for (int k = 0; k < c; k++) out[x * c + k] = in[(w - 1 - x) * c + k];
}

/* Crops and flips l->image, keyed by seed, epoch and image number, and normalises it into out [h,w,c]. */
static void augment(bwi_loader *l, int64_t epoch, uint32_t index, float *out)
{
    const bwi_shape s = l->d->shape;
    const size_t row = (size_t)s.w * (size_t)s.c, padded_row = (size_t)(s.w + 2 * PAD) * (size_t)s.c;
    bwi_rng r = bwi_rng_make(l->o.seed, BWI_RNG_AUGMENT, (uint64_t)epoch, index);
    const uint32_t top = bwi_rng_below(&r, 2 * PAD + 1), left = bwi_rng_below(&r, 2 * PAD + 1);
    const bool flip = bwi_rng_below(&r, 2);
    for (int y = 0; y < s.h; y++)
        memcpy(l->padded + (size_t)(y + PAD) * padded_row + (size_t)(PAD * s.c), l->image + (size_t)y * row, row);
    for (int y = 0; y < s.h; y++) {
        const uint8_t *from = l->padded + ((size_t)y + top) * padded_row + (size_t)left * (size_t)s.c;
        if (flip) {
            mirror(from, l->image, s.w, s.c);
            from = l->image;
        }
        normalize(l, from, out + (size_t)y * row, s.w);
    }
}

static void prepare(bwi_loader *l, slot *s, int64_t epoch, int step)
{
    make_order(l, epoch);
    const int at = step * l->o.batch, left = l->n - at, n = left < l->o.batch ? left : l->o.batch;
    const bwi_shape shape = l->d->shape;
    for (int i = 0; i < n; i++) {
        const uint32_t index = l->order[at + i];
        float *out = s->x + (size_t)i * bwi_shape_size(shape);
        s->index[i] = index;
        s->labels[i] = l->d->image(l->d, l->o.split, (int)index, l->image);
        if (l->o.augment)
            augment(l, epoch, index, out);
        else
            normalize(l, l->image, out, shape.h * shape.w);
    }
    s->n = n;
}

static void *run(void *arg)
{
    bwi_loader *l = arg;
    pthread_mutex_lock(&l->mutex);
    while (!l->stop) {
        if (!l->started || l->prepared == l->steps || l->filled + l->held == RING) {
            pthread_cond_wait(&l->work, &l->mutex);
            continue;
        }
        const uint64_t generation = l->generation;
        const int64_t epoch = l->epoch;
        const int step = l->prepared;
        slot *s = &l->ring[(l->first + l->filled) % RING];
        pthread_mutex_unlock(&l->mutex);
        prepare(l, s, epoch, step);
        pthread_mutex_lock(&l->mutex);
        if (generation != l->generation) continue;
        l->prepared++;
        l->filled++;
        pthread_cond_signal(&l->ready);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

static bw_status check(const bwi_dataset *d, const bwi_loader_options *o, int n, bw_error *err)
{
    if (o->batch < 1) return bwi_fail(err, BW_ARG, "the batch size must be at least 1, not %d", o->batch);
    if (!o->normalize) return bwi_fail(err, BW_ARG, "the loader needs normalisation constants");
    if (d->shape.c < 1 || d->shape.c > MAX_CHANNELS)
        return bwi_fail(err, BW_UNSUPPORTED, "data set '%s' has %d channels, the loader handles 1 to %d", d->row->name,
                        d->shape.c, MAX_CHANNELS);
    if (o->drop_last && n < o->batch)
        return bwi_fail(err, BW_ARG, "%d images make no whole batch of %d: take a smaller batch or more images", n, o->batch);
    return BW_OK;
}

/* Marks the images that are held out: in a random order that is the same for all runs, the first ones of each class up to its share. */
static bw_status hold_out(const bwi_loader *l, int all, uint8_t *held, bw_error *err)
{
    const bwi_dataset *d = l->d;
    const int classes = d->classes;
    uint32_t *order = bwi_calloc((size_t)all, sizeof *order);
    int *left = bwi_calloc((size_t)classes, sizeof *left);
    uint8_t *image = bwi_calloc(bwi_shape_size(d->shape), 1);
    int more = l->o.holdout;
    if (!order || !left || !image) {
        bwi_free(order), bwi_free(left), bwi_free(image);
        return bwi_fail(err, BW_NOMEM, "no memory to hold out %d images", more);
    }
    for (int i = 0; i < all; i++) order[i] = (uint32_t)i;
    bwi_rng r = bwi_rng_make(0, BWI_RNG_ORDER, UINT64_MAX, 0);
    bwi_rng_shuffle(&r, order, (size_t)all);
    for (int c = 0; c < classes; c++) left[c] = more / classes + (c < more % classes);
    for (int any = 0; any < 2 && more; any++) /* a class may have fewer images than its share: others fill up */
        for (int i = 0; i < all && more; i++) {
            if (held[order[i]]) continue;
            const int32_t label = d->image(d, l->o.split, (int)order[i], image);
            if (!any && left[label]-- <= 0) continue;
            held[order[i]] = 1;
            more--;
        }
    bwi_free(order), bwi_free(left), bwi_free(image);
    return BW_OK;
}

/* The images that the loader gives, before it shuffles them. */
static bw_status make_pool(bwi_loader *l, int all, bw_error *err)
{
    uint8_t *held = bwi_calloc((size_t)all, 1);
    l->pool = bwi_calloc((size_t)all, sizeof *l->pool);
    bw_status st = held && l->pool ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for the order of %d images", all);
    if (!st && l->o.holdout > 0) st = hold_out(l, all, held, err);
    int n = 0;
    for (int i = 0; !st && i < all && n < l->n; i++)
        if (held[i] == l->o.held) l->pool[n++] = (uint32_t)i;
    bwi_free(held);
    return st;
}

static bw_status allocate(bwi_loader *l, bw_error *err)
{
    const bwi_shape s = l->d->shape;
    const size_t batch = (size_t)l->o.batch, pixels = bwi_shape_size(s);
    l->order = bwi_calloc((size_t)l->n, sizeof *l->order);
    l->image = bwi_calloc(pixels, 1);
    l->padded = bwi_calloc((size_t)(s.h + 2 * PAD) * (size_t)(s.w + 2 * PAD), (size_t)s.c);
    bool ok = l->order && l->image && l->padded;
    for (int i = 0; i < RING && ok; i++) {
        slot *t = &l->ring[i];
        t->x = bwi_calloc(batch, pixels * sizeof *t->x);
        t->labels = bwi_calloc(batch, sizeof *t->labels);
        t->index = bwi_calloc(batch, sizeof *t->index);
        ok = t->x && t->labels && t->index;
    }
    return ok ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory for %d batches of %d images", RING, l->o.batch);
}

static bw_status start_thread(bwi_loader *l, bw_error *err)
{
    int e;
    if ((e = pthread_mutex_init(&l->mutex, NULL))) goto fail;
    l->has_mutex = true;
    if ((e = pthread_cond_init(&l->work, NULL))) goto fail;
    l->has_work = true;
    if ((e = pthread_cond_init(&l->ready, NULL))) goto fail;
    l->has_ready = true;
    if ((e = pthread_create(&l->thread, NULL, run, l))) goto fail;
    l->has_thread = true;
    return BW_OK;
fail:
    return bwi_fail(err, BW_NOMEM, "the thread that loads data could not be started: %s", strerror(e));
}

bw_status bwi_loader_create(bwi_loader **out, const bwi_dataset *d, const bwi_loader_options *options, bw_error *err)
{
    *out = NULL;
    const int all = d->n[options->split], there = !options->holdout ? all
                                                  : options->held   ? options->holdout
                                                                    : all - options->holdout;
    const int n = options->limit > 0 && options->limit < there ? options->limit : there;
    if (options->holdout < 0 || options->holdout >= all || (options->holdout && options->split != BWI_TRAIN))
        return bwi_fail(err, BW_ARG, "data set '%s': %d of its %d training images cannot be held out", d->row->name,
                        options->holdout, d->n[BWI_TRAIN]);
    bw_status st = check(d, options, n, err);
    if (st != BW_OK) return st;
    bwi_loader *l = bwi_calloc(1, sizeof *l);
    if (!l) return bwi_fail(err, BW_NOMEM, "no memory for the loader");
    l->d = d;
    l->o = *options;
    l->n = n;
    l->steps = n / l->o.batch + (!l->o.drop_last && n % l->o.batch != 0);
    l->order_epoch = -1;
    for (int k = 0; k < d->shape.c; k++)
        for (int v = 0; v < 256; v++) l->value[k][v] = bwi_normalized(l->o.normalize, k, v);
    BWI_TRY(make_pool(l, all, err));
    BWI_TRY(allocate(l, err));
    BWI_TRY(start_thread(l, err));
    *out = l;
    return BW_OK;
fail:
    bwi_loader_destroy(&l);
    return st;
}

void bwi_loader_destroy(bwi_loader **loader)
{
    bwi_loader *l = *loader;
    if (!l) return;
    if (l->has_thread) {
        pthread_mutex_lock(&l->mutex);
        l->stop = true;
        pthread_cond_signal(&l->work);
        pthread_mutex_unlock(&l->mutex);
        pthread_join(l->thread, NULL);
    }
    if (l->has_ready) pthread_cond_destroy(&l->ready);
    if (l->has_work) pthread_cond_destroy(&l->work);
    if (l->has_mutex) pthread_mutex_destroy(&l->mutex);
    for (int i = 0; i < RING; i++) {
        bwi_free(l->ring[i].x);
        bwi_free(l->ring[i].labels);
        bwi_free(l->ring[i].index);
    }
    bwi_free(l->pool);
    bwi_free(l->order);
    bwi_free(l->image);
    bwi_free(l->padded);
    bwi_free(l);
    *loader = NULL;
}

int bwi_loader_steps(const bwi_loader *l)
{
    return l->steps;
}

bw_status bwi_loader_start(bwi_loader *l, int64_t epoch, int64_t step, bw_error *err)
{
    if (epoch < 0 || step < 0 || step > l->steps)
        return bwi_fail(err, BW_ARG, "the loader has no step %lld of epoch %lld: an epoch has %d steps", (long long)step,
                        (long long)epoch, l->steps);
    pthread_mutex_lock(&l->mutex);
    l->generation++;
    l->started = true;
    l->held = false;
    l->epoch = epoch;
    l->prepared = l->delivered = (int)step;
    l->filled = 0;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->mutex);
    return BW_OK;
}

bw_status bwi_loader_next(bwi_loader *l, bwi_batch *b, bw_error *err)
{
    *b = (bwi_batch){0};
    pthread_mutex_lock(&l->mutex);
    if (!l->started) {
        pthread_mutex_unlock(&l->mutex);
        return bwi_fail(err, BW_INTERNAL, "the loader was asked for a batch before an epoch began");
    }
    if (l->held) {
        l->held = false;
        pthread_cond_signal(&l->work);
    }
    if (l->delivered < l->steps) {
        while (!l->filled) pthread_cond_wait(&l->ready, &l->mutex);
        const slot *s = &l->ring[l->first];
        *b = (bwi_batch){.x = s->x, .labels = s->labels, .index = s->index, .n = s->n};
        l->first = (l->first + 1) % RING;
        l->filled--;
        l->delivered++;
        l->held = true;
    }
    pthread_mutex_unlock(&l->mutex);
    return BW_OK;
}
