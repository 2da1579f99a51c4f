#include "deploy/run/header.h"
#include <string.h>

/* A cursor over the JSON text. `bad` stays set once something was not as expected. */
typedef struct cursor {
    const char *at, *end;
    bool bad;
} cursor;

static void blanks(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')) c->at++;
}

/* Takes a character if it comes next. */
static bool take(cursor *c, char what)
{
    blanks(c);
    if (c->bad || c->at >= c->end || *c->at != what) return false;
    c->at++;
    return true;
}
static void expect(cursor *c, char what)
{
    if (!take(c, what)) c->bad = true;
}

static bwr_text string(cursor *c)
{
    bwr_text t = {"", 0};
    expect(c, '"');
    if (c->bad) return t;
    t.s = c->at;
    while (c->at < c->end && *c->at != '"' && *c->at != '\\') c->at++;
    t.n = (size_t)(c->at - t.s);
    expect(c, '"');
    return t;
}

static uint64_t number(cursor *c)
{
    uint64_t v = 0;
    blanks(c);
    const char *start = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9' && v < UINT64_MAX / 16) v = v * 10 + (uint64_t)(*c->at++ - '0');
    if (c->at == start || (c->at < c->end && *c->at >= '0' && *c->at <= '9')) c->bad = true;
    return v;
}

/* {"dtype": "U8", "shape": [2, 3], "data_offsets": [0, 6]}, members in any order. Checked against the bytes that are there. */
static bwr_tensor tensor(cursor *c, const bwr_header *h)
{
    bwr_tensor t = {BWR_U8, 1, NULL};
    uint64_t from = 0, to = 0, n = 1;
    int members = 0;
    expect(c, '{');
    do {
        const bwr_text key = string(c);
        expect(c, ':');
        if (bwr_text_is(key, "dtype")) {
            const bwr_text type = string(c);
            t.type = bwr_text_is(type, "F32") ? BWR_F32 : BWR_U8;
            if (!bwr_text_is(type, "F32") && !bwr_text_is(type, "U8")) c->bad = true;
        } else if (bwr_text_is(key, "shape")) {
            expect(c, '[');
            if (!take(c, ']')) {
                do {
                    const uint64_t dim = number(c);
                    if (dim && n > h->data_size / dim) c->bad = true;
                    if (!c->bad) n *= dim;
                } while (take(c, ','));
                expect(c, ']');
            }
        } else if (bwr_text_is(key, "data_offsets")) {
            expect(c, '[');
            from = number(c);
            expect(c, ',');
            to = number(c);
            expect(c, ']');
        } else {
            c->bad = true;
        }
        members++;
    } while (take(c, ','));
    expect(c, '}');
    const uint64_t size = t.type == BWR_F32 ? 4 : 1;
    if (members != 3 || from > to || to > h->data_size || n > h->data_size / size || to - from != n * size || from % size)
        c->bad = true;
    if (c->bad) return t;
    t.n = (size_t)n;
    t.data = h->data + from;
    return t;
}

/* Finds the tensor `what` (out) or the metadata key `what` (meta); with both NULL only checks. */
static bool scan(const bwr_header *h, const char *what, bwr_tensor *out, bwr_text *meta, bool *bad)
{
    cursor c = {h->json.s, h->json.s + h->json.n, false};
    bool found = false;
    expect(&c, '{');
    if (!take(&c, '}')) {
        do {
            const bwr_text name = string(&c);
            expect(&c, ':');
            if (bwr_text_is(name, "__metadata__")) {
                expect(&c, '{');
                do {
                    const bwr_text key = string(&c);
                    expect(&c, ':');
                    const bwr_text value = string(&c);
                    if (meta && bwr_text_is(key, what)) *meta = value, found = true;
                } while (take(&c, ','));
                expect(&c, '}');
                continue;
            }
            const bwr_tensor t = tensor(&c, h);
            if (!out || !bwr_text_is(name, what)) continue;
            *out = t;
            found = true;
        } while (!c.bad && take(&c, ','));
        expect(&c, '}');
    }
    blanks(&c);
    *bad = c.bad || c.at != c.end;
    return found && !*bad;
}

bw_status bwr_header_read(bwr_header *h, const void *file, size_t size, bw_error *err)
{
    const uint8_t *f = file;
    uint64_t n = 0;
    bool bad;
    *h = (bwr_header){0};
    if (size < 8) return bwi_fail(err, BW_FORMAT, "a packed model is a safetensors file; this has %zu bytes", size);
    for (int i = 0; i < 8; i++) n |= (uint64_t)f[i] << (8 * i);
    if (n > size - 8)
        return bwi_fail(err, BW_FORMAT, "its header of %llu bytes is longer than the file", (unsigned long long)n);
    h->json = (bwr_text){(const char *)f + 8, (size_t)n};
    h->data = f + 8 + n;
    h->data_size = size - 8 - (size_t)n;
    scan(h, NULL, NULL, NULL, &bad);
    return bad ? bwi_fail(err, BW_FORMAT, "its header is damaged, or it is not a packed model") : BW_OK;
}

bool bwr_header_tensor(const bwr_header *h, const char *name, bwr_tensor *out)
{
    bool bad;
    return scan(h, name, out, NULL, &bad);
}

bool bwr_header_meta(const bwr_header *h, const char *key, bwr_text *out)
{
    bool bad;
    return scan(h, key, NULL, out, &bad);
}
