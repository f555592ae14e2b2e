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

}  // namespace

namespace LEVEL_NAMESPACE {
void run(NormJob& job) {
    const long worth = job.rows * job.width / FLOATS_WORTH_A_THREAD;
    const int threads = worth < job.threads ? static_cast<int>(worth) : job.threads;
    job.taken = 0;
    job.block = threads > 1 ? (job.rows + 4 * threads - 1) / (4 * threads) : job.rows;
    if (job.rows > 0) run_parallel(threads, work, &job);
}
}  // namespace LEVEL_NAMESPACE
