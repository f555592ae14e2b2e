// Sums of int8 products in plain C++: what every other level is held to.
#pragma once

#include "matmul_job.h"

namespace {

struct PlainChunk {
    static constexpr int SHIFT = 0;

    static void add(const unsigned char* a, const signed char* w, int rows, int* sums) {
        for (int r = 0; r < rows; r++)
            for (int k = 0; k < CHUNK; k++)
                for (int j = 0; j < PANEL; j++)
                    sums[r * PANEL + j] += a[r * CHUNK + k] * w[k / 4 * 4 * PANEL + j * 4 + k % 4];
    }
};

}  // namespace
