#pragma once

// Rows normalised to mean 0 and variance 1, then scaled and shifted. Steps are in floats.
struct NormJob {
    const float* x;
    long x_step, rows, width;
    const float *weight, *bias;
    float epsilon;
    float* y;
    long y_step;
    int threads;
    long block, taken;
};

namespace norm_scalar { void run(NormJob&); }
namespace norm_avx2 { void run(NormJob&); }
namespace norm_avx512 { void run(NormJob&); }
namespace norm_neon { void run(NormJob&); }
