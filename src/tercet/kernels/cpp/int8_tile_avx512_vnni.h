// Sums of int8 products with AVX512-VNNI: 14 rows by 2 registers of 16 outputs, 28 sums in registers.
//
// In assembly: compilers that schedule the intrinsics spill the sums (GCC 12 does), at a third of the speed.
// zmm0..27 are the sums, row by row; 28 and 29 the weights of 4 inputs; 30 the same inputs of one row.
#pragma once

#include "matmul_job.h"

#define ROW(r, first, second, step)                                  \
    ".if %c[rows] > " #r "\n\t"                                      \
    "vpbroadcastd 64*" #r "+4*" #step "(%[a]), %%zmm30\n\t"          \
    "vpdpbusd %%zmm28, %%zmm30, %%zmm" #first "\n\t"                 \
    "vpdpbusd %%zmm29, %%zmm30, %%zmm" #second "\n\t"                \
    ".endif\n\t"

// Weights come from the second cache: they are called 4 chunks ahead.
#define STEP(s)                                                                                              \
    "prefetcht0 9216+128*" #s "(%[w])\n\t"                                                                   \
    "prefetcht0 9216+128*" #s "+64(%[w])\n\t"                                                                \
    "vmovdqa64 128*" #s "(%[w]), %%zmm28\n\t"                                                                \
    "vmovdqa64 128*" #s "+64(%[w]), %%zmm29\n\t"                                                             \
    ROW(0, 0, 1, s) ROW(1, 2, 3, s) ROW(2, 4, 5, s) ROW(3, 6, 7, s) ROW(4, 8, 9, s) ROW(5, 10, 11, s)        \
    ROW(6, 12, 13, s) ROW(7, 14, 15, s) ROW(8, 16, 17, s) ROW(9, 18, 19, s) ROW(10, 20, 21, s)               \
    ROW(11, 22, 23, s) ROW(12, 24, 25, s) ROW(13, 26, 27, s)

// The 64 inputs of a chunk.
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
    "vmovdqa64 %%zmm" #first ", 128*" #r "(%[sums])\n\t"             \
    "vmovdqa64 %%zmm" #second ", 128*" #r "+64(%[sums])\n\t"         \
    ".endif\n\t"

// sums = -zero * (sum of the chunk's weights); both fit 16 bits.
#define CORRECT(r, first, second)                                    \
    ".if %c[rows] > " #r "\n\t"                                      \
    "vpbroadcastd 952+4*" #r "(%[a]), %%zmm30\n\t"                   \
    "vpmaddwd %%zmm28, %%zmm30, %%zmm" #first "\n\t"                 \
    "vpmaddwd %%zmm29, %%zmm30, %%zmm" #second "\n\t"                \
    ".endif\n\t"

// out += sums * the weights' scales * the row's scale
#define SCALE(r, first, second)                                      \
    ".if %c[rows] > " #r "\n\t"                                      \
    "vbroadcastss 896+4*" #r "(%[a]), %%zmm30\n\t"                   \
    "vcvtdq2ps %%zmm" #first ", %%zmm" #first "\n\t"                 \
    "vcvtdq2ps %%zmm" #second ", %%zmm" #second "\n\t"               \
    "vmulps %%zmm28, %%zmm" #first ", %%zmm" #first "\n\t"           \
    "vmulps %%zmm29, %%zmm" #second ", %%zmm" #second "\n\t"         \
    "vfmadd213ps 128*" #r "(%[out]), %%zmm30, %%zmm" #first "\n\t"   \
    "vfmadd213ps 128*" #r "+64(%[out]), %%zmm30, %%zmm" #second "\n\t" \
    "vmovaps %%zmm" #first ", 128*" #r "(%[out])\n\t"                \
    "vmovaps %%zmm" #second ", 128*" #r "+64(%[out])\n\t"            \
    ".endif\n\t"

#define REGISTERS                                                                                            \
    "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",   \
        "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30"

namespace {

template <int ROWS>
__attribute__((noinline)) void fast_rows(const unsigned char* a, const unsigned char* w, long chunks, int* sums) {
    asm volatile(EACH_ROW(CLEAR)
                 ".p2align 5\n"
                 "1:\n\t"
                 STEPS
                 "addq $896, %[a]\n\t"
                 "addq $2048, %[w]\n\t"
                 "decq %[chunks]\n\t"
                 "jnz 1b\n\t"
                 EACH_ROW(KEEP)
                 : [a] "+r"(a), [w] "+r"(w), [chunks] "+r"(chunks)
                 : [sums] "r"(sums), [rows] "i"(ROWS)
                 : REGISTERS);
}

template <int ROWS>
__attribute__((noinline)) void group_rows(const unsigned char* a, const unsigned char* w, long chunks, float* out) {
    asm volatile(".p2align 5\n"
                 "1:\n\t"
                 "vmovdqa64 2048(%[w]), %%zmm28\n\t"
                 "vmovdqa64 2112(%[w]), %%zmm29\n\t"
                 EACH_ROW(CORRECT)
                 STEPS
                 "vmovaps 2176(%[w]), %%zmm28\n\t"
                 "vmovaps 2240(%[w]), %%zmm29\n\t"
                 EACH_ROW(SCALE)
                 "addq $1024, %[a]\n\t"
                 "addq $2304, %[w]\n\t"
                 "decq %[chunks]\n\t"
                 "jnz 1b\n\t"
                 : [a] "+r"(a), [w] "+r"(w), [chunks] "+r"(chunks)
                 : [out] "r"(out), [rows] "i"(ROWS)
                 : REGISTERS);
}

struct Avx512VnniTile {
    static constexpr int SHIFT = 0;

    static void fast(const unsigned char* a, const unsigned char* w, long chunks, int rows, int* sums) {
        static constexpr decltype(&fast_rows<1>) of[] = {
            fast_rows<1>, fast_rows<2>, fast_rows<3>,  fast_rows<4>,  fast_rows<5>,  fast_rows<6>,  fast_rows<7>,
            fast_rows<8>, fast_rows<9>, fast_rows<10>, fast_rows<11>, fast_rows<12>, fast_rows<13>, fast_rows<14>};
        of[rows - 1](a, w, chunks, sums);
    }

    static void groups(const unsigned char* a, const unsigned char* w, long chunks, int rows, float* out) {
        static constexpr decltype(&group_rows<1>) of[] = {
            group_rows<1>, group_rows<2>, group_rows<3>,  group_rows<4>,  group_rows<5>,  group_rows<6>,  group_rows<7>,
            group_rows<8>, group_rows<9>, group_rows<10>, group_rows<11>, group_rows<12>, group_rows<13>, group_rows<14>};
        for (int i = 0; i < rows * PANEL; i++) out[i] = 0.0f;
        of[rows - 1](a, w, chunks, out);
    }
};

}  // namespace

#undef ROW
#undef STEP
#undef STEPS
#undef EACH_ROW
#undef CLEAR
#undef KEEP
#undef CORRECT
#undef SCALE
#undef REGISTERS
