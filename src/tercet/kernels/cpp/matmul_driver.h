// Drives the products of a job for one scheme and instruction level: rows are packed once, panels of weights
// are met one after the other while they are in cache, what follows a product is done on a tile at a time.
//
// A scheme is a `Format`: tile_bytes(in) and panel_bytes(in), pack(x, step, rows, in, to) of up to TILE rows,
// product(tile, panel, in, rows, out) -> float [TILE][PANEL], and the GELU that suits it. Nothing here depends on where a row stands, so a
// row gets the same bits in any batch, with any number of threads.
#pragma once

#include <sched.h>
#include <string.h>

#include "matmul_job.h"
#include "matmul_vectors.h"
#include "scratch.h"
#include "threads.h"

namespace {

// Packed rows of a block stay in a core's second cache, beside the panels that pass by.
constexpr long BLOCK_BYTES = 448 << 10;
// Panels that a tile of rows meets before the next one comes: they stay in the second cache, and what a tile
// writes of a row lies together.
constexpr long PASS_BYTES = 256 << 10;
// Results of this size are gone from the caches before anyone reads them.
constexpr long PAST_BYTES = 16 << 20;
// Between two layers lies a row as wide as the first one's output, in floats.
constexpr long BLOCK_BETWEEN_BYTES = 1 << 20;

constexpr long aligned(long bytes) { return divided_up(bytes, 64) * 64; }

struct Output {
    float* y;
    long step;
    const float* residual;  // or null
    long residual_step;
    bool past;  // results go past the caches to memory
};

// What `finish` will read and write, brought nearer while the product is computed: rows of a panel lie apart, where the
// processor foresees nothing.
inline void bring(const Output& to, int rows) {
    for (int r = 0; r < rows; r++)
        for (int line = 0; line < PANEL; line += 16) {
            if (!to.past) __builtin_prefetch(to.y + r * to.step + line, 1, 3);
            if (to.residual != nullptr) __builtin_prefetch(to.residual + r * to.residual_step + line, 0, 3);
        }
}

// What follows a product, on `rows` rows of one panel.
template <class Format>
inline void finish(const float* sums, int rows, const float* bias, bool with_gelu, const Output& to) {
    constexpr int VECTORS = PANEL / LANES;
    for (int r = 0; r < rows; r++) {
        const float* from = sums + r * PANEL;
        float* y = to.y + r * to.step;
        Floats values[VECTORS];
        for (int j = 0; j < VECTORS; j++) values[j] = load(from + j * LANES) + load(bias + j * LANES);
        if (with_gelu)
            for (int j = 0; j < VECTORS; j++) values[j] = Format::activation(values[j]);
        if (to.residual != nullptr)
            for (int j = 0; j < VECTORS; j++) values[j] += load(to.residual + r * to.residual_step + j * LANES);
        if (to.past)
            for (int j = 0; j < VECTORS; j++) store_past(y + j * LANES, values[j]);
        else
            for (int j = 0; j < VECTORS; j++) store(y + j * LANES, values[j]);
    }
}

// The same where a panel reaches over the last output: done in a full panel aside, so that no bit differs.
template <class Format>
inline void finish_part(const float* sums, int rows, long outputs, const float* bias, bool with_gelu, const Output& to) {
    alignas(64) float y[TILE * PANEL], residual[TILE * PANEL];
    if (to.residual != nullptr) {
        memset(residual, 0, sizeof residual);
        for (int r = 0; r < rows; r++)
            memcpy(residual + r * PANEL, to.residual + r * to.residual_step, outputs * sizeof(float));
    }
    finish<Format>(sums, rows, bias, with_gelu, {y, PANEL, to.residual == nullptr ? nullptr : residual, PANEL, false});
    for (int r = 0; r < rows; r++) memcpy(to.y + r * to.step, y + r * PANEL, outputs * sizeof(float));
}

template <class Format>
struct Driver {
    static void pack(const float* x, long step, long rows, long in, unsigned char* to) {
        for (long r = 0; r < rows; r += TILE)
            Format::pack(x + r * step, step, rows - r < TILE ? rows - r : TILE, in, to + r / TILE * Format::tile_bytes(in));
    }

    // Some panels of a layer, for packed rows.
    static void multiply(const Layer& layer, const unsigned char* packed, long rows, long first, long last, const Output& to) {
        const long panel_bytes = Format::panel_bytes(layer.in), fit = PASS_BYTES / panel_bytes, pass = fit > 0 ? fit : 1;
        for (long from = first; from < last; from += pass) {
            const long until = last - from < pass ? last : from + pass;
            for (long r = 0; r < rows; r += TILE)
                for (long panel = from; panel < until; panel++) multiply_tile(layer, packed, rows, r, panel, to);
        }
#if defined(__x86_64__)
        if (to.past) _mm_sfence();
#endif
    }

    static void multiply_tile(const Layer& layer, const unsigned char* packed, long rows, long first, long panel, const Output& to) {
        const long column = panel * PANEL, outputs = layer.out - column < PANEL ? layer.out - column : PANEL;
        const int height = static_cast<int>(rows - first < TILE ? rows - first : TILE);
        alignas(64) float sums[TILE * PANEL], aside[PANEL];
        const float* bias = aside;
        if (layer.bias != nullptr && outputs == PANEL) {
            bias = layer.bias + column;
        } else {
            memset(aside, 0, sizeof aside);
            if (layer.bias != nullptr) memcpy(aside, layer.bias + column, outputs * sizeof(float));
        }
        const Output part = {to.y + first * to.step + column, to.step,
                             to.residual == nullptr ? nullptr : to.residual + first * to.residual_step + column,
                             to.residual_step, to.past};
        bring(part, height);
        Format::product(packed + first / TILE * Format::tile_bytes(layer.in), layer.weight + panel * Format::panel_bytes(layer.in),
                        layer.in, height, sums);
        if (outputs == PANEL)
            finish<Format>(sums, height, bias, layer.gelu, part);
        else
            finish_part<Format>(sums, height, outputs, bias, layer.gelu, part);
    }

    // Many rows: each thread takes blocks of rows through all layers.
    struct Tall {
        MatmulJob* job;
        Blocks blocks;
        long taken;
    };

    static void work_tall(void* context, int, int) {
        Tall& tall = *static_cast<Tall*>(context);
        MatmulJob& job = *tall.job;
        thread_local Scratch scratch;
        const long most = tall.blocks.largest(), tiles = most / TILE;
        long packed_bytes = 0;
        for (int i = 0; i < job.num_layers; i++) {
            const long bytes = tiles * Format::tile_bytes(job.layers[i].in);
            packed_bytes = bytes > packed_bytes ? bytes : packed_bytes;
        }
        const bool end = job.num_layers == 3;
        const long step = between_step(job.layers[end ? 1 : 0]), middle_step = end ? between_step(job.layers[0]) : 0;
        const long between_bytes = job.num_layers >= 2 ? most * step * static_cast<long>(sizeof(float)) : 0;
        const long middle_bytes = most * middle_step * static_cast<long>(sizeof(float));
        unsigned char* packed = scratch.of(packed_bytes + between_bytes + middle_bytes);
        if (packed == nullptr) {
            __atomic_store_n(&job.failed, 1, __ATOMIC_RELAXED);
            return;
        }
        float* between = reinterpret_cast<float*>(packed + packed_bytes);
        float* middle = reinterpret_cast<float*>(packed + packed_bytes + between_bytes);
        long task;
        while ((task = next_task(&tall.taken, tall.blocks.count)) >= 0) {
            const long first = tall.blocks.start(task), rows = tall.blocks.start(task + 1) - first;
            if (!end) {
                through(job, first, rows, packed, between, step);
                continue;
            }
            const long width = job.layers[0].out;
            through(first_part(job, first, rows, middle, middle_step), 0, rows, packed, between, step);
            job.norms[0].rows(middle, middle_step, rows, width, 1);
            through(second_part(job, first, rows, middle, middle_step), 0, rows, packed, between, step);
            job.norms[1].rows(job.y + first * job.y_step, job.y_step, rows, width, 1);
        }
    }

    // Some rows through one layer or two.
    static void through(const MatmulJob& job, long first, long rows, unsigned char* packed, float* between, long step) {
        const float* x = job.x + first * job.x_step;
        long x_step = job.x_step;
        for (int i = 0; i < job.num_layers; i++) {
            const Layer& layer = job.layers[i];
            Output to = {between, step, nullptr, 0, false};
            if (i + 1 == job.num_layers) to = last_output(job, first);
            pack(x, x_step, rows, layer.in, packed);
            multiply(layer, packed, rows, 0, divided_up(layer.out, PANEL), to);
            x = between;
            x_step = step;
        }
    }

    // Few rows: all threads share the packing of rows, then the panels of a layer.
    struct Flat {
        MatmulJob* job;
        const Layer* layer;
        const float* x;
        long x_step;
        unsigned char* packed;
        Output to;
        long tiles, parts, part_taken, tile_taken, tiles_done;
    };

    static void work_flat(void* context, int, int) {
        Flat& flat = *static_cast<Flat*>(context);
        const Layer& layer = *flat.layer;
        const long rows = flat.job->rows, tile_bytes = Format::tile_bytes(layer.in);
        long task;
        while ((task = next_task(&flat.tile_taken, flat.tiles)) >= 0) {
            const long first = task * TILE;
            pack(flat.x + first * flat.x_step, flat.x_step, rows - first < TILE ? rows - first : TILE, layer.in,
                 flat.packed + task * tile_bytes);
            __atomic_add_fetch(&flat.tiles_done, 1, __ATOMIC_RELEASE);
        }
        // Who packs a tile is running: this waits for microseconds, longer only where the system took its core away.
        for (long turns = 0; __atomic_load_n(&flat.tiles_done, __ATOMIC_ACQUIRE) < flat.tiles; turns++)
            if (turns > 1000) sched_yield();
        const long panels = divided_up(layer.out, PANEL);
        while ((task = next_task(&flat.part_taken, flat.parts)) >= 0)
            multiply(layer, flat.packed, rows, panels * task / flat.parts, panels * (task + 1) / flat.parts, flat.to);
    }

    static void run_flat(MatmulJob& job) {
        thread_local Scratch scratch;
        const long tiles = divided_up(job.rows, TILE), step = between_step(job.layers[0]);
        long packed_bytes = 0;
        for (int i = 0; i < job.num_layers; i++) {
            const long bytes = tiles * Format::tile_bytes(job.layers[i].in);
            packed_bytes = bytes > packed_bytes ? bytes : packed_bytes;
        }
        const long between_bytes = job.num_layers == 2 ? job.rows * step * static_cast<long>(sizeof(float)) : 0;
        unsigned char* packed = scratch.of(packed_bytes + between_bytes);
        if (packed == nullptr) {
            job.failed = 1;
            return;
        }
        float* between = reinterpret_cast<float*>(packed + packed_bytes);
        Flat flat = {&job, nullptr, job.x, job.x_step, packed, {}, tiles, 0, 0, 0, 0};
        for (int i = 0; i < job.num_layers; i++) {
            flat.layer = &job.layers[i];
            flat.to = {between, step, nullptr, 0, false};
            if (i + 1 == job.num_layers) flat.to = last_output(job, 0);
            const long panels = divided_up(flat.layer->out, PANEL), most = job.threads > 1 ? 4l * job.threads : 1;
            flat.parts = panels < most ? panels : most;
            flat.part_taken = flat.tile_taken = flat.tiles_done = 0;
            run_parallel(job.threads, work_flat, &flat);
            flat.x = between;
            flat.x_step = step;
        }
    }

    // The end of an encoder's layer for few rows: its products one after the other.
    static void run_parts(MatmulJob& job) {
        thread_local Scratch scratch;
        const long width = job.layers[0].out, step = between_step(job.layers[0]);
        float* middle = scratch.floats(job.rows * step);
        if (middle == nullptr) {
            job.failed = 1;
            return;
        }
        MatmulJob first = first_part(job, 0, job.rows, middle, step), second = second_part(job, 0, job.rows, middle, step);
        run_flat(first);
        job.norms[0].rows(middle, step, job.rows, width, job.threads);
        run_flat(second);
        job.norms[1].rows(job.y, job.y_step, job.rows, width, job.threads);
        job.failed = first.failed | second.failed;
    }

    static Output last_output(const MatmulJob& job, long first) {
        return {job.y + first * job.y_step, job.y_step,
                job.residual == nullptr ? nullptr : job.residual + first * job.residual_step, job.residual_step, past(job)};
    }

    static bool past(const MatmulJob& job) {
        const long bytes = job.rows * job.layers[job.num_layers - 1].out * static_cast<long>(sizeof(float));
        return bytes >= PAST_BYTES && reinterpret_cast<unsigned long>(job.y) % 64 == 0 && job.y_step % 16 == 0;
    }

    // Rows between two layers are not a power of two apart, so that a tile of them has room in the first cache.
    static long between_step(const Layer& layer) { return aligned(layer.out * 4) / 4 + 16; }

    static long most_rows(const MatmulJob& job) {
        long rows = TILE * 64;
        for (int i = 0; i < job.num_layers; i++) {
            const long fit = TILE * (BLOCK_BYTES / Format::tile_bytes(job.layers[i].in));
            rows = fit < rows ? fit : rows;
        }
        if (job.num_layers >= 2) {
            const long step = between_step(job.layers[job.num_layers - 2]);
            const long fit = BLOCK_BETWEEN_BYTES / (step * static_cast<long>(sizeof(float)));
            rows = fit < rows ? fit : rows;
        }
        return rows < TILE ? TILE : rows / TILE * TILE;
    }

    static void run(MatmulJob& job) {
        if (job.rows <= 0) return;
        const long threads = job.threads > 1 ? job.threads : 1;
        Tall tall = {&job, Blocks(job.rows, TILE, threads, most_rows(job)), 0};
        // A few rows cannot be shared out evenly: panels can.
        if (threads > 1 && tall.blocks.largest() < 4 * TILE) return job.num_layers == 3 ? run_parts(job) : run_flat(job);
        const long tasks = tall.blocks.count;
        run_parallel(static_cast<int>(tasks < threads ? tasks : threads), work_tall, &tall);
    }
};

}  // namespace
