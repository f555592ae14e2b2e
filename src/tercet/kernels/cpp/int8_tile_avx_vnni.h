// Sums of int8 products with AVX-VNNI: up to 6 rows by 2 registers of 8 outputs, 12 sums in registers.
#pragma once

#include <immintrin.h>

#include "matmul_job.h"

namespace {

// In assembly so that its place among the others stays: the sums leave one register free.
inline void multiply_add(__m256i& sum, __m256i activations, __m256i weights) {
    asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(activations), "x"(weights));
}

template <int ROWS>
inline void vnni_rows(const unsigned char* a, const signed char* w, int* sums) {
    __m256i sum[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < 2; j++) sum[r][j] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + r * PANEL) + j);
    for (int step = 0; step < CHUNK / 4; step++) {
        const __m256i* weights = reinterpret_cast<const __m256i*>(w + step * 4 * PANEL);
        const __m256i first = _mm256_loadu_si256(weights), second = _mm256_loadu_si256(weights + 1);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            int four;
            __builtin_memcpy(&four, a + r * CHUNK + step * 4, sizeof four);
            const __m256i inputs = _mm256_set1_epi32(four);
            multiply_add(sum[r][0], inputs, first);
            multiply_add(sum[r][1], inputs, second);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < 2; j++) _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + r * PANEL) + j, sum[r][j]);
}

struct AvxVnniChunk {
    static constexpr int SHIFT = 0;

    static void add(const unsigned char* a, const signed char* w, int rows, int* sums) {
        for (int half = 0; half < PANEL; half += 16) {
            const signed char* weights = w + half * 4;
            int r = 0;
            for (; rows - r >= 6; r += 6) vnni_rows<6>(a + r * CHUNK, weights, sums + r * PANEL + half);
            for (; rows - r >= 2; r += 2) vnni_rows<2>(a + r * CHUNK, weights, sums + r * PANEL + half);
            if (r < rows) vnni_rows<1>(a + r * CHUNK, weights, sums + r * PANEL + half);
        }
    }
};

}  // namespace
