// Products of activations with packed weights: what every scheme and instruction level is asked to do.
#pragma once

#include "norm_job.h"

// Layer normalisation of a result, in place, by the level that `run` is of.
struct Norm {
    const float *weight, *bias;
    float epsilon;
    void (*run)(NormJob&);

    void rows(float* y, long step, long rows, long width, int threads) const {
        NormJob job = {y, step, rows, width, weight, bias, epsilon, y, step, threads, 0, 0};
        run(job);
    }
};

// y = act(x weight' + bias), act being GELU or nothing.
struct Layer {
    const unsigned char* weight;  // packed panels, 64-byte aligned
    const float* bias;            // (out,) or null
    long in, out;
    bool gelu;
};

// One layer, or two with the second fed by the first; then the residual is added. Or three, the end of an encoder's
// layer: the residual and a norm follow the first, and what that gives feeds the second and is the residual of the
// third, which a norm follows too. Steps are in floats.
struct MatmulJob {
    const float* x;
    long x_step, rows;
    Layer layers[3];
    int num_layers;
    const float* residual;  // (rows, out of the last layer) or null; of three layers, of the first
    long residual_step;
    float* y;
    long y_step;
    int threads;
    int failed;  // no memory for scratch
    Norm norms[2];  // of three layers: behind the first, and behind the third
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

// The two products of the end of an encoder's layer, for `rows` rows from `first` on, with `middle` between them.
static inline MatmulJob first_part(const MatmulJob& job, long first, long rows, float* middle, long middle_step) {
    return {job.x + first * job.x_step, job.x_step, rows, {job.layers[0], {}, {}}, 1, job.residual + first * job.residual_step,
            job.residual_step, middle, middle_step, job.threads, 0, {}};
}

static inline MatmulJob second_part(const MatmulJob& job, long first, long rows, float* middle, long middle_step) {
    return {middle, middle_step, rows, {job.layers[1], job.layers[2], {}}, 2, middle, middle_step,
            job.y + first * job.y_step, job.y_step, job.threads, 0, {}};
}

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
