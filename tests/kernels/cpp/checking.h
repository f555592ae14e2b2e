// What the check programs draw their numbers from and keep them in.
#pragma once

#include <stdlib.h>

static unsigned long long state = 88172645463325252ull;

static unsigned next() {  // xorshift64 (Marsaglia 2003)
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<unsigned>(state >> 32);
}

static long between(long least, long most) { return least + static_cast<long>(next() % static_cast<unsigned>(most - least + 1)); }
static float uniform() { return static_cast<float>(next()) / 2147483648.0f - 1.0f; }

// 64-byte aligned memory whose end is the end of the allocation.
struct Buffer {
    unsigned char* bytes = nullptr;
    explicit Buffer(long size) {
        if (size > 0 && posix_memalign(reinterpret_cast<void**>(&bytes), 64, size) != 0) abort();
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() { free(bytes); }
    float* floats() const { return reinterpret_cast<float*>(bytes); }
};
