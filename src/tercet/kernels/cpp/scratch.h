#pragma once

#include <stdlib.h>

namespace {

// Memory that a thread keeps from call to call, so that its pages are not asked for again each time.
class Scratch {
public:
    ~Scratch() { free(memory_); }

    // At least `bytes`, 64-byte aligned; null where there is no memory.
    unsigned char* of(long bytes) {
        if (bytes > size_) {
            free(memory_);
            memory_ = nullptr;
            size_ = 0;
            if (posix_memalign(&memory_, 64, bytes) != 0) return nullptr;
            size_ = bytes;
        }
        return static_cast<unsigned char*>(memory_);
    }

    float* floats(long count) { return reinterpret_cast<float*>(of(count * static_cast<long>(sizeof(float)))); }

private:
    void* memory_ = nullptr;
    long size_ = 0;
};

}  // namespace
