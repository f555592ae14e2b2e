// The two int8 schemes, for one instruction level: how activations are quantised and packed, and how a tile of
// sums becomes floats. A level gives its Tile:
//   Tile::fast(activations, weights, chunks, rows, sums): int sums of TILE rows and one panel over all inputs;
//   Tile::groups(activations, weights, chunks, rows, sums): float sums of chunks that are scaled one by one;
//   Tile::SHIFT: what its int sums took from each activation, where the processor multiplies signed numbers only.
//
// Activations are unsigned, with a scale and a zero point for each row (int8-fast) or each row and chunk (int8):
// x = scale (q - zero). The range always holds 0, so that zeros are exact. A value that is not finite makes the
// scale NaN, and with it the whole row of the product. Weights are signed, w = scale v, for each output or each
// output and chunk. The product is scale scale (sum q v - zero sum v); what is in brackets is an exact integer.
//
// Layout, in bytes:
//   activations, a tile: chunks of [TILE][64], each followed for int8 by float scales [TILE], int zeros [TILE]
//     and 16 bytes unused; for int8-fast the scales [16] and zeros [16] stand behind the last chunk;
//   weights, a panel: chunks of [16][PANEL][4], each followed for int8 by shorts [PANEL][2], minus the sum of
//     the chunk's weights and 0, and by float scales [PANEL]; for int8-fast int sums [PANEL] and scales [PANEL]
//     stand behind the last chunk.
#pragma once

#include <string.h>

#include "matmul_driver.h"
#include "matmul_vectors.h"

namespace {

constexpr long ROW_CHUNKS = TILE * CHUNK;              // bytes of a chunk of a tile's activations
constexpr long TILE_GROUP = 1024;                      // the same with scales and zeros
constexpr long PANEL_CHUNK = PANEL * CHUNK;            // bytes of a chunk of a panel's weights
constexpr long PANEL_GROUP = PANEL_CHUNK + 8 * PANEL;  // the same with sums and scales
static_assert(ROW_CHUNKS + 8 * TILE <= TILE_GROUP, "scales and zeros follow a chunk");

constexpr long chunks_of(long in) { return (in + CHUNK - 1) / CHUNK; }

struct Range {
    Floats least = {}, most = {}, poison = {};

    // A chunk is met by itself first: the next one need not wait for it.
    inline void meet(const float* values) {
        Floats low = load(values), high = low, bad = low * (Floats){};
#pragma GCC unroll 16
        for (int j = LANES; j < CHUNK; j += LANES) {
            const Floats value = load(values + j);
            low = lesser(value, low);
            high = larger(value, high);
            bad = fused(value, (Floats){}, bad);
        }
        least = lesser(low, least);
        most = larger(high, most);
        poison = poison + bad;
    }
};

struct Quantised {
    float scale, inverse;
    int zero;
};

// Scale and zero point of a range. A range too small for float32's normal numbers counts as nothing but zeros.
inline Quantised quantised(const Range& range) {
    if (any_nan(range.poison)) return {__builtin_nanf(""), 0.0f, 0};
    const float least = smallest_of(range.least), most = largest_of(range.most);
    // Halves are exact, so that it does not matter whether their difference is fused; the range may overflow.
    const float scale = (most * 0.5f - least * 0.5f) * (2.0f / 255.0f);
    if (scale < 1.17549435e-38f) return {0.0f, 0.0f, 0};
    const float inverse = 1.0f / scale, rounded = fused(all(-least), all(inverse), all(MAGIC))[0];
    int bits;
    memcpy(&bits, &rounded, sizeof bits);
    return {scale, inverse, bits - MAGIC_BITS};
}

// A chunk of a row: rounded half to even.
inline void quantise(const float* values, const Quantised& q, unsigned char* to) {
    const Floats inverse = all(q.inverse), magic = all(MAGIC);
    const Ints shift = all(q.zero - MAGIC_BITS);
#pragma GCC unroll 16
    for (int j = 0; j < CHUNK; j += LANES)
        store_bytes(to + j, (Ints)fused(load(values + j), inverse, magic) + shift);
}

// A row's last chunk, filled up with zeros where it is not full.
struct LastChunk {
    float filled[CHUNK];
    const float* values;

    LastChunk(const float* row, long in) {
        const long whole = in / CHUNK * CHUNK;
        values = row + whole - (whole == in ? CHUNK : 0);
        if (whole == in) return;
        memset(filled, 0, sizeof filled);
        memcpy(filled, row + whole, (in - whole) * sizeof(float));
        values = filled;
    }
};

template <class Tile>
struct Int8Fast {
    // A byte of an activation is hundreds of times coarser than the difference to the exact one.
    static Floats activation(Floats x) { return quick_gelu(x); }
    static long tile_bytes(long in) { return chunks_of(in) * ROW_CHUNKS + 128; }
    static long panel_bytes(long in) { return chunks_of(in) * PANEL_CHUNK + 8 * PANEL; }

    static void pack(const float* x, long step, long rows, long in, unsigned char* to) {
        const long chunks = chunks_of(in);
        float* scales = reinterpret_cast<float*>(to + chunks * ROW_CHUNKS);
        int* zeros = reinterpret_cast<int*>(scales + 16);
        for (long r = 0; r < rows; r++) {
            const float* row = x + r * step;
            const LastChunk last(row, in);
            Range range;
            for (long c = 0; c + 1 < chunks; c++) range.meet(row + c * CHUNK);
            range.meet(last.values);
            const Quantised q = quantised(range);
            for (long c = 0; c < chunks; c++)
                quantise(c + 1 < chunks ? row + c * CHUNK : last.values, q, to + c * ROW_CHUNKS + r * CHUNK);
            scales[r] = q.scale;
            zeros[r] = q.zero;
        }
    }

    static void product(const unsigned char* tile, const unsigned char* panel, long in, int rows, float* out) {
        const long chunks = chunks_of(in);
        alignas(64) int sums[TILE * PANEL];
        Tile::fast(tile, panel, chunks, rows, sums);
        const float* scales = reinterpret_cast<const float*>(tile + chunks * ROW_CHUNKS);
        const int* zeros = reinterpret_cast<const int*>(scales + 16);
        const int* weight_sums = reinterpret_cast<const int*>(panel + chunks * PANEL_CHUNK);
        const float* weight_scales = reinterpret_cast<const float*>(weight_sums + PANEL);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < PANEL; j += LANES) {
                const Ints exact = load(sums + r * PANEL + j) - all(zeros[r] - Tile::SHIFT) * load(weight_sums + j);
                store(out + r * PANEL + j, floats(exact) * load(weight_scales + j) * all(scales[r]));
            }
    }
};

template <class Tile>
struct Int8Groups {
    static Floats activation(Floats x) { return gelu(x); }
    static long tile_bytes(long in) { return chunks_of(in) * TILE_GROUP; }
    static long panel_bytes(long in) { return chunks_of(in) * PANEL_GROUP; }

    static void pack(const float* x, long step, long rows, long in, unsigned char* to) {
        const long chunks = chunks_of(in);
        for (long r = 0; r < rows; r++) {
            const float* row = x + r * step;
            const LastChunk last(row, in);
            for (long c = 0; c < chunks; c++) {
                const float* values = c + 1 < chunks ? row + c * CHUNK : last.values;
                unsigned char* chunk = to + c * TILE_GROUP;
                Range range;
                range.meet(values);
                const Quantised q = quantised(range);
                quantise(values, q, chunk + r * CHUNK);
                reinterpret_cast<float*>(chunk + ROW_CHUNKS)[r] = q.scale;
                reinterpret_cast<int*>(chunk + ROW_CHUNKS + 4 * TILE)[r] = q.zero;
            }
        }
    }

    static void product(const unsigned char* tile, const unsigned char* panel, long in, int rows, float* out) {
        Tile::groups(tile, panel, chunks_of(in), rows, out);
    }
};

// Both kinds of sums, of a level that offers Chunk::add(activations, weights, rows, sums): one chunk added to
// int sums in memory; Chunk::SHIFT as above.
template <class Chunk>
struct TileOfChunks {
    static constexpr int SHIFT = Chunk::SHIFT;

    static void fast(const unsigned char* tile, const unsigned char* panel, long chunks, int rows, int* sums) {
        memset(sums, 0, TILE * PANEL * sizeof(int));
        for (long c = 0; c < chunks; c++)
            Chunk::add(tile + c * ROW_CHUNKS, reinterpret_cast<const signed char*>(panel) + c * PANEL_CHUNK, rows, sums);
    }

    static void groups(const unsigned char* tile, const unsigned char* panel, long chunks, int rows, float* out) {
        alignas(64) int sums[TILE * PANEL];
        memset(out, 0, TILE * PANEL * sizeof(float));
        for (long c = 0; c < chunks; c++) {
            const unsigned char *a = tile + c * TILE_GROUP, *w = panel + c * PANEL_GROUP;
            memset(sums, 0, sizeof sums);
            Chunk::add(a, reinterpret_cast<const signed char*>(w), rows, sums);
            add_scaled(a, w, rows, sums, out);
        }
    }

    // One chunk's sums, corrected by the zero points and scaled, into the floats.
    static void add_scaled(const unsigned char* a, const unsigned char* w, int rows, const int* sums, float* out) {
        const float* scales = reinterpret_cast<const float*>(a + ROW_CHUNKS);
        const int* zeros = reinterpret_cast<const int*>(scales + TILE);
        const int* minus_sums = reinterpret_cast<const int*>(w + PANEL_CHUNK);
        const float* weight_scales = reinterpret_cast<const float*>(minus_sums + PANEL);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < PANEL; j += LANES) {
                const Ints low = load(minus_sums + j) << 16 >> 16;
                const Ints exact = load(sums + r * PANEL + j) + all(zeros[r] - Chunk::SHIFT) * low;
                float* to = out + r * PANEL + j;
                store(to, fused(floats(exact) * load(weight_scales + j), all(scales[r]), load(to)));
            }
    }
};

template <class Tile>
void run_int8(MatmulJob& job, bool groups) {
    groups ? Driver<Int8Groups<Tile>>::run(job) : Driver<Int8Fast<Tile>>::run(job);
}

}  // namespace
