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

// Rows of a table (count, width), one for each id; their numbers lie side by side.
struct Table {
    const float* rows;
    long count;
    const long long* ids;  // null: row 0 for all
    long offset;           // added to each id
};

// The sum of a row of each table, in their order, normalised as above: x is not read.
struct EmbeddingJob {
    NormJob norm;
    Table tables[3];
    int num_tables;
    int failed;  // an id has no row
};

namespace norm_scalar { void run(NormJob&); void run(EmbeddingJob&); }
namespace norm_avx2 { void run(NormJob&); void run(EmbeddingJob&); }
namespace norm_avx512 { void run(NormJob&); void run(EmbeddingJob&); }
namespace norm_neon { void run(NormJob&); void run(EmbeddingJob&); }
