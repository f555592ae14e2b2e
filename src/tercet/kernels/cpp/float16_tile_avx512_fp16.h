// Products in float16 with AVX512-FP16: 14 rows by 2 registers of 16 outputs, the even and the odd inputs of each
// side by side, 28 sums in registers.
//
// In assembly, as the int8 tile is and for the same reason. zmm0..27 are the sums, row by row; 28 and 29 the weights
// of 2 inputs; 30 the same inputs of one row.
#pragma once

#include "float16_format.h"

#define ROW(r, first, second, step)                                  \
    ".if %c[rows] > " #r "\n\t"                                      \
    "vpbroadcastd 64*" #r "+4*" #step "(%[a]), %%zmm30\n\t"          \
    "vfmadd231ph %%zmm28, %%zmm30, %%zmm" #first "\n\t"              \
    "vfmadd231ph %%zmm29, %%zmm30, %%zmm" #second "\n\t"             \
    ".endif\n\t"

// Weights come from the second cache: they are called 4 lines ahead.
#define STEP(s)                                                                                              \
    "prefetcht0 8192+128*" #s "(%[w])\n\t"                                                                   \
    "prefetcht0 8192+128*" #s "+64(%[w])\n\t"                                                                \
    "vmovdqa64 128*" #s "(%[w]), %%zmm28\n\t"                                                                \
    "vmovdqa64 128*" #s "+64(%[w]), %%zmm29\n\t"                                                             \
    ROW(0, 0, 1, s) ROW(1, 2, 3, s) ROW(2, 4, 5, s) ROW(3, 6, 7, s) ROW(4, 8, 9, s) ROW(5, 10, 11, s)        \
    ROW(6, 12, 13, s) ROW(7, 14, 15, s) ROW(8, 16, 17, s) ROW(9, 18, 19, s) ROW(10, 20, 21, s)               \
    ROW(11, 22, 23, s) ROW(12, 24, 25, s) ROW(13, 26, 27, s)

// The 32 inputs of a line.
#define STEPS                                                                                                \
    STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)        \
    STEP(12) STEP(13) STEP(14) STEP(15)

#define EACH_ROW(what)                                                                                       \
    what(0, 0, 1) what(1, 2, 3) what(2, 4, 5) what(3, 6, 7) what(4, 8, 9) what(5, 10, 11) what(6, 12, 13)    \
    what(7, 14, 15) what(8, 16, 17) what(9, 18, 19) what(10, 20, 21) what(11, 22, 23) what(12, 24, 25)       \
    what(13, 26, 27)

#define CLEAR(r, first, second)                                      \
    ".if %c[rows] > " #r "\n\t"                                      \
    "vpxord %%zmm" #first ", %%zmm" #first ", %%zmm" #first "\n\t"   \
    "vpxord %%zmm" #second ", %%zmm" #second ", %%zmm" #second "\n\t" \
    ".endif\n\t"

#define KEEP(r, first, second)                                       \
    ".if %c[rows] > " #r "\n\t"                                      \
    "vmovdqa64 %%zmm" #first ", 128*" #r "(%[chains])\n\t"           \
    "vmovdqa64 %%zmm" #second ", 128*" #r "+64(%[chains])\n\t"       \
    ".endif\n\t"

#define REGISTERS                                                                                            \
    "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",   \
        "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30"

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
                 : [chains] "r"(chains), [rows] "i"(ROWS)
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

#undef ROW
#undef STEP
#undef STEPS
#undef EACH_ROW
#undef CLEAR
#undef KEEP
#undef REGISTERS
