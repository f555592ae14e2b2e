// Runs the float16 products of this processor's level on random and awkward shapes and values, and holds them to
// the scalar level bit for bit. Buffers are as large as promised and not a byte larger.
//
// An x86 processor that has AVX-512 but not its FP16 part runs the level's own machine code as well: the one
// instruction that it lacks, vfmadd231ph, raises a signal, and is computed there in whole numbers of 2^-48.
// Prints a line; exits with 1 at the first difference.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checking.h"
#include "levels.h"
#include "matmul_job.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>
#endif

extern "C" unsigned long tercet_levels(void);

static void fill(float* values, long count, int kind) {
    for (long i = 0; i < count; i++) {
        float value = uniform();
        if (kind == 1) value = 3.0f;
        if (kind == 2) value = next() % 2 ? 0.0f : -0.0f;
        if (kind == 3) value = value * 1e30f;
        if (kind == 4) value = value * 1e-4f;
        if (kind == 5) value = value * 6e-8f;
        if (kind == 6 && next() % 50 == 0) value *= 70000.0f;
        if (kind == 7 && next() % 200 == 0) value = next() % 2 ? NAN : -INFINITY;
        values[i] = value;
    }
}

static void fill_weight(unsigned char* to, long in, long out) {
    const int kind = static_cast<int>(between(0, 3));
    for (long panel = 0; panel < (out + 31) / 32; panel++)
        for (long k = 0; k < (in + 31) / 32 * 32; k++)
            for (long j = 0; j < 32; j++) {
                // Of any size, near 1, smaller than any normal number, or the largest.
                unsigned value = next() & 0xffff;
                if ((value & 0x7c00) == 0x7c00) value &= 0xbfff;
                if (kind == 1) value = (value & 0x83ff) | 0x3800;
                if (kind == 2) value &= 0x83ff;
                if (kind == 3) value = (value & 0x8000) | 0x7bff;
                if (k >= in || panel * 32 + j >= out) value = 0;
                const unsigned short bits = static_cast<unsigned short>(value);
                memcpy(to + ((panel * ((in + 31) / 32 * 32) + k / 2 * 2) * 32 + 2 * j + k % 2) * 2, &bits, 2);
            }
}

static long panels_bytes(long in, long out) { return (out + 31) / 32 * 64 * ((in + 31) / 32 * 32); }

static bool differ(const float* found, const float* expected, long count) {
    for (long i = 0; i < count; i++)
        if (memcmp(found + i, expected + i, sizeof(float)) != 0 && !(isnan(found[i]) && isnan(expected[i]))) {
            printf("number %ld: %.9g, expected %.9g\n", i, static_cast<double>(found[i]), static_cast<double>(expected[i]));
            return true;
        }
    return false;
}

static int check(void (*run)(MatmulJob&), int turns) {
    static const long sides[] = {1, 2, 3, 13, 14, 15, 31, 32, 33, 63, 64, 65, 97, 127, 128, 131, 257};
    constexpr int count = sizeof sides / sizeof *sides;
    long finite = 0;
    for (int turn = 0; turn < turns; turn++) {
        const long in = sides[between(0, count - 1)], out = sides[between(0, count - 1)], rows = sides[between(0, 11)];
        const int kind = static_cast<int>(between(0, 7));
        Buffer x(rows * in * 4), found(rows * out * 4), expected(rows * out * 4), weight(panels_bytes(in, out));
        fill(x.floats(), rows * in, kind);
        fill_weight(weight.bytes, in, out);
        for (int side = 0; side < 2; side++) {
            Buffer& y = side ? found : expected;
            MatmulJob job = {x.floats(), in, rows, {{weight.bytes, nullptr, in, out, false}, {}}, 1,
                             nullptr, 0, y.floats(), out, 1, 0};
            (side ? run : float16_scalar::run)(job);
        }
        for (long i = 0; i < rows * out; i++) finite += isfinite(expected.floats()[i]) && expected.floats()[i] != 0;
        if (differ(found.floats(), expected.floats(), rows * out)) {
            printf("rows %ld, in %ld, out %ld, values of kind %d\n", rows, in, out, kind);
            return 1;
        }
    }
    printf("%d products agree, %ld finite numbers\n", turns, finite);
    return finite > 1000 ? 0 : 1;
}

#if defined(__x86_64__)
static long trapped = 0;

// Bits of float16 as a whole number of 2^-24.
static __int128 whole(unsigned half) {
    const int exponent = half >> 10 & 31;
    const __int128 size = exponent ? static_cast<__int128>(1024 + (half & 1023)) << (exponent - 1) : half & 1023;
    return half & 0x8000 ? -size : size;
}

// A whole number of 2^-48 to the nearest float16, half to even.
static unsigned rounded(__int128 value) {
    const unsigned sign = value < 0 ? 0x8000 : 0;
    unsigned __int128 size = value < 0 ? -value : value;
    int shift = 24;
    while (size >> shift >= 2048) shift++;
    unsigned long kept = static_cast<unsigned long>(size >> shift);
    const unsigned __int128 rest = size - (static_cast<unsigned __int128>(kept) << shift), half = static_cast<unsigned __int128>(1) << (shift - 1);
    if (rest > half || (rest == half && kept % 2)) kept++;
    // A mantissa of 11 bits carries into the exponent.
    const unsigned long bits = kept + (static_cast<unsigned long>(shift - 24) << 10);
    return sign | (bits < 0x7c00 ? static_cast<unsigned>(bits) : 0x7c00);
}

static bool is_number(unsigned half) { return (half & 0x7c00) != 0x7c00; }

static unsigned fused(unsigned a, unsigned b, unsigned c) {
    if (is_number(a) && is_number(b) && is_number(c)) return rounded(whole(a) * whole(b) + whole(c) * (1 << 24));
    const auto value = [](unsigned half) {
        if (is_number(half)) return static_cast<double>(whole(half));
        return half & 1023 ? static_cast<double>(NAN) : half & 0x8000 ? -static_cast<double>(INFINITY) : static_cast<double>(INFINITY);
    };
    const double result = value(a) * value(b) + value(c);
    return isnan(result) ? 0x7e00 : result < 0 ? 0xfc00 : 0x7c00;
}

// The parts of a register of 512 bits as a signal frame holds them (Intel's manual, volume 1, chapter 13).
struct Frame {
    unsigned char* area;
    unsigned high128, high256, upper;

    explicit Frame(void* context) : area(reinterpret_cast<unsigned char*>(static_cast<ucontext_t*>(context)->uc_mcontext.fpregs)) {
        unsigned size, c, d;
        __get_cpuid_count(13, 2, &size, &high128, &c, &d);
        __get_cpuid_count(13, 6, &size, &high256, &c, &d);
        __get_cpuid_count(13, 7, &size, &upper, &c, &d);
    }

    unsigned char* byte(int number, int at) const {
        if (number >= 16) return area + upper + (number - 16) * 64 + at;
        if (at < 16) return area + 160 + number * 16 + at;
        if (at < 32) return area + high128 + number * 16 + at - 16;
        return area + high256 + number * 32 + at - 32;
    }
};

// vfmadd231ph of registers of 512 bits without a mask: EVEX.512.66.MAP6.W0 B8 /r.
static void imitate(int, siginfo_t*, void* context) {
    greg_t& place = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
    const unsigned char* code = reinterpret_cast<const unsigned char*>(place);
    const bool known = code[0] == 0x62 && (code[1] & 0xf) == 6 && (code[2] & 0x87) == 5 && (code[3] & 0xf7) == 0x40 &&
                       code[4] == 0xb8 && code[5] >> 6 == 3;
    if (!known) {
        static const char told[] = "an instruction that this processor lacks, and not vfmadd231ph\n";
        fwrite(told, 1, sizeof told - 1, stderr);
        _exit(3);
    }
    const int to = (code[5] >> 3 & 7) | (~code[1] >> 4 & 8) | (~code[1] & 16);
    const int left = (~code[2] >> 3 & 15) | ((~code[3] & 8) << 1);
    const int right = (code[5] & 7) | (~code[1] >> 2 & 8) | (~code[1] >> 2 & 16);
    const Frame frame(context);
    for (int at = 0; at < 64; at += 2) {
        unsigned short a, b, c;
        memcpy(&a, frame.byte(left, at), 2);
        memcpy(&b, frame.byte(right, at), 2);
        memcpy(&c, frame.byte(to, at), 2);
        c = static_cast<unsigned short>(fused(a, b, c));
        memcpy(frame.byte(to, at), &c, 2);
    }
    frame.area[512] |= 0xe6;  // these parts are in use, whatever they were before
    place += 6;
    trapped++;
}
#endif

int main(int count, char** arguments) {
    const int turns = count > 1 ? atoi(arguments[1]) : 60;
    const unsigned long here = tercet_levels();
    (void)here;
#if defined(__x86_64__)
    if (!(here >> LEVEL_AVX512 & 1)) {
        printf("no AVX-512 here\n");
        return 0;
    }
    if (!(here >> LEVEL_AVX512_FP16 & 1)) {
        struct sigaction action = {};
        action.sa_sigaction = imitate;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGILL, &action, nullptr);
    }
    const int failed = check(float16_avx512_fp16::run, turns);
    printf("%ld instructions imitated\n", trapped);
    return failed;
#elif defined(__aarch64__)
    if (!(here >> LEVEL_NEON_FP16 & 1)) {
        printf("no FP16 here\n");
        return 1;
    }
    return check(float16_neon_fp16::run, turns);
#endif
}
