// Attention's arithmetic with products of bfloat16, summed in float32 (AVX512-BF16): included by attention.h.
//
// Queries, keys, values and weights are rounded to bfloat16, to the nearest and at ties to even; two of them, one
// behind the other along the sum, lie in an element of four bytes. A weight's sum is that of the rounded ones, so
// that weights add up to one.
constexpr long DEEP = 2;                       // numbers in an element of a row, four bytes
constexpr float UNIT = 1.44269504088896341f;  // what scores are multiplied by: `exponential` takes powers of two

inline Floats added(Floats sum, Floats left, Floats right) {
    // In place: compilers copy the sums of a tile about when they write the instruction themselves.
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(left), "v"(right));
    return sum;
}

// Two vectors as pairs: the first in the low halves.
inline Floats paired(Floats first, Floats second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Floats)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

// The numbers that are there of a vector; zeros for the others.
inline Floats begun(const float* from, long count) {
    return (Floats)_mm512_maskz_loadu_ps(count < LANES ? (1u << count) - 1 : 0xffff, from);
}

// 2^x for x <= 0 to 1e-4 of it, a twentieth of what rounding to bfloat16 moves; NaN stays NaN.
inline Floats exponential(Floats power) {
    const Floats part = (Floats)_mm512_reduce_ps((__m512)power, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    Floats value = all(0.0780245371f);  // 2^part on [0, 1), fitted so that the relative error is even
    value = value * part + all(0.226067199f);
    value = value * part + all(0.695833489f);
    value = value * part + all(0.999925228f);
    return (Floats)_mm512_scalef_ps((__m512)value, (__m512)power);
}

// Scores become 2^(score - maximum), two keys in a row; their sums are added to `sums`.
template <int N>
inline void column_weights(float* scores, long keys, const float* maxima, float* sums) {
    const Floats ones = (Floats)_mm512_set1_epi32(0x3f803f80);
    Floats maximum[N], sum[N];
    for (int j = 0; j < N; j++) {
        maximum[j] = load(maxima + j * LANES);
        sum[j] = load(sums + j * LANES);
    }
    for (long k = 0; k < keys; k += 2)
        for (int j = 0; j < N; j++) {
            const float* place = scores + k * QUERIES + j * LANES;
            const Floats first = exponential(load(place) - maximum[j]);
            const Floats second = k + 1 < keys ? exponential(load(place + QUERIES) - maximum[j]) : (Floats){};
            const Floats weights = paired(first, second);
            store(scores + k / 2 * QUERIES + j * LANES, weights);  // a row that was read before
            sum[j] = added(sum[j], weights, ones);
        }
    for (int j = 0; j < N; j++) store(sums + j * LANES, sum[j]);
}

// to[count][wide / 2] = from[count][width] * scale, pairs along the width, zeros behind it.
inline void narrowed(const float* from, long from_step, long count, long width, float scale, float* to, long wide) {
    for (long k = 0; k < count; k++)
        for (long d = 0; d < wide; d += LANES) {
            const Floats numbers = begun(from + k * from_step + d, width - d) * all(scale);
            _mm256_storeu_si256((__m256i*)(to + k * (wide / 2) + d / 2), (__m256i)_mm512_cvtneps_pbh((__m512)numbers));
        }
}

inline void keys_copied(const float* from, long from_step, long count, long width, float* to, long wide) {
    narrowed(from, from_step, count, width, 1.0f, to, wide);
}

// to[(count + 1) / 2][wide] = from[count][width], pairs along the rows, zeros behind the last and the width.
inline void values_copied(const float* from, long from_step, long count, long width, float* to, long wide) {
    for (long k = 0; k < count; k += 2)
        for (long d = 0; d < wide; d += LANES) {
            const float* place = from + k * from_step + d;
            const Floats second = k + 1 < count ? begun(place + from_step, width - d) : (Floats){};
            store(to + k / 2 * wide + d, paired(begun(place, width - d), second));
        }
}

// to[width / 2][QUERIES] = scale * query[rows][width] transposed, pairs along the width; zeros up to the next full
// vector.
template <int N>
inline void queries_copied(const float* query, long query_step, long rows, long width, float scale, float* to) {
    const long wide = (width + LANES - 1) / LANES * LANES;
    float* narrow = to + wide / 2 * QUERIES;  // behind the result
    narrowed(query, query_step, rows, width, scale, narrow, wide);
    transposed(narrow, wide / 2, rows, (width + 1) / 2, to, QUERIES, N * LANES);
}
