// Vectors of 16 lanes (AVX-512), 8 (AVX2) and 4 (NEON), with the operations that the chain kernel's vector units need.
#pragma once

#ifdef __aarch64__
#include <arm_neon.h>
#define SPACTE_VECTOR_OUT(value) "+w"(value)
#else
#include <immintrin.h>
#define SPACTE_VECTOR_OUT(value) "+x"(value)
#endif

#include <cstdint>

#include "chain_walk.h"

#define SPACTE_UNROLL _Pragma("GCC unroll 16")

namespace {

#ifdef __aarch64__
// Vectors of 4 lanes.
struct Quad {
  typedef int32x4_t Integers;
  typedef float32x4_t Reals;
  static constexpr int64_t kLanes = 4;
  static constexpr int kPixels = 4;

  static SPACTE_ALWAYS Integers load(const char* from) { return of(vld1q_u8(reinterpret_cast<const uint8_t*>(from))); }
  static SPACTE_ALWAYS Reals load(const float* from) { return vld1q_f32(from); }
  static SPACTE_ALWAYS void store(char* to, Integers value) { vst1q_u8(reinterpret_cast<uint8_t*>(to), vreinterpretq_u8_s32(value)); }
  static SPACTE_ALWAYS void store(float* to, Reals value) { vst1q_f32(to, value); }
  static SPACTE_ALWAYS Integers all(int32_t value) { return vdupq_n_s32(value); }
  static SPACTE_ALWAYS Reals all(float value) { return vdupq_n_f32(value); }
  static SPACTE_ALWAYS Reals reals(Integers a) { return vcvtq_f32_s32(a); }
  static SPACTE_ALWAYS Reals as_reals(Integers a) { return vreinterpretq_f32_s32(a); }
  static SPACTE_ALWAYS Integers as_integers(Reals a) { return vreinterpretq_s32_f32(a); }
  static SPACTE_ALWAYS Integers rounded(Reals a) { return vcvtnq_s32_f32(a); }
  static SPACTE_ALWAYS Reals larger(Reals a, Reals b) { return vmaxq_f32(a, b); }
  static SPACTE_ALWAYS Reals plus_product(Reals c, Reals a, Reals b) { return vfmaq_f32(c, a, b); }
  static SPACTE_ALWAYS Reals plus(Reals a, Reals b) { return vaddq_f32(a, b); }
  static SPACTE_ALWAYS Integers plus(Integers a, Integers b) { return vaddq_s32(a, b); }
  static SPACTE_ALWAYS Integers minus(Integers a, Integers b) { return vsubq_s32(a, b); }
  static SPACTE_ALWAYS Integers times(Integers a, Integers b) { return vmulq_s32(a, b); }
  template <int BITS>
  static SPACTE_ALWAYS Integers left(Integers a) { return vshlq_n_s32(a, BITS); }
  template <int BITS>
  static SPACTE_ALWAYS Integers right_signed(Integers a) { return vshrq_n_s32(a, BITS); }
  static SPACTE_ALWAYS Integers plus_words(Integers a, Integers b) {
    return vreinterpretq_s32_s16(vaddq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
  }
  static SPACTE_ALWAYS Integers minus_words(Integers a, Integers b) {
    return vreinterpretq_s32_s16(vsubq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
  }
  template <int BITS>
  static SPACTE_ALWAYS Integers left_words(Integers a) {
    return vreinterpretq_s32_s16(vshlq_n_s16(vreinterpretq_s16_s32(a), BITS));
  }
  static SPACTE_ALWAYS Integers products_of_words(Integers a, Integers b) {
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
  }
  static SPACTE_ALWAYS Integers both(Integers a, Integers b) { return vandq_s32(a, b); }
  static SPACTE_ALWAYS Integers right(Integers a, int bits) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-bits)));
  }
  static SPACTE_ALWAYS Integers words(Integers a, Integers b) {
    return vreinterpretq_s32_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)));
  }
  static SPACTE_ALWAYS Integers bytes(Integers a, Integers b) {
    return of(vcombine_u8(vqmovun_s16(vreinterpretq_s16_s32(a)), vqmovun_s16(vreinterpretq_s16_s32(b))));
  }
  static SPACTE_ALWAYS Integers greatest_bytes(Integers a, Integers b) {
    return of(vmaxq_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
  }
  static SPACTE_ALWAYS Integers greatest_words(Integers a, Integers b) {
    return vreinterpretq_s32_s16(vmaxq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
  }
  static SPACTE_ALWAYS Integers clamped_words(Integers a) {
    return vreinterpretq_s32_s16(vminq_s16(vmaxq_s16(vreinterpretq_s16_s32(a), vdupq_n_s16(0)), vdupq_n_s16(255)));
  }
  template <class... Bytes>
  static SPACTE_ALWAYS uint8x16_t order(Bytes... bytes) {
    const uint8_t of[16] = {uint8_t(bytes)...};
    return vld1q_u8(of);
  }
  static SPACTE_ALWAYS Integers shuffled(Integers a, uint8x16_t order) { return of(vqtbl1q_u8(vreinterpretq_u8_s32(a), order)); }
  static SPACTE_ALWAYS Integers widened(const char* from) {
    return vreinterpretq_s32_u16(vmovl_u8(vld1_u8(reinterpret_cast<const uint8_t*>(from))));
  }
  static SPACTE_ALWAYS void store_narrowed(char* to, Integers words) {
    vst1_u8(reinterpret_cast<uint8_t*>(to), vqmovun_s16(vreinterpretq_s16_s32(words)));
  }

  static SPACTE_ALWAYS void transpose(Integers r[4]) {
    const int32x4_t a = vtrn1q_s32(r[0], r[1]), b = vtrn2q_s32(r[0], r[1]), c = vtrn1q_s32(r[2], r[3]), d = vtrn2q_s32(r[2], r[3]);
    r[0] = pairs<false>(a, c);
    r[1] = pairs<false>(b, d);
    r[2] = pairs<true>(a, c);
    r[3] = pairs<true>(b, d);
  }

 private:
  static SPACTE_ALWAYS Integers of(uint8x16_t bytes) { return vreinterpretq_s32_u8(bytes); }

  template <bool UPPER>
  static SPACTE_ALWAYS Integers pairs(Integers a, Integers b) {
    const int64x2_t x = vreinterpretq_s64_s32(a), y = vreinterpretq_s64_s32(b);
    return vreinterpretq_s32_s64(UPPER ? vtrn2q_s64(x, y) : vtrn1q_s64(x, y));
  }
};
#else

#ifdef __AVX512BW__
// Vectors of 16 lanes.
struct Wide {
  typedef __m512i Integers;
  typedef __m512 Reals;
  static constexpr int64_t kLanes = 16;
  static constexpr int kPixels = 4;  // sums that 32 registers hold beside the operands, and enough to wait for none

  static SPACTE_ALWAYS Integers load(const char* from) { return _mm512_loadu_si512(from); }
  static SPACTE_ALWAYS Reals load(const float* from) { return _mm512_loadu_ps(from); }
  static SPACTE_ALWAYS void store(char* to, Integers value) { _mm512_storeu_si512(to, value); }
  static SPACTE_ALWAYS void store(float* to, Reals value) { _mm512_storeu_ps(to, value); }
  static SPACTE_ALWAYS Integers all(int32_t value) { return _mm512_set1_epi32(value); }
  static SPACTE_ALWAYS Reals all(float value) { return _mm512_set1_ps(value); }
  static SPACTE_ALWAYS Reals reals(Integers a) { return _mm512_cvtepi32_ps(a); }
  static SPACTE_ALWAYS Reals as_reals(Integers a) { return _mm512_castsi512_ps(a); }
  static SPACTE_ALWAYS Integers as_integers(Reals a) { return _mm512_castps_si512(a); }
  static SPACTE_ALWAYS Integers rounded(Reals a) { return _mm512_cvtps_epi32(a); }
  static SPACTE_ALWAYS Reals larger(Reals a, Reals b) { return _mm512_max_ps(a, b); }  // b where one of them is no number
  static SPACTE_ALWAYS Reals plus_product(Reals c, Reals a, Reals b) { return _mm512_fmadd_ps(a, b, c); }
  static SPACTE_ALWAYS Reals plus(Reals a, Reals b) { return _mm512_add_ps(a, b); }
  static SPACTE_ALWAYS Integers plus(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
  static SPACTE_ALWAYS Integers minus(Integers a, Integers b) { return _mm512_sub_epi32(a, b); }
  static SPACTE_ALWAYS Integers times(Integers a, Integers b) { return _mm512_mullo_epi32(a, b); }
  template <int BITS>
  static SPACTE_ALWAYS Integers left(Integers a) { return _mm512_slli_epi32(a, BITS); }
  template <int BITS>
  static SPACTE_ALWAYS Integers right_signed(Integers a) { return _mm512_srai_epi32(a, BITS); }
  static SPACTE_ALWAYS Integers plus_words(Integers a, Integers b) { return _mm512_add_epi16(a, b); }
  static SPACTE_ALWAYS Integers minus_words(Integers a, Integers b) { return _mm512_sub_epi16(a, b); }
  template <int BITS>
  static SPACTE_ALWAYS Integers left_words(Integers a) { return _mm512_slli_epi16(a, BITS); }
  static SPACTE_ALWAYS Integers products_of_words(Integers a, Integers b) { return _mm512_madd_epi16(a, b); }
  static SPACTE_ALWAYS Integers both(Integers a, Integers b) { return _mm512_and_si512(a, b); }
  static SPACTE_ALWAYS Integers right(Integers a, int bits) { return _mm512_srli_epi32(a, bits); }
  static SPACTE_ALWAYS Integers words(Integers a, Integers b) { return _mm512_packs_epi32(a, b); }
  static SPACTE_ALWAYS Integers bytes(Integers a, Integers b) { return _mm512_packus_epi16(a, b); }
  static SPACTE_ALWAYS Integers greatest_bytes(Integers a, Integers b) { return _mm512_max_epu8(a, b); }
  static SPACTE_ALWAYS Integers greatest_words(Integers a, Integers b) { return _mm512_max_epi16(a, b); }
  static SPACTE_ALWAYS Integers clamped_words(Integers a) {
    return _mm512_min_epi16(_mm512_max_epi16(a, _mm512_setzero_si512()), _mm512_set1_epi16(255));
  }
  template <class... Bytes>
  static SPACTE_ALWAYS __m128i order(Bytes... bytes) {
    return _mm_setr_epi8(bytes...);
  }
  static SPACTE_ALWAYS Integers shuffled(Integers a, __m128i order) {
    return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(order));
  }
  static SPACTE_ALWAYS Integers widened(const char* from) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static SPACTE_ALWAYS void store_narrowed(char* to, Integers words) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(words));
  }

  static SPACTE_ALWAYS void transpose(Integers r[16]) {
    Integers t[16];
    SPACTE_UNROLL for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    SPACTE_UNROLL for (int i = 0; i < 16; i += 4) SPACTE_UNROLL for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
    SPACTE_UNROLL for (int j = 0; j < 4; ++j) {  // four by four of four
      const Integers even[2] = {_mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88)};
      const Integers odd[2] = {_mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd), _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd)};
      r[j] = _mm512_shuffle_i32x4(even[0], even[1], 0x88);
      r[4 + j] = _mm512_shuffle_i32x4(odd[0], odd[1], 0x88);
      r[8 + j] = _mm512_shuffle_i32x4(even[0], even[1], 0xdd);
      r[12 + j] = _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd);
    }
  }
};
#endif

// Vectors of 8 lanes.
struct Narrow {
  typedef __m256i Integers;
  typedef __m256 Reals;
  static constexpr int64_t kLanes = 8;
  static constexpr int kPixels = 3;

  static SPACTE_ALWAYS Integers load(const char* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static SPACTE_ALWAYS Reals load(const float* from) { return _mm256_loadu_ps(from); }
  static SPACTE_ALWAYS void store(char* to, Integers value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
  static SPACTE_ALWAYS void store(float* to, Reals value) { _mm256_storeu_ps(to, value); }
  static SPACTE_ALWAYS Integers all(int32_t value) { return _mm256_set1_epi32(value); }
  static SPACTE_ALWAYS Reals all(float value) { return _mm256_set1_ps(value); }
  static SPACTE_ALWAYS Reals reals(Integers a) { return _mm256_cvtepi32_ps(a); }
  static SPACTE_ALWAYS Reals as_reals(Integers a) { return _mm256_castsi256_ps(a); }
  static SPACTE_ALWAYS Integers as_integers(Reals a) { return _mm256_castps_si256(a); }
  static SPACTE_ALWAYS Integers rounded(Reals a) { return _mm256_cvtps_epi32(a); }
  static SPACTE_ALWAYS Reals larger(Reals a, Reals b) { return _mm256_max_ps(a, b); }  // b where one of them is no number
  static SPACTE_ALWAYS Reals plus_product(Reals c, Reals a, Reals b) { return _mm256_fmadd_ps(a, b, c); }
  static SPACTE_ALWAYS Reals plus(Reals a, Reals b) { return _mm256_add_ps(a, b); }
  static SPACTE_ALWAYS Integers plus(Integers a, Integers b) { return _mm256_add_epi32(a, b); }
  static SPACTE_ALWAYS Integers minus(Integers a, Integers b) { return _mm256_sub_epi32(a, b); }
  static SPACTE_ALWAYS Integers times(Integers a, Integers b) { return _mm256_mullo_epi32(a, b); }
  template <int BITS>
  static SPACTE_ALWAYS Integers left(Integers a) { return _mm256_slli_epi32(a, BITS); }
  template <int BITS>
  static SPACTE_ALWAYS Integers right_signed(Integers a) { return _mm256_srai_epi32(a, BITS); }
  static SPACTE_ALWAYS Integers plus_words(Integers a, Integers b) { return _mm256_add_epi16(a, b); }
  static SPACTE_ALWAYS Integers minus_words(Integers a, Integers b) { return _mm256_sub_epi16(a, b); }
  template <int BITS>
  static SPACTE_ALWAYS Integers left_words(Integers a) { return _mm256_slli_epi16(a, BITS); }
  static SPACTE_ALWAYS Integers products_of_words(Integers a, Integers b) { return _mm256_madd_epi16(a, b); }
  static SPACTE_ALWAYS Integers both(Integers a, Integers b) { return _mm256_and_si256(a, b); }
  static SPACTE_ALWAYS Integers right(Integers a, int bits) { return _mm256_srli_epi32(a, bits); }
  static SPACTE_ALWAYS Integers words(Integers a, Integers b) { return _mm256_packs_epi32(a, b); }
  static SPACTE_ALWAYS Integers bytes(Integers a, Integers b) { return _mm256_packus_epi16(a, b); }
  static SPACTE_ALWAYS Integers greatest_bytes(Integers a, Integers b) { return _mm256_max_epu8(a, b); }
  static SPACTE_ALWAYS Integers greatest_words(Integers a, Integers b) { return _mm256_max_epi16(a, b); }
  static SPACTE_ALWAYS Integers clamped_words(Integers a) {
    return _mm256_min_epi16(_mm256_max_epi16(a, _mm256_setzero_si256()), _mm256_set1_epi16(255));
  }
  template <class... Bytes>
  static SPACTE_ALWAYS __m128i order(Bytes... bytes) {
    return _mm_setr_epi8(bytes...);
  }
  static SPACTE_ALWAYS Integers shuffled(Integers a, __m128i order) {
    return _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(order));
  }
  static SPACTE_ALWAYS Integers widened(const char* from) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static SPACTE_ALWAYS void store_narrowed(char* to, Integers words) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }

  static SPACTE_ALWAYS void transpose(Integers r[8]) {
    Integers t[8];
    SPACTE_UNROLL for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    SPACTE_UNROLL for (int i = 0; i < 8; i += 4) SPACTE_UNROLL for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
    SPACTE_UNROLL for (int j = 0; j < 4; ++j) {
      const Integers low = _mm256_permute2x128_si256(r[j], r[4 + j], 0x20);
      r[4 + j] = _mm256_permute2x128_si256(r[j], r[4 + j], 0x31);
      r[j] = low;
    }
  }
};
#endif

}  // namespace
