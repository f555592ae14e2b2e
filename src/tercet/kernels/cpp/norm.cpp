#include "norm_job.h"

#include "api.h"
#include "levels.h"

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, row by row. 0; 2 for a level that is not built in.
EXPORT int tercet_layer_norm(const float* x, long x_step, long rows, long width, const float* weight, const float* bias,
                             float epsilon, float* y, long y_step, int threads, int level) {
    NormJob job = {x, x_step, rows, width, weight, bias, epsilon, y, y_step, threads, 0, 0};
    switch (level) {
#if defined(__x86_64__)
        case LEVEL_AVX512: norm_avx512::run(job); break;
        case LEVEL_AVX2: norm_avx2::run(job); break;
#elif defined(__aarch64__)
        case LEVEL_NEON: norm_neon::run(job); break;
#endif
        case LEVEL_SCALAR: norm_scalar::run(job); break;
        default: return 2;
    }
    return 0;
}

// The sums of rows of up to three tables (word, position, type), normalised. Null ids: row 0 of that table for all.
// 0; 2 as above; 3 where an id has no row in its table.
EXPORT int tercet_embeddings(const float* word, long words, const long long* word_ids, const float* position, long positions,
                             const long long* position_ids, long first_position, const float* type, long types,
                             const long long* type_ids, long rows, long width, const float* weight, const float* bias,
                             float epsilon, float* y, long y_step, int threads, int level) {
    EmbeddingJob job = {{nullptr, 0, rows, width, weight, bias, epsilon, y, y_step, threads, 0, 0},
                        {{word, words, word_ids, 0}, {position, positions, position_ids, first_position}, {type, types, type_ids, 0}},
                        type == nullptr ? 2 : 3, 0};
    switch (level) {
#if defined(__x86_64__)
        case LEVEL_AVX512: norm_avx512::run(job); break;
        case LEVEL_AVX2: norm_avx2::run(job); break;
#elif defined(__aarch64__)
        case LEVEL_NEON: norm_neon::run(job); break;
#endif
        case LEVEL_SCALAR: norm_scalar::run(job); break;
        default: return 2;
    }
    return job.failed ? 3 : 0;
}
