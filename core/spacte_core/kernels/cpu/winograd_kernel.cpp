// 3 x 3 convolutions of float32 maps [H, W, C] with a quarter of the multiplications, by Winograd's F(4 x 4, 3 x 3).
// `winograd.py` computes G g G^T in float64 and says what errors are left.
//
// Layers run one after the other on a few images at a time, whose maps stay in the second-level cache; such groups
// of images are shared out to threads. Every value is computed by the same operations in the same order whatever
// its place in a group or block, so that a row's result is its own.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "winograd_transforms.h"

namespace {

constexpr int64_t kBlockValues = 768;  // tiles of a block times channels: a block's products stay near the core
constexpr int kVectors = kLanes == 16 ? 4 : 2;  // of the results whose sums are kept in registers at a time

// One of the 36 products, for ROWS tiles and all VECTORS * kLanes channels, in the place of its first factor: panels of
// kLanes channels, each [tiles, kLanes], `stride` values from one to the next. Some of the channels' sums at a time.
template <int ROWS, int VECTORS>
inline void multiply_rows(int64_t panels, const float* weight, float* values, int64_t stride) {
  constexpr int kSome = VECTORS < kVectors ? VECTORS : kVectors;
  float made[VECTORS > kSome ? VECTORS : 1][ROWS * kLanes];
#pragma GCC unroll 1
  for (int first = 0; first < VECTORS; first += kSome) {
    Floats sum[ROWS][kSome];
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < kSome; ++i) sum[r][i] = all(0.0f);
    const float* from = weight + first * kLanes;
    for (int64_t panel = 0; panel < panels; ++panel)
#pragma GCC unroll 4
      for (int k = 0; k < kLanes; ++k, from += VECTORS * kLanes) {
        Floats w[kSome];
#pragma GCC unroll 4
        for (int i = 0; i < kSome; ++i) w[i] = load(from + i * kLanes);
#pragma GCC unroll 32
        for (int r = 0; r < ROWS; ++r) {
          const Floats value = all(values[panel * stride + r * kLanes + k]);
#pragma GCC unroll 4
          for (int i = 0; i < kSome; ++i) sum[r][i] = plus_product(sum[r][i], value, w[i]);
        }
      }
#pragma GCC unroll 32
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < kSome; ++i)
        store(VECTORS > kSome ? made[first + i] + r * kLanes : values + i * stride + r * kLanes, sum[r][i]);
  }
  if constexpr (VECTORS > kSome)  // the last sums have read the values
    for (int i = 0; i < VECTORS; ++i)
      for (int r = 0; r < ROWS; ++r) store(values + i * stride + r * kLanes, load(made[i] + r * kLanes));
}

// The tiles that are left over are taken by halves.
template <int ROWS, int VECTORS>
void multiply(int64_t tiles, int64_t panels, const float* weight, float* values, int64_t stride) {
  int64_t t = 0;
  for (; t + ROWS <= tiles; t += ROWS) multiply_rows<ROWS, VECTORS>(panels, weight, values + t * kLanes, stride);
  if constexpr (ROWS > 1) {
    if (t < tiles) multiply<(ROWS + 1) / 2, VECTORS>(tiles - t, panels, weight, values + t * kLanes, stride);
  }
}

}  // namespace

extern "C" {

// relu?( convolution of `source` + bias + `other`? ) into `target`; the three are numbers of maps, `other` may be -1
// and may be the target.
struct Layer {
  const float* weight;  // [36, channels_in, channels]
  const float* bias;    // [channels]
  int64_t channels_in, channels, height, width, relu, source, other, target;
};

// Values of a map of one image, all images' one after the other; without data it lies in the scratch memory.
struct Map {
  float* data;
  int64_t values;
};
}

namespace {

// Tiles that are worked on together. A product takes the place of what it was made from.
struct Block {
  int64_t rows, tiles, panel, stride;  // `panel`: values of kLanes channels; `stride`: of one of the 36 products

  explicit Block(const Layer& layer) {
    const int64_t across = layer.width / kTile, widest = std::max(layer.channels_in, layer.channels);
    rows = std::max<int64_t>(kBlockValues / widest / across, 1);
    tiles = rows * across;
    panel = tiles * kLanes;
    stride = tiles * widest + kLanes;  // not a power of two: the 36 would fall into the same lines of the cache
  }
};

int64_t padded(const Layer& layer) { return (layer.width + 2) * kLanes; }

int64_t working_values(const Layer& layer) {
  return layer.width * layer.channels_in + kSide * padded(layer) + kProducts * Block(layer).stride;
}

// B^T d B of a row of tiles, to v + product * block.stride + panel * block.panel + tile * kLanes.
void row_into(const Layer& layer, const Block& block, const float* image, int64_t tile_row, const float* zeros,
              float* halves, float* v) {
  const int64_t row = layer.width * layer.channels_in, line = padded(layer);
  const float* lines[kSide];
  for (int64_t i = 0; i < kSide; ++i) {
    const int64_t y = tile_row * kTile + i - 1;
    lines[i] = 0 <= y && y < layer.height ? image + y * row : zeros;
  }
  for (int64_t c = 0; c < layer.channels_in; c += kLanes, v += block.panel) {
    for (int64_t x = 0; x < layer.width; ++x) {
      Floats d[kSide], y[kSide];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) d[i] = load(lines[i] + x * layer.channels_in + c);
      into(d, y);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) store(halves + i * line + (x + 1) * kLanes, y[i]);
    }
    for (int64_t tile = 0; tile < layer.width / kTile; ++tile)
      for (int i = 0; i < kSide; ++i) {
        const float* from = halves + i * line + tile * kTile * kLanes;
        Floats d[kSide], y[kSide];
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) d[j] = load(from + j * kLanes);
        into(d, y);
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) store(v + (i * kSide + j) * block.stride + tile * kLanes, y[j]);
      }
  }
}

// A^T m A of a row of tiles, plus bias and `other`, through the ReLU.
template <bool OTHER, bool RELU>
void row_out_of(const Layer& layer, const Block& block, const float* m, const float* other, float* image) {
  const int64_t channels = layer.channels, row = layer.width * channels;
  for (int64_t c = 0; c < channels; c += kLanes, m += block.panel) {
    const Floats bias = load(layer.bias + c);
    for (int64_t tile = 0; tile < layer.width / kTile; ++tile) {
      Floats half[kTile][kSide];
#pragma GCC unroll 6
      for (int j = 0; j < kSide; ++j) {
        Floats column[kSide], y[kTile];
#pragma GCC unroll 6
        for (int i = 0; i < kSide; ++i) column[i] = load(m + (i * kSide + j) * block.stride + tile * kLanes);
        out_of(column, y);
#pragma GCC unroll 4
        for (int i = 0; i < kTile; ++i) half[i][j] = y[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < kTile; ++i) {
        Floats y[kTile];
        out_of(half[i], y);
        const int64_t at = i * row + tile * kTile * channels + c;
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) {
          Floats value = plus(y[j], bias);
          if (OTHER) value = plus(value, load(other + at + j * channels));
          if (RELU) value = larger(all(0.0f), value);  // no number stays none
          store(image + at + j * channels, value);
        }
      }
    }
  }
}

void multiply(const Layer& layer, const Block& block, int64_t tiles, float* products) {
  constexpr bool kWide = kLanes == 16;
  const auto by_rows = layer.channels == 64   ? multiply<6, 64 / kLanes>
                       : layer.channels == 32 ? multiply<kWide ? 12 : 6, 32 / kLanes>
                                              : multiply<kWide ? 16 : 6, 16 / kLanes>;
  for (int64_t p = 0; p < kProducts; ++p)
    by_rows(tiles, layer.channels_in / kLanes, layer.weight + p * layer.channels_in * layer.channels,
            products + p * block.stride, block.panel);
}

void convolve(const Layer& layer, int64_t images, const float* source, const float* other, float* target,
              float* scratch) {
  const Block block(layer);
  const int64_t row = layer.width * layer.channels_in;
  float *zeros = scratch, *halves = zeros + row, *products = halves + kSide * padded(layer);
  std::memset(zeros, 0, sizeof(float) * (row + kSide * padded(layer)));
  const int64_t down = layer.height / kTile, across = layer.width / kTile, rows = images * down;
  const int64_t strip = kTile * layer.width * layer.channels;
  const auto out_of_tiles = other ? (layer.relu ? row_out_of<true, true> : row_out_of<true, false>)
                                  : (layer.relu ? row_out_of<false, true> : row_out_of<false, false>);
  for (int64_t first = 0; first < rows; first += block.rows) {
    const int64_t here = std::min(block.rows, rows - first);
    for (int64_t r = 0; r < here; ++r)
      row_into(layer, block, source + (first + r) / down * layer.height * row, (first + r) % down, zeros, halves,
               products + r * across * kLanes);
    multiply(layer, block, here * across, products);
    for (int64_t r = 0; r < here; ++r)
      out_of_tiles(layer, block, products + r * across * kLanes, other ? other + (first + r) * strip : nullptr,
                   target + (first + r) * strip);
  }
}

}  // namespace

extern "C" {

// Values of scratch memory that a thread needs for groups of up to `group` images.
int64_t spacte_winograd_scratch(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count,
                                int64_t group) {
  int64_t most = 0, own = 0;
  for (int64_t i = 0; i < layer_count; ++i) most = std::max(most, working_values(layers[i]));
  for (int64_t i = 0; i < map_count; ++i) own += maps[i].data ? 0 : maps[i].values * group;
  return own + most;
}

// The layers, in this order, for all images. `scratch` has as many values for each thread as the function above says.
void spacte_winograd(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count, int64_t images,
                     int64_t group, int64_t threads, float* scratch) {
  const int64_t each = spacte_winograd_scratch(layers, layer_count, maps, map_count, group);
  const int64_t groups = (images + threads * group - 1) / (threads * group) * threads;  // as many for every thread
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = images * g / groups, here = images * (g + 1) / groups - first;
    float* const mine = scratch + omp_get_thread_num() * each;
    const auto data = [&](int64_t number) {
      if (maps[number].data) return maps[number].data + first * maps[number].values;
      float* at = mine;
      for (int64_t i = 0; i < number; ++i) at += maps[i].data ? 0 : maps[i].values * group;
      return at;
    };
    float* rest = mine;
    for (int64_t i = 0; i < map_count; ++i) rest += maps[i].data ? 0 : maps[i].values * group;
    for (int64_t i = 0; i < layer_count; ++i) {
      const Layer& layer = layers[i];
      const float* other = layer.other < 0 ? nullptr : data(layer.other);
      convolve(layer, here, data(layer.source), other, data(layer.target), rest);
    }
  }
}
}
