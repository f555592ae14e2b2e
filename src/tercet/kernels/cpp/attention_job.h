#pragma once

// Attention of every text over its own tokens. Steps are in floats from one token's row to the next.
struct AttentionJob {
    const float *query, *key, *value;
    float* out;
    long query_step, key_step, value_step, out_step;
    const int* bounds;  // (texts + 1): where each text begins
    long texts, heads, width;
    float scale;
    int threads;
    long tasks, taken;
    int failed;  // no memory for a thread's scratch
};

namespace attention_scalar { void run(AttentionJob&); }
namespace attention_avx2 { void run(AttentionJob&); }
namespace attention_avx512 { void run(AttentionJob&); }
namespace attention_avx512_bf16 { void run(AttentionJob&); }
namespace attention_neon { void run(AttentionJob&); }
