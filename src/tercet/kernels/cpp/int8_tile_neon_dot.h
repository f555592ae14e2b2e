// Sums of int8 products with the dot product of Armv8.2, which multiplies signed bytes: 128 is taken from every
// activation, and given back with the zero point.
#pragma once

#include <arm_neon.h>

#include "matmul_job.h"

namespace {

template <int ROWS>
inline void dot_rows(const unsigned char* a, const signed char* w, int* sums) {
    int32x4_t sum[ROWS][4];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[r][j] = vld1q_s32(sums + r * PANEL + j * 4);
    for (int k = 0; k < CHUNK; k += 16) {
        int8x16_t inputs[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++)
            inputs[r] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a + r * CHUNK + k), vdupq_n_u8(0x80)));
#define STEP(lane)                                                                                      \
    for (int j = 0; j < 4; j++) {                                                                       \
        const int8x16_t weights = vld1q_s8(w + (k + 4 * (lane)) * PANEL + j * 16);                      \
        for (int r = 0; r < ROWS; r++) sum[r][j] = vdotq_laneq_s32(sum[r][j], weights, inputs[r], lane); \
    }
        STEP(0) STEP(1) STEP(2) STEP(3)
#undef STEP
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) vst1q_s32(sums + r * PANEL + j * 4, sum[r][j]);
}

struct NeonDotChunk {
    static constexpr int SHIFT = 128;

    static void add(const unsigned char* a, const signed char* w, int rows, int* sums) {
        for (int half = 0; half < PANEL; half += 16) {
            int r = 0;
            for (; rows - r >= 4; r += 4) dot_rows<4>(a + r * CHUNK, w + half * 4, sums + r * PANEL + half);
            for (; r < rows; r++) dot_rows<1>(a + r * CHUNK, w + half * 4, sums + r * PANEL + half);
        }
    }
};

}  // namespace
