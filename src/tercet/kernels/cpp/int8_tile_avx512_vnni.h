// Sums of int8 products with AVX512-VNNI: 14 rows by 2 registers of 16 outputs, 28 sums in registers.
//
// In assembly: compilers that schedule the intrinsics spill the sums (GCC 12 does), at a third of the speed.
// A step is 4 inputs of a chunk of 64; weights are called 4 chunks ahead.
#pragma once

#include "matmul_job.h"

#define MULTIPLY "vpdpbusd"
#define AHEAD "9216"
#include "tile_avx512.h"

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

#undef CORRECT
#undef SCALE
#include "tile_avx512_end.h"
