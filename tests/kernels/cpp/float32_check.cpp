// Runs the float32 kernels (products, attention, layer norm, embeddings) of every instruction level that this processor, or its
// emulator, has on random shapes, and holds them to the scalar level. Buffers are as large as promised and not a
// byte larger. Prints a line a level; exits with 1 at the first difference.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <initializer_list>
#include <vector>

#include "checking.h"
#include "levels.h"
#include "matmul_job.h"

extern "C" {
unsigned long tercet_levels(void);
int tercet_attention(const float* query, long query_step, const float* key, long key_step, const float* value, long value_step,
                     float* out, long out_step, const int* bounds, long texts, long heads, long width, float scale, int bfloat16,
                     int threads, int level);
int tercet_embeddings(const float* word, long words, const long long* word_ids, const float* position, long positions,
                      const long long* position_ids, long first_position, const float* type, long types,
                      const long long* type_ids, long rows, long width, const float* weight, const float* bias, float epsilon,
                      float* y, long y_step, int threads, int level);
int tercet_layer_norm(const float* x, long x_step, long rows, long width, const float* weight, const float* bias, float epsilon,
                      float* y, long y_step, int threads, int level);
}

// 64-byte aligned numbers in -1..1 whose end is the end of the allocation.
struct Numbers {
    float* at = nullptr;
    long count;
    explicit Numbers(long size) : count(size) {
        if (size > 0 && posix_memalign(reinterpret_cast<void**>(&at), 64, size * sizeof(float)) != 0) abort();
        for (long i = 0; i < size; i++) at[i] = uniform();
    }
    Numbers(const Numbers&) = delete;
    ~Numbers() { free(at); }
};

static bool alike(const Numbers& found, const Numbers& expected, float most, const char* what, int level) {
    for (long i = 0; i < found.count; i++) {
        if (fabsf(found.at[i] - expected.at[i]) <= most) continue;
        printf("level %d: %s: number %ld is %g, not %g\n", level, what, i, found.at[i], expected.at[i]);
        return false;
    }
    return true;
}

// As matmul.cpp chooses, without the other schemes.
static int run(MatmulJob& job, int level) {
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

// 1 where the level does not have the kernel, 0 where it agrees, -1 where it differs.
static int product(int level) {
    const long rows = between(0, 90), in = between(1, 900), out = between(1, 100), panels = (out + 31) / 32, lines = (in + 15) / 16 * 16;
    Numbers x(rows * in), weight(panels * lines * 32), bias(out), residual(rows * out), found(rows * out), expected(rows * out);
    for (long i = 0; i < weight.count; i++) weight.at[i] /= sqrtf(static_cast<float>(in));
    // Panels of [inputs][32], with zeros behind the last input, up to whole lines of 16, and behind the last output.
    for (long i = 0; i < weight.count; i++)
        if (i / 32 % lines >= in || i / 32 / lines * 32 + i % 32 >= out) weight.at[i] = 0.0f;
    const bool gelu = between(0, 1) == 1;
    int code = 0;
    for (const Numbers* y : {&found, &expected}) {
        const unsigned char* packed = reinterpret_cast<unsigned char*>(weight.at);
        MatmulJob job = {x.at, in, rows, {{packed, bias.at, in, out, gelu}, {}, {}}, 1, residual.at, out, y->at, out, 1, 0, {}};
        code += run(job, y == &found ? level : LEVEL_SCALAR);
    }
    if (code != 0) return 1;
    return alike(found, expected, 1e-5f, "a product", level) ? 0 : -1;
}

static int attend(int level, bool bfloat16) {
    const long texts = between(1, 4), heads = between(1, 3), width = between(1, 70);
    int bounds[5] = {0};
    for (long t = 0; t < texts; t++) bounds[t + 1] = bounds[t] + static_cast<int>(between(0, 1) ? between(0, 40) : between(0, 300));
    const long size = bounds[texts] * heads * width;
    Numbers query(size), key(size), value(size), found(size), expected(size);
    int code = 0;
    for (const Numbers* y : {&found, &expected})
        code += tercet_attention(query.at, heads * width, key.at, heads * width, value.at, heads * width, y->at, heads * width,
                                 bounds, texts, heads, width, 1.0f / sqrtf(static_cast<float>(width)), y == &found && bfloat16, 1,
                                 y == &found ? level : LEVEL_SCALAR);
    if (code != 0) return 1;
    // Numbers are at most 1, and so is a mean of them: rounded to bfloat16, weights and values move by 2^-9 each.
    return alike(found, expected, bfloat16 ? 1.5e-2f : 1e-5f, "attention", level) ? 0 : -1;
}

static int attend(int level) { return attend(level, false); }
static int attend_in_bfloat16(int level) { return attend(level, true); }

static int norm(int level) {
    const long rows = between(0, 20), width = between(3, 900);
    Numbers x(rows * width), weight(width), bias(width), found(rows * width), expected(rows * width);
    int code = 0;
    for (const Numbers* y : {&found, &expected})
        code += tercet_layer_norm(x.at, width, rows, width, weight.at, bias.at, 1e-5f, y->at, width, 1,
                                  y == &found ? level : LEVEL_SCALAR);
    if (code != 0) return 1;
    return alike(found, expected, 2e-5f, "layer norm", level) ? 0 : -1;
}

static int embed(int level) {
    const long rows = between(0, 20), width = between(3, 900), words = between(1, 40), positions = between(20, 40), types = between(0, 2);
    const long first = between(0, positions - 20);
    Numbers word(words * width), position(positions * width), type(types * width), weight(width), bias(width);
    Numbers found(rows * width), expected(rows * width);
    std::vector<long long> ids(rows), places(rows), kinds(rows);
    for (long r = 0; r < rows; r++) {
        ids[r] = between(0, words - 1);
        places[r] = between(0, 19);
        kinds[r] = types ? between(0, types - 1) : 0;
    }
    int code = 0;
    for (const Numbers* y : {&found, &expected})
        code += tercet_embeddings(word.at, words, ids.data(), position.at, positions, places.data(), first, types ? type.at : nullptr,
                                  types, kinds.data(), rows, width, weight.at, bias.at, 1e-5f, y->at, width, 1,
                                  y == &found ? level : LEVEL_SCALAR);
    if (code != 0) return 1;
    return alike(found, expected, 2e-5f, "embeddings", level) ? 0 : -1;
}

int main(int count, char** words) {
    const int rounds = count > 1 ? atoi(words[1]) : 100;
    for (int level = 0; level < 32; level++) {
        if (level == LEVEL_SCALAR || !(tercet_levels() >> level & 1)) continue;
        int ran[5] = {0, 0, 0, 0, 0};
        for (int round = 0; round < rounds; round++) {
            int (*kernels[5])(int) = {product, attend, norm, attend_in_bfloat16, embed};
            for (int k = 0; k < 5; k++) {
                const int code = kernels[k](level);
                if (code < 0) return 1;
                ran[k] += code == 0;
            }
        }
        printf("level %d: products %d, attention %d, layer norm %d, attention of bfloat16 %d, embeddings %d agree\n", level, ran[0],
               ran[1], ran[2], ran[3], ran[4]);
    }
    return 0;
}
