// Softmax attention over packed texts in float32, for one instruction level: included by attention_<level>.cpp,
// which defines LANES (floats in a register), VECTORS (registers across a tile) and the name of its namespace.
//
// A task is a text, a head and a run of its queries. Keys are transposed and values copied block by block, so
// that everything a block of queries reads lies together in cache: rows of the fused product lie a page apart.
// More keys than a block are met with a running maximum (Milakov & Gimelshein 2018; Dao et al. 2022); a text
// is computed from its own rows alone and always in the same order, so it gets the same bits in any batch.
#include <stdlib.h>
#include <string.h>

#include "attention_job.h"
#include "threads.h"

namespace {

typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

constexpr int ROWS = 6;          // queries of a register tile
constexpr int BLOCK = 12;        // queries whose scores are kept at a time
constexpr long KEYS = 512;       // keys of a block
constexpr long RUN = 768;        // queries of a task; a multiple of BLOCK

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline void store(float* to, Floats value) { *reinterpret_cast<Floats*>(to) = value; }
inline Floats all(float value) { return value - (Floats){}; }

// c[M][N vectors] = a[M][depth] b[depth][N vectors], added to c where `adds`.
template <int M, int N>
inline void tile(const float* a, long a_step, const float* b, long b_step, float* c, long c_step, long depth, bool adds) {
    Floats sum[M][N];
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) sum[i][j] = adds ? load(c + i * c_step + j * LANES) : (Floats){};
    for (long k = 0; k < depth; k++) {
        Floats right[N];
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) right[j] = load(b + k * b_step + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < M; i++) {
            const Floats left = all(a[i * a_step + k]);
#pragma GCC unroll 16
            for (int j = 0; j < N; j++) sum[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) store(c + i * c_step + j * LANES, sum[i][j]);
}

template <int N>
inline void rows_of(int rows, const float* a, long a_step, const float* b, long b_step, float* c, long c_step, long depth, bool adds) {
    switch (rows) {
        case 1: return tile<1, N>(a, a_step, b, b_step, c, c_step, depth, adds);
        case 2: return tile<2, N>(a, a_step, b, b_step, c, c_step, depth, adds);
        case 3: return tile<3, N>(a, a_step, b, b_step, c, c_step, depth, adds);
        case 4: return tile<4, N>(a, a_step, b, b_step, c, c_step, depth, adds);
        case 5: return tile<5, N>(a, a_step, b, b_step, c, c_step, depth, adds);
        default: return tile<6, N>(a, a_step, b, b_step, c, c_step, depth, adds);
    }
}

// c[rows][vectors] = a[rows][depth] b[depth][vectors], of any size.
void product(long rows, long vectors, const float* a, long a_step, const float* b, long b_step, float* c, long c_step, long depth, bool adds) {
    long j = 0;
    while (j < vectors) {
        const long left = vectors - j;
        const int width = left >= VECTORS ? VECTORS : static_cast<int>(left);
        for (long i = 0; i < rows; i += ROWS) {
            const int height = rows - i >= ROWS ? ROWS : static_cast<int>(rows - i);
            const float *x = a + i * a_step, *y = b + j * LANES;
            float* z = c + i * c_step + j * LANES;
            switch (width) {
#if VECTORS >= 4
                case 4: rows_of<4>(height, x, a_step, y, b_step, z, c_step, depth, adds); break;
                case 3: rows_of<3>(height, x, a_step, y, b_step, z, c_step, depth, adds); break;
#endif
                case 2: rows_of<2>(height, x, a_step, y, b_step, z, c_step, depth, adds); break;
                default: rows_of<1>(height, x, a_step, y, b_step, z, c_step, depth, adds); break;
            }
        }
        j += width;
    }
}

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

inline Floats larger(Floats a, Floats b) {
    const Ints more = a > b;
    return (Floats)(((Ints)a & more) | ((Ints)b & ~more));
}

inline float largest_of(Floats values) {
    float found = values[0];
    for (int lane = 1; lane < LANES; lane++) found = values[lane] > found ? values[lane] : found;
    return found;
}

inline float sum_of(Floats values) {
    float lanes[LANES];
    store(lanes, values);
#pragma GCC unroll 8
    for (int half = LANES / 2; half > 0; half /= 2)
#pragma GCC unroll 16
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// The largest of a row of scores; what lies behind its last key is set so low that it never counts.
inline float row_maximum(float* row, long keys, long padded) {
    for (long k = keys; k < padded; k++) row[k] = -__builtin_inff();
    Floats first = load(row), second = first;
    long k = LANES;
    for (; k + 2 * LANES <= padded; k += 2 * LANES) {
        first = larger(load(row + k), first);
        second = larger(load(row + k + LANES), second);
    }
    if (k < padded) first = larger(load(row + k), first);
    return largest_of(larger(first, second));
}

// Scores become e^(score - maximum); their sum.
inline float row_weights(float* row, long padded, float maximum) {
    const Floats least = all(maximum);
    Floats first = {}, second = {};
    long k = 0;
    for (; k + 2 * LANES <= padded; k += 2 * LANES) {
        const Floats a = exponential(load(row + k) - least), b = exponential(load(row + k + LANES) - least);
        store(row + k, a);
        store(row + k + LANES, b);
        first += a;
        second += b;
    }
    if (k < padded) {
        const Floats a = exponential(load(row + k) - least);
        store(row + k, a);
        first += a;
    }
    return sum_of(first + second);
}

// to[width][step] = from[count][width] transposed; the columns up to the next full vector are zero.
void transposed(const float* from, long from_step, long count, long width, float* to, long step, long padded) {
    constexpr long SIDE = 16;
    for (long k = 0; k < count; k += SIDE) {
        const long most = count - k < SIDE ? count - k : SIDE;
        for (long d = 0; d < width; d++) {
            float* row = to + d * step + k;
            for (long i = 0; i < most; i++) row[i] = from[(k + i) * from_step + d];
        }
    }
    for (long d = 0; d < width; d++)
        for (long k = count; k < padded; k++) to[d * step + k] = 0.0f;
}

struct Scratch {
    float *keys, *values, *queries, *scores, *mixed, *maxima, *sums;
};

constexpr long rounded_up(long size, long step) { return (size + step - 1) / step * step; }

long scratch_floats(long width) {
    const long wide = rounded_up(width, LANES);
    return KEYS * width + KEYS * wide + RUN * width + BLOCK * KEYS + RUN * wide + 2 * RUN;
}

Scratch laid_out(float* memory, long width) {
    const long wide = rounded_up(width, LANES);
    Scratch s;
    s.keys = memory;
    s.values = s.keys + KEYS * width;
    s.queries = s.values + KEYS * wide;
    s.scores = s.queries + RUN * width;
    s.mixed = s.scores + BLOCK * KEYS;
    s.maxima = s.mixed + RUN * wide;
    s.sums = s.maxima + RUN;
    return s;
}

void attend(const AttentionJob& job, long start, long length, long head, long first, Scratch& s) {
    const long width = job.width, wide = rounded_up(width, LANES), column = head * width;
    const long queries = length - first < RUN ? length - first : RUN;
    for (long i = 0; i < queries; i++) {
        const float* from = job.query + (start + first + i) * job.query_step + column;
        for (long d = 0; d < width; d++) s.queries[i * width + d] = from[d] * job.scale;
    }
    for (long begin = 0; begin < length; begin += KEYS) {
        const long keys = length - begin < KEYS ? length - begin : KEYS, padded = rounded_up(keys, LANES);
        transposed(job.key + (start + begin) * job.key_step + column, job.key_step, keys, width, s.keys, padded, padded);
        for (long k = 0; k < keys; k++) {
            memcpy(s.values + k * wide, job.value + (start + begin + k) * job.value_step + column, width * sizeof(float));
            for (long d = width; d < wide; d++) s.values[k * wide + d] = 0.0f;
        }
        for (long i = 0; i < queries; i += BLOCK) {
            const long rows = queries - i < BLOCK ? queries - i : BLOCK;
            product(rows, padded / LANES, s.queries + i * width, width, s.keys, padded, s.scores, padded, width, false);
            for (long r = 0; r < rows; r++) {
                float* row = s.scores + r * padded;
                float maximum = row_maximum(row, keys, padded);
                if (begin > 0) {
                    const float before = s.maxima[i + r];
                    maximum = maximum > before ? maximum : before;
                    const float shrunk = exponential(all(before - maximum))[0];
                    float* mixed = s.mixed + (i + r) * wide;
                    for (long d = 0; d < wide; d += LANES) store(mixed + d, load(mixed + d) * all(shrunk));
                    s.sums[i + r] = s.sums[i + r] * shrunk + row_weights(row, padded, maximum);
                } else {
                    s.sums[i + r] = row_weights(row, padded, maximum);
                }
                s.maxima[i + r] = maximum;
            }
            product(rows, wide / LANES, s.scores, padded, s.values, wide, s.mixed + i * wide, wide, keys, begin > 0);
        }
    }
    for (long i = 0; i < queries; i++) {
        float* to = job.out + (start + first + i) * job.out_step + column;
        const float share = 1.0f / s.sums[i];
        for (long d = 0; d < width; d++) to[d] = s.mixed[i * wide + d] * share;
    }
}

void work(void* context, int, int) {
    AttentionJob& job = *static_cast<AttentionJob*>(context);
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, scratch_floats(job.width) * sizeof(float)) != 0) {
        __atomic_store_n(&job.failed, 1, __ATOMIC_RELAXED);
        return;
    }
    Scratch scratch = laid_out(static_cast<float*>(memory), job.width);
    long task, text = 0, before = 0;  // tasks of the texts before `text`
    while ((task = next_task(&job.taken, job.tasks)) >= 0) {
        long length, runs;
        for (;; text++) {
            length = job.bounds[text + 1] - job.bounds[text];
            runs = (length + RUN - 1) / RUN;
            if (task < before + runs * job.heads) break;
            before += runs * job.heads;
        }
        const long inside = task - before;
        attend(job, job.bounds[text], length, inside / runs, inside % runs * RUN, scratch);
    }
    free(memory);
}

}  // namespace

namespace LEVEL_NAMESPACE {
void run(AttentionJob& job) {
    job.tasks = 0;
    for (long text = 0; text < job.texts; text++)
        job.tasks += (job.bounds[text + 1] - job.bounds[text] + RUN - 1) / RUN * job.heads;
    run_parallel(job.tasks < job.threads ? static_cast<int>(job.tasks) : job.threads, work, &job);
}
}  // namespace LEVEL_NAMESPACE
