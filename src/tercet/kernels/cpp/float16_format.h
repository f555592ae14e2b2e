// The float16 scheme, for one instruction level: activations are rounded to float16 when they are packed, products
// are fused with their sum in float16, and every BLOCK inputs the sums are widened and added in float32.
// A level gives its Tile:
//   Tile::narrow(values, to): LINE floats to float16, rounded half to even, infinite beyond the range;
//   Tile::add(activations, weights, lines, rows, sums): one block's products added to sums [TILE][2 * PANEL].
//
// Two inputs are met at a time, side by side in a register: the even ones of a block and the odd ones are two chains
// of fused multiplications and additions in float16, each rounded once a product, and so are two sums of float32,
// which meet behind the last block. So a pair of activations is broadcast as one number of 32 bits, which a load
// does by itself; of 16 bits it would take a shuffle more.
//
// What is not finite, in a row or of a sum that left the range of float16, becomes NaN: an infinity could vanish in
// an activation function or a softmax, a NaN cannot.
//
// Layout, in float16: activations, a tile: lines of [TILE][LINE]; weights, a panel: [inputs / 2][PANEL][2], up to
// whole lines. Behind the last input and output stand zeros.
#pragma once

#include <string.h>

#include "matmul_driver.h"
#include "matmul_vectors.h"

namespace {

typedef unsigned short Half;  // its bits

constexpr long LINE = 32;          // inputs of a row that lie together
constexpr long BLOCK = 128;        // inputs whose products are added in float16: 64 in each of the two chains
constexpr long WIDTH = 2 * PANEL;  // sums of a row, those of even and odd inputs side by side
constexpr long TILE_LINE = TILE * LINE * static_cast<long>(sizeof(Half));
constexpr long PANEL_LINE = PANEL * LINE * static_cast<long>(sizeof(Half));
static_assert(BLOCK % LINE == 0, "a block is whole lines");

constexpr long lines_of(long in) { return (in + LINE - 1) / LINE; }

template <class Tile>
struct Float16 {
    static Floats activation(Floats x) { return gelu(x); }
    static long tile_bytes(long in) { return lines_of(in) * TILE_LINE; }
    static long panel_bytes(long in) { return lines_of(in) * PANEL_LINE; }

    static void pack(const float* x, long step, long rows, long in, unsigned char* to) {
        const long whole = in / LINE;
        for (long r = 0; r < rows; r++) {
            const float* row = x + r * step;
            unsigned char* place = to + r * LINE * static_cast<long>(sizeof(Half));
            for (long line = 0; line < whole; line++)
                Tile::narrow(row + line * LINE, reinterpret_cast<Half*>(place + line * TILE_LINE));
            if (whole * LINE == in) continue;
            float last[LINE] = {};
            memcpy(last, row + whole * LINE, (in - whole * LINE) * sizeof(float));
            Tile::narrow(last, reinterpret_cast<Half*>(place + whole * TILE_LINE));
        }
    }

    static void product(const unsigned char* tile, const unsigned char* panel, long in, int rows, float* out) {
        constexpr long MOST = BLOCK / LINE;
        alignas(64) float sums[TILE * WIDTH];
        memset(sums, 0, rows * WIDTH * sizeof(float));
        const long lines = lines_of(in);
        for (long line = 0; line < lines; line += MOST)
            Tile::add(tile + line * TILE_LINE, panel + line * PANEL_LINE, lines - line < MOST ? lines - line : MOST, rows, sums);
        for (long i = 0; i < rows * PANEL; i++) {
            const float sum = sums[2 * i] + sums[2 * i + 1];
            out[i] = sum + sum * 0.0f;
        }
    }
};

template <class Tile>
void run_float16(MatmulJob& job) {
    Driver<Float16<Tile>>::run(job);
}

}  // namespace
