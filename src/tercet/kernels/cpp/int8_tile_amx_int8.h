// Sums of int8 products with AMX: 14 rows by 2 tiles of 16 outputs. Written from the manual; no machine with
// AMX has run it.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "int8_format.h"

namespace {

// Tiles 0 and 1 hold sums, 2 activations, 3 and 4 weights.
inline void configure(int rows) {
    struct alignas(64) {
        unsigned char palette, start_row, reserved[14];
        unsigned short row_bytes[16];
        unsigned char rows[16];
    } shape;
    memset(&shape, 0, sizeof shape);
    shape.palette = 1;
    for (int tile = 0; tile < 5; tile++) {
        shape.row_bytes[tile] = 64;
        shape.rows[tile] = static_cast<unsigned char>(tile < 3 ? rows : 16);
    }
    _tile_loadconfig(&shape);
}

inline void add_chunk(const unsigned char* a, const unsigned char* w) {
    _tile_loadd(2, a, CHUNK);
    _tile_loadd(3, w, 4 * PANEL);
    _tile_loadd(4, w + 64, 4 * PANEL);
    _tile_dpbusd(0, 2, 3);
    _tile_dpbusd(1, 2, 4);
}

inline void keep(int* sums) {
    _tile_stored(0, sums, 4 * PANEL);
    _tile_stored(1, sums + 16, 4 * PANEL);
}

struct AmxTile {
    static constexpr int SHIFT = 0;

    static void fast(const unsigned char* a, const unsigned char* w, long chunks, int rows, int* sums) {
        configure(rows);
        _tile_zero(0);
        _tile_zero(1);
        for (long c = 0; c < chunks; c++) add_chunk(a + c * ROW_CHUNKS, w + c * PANEL_CHUNK);
        keep(sums);
        _tile_release();
    }

    static void groups(const unsigned char* a, const unsigned char* w, long chunks, int rows, float* out) {
        alignas(64) int sums[TILE * PANEL];
        memset(out, 0, TILE * PANEL * sizeof(float));
        configure(rows);
        for (long c = 0; c < chunks; c++, a += TILE_GROUP, w += PANEL_GROUP) {
            _tile_zero(0);
            _tile_zero(1);
            add_chunk(a, w);
            keep(sums);
            TileOfChunks<AmxTile>::add_scaled(a, w, rows, sums, out);
        }
        _tile_release();
    }
};

}  // namespace
