// 3 x 3 convolutions of float32 maps [B, H, W, C] of any size, padded by one, and their gradients, layer by layer, by
// Winograd's F(4 x 4, 3 x 3). `winograd_layers.py` and `winograd_training.py` say when they are used.
//
// In the transformed domain a convolution is 36 products of matrices, M = V U with V = B^T d B of the maps and
// U = G g G^T of the weights, and so are its gradients: dV = dM U^T and dU = V^T dM with dM = A dy A^T; the adjoint
// transforms lead out of it, dx = B dV B^T summed where tiles overlap, and dg = G^T dU G. Lines of tiles are worked on
// in blocks, whose V and M stay in a cache while all channels pass over them.
//
// A matrix is kept in panels of 16 of its columns, each [rows, 16], filled up with columns of zeros. Every value of a map
// and of its gradient is computed by the same operations in the same order whatever its place in a block; the sums of
// the gradient of weights depend on the number of threads.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "winograd_transforms.h"

namespace {

constexpr int64_t kPanel = 16;
constexpr int kVectors = kPanel / kLanes;
constexpr int64_t kBlockTiles = 48;                     // measured on an AMD EPYC (Zen 3) for 64 and 256 channels
constexpr int kRows = kLanes == 16 ? 12 : 6;            // of a product that are computed at a time
constexpr int kWeightRows = kLanes == 16 ? kPanel : 4;  // the same, of the product that is summed over tiles

#define INLINE inline __attribute__((always_inline))

// Vectors of a pixel's channels, of which `left` remain: 8 of them may be the upper half of a vector of zeros.
INLINE Floats load_left(const float* from, int64_t left) {
#ifdef __AVX512F__
  return _mm512_maskz_loadu_ps(left >= kLanes ? 0xffff : (1 << left) - 1, from);
#else
  return left > 0 ? load(from) : all(0.0f);
#endif
}

INLINE void store_left(float* to, Floats value, int64_t left) {
#ifdef __AVX512F__
  _mm512_mask_storeu_ps(to, left >= kLanes ? 0xffff : (1 << left) - 1, value);
#else
  if (left > 0) store(to, value);
#endif
}

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

int64_t panels(int64_t channels) { return (channels + kPanel - 1) / kPanel; }

struct Layer {
  int64_t height, width, channels_in, channels;

  int64_t down() const { return (height + kTile - 1) / kTile; }
  int64_t across() const { return (width + kTile - 1) / kTile; }
  int64_t lines() const { return std::max<int64_t>(kBlockTiles / across(), 1); }  // of tiles, of a block
  int64_t tiles() const { return lines() * across(); }
  int64_t row() const { return (kTile * across() + 2) * kLanes; }  // of a line of tiles, transformed in one direction
  // From one of the 36 to the next; not a power of two, so that they fall into different lines of the cache.
  int64_t stride(int64_t of) const { return panels(of) * tiles() * kPanel + kPanel; }
  int64_t weights() const { return kProducts * panels(channels_in) * panels(channels) * kPanel * kPanel; }
};

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

// The rows that are left over are taken by halves.
template <int ROWS>
void multiply(int64_t rows, int64_t depth, const float* a, int64_t stride, const float* b, float* c) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS) multiply_rows<ROWS>(depth, a + r * kPanel, stride, b, c + r * kPanel);
  if constexpr (ROWS > 1) {
    if (r < rows) multiply<(ROWS + 1) / 2>(rows - r, depth, a + r * kPanel, stride, b, c + r * kPanel);
  }
}

// `to` = `from` times weights, 36 times: [tiles, in] times [in, out].
void multiply_all(const Layer& layer, int64_t tiles, int64_t in, int64_t out, const float* from, const float* weights,
                  float* to) {
  const int64_t panel = layer.tiles() * kPanel, deep = panels(in) * kPanel * kPanel;
  for (int64_t p = 0; p < kProducts; ++p)
    for (int64_t k = 0; k < panels(out); ++k, weights += deep)
      multiply<kRows>(tiles, panels(in), from + p * layer.stride(in), panel, weights,
                      to + p * layer.stride(out) + k * panel);
}

// sums += v^T m, 36 times: panels of [channels_in, 16].
void add_products(const Layer& layer, int64_t tiles, const float* v, const float* m, float* sums) {
  const int64_t panel = layer.tiles() * kPanel, in = panels(layer.channels_in), out = panels(layer.channels);
  for (int64_t p = 0; p < kProducts; ++p)
    for (int64_t k = 0; k < out; ++k)
      for (int64_t c = 0; c < in * kPanel; c += kWeightRows, sums += kWeightRows * kPanel) {
        const float* a = v + p * layer.stride(layer.channels_in) + c / kPanel * panel + c % kPanel;
        const float* b = m + p * layer.stride(layer.channels) + k * panel;
        Floats sum[kWeightRows][kVectors];
#pragma GCC unroll 16
        for (int r = 0; r < kWeightRows; ++r)
#pragma GCC unroll 2
          for (int i = 0; i < kVectors; ++i) sum[r][i] = load(sums + r * kPanel + i * kLanes);
        for (int64_t t = 0; t < tiles; ++t, a += kPanel, b += kPanel) {
          Floats w[kVectors];
#pragma GCC unroll 2
          for (int i = 0; i < kVectors; ++i) w[i] = load(b + i * kLanes);
#pragma GCC unroll 16
          for (int r = 0; r < kWeightRows; ++r) {
            const Floats value = all(a[r]);
#pragma GCC unroll 2
            for (int i = 0; i < kVectors; ++i) sum[r][i] = plus_product(sum[r][i], value, w[i]);
          }
        }
#pragma GCC unroll 16
        for (int r = 0; r < kWeightRows; ++r)
#pragma GCC unroll 2
          for (int i = 0; i < kVectors; ++i) store(sums + r * kPanel + i * kLanes, sum[r][i]);
      }
}

// v = B^T d B of a line of tiles. `halves`: 6 rows, whose borders are zeros and stay so.
void line_into(const Layer& layer, const float* image, int64_t line, float* halves, float* v) {
  const int64_t channels = layer.channels_in, panel = layer.tiles() * kPanel;
  for (int64_t c = 0; c < panels(channels) * kPanel; c += kLanes) {
    for (int64_t x = 0; x < layer.width; ++x) {
      Floats d[kSide], y[kSide];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) {
        const int64_t at = line * kTile + i - 1;
        const bool inside = 0 <= at && at < layer.height;
        d[i] = inside ? load_left(image + (at * layer.width + x) * channels + c, channels - c) : all(0.0f);
      }
      into(d, y);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) store(halves + i * layer.row() + (x + 1) * kLanes, y[i]);
    }
    float* to = v + c / kPanel * panel + c % kPanel;
    for (int64_t tile = 0; tile < layer.across(); ++tile, to += kPanel)
      for (int i = 0; i < kSide; ++i) {
        const float* from = halves + i * layer.row() + tile * kTile * kLanes;
        Floats d[kSide], y[kSide];
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) d[j] = load(from + j * kLanes);
        into(d, y);
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) store(to + (i * kSide + j) * layer.stride(channels), y[j]);
      }
  }
}

// relu?( A^T m A + bias? + other? ) of a line of tiles, as far as it lies in the map; `other` may be the result's place.
void line_out_of(const Layer& layer, const float* m, int64_t line, const float* bias, const float* other, bool relu,
                 float* image) {
  const int64_t channels = layer.channels, panel = layer.tiles() * kPanel;
  const int64_t high = std::min(kTile, layer.height - line * kTile);
  for (int64_t c = 0; c < panels(channels) * kPanel; c += kLanes) {
    const float* from = m + c / kPanel * panel + c % kPanel;
    const Floats shift = bias ? load_left(bias + c, channels - c) : all(0.0f);
    for (int64_t tile = 0; tile < layer.across(); ++tile, from += kPanel) {
      const int64_t wide = std::min(kTile, layer.width - tile * kTile);
      Floats half[kTile][kSide];
#pragma GCC unroll 6
      for (int j = 0; j < kSide; ++j) {
        Floats column[kSide], y[kTile];
#pragma GCC unroll 6
        for (int i = 0; i < kSide; ++i) column[i] = load(from + (i * kSide + j) * layer.stride(channels));
        out_of(column, y);
#pragma GCC unroll 4
        for (int i = 0; i < kTile; ++i) half[i][j] = y[i];
      }
      for (int64_t i = 0; i < high; ++i) {
        Floats y[kTile];
        out_of(half[i], y);
        const int64_t at = ((line * kTile + i) * layer.width + tile * kTile) * channels + c;
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) {
          if (j >= wide) break;
          Floats value = plus(y[j], shift);
          if (other) value = plus(value, load_left(other + at + j * channels, channels - c));
          if (relu) value = larger(all(0.0f), value);  // no number stays none
          store_left(image + at + j * channels, value, channels - c);
        }
      }
    }
  }
}

// m = A dy A^T of a line of tiles; what lies outside the map is zero.
void line_out_of_adjoint(const Layer& layer, const float* image, int64_t line, float* m) {
  const int64_t channels = layer.channels, panel = layer.tiles() * kPanel;
  for (int64_t c = 0; c < panels(channels) * kPanel; c += kLanes) {
    float* to = m + c / kPanel * panel + c % kPanel;
    for (int64_t tile = 0; tile < layer.across(); ++tile, to += kPanel) {
      Floats half[kSide][kTile];
#pragma GCC unroll 4
      for (int j = 0; j < kTile; ++j) {
        Floats g[kTile], column[kSide];
        const int64_t x = tile * kTile + j;
#pragma GCC unroll 4
        for (int i = 0; i < kTile; ++i) {
          const int64_t y = line * kTile + i;
          const bool inside = y < layer.height && x < layer.width;
          g[i] = inside ? load_left(image + (y * layer.width + x) * channels + c, channels - c) : all(0.0f);
        }
        out_of_adjoint(g, column);
#pragma GCC unroll 6
        for (int i = 0; i < kSide; ++i) half[i][j] = column[i];
      }
      for (int i = 0; i < kSide; ++i) {
        Floats row[kSide];
        out_of_adjoint(half[i], row);
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) store(to + (i * kSide + j) * layer.stride(channels), row[j]);
      }
    }
  }
}

// dx += B v B^T of a line of tiles.
void line_into_adjoint(const Layer& layer, const float* v, int64_t line, float* halves, float* image) {
  const int64_t channels = layer.channels_in, panel = layer.tiles() * kPanel;
  for (int64_t c = 0; c < panels(channels) * kPanel; c += kLanes) {
    const float* from = v + c / kPanel * panel + c % kPanel;
    for (int64_t tile = 0; tile < layer.across(); ++tile, from += kPanel)
      for (int i = 0; i < kSide; ++i) {
        float* to = halves + i * layer.row() + tile * kTile * kLanes;
        Floats y[kSide], d[kSide];
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) y[j] = load(from + (i * kSide + j) * layer.stride(channels));
        into_adjoint(y, d);
        if (tile > 0) d[0] = plus(d[0], load(to)), d[1] = plus(d[1], load(to + kLanes));  // of the tile before
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) store(to + j * kLanes, d[j]);
      }
    for (int64_t x = 0; x < layer.width; ++x) {
      Floats y[kSide], d[kSide];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) y[i] = load(halves + i * layer.row() + (x + 1) * kLanes);
      into_adjoint(y, d);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) {
        const int64_t at = line * kTile + i - 1;
        if (at < 0 || at >= layer.height) continue;
        float* to = image + (at * layer.width + x) * channels + c;
        store_left(to, i < 2 && line > 0 ? plus(d[i], load_left(to, channels - c)) : d[i], channels - c);
      }
    }
  }
}

// Calls work(first line of tiles, lines, memory of the thread) for blocks of a share of the lines for each thread.
// Shares are multiples of `unit` lines.
template <class Work>
void for_blocks(const Layer& layer, int64_t lines, int64_t unit, int64_t threads, int64_t each, float* scratch,
                Work work) {
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), there = omp_get_num_threads();
    float* const mine = scratch + thread * each;
    std::memset(mine, 0, sizeof(float) * kSide * layer.row());
    const int64_t units = lines / unit, first = units * thread / there * unit, end = units * (thread + 1) / there * unit;
    for (int64_t line = first; line < end; line += layer.lines())
      work(line, std::min(layer.lines(), end - line), mine);
  }
}

}  // namespace

extern "C" {

// u [36] times panels of [channels_in, 16] and its transposes, panels of [channels, 16]; pads are zeros. `weight` is
// [channels, channels_in, 3, 3] with strides of its own.
void spacte_winograd_weights(const float* weight, int64_t out_stride, int64_t in_stride, int64_t row_stride,
                             int64_t column_stride, int64_t channels_in, int64_t channels, int64_t threads, float* u,
                             float* transposed) {
  const int64_t in = panels(channels_in) * kPanel, out = panels(channels) * kPanel;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < in * out / (kPanel * kPanel); ++block) {
    const int64_t k = block / (in / kPanel), c = block % (in / kPanel);
    float made[kProducts][kPanel][kPanel];
    for (int64_t row = 0; row < kPanel; ++row) {
      float g[9][kPanel] = {};
      if (c * kPanel + row < channels_in)
        for (int64_t lane = 0; lane < std::min(kPanel, channels - k * kPanel); ++lane) {
          const float* from = weight + (k * kPanel + lane) * out_stride + (c * kPanel + row) * in_stride;
          for (int i = 0; i < 9; ++i) g[i][lane] = from[i / 3 * row_stride + i % 3 * column_stride];
        }
      for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
        Floats half[kSide][3];
        for (int j = 0; j < 3; ++j) {
          const Floats column[3] = {load(g[j] + lane), load(g[3 + j] + lane), load(g[6 + j] + lane)};
          Floats y[kSide];
          weights_into(column, y);
          for (int i = 0; i < kSide; ++i) half[i][j] = y[i];
        }
        for (int i = 0; i < kSide; ++i) {
          Floats y[kSide];
          weights_into(half[i], y);
          for (int j = 0; j < kSide; ++j) store(made[i * kSide + j][row] + lane, y[j]);
        }
      }
    }
    for (int64_t p = 0; p < kProducts; ++p) {
      std::memcpy(u + ((p * (out / kPanel) + k) * in + c * kPanel) * kPanel, made[p], sizeof made[p]);
      float* to = transposed + ((p * (in / kPanel) + c) * out + k * kPanel) * kPanel;
      for (int64_t row = 0; row < kPanel; ++row)
        for (int64_t lane = 0; lane < kPanel; ++lane) to[row * kPanel + lane] = made[p][lane][row];
    }
  }
}

// Values of scratch memory that a thread needs.
int64_t spacte_winograd_step_scratch(int64_t height, int64_t width, int64_t channels_in, int64_t channels) {
  const Layer layer{height, width, channels_in, channels};
  return kSide * layer.row() + kProducts * (layer.stride(channels_in) + layer.stride(channels));
}

// y = relu?( x * weight + bias? + other? ); bias and other may be null, and other may be y.
void spacte_winograd_forward(const float* x, const float* u, const float* bias, const float* other, int64_t relu,
                             int64_t images, int64_t height, int64_t width, int64_t channels_in, int64_t channels,
                             int64_t threads, float* scratch, float* y) {
  const Layer layer{height, width, channels_in, channels};
  const int64_t each = spacte_winograd_step_scratch(height, width, channels_in, channels), down = layer.down();
  for_blocks(layer, images * down, 1, threads, each, scratch, [&](int64_t first, int64_t lines, float* halves) {
    float *v = halves + kSide * layer.row(), *m = v + kProducts * layer.stride(channels_in);
    for (int64_t i = 0; i < lines; ++i)
      line_into(layer, x + (first + i) / down * height * width * channels_in, (first + i) % down, halves,
                v + i * layer.across() * kPanel);
    multiply_all(layer, lines * layer.across(), channels_in, channels, v, u, m);
    for (int64_t i = 0; i < lines; ++i) {
      const int64_t image = (first + i) / down * height * width * channels;
      line_out_of(layer, m + i * layer.across() * kPanel, (first + i) % down, bias, other ? other + image : nullptr,
                  relu != 0, y + image);
    }
  });
}

// The gradients of x and of the weights from that of y; either may be null. `sums`: `threads` times as many values as u.
// `d_weight` is [channels, channels_in, 3, 3], contiguous.
void spacte_winograd_backward(const float* x, const float* dy, const float* transposed, int64_t images, int64_t height,
                              int64_t width, int64_t channels_in, int64_t channels, int64_t threads, float* scratch,
                              float* sums, float* dx, float* d_weight) {
  const Layer layer{height, width, channels_in, channels};
  const int64_t each = spacte_winograd_step_scratch(height, width, channels_in, channels), down = layer.down();
  if (d_weight) std::memset(sums, 0, sizeof(float) * threads * layer.weights());
  for_blocks(layer, images * down, down, threads, each, scratch, [&](int64_t first, int64_t lines, float* halves) {
    float *v = halves + kSide * layer.row(), *m = v + kProducts * layer.stride(channels_in);
    const int64_t tiles = lines * layer.across();
    for (int64_t i = 0; i < lines; ++i)
      line_out_of_adjoint(layer, dy + (first + i) / down * height * width * channels, (first + i) % down,
                          m + i * layer.across() * kPanel);
    if (d_weight) {
      for (int64_t i = 0; i < lines; ++i)
        line_into(layer, x + (first + i) / down * height * width * channels_in, (first + i) % down, halves,
                  v + i * layer.across() * kPanel);
      add_products(layer, tiles, v, m, sums + omp_get_thread_num() * layer.weights());
    }
    if (dx) {
      multiply_all(layer, tiles, channels, channels_in, m, transposed, v);
      for (int64_t i = 0; i < lines; ++i)
        line_into_adjoint(layer, v + i * layer.across() * kPanel, (first + i) % down, halves,
                          dx + (first + i) / down * height * width * channels_in);
      std::memset(halves, 0, sizeof(float) * kSide * layer.row());
    }
  });
  if (!d_weight) return;
  const int64_t in = panels(channels_in) * kPanel, out = panels(channels) * kPanel;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < out; k += kLanes)
    for (int64_t c = 0; c < channels_in; ++c) {
      Floats half[3][kSide];
      for (int j = 0; j < kSide; ++j) {
        Floats column[kSide], g[3];
        for (int i = 0; i < kSide; ++i) {
          const int64_t p = i * kSide + j;
          const float* from = sums + ((p * (out / kPanel) + k / kPanel) * in + c) * kPanel + k % kPanel;
          column[i] = load(from);
          for (int64_t thread = 1; thread < threads; ++thread)
            column[i] = plus(column[i], load(from + thread * layer.weights()));
        }
        weights_adjoint(column, g);
        for (int i = 0; i < 3; ++i) half[i][j] = g[i];
      }
      for (int i = 0; i < 3; ++i) {
        Floats g[3];
        weights_adjoint(half[i], g);
        for (int j = 0; j < 3; ++j) {
          float made[kLanes];
          store(made, g[j]);
          for (int64_t lane = 0; lane < std::min(kLanes, channels - k); ++lane)
            d_weight[((k + lane) * channels_in + c) * 9 + i * 3 + j] = made[lane];
        }
      }
    }
}
}
