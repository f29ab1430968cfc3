// Layers and blocks of `winograd_layers_kernel.cpp`: how lines of tiles get into V and M and out of them, and the products
// of all of them.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "winograd_products.h"

namespace {

// Passed by value: what is written through a pointer to vectors could otherwise be one of its fields. `block`: tiles that
// are worked on together, about.
struct Layer {
  int64_t height, width, channels_in, channels, block;

  int64_t down() const { return (height + kTile - 1) / kTile; }
  int64_t across() const { return (width + kTile - 1) / kTile; }
  int64_t lines() const { return std::max<int64_t>(block / across(), 1); }  // of tiles, of a block
  int64_t tiles() const { return (lines() * across() + 1) / 2 * 2; }        // rows of a panel, by pairs
  int64_t row() const { return (kTile * across() + 2) * kLanes; }  // of a line of tiles, transformed in one direction
  int64_t carry() const { return 2 * width * panels(channels_in) * kPanel; }
  // From one of the 36 to the next; not a power of two, so that they fall into different lines of the cache.
  int64_t stride(int64_t of) const { return panels(of) * tiles() * kPanel + kPanel; }
  int64_t scratch() const {
    return kSide * row() + carry() + kProducts * (stride(channels_in) + stride(channels)) + tiles() * kPanel;
  }
  int64_t weights() const { return kProducts * panels(channels_in) * panels(channels) * kPanel * kPanel; }
};

// `to` = `from` times weights, 36 times: [tiles, in] times [in, out].
template <class P>
void multiply_all(const Layer layer, int64_t tiles, int64_t in, int64_t out, const P* from, const P* weights, float* to) {
  const int64_t panel = layer.tiles() * kPanel, deep = panels(in) * kPanel * kPanel;
  const int64_t in_stride = layer.stride(in), out_stride = layer.stride(out);
  for (int64_t p = 0; p < kProducts; ++p)
    for (int64_t k = 0; k < panels(out); ++k, weights += deep)
      multiply<kRows>(tiles, panels(in), from + p * in_stride, panel, weights, to + p * out_stride + k * panel);
}

// sums += v^T m, 36 times: panels of [channels_in, 16]. Pairs what is in v; `pairs` is room for a panel.
template <class P>
void add_products(const Layer layer, int64_t tiles, P* v, P* m, P* pairs, float* sums) {
  const int64_t panel = layer.tiles() * kPanel, in = panels(layer.channels_in), out = panels(layer.channels);
  const int64_t in_stride = layer.stride(layer.channels_in), out_stride = layer.stride(layer.channels);
  for (int64_t p = 0; p < kProducts; ++p) {
    for (int64_t c = 0; c < in; ++c) {
      P* const a = v + p * in_stride + c * panel;
      paired(tiles, a, a);
    }
    for (int64_t k = 0; k < out; ++k) {
      const P* const b = paired(tiles, m + p * out_stride + k * panel, pairs);
      for (int64_t c = 0; c < in; ++c, sums += kPanel * kPanel) add(tiles, v + p * in_stride + c * panel, b, sums);
    }
  }
}

// v = B^T d B of a line of tiles. `halves`: 6 rows, whose borders are zeros and stay so.
template <class T, class P>
void line_into(const Layer layer, const T* image, int64_t line, float* halves, P* v) {
  const int64_t channels = layer.channels_in, panel = layer.tiles() * kPanel, stride = layer.stride(channels);
  static const T zeros[kLanes] = {};
  const int64_t row = layer.row(), width = layer.width, across = layer.across();
  for (int64_t c = 0; c < panels(channels) * kPanel; c += kLanes) {
    const T* from[kSide];
    int64_t step[kSide];
    for (int i = 0; i < kSide; ++i) {
      const int64_t at = line * kTile + i - 1;
      const bool inside = 0 <= at && at < layer.height && c < channels;
      from[i] = inside ? image + at * width * channels + c : zeros;
      step[i] = inside ? channels : 0;
    }
    for (int64_t x = 0; x < width; ++x) {
      Floats d[kSide], y[kSide];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) d[i] = load_left(from[i] + x * step[i], channels - c);
      into(d, y);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) store(halves + i * row + (x + 1) * kLanes, y[i]);
    }
    P* to = v + c / kPanel * panel + c % kPanel;
    for (int64_t tile = 0; tile < across; ++tile, to += kPanel)
      for (int i = 0; i < kSide; ++i) {
        const float* half = halves + i * row + tile * kTile * kLanes;
        Floats d[kSide], y[kSide];
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) d[j] = load(half + j * kLanes);
        into(d, y);
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) store(to + (i * kSide + j) * stride, y[j]);
      }
  }
}

// relu?( A^T m A + bias? + other? ) of a line of tiles, as far as it lies in the map; `other` may be the result's place.
template <class T>
void line_out_of(const Layer layer, const float* m, int64_t line, const float* bias, const T* other, bool relu,
                 T* image) {
  const int64_t channels = layer.channels, panel = layer.tiles() * kPanel, stride = layer.stride(channels);
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
        for (int i = 0; i < kSide; ++i) column[i] = load(from + (i * kSide + j) * stride);
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
template <class T, class P>
void line_out_of_adjoint(const Layer layer, const T* image, int64_t line, P* m) {
  const int64_t channels = layer.channels, panel = layer.tiles() * kPanel, stride = layer.stride(channels);
  for (int64_t c = 0; c < panels(channels) * kPanel; c += kLanes) {
    P* to = m + c / kPanel * panel + c % kPanel;
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
        for (int j = 0; j < kSide; ++j) store(to + (i * kSide + j) * stride, row[j]);
      }
    }
  }
}

// dx = B v B^T of a line of tiles, summed where it overlaps with the line before: what the last two of its six rows have
// is carried to the next one in `carry`, two rows of the map in float32.
template <class T>
void line_into_adjoint(const Layer layer, const float* v, int64_t line, float* halves, float* carry, T* image) {
  const int64_t channels = layer.channels_in, panel = layer.tiles() * kPanel, stride = layer.stride(channels);
  const bool last = line + 1 == layer.down();
  for (int64_t c = 0; c < panels(channels) * kPanel; c += kLanes) {
    const float* from = v + c / kPanel * panel + c % kPanel;
    for (int64_t tile = 0; tile < layer.across(); ++tile, from += kPanel)
      for (int i = 0; i < kSide; ++i) {
        float* to = halves + i * layer.row() + tile * kTile * kLanes;
        Floats y[kSide], d[kSide];
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) y[j] = load(from + (i * kSide + j) * stride);
        into_adjoint(y, d);
        if (tile > 0) d[0] = plus(d[0], load(to)), d[1] = plus(d[1], load(to + kLanes));  // of the tile before
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) store(to + j * kLanes, d[j]);
      }
    for (int64_t x = 0; x < layer.width; ++x) {
      Floats y[kSide], d[kSide];
      float* const carried = carry + 2 * c * layer.width + x * kLanes;
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) y[i] = load(halves + i * layer.row() + (x + 1) * kLanes);
      into_adjoint(y, d);
      if (line > 0) d[0] = plus(d[0], load(carried)), d[1] = plus(d[1], load(carried + kLanes * layer.width));
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) {
        const int64_t at = line * kTile + i - 1;
        if (i >= kTile && !last)
          store(carried + (i - kTile) * kLanes * layer.width, d[i]);
        else if (0 <= at && at < layer.height)
          store_left(image + (at * layer.width + x) * channels + c, d[i], channels - c);
      }
    }
  }
}

// Brings the map's pixels under some lines of tiles nearer to the core, while it works on what is there.
template <class T>
void fetch(const Layer& layer, int64_t channels, const T* maps, int64_t first, int64_t lines) {
  const int64_t down = layer.down(), values = layer.width * channels;
  for (int64_t line = first; line < first + lines; ++line) {
    const int64_t top = line % down * kTile, rows = std::min(kTile, layer.height - top);
    const T* from = maps + (line / down * layer.height + top) * values;
    for (int64_t i = 0; i < rows * values; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
  }
}

// Calls work(first line of tiles, lines, lines of the next block, memory of the thread) for blocks of a share of the lines
// for each thread. Shares are multiples of `unit` lines.
template <class Work>
void for_blocks(const Layer& layer, int64_t lines, int64_t unit, int64_t threads, float* scratch, Work work) {
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), there = omp_get_num_threads();
    float* const mine = scratch + thread * layer.scratch();
    std::memset(mine, 0, sizeof(float) * kSide * layer.row());
    const int64_t units = lines / unit, first = units * thread / there * unit, end = units * (thread + 1) / there * unit;
    for (int64_t line = first; line < end; line += layer.lines()) {
      const int64_t here = std::min(layer.lines(), end - line);
      work(line, here, std::min(layer.lines(), end - line - here), mine);
    }
  }
}

}  // namespace
