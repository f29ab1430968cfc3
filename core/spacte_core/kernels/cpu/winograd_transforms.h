// Winograd's F(4 x 4, 3 x 3): a tile of 4 x 4 results is A^T [ (G g G^T) . (B^T d B) ] A, with d the 6 x 6 inputs that
// it hangs on (Lavin and Gray 2016). The points of the transforms are 0, +-5/8, +-3/2 and infinity: every constant is
// exact in float32, and errors are half as large as with the usual 0, +-1, +-2.
//
// Compile without contraction into fused multiply-adds: those that are wanted are written out.
// With AVX-512 and with AVX2 a value comes of the same operations in the same order: the bits are the same.

#if !defined(__AVX2__) || !defined(__FMA__)
#error "this kernel is written for AVX-512, or AVX2 with FMA"
#endif

#include <immintrin.h>

#include <cstdint>

namespace {

#ifdef __AVX512F__
typedef __m512 Floats;
constexpr int64_t kLanes = 16;

inline Floats all(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
inline Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats plus_product(Floats c, Floats a, Floats b) { return _mm512_fmadd_ps(a, b, c); }
inline Floats minus_product(Floats c, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, c); }
#else
typedef __m256 Floats;
constexpr int64_t kLanes = 8;

inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
inline Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats plus_product(Floats c, Floats a, Floats b) { return _mm256_fmadd_ps(a, b, c); }
inline Floats minus_product(Floats c, Floats a, Floats b) { return _mm256_fnmadd_ps(a, b, c); }
#endif

constexpr int64_t kTile = 4, kSide = 6, kProducts = kSide * kSide;
constexpr float kA = 0.625f, kB = 1.5f;  // the points, besides 0 and infinity, with either sign
constexpr float kA2 = kA * kA, kB2 = kB * kB, kA3 = kA2 * kA, kB3 = kB2 * kB;

// B^T d
inline __attribute__((always_inline)) void into(const Floats d[kSide], Floats y[kSide]) {
  const Floats a_even = minus_product(d[4], all(kB2), d[2]), a_odd = minus_product(d[3], all(kB2), d[1]);
  const Floats b_even = minus_product(d[4], all(kA2), d[2]), b_odd = minus_product(d[3], all(kA2), d[1]);
  y[0] = plus_product(minus_product(d[4], all(kA2 + kB2), d[2]), all(kA2 * kB2), d[0]);
  y[1] = plus_product(a_even, all(kA), a_odd);
  y[2] = minus_product(a_even, all(kA), a_odd);
  y[3] = plus_product(b_even, all(kB), b_odd);
  y[4] = minus_product(b_even, all(kB), b_odd);
  y[5] = plus_product(minus_product(d[5], all(kA2 + kB2), d[3]), all(kA2 * kB2), d[1]);
}

// A^T m
inline __attribute__((always_inline)) void out_of(const Floats m[kSide], Floats y[kTile]) {
  const Floats a_sum = plus(m[1], m[2]), a_difference = minus(m[1], m[2]);
  const Floats b_sum = plus(m[3], m[4]), b_difference = minus(m[3], m[4]);
  y[0] = plus(plus(m[0], a_sum), b_sum);
  y[1] = plus_product(times(all(kA), a_difference), all(kB), b_difference);
  y[2] = plus_product(times(all(kA2), a_sum), all(kB2), b_sum);
  y[3] = plus_product(plus_product(m[5], all(kB3), b_difference), all(kA3), a_difference);
}

}  // namespace
