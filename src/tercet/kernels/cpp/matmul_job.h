// Products of activations with packed weights: what every scheme and instruction level is asked to do.
#pragma once

// y = act(x weight' + bias), act being GELU or nothing.
struct Layer {
    const unsigned char* weight;  // packed panels, 64-byte aligned
    const float* bias;            // (out,) or null
    long in, out;
    bool gelu;
};

// One layer, or two with the second fed by the first; then the residual is added. Steps are in floats.
struct MatmulJob {
    const float* x;
    long x_step, rows;
    Layer layers[2];
    int num_layers;
    const float* residual;  // (rows, out of the last layer) or null
    long residual_step;
    float* y;
    long y_step;
    int threads;
    int failed;  // no memory for scratch
};

namespace {  // each instruction level its own

constexpr long divided_up(long size, long by) { return (size + by - 1) / by; }

// Rows cut into blocks of whole tiles, as even as can be: no thread is left with a block more than another.
struct Blocks {
    long rows, tile, count;

    // At least `count` blocks (less where there are fewer tiles), of `most` rows at the most, a multiple of a tile.
    Blocks(long rows, long tile, long count, long most) : rows(rows), tile(tile) {
        const long tiles = divided_up(rows, tile), needed = divided_up(divided_up(rows, most), count) * count;
        this->count = needed < tiles ? needed : tiles;
    }

    long start(long block) const {
        const long row = divided_up(rows, tile) * block / count * tile;
        return row < rows ? row : rows;
    }
    long largest() const { return divided_up(divided_up(rows, tile), count) * tile; }
};

}  // namespace

constexpr long PANEL = 32;  // outputs whose weights lie together
constexpr long TILE = 14;   // rows that are multiplied together: with a panel, 28 AVX-512 registers of sums
constexpr long CHUNK = 64;  // inputs that lie together, and the group of the int8 scheme

namespace float32_scalar { void run(MatmulJob&); }
namespace float32_avx2 { void run(MatmulJob&); }
namespace float32_avx512 { void run(MatmulJob&); }
namespace float32_neon { void run(MatmulJob&); }
namespace int8_scalar { void run(MatmulJob&, bool groups); }
namespace int8_avx2 { void run(MatmulJob&, bool groups); }
namespace int8_avx_vnni { void run(MatmulJob&, bool groups); }
namespace int8_avx512_vnni { void run(MatmulJob&, bool groups); }
namespace int8_amx_int8 { void run(MatmulJob&, bool groups); }
namespace int8_neon { void run(MatmulJob&, bool groups); }
namespace int8_neon_dot { void run(MatmulJob&, bool groups); }
namespace float16_scalar { void run(MatmulJob&); }
namespace float16_avx512_fp16 { void run(MatmulJob&); }
namespace float16_neon_fp16 { void run(MatmulJob&); }
