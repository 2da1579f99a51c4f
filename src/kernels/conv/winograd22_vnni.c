/* Winograd F(2x2,3x3): 16 products for what takes 36, in exact integers.
 *
 * Along each direction, with d the input, g the weights and y the output:
 *   V = d0 - d2, d1 + d2, d2 - d1, d1 - d3        U = 2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2 (twice those of Winograd)
 *   2 y = m0 + m1 + m2, m1 - m2 - m3
 * Both directions together: every V is a sum of four codes, or two less two, so for codes from lo <= 0 to hi it lies between
 * 4 lo and 4 hi, and within 2 (hi - lo); every |U| <= 9 max|g|. So V fits int8 for unsigned codes of 5 bits (124) and signed ones of 6
 * (-128), and U for weights of 4 bits (72). The sums are 4 times the output, exactly. */
#if defined(__x86_64__)
#include "kernels/conv/some_avx512.h"

#define OUT_Y             2
#define OUT_X             2
#define ROWS              (OUT_Y + 2)
#define PARTS             (4 * ROWS)
#define PART(row, column) (((column) == 0 ? 2 : (column) == 3 ? 3 : (column)-1) * ROWS + (row))

static void weights_of(const int8_t *g, size_t step, int *u)
{
    int a[4][3];
    for (size_t j = 0; j < 3; j++) {
        const int g0 = g[j * step], g1 = g[(3 + j) * step], g2 = g[(6 + j) * step];
        a[0][j] = 2 * g0, a[1][j] = g0 + g1 + g2, a[2][j] = g0 - g1 + g2, a[3][j] = 2 * g2;
    }
    for (int i = 0; i < ROWS; i++) {
        u[PART(i, 0)] = 2 * a[i][0], u[PART(i, 1)] = a[i][0] + a[i][1] + a[i][2];
        u[PART(i, 2)] = a[i][0] - a[i][1] + a[i][2], u[PART(i, 3)] = 2 * a[i][2];
    }
}

/* Adding 128 to d0 and d1 adds it, modulo 256, to all four. */
BWI_INLINE void rows_of(const uint8_t *in, size_t pitch, const bwk_some n, __m512i flip, __m512i r[ROWS])
{
    __m512i d[4];
    BWI_UNROLL for (size_t i = 0; i < 4; i++) d[i] = bwk_load(in + i * pitch, n);
    d[0] = _mm512_xor_si512(d[0], flip), d[1] = _mm512_xor_si512(d[1], flip);
    r[0] = _mm512_sub_epi8(d[0], d[2]), r[1] = _mm512_add_epi8(d[1], d[2]);
    r[2] = _mm512_sub_epi8(d[2], d[1]), r[3] = _mm512_sub_epi8(d[1], d[3]);
}

BWI_INLINE void column_of(const int32_t *sums, size_t part, __m512i y[OUT_Y])
{
    __m512i m[4];
    BWI_UNROLL for (size_t i = 0; i < 4; i++) m[i] = _mm512_load_si512(sums + i * part);
    y[0] = _mm512_add_epi32(m[0], _mm512_add_epi32(m[1], m[2]));
    y[1] = _mm512_sub_epi32(_mm512_sub_epi32(m[1], m[2]), m[3]);
}

BWI_INLINE __m512i whole_of(__m512i y, const int row)
{
    (void)row;
    return _mm512_srai_epi32(y, 2);
}

#include "kernels/conv/winograd_vnni.h"

static bool accepts(const bwk_conv_spec *s)
{
    return takes_shape(s) && s->wbits <= 4 && s->abits <= (s->asigned ? 6 : 5);
}

const bwk_conv bwk_conv_winograd22_vnni = {
    .name = "winograd-2x2",
    .summary = "exact Winograd F(2x2,3x3), AVX512-VNNI: 3x3, stride 1, weights up to 4 bits, codes up to 5",
    .needs = BWI_CPU_AVX512 | BWI_CPU_VNNI,
    .row_grain = OUT_Y,
    .accepts = accepts,
    .pays = pays,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};
#endif
