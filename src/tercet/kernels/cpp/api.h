#pragma once

// A function of the C ABI; everything else stays inside the library.
#define EXPORT extern "C" __attribute__((visibility("default")))
