#include "api.h"
#include "attention_job.h"
#include "levels.h"

// out (rows, heads * width) = softmax(query key' * scale) value, text by text and head by head; where `bfloat16`, the
// factors of both products are rounded to it. Returns 0; 1 where memory ran out; 2 for a level that this library was not built for.
EXPORT int tercet_attention(const float* query, long query_step, const float* key, long key_step, const float* value,
                                long value_step, float* out, long out_step, const int* bounds, long texts, long heads,
                                long width, float scale, int bfloat16, int threads, int level) {
    AttentionJob job = {query, key,   value, out,   query_step, key_step, value_step, out_step, bounds,
                        texts, heads, width, scale, threads,    0,        0,          0};
    if (bfloat16) {
#if defined(__x86_64__) && !defined(TERCET_WITHOUT_AVX512_BF16)
        if (level < LEVEL_AVX512_BF16 || level > LEVEL_AMX_INT8) return 2;
        attention_avx512_bf16::run(job);
        return job.failed ? 1 : 0;
#else
        return 2;
#endif
    }
    switch (level) {
#if defined(__x86_64__)
        case LEVEL_AMX_INT8:
        case LEVEL_AVX512_FP16:
        case LEVEL_AVX512_BF16:
        case LEVEL_AVX512_VNNI:
        case LEVEL_AVX512: attention_avx512::run(job); break;
        case LEVEL_AVX_VNNI:
        case LEVEL_AVX2: attention_avx2::run(job); break;
#elif defined(__aarch64__)
        case LEVEL_NEON_FP16:
        case LEVEL_NEON_DOT:
        case LEVEL_NEON: attention_neon::run(job); break;
#endif
        case LEVEL_SCALAR: attention_scalar::run(job); break;
        default: return 2;
    }
    return job.failed ? 1 : 0;
}
