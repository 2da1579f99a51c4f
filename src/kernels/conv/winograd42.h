/* Winograd F(4,3) down the rows and F(2,3) along the columns: 24 products for what takes 72, in exact integers.
 *
 * Along the columns as in winograd22_vnni.c. Down the rows, with d the input, g the weights and y the output:
 *   V = 4 d0 - 5 d2 + d4,  (d4 - 4 d2) +- (d3 - 4 d1),  (d4 - d2) +- 2 (d3 - d1),  4 d1 - 5 d3 + d5
 *   U = 6 g0, g0 +- g1 + g2, g0 +- 2 g1 + 4 g2, 6 g2
 *   24 y0 = m0 - 4 (m1 + m2) + m3 + m4         12 y1 = m3 - m4 - 2 (m1 - m2)
 *    6 y2 = m3 + m4 - (m1 + m2)                 6 y3 = 2 (m3 - m4) - (m1 - m2) + m5
 * Coefficients of V in both directions add up to at most (10, -10), or (4, -16) in the second row added along the columns. So for codes
 * from lo <= 0 to hi, V lies within 10 (hi - lo), and between 4 lo - 16 hi ... and 4 hi - 16 lo there: for unsigned codes of 3 bits from
 * -112 to 70, for signed ones within 76. Every |U| <= (1 + 2 + 4) * 3 max|g|, 84 for weights of 3 bits. Both fit int8.
 * The sums are 48, 24, 12 and 12 times the output: a shift, and the factor 3 by its inverse modulo 2^32, leave it exactly. */
#define OUT_Y             4
#define OUT_X             2
#define ROWS              (OUT_Y + 2)
#define PARTS             (4 * ROWS)
#define PART(row, column) (((column) == 0 ? 2 : (column) == 3 ? 3 : (column)-1) * ROWS + (row))

static void weights_of(const int8_t *g, size_t step, int *u)
{
    int a[6][3];
    for (size_t j = 0; j < 3; j++) {
        const int g0 = g[j * step], g1 = g[(3 + j) * step], g2 = g[(6 + j) * step];
        a[0][j] = 6 * g0, a[1][j] = g0 + g1 + g2, a[2][j] = g0 - g1 + g2;
        a[3][j] = g0 + 2 * g1 + 4 * g2, a[4][j] = g0 - 2 * g1 + 4 * g2, a[5][j] = 6 * g2;
    }
    for (int i = 0; i < ROWS; i++) {
        u[PART(i, 0)] = 2 * a[i][0], u[PART(i, 1)] = a[i][0] + a[i][1] + a[i][2];
        u[PART(i, 2)] = a[i][0] - a[i][1] + a[i][2], u[PART(i, 3)] = 2 * a[i][2];
    }
}

BWI_INLINE vec twice(vec x)
{
    return addv(x, x);
}

/* Adding 128 to d4 and d5 adds it, modulo 256, to all six. */
BWI_INLINE void rows_of(const uint8_t *in, size_t pitch, const bwk_some n, vec flip, vec r[ROWS])
{
    vec d[6];
    BWI_UNROLL for (size_t i = 0; i < 6; i++) d[i] = bwk_load(in + i * pitch, n);
    d[4] = xorv(d[4], flip), d[5] = xorv(d[5], flip);
    const vec d20 = subv(d[2], d[0]), d42 = subv(d[4], d[2]);
    const vec d31 = subv(d[3], d[1]), d53 = subv(d[5], d[3]), two = twice(d31);
    const vec even = subv(d[4], twice(twice(d[2]))), odd = subv(d[3], twice(twice(d[1])));
    r[0] = subv(d42, twice(twice(d20))), r[5] = subv(d53, twice(two));
    r[1] = addv(even, odd), r[2] = subv(even, odd);
    r[3] = addv(d42, two), r[4] = subv(d42, two);
}

BWI_INLINE void column_of(const int32_t *sums, size_t part, vec y[OUT_Y])
{
    vec m[6];
    BWI_UNROLL for (size_t i = 0; i < 6; i++) m[i] = load32(sums + i * part);
    const vec p = add32(m[1], m[2]), n = sub32(m[1], m[2]);
    const vec q = add32(m[3], m[4]), r = sub32(m[3], m[4]);
    y[0] = add32(m[0], sub32(q, sll32(p, 2)));
    y[1] = sub32(r, add32(n, n));
    y[2] = sub32(q, p);
    y[3] = add32(sub32(add32(r, r), n), m[5]);
}

/* The division by 48, 24, 12 and 12: none leaves a remainder. */
BWI_INLINE vec whole_of(vec y, const int row)
{
    const vec three = sra32(y, row == 0 ? 4 : row == 1 ? 3 : 2);
    return mul32(three, set32((int)0xaaaaaaabu));
}
