// 3 x 3 convolutions of maps [B, H, W, C] of any size, padded by one, and their gradients, layer by layer, by Winograd's
// F(4 x 4, 3 x 3): maps in float32 or bfloat16. Between them all is in float32, or the factors of products are rounded to
// bfloat16. `winograd_layers.py` and `winograd_training.py` say when they are used.
//
// In the transformed domain a convolution is 36 products of matrices, M = V U with V = B^T d B of the maps and
// U = G g G^T of the weights, and so are its gradients: dV = dM U^T and dU = V^T dM with dM = A dy A^T; the adjoint
// transforms lead out of it, dx = B dV B^T summed where tiles overlap, and dg = G^T dU G. Lines of tiles are worked on
// in blocks, whose V and M stay in a cache while all channels pass over them.
//
// A matrix is kept in panels of 16 of its columns, each [rows, 16], filled up with columns of zeros. T is the type of maps,
// P that of a product's factors: V, U and dM. Every value of a map
// and of its gradient is computed by the same operations in the same order whatever its place in a block; the sums of
// the gradient of weights depend on the number of threads.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "winograd_blocks.h"

namespace {

// Tiles of a block: measured on an AMD EPYC (Zen 3, and Zen 4 for bfloat16) for 64 and 256 channels.
template <class P>
constexpr int64_t kBlockTiles = 192 / sizeof(P);

template <class T, class P>
void forward(const Layer& layer, const T* x, const P* u, const float* bias, const T* other, bool relu,
             int64_t images, int64_t threads, float* scratch, T* y) {
  const int64_t down = layer.down(), channels_in = layer.channels_in, channels = layer.channels;
  const int64_t pixels = layer.height * layer.width;
  for_blocks(layer, images * down, 1, threads, scratch, [&](int64_t first, int64_t lines, int64_t next, float* halves) {
    float* const after = halves + kSide * layer.row() + layer.carry();
    P* const v = (P*)after;
    float* const m = after + kProducts * layer.stride(channels_in);
    for (int64_t i = 0; i < lines; ++i)
      line_into(layer, x + (first + i) / down * pixels * channels_in, (first + i) % down, halves,
                v + i * layer.across() * kPanel);
    fetch(layer, channels_in, x, first + lines, next);
    multiply_all(layer, lines * layer.across(), channels_in, channels, v, u, m);
    for (int64_t i = 0; i < lines; ++i) {
      const int64_t image = (first + i) / down * pixels * channels;
      line_out_of(layer, m + i * layer.across() * kPanel, (first + i) % down, bias, other ? other + image : nullptr,
                  relu, y + image);
    }
  });
}

template <class T, class P>
void backward(const Layer& layer, const T* x, const T* dy, const P* transposed, int64_t images, int64_t threads,
              float* scratch, float* sums, T* dx, float* d_weight) {
  const int64_t down = layer.down(), channels_in = layer.channels_in, channels = layer.channels;
  const int64_t pixels = layer.height * layer.width;
  if (d_weight) std::memset(sums, 0, sizeof(float) * threads * layer.weights());
  for_blocks(layer, images * down, down, threads, scratch, [&](int64_t first, int64_t lines, int64_t next, float* halves) {
    float *carry = halves + kSide * layer.row(), *dv = carry + layer.carry();
    P *const v = (P*)dv, *const m = (P*)(dv + kProducts * layer.stride(channels_in));
    P* const pairs = (P*)(dv + kProducts * (layer.stride(channels_in) + layer.stride(channels)));
    const int64_t tiles = lines * layer.across();
    for (int64_t i = 0; i < lines; ++i)
      line_out_of_adjoint(layer, dy + (first + i) / down * pixels * channels, (first + i) % down,
                          m + i * layer.across() * kPanel);
    if (d_weight) {
      for (int64_t i = 0; i < lines; ++i)
        line_into(layer, x + (first + i) / down * pixels * channels_in, (first + i) % down, halves,
                  v + i * layer.across() * kPanel);
      fetch(layer, channels_in, x, first + lines, next);
      add_products(layer, tiles, v, m, pairs, sums + omp_get_thread_num() * layer.weights());
    }
    if (dx) {
      fetch(layer, channels, dy, first + lines, next);
      multiply_all(layer, tiles, channels, channels_in, m, transposed, dv);
      for (int64_t i = 0; i < lines; ++i)
        line_into_adjoint(layer, dv + i * layer.across() * kPanel, (first + i) % down, halves, carry,
                          dx + (first + i) / down * pixels * channels_in);
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

// u [36] times panels of [channels_in, 16], and its transposes, panels of [channels, 16]; either may be null. Pads are
// zeros. `weight` is [channels, channels_in, 3, 3] with strides of its own.
template <class P>
void transform(const float* weight, int64_t out_stride, int64_t in_stride, int64_t row_stride, int64_t column_stride,
               int64_t channels_in, int64_t channels, int64_t threads, P* u, P* transposed) {
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
      if (u) store_block(made[p], u + ((p * (out / kPanel) + k) * in + c * kPanel) * kPanel);
      if (!transposed) continue;
      float turned[kPanel][kPanel];
      for (int64_t row = 0; row < kPanel; ++row)
        for (int64_t lane = 0; lane < kPanel; ++lane) turned[row][lane] = made[p][lane][row];
      store_block(turned, transposed + ((p * (in / kPanel) + c) * out + k * kPanel) * kPanel);
    }
  }
}

// work(a value of the type of a product's factors)
template <class Work>
void with_factors([[maybe_unused]] int64_t half, Work work) {
#ifdef __AVX512BF16__
  if (half) return work(bf16());
#endif
  work(0.0f);
}

// work(a value of the type of maps, another of the type of factors)
template <class Work>
void with_types(int64_t half, int64_t half_factors, Work work) {
  if (!half) return work(0.0f, 0.0f);
  with_factors(half_factors, [&](auto factor) { work(bf16(), factor); });
}

}  // namespace

extern "C" {

// Whether products of values in bfloat16 are compiled.
int64_t spacte_winograd_halves() {
#ifdef __AVX512BF16__
  return 1;
#else
  return 0;
#endif
}

// `weight` is [channels, channels_in, 3, 3] with strides of its own; `half`: whether u and its transposes are in bfloat16.
void spacte_winograd_weights(int64_t half, const float* weight, int64_t out_stride, int64_t in_stride,
                             int64_t row_stride, int64_t column_stride, int64_t channels_in, int64_t channels,
                             int64_t threads, void* u, void* transposed) {
  with_factors(half, [&](auto factor) {
    typedef decltype(factor) P;
    transform(weight, out_stride, in_stride, row_stride, column_stride, channels_in, channels, threads, (P*)u,
              (P*)transposed);
  });
}

// Values of scratch memory that a thread needs.
int64_t spacte_winograd_step_scratch(int64_t half, int64_t height, int64_t width, int64_t channels_in,
                                     int64_t channels) {
  int64_t values = 0;
  with_factors(half, [&](auto factor) {
    values = Layer{height, width, channels_in, channels, kBlockTiles<decltype(factor)>}.scratch();
  });
  return values;
}

// y = relu?( x * weight + bias? + other? ); bias and other may be null, and other may be y. Maps are in bfloat16 where
// `half` is not 0, and u where `half_factors` is not, for maps in bfloat16 alone.
void spacte_winograd_forward(int64_t half, int64_t half_factors, const void* x, const void* u, const float* bias,
                             const void* other, int64_t relu, int64_t images, int64_t height, int64_t width,
                             int64_t channels_in, int64_t channels, int64_t threads, float* scratch, void* y) {
  with_types(half, half_factors, [&](auto value, auto factor) {
    typedef decltype(value) T;
    typedef decltype(factor) P;
    forward(Layer{height, width, channels_in, channels, kBlockTiles<P>}, (const T*)x, (const P*)u, bias, (const T*)other,
            relu != 0, images, threads, scratch, (T*)y);
  });
}

// The gradients of x and of the weights from that of y; either may be null. `sums`: `threads` times as many values as u.
// `d_weight` is [channels, channels_in, 3, 3] in float32, contiguous. Types as above.
void spacte_winograd_backward(int64_t half, int64_t half_factors, const void* x, const void* dy,
                              const void* transposed, int64_t images, int64_t height, int64_t width,
                              int64_t channels_in, int64_t channels, int64_t threads, float* scratch, float* sums,
                              void* dx, float* d_weight) {
  with_types(half, half_factors, [&](auto value, auto factor) {
    typedef decltype(value) T;
    typedef decltype(factor) P;
    backward(Layer{height, width, channels_in, channels, kBlockTiles<P>}, (const T*)x, (const T*)dy,
             (const P*)transposed, images, threads, scratch, sums, (T*)dx, d_weight);
  });
}
}
