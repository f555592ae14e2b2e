#include "api.h"
#include "levels.h"
#include "matmul_job.h"

namespace {

// The norm of a level; null for one that this library was not built for.
void (*norm_of(int level))(NormJob&) {
    switch (level) {
#if defined(__x86_64__)
        case LEVEL_AVX512: return norm_avx512::run;
        case LEVEL_AVX2: return norm_avx2::run;
#elif defined(__aarch64__)
        case LEVEL_NEON: return norm_neon::run;
#endif
        case LEVEL_SCALAR: return norm_scalar::run;
        default: return nullptr;
    }
}

enum Scheme { INT8_FAST = 0, INT8 = 1, FLOAT32 = 2, FLOAT16 = 3 };

int run_float32(MatmulJob& job, int level) {
    switch (level) {
#if defined(__x86_64__)
        case LEVEL_AVX512: float32_avx512::run(job); break;
        case LEVEL_AVX2: float32_avx2::run(job); break;
#elif defined(__aarch64__)
        case LEVEL_NEON: float32_neon::run(job); break;
#endif
        case LEVEL_SCALAR: float32_scalar::run(job); break;
        default: return 2;
    }
    return job.failed ? 1 : 0;
}

int run_float16(MatmulJob& job, int level) {
    switch (level) {
#if defined(__x86_64__)
#if !defined(TERCET_WITHOUT_AVX512_FP16)
        case LEVEL_AVX512_FP16: float16_avx512_fp16::run(job); break;
#endif
#elif defined(__aarch64__)
        case LEVEL_NEON_FP16: float16_neon_fp16::run(job); break;
#endif
        case LEVEL_SCALAR: float16_scalar::run(job); break;
        default: return 2;
    }
    return job.failed ? 1 : 0;
}

// 0; 1 where memory ran out; 2 for a scheme or level that this library was not built for.
int run(MatmulJob& job, int scheme, int level) {
    if (scheme == FLOAT32) return run_float32(job, level);
    if (scheme == FLOAT16) return run_float16(job, level);
    if (scheme != INT8_FAST && scheme != INT8) return 2;
    switch (level) {
#if defined(__x86_64__)
#if !defined(TERCET_WITHOUT_AMX_INT8)
        case LEVEL_AMX_INT8: int8_amx_int8::run(job, scheme == INT8); break;
#endif
        case LEVEL_AVX512_VNNI: int8_avx512_vnni::run(job, scheme == INT8); break;
#if !defined(TERCET_WITHOUT_AVX_VNNI)
        case LEVEL_AVX_VNNI: int8_avx_vnni::run(job, scheme == INT8); break;
#endif
        case LEVEL_AVX2: int8_avx2::run(job, scheme == INT8); break;
#elif defined(__aarch64__)
        case LEVEL_NEON_DOT: int8_neon_dot::run(job, scheme == INT8); break;
        case LEVEL_NEON: int8_neon::run(job, scheme == INT8); break;
#endif
        case LEVEL_SCALAR: int8_scalar::run(job, scheme == INT8); break;
        default: return 2;
    }
    return job.failed ? 1 : 0;
}

}  // namespace

// y = act(x weight' + bias) + residual
EXPORT int tercet_linear(const float* x, long x_step, long rows, const unsigned char* weight, long in, long out,
                         const float* bias, int gelu, const float* residual, long residual_step, float* y, long y_step,
                         int scheme, int threads, int level) {
    MatmulJob job = {x, x_step, rows, {{weight, bias, in, out, gelu != 0}, {}, {}}, 1, residual, residual_step, y, y_step, threads, 0, {}};
    return run(job, scheme, level);
}

// y = gelu(x up' + up_bias) down' + down_bias + residual; `between` is the width between the two.
EXPORT int tercet_feed_forward(const float* x, long x_step, long rows, const unsigned char* up, const float* up_bias,
                               const unsigned char* down, const float* down_bias, long in, long between, long out,
                               const float* residual, long residual_step, float* y, long y_step, int scheme, int threads,
                               int level) {
    MatmulJob job = {x, x_step, rows, {{up, up_bias, in, between, true}, {down, down_bias, between, out, false}, {}}, 2,
                     residual, residual_step, y, y_step, threads, 0, {}};
    return run(job, scheme, level);
}

// What follows attention in an encoder's layer: h = norm(x out' + out_bias + residual), then
// y = norm(gelu(h up' + up_bias) down' + down_bias + h). Widths: x, h and y `width`; `between` after `up`.
EXPORT int tercet_layer_end(const float* x, long x_step, long rows, long width, long between, const unsigned char* out,
                            const float* out_bias, const unsigned char* up, const float* up_bias, const unsigned char* down,
                            const float* down_bias, const float* first_weight, const float* first_bias, float first_epsilon,
                            const float* second_weight, const float* second_bias, float second_epsilon,
                            const float* residual, long residual_step, float* y, long y_step, int scheme, int threads,
                            int level, int norm_level) {
    void (*const norm)(NormJob&) = norm_of(norm_level);
    if (norm == nullptr) return 2;
    MatmulJob job = {x, x_step, rows,
                     {{out, out_bias, width, width, false}, {up, up_bias, width, between, true}, {down, down_bias, between, width, false}},
                     3, residual, residual_step, y, y_step, threads, 0,
                     {{first_weight, first_bias, first_epsilon, norm}, {second_weight, second_bias, second_epsilon, norm}}};
    return run(job, scheme, level);
}
