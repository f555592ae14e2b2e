// Products in float16 with the half precision arithmetic of Armv8.2: 5 rows by 4 registers of 4 outputs, the even
// and the odd inputs of each side by side.
#pragma once

#include "float16_format.h"

namespace {

// Half a panel.
template <int ROWS>
inline void block_rows(const Half* a, const Half* w, long lines, float* sums) {
    float16x8_t chain[ROWS][4];
#pragma GCC unroll 5
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) chain[r][j] = vreinterpretq_f16_u16(vdupq_n_u16(0));
    for (long line = 0; line < lines; line++) {
        for (long step = 0; step < LINE; step += 2) {
            float16x8_t weights[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) weights[j] = vreinterpretq_f16_u16(vld1q_u16(w + step * PANEL + j * 8));
#pragma GCC unroll 5
            for (int r = 0; r < ROWS; r++) {
                const void* pair = a + r * LINE + step;
                const float16x8_t inputs = vreinterpretq_f16_u32(vld1q_dup_u32(static_cast<const uint32_t*>(pair)));
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) chain[r][j] = vfmaq_f16(chain[r][j], inputs, weights[j]);
            }
        }
        a += TILE * LINE;
        w += PANEL * LINE;
    }
#pragma GCC unroll 5
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            float* to = sums + r * WIDTH + j * 8;
            vst1q_f32(to, vaddq_f32(vld1q_f32(to), vcvt_f32_f16(vget_low_f16(chain[r][j]))));
            vst1q_f32(to + 4, vaddq_f32(vld1q_f32(to + 4), vcvt_high_f32_f16(chain[r][j])));
        }
}

struct NeonFp16Tile {
    static void narrow(const float* values, Half* to) {
        for (long k = 0; k < LINE; k += 4) vst1_u16(to + k, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + k))));
    }

    static void add(const unsigned char* a, const unsigned char* w, long lines, int rows, float* sums) {
        const Half *inputs = reinterpret_cast<const Half*>(a), *weights = reinterpret_cast<const Half*>(w);
        for (long half = 0; half < WIDTH; half += 32)
            for (int r = 0; r < rows; r += 5) {
                const Half* from = inputs + r * LINE;
                float* to = sums + r * WIDTH + half;
                switch (rows - r) {
                    case 1: block_rows<1>(from, weights + half, lines, to); break;
                    case 2: block_rows<2>(from, weights + half, lines, to); break;
                    case 3: block_rows<3>(from, weights + half, lines, to); break;
                    case 4: block_rows<4>(from, weights + half, lines, to); break;
                    default: block_rows<5>(from, weights + half, lines, to);
                }
            }
    }
};

}  // namespace
