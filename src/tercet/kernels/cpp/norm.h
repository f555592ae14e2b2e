// Layer normalisation (Ba, Kiros & Hinton 2016) in float32, for one instruction level: included by
// norm_<level>.cpp, which defines LANES and the name of its namespace. The variance is that of the differences
// from the mean, in a second pass over a row that is in cache by then: no digits are lost to cancellation.
#pragma once

#include <math.h>

#include "matmul_vectors.h"
#include "norm_job.h"
#include "threads.h"

namespace {

constexpr long FLOATS_WORTH_A_THREAD = 16384;

inline float total(Floats values) {
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; lane++) sum += values[lane];
    return sum;
}

void normalise(const float* x, float* y, const NormJob& job) {
    const long width = job.width, whole = width / LANES * LANES;
    Floats even = {}, odd = {};
    long k = 0;
    for (; k + 2 * LANES <= whole; k += 2 * LANES) {
        even += load(x + k);
        odd += load(x + k + LANES);
    }
    if (k < whole) even += load(x + k);
    float sum = total(even + odd);
    for (k = whole; k < width; k++) sum += x[k];
    const float mean = sum / static_cast<float>(width);
    even = odd = (Floats){};
    for (k = 0; k + 2 * LANES <= whole; k += 2 * LANES) {
        const Floats a = load(x + k) - all(mean), b = load(x + k + LANES) - all(mean);
        even = fused(a, a, even);
        odd = fused(b, b, odd);
    }
    if (k < whole) {
        const Floats a = load(x + k) - all(mean);
        even = fused(a, a, even);
    }
    sum = total(even + odd);
    for (k = whole; k < width; k++) sum += (x[k] - mean) * (x[k] - mean);
    const float share = 1.0f / sqrtf(sum / static_cast<float>(width) + job.epsilon);
    for (k = 0; k < whole; k += LANES)
        store(y + k, fused((load(x + k) - all(mean)) * all(share), load(job.weight + k), load(job.bias + k)));
    for (; k < width; k++) y[k] = (x[k] - mean) * share * job.weight[k] + job.bias[k];
}

void work(void* context, int, int) {
    NormJob& job = *static_cast<NormJob*>(context);
    const long blocks = (job.rows + job.block - 1) / job.block;
    long task;
    while ((task = next_task(&job.taken, blocks)) >= 0)
        for (long r = task * job.block; r < job.rows && r < (task + 1) * job.block; r++)
            normalise(job.x + r * job.x_step, job.y + r * job.y_step, job);
}

// The row that a table has for token `r`; null where it has none.
inline const float* row_of(const Table& table, long r, long width) {
    const long long id = table.ids == nullptr ? 0 : table.ids[r] + table.offset;
    return id < 0 || id >= table.count ? nullptr : table.rows + id * width;
}

void work_embeddings(void* context, int, int) {
    EmbeddingJob& job = *static_cast<EmbeddingJob*>(context);
    NormJob& norm = job.norm;
    const long blocks = (norm.rows + norm.block - 1) / norm.block, whole = norm.width / LANES * LANES;
    long task;
    while ((task = next_task(&norm.taken, blocks)) >= 0)
        for (long r = task * norm.block; r < norm.rows && r < (task + 1) * norm.block; r++) {
            float* y = norm.y + r * norm.y_step;
            const float* rows[3];
            for (int t = 0; t < job.num_tables; t++) rows[t] = row_of(job.tables[t], r, norm.width);
            for (int t = 0; t < job.num_tables; t++)
                if (rows[t] == nullptr) {
                    __atomic_store_n(&job.failed, 1, __ATOMIC_RELAXED);
                    return;
                }
            // Rows of a large table lie anywhere in memory: the next token's comes nearer meanwhile.
            const float* next = r + 1 < norm.rows ? row_of(job.tables[0], r + 1, norm.width) : nullptr;
            for (long k = 0; next != nullptr && k < norm.width; k += 16) __builtin_prefetch(next + k, 0, 2);
            for (long k = 0; k < whole; k += LANES) {
                Floats sum = load(rows[0] + k);
                for (int t = 1; t < job.num_tables; t++) sum += load(rows[t] + k);
                store(y + k, sum);
            }
            for (long k = whole; k < norm.width; k++) {
                float sum = rows[0][k];
                for (int t = 1; t < job.num_tables; t++) sum += rows[t][k];
                y[k] = sum;
            }
            normalise(y, y, norm);
        }
}

// How many threads rows are worth, and how many rows each takes at a time.
int share(NormJob& job) {
    const long worth = job.rows * job.width / FLOATS_WORTH_A_THREAD;
    const int threads = worth < job.threads ? static_cast<int>(worth) : job.threads;
    job.taken = 0;
    job.block = threads > 1 ? (job.rows + 4 * threads - 1) / (4 * threads) : job.rows;
    return threads;
}

}  // namespace

namespace LEVEL_NAMESPACE {
void run(NormJob& job) {
    if (job.rows > 0) run_parallel(share(job), work, &job);
}

void run(EmbeddingJob& job) {
    if (job.norm.rows > 0) run_parallel(share(job.norm), work_embeddings, &job);
}
}  // namespace LEVEL_NAMESPACE
