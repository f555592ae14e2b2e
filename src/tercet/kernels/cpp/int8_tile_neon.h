// Sums of int8 products with NEON: widening products of signed bytes. 128 is taken from every activation, and
// given back with the zero point; two products of such bytes fit 16 bits (2 * 128 * 127 = 32,512).
#pragma once

#include <arm_neon.h>

#include "matmul_job.h"

namespace {

inline int8x16_t four_inputs(const unsigned char* a) {
    unsigned four;
    __builtin_memcpy(&four, a, sizeof four);
    return vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
}

// Up to 4 rows by 4 outputs; a register has two sums for each of 2 outputs.
template <int ROWS>
inline void widened_rows(const unsigned char* a, const signed char* w, int* sums) {
    int32x4_t low[ROWS], high[ROWS];
    for (int r = 0; r < ROWS; r++) low[r] = high[r] = vdupq_n_s32(0);
    for (int k = 0; k < CHUNK; k += 8) {
        const int8x16_t first = vld1q_s8(w + k * PANEL), second = vld1q_s8(w + (k + 4) * PANEL);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            const int8x16_t x = four_inputs(a + r * CHUNK + k), y = four_inputs(a + r * CHUNK + k + 4);
            int16x8_t products = vmull_s8(vget_low_s8(first), vget_low_s8(x));
            low[r] = vpadalq_s16(low[r], vmlal_s8(products, vget_low_s8(second), vget_low_s8(y)));
            products = vmull_s8(vget_high_s8(first), vget_high_s8(x));
            high[r] = vpadalq_s16(high[r], vmlal_s8(products, vget_high_s8(second), vget_high_s8(y)));
        }
    }
    for (int r = 0; r < ROWS; r++) {
        int* to = sums + r * PANEL;
        vst1q_s32(to, vaddq_s32(vld1q_s32(to), vpaddq_s32(low[r], high[r])));
    }
}

struct NeonChunk {
    static constexpr int SHIFT = 128;

    static void add(const unsigned char* a, const signed char* w, int rows, int* sums) {
        for (int j = 0; j < PANEL; j += 4) {
            int r = 0;
            for (; rows - r >= 4; r += 4) widened_rows<4>(a + r * CHUNK, w + j * 4, sums + r * PANEL + j);
            for (; r < rows; r++) widened_rows<1>(a + r * CHUNK, w + j * 4, sums + r * PANEL + j);
        }
    }
};

}  // namespace
