// Products in float16 with AVX512-FP16: 14 rows by 2 registers of 16 outputs, the even and the odd inputs of each
// side by side, 28 sums in registers.
//
// In assembly, as the int8 tile is and for the same reason. A step is 2 inputs of a line of 32; weights are called
// 4 lines ahead.
#pragma once

#include "float16_format.h"

#define MULTIPLY "vfmadd231ph"
#define AHEAD "8192"
#include "tile_avx512.h"

namespace {

template <int ROWS>
__attribute__((noinline)) void block_rows(const unsigned char* a, const unsigned char* w, long lines, Half* chains) {
    static_assert(TILE_LINE == 896 && PANEL_LINE == 2048, "the steps below");
    asm volatile(EACH_ROW(CLEAR)
                 ".p2align 5\n"
                 "1:\n\t"
                 STEPS
                 "addq $896, %[a]\n\t"
                 "addq $2048, %[w]\n\t"
                 "decq %[lines]\n\t"
                 "jnz 1b\n\t"
                 EACH_ROW(KEEP)
                 : [a] "+r"(a), [w] "+r"(w), [lines] "+r"(lines)
                 : [sums] "r"(chains), [rows] "i"(ROWS)
                 : REGISTERS);
}

struct Avx512Fp16Tile {
    static void narrow(const float* values, Half* to) {
        for (long k = 0; k < LINE; k += 16)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k),
                                _mm512_cvtps_ph(_mm512_loadu_ps(values + k), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }

    static void add(const unsigned char* a, const unsigned char* w, long lines, int rows, float* sums) {
        static constexpr decltype(&block_rows<1>) of[] = {
            block_rows<1>, block_rows<2>, block_rows<3>,  block_rows<4>,  block_rows<5>,  block_rows<6>,  block_rows<7>,
            block_rows<8>, block_rows<9>, block_rows<10>, block_rows<11>, block_rows<12>, block_rows<13>, block_rows<14>};
        alignas(64) Half chains[TILE * WIDTH];
        of[rows - 1](a, w, lines, chains);
        for (long i = 0; i < rows * WIDTH; i += 16) {
            const __m512 widened = _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(chains + i)));
            _mm512_store_ps(sums + i, _mm512_add_ps(_mm512_load_ps(sums + i), widened));
        }
    }
};

}  // namespace

#include "tile_avx512_end.h"
