// The AVX-512 register tile in assembly: 14 rows by 2 registers of 16 outputs, 28 sums in registers. Included by a
// tile, which defines MULTIPLY, the instruction that multiplies and adds, and AHEAD, the bytes that weights are
// called ahead; behind the tile, tile_avx512_end.h takes all names back.
//
// zmm0..27 are the sums, row by row; 28 and 29 the weights of a step's inputs; 30 the same inputs of one row.
// Operands: rows, how many of the 14 there are; a, the activations; w, the weights; sums, where KEEP puts the sums.

#define ROW(r, first, second, step)                                  \
    ".if %c[rows] > " #r "\n\t"                                      \
    "vpbroadcastd 64*" #r "+4*" #step "(%[a]), %%zmm30\n\t"          \
    MULTIPLY " %%zmm28, %%zmm30, %%zmm" #first "\n\t"                 \
    MULTIPLY " %%zmm29, %%zmm30, %%zmm" #second "\n\t"                \
    ".endif\n\t"

// Weights come from the second cache: they are called AHEAD of their use.
#define STEP(s)                                                                                              \
    "prefetcht0 " AHEAD "+128*" #s "(%[w])\n\t"                                                                   \
    "prefetcht0 " AHEAD "+128*" #s "+64(%[w])\n\t"                                                                \
    "vmovdqa64 128*" #s "(%[w]), %%zmm28\n\t"                                                                \
    "vmovdqa64 128*" #s "+64(%[w]), %%zmm29\n\t"                                                             \
    ROW(0, 0, 1, s) ROW(1, 2, 3, s) ROW(2, 4, 5, s) ROW(3, 6, 7, s) ROW(4, 8, 9, s) ROW(5, 10, 11, s)        \
    ROW(6, 12, 13, s) ROW(7, 14, 15, s) ROW(8, 16, 17, s) ROW(9, 18, 19, s) ROW(10, 20, 21, s)               \
    ROW(11, 22, 23, s) ROW(12, 24, 25, s) ROW(13, 26, 27, s)

// All inputs that lie together.
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

#define REGISTERS                                                                                            \
    "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",   \
        "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30"
