// Winograd's transforms for the layers that are computed one by one, in inference and training: those of `winograd_points.h`
// with their adjoints, and vectors of a pixel's channels.

#if !defined(__AVX2__) || !defined(__FMA__)
#error "this kernel is written for AVX-512, or AVX2 with FMA"
#endif

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "winograd_points.h"

#define INLINE inline __attribute__((always_inline))

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

typedef uint16_t bf16;

#ifdef __AVX512BF16__
// Values in bfloat16, by pairs of terms of a sum.
typedef __m512bh Pairs;

inline Pairs load_pairs(const bf16* from) { return (Pairs)_mm512_loadu_si512(from); }
inline Floats plus_products(Floats c, Pairs a, Pairs b) { return _mm512_dpbf16_ps(c, a, b); }

inline Pairs all_pairs(const bf16* pair) {
  int32_t bits;
  std::memcpy(&bits, pair, sizeof bits);
  return (Pairs)_mm512_set1_epi32(bits);
}

// Rounded to the nearest, ties to even.
inline void store(bf16* to, Floats value) { _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(value)); }

// Two rows of 16 values, as 16 pairs.
inline __m512i pair_rows(__m512i rows) {
  alignas(64) static constexpr bf16 kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), rows);
}
#endif

struct Operations {
  typedef Floats Reals;

  static INLINE Floats all(float value) { return ::all(value); }
  static INLINE Floats plus_product(Floats c, Floats a, Floats b) { return ::plus_product(c, a, b); }
};

INLINE void into(const Floats d[kSide], Floats y[kSide]) { Points<Operations>::into(d, y); }
INLINE void out_of(const Floats m[kSide], Floats y[kTile]) { Points<Operations>::out_of(m, y); }

// Vectors of a pixel's channels, of which `left` remain: 8 of them may be the upper half of a vector of zeros. Maps are in
// float32 or bfloat16, to which values are rounded to the nearest, ties to even; rounding would carry some of what is no
// number, a GPU's for one, into the sign.
#ifdef __AVX512F__
INLINE __mmask16 first_of(int64_t left) { return left >= kLanes ? 0xffff : (1 << left) - 1; }
INLINE Floats load_left(const float* from, int64_t left) { return _mm512_maskz_loadu_ps(first_of(left), from); }
INLINE void store_left(float* to, Floats value, int64_t left) { _mm512_mask_storeu_ps(to, first_of(left), value); }

INLINE Floats load_left(const bf16* from, int64_t left) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_of(left), from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

INLINE void store_left(bf16* to, Floats value, int64_t left) {
  const __mmask16 none = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i words = _mm512_castps_si512(_mm512_mask_mov_ps(value, none, all(__builtin_nanf(""))));
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(words, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(words, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
  _mm256_mask_storeu_epi16(to, first_of(left), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
#else
INLINE Floats load_left(const float* from, int64_t left) { return left > 0 ? load(from) : all(0.0f); }

INLINE void store_left(float* to, Floats value, int64_t left) {
  if (left > 0) store(to, value);
}

INLINE Floats load_left(const bf16* from, int64_t left) {
  if (left <= 0) return all(0.0f);
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

INLINE void store_left(bf16* to, Floats value, int64_t left) {
  if (left <= 0) return;
  const Floats none = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
  const __m256i words = _mm256_castps_si256(_mm256_blendv_ps(value, all(__builtin_nanf("")), none));
  const __m256i even = _mm256_and_si256(_mm256_srli_epi32(words, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(words, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
  const __m256i high = _mm256_srli_epi32(rounded, 16);
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128((__m128i*)to, _mm256_castsi256_si128(halves));
}
#endif

// B y: the adjoint of `into`.
INLINE void into_adjoint(const Floats y[kSide], Floats d[kSide]) {
  const Floats a_sum = plus(y[1], y[2]), a_difference = minus(y[1], y[2]);
  const Floats b_sum = plus(y[3], y[4]), b_difference = minus(y[3], y[4]);
  d[0] = times(all(kA2 * kB2), y[0]);
  d[1] = minus_product(minus_product(times(all(kA2 * kB2), y[5]), all(kA * kB2), a_difference), all(kA2 * kB),
                       b_difference);
  d[2] = minus_product(minus_product(times(all(-kA2 - kB2), y[0]), all(kB2), a_sum), all(kA2), b_sum);
  d[3] = plus_product(plus_product(times(all(-kA2 - kB2), y[5]), all(kA), a_difference), all(kB), b_difference);
  d[4] = plus(y[0], plus(a_sum, b_sum));
  d[5] = y[5];
}

// A g: the adjoint of `out_of`.
INLINE void out_of_adjoint(const Floats g[kTile], Floats m[kSide]) {
  const Floats a_even = plus_product(g[0], all(kA2), g[2]), a_odd = plus_product(times(all(kA), g[1]), all(kA3), g[3]);
  const Floats b_even = plus_product(g[0], all(kB2), g[2]), b_odd = plus_product(times(all(kB), g[1]), all(kB3), g[3]);
  m[0] = g[0];
  m[1] = plus(a_even, a_odd);
  m[2] = minus(a_even, a_odd);
  m[3] = plus(b_even, b_odd);
  m[4] = minus(b_even, b_odd);
  m[5] = g[3];
}

// G g and G^T u, with G[p] = (1, x, x^2) / product of x - y over the other points y.
constexpr float kAtZero = 1 / (kA2 * kB2), kAtA = 1 / (2 * kA2 * (kA2 - kB2)), kAtB = 1 / (2 * kB2 * (kB2 - kA2));

INLINE void weights_into(const Floats g[3], Floats u[kSide]) {
  const Floats a_even = times(all(kAtA), plus_product(g[0], all(kA2), g[2])), a_odd = times(all(kAtA * kA), g[1]);
  const Floats b_even = times(all(kAtB), plus_product(g[0], all(kB2), g[2])), b_odd = times(all(kAtB * kB), g[1]);
  u[0] = times(all(kAtZero), g[0]);
  u[1] = plus(a_even, a_odd);
  u[2] = minus(a_even, a_odd);
  u[3] = plus(b_even, b_odd);
  u[4] = minus(b_even, b_odd);
  u[5] = g[2];
}

INLINE void weights_adjoint(const Floats u[kSide], Floats g[3]) {
  const Floats a = times(all(kAtA), plus(u[1], u[2])), b = times(all(kAtB), plus(u[3], u[4]));
  g[0] = plus_product(plus(a, b), all(kAtZero), u[0]);
  g[1] = plus_product(times(all(kAtA * kA), minus(u[1], u[2])), all(kAtB * kB), minus(u[3], u[4]));
  g[2] = plus_product(plus_product(u[5], all(kA2), a), all(kB2), b);
}

}  // namespace
