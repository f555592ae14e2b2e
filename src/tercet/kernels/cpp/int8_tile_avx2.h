// Sums of int8 products with AVX2: both factors are widened to 16 bits. The instruction for bytes (vpmaddubsw)
// holds pairs of products in 16 bits and cuts off what does not fit.
#pragma once

#include <immintrin.h>

#include "matmul_job.h"

namespace {

// In assembly so that sums stay where they are: GCC 12 copies them around.
inline void multiply_add_wide(__m256i& sum, __m256i inputs, __m256i weights) {
    __m256i products;
    asm volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(inputs), "x"(weights));
}

// 4 rows, or fewer, by 8 outputs; a register has two sums for each of 4 outputs.
template <int ROWS>
inline void wide_rows(const short* a, const signed char* w, int* sums) {
    __m256i sum[ROWS][2] = {};
    for (int step = 0; step < CHUNK / 4; step++) {
        __m256i inputs[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            long long four;
            __builtin_memcpy(&four, a + r * CHUNK + step * 4, sizeof four);
            inputs[r] = _mm256_set1_epi64x(four);
        }
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const __m256i weights =
                _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + step * 4 * PANEL) + j));
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) multiply_add_wide(sum[r][j], inputs[r], weights);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) {
        // Sums of outputs 0 1 4 5 | 2 3 6 7, then in their order.
        const __m256i pairs = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[r][0], sum[r][1]), 0xd8);
        __m256i* to = reinterpret_cast<__m256i*>(sums + r * PANEL);
        _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), pairs));
    }
}

struct Avx2Chunk {
    static constexpr int SHIFT = 0;

    static void add(const unsigned char* a, const signed char* w, int rows, int* sums) {
        alignas(32) short wide[TILE * CHUNK];
        for (int i = 0; i < rows * CHUNK; i += 16) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
            _mm256_store_si256(reinterpret_cast<__m256i*>(wide + i), _mm256_cvtepu8_epi16(bytes));
        }
        for (int j = 0; j < PANEL; j += 8) {
            int r = 0;
            for (; rows - r >= 4; r += 4) wide_rows<4>(wide + r * CHUNK, w + j * 4, sums + r * PANEL + j);
            for (; r < rows; r++) wide_rows<1>(wide + r * CHUNK, w + j * 4, sums + r * PANEL + j);
        }
    }
};

}  // namespace
