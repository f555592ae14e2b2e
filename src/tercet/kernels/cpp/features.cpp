// What this processor, and the system on it, can run.
#include "api.h"
#include "levels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace {
unsigned long bit(Level level) { return 1ul << level; }

#if defined(__x86_64__)
unsigned long long enabled_state() {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<unsigned long long>(high) << 32) | low;
}

// Linux gives a process the tile registers only when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool tiles_permitted() {
#if defined(__linux__)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}

unsigned long x86_levels() {
    unsigned a, b, c, d;
    unsigned long found = bit(LEVEL_SCALAR);
    if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
    const bool saves = c & (1u << 27), fma = c & (1u << 12), half = c & (1u << 29);
    if (!saves || !fma || !half) return found;
    const unsigned long long state = enabled_state();
    if ((state & 0x6) != 0x6) return found;  // SSE and AVX registers are kept by the system
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & (1u << 5))) return found;
    found |= bit(LEVEL_AVX2);
    unsigned a1 = 0, b1 = 0, c1 = 0, d1 = 0;
    if (a >= 1) __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
    if (a1 & (1u << 4)) found |= bit(LEVEL_AVX_VNNI);
    const unsigned wide = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
    if ((b & wide) != wide || (state & 0xe6) != 0xe6) return found;
    found |= bit(LEVEL_AVX512);
    if (!(c & (1u << 11))) return found;
    found |= bit(LEVEL_AVX512_VNNI);
    if (a1 & (1u << 5)) found |= bit(LEVEL_AVX512_BF16);
    if (d & (1u << 23)) found |= bit(LEVEL_AVX512_FP16);
    const bool tiles = (d & (1u << 24)) && (d & (1u << 25)) && (state & 0x60000) == 0x60000;
    if (tiles && tiles_permitted()) found |= bit(LEVEL_AMX_INT8);
    return found;
}

// The levels that setup.py left out, since the compiler does not know them; others build on none of these.
unsigned long left_out() {
    unsigned long levels = 0;
#if defined(TERCET_WITHOUT_AVX_VNNI)
    levels |= bit(LEVEL_AVX_VNNI);
#endif
#if defined(TERCET_WITHOUT_AVX512_BF16)
    levels |= bit(LEVEL_AVX512_BF16);
#endif
#if defined(TERCET_WITHOUT_AVX512_FP16)
    levels |= bit(LEVEL_AVX512_FP16);
#endif
#if defined(TERCET_WITHOUT_AMX_INT8)
    levels |= bit(LEVEL_AMX_INT8);
#endif
    return levels;
}
#endif

#if defined(__aarch64__)
unsigned long arm_levels() {
    unsigned long found = bit(LEVEL_SCALAR) | bit(LEVEL_NEON);
#if defined(__linux__)
    const unsigned long has = getauxval(AT_HWCAP);
    if (has & (1ul << 20)) {  // HWCAP_ASIMDDP
        found |= bit(LEVEL_NEON_DOT);
        if (has & (1ul << 10)) found |= bit(LEVEL_NEON_FP16);  // HWCAP_ASIMDHP
    }
#elif defined(__APPLE__)
    found |= bit(LEVEL_NEON_DOT) | bit(LEVEL_NEON_FP16);  // every Apple chip that runs macOS on Arm
#endif
    return found;
}
#endif
}  // namespace

// One bit for each level that runs here.
EXPORT unsigned long tercet_levels(void) {
#if defined(__x86_64__)
    return x86_levels() & ~left_out();
#elif defined(__aarch64__)
    return arm_levels();
#else
    return bit(LEVEL_SCALAR);
#endif
}

// Raised with every change of the C ABI: a library that was left over from an older install is refused.
EXPORT int tercet_abi(void) { return 2; }
