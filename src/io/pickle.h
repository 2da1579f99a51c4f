/* Python's pickle format, as far as PyTorch needs it to store tensors, numbers and strings in dictionaries, lists and tuples. A pickle is a program
 * for a stack machine; this machine has no instruction that runs anything: the few names in its table stand for tensors and
 * dictionaries, and every other name is refused. */
#ifndef BWI_PICKLE_H
#define BWI_PICKLE_H
#include "base/file.h"
#include "tensor/tensor.h"

typedef enum bwi_ptype {
    BWI_P_NONE,
    BWI_P_BOOL,
    BWI_P_INT,
    BWI_P_FLOAT,
    BWI_P_LONG, /* an integer of more than 64 bits: its little-endian bytes */
    BWI_P_TEXT,
    BWI_P_BYTES,
    BWI_P_TUPLE,
    BWI_P_LIST,
    BWI_P_DICT,
    BWI_P_NAME,    /* a row of the table of names */
    BWI_P_STORAGE, /* of tensors */
    BWI_P_TENSOR,
    BWI_P_MARK, /* on the stack only */
} bwi_ptype;

struct bwi_pseq;
struct bwi_ptensor;
struct bwi_pname;
typedef struct bwi_pvalue {
    bwi_ptype type;
    uint32_t len; /* bytes of s */
    union {
        bool b;
        int64_t i; /* STORAGE: its index */
        double f;
        const char *s; /* LONG, TEXT, BYTES: inside of the pickle, not terminated */
        struct bwi_pseq *seq;
        const struct bwi_pname *name;
        const struct bwi_ptensor *tensor;
    } u;
} bwi_pvalue;

/* TUPLE, LIST; DICT: key and value alternate, in file order. A list or dictionary may hold itself. */
typedef struct bwi_pseq {
    bwi_pvalue *v;
    size_t n, cap;
} bwi_pseq;

/* A view of a storage, in elements; every number is >= 0, nothing else is checked. */
typedef struct bwi_ptensor {
    uint32_t storage;
    int ndim;
    int64_t offset, dim[BWI_MAX_DIMS], stride[BWI_MAX_DIMS];
} bwi_ptensor;

/* An array of numbers that the pickle refers to by key; the caller finds its data. The same key may occur several times. */
typedef struct bwi_pstorage {
    const char *key; /* inside of the pickle */
    uint32_t key_len;
    bwi_dtype dtype;
    int64_t numel; /* >= 0 */
    const uint8_t *data;
} bwi_pstorage;

typedef struct bwi_unpickler {
    size_t *budget; /* bytes that may still be allocated: genuine files need only a small multiple of their size */
    void *own;      /* chain that holds what values point to */
    bwi_pvalue *stack, *memo;
    size_t n_stack, cap_stack, n_memo, cap_memo;
    bwi_pstorage *storage;
    size_t n_storage, cap_storage;
    bwi_reader *r;
    bw_error *err;
} bwi_unpickler;

/* Runs the pickle at r to its end. The value lives as long as u and the buffer of r; storages are added to u->storage. */
BW_MUST_USE bw_status bwi_unpickle(bwi_unpickler *u, bwi_reader *r, bwi_pvalue *out, bw_error *err);
void bwi_unpickler_free(bwi_unpickler *u);
/* Takes n bytes off the budget; BW_FORMAT when it is used up. */
BW_MUST_USE bw_status bwi_budget_take(size_t *budget, size_t n, bw_error *err);
/* Whether v is this text. */
bool bwi_ptext_is(const bwi_pvalue *v, const char *text);
#endif
