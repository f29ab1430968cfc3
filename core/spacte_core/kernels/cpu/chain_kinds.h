// Kinds of maps for vector units: codes in bytes or in words of 16 bits, bfloat16 and float32; and how a convolution ends.
#pragma once

#include "chain_vectors.h"
#include "chain_walk.h"

namespace {

// Kinds of maps. kUnit is how many channels a cell has; `part` is one of them, `cell` rounds and puts them together;
// `greatest` compares two cells channel by channel;
// `row` and `store_row` are kLanes cells of one image in an outer map; `pair` is the i-th pair of a cell's channels in words.

// Codes, all that their kinds have in common.
template <class Vector>
struct Codes : Vector {
  typedef uint8_t Value;
  typedef typename Vector::Integers Integers;
  typedef typename Vector::Reals Reals;
  typedef Integers Sums;

  static SPACTE_ALWAYS Sums zero() { return Vector::all(int32_t(0)); }

  static SPACTE_ALWAYS Reals finished(Sums sums, float scale, float bias) {
    return Vector::plus_product(Vector::all(bias), Vector::reals(sums), Vector::all(scale));
  }

  static SPACTE_ALWAYS Reals with_other(Reals value, Reals other, Reals scale) { return Vector::plus_product(value, other, scale); }

  static SPACTE_ALWAYS Reals through_relu(Reals value) { return value; }  // they are clamped
};

// Codes in bytes, for instructions that multiply unsigned by signed ones and add up four products.
template <class Vector>
struct Bytes : Codes<Vector> {
  typedef typename Vector::Integers Integers;
  typedef typename Vector::Reals Reals;
  static constexpr int kUnit = 4;

  static SPACTE_ALWAYS Reals part(Integers cell, int i) {
    return Vector::reals(Vector::both(Vector::right(cell, 8 * i), Vector::all(int32_t(255))));
  }

  static SPACTE_ALWAYS Integers cell(const Reals value[4]) {
    const Integers packed = Vector::bytes(Vector::words(Vector::rounded(value[0]), Vector::rounded(value[1])),
                                          Vector::words(Vector::rounded(value[2]), Vector::rounded(value[3])));
    return Vector::shuffled(packed, Vector::order(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  }

  static SPACTE_ALWAYS Integers pair(Integers cell, int i) {
    return Vector::both(Vector::right(cell, 8 * i), Vector::all(int32_t(0x00ff00ff)));
  }

  static SPACTE_ALWAYS Integers greatest(Integers a, Integers b) { return Vector::greatest_bytes(a, b); }

  static SPACTE_ALWAYS Integers row(const char* from) { return Vector::load(from); }
  static SPACTE_ALWAYS void store_row(char* to, Integers row) { Vector::store(to, row); }
};

// Codes in words of 16 bits, whose products and their sums by twos are exact without such instructions.
template <class Vector>
struct Words : Codes<Vector> {
  typedef typename Vector::Integers Integers;
  typedef typename Vector::Reals Reals;
  static constexpr int kUnit = 2;

  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    return Vector::plus(sums, Vector::products_of_words(cell, weight));
  }

  static SPACTE_ALWAYS Integers plus_products_of_words(Integers sums, Integers pair, Integers weight) {
    return plus_products(sums, pair, weight);
  }

  static SPACTE_ALWAYS Integers pair(Integers cell, int) { return cell; }

  static SPACTE_ALWAYS Reals part(Integers cell, int i) {
    return Vector::reals(Vector::both(Vector::right(cell, 16 * i), Vector::all(int32_t(255))));
  }

  static SPACTE_ALWAYS Integers cell(const Reals value[2]) {
    const Integers packed = Vector::clamped_words(Vector::words(Vector::rounded(value[0]), Vector::rounded(value[1])));
    return Vector::shuffled(packed, Vector::order(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  }

  static SPACTE_ALWAYS Integers greatest(Integers a, Integers b) { return Vector::greatest_words(a, b); }

  static SPACTE_ALWAYS Integers row(const char* from) { return Vector::widened(from); }
  static SPACTE_ALWAYS void store_row(char* to, Integers row) { Vector::store_narrowed(to, row); }
};

// The instructions are written out: GCC 12 moves the sums of their intrinsics to and fro, at half the speed.
#if defined(__AVX512VNNI__)
struct BestCodes : Bytes<Wide> {
  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(cell), "v"(weight));
    return sums;
  }
  static SPACTE_ALWAYS Integers plus_products_of_words(Integers sums, Integers pair, Integers weight) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(pair), "v"(weight));
    return sums;
  }
};
#elif defined(__AVX512BW__)
typedef Words<Wide> BestCodes;
#elif defined(__AVXVNNI__)
struct BestCodes : Bytes<Narrow> {
  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(cell), "x"(weight));
    return sums;
  }
  static SPACTE_ALWAYS Integers plus_products_of_words(Integers sums, Integers pair, Integers weight) {
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sums) : "x"(pair), "x"(weight));
    return sums;
  }
};
#elif defined(__AVX2__)
typedef Words<Narrow> BestCodes;
#elif defined(__ARM_FEATURE_MATMUL_INT8)
struct BestCodes : Bytes<Quad> {
  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    return vusdotq_s32(sums, vreinterpretq_u8_s32(cell), vreinterpretq_s8_s32(weight));
  }
  static SPACTE_ALWAYS Integers plus_products_of_words(Integers sums, Integers pair, Integers weight) {
    return plus(sums, products_of_words(pair, weight));
  }
};
#else
typedef Words<Quad> BestCodes;
#endif

#ifdef __AVX512BF16__
struct Floats : Wide {
  typedef uint16_t Value;  // bfloat16
  typedef Reals Sums;
  static constexpr int kUnit = 2;

  static SPACTE_ALWAYS Sums zero() { return _mm512_setzero_ps(); }

  static SPACTE_ALWAYS Sums plus_products(Sums sums, Integers cell, Integers weight) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(cell), "v"(weight));
    return sums;
  }

  static SPACTE_ALWAYS Reals finished(Sums sums, float, float bias) { return plus(sums, all(bias)); }

  static SPACTE_ALWAYS Reals with_other(Reals value, Reals other, Reals) { return plus(value, other); }

  static SPACTE_ALWAYS Reals through_relu(Reals value) { return _mm512_max_ps(_mm512_setzero_ps(), value); }  // no number stays none

  static SPACTE_ALWAYS Reals part(Integers cell, int i) {
    return _mm512_castsi512_ps(i ? both(cell, all(int32_t(0xffff0000))) : _mm512_slli_epi32(cell, 16));
  }

  static SPACTE_ALWAYS Integers cell(const Reals value[2]) {
    const Integers order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
                                            4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, Integers(_mm512_cvtne2ps_pbh(value[1], value[0])));
  }

  // No number stays none, on either side.
  static SPACTE_ALWAYS Integers greatest(Integers a, Integers b) {
    Reals value[2];
    SPACTE_UNROLL for (int i = 0; i < 2; ++i) {
      const Reals x = part(a, i), y = part(b, i);
      value[i] = _mm512_mask_add_ps(_mm512_max_ps(x, y), _mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q), x, y);
    }
    return cell(value);
  }

  static SPACTE_ALWAYS Integers row(const char* from) { return load(from); }
  static SPACTE_ALWAYS void store_row(char* to, Integers row) { store(to, row); }
};
#endif

// float32.
template <class Vector>
struct Singles : Vector {
  typedef float Value;
  typedef typename Vector::Integers Integers;
  typedef typename Vector::Reals Reals;
  typedef Reals Sums;
  static constexpr int kUnit = 1;

  static SPACTE_ALWAYS Sums zero() { return Vector::all(0.0f); }

  static SPACTE_ALWAYS Sums plus_products(Sums sums, Integers cell, Integers weight) {
    return Vector::plus_product(sums, part(cell, 0), Vector::as_reals(weight));
  }

  static SPACTE_ALWAYS Reals finished(Sums sums, float, float bias) { return Vector::plus(sums, Vector::all(bias)); }

  static SPACTE_ALWAYS Reals with_other(Reals value, Reals other, Reals) { return Vector::plus(value, other); }

  static SPACTE_ALWAYS Reals through_relu(Reals value) { return Vector::larger(Vector::all(0.0f), value); }  // no number stays none

  static SPACTE_ALWAYS Reals part(Integers cell, int) { return Vector::as_reals(cell); }
  static SPACTE_ALWAYS Integers cell(const Reals value[1]) { return Vector::as_integers(value[0]); }

  // No number stays none, on either side.
  static SPACTE_ALWAYS Integers greatest(Integers a, Integers b) {
    const Reals x = part(a, 0), y = part(b, 0);
    return Vector::as_integers(x != x ? x : Vector::larger(x, y));
  }

  static SPACTE_ALWAYS Integers row(const char* from) { return Vector::load(from); }
  static SPACTE_ALWAYS void store_row(char* to, Integers row) { Vector::store(to, row); }
};

#if defined(__AVX512BW__)
typedef Singles<Wide> BestSingles;
#elif defined(__AVX2__)
typedef Singles<Narrow> BestSingles;
#else
typedef Singles<Quad> BestSingles;
#endif

// scale, bias, residual, ReLU and rounding of a cell's sums, those of kUnit channels from `channel` on.
template <class Kind, bool OTHER, bool RELU>
SPACTE_ALWAYS void finish(const Layer& layer, int64_t channel, const typename Kind::Sums* sums, const char* other, char* target) {
  constexpr bool kCodes = sizeof(typename Kind::Value) == 1;
  const typename Kind::Reals other_scale = Kind::all(float(layer.other_scale));
  typename Kind::Integers there;
  if (OTHER) there = Kind::load(other);
  typename Kind::Reals value[Kind::kUnit];
  SPACTE_UNROLL for (int i = 0; i < Kind::kUnit; ++i) {
    value[i] = Kind::finished(sums[i], kCodes ? layer.scale[channel + i] : 1.0f, layer.bias[channel + i]);
    if (OTHER) value[i] = Kind::with_other(value[i], Kind::part(there, i), other_scale);
    if (RELU) value[i] = Kind::through_relu(value[i]);
  }
  Kind::store(target, Kind::cell(value));
}

}  // namespace
