// Products of matrices in panels of 16 columns, in float32 or of values in bfloat16, for `winograd_blocks.h`. Sums are in
// float32.
//
// An instruction on values in bfloat16 takes two terms of a sum at once, which lie beside each other: rows of `a` as they
// are, and rows of `b` by pairs, [rows / 2, 16, 2].

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "winograd_transforms.h"

namespace {

constexpr int64_t kPanel = 16;
constexpr int kVectors = kPanel / kLanes;
constexpr int kRows = kLanes == 16 ? 12 : 6;  // of a product that are computed at a time

int64_t panels(int64_t channels) { return (channels + kPanel - 1) / kPanel; }

// `ROWS` rows of one panel of a b, for `depth` panels of a: a's are `stride` apart, b is one panel of 16 `depth` rows.
template <int ROWS>
INLINE void multiply_rows(int64_t depth, const float* a, int64_t stride, const float* b, float* c) {
  Floats sum[ROWS][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = all(0.0f);
  for (int64_t panel = 0; panel < depth; ++panel, a += stride)
#pragma GCC unroll 4
    for (int k = 0; k < kPanel; ++k, b += kPanel) {
      Floats w[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) w[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const Floats value = all(a[r * kPanel + k]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[r][v] = plus_product(sum[r][v], value, w[v]);
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(c + r * kPanel + v * kLanes, sum[r][v]);
}

#ifdef __AVX512BF16__
template <int ROWS>
INLINE void multiply_rows(int64_t depth, const bf16* a, int64_t stride, const bf16* b, float* c) {
  Floats sum[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) sum[r] = all(0.0f);
  for (int64_t panel = 0; panel < depth; ++panel, a += stride)
#pragma GCC unroll 4
    for (int k = 0; k < kPanel; k += 2, b += 2 * kPanel) {
      const Pairs w = load_pairs(b);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) sum[r] = plus_products(sum[r], all_pairs(a + r * kPanel + k), w);
    }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) store(c + r * kPanel, sum[r]);
}
#endif

// The rows that are left over are taken by halves.
template <int ROWS, class P>
void multiply(int64_t rows, int64_t depth, const P* a, int64_t stride, const P* b, float* c) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS) multiply_rows<ROWS>(depth, a + r * kPanel, stride, b, c + r * kPanel);
  if constexpr (ROWS > 1) {
    if (r < rows) multiply<(ROWS + 1) / 2>(rows - r, depth, a + r * kPanel, stride, b, c + r * kPanel);
  }
}

// `ROWS` rows of sums += a^T b, of panels of `tiles` rows.
template <int ROWS>
INLINE void add_rows(int64_t tiles, const float* a, const float* b, float* sums) {
  Floats sum[ROWS][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = load(sums + r * kPanel + v * kLanes);
  for (int64_t t = 0; t < tiles; ++t, a += kPanel, b += kPanel) {
    Floats w[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      w[v] = load(b + v * kLanes);
      asm("" : "+v"(w[v]));  // or it is loaded again for each product, and loads take longer than products
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Floats value = all(a[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] = plus_product(sum[r][v], value, w[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(sums + r * kPanel + v * kLanes, sum[r][v]);
}

void add(int64_t tiles, const float* a, const float* b, float* sums) {
  if constexpr (kLanes == 16) {
    add_rows<kPanel>(tiles, a, b, sums);
  } else {
    add_rows<6>(tiles, a, b, sums);
    add_rows<6>(tiles, a + 6, b, sums + 6 * kPanel);
    add_rows<4>(tiles, a + 12, b, sums + 12 * kPanel);
  }
}

// A panel with its rows by pairs: float32 needs none.
inline const float* paired(int64_t, const float* panel, float*) { return panel; }

// A block of weights, [16, 16], as the products want it.
inline void store_block(const float block[kPanel][kPanel], float* to) {
  std::memcpy(to, block, sizeof(float) * kPanel * kPanel);
}

#ifdef __AVX512BF16__
inline const bf16* paired(int64_t tiles, bf16* panel, bf16* to) {
  if (tiles % 2) std::memset(panel + tiles * kPanel, 0, sizeof(bf16) * kPanel);
  for (int64_t at = 0; at < tiles * kPanel; at += 2 * kPanel)
    _mm512_storeu_si512(to + at, pair_rows(_mm512_loadu_si512(panel + at)));
  return to;
}

// sums += a^T b, both by pairs.
inline void add(int64_t tiles, const bf16* a, const bf16* b, float* sums) {
  Floats sum[kPanel];
#pragma GCC unroll 16
  for (int r = 0; r < kPanel; ++r) sum[r] = load(sums + r * kPanel);
  for (int64_t t = 0; t < tiles; t += 2, a += 2 * kPanel, b += 2 * kPanel) {
    const Pairs w = load_pairs(b);
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r) sum[r] = plus_products(sum[r], all_pairs(a + 2 * r), w);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kPanel; ++r) store(sums + r * kPanel, sum[r]);
}

inline void store_block(const float block[kPanel][kPanel], bf16* to) {
  for (int64_t row = 0; row < kPanel; row += 2) {
    bf16* const pair = to + row * kPanel;
    store(pair, load(block[row]));
    store(pair + kPanel, load(block[row + 1]));
    _mm512_storeu_si512(pair, pair_rows(_mm512_loadu_si512(pair)));
  }
}
#endif

}  // namespace
