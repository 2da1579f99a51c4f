/* Base: status, allocator, random numbers, CPU, threads, files; and the element types of tensor. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/par.h"
#include "base/rng.h"
#include "base/variant.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* ---- status --------------------------------------------------------------------------------------------------------------------- */

static void status_texts_differ(void **state)
{
    (void)state;
    for (int a = BW_OK; a <= BW_INTERNAL; a++) {
        assert_true(strlen(bw_status_text((bw_status)a)) > 0);
        for (int b = BW_OK; b < a; b++) assert_string_not_equal(bw_status_text((bw_status)a), bw_status_text((bw_status)b));
    }
    assert_string_equal(bw_status_text(BW_NOMEM), "out of memory");
    assert_non_null(bw_status_text((bw_status)99));
}

static void fail_writes_and_wraps(void **state)
{
    (void)state;
    bw_error e = {0};
    assert_int_equal(bwi_fail(&e, BW_IO, "file %d", 7), BW_IO);
    assert_int_equal(e.status, BW_IO);
    assert_string_equal(e.msg, "file 7");
    assert_int_equal(bwi_fail_in(&e, BW_ARG, "layer %s", "conv1"), BW_IO); /* the callee's status stands */
    assert_string_equal(e.msg, "layer conv1: file 7");
    assert_int_equal(bwi_fail(&e, BW_SHAPE, "new: %s", e.msg), BW_SHAPE); /* an argument may be the old message */
    assert_string_equal(e.msg, "new: layer conv1: file 7");

    assert_int_equal(bwi_fail(NULL, BW_IO, "x"), BW_IO);
    assert_int_equal(bwi_fail_in(NULL, BW_ARG, "x"), BW_ARG);
    bw_error empty = {0}; /* a callee that failed without a message */
    assert_int_equal(bwi_fail_in(&empty, BW_NOMEM, "conv1"), BW_NOMEM);
    assert_int_equal(empty.status, BW_NOMEM);
    assert_string_equal(empty.msg, "conv1: out of memory");

    char longer[2 * sizeof e.msg];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    bwi_fail(&e, BW_IO, "%s", longer);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    assert_string_equal(e.msg + sizeof e.msg - 4, "...");
}

static void nearest_finds_typos_only(void **state)
{
    (void)state;
    const char *const names[] = {"lsq", "ewgs", "dorefa", "resnet20", "resnet32", "train.epochs"};
    const struct {
        const char *word, *near;
    } c[] = {
        {"lqs", "lsq"}, /* a swap is one edit */
        {"lsq+", "lsq"},
        {"egws", "ewgs"},
        {"dorfea", "dorefa"},
        {"rest20", "resnet20"},
        {"resnet23", "resnet20"},
        {"train.epoch", "train.epochs"},
        {"banana", NULL},
        {"x", NULL},
        {"", NULL},
        {"resnet", "resnet20"},
    };
    for (size_t i = 0; i < COUNT(c); i++) {
        const char *found = bwi_nearest(c[i].word, names, COUNT(names));
        if (c[i].near) {
            assert_non_null(found);
            assert_string_equal(found, c[i].near);
        } else {
            assert_null(found);
        }
    }
    char longer[300];
    memset(longer, 'l', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    assert_null(bwi_nearest(longer, names, COUNT(names)));
    assert_null(bwi_nearest("lsq", names, 0));
}

/* ---- alloc ---------------------------------------------------------------------------------------------------------------------- */

static void blocks_are_aligned_and_counted(void **state)
{
    (void)state;
    int64_t blocks = bwi_alloc_live_blocks(), bytes = bwi_alloc_live_bytes();
    uint8_t *p[64];
    for (size_t i = 0; i < COUNT(p); i++) {
        p[i] = bwi_malloc(i * 37);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        memset(p[i], (int)i, i * 37);
    }
    assert_ptr_not_equal(p[0], p[1]);
    assert_int_equal(bwi_alloc_live_blocks() - blocks, COUNT(p));
    assert_int_equal(bwi_alloc_live_bytes() - bytes, 37 * 64 * 63 / 2);
    for (size_t i = 0; i < COUNT(p); i++) {
        p[i] = bwi_realloc(p[i], i * 37 + 1000);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        for (size_t k = 0; k < i * 37; k++) assert_int_equal(p[i][k], i);
        p[i] = bwi_realloc(p[i], 5);
        assert_non_null(p[i]);
    }
    assert_int_equal(bwi_alloc_live_bytes() - bytes, 5 * 64);
    for (size_t i = 0; i < COUNT(p); i++) bwi_free(p[i]);
    bwi_free(NULL);
    uint8_t *z = bwi_calloc(100, 3);
    assert_non_null(z);
    for (int i = 0; i < 300; i++) assert_int_equal(z[i], 0);
    bwi_free(z);
    assert_null(bwi_calloc(SIZE_MAX / 2, 3));
    assert_null(bwi_malloc(SIZE_MAX));
    assert_null(bwi_malloc(SIZE_MAX - 64));
    assert_int_equal(bwi_alloc_live_blocks(), blocks);
    assert_int_equal(bwi_alloc_live_bytes(), bytes);
}

static void nth_allocation_fails(void **state)
{
    (void)state;
    int64_t blocks = bwi_alloc_live_blocks();
    void *p[5];
    for (int sticky = 0; sticky < 2; sticky++) {
        bwi_alloc_fail_at(2, sticky);
        for (int i = 0; i < 5; i++) p[i] = bwi_malloc(8);
        assert_int_equal(bwi_alloc_count(), 5);
        bwi_alloc_fail_at(-1, 0);
        for (int i = 0; i < 5; i++) {
            bool fails = i == 2 || (sticky && i > 2);
            if (fails)
                assert_null(p[i]);
            else
                assert_non_null(p[i]);
            bwi_free(p[i]);
        }
    }
    /* A block whose growth fails is still there. */
    char *s = bwi_strdup("kept");
    bwi_alloc_fail_at(0, 0);
    assert_null(bwi_realloc(s, 1000));
    bwi_alloc_fail_at(-1, 0);
    assert_string_equal(s, "kept");
    bwi_free(s);
    assert_int_equal(bwi_alloc_live_blocks(), blocks);
}

static void strings_and_text(void **state)
{
    (void)state;
    char *s = bwi_strndup("abcdef", 3);
    assert_string_equal(s, "abc");
    bwi_free(s);
    s = bwi_strndup("ab", 30);
    assert_string_equal(s, "ab");
    bwi_free(s);
    s = bwi_asprintf("%s-%d", "x", 42);
    assert_string_equal(s, "x-42");
    bwi_free(s);

    bwi_text t = {0};
    for (int i = 0; i < 1000; i++) bwi_text_add(&t, "%04d,", i);
    assert_false(t.failed);
    assert_int_equal(t.len, 5000);
    assert_int_equal(strlen(t.s), 5000);
    assert_memory_equal(t.s + 4990, "0998,0999,", 10);
    bwi_free(t.s);

    bwi_text u = {0};
    bwi_text_add(&u, "start");
    bwi_alloc_fail_at(0, 0);
    bwi_text_add(&u, "%01000d", 1);
    assert_true(u.failed);
    assert_string_equal(u.s, "start");
    bwi_text_add(&u, "more"); /* would fit: a gap in the middle must not go unnoticed */
    assert_string_equal(u.s, "start");
    bwi_alloc_fail_at(-1, 0);
    bwi_free(u.s);
}

/* ---- random numbers ------------------------------------------------------------------------------------------------------------- */

static void generators_are_keyed(void **state)
{
    (void)state;
    /* First outputs of the published xoshiro256** for the state 1, 2, 3, 4. */
    bwi_rng known = {{1, 2, 3, 4}};
    const uint64_t expected[] = {11520, 0, 1509978240, 1215971899390074240};
    for (size_t i = 0; i < COUNT(expected); i++) assert_true(bwi_rng_u64(&known) == expected[i]);

    /* Same key, same numbers; every part of the key matters. Pinned: checkpoints depend on it. */
    const uint64_t key[][4] = {{1, 1, 0, 0}, {2, 1, 0, 0}, {1, 2, 0, 0}, {1, 1, 1, 0},
                               {1, 1, 0, 1}, {0, 1, 1, 0}, {0, 1, 0, 1}};
    uint64_t first[COUNT(key)];
    for (size_t i = 0; i < COUNT(key); i++) {
        bwi_rng a = bwi_rng_make(key[i][0], (bwi_rng_purpose)key[i][1], key[i][2], key[i][3]), b = a;
        first[i] = bwi_rng_u64(&a);
        assert_true(bwi_rng_u64(&b) == first[i]);
        for (size_t k = 0; k < i; k++) assert_true(first[i] != first[k]);
    }
    assert_true(first[0] == 0xe1f6b2d1d3bdd123u);
    assert_true(bwi_hash_str("") == 0xcbf29ce484222325u &&
                bwi_hash_str("a") == 0xaf63dc4c8601ec8cu); /* FNV-1a's test vectors */
}

static void numbers_are_uniform(void **state)
{
    (void)state;
    enum { N = 200000 };
    bwi_rng r = bwi_rng_make(7, BWI_RNG_TEST, 0, 0);
    /* Chi-square of 7 classes, 99.99 %; and 3 * 2^30 classes, of which plain scaling would draw every third one twice as often. */
    double count[7] = {0}, chi = 0, third = 0;
    for (int i = 0; i < N; i++) count[bwi_rng_below(&r, 7)]++;
    for (int i = 0; i < 7; i++) chi += (count[i] - N / 7.0) * (count[i] - N / 7.0) / (N / 7.0);
    assert_true(chi < 27.9);
    for (int i = 0; i < N; i++) {
        uint32_t v = bwi_rng_below(&r, 3u << 30);
        assert_true(v < 3u << 30);
        third += v % 3 == 0;
    }
    assert_true(fabs(third - N / 3.0) < 4 * sqrt(N * 2.0 / 9));
    assert_int_equal(bwi_rng_below(&r, 1), 0);

    double sum = 0, square = 0;
    for (int i = 0; i < N; i++) {
        double u = bwi_rng_uniform(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
        square += u * u;
    }
    assert_true(fabs(sum / N - 0.5) < 4 * sqrt(1.0 / 12 / N));
    assert_true(fabs(square / N - 1.0 / 3) < 4 * sqrt(4.0 / 45 / N));
}

static void normals_are_normal(void **state)
{
    (void)state;
    enum { N = 200000 };
    bwi_rng r = bwi_rng_make(8, BWI_RNG_TEST, 0, 0);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, within = 0, tail = 0;
    for (int i = 0; i < N; i++) {
        double x = bwi_rng_normal(&r);
        m1 += x / N;
        m2 += x * x / N;
        m3 += x * x * x / N;
        m4 += x * x * x * x / N;
        within += fabs(x) < 1;
        tail += fabs(x) > 3;
    }
    assert_true(fabs(m1) < 4 / sqrt(N));
    assert_true(fabs(m2 - 1) < 4 * sqrt(2.0 / N));
    assert_true(fabs(m3) < 4 * sqrt(15.0 / N));
    assert_true(fabs(m4 - 3) < 4 * sqrt(96.0 / N));
    assert_true(fabs(within / N - erf(1 / sqrt(2.0))) < 4 * sqrt(0.2165 / N));
    assert_true(fabs(tail / N - erfc(3 / sqrt(2.0))) < 4 * sqrt(0.0027 / N));
}

/* The polar method on the same uniform numbers, with the C library's logarithm. */
static void normals_are_precise(void **state)
{
    (void)state;
    bwi_rng r = bwi_rng_make(10, BWI_RNG_TEST, 0, 0), q = r;
    for (int i = 0; i < 100000; i++) {
        double x, y, s;
        do {
            x = 2 * bwi_rng_uniform(&q) - 1;
            y = 2 * bwi_rng_uniform(&q) - 1;
            s = x * x + y * y;
        } while (s >= 1 || s == 0);
        double want = x * sqrt(-2 * log(s) / s), got = bwi_rng_normal(&r);
        assert_true(fabs(got - want) <= 1e-14 * fabs(want));
    }
}

static void shuffle_is_a_uniform_permutation(void **state)
{
    (void)state;
    enum { N = 24000 };
    bwi_rng r = bwi_rng_make(9, BWI_RNG_TEST, 0, 0);
    int count[256] = {0}, seen = 0;
    for (int i = 0; i < N; i++) {
        uint32_t v[4] = {0, 1, 2, 3};
        bwi_rng_shuffle(&r, v, 4);
        assert_int_equal(1u << v[0] | 1u << v[1] | 1u << v[2] | 1u << v[3], 15);
        count[v[0] | v[1] << 2 | v[2] << 4 | v[3] << 6]++;
    }
    double chi = 0;
    for (int i = 0; i < 256; i++) {
        if (!count[i]) continue;
        seen++;
        chi += (count[i] - N / 24.0) * (count[i] - N / 24.0) / (N / 24.0);
    }
    assert_int_equal(seen, 24);
    assert_true(chi < 58); /* 23 degrees of freedom, 99.99 % */
    uint32_t one = 5;
    bwi_rng_shuffle(&r, &one, 1);
    bwi_rng_shuffle(&r, NULL, 0);
    assert_int_equal(one, 5);
}

/* ---- CPU, threads --------------------------------------------------------------------------------------------------------------- */

static void cpu_limits_mask(void **state)
{
    (void)state;
    bw_error e = {0};
    unsetenv("BITWRIGHT_CPU");
    assert_int_equal(bwi_cpu_limit("native", &e), BW_OK);
    unsigned native = bwi_cpu_flags();
#if defined(__x86_64__)
    __builtin_cpu_init();
    assert_int_equal((native & BWI_CPU_AVX2) != 0, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    assert_int_equal((native & BWI_CPU_AVX512) != 0, __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"));
    assert_int_equal((native & BWI_CPU_VNNI) != 0, __builtin_cpu_supports("avx512vnni") != 0);
#endif
    const struct {
        const char *name;
        unsigned keeps;
    } c[] = {{"ref", 0},
             {"avx2", BWI_CPU_AVX2},
             {"avx512", BWI_CPU_AVX2 | BWI_CPU_AVX512 | BWI_CPU_VNNI | BWI_CPU_VPOPCNT},
             {"native", ~0u}};
    for (size_t i = 0; i < COUNT(c); i++) {
        assert_int_equal(bwi_cpu_limit(c[i].name, &e), BW_OK);
        assert_int_equal(bwi_cpu_flags(), native & c[i].keeps);
        unsigned f = bwi_cpu_flags();
        int variant = f & BWI_CPU_AVX512 ? BWI_F32_AVX512 : f & BWI_CPU_AVX2 ? BWI_F32_AVX2 : BWI_F32;
        assert_int_equal(bwi_variant_for(BWI_DT_F32), variant);
        assert_int_equal(bwi_variant_for(BWI_DT_F64), BWI_F64);
        assert_int_equal(strstr(bwi_cpu_text(), "AVX-512") != NULL, (f & BWI_CPU_AVX512) != 0);
    }

    assert_int_equal(bwi_cpu_limit("avx2", &e), BW_OK);
    assert_int_equal(bwi_cpu_limit("avx521", &e), BW_ARG);
    assert_non_null(strstr(e.msg, "avx521"));
    assert_non_null(strstr(e.msg, "\"avx512\""));
    assert_int_equal(bwi_cpu_flags(), native & BWI_CPU_AVX2);

    setenv("BITWRIGHT_CPU", "ref", 1);
    assert_int_equal(bwi_cpu_limit(NULL, &e), BW_OK);
    assert_int_equal(bwi_cpu_flags(), 0);
    setenv("BITWRIGHT_CPU", "fast", 1);
    assert_int_equal(bwi_cpu_limit(NULL, &e), BW_ARG);
    assert_non_null(strstr(e.msg, "BITWRIGHT_CPU"));
    unsetenv("BITWRIGHT_CPU");
    assert_int_equal(bwi_cpu_limit(NULL, &e), BW_OK);
    assert_int_equal(bwi_cpu_flags(), native);
}

static void chunks_cover(void **state)
{
    (void)state;
    const size_t grain[] = {1, 16, 64, 1000};
    for (size_t g = 0; g < COUNT(grain); g++) {
        for (size_t n = 0; n < 3000; n += n < 200 ? 1 : 37) {
            assert_int_equal(bwi_chunk(n, grain[g], 0), 0);
            assert_int_equal(bwi_chunk(n, grain[g], BWI_CHUNKS), n);
            for (size_t i = 0; i < BWI_CHUNKS; i++) {
                size_t from = bwi_chunk(n, grain[g], i), to = bwi_chunk(n, grain[g], i + 1);
                assert_true(from <= to);
                assert_true(from == n || from % grain[g] == 0);
            }
        }
    }
    assert_int_equal(bwi_chunk(SIZE_MAX / 64, 64, BWI_CHUNKS), SIZE_MAX / 64);
}

static void threads_run_chunks_once(void **state)
{
    (void)state;
    bwi_threads_set(0);
    assert_true(bwi_threads() >= 1);
    for (int t = 1; t <= 4; t++) {
        int hits[BWI_CHUNKS] = {0};
        bwi_threads_set(t);
        assert_int_equal(bwi_threads(), t);
        assert_int_equal(omp_get_max_threads(), t);
        BWI_PARALLEL_CHUNKS(i)
        hits[i]++;
        for (int i = 0; i < BWI_CHUNKS; i++) assert_int_equal(hits[i], 1);
    }
    bwi_threads_set(0);
    double a = bwi_now();
    assert_true(bwi_now() >= a);
    assert_true(bwi_peak_mb() > 1 && bwi_peak_mb() < 1e5);
}

/* ---- files ---------------------------------------------------------------------------------------------------------------------- */

/* Each test of files runs inside a fresh folder. */
static char folder[256], home[4096];

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bitwright-base-XXXXXX", base ? base : "/tmp");
    return getcwd(home, sizeof home) && mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return chdir(home) || rmdir(folder); /* fails, and the test with it, when a file stays behind */
}

static void put(const char *path, const char *text)
{
    bwi_writer *w;
    assert_int_equal(bwi_writer_open(&w, path, NULL), BW_OK);
    assert_int_equal(bwi_writer_add(w, text, strlen(text), NULL), BW_OK);
    assert_int_equal(bwi_writer_commit(&w, NULL), BW_OK);
    assert_null(w);
}

static void assert_holds(const char *path, const void *data, size_t n)
{
    bwi_file f;
    assert_int_equal(bwi_file_open(&f, path, NULL), BW_OK);
    assert_int_equal(f.size, n);
    if (n) assert_memory_equal(f.data, data, n);
    assert_string_equal(f.path, path);
    bwi_file_close(&f);
    bwi_file_close(&f);
}

static void written_files_read_back(void **state)
{
    (void)state;
    const char *path = "a";
    /* Sizes round the writer's buffer, in pieces of several sizes. */
    const size_t size[] = {0, 1, 65535, 65536, 65537, 300000}, piece[] = {1, 7, 65535, 65536, 65537, 300000};
    uint8_t *data = malloc(300000);
    assert_non_null(data);
    bwi_rng r = bwi_rng_make(1, BWI_RNG_TEST, 0, 0);
    for (size_t i = 0; i < 300000; i++) data[i] = (uint8_t)bwi_rng_u64(&r);
    for (size_t s = 0; s < COUNT(size); s++) {
        for (size_t p = 0; p < COUNT(piece); p++) {
            bwi_writer *w;
            assert_int_equal(bwi_writer_open(&w, path, NULL), BW_OK);
            for (size_t at = 0; at < size[s]; at += piece[p]) {
                size_t n = size[s] - at < piece[p] ? size[s] - at : piece[p];
                assert_int_equal(bwi_writer_add(w, data + at, n, NULL), BW_OK);
            }
            assert_int_equal(bwi_writer_add(w, NULL, 0, NULL), BW_OK);
            assert_int_equal(bwi_writer_commit(&w, NULL), BW_OK);
            assert_holds(path, data, size[s]);
            assert_false(bwi_file_exists("a.tmp"));
        }
    }
    free(data);
    unlink(path);
}

static void writing_is_atomic(void **state)
{
    (void)state;
    const char *path = "b", *temporary = "b.tmp";
    put(path, "old");
    bwi_writer *w;
    assert_int_equal(bwi_writer_open(&w, path, NULL), BW_OK);
    assert_int_equal(bwi_writer_add(w, "new", 3, NULL), BW_OK);
    assert_true(bwi_file_exists(temporary));
    assert_holds(path, "old", 3);
    bwi_file mapped;
    assert_int_equal(bwi_file_open(&mapped, path, NULL), BW_OK);
    assert_int_equal(bwi_writer_commit(&w, NULL), BW_OK);
    assert_holds(path, "new", 3);
    assert_memory_equal(mapped.data, "old", 3); /* a mapping outlives the file's replacement */
    bwi_file_close(&mapped);

    assert_int_equal(bwi_writer_open(&w, path, NULL), BW_OK);
    assert_int_equal(bwi_writer_add(w, "bad", 3, NULL), BW_OK);
    bwi_writer_abandon(&w);
    bwi_writer_abandon(&w);
    assert_false(bwi_file_exists(temporary));
    assert_holds(path, "new", 3);

    /* What a crash left behind is in nobody's way. */
    FILE *f = fopen(temporary, "w");
    assert_non_null(f);
    fputs("a longer leftover", f);
    fclose(f);
    put(path, "last");
    assert_holds(path, "last", 4);
    unlink(path);
}

static void write_errors_name_the_path(void **state)
{
    (void)state;
    bwi_writer *w;
    bw_error e;
    assert_int_equal(bwi_writer_open(&w, "missing/x", &e), BW_IO);
    assert_null(w);
    assert_non_null(strstr(e.msg, "missing/x"));
    assert_non_null(strstr(e.msg, strerror(ENOENT)));

    /* A name that is a folder: the rename fails, and nothing stays behind. */
    const char *path = "c", *inside = "c/d";
    assert_int_equal(mkdir(path, 0777), 0);
    put(inside, "x");
    assert_int_equal(bwi_writer_open(&w, path, &e), BW_OK);
    assert_int_equal(bwi_writer_commit(&w, &e), BW_IO);
    assert_null(w);
    assert_non_null(strstr(e.msg, path));
    assert_false(bwi_file_exists("c.tmp"));
    unlink(inside);
    rmdir(path);

    /* A temporary file is never written through a link that somebody else put there. */
    const char *link = "e.tmp";
    assert_int_equal(symlink("/dev/full", link), 0);
    assert_int_equal(bwi_writer_open(&w, "e", &e), BW_IO);
    unlink(link);
}

static void assert_exits_with_0(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* In a process that may not write more than 100,000 bytes into a file: what a full disk looks like to the writer. */
static void write_error_removes_the_temporary_file(void **state)
{
    (void)state;
    static const uint8_t data[200000];
    const char *path = "f";
    put(path, "old");
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit limit = {100000, 100000};
        bwi_writer *w;
        bw_error e = {0};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(10);
        if (bwi_writer_open(&w, path, &e) != BW_OK) _exit(11);
        if (bwi_writer_add(w, data, sizeof data, &e) != BW_IO) _exit(12);
        if (!strstr(e.msg, path) || !strstr(e.msg, strerror(EFBIG))) _exit(13);
        e = (bw_error){0};
        if (bwi_writer_add(w, data, 1, &e) != BW_IO) _exit(14); /* once failed, failed */
        if (bwi_writer_commit(&w, &e) != BW_IO || w) _exit(15);
        if (!strstr(e.msg, path)) _exit(16);
        _exit(0);
    }
    assert_exits_with_0(child);
    assert_false(bwi_file_exists("f.tmp"));
    assert_holds(path, "old", 3);
    unlink(path);
}

static void read_only_folder(void **state)
{
    (void)state;
    assert_int_equal(mkdir("g", 0555), 0);
    assert_int_equal(chmod(".", 0755), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bwi_writer *w;
        bw_error e = {0};
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(10); /* root may write everywhere */
        if (bwi_writer_open(&w, "g/x", &e) != BW_IO || w) _exit(11);
        if (!strstr(e.msg, "g/x") || !strstr(e.msg, strerror(EACCES))) _exit(12);
        if (bwi_make_dir("g/y", &e) != BW_IO) _exit(13);
        if (!strstr(e.msg, "g/y") || !strstr(e.msg, strerror(EACCES))) _exit(14);
        _exit(0);
    }
    assert_exits_with_0(child);
    rmdir("g");
}

static void reading_reports(void **state)
{
    (void)state;
    bwi_file f;
    bw_error e;
    assert_int_equal(bwi_file_open(&f, "nothing", &e), BW_IO);
    assert_non_null(strstr(e.msg, "nothing"));
    assert_non_null(strstr(e.msg, strerror(ENOENT)));
    assert_int_equal(bwi_file_open(&f, ".", &e), BW_IO);
    assert_non_null(strstr(e.msg, "folder"));
    assert_int_equal(bwi_file_open(&f, "/dev/zero", &e), BW_IO);
    bwi_file_close(&f);
    bwi_file_close(&(bwi_file){0});

    /* A file without a size beforehand is read to its end. */
    assert_int_equal(bwi_file_open(&f, "/proc/self/status", &e), BW_OK);
    assert_true(f.size > 100 && !f.mapped);
    assert_memory_equal(f.data, "Name:", 5);
    bwi_file_close(&f);
}

static void reader_is_bounded(void **state)
{
    (void)state;
    const uint8_t data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    bwi_reader r = {data, sizeof data, 0, false};
    assert_int_equal(bwi_read_u8(&r), 1);
    assert_int_equal(bwi_read_u16(&r), 0x0302);
    assert_int_equal(bwi_read_u32(&r), 0x07060504);
    assert_true(bwi_read_u64(&r) == 0x0f0e0d0c0b0a0908u);
    assert_false(r.bad);
    assert_non_null(bwi_read_bytes(&r, 0)); /* at the very end */
    assert_int_equal(bwi_read_u8(&r), 0);
    assert_true(r.bad);

    for (size_t size = 0; size < sizeof data; size++) { /* truncated everywhere */
        uint8_t *part = malloc(size + 1);
        assert_non_null(part);
        memcpy(part, data, size);
        r = (bwi_reader){part, size, 0, false};
        bwi_read_u8(&r);
        bwi_read_u16(&r);
        bwi_read_u32(&r);
        assert_int_equal(bwi_read_u64(&r), 0);
        assert_true(r.bad);
        free(part);
    }
    r = (bwi_reader){data, sizeof data, 3, false};
    assert_null(bwi_read_bytes(&r, SIZE_MAX)); /* at + n overflows */
    assert_true(r.bad);
    assert_null(bwi_read_bytes(&r, 1)); /* and stays so */

    size_t v = 0;
    assert_true(bwi_mul(1u << 20, 1u << 20, &v) && v == (size_t)1 << 40);
    assert_false(bwi_mul(SIZE_MAX / 2, 3, &v));
    assert_true(bwi_add(SIZE_MAX - 1, 1, &v) && v == SIZE_MAX);
    assert_false(bwi_add(SIZE_MAX, 1, &v));
}

static void folders_are_made_with_parents(void **state)
{
    (void)state;
    bw_error e;
    assert_int_equal(bwi_make_dir("h//i/j/", &e), BW_OK);
    assert_int_equal(bwi_make_dir("h/i/j", &e), BW_OK);
    assert_int_equal(bwi_make_dir("/", &e), BW_OK);
    assert_int_equal(bwi_make_dir(".", &e), BW_OK);
    assert_int_equal(bwi_make_dir("", &e), BW_IO);
    put("h/k", "x");
    assert_int_equal(bwi_make_dir("h/k", &e), BW_IO);
    assert_int_equal(bwi_make_dir("h/k/l", &e), BW_IO);
    assert_non_null(strstr(e.msg, "h/k"));
    assert_int_equal(bwi_make_dir("/proc/bitwright", &e), BW_IO);
    unlink("h/k");
    rmdir("h/i/j");
    rmdir("h/i");
    rmdir("h");
}

static void files_survive_lack_of_memory(void **state)
{
    (void)state;
    const char *path = "m";
    int64_t blocks = bwi_alloc_live_blocks();
    for (int64_t n = 0;; n++) {
        bw_error e = {0};
        bwi_writer *w = NULL;
        bwi_file f = {0};
        bwi_alloc_fail_at(n, 1);
        bw_status st = bwi_writer_open(&w, path, &e);
        if (st == BW_OK) st = bwi_writer_commit(&w, &e);
        if (st == BW_OK) st = bwi_file_open(&f, path, &e);
        bwi_file_close(&f);
        if (st == BW_OK) st = bwi_file_open(&f, "/proc/self/status", &e);
        bwi_file_close(&f);
        if (st == BW_OK) st = bwi_make_dir(".", &e);
        int64_t made = bwi_alloc_count();
        bwi_alloc_fail_at(-1, 0);
        assert_null(w);
        assert_int_equal(bwi_alloc_live_blocks(), blocks);
        assert_false(bwi_file_exists("m.tmp"));
        if (st == BW_OK) {
            assert_true(made <= n && n >= 6);
            break;
        }
        assert_int_equal(st, BW_NOMEM);
        assert_int_equal(e.status, BW_NOMEM);
    }
    unlink(path);
}

/* ---- element types -------------------------------------------------------------------------------------------------------------- */

static void half_precision_is_exact(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
        float f = bwi_f16_to_f32((uint16_t)h);
        assert_int_equal(signbit(f) != 0, h >> 15);
        if (e == 31)
            assert_true(m ? isnan(f) : isinf(f));
        else
            assert_true(fabs((double)f) == (e ? ldexp(1024 + m, e - 25) : ldexp(m, -24)));
    }
}

static void dtypes_have_names_and_sizes(void **state)
{
    (void)state;
    const size_t size[BWI_DT_COUNT] = {4, 8, 2, 2, 1, 1, 2, 4, 8, 1};
    for (int i = 0; i < BWI_DT_COUNT; i++) {
        const char *name = bwi_dtype_name((bwi_dtype)i);
        assert_int_equal(bwi_dtype_size((bwi_dtype)i), size[i]);
        assert_int_equal(bwi_dtype_from_name(name, strlen(name)), i);
        assert_int_equal(bwi_dtype_from_name(name, strlen(name) - 1), -1);
    }
    assert_string_equal(bwi_dtype_name(BWI_DT_BF16), "BF16");
    assert_int_equal(bwi_dtype_from_name("F8_E4M3", 7), -1);
    assert_int_equal(bwi_dtype_from_name("", 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_texts_differ),
        cmocka_unit_test(fail_writes_and_wraps),
        cmocka_unit_test(nearest_finds_typos_only),
        cmocka_unit_test(blocks_are_aligned_and_counted),
        cmocka_unit_test(nth_allocation_fails),
        cmocka_unit_test(strings_and_text),
        cmocka_unit_test(generators_are_keyed),
        cmocka_unit_test(numbers_are_uniform),
        cmocka_unit_test(normals_are_normal),
        cmocka_unit_test(normals_are_precise),
        cmocka_unit_test(shuffle_is_a_uniform_permutation),
        cmocka_unit_test(cpu_limits_mask),
        cmocka_unit_test(chunks_cover),
        cmocka_unit_test(threads_run_chunks_once),
        cmocka_unit_test_setup_teardown(written_files_read_back, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(writing_is_atomic, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(write_errors_name_the_path, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(write_error_removes_the_temporary_file, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(read_only_folder, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(reading_reports, make_folder, remove_folder),
        cmocka_unit_test(reader_is_bounded),
        cmocka_unit_test_setup_teardown(folders_are_made_with_parents, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_survive_lack_of_memory, make_folder, remove_folder),
        cmocka_unit_test(half_precision_is_exact),
        cmocka_unit_test(dtypes_have_names_and_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
