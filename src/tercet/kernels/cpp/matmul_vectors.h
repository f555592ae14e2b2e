// Vectors of LANES floats for the products: the same arithmetic, in the same order, at every instruction level.
// Products are fused with their sum explicitly, never by the compiler's leave, so that levels agree.
#pragma once

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 sees both in its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef unsigned char Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline Ints load(const int* from) { return *reinterpret_cast<const Ints*>(from); }
inline void store(float* to, Floats value) { *reinterpret_cast<Floats*>(to) = value; }
inline Floats all(float value) { return value - (Floats){}; }
inline Ints all(int value) { return value - (Ints){}; }
inline Floats floats(Ints value) { return __builtin_convertvector(value, Floats); }

#if defined(__AVX512F__) && LANES == 16
inline Floats fused(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline Floats lesser(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
inline Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
inline void store_past(float* to, Floats value) { _mm512_stream_ps(to, (__m512)value); }
inline void store_bytes(unsigned char* to, Ints value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8((__m512i)value));
}
#else
#if defined(__AVX2__) && LANES == 8
inline Floats fused(Floats a, Floats b, Floats c) { return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline Floats lesser(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
inline Floats larger(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
#else
#if defined(__aarch64__)
inline Floats fused(Floats a, Floats b, Floats c) { return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
// In float64 a product of floats is exact, so that this rounds like the others but in one case of 2^29.
inline Floats fused(Floats a, Floats b, Floats c) {
    for (int lane = 0; lane < LANES; lane++)
        c[lane] = static_cast<float>(static_cast<double>(a[lane]) * b[lane] + static_cast<double>(c[lane]));
    return c;
}
#endif
inline Floats lesser(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
#endif
// Past the caches where that is known to help; `to` is aligned.
inline void store_past(float* to, Floats value) { store(to, value); }
// Bytes of values from 0 upwards; what is above 255 becomes 255.
inline void store_bytes(unsigned char* to, Ints value) {
    value = value < all(255) ? value : all(255);
    *reinterpret_cast<Bytes*>(to) = __builtin_convertvector(value, Bytes);
}
#endif

#if defined(__AVX512F__) && LANES == 16
inline float smallest_of(Floats values) { return _mm512_reduce_min_ps((__m512)values); }
inline float largest_of(Floats values) { return _mm512_reduce_max_ps((__m512)values); }
inline bool any_nan(Floats values) { return _mm512_cmp_ps_mask((__m512)values, (__m512)values, _CMP_UNORD_Q) != 0; }
#else
inline float smallest_of(Floats values) {
    float found = values[0];
    for (int lane = 1; lane < LANES; lane++) found = values[lane] < found ? values[lane] : found;
    return found;
}

inline float largest_of(Floats values) {
    float found = values[0];
    for (int lane = 1; lane < LANES; lane++) found = values[lane] > found ? values[lane] : found;
    return found;
}

inline bool any_nan(Floats values) {
    bool found = false;
    for (int lane = 0; lane < LANES; lane++) found |= values[lane] != values[lane];
    return found;
}
#endif

constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: added to what is small, it rounds to an integer, half to even
constexpr int MAGIC_BITS = 0x4b400000;

// 2^x for -126 <= x <= 126, to 2e-7 of its value.
inline Floats power_of_two(Floats x) {
    const Floats shifted = x + all(MAGIC), rest = x - (shifted - all(MAGIC));
    Floats value = all(1.327640376985073e-3f);  // minimax of the relative error on |rest| <= 1/2
    value = fused(value, rest, all(9.67560987919569e-3f));
    value = fused(value, rest, all(5.550713837146759e-2f));
    value = fused(value, rest, all(2.4022118747234344e-1f));
    value = fused(value, rest, all(6.931469440460205e-1f));
    value = fused(value, rest, all(1.0000001192092896f));
    return (Floats)((Ints)value + (((Ints)shifted - all(MAGIC_BITS)) << 23));
}

// GELU by the error function, to 2e-7 and a rounding of x: max(x, 0) - |x| erfc(|x| / sqrt 2) / 2. Below, the
// logarithm of erfc is a polynomial, fitted so that the error of the result is even; behind 5.5 the term is
// less than 1.1e-7. What is not finite stays so: an infinity below meets its own opposite and becomes NaN.
inline Floats gelu(Floats x) {
    const Floats size = (Floats)((Ints)x & all(0x7fffffff)), near = lesser(size, all(5.5f));
    Floats log = all(3.30927869072184e-05f);
    log = fused(log, near, all(-0.0007692194194532931f));
    log = fused(log, near, all(0.00808071531355381f));
    log = fused(log, near, all(-0.05341210216283798f));
    log = fused(log, near, all(-0.4587709605693817f));
    log = fused(log, near, all(-1.1512017250061035f));
    log = fused(log, near, all(6.938921160326572e-06f));
    return all(0.5f) * fused(-near, power_of_two(log), x + size);
}

// GELU by the error function, to 2e-4, in half the time: x (1/2 + t p(t^2)), t being x held to [-4, 4] and p fitted so
// that the largest error is least and the bracket is exactly 0 and 1 at the ends. For what is rounded to bytes next.
inline Floats quick_gelu(Floats x) {
    const Floats near = larger(lesser(x, all(4.0f)), all(-4.0f)), square = near * near;
    Floats slope = all(2.2588155346170424e-08f);
    slope = fused(slope, square, all(-1.5888244888628833e-06f));
    slope = fused(slope, square, all(4.776383866555989e-05f));
    slope = fused(slope, square, all(-0.0008121870923787355f));
    slope = fused(slope, square, all(0.00876369047909975f));
    slope = fused(slope, square, all(-0.06455441564321518f));
    slope = fused(slope, square, all(0.39787018299102783f));
    return x * fused(near, slope, all(0.5f));
}

}  // namespace
