// Softmax attention over packed texts, for one instruction level: included by attention_<level>.cpp, which defines
// LANES (floats in a register), VECTORS (most registers across a tile), TALL and SHORT (rows of a tile of one or two,
// and of more registers), the name of its namespace, and BFLOAT16 where products are of that (sums and the softmax are
// float32's all the same).
//
// A task is a text, a head and a run of its queries. Queries lie across the lanes, so that maxima and sums over
// keys need no work across lanes. Keys and values are copied block by block, so that everything a block of
// queries reads lies together in cache: rows of the fused product lie a page apart. More keys than a block are
// met with a running maximum (Milakov & Gimelshein 2018; Dao et al. 2022). A text is computed from its own rows
// alone and always in the same order, so it gets the same bits in any batch.
#if defined(__AVX512F__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 sees it in its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

#include "attention_job.h"
#include "scratch.h"
#include "threads.h"

namespace {

typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

constexpr long QUERIES = 2 * LANES;  // queries of a block
constexpr long KEYS = 256;           // keys of a block
constexpr long LINE = 16;            // floats of a cache line
constexpr long RUN = 768;            // queries of a task; a multiple of QUERIES

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline void store(float* to, Floats value) { *reinterpret_cast<Floats*>(to) = value; }
inline Floats all(float value) { return value - (Floats){}; }

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int Order __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLED(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLED(a, b, i, j, k, l) __builtin_shuffle(a, b, (Order){i, j, k, l})
#endif

// Four rows of four become four columns.
inline void transposed_square(const float* from, long from_step, float* to, long to_step) {
    const Four a = *(const Four*)from, b = *(const Four*)(from + from_step);
    const Four c = *(const Four*)(from + 2 * from_step), d = *(const Four*)(from + 3 * from_step);
    const Four ab = SHUFFLED(a, b, 0, 4, 1, 5), cd = SHUFFLED(c, d, 0, 4, 1, 5);
    const Four ab_high = SHUFFLED(a, b, 2, 6, 3, 7), cd_high = SHUFFLED(c, d, 2, 6, 3, 7);
    *(Four*)to = SHUFFLED(ab, cd, 0, 1, 4, 5);
    *(Four*)(to + to_step) = SHUFFLED(ab, cd, 2, 3, 6, 7);
    *(Four*)(to + 2 * to_step) = SHUFFLED(ab_high, cd_high, 0, 1, 4, 5);
    *(Four*)(to + 3 * to_step) = SHUFFLED(ab_high, cd_high, 2, 3, 6, 7);
}

// to[width][step] = from[count][width] transposed; the columns up to the next full vector are zero.
inline void transposed(const float* from, long from_step, long count, long width, float* to, long step, long padded) {
    const long whole = count / 4 * 4, square = width / 4 * 4;
    for (long k = 0; k < whole; k += 4) {
        const float* rows = from + k * from_step;
        for (long d = 0; d < square; d += 4) transposed_square(rows + d, from_step, to + d * step + k, step);
        for (long d = square; d < width; d++)
            for (long i = 0; i < 4; i++) to[d * step + k + i] = rows[i * from_step + d];
    }
    for (long k = whole; k < padded; k++)
        for (long d = 0; d < width; d++) to[d * step + k] = k < count ? from[k * from_step + d] : 0.0f;
}

#if defined(BFLOAT16)
#include "attention_bfloat16.h"
#else
#include "attention_float32.h"
#endif

// Rows that the next task will read and write, brought nearer while this one computes: a head's part of a row is short
// and rows lie a page apart, where the processor foresees nothing.
struct Ahead {
    const float *query, *key, *value, *out;
    long query_step, key_step, value_step, out_step, rows, lines;
};

inline void bring(Ahead& next, long rows) {
    const long most = rows < next.rows ? rows : next.rows;
    for (long i = 0; i < most; i++) {
        for (long line = 0; line < next.lines; line++) {
            __builtin_prefetch(next.query + line * LINE, 0, 2);
            __builtin_prefetch(next.key + line * LINE, 0, 2);
            __builtin_prefetch(next.value + line * LINE, 0, 2);
            __builtin_prefetch(next.out + line * LINE, 1, 2);
        }
        next.query += next.query_step;
        next.key += next.key_step;
        next.value += next.value_step;
        next.out += next.out_step;
    }
    next.rows -= most;
}

// c[M][N vectors] = a[M][depth] b[depth][N vectors], added to c where `adds`. Steps and the depth in elements of four
// bytes; `a_deep` from one element of a row of `a` to the next.
template <int M, int N>
inline void tile(const float* a, long a_step, long a_deep, const float* b, long b_step, float* c, long c_step,
                 long depth, bool adds) {
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
            const Floats left = all(a[i * a_step + k * a_deep]);
#pragma GCC unroll 16
            for (int j = 0; j < N; j++) sum[i][j] = added(sum[i][j], left, right[j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) store(c + i * c_step + j * LANES, sum[i][j]);
}

// A tile of `rows` <= M rows: as many as are left of a matrix.
template <int M, int N>
void rows_of(long rows, const float* a, long a_step, long a_deep, const float* b, long b_step, float* c, long c_step,
             long depth, bool adds) {
    if (rows == M) return tile<M, N>(a, a_step, a_deep, b, b_step, c, c_step, depth, adds);
    if constexpr (M > 1) rows_of<M - 1, N>(rows, a, a_step, a_deep, b, b_step, c, c_step, depth, adds);
}

template <int N>
inline void columns_of(long rows, const float* a, long a_step, long a_deep, const float* b, long b_step, float* c,
                       long c_step, long depth, bool adds, Ahead& next) {
    constexpr int M = N <= 2 ? TALL : SHORT;
    for (long i = 0; i < rows; i += M) {
        bring(next, 6);
        rows_of<M, N>(rows - i < M ? rows - i : M, a + i * a_step, a_step, a_deep, b, b_step, c + i * c_step, c_step,
                      depth, adds);
    }
}

// c[rows][vectors] = a[rows][depth] b[depth][vectors], of any size.
void product(long rows, long vectors, const float* a, long a_step, long a_deep, const float* b, long b_step, float* c,
             long c_step, long depth, bool adds, Ahead& next) {
    for (long j = 0; j < vectors; j += VECTORS) {
        const float* y = b + j * LANES;
        float* z = c + j * LANES;
        switch (vectors - j) {
            case 1: columns_of<1>(rows, a, a_step, a_deep, y, b_step, z, c_step, depth, adds, next); break;
#if VECTORS > 2
            case 2: columns_of<2>(rows, a, a_step, a_deep, y, b_step, z, c_step, depth, adds, next); break;
            case 3: columns_of<3>(rows, a, a_step, a_deep, y, b_step, z, c_step, depth, adds, next); break;
#endif
            default: columns_of<VECTORS>(rows, a, a_step, a_deep, y, b_step, z, c_step, depth, adds, next); break;
        }
    }
}

inline Floats larger(Floats a, Floats b) {
    const Ints more = a > b;
    return (Floats)(((Ints)a & more) | ((Ints)b & ~more));
}

// The largest of each column of scores[keys][QUERIES], no less than `least`.
template <int N>
inline void column_maxima(const float* scores, long keys, const float* least, float* maxima) {
    Floats first[N], second[N];
    for (int j = 0; j < N; j++) first[j] = second[j] = load(least + j * LANES);
    long k = 0;
    for (; k + 2 <= keys; k += 2)
        for (int j = 0; j < N; j++) {
            first[j] = larger(load(scores + k * QUERIES + j * LANES), first[j]);
            second[j] = larger(load(scores + (k + 1) * QUERIES + j * LANES), second[j]);
        }
    for (int j = 0; j < N; j++) {
        if (k < keys) first[j] = larger(load(scores + k * QUERIES + j * LANES), first[j]);
        store(maxima + j * LANES, larger(first[j], second[j]));
    }
}

// What a task works on.
struct Parts {
    float *keys, *values, *queries, *scores, *mixed, *maxima, *sums;
};

constexpr long rounded_up(long size, long step) { return (size + step - 1) / step * step; }

long scratch_floats(long width) {
    const long wide = rounded_up(width, LANES);
    return KEYS * wide + KEYS * wide + wide * QUERIES + KEYS * QUERIES + RUN * wide + 2 * RUN;
}

Parts laid_out(float* memory, long width) {
    const long wide = rounded_up(width, LANES);
    Parts s;
    s.keys = memory;
    s.values = s.keys + KEYS * wide;
    s.queries = s.values + KEYS * wide;
    s.scores = s.queries + wide * QUERIES;
    s.mixed = s.scores + KEYS * QUERIES;
    s.maxima = s.mixed + RUN * wide;
    s.sums = s.maxima + RUN;
    return s;
}

// One block of queries over one block of keys.
template <int N>
void mix(const float* query, long query_step, long rows, long width, float scale, long keys, bool again, float* mixed,
         float* maxima, float* sums, const Parts& s, Ahead& next) {
    const long wide = rounded_up(width, LANES), deep = (width + DEEP - 1) / DEEP;
    queries_copied<N>(query, query_step, rows, width, scale * UNIT, s.queries);
    product(keys, N, s.keys, wide / DEEP, 1, s.queries, QUERIES, s.scores, QUERIES, deep, false, next);
    float before[QUERIES];
    for (int j = 0; j < N; j++) {
        store(before + j * LANES, again ? load(maxima + j * LANES) : all(-__builtin_inff()));
        if (!again) store(sums + j * LANES, (Floats){});
    }
    column_maxima<N>(s.scores, keys, before, maxima);
    if (again) {
        float shrunk[QUERIES];
        for (int j = 0; j < N; j++) {
            const Floats factor = exponential(load(before + j * LANES) - load(maxima + j * LANES));
            store(shrunk + j * LANES, factor);
            store(sums + j * LANES, load(sums + j * LANES) * factor);
        }
        for (long i = 0; i < rows; i++)
            for (long d = 0; d < wide; d += LANES)
                store(mixed + i * wide + d, load(mixed + i * wide + d) * all(shrunk[i]));
    }
    column_weights<N>(s.scores, keys, maxima, sums);
    product(rows, wide / LANES, s.scores, 1, QUERIES, s.values, wide, mixed, wide, (keys + DEEP - 1) / DEEP, again, next);
}

void attend(const AttentionJob& job, long start, long length, long head, long first, const Parts& s, Ahead& next) {
    const long width = job.width, wide = rounded_up(width, LANES), column = head * width;
    const long queries = length - first < RUN ? length - first : RUN;
    const float* query = job.query + (start + first) * job.query_step + column;
    for (long begin = 0; begin < length; begin += KEYS) {
        const long keys = length - begin < KEYS ? length - begin : KEYS, row = start + begin;
        keys_copied(job.key + row * job.key_step + column, job.key_step, keys, width, s.keys, wide);
        values_copied(job.value + row * job.value_step + column, job.value_step, keys, width, s.values, wide);
        for (long i = 0; i < queries; i += QUERIES) {
            const long rows = queries - i < QUERIES ? queries - i : QUERIES;
            const auto run = rows <= LANES ? mix<1> : mix<2>;
            run(query + i * job.query_step, job.query_step, rows, width, job.scale, keys, begin > 0,
                s.mixed + i * wide, s.maxima + i, s.sums + i, s, next);
        }
    }
    for (long i = 0; i < queries; i++) {
        float* to = job.out + (start + first + i) * job.out_step + column;
        const float* from = s.mixed + i * wide;
        const float share = 1.0f / s.sums[i];
        long d = 0;
        for (; d + LANES <= width; d += LANES) store(to + d, load(from + d) * all(share));
        for (; d < width; d++) to[d] = from[d] * share;
    }
}

// A task: which text (with the tasks of the texts before it), where it lies, which head, from which query on.
struct Place {
    long text, before, start, length, head, first;
};

// The next task for this thread; its numbers only grow, so the search for its text goes on where it stood.
bool taken(AttentionJob& job, Place& place) {
    const long task = next_task(&job.taken, job.tasks);
    if (task < 0) return false;
    for (;; place.text++) {
        place.start = job.bounds[place.text];
        place.length = job.bounds[place.text + 1] - place.start;
        const long runs = (place.length + RUN - 1) / RUN, inside = task - place.before;
        if (inside < runs * job.heads) {
            place.head = inside / runs;
            place.first = inside % runs * RUN;
            return true;
        }
        place.before += runs * job.heads;
    }
}

void work(void* context, int, int) {
    AttentionJob& job = *static_cast<AttentionJob*>(context);
    thread_local Scratch kept;
    float* memory = kept.floats(scratch_floats(job.width));
    if (memory == nullptr) {
        __atomic_store_n(&job.failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const Parts scratch = laid_out(memory, job.width);
    Place place = {0, 0, 0, 0, 0, 0}, following = place;
    bool more = taken(job, following);
    while (more) {
        place = following;
        more = taken(job, following);
        const long row = more ? following.start + following.first : 0, column = following.head * job.width;
        Ahead next = {job.query + row * job.query_step + column,
                      job.key + row * job.key_step + column,
                      job.value + row * job.value_step + column,
                      job.out + row * job.out_step + column,
                      job.query_step,
                      job.key_step,
                      job.value_step,
                      job.out_step,
                      more ? following.length - following.first : 0,
                      (job.width + LINE - 1) / LINE};
        attend(job, place.start, place.length, place.head, place.first, scratch, next);
    }
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
