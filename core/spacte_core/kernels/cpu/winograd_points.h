// Winograd's F(4 x 4, 3 x 3) in float32: a tile of 4 x 4 results is A^T [ (G g G^T) . (B^T d B) ] A, with d the 6 x 6 inputs
// that it hangs on (Lavin and Gray 2016). The points of the transforms are 0, +-5/8, +-3/2 and infinity: every constant
// is exact in float32, and errors are half as large as with the usual 0, +-1, +-2.
//
// Compile without contraction into fused multiply-adds: those that are wanted are written out. With vectors of any width
// a value comes of the same operations in the same order: the bits are the same.
#pragma once

#include <cstdint>

namespace {

constexpr int64_t kTile = 4, kSide = 6, kProducts = kSide * kSide;
constexpr float kA = 0.625f, kB = 1.5f;  // the points, besides 0 and infinity, with either sign
constexpr float kA2 = kA * kA, kB2 = kB * kB, kA3 = kA2 * kA, kB3 = kB2 * kB;

// Of vectors that have Reals, with a sum, a difference and a product, all(float) and plus_product(c, a, b) = c + a b.
template <class Vector>
struct Points {
  typedef typename Vector::Reals Reals;

  // B^T d
  static inline __attribute__((always_inline)) void into(const Reals d[kSide], Reals y[kSide]) {
    const Reals a_even = plus(d[4], -kB2, d[2]), a_odd = plus(d[3], -kB2, d[1]);
    const Reals b_even = plus(d[4], -kA2, d[2]), b_odd = plus(d[3], -kA2, d[1]);
    y[0] = plus(plus(d[4], -kA2 - kB2, d[2]), kA2 * kB2, d[0]);
    y[1] = plus(a_even, kA, a_odd);
    y[2] = plus(a_even, -kA, a_odd);
    y[3] = plus(b_even, kB, b_odd);
    y[4] = plus(b_even, -kB, b_odd);
    y[5] = plus(plus(d[5], -kA2 - kB2, d[3]), kA2 * kB2, d[1]);
  }

  // A^T m
  static inline __attribute__((always_inline)) void out_of(const Reals m[kSide], Reals y[kTile]) {
    const Reals a_sum = m[1] + m[2], a_difference = m[1] - m[2];
    const Reals b_sum = m[3] + m[4], b_difference = m[3] - m[4];
    y[0] = m[0] + a_sum + b_sum;
    y[1] = plus(Vector::all(kA) * a_difference, kB, b_difference);
    y[2] = plus(Vector::all(kA2) * a_sum, kB2, b_sum);
    y[3] = plus(plus(m[5], kB3, b_difference), kA3, a_difference);
  }

 private:
  static inline __attribute__((always_inline)) Reals plus(Reals c, float factor, Reals a) {
    return Vector::plus_product(c, a, Vector::all(factor));
  }
};

}  // namespace
