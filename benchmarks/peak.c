/* The most that this chip's multiply-add instructions do, from registers alone: one JSON line, GFLOP/s by dtype.
 *
 *     cc -O2 -march=native -pthread peak.c -o peak && ./peak THREADS
 *
 * Each loop keeps 12 independent accumulators, more than the latency of two units needs. What the compiler's
 * -march=native does not have is left out.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ACCUMULATORS 12
#define STEPS 40000000L
#define MOST_THREADS 512

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* VECTOR: type; ZERO and ONE: values; MULTIPLY_ADD(acc, a, b). The empty asm keeps each value in its register. */
#define LOOP(name, VECTOR, ACCUMULATOR, ZERO, ONE, MULTIPLY_ADD)                                       \
    static void *name(void *out) {                                                                     \
        ACCUMULATOR acc[ACCUMULATORS];                                                                 \
        VECTOR a = ONE, b = ONE;                                                                       \
        for (int i = 0; i < ACCUMULATORS; i++) acc[i] = ZERO;                                          \
        for (long step = 0; step < STEPS; step++) {                                                    \
            _Pragma("GCC unroll 12") for (int i = 0; i < ACCUMULATORS; i++) {                          \
                acc[i] = MULTIPLY_ADD(acc[i], a, b);                                                   \
            }                                                                                          \
            __asm__ volatile("" : KEEP(a), KEEP(b));                                                   \
        }                                                                                              \
        memcpy(out, acc, sizeof acc[0]);                                                               \
        for (int i = 1; i < ACCUMULATORS; i++) __asm__ volatile("" ::KEEP_IN(acc[i]));                 \
        return NULL;                                                                                   \
    }

#if defined(__x86_64__)
#include <immintrin.h>
#define KEEP(v) "+v"(v)
#define KEEP_IN(v) "v"(v)
#if !defined(__AVX512F__)
#undef KEEP
#undef KEEP_IN
#define KEEP(v) "+x"(v)
#define KEEP_IN(v) "x"(v)
#endif
#if defined(__AVX512F__)
#define F32(acc, a, b) _mm512_fmadd_ps(a, b, acc)
LOOP(float32, __m512, __m512, _mm512_setzero_ps(), _mm512_set1_ps(1e-9f), F32)
#define F64(acc, a, b) _mm512_fmadd_pd(a, b, acc)
LOOP(float64, __m512d, __m512d, _mm512_setzero_pd(), _mm512_set1_pd(1e-9), F64)
#define FLOAT32_FLOPS 32
#elif defined(__FMA__)
#define F32(acc, a, b) _mm256_fmadd_ps(a, b, acc)
LOOP(float32, __m256, __m256, _mm256_setzero_ps(), _mm256_set1_ps(1e-9f), F32)
#define F64(acc, a, b) _mm256_fmadd_pd(a, b, acc)
LOOP(float64, __m256d, __m256d, _mm256_setzero_pd(), _mm256_set1_pd(1e-9), F64)
#define FLOAT32_FLOPS 16
#endif
#if defined(__AVX512BF16__)
#define BF16(acc, a, b) _mm512_dpbf16_ps(acc, (__m512bh)(a), (__m512bh)(b))
LOOP(bfloat16, __m512i, __m512, _mm512_setzero_ps(), _mm512_set1_epi16(0x3000), BF16)
#endif
#if defined(__AVX512FP16__)
#define F16(acc, a, b) _mm512_fmadd_ph(a, b, acc)
LOOP(float16, __m512h, __m512h, _mm512_setzero_ph(), _mm512_castsi512_ph(_mm512_set1_epi16(0x1400)), F16)
#endif
#if defined(__AVX512VNNI__)
#define I8(acc, a, b) _mm512_dpbusd_epi32(acc, a, b)
LOOP(int8, __m512i, __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1), I8)
#define INT8_FLOPS 128
#elif defined(__AVXVNNI__)
#define I8(acc, a, b) _mm256_dpbusd_avx_epi32(acc, a, b)
LOOP(int8, __m256i, __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(1), I8)
#define INT8_FLOPS 64
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#define KEEP(v) "+w"(v)
#define KEEP_IN(v) "w"(v)
#define F32(acc, a, b) vfmaq_f32(acc, a, b)
LOOP(float32, float32x4_t, float32x4_t, vdupq_n_f32(0), vdupq_n_f32(1e-9f), F32)
#define F64(acc, a, b) vfmaq_f64(acc, a, b)
LOOP(float64, float64x2_t, float64x2_t, vdupq_n_f64(0), vdupq_n_f64(1e-9), F64)
#define FLOAT32_FLOPS 8
#if defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#define F16(acc, a, b) vfmaq_f16(acc, a, b)
LOOP(float16, float16x8_t, float16x8_t, vdupq_n_f16(0), vdupq_n_f16(0), F16)
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define BF16(acc, a, b) vbfmmlaq_f32(acc, a, b)
LOOP(bfloat16, bfloat16x8_t, float32x4_t, vdupq_n_f32(0), vdupq_n_bf16(0), BF16)
#define BFLOAT16_FLOPS 32
#endif
#if defined(__ARM_FEATURE_DOTPROD)
#define I8(acc, a, b) vdotq_s32(acc, a, b)
LOOP(int8, int8x16_t, int32x4_t, vdupq_n_s32(0), vdupq_n_s8(1), I8)
#define INT8_FLOPS 32
#endif
#endif

/* GFLOP/s of one loop on so many threads at once: the best of five. */
static double measure(void *(*loop)(void *), int flops, int threads) {
    static char out[MOST_THREADS][64];
    pthread_t id[MOST_THREADS];
    double best = 0;
    for (int attempt = 0; attempt < 5; attempt++) {
        double started = now();
        for (int i = 0; i < threads; i++) pthread_create(&id[i], NULL, loop, out[i]);
        for (int i = 0; i < threads; i++) pthread_join(id[i], NULL);
        double rate = (double)threads * STEPS * ACCUMULATORS * flops / (now() - started) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1) threads = 1;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    const char *comma = "";
    printf("{");
#define PRINT(name, flops) printf("%s\"" #name "\": %.1f", comma, measure(name, flops, threads)), comma = ", "
#if defined(FLOAT32_FLOPS)
    PRINT(float64, FLOAT32_FLOPS / 2);
    PRINT(float32, FLOAT32_FLOPS);
#endif
#if defined(BF16) && defined(BFLOAT16_FLOPS)
    PRINT(bfloat16, BFLOAT16_FLOPS);
#elif defined(BF16)
    PRINT(bfloat16, FLOAT32_FLOPS * 2);
#endif
#if defined(F16)
    PRINT(float16, FLOAT32_FLOPS * 2);
#endif
#if defined(I8)
    PRINT(int8, INT8_FLOPS);
#endif
    printf("}\n");
    return 0;
}
