// Gradients of convolutions with a stride of two: of 1 x 1, and of 3 x 3 padded by one, for maps [B, H, W, C] in bfloat16
// with sums in float32, by AVX-512's products of pairs. `strided_training.py` says when they are used.
//
// An image at a time, whose maps stay in a core's cache. A pixel of the gradient of x depends on one, two or four pixels
// of dy, by the parity of its row and its column, so that the pixels of a row with the same parity are a product of
// matrices. The gradient of weights is a sum over pixels, which are taken two at a time: pairs of x and of dy that lie two
// columns, and one column, apart are put together before.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

typedef uint16_t bf16;

constexpr int64_t kLanes = 16;
constexpr int kPixels = 8;  // of dx that are computed at a time

struct Layer {
  int64_t side, height, width, channels_in, channels;

  int64_t down() const { return (height + 1) / 2; }
  int64_t across() const { return (width + 1) / 2; }
  int64_t pairs() const { return (across() + 1) / 2; }  // of columns of dy
  int64_t weights() const { return side * side * channels_in * channels; }
  // Of a thread, in values of 32 bits: dy with a row and a column of zeros behind it, pairs of dy, and pairs of x.
  int64_t padded() const { return (down() + 1) * (across() + 1) * channels / 2; }
  int64_t dy_pairs() const { return down() * pairs() * channels; }
  int64_t x_pairs() const { return height * pairs() * side * channels_in; }
  int64_t scratch() const { return padded() + dy_pairs() + x_pairs(); }
};

inline __m512 plus_products(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

// Sixteen channels of two pixels; a null pointer is a pixel of zeros.
inline __m512i together(const bf16* first, const bf16* second) {
  const auto wide = [](const bf16* from) {
    return from ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)) : _mm512_setzero_si512();
  };
  return _mm512_or_si512(wide(first), _mm512_slli_epi32(wide(second), 16));
}

// The taps by which an even or an odd row of x depends on rows of dy: their numbers, and how far behind half its own.
struct Taps {
  int count, of[2], behind[2];
};

inline Taps taps(int64_t side, bool odd) {
  if (side == 1) return odd ? Taps{0, {}, {}} : Taps{1, {0}, {0}};
  return odd ? Taps{2, {0, 2}, {1, 0}} : Taps{1, {1}, {0}};
}

// PIXELS pixels of dx, two columns apart, for VECTORS times 16 channels. `weights` has pairs of channels of dy for each
// tap: [side, side, channels / 2, channels_in, 2].
template <int PIXELS, int VECTORS>
__attribute__((noinline)) void input_pixels(const Layer layer, const Taps down, const Taps across, const bf16* dy,
                                            const bf16* weights, bf16* dx) {
  __m512 sums[PIXELS][VECTORS];
#pragma GCC unroll 8
  for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) sums[p][v] = _mm512_setzero_ps();
  for (int i = 0; i < down.count; ++i)
    for (int j = 0; j < across.count; ++j) {
      const bf16* from = dy + (down.behind[i] * (layer.across() + 1) + across.behind[j]) * layer.channels;
      const bf16* w = weights + (down.of[i] * layer.side + across.of[j]) * layer.channels_in * layer.channels;
      for (int64_t k = 0; k < layer.channels; k += 2, w += 2 * layer.channels_in) {
        __m512i of_pair[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) of_pair[v] = _mm512_loadu_si512(w + 2 * v * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < PIXELS; ++p) {
          int32_t pair;
          std::memcpy(&pair, from + p * layer.channels + k, sizeof pair);
#pragma GCC unroll 2
          for (int v = 0; v < VECTORS; ++v) sums[p][v] = plus_products(sums[p][v], _mm512_set1_epi32(pair), of_pair[v]);
        }
      }
    }
#pragma GCC unroll 8
  for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v)
      _mm256_storeu_si256((__m256i*)(dx + 2 * p * layer.channels_in + v * kLanes),
                          (__m256i)_mm512_cvtneps_pbh(sums[p][v]));
}

// `count` such pixels; those that are left over are taken by halves.
template <int PIXELS, int VECTORS>
void input_row(const Layer layer, int64_t count, const Taps down, const Taps across, const bf16* dy, const bf16* weights,
               bf16* dx) {
  for (; count >= PIXELS; count -= PIXELS, dy += PIXELS * layer.channels, dx += 2 * PIXELS * layer.channels_in)
    input_pixels<PIXELS, VECTORS>(layer, down, across, dy, weights, dx);
  if constexpr (PIXELS > 1) {
    if (count) input_row<PIXELS / 2, VECTORS>(layer, count, down, across, dy, weights, dx);
  }
}

template <int VECTORS>
void input_gradient(const Layer layer, const bf16* padded, const bf16* weights, bf16* dx) {
  for (int64_t c = 0; c < layer.channels_in; c += VECTORS * kLanes)
    for (int64_t row = 0; row < layer.height; ++row)
      for (int64_t odd = 0; odd < std::min<int64_t>(2, layer.width); ++odd)
        input_row<kPixels, VECTORS>(layer, (layer.width + 1 - odd) / 2, taps(layer.side, row % 2), taps(layer.side, odd),
                                    padded + row / 2 * (layer.across() + 1) * layer.channels, weights + 2 * c,
                                    dx + (row * layer.width + odd) * layer.channels_in + c);
}

// dy with zeros behind its rows and columns, which odd rows and columns of x would read.
void pad(const Layer layer, const bf16* dy, bf16* padded) {
  const int64_t row = layer.across() * layer.channels;
  for (int64_t y = 0; y < layer.down(); ++y, padded += row + layer.channels) {
    std::memcpy(padded, dy + y * row, sizeof(bf16) * row);
    std::memset(padded + row, 0, sizeof(bf16) * layer.channels);
  }
  std::memset(padded, 0, sizeof(bf16) * (row + layer.channels));
}

// Pairs of neighbours of a row of dy, [down, pairs, channels].
void pair_dy(const Layer layer, const bf16* dy, int32_t* to) {
  for (int64_t y = 0; y < layer.down(); ++y)
    for (int64_t q = 0; q < layer.pairs(); ++q)
      for (int64_t k = 0; k < layer.channels; k += kLanes, to += kLanes) {
        const bf16* from = dy + (y * layer.across() + 2 * q) * layer.channels + k;
        _mm512_storeu_si512(to, together(from, 2 * q + 1 < layer.across() ? from + layer.channels : nullptr));
      }
}

// What the two pixels of a pair of dy meet by each tap of a row, [height, pairs, side, channels_in].
void pair_x(const Layer layer, const bf16* x, int32_t* to) {
  for (int64_t y = 0; y < layer.height; ++y)
    for (int64_t q = 0; q < layer.pairs(); ++q)
      for (int64_t j = 0; j < layer.side; ++j)
        for (int64_t c = 0; c < layer.channels_in; c += kLanes, to += kLanes) {
          const int64_t column = 4 * q + j - layer.side / 2;
          const auto pixel = [&](int64_t at) {
            return at >= 0 && at < layer.width ? x + (y * layer.width + at) * layer.channels_in + c : nullptr;
          };
          _mm512_storeu_si512(to, together(pixel(column), pixel(column + 2)));
        }
}

// Registers of sums: with 16 or 24 of them 32 hold the operands, too.
constexpr int outputs(int side, int vectors) { return (side == 1 ? 16 : 8) / vectors; }

// A run of rows of x and dy, as pairs: from one row to the next, and from one pair to the next.
struct Rows {
  const int32_t *x, *dy;
  int64_t count, pairs, x_row, x_pair, x_tap, dy_row, dy_pair;
};

// The gradients of one tap's row of weights for some channels of y and SIDE * VECTORS * 16 of x, added to `sums`, from one
// channel of y to the next `stride` apart. No part of its caller, lest it has too few registers.
template <int SIDE, int VECTORS>
__attribute__((noinline)) void add_products(const Rows rows, float* sums, int64_t stride) {
  constexpr int kOut = outputs(SIDE, VECTORS), kInto = SIDE * VECTORS;
  __m512 sum[kOut][kInto];
#pragma GCC unroll 16
  for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 6
    for (int i = 0; i < kInto; ++i) sum[o][i] = _mm512_setzero_ps();
  for (int64_t y = 0; y < rows.count; ++y) {
    const int32_t *x = rows.x + y * rows.x_row, *dy = rows.dy + y * rows.dy_row;
    for (int64_t q = 0; q < rows.pairs; ++q, x += rows.x_pair, dy += rows.dy_pair) {
      __m512i of_x[kInto];
#pragma GCC unroll 6
      for (int i = 0; i < kInto; ++i) of_x[i] = _mm512_loadu_si512(x + i / VECTORS * rows.x_tap + i % VECTORS * kLanes);
#pragma GCC unroll 16
      for (int o = 0; o < kOut; ++o) {
        const __m512i of_dy = _mm512_set1_epi32(dy[o]);
#pragma GCC unroll 6
        for (int i = 0; i < kInto; ++i) sum[o][i] = plus_products(sum[o][i], of_dy, of_x[i]);
      }
    }
  }
#pragma GCC unroll 16
  for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 6
    for (int i = 0; i < kInto; ++i) {
      float* to = sums + o * stride + i / VECTORS * rows.x_tap + i % VECTORS * kLanes;
      _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum[o][i]));
    }
}

// The gradient of the weights of an image, added to `sums`, [side, channels, side, channels_in].
template <int SIDE, int VECTORS>
void weight_gradient(const Layer layer, const int32_t* x, const int32_t* dy, float* sums) {
  const int64_t pairs = layer.pairs(), row = SIDE * layer.channels_in, x_row = pairs * row, dy_row = pairs * layer.channels;
  for (int64_t i = 0; i < SIDE; ++i) {
    const int64_t above = i - SIDE / 2;  // of a row of dy, as rows of x: twice its own number and this
    const int64_t first = above < 0, last = (layer.height - above + 1) / 2;
    const Rows rows{x + (2 * first + above) * x_row,
                    dy + first * dy_row,
                    std::min(last, layer.down()) - first,
                    pairs,
                    2 * x_row,
                    row,
                    layer.channels_in,
                    dy_row,
                    layer.channels};
    for (int64_t k = 0; k < layer.channels; k += outputs(SIDE, VECTORS))
      for (int64_t c = 0; c < layer.channels_in; c += VECTORS * kLanes) {
        Rows part = rows;
        part.x += c;
        part.dy += k;
        add_products<SIDE, VECTORS>(part, sums + (i * layer.channels + k) * row + c, row);
      }
  }
}

template <int SIDE, int VECTORS>
void backward(const Layer layer, int64_t images, const bf16* x, const bf16* dy, const bf16* weights, int64_t threads,
              int32_t* scratch, float* sums, bf16* dx) {
  const int64_t of_x = layer.height * layer.width * layer.channels_in;
  const int64_t of_dy = layer.down() * layer.across() * layer.channels;
  if (sums) std::memset(sums, 0, sizeof(float) * threads * layer.weights());
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num();
    int32_t *padded = scratch + thread * layer.scratch(), *dy_pairs = padded + layer.padded();
    int32_t* x_pairs = dy_pairs + layer.dy_pairs();
#pragma omp for schedule(static)
    for (int64_t image = 0; image < images; ++image) {
      if (dx) {
        pad(layer, dy + image * of_dy, (bf16*)padded);
        input_gradient<VECTORS>(layer, (bf16*)padded, weights, dx + image * of_x);
      }
      if (!sums) continue;
      pair_dy(layer, dy + image * of_dy, dy_pairs);
      pair_x(layer, x + image * of_x, x_pairs);
      weight_gradient<SIDE, VECTORS>(layer, x_pairs, dy_pairs, sums + thread * layer.weights());
    }
  }
}

}  // namespace

extern "C" {

// Values of scratch memory that a thread needs.
int64_t spacte_strided_scratch(int64_t side, int64_t height, int64_t width, int64_t channels_in, int64_t channels) {
  return Layer{side, height, width, channels_in, channels}.scratch();
}

// dx, and `threads` parts of the gradient of weights, each [side, channels, side, channels_in] in float32; either may be
// null. `weights` is [side, side, channels / 2, channels_in, 2]; channels are multiples of 16, `side` is 1 or 3.
void spacte_strided_backward(const void* x, const void* dy, const void* weights, int64_t images, int64_t side,
                             int64_t height, int64_t width, int64_t channels_in, int64_t channels, int64_t threads,
                             void* scratch, float* sums, void* dx) {
  const Layer layer{side, height, width, channels_in, channels};
  const bool two = channels_in % (2 * kLanes) == 0;
  const auto by_size = side == 1 ? (two ? backward<1, 2> : backward<1, 1>) : (two ? backward<3, 2> : backward<3, 1>);
  by_size(layer, images, (const bf16*)x, (const bf16*)dy, (const bf16*)weights, threads, (int32_t*)scratch, sums,
          (bf16*)dx);
}
}
