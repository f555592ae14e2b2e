// Products in float16 without instructions for them, to the very bits: what every other level is held to, too slow
// for anything else.
//
// Numbers of float16 are kept in float32. A product of two is exact there; its sum with a third is rounded to odd
// (Boldo & Melquiond 2008), after which rounding to the 11 bits of float16 gives what a single rounding gives.
#pragma once

#include "float16_format.h"

namespace {

typedef unsigned Words __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef Half Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

inline Words words(unsigned value) { return value - (Words){}; }

// To the nearest number of float16, half to even; infinite from 65,520 on.
inline Floats to_half(Floats value) {
    const Words bits = (Words)value, size = bits & words(0x7fffffff), sign = bits ^ size;
    const Words normal = (size + words(0xfff) + ((size >> 13) & words(1))) & ~words(0x1fff);
    // Below 2^-14 numbers lie 2^-24 apart, as those of float32 between 1/2 and 1 do.
    const Words small = (Words)((Floats)size + all(0.75f) - all(0.75f));
    Words found = size < words(0x38800000) ? small : normal;
    found = (found > words(0x477fe000)) & (size <= words(0x7f800000)) ? words(0x7f800000) : found;
    return (Floats)(found | sign);
}

// a b + c of numbers of float16, rounded once.
inline Floats fused_half(Floats a, Floats b, Floats c) {
    const Floats product = a * b, sum = product + c, part = sum - product;
    const Floats error = (product - (sum - part)) + (c - part);  // exact (Knuth)
    const Words bits = (Words)sum;
    const Words away = (bits ^ (Words)error) >> 31 == words(0) ? words(1) : words(~0u);
    const Words inexact_and_even = (Words)(error != (Floats){}) & (Words)((bits & words(1)) == words(0));
    return to_half((Floats)(bits + (inexact_and_even & away)));
}

inline Floats widened(const Half* from) {
    const Words bits = __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Words);
    const Words size = bits & words(0x7fff);
    const Words finite = (Words)((Floats)(size << 13) * all(5.192296858534828e33f));  // 2^112
    const Words value = size < words(0x7c00) ? finite : words(0x7f800000) | size << 13;
    return (Floats)(value | (bits & words(0x8000)) << 16);
}

struct ScalarHalves {
    static void narrow(const float* values, Half* to) {
        for (long k = 0; k < LINE; k += LANES) {
            const Words bits = (Words)to_half(load(values + k)), size = bits & words(0x7fffffff);
            const Words normal = (size >> 13) - words(112u << 10);
            // The bits of a small number are how many times 2^-24 it is; with 1/2 in front, its last bits.
            const Words small = (Words)((Floats)size + all(0.5f)) - words(0x3f000000);
            Words found = size < words(0x38800000) ? small : normal;
            found = size == words(0x7f800000) ? words(0x7c00) : found;
            found = size > words(0x7f800000) ? words(0x7e00) : found;
            *reinterpret_cast<Halves*>(to + k) = __builtin_convertvector(found | (bits ^ size) >> 16, Halves);
        }
    }

    static void add(const unsigned char* a, const unsigned char* w, long lines, int rows, float* sums) {
        alignas(64) float chains[TILE * WIDTH];
        memset(chains, 0, sizeof chains);
        for (long line = 0; line < lines; line++)
            for (long step = 0; step < LINE; step += 2) {
                const Half* weights = reinterpret_cast<const Half*>(w + line * PANEL_LINE) + step * PANEL;
                Floats right[WIDTH / LANES];
                for (int j = 0; j < WIDTH / LANES; j++) right[j] = widened(weights + j * LANES);
                for (int r = 0; r < rows; r++) {
                    const Half* pair = reinterpret_cast<const Half*>(a + line * TILE_LINE) + r * LINE + step;
                    Half repeated[LANES];
                    for (int lane = 0; lane < LANES; lane++) repeated[lane] = pair[lane % 2];
                    const Floats left = widened(repeated);
                    float* chain = chains + r * WIDTH;
                    for (int j = 0; j < WIDTH / LANES; j++)
                        store(chain + j * LANES, fused_half(left, right[j], load(chain + j * LANES)));
                }
            }
        for (long i = 0; i < rows * WIDTH; i += LANES) store(sums + i, load(sums + i) + load(chains + i));
    }
};

}  // namespace
