/* Winograd F(2x2,3x3): 16 products for what takes 36, in exact integers.
 *
 * Along each direction, with d the input, g the weights and y the output:
 *   V = d0 - d2, d1 + d2, d2 - d1, d1 - d3        U = 2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2 (twice those of Winograd)
 *   2 y = m0 + m1 + m2, m1 - m2 - m3
 * Both directions together: every V is a sum of four codes, or two less two, so for codes from lo <= 0 to hi it lies between
 * 4 lo and 4 hi, and within 2 (hi - lo); every |U| <= 9 max|g|. So V fits int8 for unsigned codes of 5 bits (124) and signed ones of 6
 * (-128), and U for weights of 4 bits (72). The sums are 4 times the output, exactly. */
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
BWI_INLINE void rows_of(const uint8_t *in, size_t pitch, const bwk_some n, vec flip, vec r[ROWS])
{
    vec d[4];
    BWI_UNROLL for (size_t i = 0; i < 4; i++) d[i] = bwk_load(in + i * pitch, n);
    d[0] = xorv(d[0], flip), d[1] = xorv(d[1], flip);
    r[0] = subv(d[0], d[2]), r[1] = addv(d[1], d[2]);
    r[2] = subv(d[2], d[1]), r[3] = subv(d[1], d[3]);
}

BWI_INLINE void column_of(const int32_t *sums, size_t part, vec y[OUT_Y])
{
    vec m[4];
    BWI_UNROLL for (size_t i = 0; i < 4; i++) m[i] = load32(sums + i * part);
    y[0] = add32(m[0], add32(m[1], m[2]));
    y[1] = sub32(sub32(m[1], m[2]), m[3]);
}

BWI_INLINE vec whole_of(vec y, const int row)
{
    (void)row;
    return sra32(y, 2);
}
