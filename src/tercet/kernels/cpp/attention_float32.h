// Attention's arithmetic in float32: included by attention.h.
constexpr long DEEP = 1;     // numbers in an element of a row, four bytes
constexpr float UNIT = 1.0f;  // what scores are multiplied by, so that `exponential` takes them

inline Floats added(Floats sum, Floats left, Floats right) { return sum + left * right; }

#if defined(__AVX512DQ__) && LANES == 16
// e^x for x <= 0, to 2 units in the last place but for the rounding of x log2 e; NaN stays NaN. The instructions
// split a power of two into its whole and fractional parts, and scale by the whole one.
inline Floats exponential(Floats x) {
    const Floats power = x * all(1.44269504088896341f);
    const Floats part = (Floats)_mm512_reduce_ps((__m512)power, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    Floats value = all(2.1702254889532924e-4f);  // 2^part on [0, 1), fitted so that the relative error is even
    value = value * part + all(1.2439688434824347e-3f);
    value = value * part + all(9.678840637207031e-3f);
    value = value * part + all(5.5483341217041016e-2f);
    value = value * part + all(2.4022983014583588e-1f);
    value = value * part + all(6.931470036506653e-1f);
    value = value * part + all(1.0f);
    return (Floats)_mm512_scalef_ps((__m512)value, (__m512)power);
}
#else
// e^x for x <= 0, to 2 units in the last place; 0 below -87.3, where float32 leaves its normal range. NaN stays NaN.
inline Floats exponential(Floats x) {
    const Floats least = all(-87.3f);
    const Ints tiny = x < least;
    const Floats bounded = (Floats)(((Ints)least & tiny) | ((Ints)x & ~tiny));
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Floats shifted = bounded * all(1.44269504088896341f) + magic;
    const Floats whole = shifted - magic;
    // ln 2 in two parts, so that what is left keeps its bits (Cody & Waite 1980).
    Floats rest = bounded - whole * all(0.693145751953125f);
    rest = rest - whole * all(1.42860682030941723e-6f);
    Floats value = all(1.9875691500e-4f);  // minimax on |rest| <= ln 2 / 2 (Cephes, expf)
    value = value * rest + all(1.3981999507e-3f);
    value = value * rest + all(8.3334519073e-3f);
    value = value * rest + all(4.1665795894e-2f);
    value = value * rest + all(1.6666665459e-1f);
    value = value * rest + all(5.0000001201e-1f);
    value = value * rest * rest + rest + all(1.0f);
    const Ints exponent = ((Ints)shifted - (Ints)magic) << 23;
    const Floats result = (Floats)((Ints)value + exponent);
    return (Floats)((Ints)result & ~tiny);
}
#endif

// Scores become e^(score - maximum), whose sums are added to `sums`.
template <int N>
inline void column_weights(float* scores, long keys, const float* maxima, float* sums) {
    Floats maximum[N], sum[N];
    for (int j = 0; j < N; j++) {
        maximum[j] = load(maxima + j * LANES);
        sum[j] = load(sums + j * LANES);
    }
    for (long k = 0; k < keys; k++)
        for (int j = 0; j < N; j++) {
            float* place = scores + k * QUERIES + j * LANES;
            const Floats weight = exponential(load(place) - maximum[j]);
            store(place, weight);
            sum[j] += weight;
        }
    for (int j = 0; j < N; j++) store(sums + j * LANES, sum[j]);
}

// to[count][wide] = from[count][width], zeros behind the width.
inline void copied(const float* from, long from_step, long count, long width, float* to, long wide) {
    for (long k = 0; k < count; k++) {
        long d = 0;
        for (; d + LANES <= width; d += LANES) store(to + k * wide + d, load(from + k * from_step + d));
        for (; d < wide; d++) to[k * wide + d] = d < width ? from[k * from_step + d] : 0.0f;
    }
}


inline void keys_copied(const float* from, long from_step, long count, long width, float* to, long wide) {
    copied(from, from_step, count, width, to, wide);
}

inline void values_copied(const float* from, long from_step, long count, long width, float* to, long wide) {
    copied(from, from_step, count, width, to, wide);
}

// to[width][QUERIES] = scale * query[rows][width] transposed; zeros up to the next full vector.
template <int N>
inline void queries_copied(const float* query, long query_step, long rows, long width, float scale, float* to) {
    transposed(query, query_step, rows, width, to, QUERIES, N * LANES);
    for (long d = 0; d < width; d++)
        for (int j = 0; j < N; j++) {
            float* place = to + d * QUERIES + j * LANES;
            store(place, load(place) * all(scale));
        }
}
