// Instruction levels: what a kernel was compiled for. Python chooses one at run time; the numbers are part of
// the C ABI and named again in native.py.
#pragma once

enum Level {
    LEVEL_SCALAR = 0,       // what every processor of the architecture has
    LEVEL_AVX2 = 1,         // AVX2, FMA, F16C
    LEVEL_AVX_VNNI = 2,     // ... and AVX-VNNI
    LEVEL_AVX512 = 3,       // AVX-512 F, BW, DQ, VL
    LEVEL_AVX512_VNNI = 4,  // ... and AVX512-VNNI
    LEVEL_AVX512_BF16 = 5,  // ... and AVX512-BF16
    LEVEL_AVX512_FP16 = 6,  // ... and AVX512-FP16
    LEVEL_AMX_INT8 = 7,     // ... and AMX-INT8
    LEVEL_NEON = 16,        // Advanced SIMD with FMA
    LEVEL_NEON_DOT = 17,    // ... and the dot product of Armv8.2
    LEVEL_NEON_FP16 = 18,   // ... and the half precision arithmetic of Armv8.2
};
