/* The stack machine of Python's pickle, protocols 2 to 5. Each opcode is checked against the bytes that are left, the stack and the budget, so its
 * time and memory are linear in the size of the pickle. Nothing is recursive. */
#include "io/pickle.h"
#include "io/io.h"
#include "base/alloc.h"
#include <inttypes.h>
#include <string.h>

/* ---- Names that a pickle may use ---- */

typedef enum name_kind { ORDERED_DICT, SIZE, ENCODE, REBUILD_TENSOR, REBUILD_PARAMETER, STORAGE } name_kind;
typedef struct bwi_pname {
    const char *module, *name;
    name_kind kind;
    bwi_dtype dtype; /* STORAGE */
} bwi_pname;

static const bwi_pname names[] = {
    {"collections", "OrderedDict", ORDERED_DICT, 0},
    {"torch", "Size", SIZE, 0},
    {"_codecs", "encode", ENCODE, 0}, /* how protocol 2 stores bytes */
    {"torch._utils", "_rebuild_tensor", REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER, 0},
    {"torch", "FloatStorage", STORAGE, BWI_DT_F32},
    {"torch", "DoubleStorage", STORAGE, BWI_DT_F64},
    {"torch", "HalfStorage", STORAGE, BWI_DT_F16},
    {"torch", "BFloat16Storage", STORAGE, BWI_DT_BF16},
    {"torch", "ByteStorage", STORAGE, BWI_DT_U8},
    {"torch", "CharStorage", STORAGE, BWI_DT_I8},
    {"torch", "ShortStorage", STORAGE, BWI_DT_I16},
    {"torch", "IntStorage", STORAGE, BWI_DT_I32},
    {"torch", "LongStorage", STORAGE, BWI_DT_I64},
    {"torch", "BoolStorage", STORAGE, BWI_DT_BOOL},
};

static bool text_is(const char *s, size_t len, const char *text)
{
    return strlen(text) == len && !memcmp(s, text, len);
}
bool bwi_ptext_is(const bwi_pvalue *v, const char *text)
{
    return v->type == BWI_P_TEXT && text_is(v->u.s, v->len, text);
}

/* ---- Memory ---- */

bw_status bwi_budget_take(size_t *budget, size_t n, bw_error *err)
{
    if (n > *budget)
        return bwi_fail(err, BW_FORMAT, "it asks for far more memory than its size justifies: it is damaged or hostile");
    *budget -= n;
    return BW_OK;
}

static bw_status no_memory(bwi_unpickler *u)
{
    return bwi_fail(u->err, BW_NOMEM, "out of memory for a pickle of %zu bytes", u->r->size);
}

static bw_status refuse(bwi_unpickler *u, const char *what)
{
    return bwi_fail(u->err, BW_FORMAT, "pickle, byte %zu: %s", u->r->at, what);
}

/* NULL on failure, with its reason in *st. */
static void *own_alloc(bwi_unpickler *u, size_t bytes, bw_status *st)
{
    *st = bwi_budget_take(u->budget, bytes, u->err);
    if (*st != BW_OK) return NULL;
    void *p = bwi_own_alloc(&u->own, bytes);
    if (!p) *st = no_memory(u);
    return p;
}

/* Makes room for one more in a heap array. */
static bw_status reserve(bwi_unpickler *u, void *array, size_t n, size_t *cap, size_t element)
{
    if (n < *cap) return BW_OK;
    void *old, *p;
    memcpy(&old, array, sizeof old);
    size_t more = *cap ? *cap : 64;
    bw_status st = bwi_budget_take(u->budget, more * element, u->err);
    if (st != BW_OK) return st;
    if (!(p = bwi_realloc(old, (*cap + more) * element))) return no_memory(u);
    memcpy(array, &p, sizeof p);
    *cap += more;
    return BW_OK;
}

/* ---- Stack ---- */

static bw_status push(bwi_unpickler *u, bwi_pvalue v)
{
    bw_status st = reserve(u, &u->stack, u->n_stack, &u->cap_stack, sizeof v);
    if (st == BW_OK) u->stack[u->n_stack++] = v;
    return st;
}

static bw_status pop(bwi_unpickler *u, bwi_pvalue *v)
{
    *v = (bwi_pvalue){0};
    if (!u->n_stack || u->stack[u->n_stack - 1].type == BWI_P_MARK) return refuse(u, "nothing is left on the stack");
    *v = u->stack[--u->n_stack];
    return BW_OK;
}

/* Takes everything above the topmost mark, and the mark, off the stack: *v [*n], valid until the next push. */
static bw_status pop_mark(bwi_unpickler *u, const bwi_pvalue **v, size_t *n)
{
    size_t at = u->n_stack;
    *v = NULL;
    *n = 0;
    while (at && u->stack[at - 1].type != BWI_P_MARK) at--;
    if (!at) return refuse(u, "there is no mark on the stack");
    *v = u->stack + at;
    *n = u->n_stack - at;
    u->n_stack = at - 1;
    return BW_OK;
}

/* The container that an opcode below the values it pops adds to. */
static bw_status top(bwi_unpickler *u, bwi_ptype type, bwi_pseq **seq)
{
    *seq = NULL;
    if (!u->n_stack || u->stack[u->n_stack - 1].type != type)
        return refuse(u, type == BWI_P_LIST ? "expected a list on the stack" : "expected a dictionary on the stack");
    *seq = u->stack[u->n_stack - 1].u.seq;
    return BW_OK;
}

/* ---- Containers ---- */

static bw_status append(bwi_unpickler *u, bwi_pseq *seq, const bwi_pvalue *v, size_t n)
{
    if (n > seq->cap - seq->n) {
        bw_status st;
        size_t cap = seq->n + n > 2 * seq->cap ? seq->n + n : 2 * seq->cap;
        bwi_pvalue *p = own_alloc(u, cap * sizeof *p, &st);
        if (!p) return st;
        if (seq->n) memcpy(p, seq->v, seq->n * sizeof *p);
        seq->v = p;
        seq->cap = cap;
    }
    if (n) memcpy(seq->v + seq->n, v, n * sizeof *v);
    seq->n += n;
    return BW_OK;
}

/* Pushes a new container of v [n], which may be what pop_mark gave. */
static bw_status push_seq(bwi_unpickler *u, bwi_ptype type, const bwi_pvalue *v, size_t n)
{
    bw_status st;
    bwi_pseq *seq = own_alloc(u, sizeof *seq, &st);
    if (!seq) return st;
    *seq = (bwi_pseq){0};
    st = append(u, seq, v, n);
    return st != BW_OK ? st : push(u, (bwi_pvalue){.type = type, .u.seq = seq});
}

/* ---- Opcodes: numbers ---- */

static bw_status push_int(bwi_unpickler *u, int64_t i)
{
    return push(u, (bwi_pvalue){.type = BWI_P_INT, .u.i = i});
}

/* Little-endian two's complement of n bytes. */
static bw_status push_long(bwi_unpickler *u, size_t n)
{
    const uint8_t *p = bwi_read_bytes(u->r, n);
    if (!p) return BW_OK; /* the reader is bad: the main loop says so */
    if (n > 8) {
        if (n > UINT32_MAX) return refuse(u, "an integer is too long");
        return push(u, (bwi_pvalue){.type = BWI_P_LONG, .len = (uint32_t)n, .u.s = (const char *)p});
    }
    uint64_t v = n && (p[n - 1] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = n; i--;) v = v << 8 | p[i];
    return push_int(u, (int64_t)v);
}

static bw_status push_float(bwi_unpickler *u) /* big-endian */
{
    uint64_t bits = __builtin_bswap64(bwi_read_u64(u->r));
    bwi_pvalue v = {.type = BWI_P_FLOAT};
    memcpy(&v.u.f, &bits, sizeof bits);
    return push(u, v);
}

static bw_status op_number(bwi_unpickler *u, uint8_t op)
{
    switch (op) {
    case 'N':
        return push(u, (bwi_pvalue){.type = BWI_P_NONE});
    case 0x88:
        return push(u, (bwi_pvalue){.type = BWI_P_BOOL, .u.b = true});
    case 0x89:
        return push(u, (bwi_pvalue){.type = BWI_P_BOOL, .u.b = false});
    case 'J':
        return push_int(u, (int32_t)bwi_read_u32(u->r));
    case 'K':
        return push_int(u, bwi_read_u8(u->r));
    case 'M':
        return push_int(u, bwi_read_u16(u->r));
    case 0x8a:
        return push_long(u, bwi_read_u8(u->r));
    case 0x8b:
        return push_long(u, bwi_read_u32(u->r)); /* signed in Python, where a negative length is refused */
    default:
        return push_float(u); /* 'G' */
    }
}

/* ---- Opcodes: text and bytes ---- */

static bw_status op_text(bwi_unpickler *u, uint8_t op)
{
    bool bytes = op == 'B' || op == 'C' || op == 0x8e || op == 0x96;
    bool one = op == 'U' || op == 'C' || op == 0x8c, eight = op == 0x8d || op == 0x8e || op == 0x96;
    uint64_t n = one ? bwi_read_u8(u->r) : eight ? bwi_read_u64(u->r) : bwi_read_u32(u->r);
    const uint8_t *p = bwi_read_bytes(u->r, n);
    if (!p) return BW_OK; /* the reader is bad */
    if (n > UINT32_MAX) return refuse(u, "a string is too long");
    return push(u, (bwi_pvalue){.type = bytes ? BWI_P_BYTES : BWI_P_TEXT, .len = (uint32_t)n, .u.s = (const char *)p});
}

/* ---- Opcodes: containers ---- */

/* Tuples of the n topmost values. */
static bw_status push_tuple(bwi_unpickler *u, size_t n)
{
    bwi_pvalue v[3];
    for (size_t i = n; i--;) {
        bw_status st = pop(u, &v[i]);
        if (st != BW_OK) return st;
    }
    return push_seq(u, BWI_P_TUPLE, v, n);
}

/* 'a', 'e', 's', 'u': what is on top goes into the container below it. */
static bw_status op_add(bwi_unpickler *u, uint8_t op)
{
    bw_status st;
    bwi_pvalue one[2];
    const bwi_pvalue *v = one;
    size_t n = 0;
    bwi_pseq *seq;
    if (op == 'e' || op == 'u') {
        BWI_TRY(pop_mark(u, &v, &n));
    } else {
        n = op == 's' ? 2 : 1;
        for (size_t i = n; i--;) BWI_TRY(pop(u, &one[i]));
    }
    if (op == 'u' && n % 2) return refuse(u, "a dictionary has a key without a value");
    BWI_TRY(top(u, op == 'a' || op == 'e' ? BWI_P_LIST : BWI_P_DICT, &seq));
    BWI_TRY(append(u, seq, v, n));
fail:
    return st;
}

static bw_status op_container(bwi_unpickler *u, uint8_t op)
{
    const bwi_pvalue *v = NULL;
    size_t n = 0;
    if (op == 'l' || op == 't' || op == 'd') {
        bw_status st = pop_mark(u, &v, &n);
        if (st != BW_OK) return st;
    }
    switch (op) {
    case ')':
    case 't':
        return push_seq(u, BWI_P_TUPLE, v, n);
    case ']':
    case 'l':
        return push_seq(u, BWI_P_LIST, v, n);
    case '}':
    case 'd':
        if (n % 2) return refuse(u, "a dictionary has a key without a value");
        return push_seq(u, BWI_P_DICT, v, n);
    default:
        return push_tuple(u, (size_t)(op - 0x84)); /* 0x85, 0x86, 0x87 */
    }
}

/* ---- Opcodes: stack and memo ---- */

static bw_status op_stack(bwi_unpickler *u, uint8_t op)
{
    const bwi_pvalue *v;
    size_t n;
    switch (op) {
    case '(':
        return push(u, (bwi_pvalue){.type = BWI_P_MARK});
    case '0':
        if (!u->n_stack) return refuse(u, "nothing is left on the stack");
        u->n_stack--;
        return BW_OK;
    case '1':
        return pop_mark(u, &v, &n);
    case '2':
        if (!u->n_stack) return refuse(u, "nothing is left on the stack");
        return push(u, u->stack[u->n_stack - 1]);
    case 0x80:
        if (bwi_read_u8(u->r) > 5) return refuse(u, "a protocol newer than 5");
        return BW_OK;
    default:
        bwi_read_u64(u->r);
        return BW_OK; /* 0x95, a frame: a hint for readers of streams */
    }
}

/* Python numbers what it remembers one after the other, from 0 or (Python 2) from 1, so the memo never needs more room than was used. */
static bw_status op_memo(bwi_unpickler *u, uint8_t op)
{
    if (op == 'h' || op == 'j') {
        size_t i = op == 'h' ? bwi_read_u8(u->r) : bwi_read_u32(u->r);
        if (i >= u->n_memo) return refuse(u, "it refers to a value that was not stored");
        return push(u, u->memo[i]);
    }
    size_t i = op == 'q' ? bwi_read_u8(u->r) : op == 'r' ? bwi_read_u32(u->r) : u->n_memo;
    if (!u->n_stack || u->stack[u->n_stack - 1].type == BWI_P_MARK) return refuse(u, "nothing is left on the stack");
    if (i > u->n_memo + 1) return refuse(u, "a value is stored under a number out of order");
    while (i >= u->n_memo) {
        bw_status st = reserve(u, &u->memo, u->n_memo, &u->cap_memo, sizeof *u->memo);
        if (st != BW_OK) return st;
        u->memo[u->n_memo++] = (bwi_pvalue){.type = BWI_P_NONE};
    }
    u->memo[i] = u->stack[u->n_stack - 1];
    return BW_OK;
}

/* ---- Opcodes: objects ---- */

static bw_status push_name(bwi_unpickler *u, const char *module, size_t module_len, const char *name, size_t name_len)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (text_is(module, module_len, names[i].module) && text_is(name, name_len, names[i].name))
            return push(u, (bwi_pvalue){.type = BWI_P_NAME, .u.name = &names[i]});
    return bwi_fail(u->err, BW_UNSUPPORTED,
                    "it holds a Python object of type %.*s.%.*s; only tensors, dictionaries, lists, numbers and strings can be "
                    "read, and nothing in "
                    "the file is run: save the model's state_dict() alone",
                    (int)(module_len < 100 ? module_len : 100), module, (int)(name_len < 100 ? name_len : 100), name);
}

/* One line of text without its end. */
static const char *read_line(bwi_reader *r, size_t *len)
{
    const char *s = (const char *)r->data + r->at, *end = memchr(s, '\n', r->size - r->at);
    if (!end) {
        r->bad = true;
        return NULL;
    }
    *len = (size_t)(end - s);
    r->at += *len + 1;
    return s;
}

static bw_status op_name(bwi_unpickler *u, uint8_t op)
{
    if (op == 'c') {
        size_t module_len, name_len;
        const char *module = read_line(u->r, &module_len), *name = module ? read_line(u->r, &name_len) : NULL;
        return name ? push_name(u, module, module_len, name, name_len) : BW_OK; /* the reader is bad */
    }
    bwi_pvalue module, name;
    bw_status st;
    BWI_TRY(pop(u, &name));
    BWI_TRY(pop(u, &module));
    if (module.type != BWI_P_TEXT || name.type != BWI_P_TEXT) return refuse(u, "the name of a type is not a string");
    BWI_TRY(push_name(u, module.u.s, module.len, name.u.s, name.len));
fail:
    return st;
}

static bool is_size(const bwi_pvalue *v)
{
    return v->type == BWI_P_INT && v->u.i >= 0;
}

/* args: storage, offset, size, stride, and in version 2 whether it needs a gradient and its hooks */
static bw_status rebuild_tensor(bwi_unpickler *u, const bwi_pvalue *args, size_t n)
{
    if (n < 4 || args[0].type != BWI_P_STORAGE || !is_size(&args[1]) || args[2].type != BWI_P_TUPLE ||
        args[3].type != BWI_P_TUPLE || args[2].u.seq->n != args[3].u.seq->n)
        return refuse(u, "a tensor lacks its storage, offset, size or stride");
    size_t ndim = args[2].u.seq->n;
    if (ndim > BWI_MAX_DIMS)
        return bwi_fail(u->err, BW_UNSUPPORTED, "a tensor has %zu dimensions, at most %d are supported", ndim, BWI_MAX_DIMS);
    bw_status st;
    bwi_ptensor *t = own_alloc(u, sizeof *t, &st);
    if (!t) return st;
    *t = (bwi_ptensor){.storage = (uint32_t)args[0].u.i, .ndim = (int)ndim, .offset = args[1].u.i};
    for (size_t i = 0; i < ndim; i++) {
        const bwi_pvalue *dim = &args[2].u.seq->v[i], *stride = &args[3].u.seq->v[i];
        if (!is_size(dim) || !is_size(stride)) return refuse(u, "a tensor has a size or stride that is not an integer >= 0");
        t->dim[i] = dim->u.i;
        t->stride[i] = stride->u.i;
    }
    return push(u, (bwi_pvalue){.type = BWI_P_TENSOR, .u.tensor = t});
}

/* Nothing, or what Python 2 gave: a list of pairs. */
static bw_status rebuild_dict(bwi_unpickler *u, const bwi_pvalue *args, size_t n)
{
    bw_status st = push_seq(u, BWI_P_DICT, NULL, 0);
    if (st != BW_OK || n == 0) return st;
    if (n != 1 || args[0].type != BWI_P_LIST) return refuse(u, "a dictionary is not made from a list of pairs");
    bwi_pseq *dict = u->stack[u->n_stack - 1].u.seq, *list = args[0].u.seq;
    for (size_t i = 0; i < list->n; i++) {
        const bwi_pvalue *pair = &list->v[i];
        if ((pair->type != BWI_P_LIST && pair->type != BWI_P_TUPLE) || pair->u.seq->n != 2)
            return refuse(u, "a dictionary is not made from a list of pairs");
        if ((st = append(u, dict, pair->u.seq->v, 2)) != BW_OK) return st;
    }
    return BW_OK;
}

static bw_status op_reduce(bwi_unpickler *u)
{
    bwi_pvalue args, name;
    bw_status st;
    BWI_TRY(pop(u, &args));
    BWI_TRY(pop(u, &name));
    if (name.type != BWI_P_NAME || args.type != BWI_P_TUPLE) return refuse(u, "a call of something that cannot be called");
    const bwi_pvalue *v = args.u.seq->v;
    size_t n = args.u.seq->n;
    switch (name.u.name->kind) {
    case ORDERED_DICT:
        return rebuild_dict(u, v, n);
    case REBUILD_TENSOR:
        return rebuild_tensor(u, v, n);
    case SIZE:
        if (n != 1 || v[0].type != BWI_P_TUPLE) return refuse(u, "a size is not made from a tuple");
        return push(u, v[0]);
    case ENCODE: /* text, encoding; bytes are of no use to anyone here, so they stay as they are stored */
        if (n != 2 || v[0].type != BWI_P_TEXT) return refuse(u, "bytes are not made from a text");
        return push(u, (bwi_pvalue){.type = BWI_P_BYTES, .len = v[0].len, .u.s = v[0].u.s});
    case REBUILD_PARAMETER:
        if (n < 1 || v[0].type != BWI_P_TENSOR) return refuse(u, "a parameter is not made from a tensor");
        return push(u, v[0]);
    case STORAGE:
        return refuse(u, "a storage inside of the pickle");
    }
fail:
    return st;
}

/* Attributes of an object: those of a dictionary (state_dict's _metadata) are of no use here. */
static bw_status op_build(bwi_unpickler *u)
{
    bwi_pvalue attributes;
    bwi_pseq *seq;
    bw_status st = pop(u, &attributes);
    return st != BW_OK ? st : top(u, BWI_P_DICT, &seq);
}

/* ("storage", type, key, location, number of elements[, view]) */
static bw_status op_persistent(bwi_unpickler *u)
{
    bwi_pvalue id;
    bw_status st;
    BWI_TRY(pop(u, &id));
    const bwi_pvalue *v = id.type == BWI_P_TUPLE ? id.u.seq->v : NULL;
    size_t n = v ? id.u.seq->n : 0;
    if (n < 5 || n > 6 || !bwi_ptext_is(&v[0], "storage") || v[1].type != BWI_P_NAME || v[1].u.name->kind != STORAGE ||
        v[2].type != BWI_P_TEXT || !is_size(&v[4]))
        return refuse(u, "a reference to something that is not a storage of a known type");
    if (n == 6 && v[5].type != BWI_P_NONE)
        return bwi_fail(u->err, BW_UNSUPPORTED, "a storage is a view of another one; save a clone of its tensor");
    if (u->n_storage == UINT32_MAX) return refuse(u, "too many storages");
    BWI_TRY(reserve(u, &u->storage, u->n_storage, &u->cap_storage, sizeof *u->storage));
    u->storage[u->n_storage] =
        (bwi_pstorage){.key = v[2].u.s, .key_len = v[2].len, .dtype = v[1].u.name->dtype, .numel = v[4].u.i};
    BWI_TRY(push(u, (bwi_pvalue){.type = BWI_P_STORAGE, .u.i = (int64_t)u->n_storage++}));
fail:
    return st;
}

static bw_status op_object(bwi_unpickler *u, uint8_t op)
{
    return op == 'R' ? op_reduce(u) : op == 'b' ? op_build(u) : op_persistent(u);
}

/* ---- The machine ---- */

static const struct {
    const char *codes;
    bw_status (*run)(bwi_unpickler *u, uint8_t op);
} opcodes[] = {
    {"NGJKM\x88\x89\x8a\x8b", op_number},
    {"TUXBC\x8c\x8d\x8e\x96", op_text},
    {")]}tld\x85\x86\x87", op_container},
    {"aesu", op_add},
    {"(012\x80\x95", op_stack},
    {"hjqr\x94", op_memo},
    {"c\x93", op_name},
    {"RbQ", op_object},
};

static bw_status step(bwi_unpickler *u, uint8_t op)
{
    for (size_t i = 0; op && i < sizeof opcodes / sizeof *opcodes; i++)
        if (strchr(opcodes[i].codes, op)) return opcodes[i].run(u, op);
    return bwi_fail(u->err, BW_UNSUPPORTED, "pickle, byte %zu: instruction 0x%02x is not one of those that store tensors",
                    u->r->at - 1, op);
}

bw_status bwi_unpickle(bwi_unpickler *u, bwi_reader *r, bwi_pvalue *out, bw_error *err)
{
    u->r = r;
    u->err = err;
    u->n_stack = u->n_memo = 0;
    for (;;) {
        uint8_t op = bwi_read_u8(r);
        if (!r->bad && op == '.') break;
        bw_status st = r->bad ? BW_OK : step(u, op);
        if (st != BW_OK) return st;
        if (r->bad) return bwi_fail(err, BW_FORMAT, "the pickle is cut short: it goes on past byte %zu", r->size);
    }
    bw_status st = pop(u, out);
    return st == BW_OK && u->n_stack ? refuse(u, "values are left on the stack") : st;
}

void bwi_unpickler_free(bwi_unpickler *u)
{
    bwi_free(u->stack);
    bwi_free(u->memo);
    bwi_free(u->storage);
    bwi_own_free(&u->own);
    *u = (bwi_unpickler){0};
}
