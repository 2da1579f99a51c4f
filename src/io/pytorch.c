/* PyTorch checkpoints, as torch.save writes them: since 1.6 a zip archive (NAME/data.pkl, NAME/data/KEY, NAME/byteorder), before that a chain of pickles
 * (magic number, version, system, the object, storage keys) followed by the storages. Nested dictionaries and lists become dotted names. */
#include "io/io.h"
#include "io/pickle.h"
#include "base/alloc.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#define NAME_MAX_BYTES 1024
#define DEPTH_MAX      64
/* Memory for one file, besides the file itself: deflated storages, tensors made contiguous, the pickle's values and names. */
#define BUDGET(size) ((size_t)16 * (size) + ((size_t)1 << 20))
#define PROTOCOL     1001
static const uint8_t magic[10] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
static const uint8_t zip_magic[4] = {'P', 'K', 3, 4};

typedef struct parse {
    bwi_unpickler u;
    size_t budget;
    uint32_t *by_key; /* [u.n_storage] storages in the order of their keys */
    bwi_tensors *ts;
    bw_error *err;
    char name[NAME_MAX_BYTES]; /* of the value being flattened */
} parse;

static bool is_zip(const uint8_t *data, size_t size)
{
    return size >= sizeof zip_magic && !memcmp(data, zip_magic, sizeof zip_magic);
}

static bool probe(const uint8_t *data, size_t size)
{
    if (is_zip(data, size)) return true;
    if (size < 32 || data[0] != 0x80) return false;
    return memmem(data, 32, magic, sizeof magic) != NULL;
}

/* ---- Storages ---- */

static int compare_keys(const bwi_pstorage *a, const char *key, size_t len)
{
    int c = memcmp(a->key, key, a->key_len < len ? a->key_len : len);
    return c ? c : (a->key_len > len) - (a->key_len < len);
}

static int by_key(const void *a, const void *b, void *storages)
{
    const bwi_pstorage *s = storages, *x = &s[*(const uint32_t *)a], *y = &s[*(const uint32_t *)b];
    return compare_keys(x, y->key, y->key_len);
}

/* Orders the storages by key; those of the same key must be the same. */
static bw_status sort_storages(parse *p)
{
    bwi_unpickler *u = &p->u;
    bw_status st = bwi_budget_take(&p->budget, u->n_storage * sizeof *p->by_key, p->err);
    if (st != BW_OK) return st;
    if (!(p->by_key = bwi_malloc(u->n_storage * sizeof *p->by_key)))
        return bwi_fail(p->err, BW_NOMEM, "out of memory for %zu storages", u->n_storage);
    for (size_t i = 0; i < u->n_storage; i++) p->by_key[i] = (uint32_t)i;
    qsort_r(p->by_key, u->n_storage, sizeof *p->by_key, by_key, u->storage);
    for (size_t i = 1; i < u->n_storage; i++) {
        const bwi_pstorage *a = &u->storage[p->by_key[i - 1]], *b = &u->storage[p->by_key[i]];
        if (!compare_keys(a, b->key, b->key_len) && (a->dtype != b->dtype || a->numel != b->numel))
            return bwi_fail(p->err, BW_UNSUPPORTED, "storage %.*s is used as %s [%" PRId64 "] and as %s [%" PRId64 "]",
                            (int)a->key_len, a->key, bwi_dtype_name(a->dtype), a->numel, bwi_dtype_name(b->dtype), b->numel);
    }
    return BW_OK;
}

/* Position in by_key behind the storages that have the key of the one at position i. */
static size_t next_key(const parse *p, size_t i)
{
    const bwi_pstorage *s = p->u.storage, *first = &s[p->by_key[i]];
    do i++;
    while (i < p->u.n_storage && !compare_keys(&s[p->by_key[i]], first->key, first->key_len));
    return i;
}

/* First position in by_key whose storage has this key, or n_storage. */
static size_t find_key(const parse *p, const char *key, size_t len)
{
    size_t lo = 0, hi = p->u.n_storage;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare_keys(&p->u.storage[p->by_key[mid]], key, len) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < p->u.n_storage && !compare_keys(&p->u.storage[p->by_key[lo]], key, len) ? lo : p->u.n_storage;
}

static void set_data(parse *p, size_t first, const uint8_t *data)
{
    for (size_t i = first, end = next_key(p, first); i < end; i++) p->u.storage[p->by_key[i]].data = data;
}

/* ---- Values to named tensors ---- */

/* The strides of a tensor without gaps, ignoring dimensions of size 1. */
static bool is_contiguous(const bwi_ptensor *t)
{
    int64_t expected = 1;
    for (int i = t->ndim; i--;) {
        if (t->dim[i] != 1 && t->stride[i] != expected) return false;
        expected *= t->dim[i];
    }
    return true;
}

/* Number of elements of t; fails unless each of them lies inside of its storage. */
static bw_status check_view(parse *p, const bwi_ptensor *t, size_t *numel)
{
    const bwi_pstorage *s = &p->u.storage[t->storage];
    size_t n = 1, last = (size_t)t->offset, span;
    bool ok = true;
    *numel = 0;
    for (int i = 0; i < t->ndim; i++)
        if (t->dim[i] == 0) return BW_OK;
    for (int i = 0; i < t->ndim && ok; i++)
        ok = bwi_mul(n, (size_t)t->dim[i], &n) && n <= INT64_MAX / 8 &&
             bwi_mul((size_t)t->dim[i] - 1, (size_t)t->stride[i], &span) && bwi_add(last, span, &last);
    *numel = n;
    if (ok && last < (size_t)s->numel) return BW_OK;
    char dims[BWI_DIMS_TEXT], strides[BWI_DIMS_TEXT];
    return bwi_fail(
        p->err, BW_FORMAT,
        "tensor %s: shape %s with strides %s from element %" PRId64 " does not fit into its storage of %" PRId64 " elements",
        p->name, bwi_dims_text(dims, t->ndim, t->dim), bwi_dims_text(strides, t->ndim, t->stride), t->offset, s->numel);
}

/* Copies a strided tensor of numel > 0 elements into out, row-major. */
static void gather(const bwi_ptensor *t, const uint8_t *data, size_t size, size_t numel, uint8_t *out)
{
    int64_t at[BWI_MAX_DIMS] = {0};
    size_t from = (size_t)t->offset; /* unsigned: the stride of a dimension of 1 may be anything */
    for (size_t k = 0; k < numel; k++, out += size) {
        memcpy(out, data + from * size, size);
        for (int i = t->ndim; i--;) {
            from += (size_t)t->stride[i];
            if (++at[i] < t->dim[i]) break;
            from -= (size_t)t->dim[i] * (size_t)t->stride[i];
            at[i] = 0;
        }
    }
}

static bw_status add_tensor(parse *p, const bwi_ptensor *t)
{
    const bwi_pstorage *s = &p->u.storage[t->storage];
    size_t numel, size = bwi_dtype_size(s->dtype);
    bw_status st;
    BWI_TRY(check_view(p, t, &numel));
    const uint8_t *data = s->data;
    if (numel && !is_contiguous(t)) {
        BWI_TRY(bwi_budget_take(&p->budget, numel * size, p->err));
        uint8_t *copy = bwi_own_alloc(&p->ts->own, numel * size);
        if (!copy) return bwi_fail(p->err, BW_NOMEM, "out of memory for tensor %s", p->name);
        gather(t, data, size, numel, copy);
        data = copy;
    } else if (numel) {
        data += (size_t)t->offset * size;
    }
    BWI_TRY(bwi_tensors_add(p->ts, p->name, s->dtype, t->ndim, t->dim, data, p->err));
fail:
    return st;
}

/* Numbers and strings become metadata. */
static bw_status add_scalar(parse *p, const bwi_pvalue *v)
{
    char number[40], *text = number;
    bw_status st = BW_OK;
    if (v->type == BWI_P_BOOL) {
        snprintf(number, sizeof number, "%s", v->u.b ? "true" : "false");
    } else if (v->type == BWI_P_INT) {
        snprintf(number, sizeof number, "%" PRId64, v->u.i);
    } else if (v->type == BWI_P_FLOAT) {
        snprintf(number, sizeof number, "%.17g", v->u.f);
    } else if (v->type == BWI_P_TEXT && !memchr(v->u.s, 0, v->len)) {
        if ((st = bwi_budget_take(&p->budget, v->len, p->err)) != BW_OK) return st;
        if (!(text = bwi_strndup(v->u.s, v->len))) return bwi_fail(p->err, BW_NOMEM, "out of memory for %s", p->name);
    } else {
        return BW_OK;
    }
    st = bwi_tensors_add_meta(p->ts, p->name, text, p->err);
    if (text != number) bwi_free(text);
    return st;
}

static bw_status flatten(parse *p, const bwi_pvalue *v, size_t len, int depth);

/* Flattens v under the name of its container, p->name [len], a dot and key. */
static bw_status flatten_item(parse *p, const bwi_pvalue *v, size_t len, const char *key, size_t key_len, int depth)
{
    size_t dot = len ? 1 : 0;
    if (memchr(key, 0, key_len) || key_len >= sizeof p->name - len - dot)
        return bwi_fail(p->err, BW_FORMAT, "a name in %.80s is longer than %d bytes or holds a zero byte", p->name,
                        NAME_MAX_BYTES - 1);
    if (dot) p->name[len] = '.';
    memcpy(p->name + len + dot, key, key_len);
    p->name[len + dot + key_len] = 0;
    return flatten(p, v, len + dot + key_len, depth);
}

/* Adds everything in v. The same value may be reached on many ways, so every visit costs. */
static bw_status flatten(parse *p, const bwi_pvalue *v, size_t len, int depth)
{
    bw_status st;
    if (depth > DEPTH_MAX)
        return bwi_fail(p->err, BW_FORMAT, "%.80s...: nested more than %d deep, or it holds itself", p->name, DEPTH_MAX);
    bool leaf = v->type != BWI_P_DICT && v->type != BWI_P_LIST && v->type != BWI_P_TUPLE;
    BWI_TRY(bwi_budget_take(&p->budget, leaf ? 2 * sizeof(bwi_tensor) + len : sizeof *v, p->err));
    if (leaf) return v->type == BWI_P_TENSOR ? add_tensor(p, v->u.tensor) : add_scalar(p, v);
    const bwi_pseq *seq = v->u.seq;
    size_t per = v->type == BWI_P_DICT ? 2 : 1;
    for (size_t i = 0; i < seq->n; i += per) {
        char number[24];
        const bwi_pvalue *key = &seq->v[i];
        if (per == 2 && key->type == BWI_P_TEXT) {
            BWI_TRY(flatten_item(p, key + 1, len, key->u.s, key->len, depth + 1));
        } else if (per == 2 && key->type != BWI_P_INT) {
            return bwi_fail(p->err, BW_UNSUPPORTED, "dictionary '%.80s' has a key that is neither a string nor an integer",
                            p->name);
        } else {
            int n = snprintf(number, sizeof number, "%" PRId64, per == 2 ? key->u.i : (int64_t)i);
            BWI_TRY(flatten_item(p, key + per - 1, len, number, (size_t)n, depth + 1));
        }
        p->name[len] = 0;
    }
fail:
    return st;
}

static bw_status add_all(parse *p, const bwi_pvalue *root)
{
    if (root->type == BWI_P_TENSOR) strcpy(p->name, "tensor");
    return flatten(p, root, strlen(p->name), 0);
}

/* ---- Legacy layout ---- */

/* Keys of all storages in the order of their data: u64 number of elements and the elements. */
static bw_status read_legacy_storages(parse *p, const bwi_pvalue *keys, bwi_reader *r)
{
    bw_status st;
    BWI_TRY(sort_storages(p));
    if (keys->type != BWI_P_LIST) return bwi_fail(p->err, BW_FORMAT, "the list of storage keys is missing");
    for (size_t i = 0; i < keys->u.seq->n; i++) {
        const bwi_pvalue *key = &keys->u.seq->v[i];
        size_t at = key->type == BWI_P_TEXT ? find_key(p, key->u.s, key->len) : p->u.n_storage;
        if (at == p->u.n_storage) return bwi_fail(p->err, BW_FORMAT, "storage %zu of the file belongs to no tensor", i);
        const bwi_pstorage *s = &p->u.storage[p->by_key[at]];
        if (s->data) return bwi_fail(p->err, BW_FORMAT, "storage %.*s is there twice", (int)s->key_len, s->key);
        uint64_t numel = bwi_read_u64(r);
        size_t bytes;
        if (r->bad || numel != (uint64_t)s->numel || !bwi_mul(numel, bwi_dtype_size(s->dtype), &bytes))
            return bwi_fail(p->err, BW_FORMAT, "storage %.*s should hold %" PRId64 " elements, the file says %" PRIu64,
                            (int)s->key_len, s->key, s->numel, numel);
        const uint8_t *data = bwi_read_bytes(r, bytes);
        if (!data)
            return bwi_fail(p->err, BW_FORMAT, "the file is cut short in storage %.*s of %zu bytes", (int)s->key_len, s->key,
                            bytes);
        set_data(p, at, data);
    }
    for (size_t i = 0; i < p->u.n_storage; i++)
        if (!p->u.storage[i].data)
            return bwi_fail(p->err, BW_FORMAT, "storage %.*s is missing", (int)p->u.storage[i].key_len, p->u.storage[i].key);
    if (r->at != r->size) return bwi_fail(p->err, BW_FORMAT, "%zu bytes are left behind the last storage", r->size - r->at);
fail:
    return st;
}

static bw_status check_system(parse *p, const bwi_pvalue *system)
{
    for (size_t i = 0; system->type == BWI_P_DICT && i < system->u.seq->n; i += 2) {
        const bwi_pvalue *key = &system->u.seq->v[i];
        if (!bwi_ptext_is(key, "little_endian")) continue;
        if (key[1].type == BWI_P_BOOL && key[1].u.b) return BW_OK;
        return bwi_fail(p->err, BW_UNSUPPORTED, "it was written on a big-endian machine");
    }
    return bwi_fail(p->err, BW_FORMAT, "it does not say on which kind of machine it was written");
}

static bw_status read_legacy(parse *p, const bwi_file *f)
{
    bwi_reader r = {.data = f->data, .size = f->size};
    bwi_pvalue number, version, system, root, keys;
    bw_status st;
    BWI_TRY(bwi_unpickle(&p->u, &r, &number, p->err));
    BWI_TRY(bwi_unpickle(&p->u, &r, &version, p->err));
    if (number.type != BWI_P_LONG || number.len != sizeof magic || memcmp(number.u.s, magic, sizeof magic) ||
        version.type != BWI_P_INT || version.u.i != PROTOCOL)
        return bwi_fail(p->err, BW_FORMAT, "not a PyTorch checkpoint of version %d", PROTOCOL);
    BWI_TRY(bwi_unpickle(&p->u, &r, &system, p->err));
    BWI_TRY(check_system(p, &system));
    BWI_TRY(bwi_unpickle(&p->u, &r, &root, p->err));
    BWI_TRY(bwi_unpickle(&p->u, &r, &keys, p->err));
    BWI_TRY(read_legacy_storages(p, &keys, &r));
    BWI_TRY(add_all(p, &root));
fail:
    return st;
}

/* ---- Zip layout ---- */

static bw_status zip_failed(bw_error *err, zip_error_t *e, const char *entry)
{
    bool nomem = zip_error_code_zip(e) == ZIP_ER_MEMORY;
    return bwi_fail(err, nomem ? BW_NOMEM : BW_FORMAT, "zip archive%s%s: %s", *entry ? ", " : "", entry, zip_error_strerror(e));
}

static bw_status open_zip(parse *p, const bwi_file *f, zip_t **out)
{
    zip_error_t e;
    zip_error_init(&e);
    zip_source_t *source = zip_source_buffer_create(f->data, f->size, 0, &e);
    *out = source ? zip_open_from_source(source, ZIP_RDONLY, &e) : NULL;
    bw_status st = *out ? BW_OK : zip_failed(p->err, &e, "");
    if (!*out && source) zip_source_free(source);
    zip_error_fini(&e);
    return st;
}

/* Reads an entry into memory from chain; its checksum is verified. */
static bw_status read_entry(parse *p, zip_t *z, zip_uint64_t index, const char *name, void **chain, uint8_t **data,
                            size_t *size)
{
    zip_stat_t s;
    bw_status st;
    const zip_uint64_t needed = ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if (zip_stat_index(z, index, 0, &s) != 0 || (s.valid & needed) != needed) return zip_failed(p->err, zip_get_error(z), name);
    if ((s.comp_method != ZIP_CM_STORE && s.comp_method != ZIP_CM_DEFLATE) || s.encryption_method != ZIP_EM_NONE)
        return bwi_fail(p->err, BW_UNSUPPORTED, "zip archive, %s: compressed by a method other than deflate, or encrypted",
                        name);
    BWI_TRY(bwi_budget_take(&p->budget, s.size, p->err));
    if (!(*data = bwi_own_alloc(chain, s.size)))
        return bwi_fail(p->err, BW_NOMEM, "out of memory for %s of %zu bytes", name, (size_t)s.size);
    zip_file_t *file = zip_fopen_index(z, index, 0);
    if (!file) return zip_failed(p->err, zip_get_error(z), name);
    size_t at = 0;
    zip_int64_t n;
    while (at < s.size && (n = zip_fread(file, *data + at, s.size - at)) > 0) at += (size_t)n;
    uint8_t more;
    n = zip_fread(file, &more, 1); /* at the end: this is when the checksum is compared */
    if (n < 0)
        st = zip_failed(p->err, zip_file_get_error(file), name);
    else if (n > 0 || at != s.size)
        st = bwi_fail(p->err, BW_FORMAT, "zip archive, %s: not of the %zu bytes that the archive gives", name, (size_t)s.size);
    zip_fclose(file);
    *size = at;
fail:
    return st;
}

/* The entry FOLDER/data.pkl; *folder_len is the length of "FOLDER/". */
static bw_status find_pickle(parse *p, zip_t *z, zip_uint64_t *index, const char **name, size_t *folder_len)
{
    static const char leaf[] = "/data.pkl";
    zip_int64_t n = zip_get_num_entries(z, 0);
    *index = 0;
    *name = "";
    *folder_len = 0;
    for (zip_int64_t i = 0; i < n; i++) {
        const char *s = zip_get_name(z, (zip_uint64_t)i, ZIP_FL_ENC_RAW), *slash = s ? strchr(s, '/') : NULL;
        if (!slash || strcmp(slash, leaf) || slash - s > 200) continue;
        *index = (zip_uint64_t)i;
        *name = s;
        *folder_len = (size_t)(slash - s) + 1;
        return BW_OK;
    }
    return bwi_fail(p->err, BW_FORMAT, "a zip archive without data.pkl: not a PyTorch checkpoint");
}

static bw_status read_zip_storages(parse *p, zip_t *z, const char *name, size_t folder_len)
{
    bw_status st;
    char entry[512];
    uint8_t *data;
    size_t size, need;
    BWI_TRY(sort_storages(p));
    for (size_t i = 0; i < p->u.n_storage; i = next_key(p, i)) {
        const bwi_pstorage *s = &p->u.storage[p->by_key[i]];
        if (s->key_len > 200 || memchr(s->key, 0, s->key_len))
            return bwi_fail(p->err, BW_FORMAT, "the key of a storage is not a name");
        snprintf(entry, sizeof entry, "%.*sdata/%.*s", (int)folder_len, name, (int)s->key_len, s->key);
        zip_int64_t index = zip_name_locate(z, entry, ZIP_FL_ENC_RAW);
        if (index < 0) return bwi_fail(p->err, BW_FORMAT, "zip archive: storage %s is missing", entry);
        BWI_TRY(read_entry(p, z, (zip_uint64_t)index, entry, &p->ts->own, &data, &size));
        if (!bwi_mul((size_t)s->numel, bwi_dtype_size(s->dtype), &need) || size != need)
            return bwi_fail(p->err, BW_FORMAT,
                            "zip archive: storage %s should hold %" PRId64 " elements of %s, it has %zu bytes", entry, s->numel,
                            bwi_dtype_name(s->dtype), size);
        set_data(p, i, data);
    }
fail:
    return st;
}

static bw_status check_byteorder(parse *p, zip_t *z, const char *name, size_t folder_len)
{
    char entry[512];
    uint8_t *data;
    size_t size;
    snprintf(entry, sizeof entry, "%.*sbyteorder", (int)folder_len, name);
    zip_int64_t index = zip_name_locate(z, entry, ZIP_FL_ENC_RAW);
    if (index < 0) return BW_OK; /* written before there was a choice */
    bw_status st = read_entry(p, z, (zip_uint64_t)index, entry, &p->u.own, &data, &size);
    if (st == BW_OK && (size != 6 || memcmp(data, "little", 6)))
        st = bwi_fail(p->err, BW_UNSUPPORTED, "it was written on a big-endian machine");
    return st;
}

static bw_status read_zip(parse *p, const bwi_file *f)
{
    zip_t *z = NULL;
    zip_uint64_t index;
    const char *name;
    size_t folder_len, size;
    uint8_t *data;
    bwi_pvalue root;
    bw_status st;
    BWI_TRY(open_zip(p, f, &z));
    BWI_TRY(find_pickle(p, z, &index, &name, &folder_len));
    BWI_TRY(check_byteorder(p, z, name, folder_len));
    BWI_TRY(read_entry(p, z, index, name, &p->u.own, &data, &size));
    bwi_reader r = {.data = data, .size = size};
    BWI_TRY(bwi_unpickle(&p->u, &r, &root, p->err));
    BWI_TRY(read_zip_storages(p, z, name, folder_len));
    BWI_TRY(add_all(p, &root));
fail:
    if (z) zip_discard(z);
    return st;
}

static bw_status read_file(bwi_file *f, bwi_tensors *ts, bw_error *err)
{
    parse p = {.budget = BUDGET(f->size), .ts = ts, .err = err};
    p.u.budget = &p.budget;
    bw_status st = is_zip(f->data, f->size) ? read_zip(&p, f) : read_legacy(&p, f);
    if (st == BW_OK) st = bwi_tensors_unique(ts, err);
    bwi_unpickler_free(&p.u);
    bwi_free(p.by_key);
    if (st == BW_OK) {
        ts->file = *f;
        memset(f, 0, sizeof *f);
    } else {
        bwi_tensors_free(ts);
    }
    return st;
}

const bwi_format bwi_format_pytorch = {
    .name = "pytorch",
    .summary = "checkpoints of torch.save, old and new layout; nothing in the file is run",
    .suffixes = ".th .pth .pt",
    .probe = probe,
    .read = read_file,
};
