// Runs the int8 products of every instruction level that this processor (or its emulator) has on random and
// awkward shapes and values, and holds them to the scalar level. Buffers are as large as promised and not a byte
// larger, so that built with -fsanitize=address,undefined a read or write past one is found.
// Prints a line a level; exits with 1 at the first difference.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thread>
#include <vector>

#include "checking.h"
#include "levels.h"

extern "C" {
void tercet_use_threads(void* parallel, void* number, void* size);
unsigned long tercet_levels(void);
int tercet_linear(const float* x, long x_step, long rows, const unsigned char* weight, long in, long out, const float* bias,
                  int gelu, const float* residual, long residual_step, float* y, long y_step, int scheme, int threads, int level);
int tercet_feed_forward(const float* x, long x_step, long rows, const unsigned char* up, const float* up_bias,
                        const unsigned char* down, const float* down_bias, long in, long between, long out,
                        const float* residual, long residual_step, float* y, long y_step, int scheme, int threads, int level);
int tercet_layer_end(const float* x, long x_step, long rows, long width, long between, const unsigned char* out,
                     const float* out_bias, const unsigned char* up, const float* up_bias, const unsigned char* down,
                     const float* down_bias, const float* first_weight, const float* first_bias, float first_epsilon,
                     const float* second_weight, const float* second_bias, float second_epsilon, const float* residual,
                     long residual_step, float* y, long y_step, int scheme, int threads, int level, int norm_level);
int tercet_layer_norm(const float* x, long x_step, long rows, long width, const float* weight, const float* bias,
                      float epsilon, float* y, long y_step, int threads, int level);
}

// A team of threads, in the place of an OpenMP runtime.
static thread_local int thread_number = 0;
static int team = 1;

static int number_of_thread() { return thread_number; }
static int size_of_team() { return team; }

static void run_team(void (*body)(void*), void* data, unsigned threads, unsigned) {
    std::vector<std::thread> others;
    team = static_cast<int>(threads);
    for (int i = 1; i < team; i++)
        others.emplace_back([=] {
            thread_number = i;
            body(data);
        });
    body(data);
    for (std::thread& other : others) other.join();
}

static void fill(float* values, long count, int kind) {
    for (long i = 0; i < count; i++) {
        float value = uniform();
        if (kind == 1) value = 3.0f;
        if (kind == 2) value = 0.0f;
        if (kind == 3) value = value * 1e30f;
        if (kind == 4) value = value * 1e-38f;
        if (kind == 5 && next() % 50 == 0) value *= 1000.0f;
        if (kind == 6 && next() % 200 == 0) value = NAN;
        if (kind == 7 && next() % 200 == 0) value = -INFINITY;
        values[i] = value;
    }
}

static long panels_bytes(long in, long out, bool groups) {
    const long chunks = (in + 63) / 64;
    return (out + 31) / 32 * 32 * (groups ? chunks * 72 : chunks * 64 + 8);
}

// A packed weight of random values, with their true sums; at times all of them at the edge.
static void fill_weight(unsigned char* to, long in, long out, bool groups) {
    const long chunks = (in + 63) / 64;
    const int kind = static_cast<int>(between(0, 3));
    for (long panel = 0; panel < (out + 31) / 32; panel++) {
        int total[32] = {};
        float scales[32];
        for (long c = 0; c < chunks; c++) {
            int sums[32] = {};
            for (int k = 0; k < 64; k++)
                for (int j = 0; j < 32; j++) {
                    int value = kind == 0 ? 127 : kind == 1 ? -127 : static_cast<int>(between(-127, 127));
                    if (c * 64 + k >= in || panel * 32 + j >= out) value = 0;
                    to[k / 4 * 128 + j * 4 + k % 4] = static_cast<unsigned char>(static_cast<signed char>(value));
                    sums[j] += value;
                }
            to += 2048;
            for (int j = 0; j < 32; j++) {
                total[j] += sums[j];
                scales[j] = 0.01f + 0.01f * (uniform() + 1.0f);
                sums[j] = -sums[j] & 0xffff;
            }
            if (groups) {
                memcpy(to, sums, 128);
                memcpy(to + 128, scales, 128);
                to += 256;
            }
        }
        if (!groups) {
            memcpy(to, total, 128);
            memcpy(to + 128, scales, 128);
            to += 256;
        }
    }
}

// Where two results differ by more than a share of the row's largest value.
static bool differ(const float* found, const float* expected, long rows, long out, long step, float share) {
    for (long r = 0; r < rows; r++) {
        float largest = 1e-30f;
        for (long j = 0; j < out; j++) {
            const float size = fabsf(expected[r * step + j]);
            if (isfinite(size) && size > largest) largest = size;
        }
        for (long j = 0; j < out; j++) {
            const float a = found[r * step + j], b = expected[r * step + j];
            if (isfinite(a) != isfinite(b) || (isfinite(b) && fabsf(a - b) > share * largest)) {
                printf("row %ld output %ld: %.9g, expected %.9g\n", r, j, static_cast<double>(a), static_cast<double>(b));
                return true;
            }
        }
    }
    return false;
}

static int check(int level, int turns) {
    static const long sides[] = {1, 2, 3, 13, 14, 15, 31, 32, 33, 63, 64, 65, 97, 127, 128, 131, 257};
    constexpr int count = sizeof sides / sizeof *sides;
    for (int turn = 0; turn < turns; turn++) {
        const bool many = turn % 25 == 7;  // so many rows that threads take blocks of them
        const int largest = many ? 11 : count - 1;
        const long in = sides[between(0, largest)], out = sides[between(0, largest)], last = sides[between(0, largest)];
        const long rows = many ? between(3600, 3700) : turn % 10 == 0 ? 0 : sides[between(0, 12)];
        const bool groups = next() % 2, gelu = next() % 2, biased = next() % 2, added = next() % 2, two = next() % 3 == 0;
        const long width = two ? last : out, x_step = in + between(0, 3), step = width + between(0, 3);
        const int kind = static_cast<int>(between(0, 7));
        // The last row of a buffer ends with its last value.
        Buffer x(rows ? ((rows - 1) * x_step + in) * 4 : 0), residual(rows ? ((rows - 1) * step + width) * 4 : 0);
        Buffer found(rows ? ((rows - 1) * step + width) * 4 : 0), expected(rows ? ((rows - 1) * step + width) * 4 : 0);
        Buffer bias(out * 4), down_bias(last * 4);
        Buffer weight(panels_bytes(in, out, groups)), down(panels_bytes(out, last, groups));
        if (rows) {
            fill(x.floats(), (rows - 1) * x_step + in, kind);
            fill(residual.floats(), (rows - 1) * step + width, 0);
        }
        fill(bias.floats(), out, 0);
        fill(down_bias.floats(), last, 0);
        fill_weight(weight.bytes, in, out, groups);
        fill_weight(down.bytes, out, last, groups);
        for (int side = 0; side < 2; side++) {
            float* y = side ? found.floats() : expected.floats();
            const int at = side ? level : LEVEL_SCALAR;
            const float *b = biased ? bias.floats() : nullptr, *r = added ? residual.floats() : nullptr;
            const int status =
                two ? tercet_feed_forward(x.floats(), x_step, rows, weight.bytes, b, down.bytes, biased ? down_bias.floats() : nullptr,
                                          in, out, last, r, step, y, step, groups, 1 + turn % 3, at)
                    : tercet_linear(x.floats(), x_step, rows, weight.bytes, in, out, b, gelu, r, step, y, step, groups, 1 + turn % 3, at);
            if (status != 0) {
                printf("level %d: status %d\n", at, status);
                return 1;
            }
        }
        // Between two layers a value may round to the next integer, where its float differs in the last bit.
        if (differ(found.floats(), expected.floats(), rows, width, step, two ? 2e-2f : 4e-6f)) {
            printf("level %d, %s, rows %ld, in %ld, out %ld, values of kind %d\n", level, groups ? "int8" : "int8-fast", rows, in, out, kind);
            return 1;
        }
    }
    printf("level %d: %d products agree\n", level, turns);
    return 0;
}

// The end of a layer, in one against by its parts: not a bit may differ.
static int check_end(int level, int turns) {
    static const long sides[] = {3, 13, 31, 32, 33, 64, 97, 131};
    for (int turn = 0; turn < turns; turn++) {
        const long width = sides[between(0, 7)], inner = sides[between(0, 7)], step = width + between(0, 3);
        const long rows = turn % 25 == 7 ? between(900, 1000) : between(0, 90), whole = rows ? (rows - 1) * step + width : 0;
        const bool groups = next() % 2;
        const int threads = 1 + turn % 3;
        Buffer x(whole * 4), residual(whole * 4), found(whole * 4), hidden(whole * 4), expected(whole * 4);
        Buffer out(panels_bytes(width, width, groups)), up(panels_bytes(width, inner, groups)), down(panels_bytes(inner, width, groups));
        Buffer out_bias(width * 4), up_bias(inner * 4), down_bias(width * 4), scale(width * 4), shift(width * 4);
        fill(x.floats(), whole, 0);
        fill(residual.floats(), whole, 0);
        for (Buffer* bias : {&out_bias, &down_bias, &scale, &shift}) fill(bias->floats(), width, 0);
        fill(up_bias.floats(), inner, 0);
        fill_weight(out.bytes, width, width, groups);
        fill_weight(up.bytes, width, inner, groups);
        fill_weight(down.bytes, inner, width, groups);
        const float *w = scale.floats(), *b = shift.floats();
        int status = tercet_layer_end(x.floats(), step, rows, width, inner, out.bytes, out_bias.floats(), up.bytes, up_bias.floats(),
                                      down.bytes, down_bias.floats(), w, b, 1e-5f, w, b, 1e-12f, residual.floats(), step,
                                      found.floats(), step, groups, threads, level, LEVEL_SCALAR);
        status += tercet_linear(x.floats(), step, rows, out.bytes, width, width, out_bias.floats(), 0, residual.floats(), step,
                                hidden.floats(), step, groups, threads, level);
        status += tercet_layer_norm(hidden.floats(), step, rows, width, w, b, 1e-5f, hidden.floats(), step, threads, LEVEL_SCALAR);
        status += tercet_feed_forward(hidden.floats(), step, rows, up.bytes, up_bias.floats(), down.bytes, down_bias.floats(), width,
                                      inner, width, hidden.floats(), step, expected.floats(), step, groups, threads, level);
        status += tercet_layer_norm(expected.floats(), step, rows, width, w, b, 1e-12f, expected.floats(), step, threads, LEVEL_SCALAR);
        if (status != 0) {
            printf("level %d: status %d of the end of a layer\n", level, status);
            return 1;
        }
        for (long r = 0; r < rows; r++)
            if (memcmp(found.floats() + r * step, expected.floats() + r * step, width * 4) != 0) {
                printf("level %d, %s, row %ld of %ld, width %ld, inner %ld: not the bits of its parts\n", level,
                       groups ? "int8" : "int8-fast", r, rows, width, inner);
                return 1;
            }
    }
    printf("level %d: %d ends of layers agree\n", level, turns);
    return 0;
}

int main(int count, char** arguments) {
    const int turns = count > 1 ? atoi(arguments[1]) : 200;
    tercet_use_threads(reinterpret_cast<void*>(run_team), reinterpret_cast<void*>(number_of_thread),
                       reinterpret_cast<void*>(size_of_team));
    static const int levels[] = {LEVEL_SCALAR, LEVEL_AVX2, LEVEL_AVX_VNNI, LEVEL_AVX512_VNNI, LEVEL_AMX_INT8, LEVEL_NEON, LEVEL_NEON_DOT};
    for (int level : levels)
        if (tercet_levels() >> level & 1 && (check(level, turns) || check_end(level, turns / 4))) return 1;
    return 0;
}
