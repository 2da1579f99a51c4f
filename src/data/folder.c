/* Pictures in folders, as torchvision's ImageFolder takes them: a folder for training and one for tests, in each a folder of images for every
 * class. Opening decodes all of them, fitted to one size (bwi_image_fit), and keeps them: images * side * side * 3 bytes. So a damaged file is
 * found at once, and an epoch reads none. Images take turns by class, so that the first so many (data.limit) are of all classes. */
#include "data/data.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/par.h"
#include "io/image.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { SIDE = 32, MOST_SIDE = 4096, MOST_CLASSES = 100000, MOST_IMAGES = 1 << 30 };

typedef struct picture {
    char *path;
    int label, turn; /* turn: number among its class's */
} picture;

typedef struct pictures {
    picture *list; /* [n] */
    int n, room;
    uint8_t *pixels; /* [n][side,side,3] */
} pictures;

typedef struct state {
    bwi_names class;
    pictures split[2];
    size_t size; /* bytes of an image */
} state;

static int32_t image(const bwi_dataset *d, bwi_split split, int i, uint8_t *out)
{
    const state *s = d->state;
    memcpy(out, s->split[split].pixels + (size_t)i * s->size, s->size);
    return s->split[split].list[i].label;
}

static void close_folder(bwi_dataset *d)
{
    state *s = d->state;
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < s->split[k].n; i++) bwi_free(s->split[k].list[i].path);
        bwi_free(s->split[k].list);
        bwi_free(s->split[k].pixels);
    }
    bwi_names_free(&s->class);
    bwi_free(s);
    d->state = NULL;
}

/* ---- Finding them -------------------------------------------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* Whether the name ends as an image format's files do. */
static bool is_image(const char *name)
{
    const char *dot = strrchr(name, '.');
    const bwi_image_format *f;
    for (size_t i = 0; dot && (f = bwi_image_format_at(i)); i++)
        for (const char *s = f->suffixes; *s; s += strspn(s, " ")) {
            const size_t length = strcspn(s, " ");
            if (strlen(dot) == length && !strncasecmp(s, dot, length)) return true;
            s += length;
        }
    return false;
}

/* Takes over path, whatever comes of it. */
static bw_status add(pictures *p, char *path, int label, int turn, bw_error *err)
{
    if (path && p->n == p->room) {
        const int room = p->room ? 2 * p->room : 64;
        picture *more = p->room < MOST_IMAGES ? bwi_realloc(p->list, (size_t)room * sizeof *more) : NULL;
        if (more) p->list = more, p->room = room;
    }
    if (!path || p->n == p->room) {
        bwi_free(path);
        return bwi_fail(err, BW_NOMEM, "no memory for the names of %d images", p->n + 1);
    }
    p->list[p->n++] = (picture){path, label, turn};
    return BW_OK;
}

/* All images of the folder at path, of which *found is how many there are. */
static bw_status add_class(pictures *p, const char *path, int label, int *found, bw_error *err)
{
    bwi_names file = {0};
    bw_status st;
    *found = 0;
    BWI_TRY(bwi_list_dir(&file, path, err));
    for (size_t i = 0; i < file.n; i++)
        if (is_image(file.name[i])) BWI_TRY(add(p, bwi_asprintf("%s/%s", path, file.name[i]), label, (*found)++, err));
fail:
    bwi_names_free(&file);
    return st;
}

/* Classes are the folders in the one for training, in the order of their names. */
static bw_status find_classes(state *s, const char *train, bw_error *err)
{
    size_t n = 0;
    bw_status st = bwi_list_dir(&s->class, train, err);
    if (st) return st;
    for (size_t i = 0; i < s->class.n; i++) {
        char *path = bwi_asprintf("%s/%s", train, s->class.name[i]);
        const bool folder = path && is_folder(path);
        bwi_free(path);
        if (!path) return bwi_fail(err, BW_NOMEM, "no memory for the classes in %s", train);
        if (folder && strchr(s->class.name[i], '|'))
            return bwi_fail(err, BW_ARG, "%s/%s: the name of a class has no '|' in it: rename the folder", train,
                            s->class.name[i]);
        if (!folder) continue;
        char *name = s->class.name[i]; /* what is no class goes to the end */
        s->class.name[i] = s->class.name[n];
        s->class.name[n++] = name;
    }
    for (size_t i = n; i < s->class.n; i++) bwi_free(s->class.name[i]);
    s->class.n = n;
    if (n < 2 || n > MOST_CLASSES)
        return bwi_fail(err, BW_FORMAT, "%s: %zu folders of classes; expected at least 2 and at most %d", train, n,
                        MOST_CLASSES);
    return BW_OK;
}

static int class_of(const state *s, const char *name)
{
    for (size_t i = 0; i < s->class.n; i++)
        if (!strcmp(s->class.name[i], name)) return (int)i;
    return -1;
}

static int by_turn(const void *a_, const void *b_)
{
    const picture *a = a_, *b = b_;
    return a->turn != b->turn ? (a->turn < b->turn ? -1 : 1) : (a->label > b->label) - (a->label < b->label);
}

/* Images of a split. A class that training has may be missing in the tests, but not the other way around. */
static bw_status find_images(state *s, bwi_split split, const char *folder, bw_error *err)
{
    bwi_names entry = {0};
    char *path = NULL;
    bw_status st;
    BWI_TRY(bwi_list_dir(&entry, folder, err));
    for (size_t i = 0; i < entry.n; i++) {
        int found;
        const int label = class_of(s, entry.name[i]);
        if (!(path = bwi_asprintf("%s/%s", folder, entry.name[i])))
            BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory to read %s", folder));
        if (is_folder(path)) {
            if (label < 0) BWI_TRY(bwi_fail(err, BW_FORMAT, "%s: training has no class of this name", path));
            BWI_TRY(add_class(&s->split[split], path, label, &found, err));
            if (!found && split == BWI_TRAIN)
                BWI_TRY(bwi_fail(err, BW_FORMAT,
                                 "%s: the folder holds no image: no name ends in .png, .jpg or another suffix of theirs",
                                 path));
        }
        bwi_free(path);
        path = NULL;
    }
    if (!s->split[split].n) BWI_TRY(bwi_fail(err, BW_FORMAT, "%s: no images in folders of classes", folder));
    qsort(s->split[split].list, (size_t)s->split[split].n, sizeof *s->split[split].list, by_turn);
fail:
    bwi_free(path);
    bwi_names_free(&entry);
    return st;
}

/* ---- Decoding them ------------------------------------------------------------------------------------------------------- */

typedef struct decoding {
    const pictures *p;
    int side;
    size_t size;
} decoding;

static bw_status decode(void *arg, int n, bw_error *err)
{
    const decoding *d = arg;
    const char *path = d->p->list[n].path;
    bwi_image i = {0};
    bw_status st = bwi_image_read(&i, path, err);
    if (!st && (st = bwi_image_fit(&i, d->side, d->side, d->p->pixels + (size_t)n * d->size, err)))
        bwi_fail_in(err, st, "%s", path);
    bwi_image_free(&i);
    return st;
}

static bw_status decode_all(pictures *p, int side, size_t size, bw_error *err)
{
    decoding d = {p, side, size};
    size_t bytes;
    p->pixels = bwi_mul((size_t)p->n, size, &bytes) ? bwi_malloc(bytes) : NULL;
    if (!p->pixels)
        return bwi_fail(err, BW_NOMEM, "no memory for %d images of %dx%d, %.3g GB: take smaller ones", p->n, side, side,
                        1e-9 * (double)size * p->n);
    return bwi_par_each(p->n, bwi_threads(), decode, &d, err);
}

/* ---- The row ------------------------------------------------------------------------------------------------------------- */

/* "pictures@64": 64, and what stands before. */
static bw_status parse(const char *spec, char **folder, int *side, bw_error *err)
{
    const char *at = strrchr(spec, '@');
    const bool sized = at && at[1] && at[1 + strspn(at + 1, "0123456789")] == 0;
    const long n = sized ? strtol(at + 1, NULL, 10) : SIDE;
    if (n < 1 || n > MOST_SIDE)
        return bwi_fail(err, BW_ARG, "data set 'folder': images of %s pixels; expected 1 to %d behind the @", at + 1,
                        MOST_SIDE);
    *side = (int)n;
    *folder = bwi_strndup(spec, sized ? (size_t)(at - spec) : strlen(spec));
    return *folder ? BW_OK : bwi_fail(err, BW_NOMEM, "no memory to open %s", spec);
}

static bw_status open_folder(bwi_dataset *d, const char *spec, bw_error *err)
{
    char *folder = NULL, *train = NULL, *test = NULL, *val = NULL;
    int side = SIDE;
    bw_status st;
    state *s = d->state = bwi_calloc(1, sizeof *s);
    if (!s) return bwi_fail(err, BW_NOMEM, "no memory to open the images in %s", spec);
    d->close = close_folder;
    BWI_TRY(parse(spec, &folder, &side, err));
    train = bwi_asprintf("%s/train", folder);
    test = bwi_asprintf("%s/test", folder);
    val = bwi_asprintf("%s/val", folder);
    if (!train || !test || !val) BWI_TRY(bwi_fail(err, BW_NOMEM, "no memory to open the images in %s", folder));
    if (!is_folder(train) || (!is_folder(test) && !is_folder(val)))
        BWI_TRY(bwi_fail(err, BW_IO,
                         "%s: expected the folders train and test (or val), in each a folder of images for every class",
                         folder));
    BWI_TRY(find_classes(s, train, err));
    BWI_TRY(find_images(s, BWI_TRAIN, train, err));
    BWI_TRY(find_images(s, BWI_TEST, is_folder(test) ? test : val, err));
    s->size = (size_t)side * (size_t)side * 3;
    for (int k = 0; k < 2; k++) {
        BWI_TRY(decode_all(&s->split[k], side, s->size, err));
        d->n[k] = s->split[k].n;
    }
    d->shape = (bwi_shape){side, side, 3};
    d->classes = (int)s->class.n;
    d->class_name = (const char *const *)s->class.name;
    d->image = image;
fail:
    bwi_free(folder);
    bwi_free(train);
    bwi_free(test);
    bwi_free(val);
    return st;
}

const bwi_dataset_row bwi_dataset_row_folder = {"folder",
                                                "JPEG and PNG files in FOLDER/train/CLASS and FOLDER/test/CLASS (or val), "
                                                "fitted to 32x32; FOLDER@64: to 64x64, for net.image: 64",
                                                true, open_folder};
