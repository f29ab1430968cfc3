// 3 x 3 convolutions of codes with stride 1 in a quarter of the products, and not one bit else: Winograd's F(4 x 4, 3 x 3)
// in whole numbers.
//
// A tile of 4 x 4 results is A^T [ (G g G^T) . (B^T d B) ] A, with d the 6 x 6 inputs that it hangs on and the points 0,
// +-1, +-2 and infinity (Lavin and Gray 2016). All of B is whole, and a 24 for either side makes G and A whole:
//
//   B^T d of codes 0..255 has values of up to 8 * 255, B^T d B of up to 68 * 255 = 17,340;
//   24 G g (24 G)^T of weights -128..127, the last row of G by 12 and A's share of it by 2: up to 144 * 128 = 18,432.
//
// Both are words of 16 bits, and two of their products fit 32. The sums are taken modulo 2^32, where A gives 576 = 64 * 9
// times the convolution's: the inverse of 9 leaves 64 times, and a shift the very sum, as long as that lies within
// 2^25. `code_winograd.py` transforms the weights, and takes only layers whose sums do.
//
// A few tiles, a batch, are transformed at a time; then eight filters after the other, whose 36 sums of each tile stay
// near the core until they are transformed back.
#pragma once

#include "chain_kinds.h"
#include "chain_walk.h"

namespace {

constexpr int64_t kByWinograd = 1;  // the shape of a layer that this computes

template <class Kind>
struct Winograd {
  typedef typename Kind::Integers Integers;
  static constexpr int64_t kTile = 4, kSide = 6, kProducts = kSide * kSide;
  static constexpr int64_t kUnit = Kind::kUnit, kPairs = kUnit / 2, kCell = 4 * Kind::kLanes;
  static constexpr int64_t kBlock = 4, kFilters = 8;  // filters of a step, and those that are taken together
  static constexpr int64_t kWeight = 4 * kBlock;      // bytes of a step's weights
  static constexpr int kTiles = Kind::kPixels == 4 ? 4 : 2;  // of a step, as many as registers hold sums of
  static constexpr int64_t kBatchBytes = 160 << 10;  // of a batch's transformed inputs: they fit a second-level cache
  static constexpr int64_t kAhead = 4096;  // bytes that weights are fetched ahead: a layer has more than stay in the cache

  // What a layer needs, and how its tiles are taken.
  struct Plan {
    int64_t pairs, across, tiles, batch;  // pairs of channels, tiles of a row and of a map and of a batch
    int64_t step, sum_step;               // bytes from one of the 36 products to the next: of their inputs, of their sums

    Plan(const Layer& layer, int64_t channels_in) {
      pairs = (channels_in + kUnit - 1) / kUnit * kPairs;
      across = (layer.width + kTile - 1) / kTile;
      tiles = across * ((layer.height + kTile - 1) / kTile);
      batch = std::min(std::max<int64_t>(kBatchBytes / (kProducts * pairs * kCell), 2), tiles);
      step = batch * pairs * kCell + kLine;  // not a power of two: the 36 would fall into the same lines of the cache
      sum_step = batch * kFilters * kCell + kLine;
    }

    int64_t columns() const { return kTile * std::min(batch, across) + 2; }
    int64_t bytes() const { return kProducts * (step + sum_step) + kSide * columns() * kCell; }
  };

  // B^T d
  static SPACTE_ALWAYS void into(const Integers d[kSide], Integers y[kSide]) {
    const Integers a = Kind::minus_words(d[4], d[2]), b = Kind::template left_words<1>(Kind::minus_words(d[3], d[1]));
    const Integers even = Kind::minus_words(d[4], Kind::template left_words<2>(d[2]));
    const Integers odd = Kind::minus_words(d[3], Kind::template left_words<2>(d[1]));
    y[0] = Kind::plus_words(Kind::template left_words<2>(Kind::minus_words(d[0], d[2])), a);
    y[1] = Kind::plus_words(even, odd);
    y[2] = Kind::minus_words(even, odd);
    y[3] = Kind::plus_words(a, b);
    y[4] = Kind::minus_words(a, b);
    y[5] = Kind::minus_words(Kind::minus_words(d[5], d[3]), Kind::template left_words<1>(b));
  }

  // 24 A^T m, with the factors that are in the weights already.
  static SPACTE_ALWAYS void out_of(const Integers m[kSide], Integers y[kTile]) {
    const Integers s = Kind::plus(m[1], m[2]), d = Kind::minus(m[1], m[2]);
    const Integers t = Kind::plus(m[3], m[4]), e = Kind::minus(m[3], m[4]);
    y[0] = Kind::plus(Kind::plus(m[0], s), t);
    y[1] = Kind::plus(d, Kind::template left<1>(e));
    y[2] = Kind::plus(s, Kind::template left<2>(t));
    y[3] = Kind::plus(Kind::plus(d, Kind::template left<3>(e)), Kind::template left<1>(m[5]));
  }

  // B^T d B of tiles `first` to `last` of the row of tiles `down`, to v + product * step + tile * pairs * kCell + pair * kCell.
  // What lies beyond the border, for results that nobody wants, may be any codes.
  template <class Place>
  static void tiles_into(const Layer& layer, const Plan& plan, const Place& source, int64_t down, int64_t first, int64_t last,
                         char* halves, char* v) {
    const int64_t line = (kTile * (last - first) + 2) * kCell;
    const char* lines[kSide];
    for (int64_t i = 0; i < kSide; ++i) lines[i] = source.at(std::min(down * kTile + i - 1, layer.height), 0);
    for (int64_t pair = 0; pair < plan.pairs; ++pair) {
      const int64_t at = pair / kPairs * kCell;
      const int part = pair % kPairs;
      for (int64_t x = kTile * first - 1; x <= kTile * last; ++x) {
        const int64_t from = std::min(x, layer.width) * source.pixel + at;
        char* const to = halves + (x - kTile * first + 1) * kCell;
        Integers d[kSide], y[kSide];
        SPACTE_UNROLL for (int i = 0; i < kSide; ++i) d[i] = Kind::pair(Kind::load(lines[i] + from), part);
        into(d, y);
        SPACTE_UNROLL for (int i = 0; i < kSide; ++i) Kind::store(to + i * line, y[i]);
      }
      for (int64_t tile = 0; tile < last - first; ++tile)
        for (int i = 0; i < kSide; ++i) {
          const char* const from = halves + i * line + tile * kTile * kCell;
          char* const to = v + i * kSide * plan.step + (tile * plan.pairs + pair) * kCell;
          Integers d[kSide], y[kSide];
          SPACTE_UNROLL for (int j = 0; j < kSide; ++j) d[j] = Kind::load(from + j * kCell);
          into(d, y);
          SPACTE_UNROLL for (int j = 0; j < kSide; ++j) Kind::store(to + j * plan.step, y[j]);
        }
    }
  }

  // One of the 36 products of four filters at a few tiles, to [filters, tiles of a batch].
  template <int TILES>
  static __attribute__((noinline)) void block(int64_t pairs, int64_t filter, const char* weight, const char* v, char* sums_at) {
    Integers sums[kBlock][TILES];
    SPACTE_UNROLL for (int f = 0; f < kBlock; ++f) SPACTE_UNROLL for (int t = 0; t < TILES; ++t) sums[f][t] = Kind::zero();
    const int64_t bytes = pairs * kCell;
    for (const char* const end = v + bytes; v != end; v += kCell, weight += kWeight) {
      Integers pair[TILES];
      SPACTE_UNROLL for (int t = 0; t < TILES; ++t) pair[t] = Kind::load(v + t * bytes);
      SPACTE_UNROLL for (int f = 0; f < kBlock; ++f) {
        const Integers w = Kind::all(reinterpret_cast<const int32_t*>(weight)[f]);
        SPACTE_UNROLL for (int t = 0; t < TILES; ++t) sums[f][t] = Kind::plus_products_of_words(sums[f][t], pair[t], w);
      }
    }
    SPACTE_UNROLL for (int f = 0; f < kBlock; ++f)
      SPACTE_UNROLL for (int t = 0; t < TILES; ++t) Kind::store(sums_at + f * filter + t * kCell, sums[f][t]);
  }

  // One of the 36 products of `blocks` times four filters, for all tiles of a batch.
  static void multiply(const Plan& plan, int64_t tiles, int64_t blocks, const char* weight, const char* v, char* sums_at) {
    const int64_t pairs = plan.pairs, filter = plan.batch * kCell, bytes = pairs * kCell;
    for (int64_t b = 0; b < blocks; ++b, weight += pairs * kWeight, sums_at += kBlock * filter) {
      for (int64_t at = 0; at < pairs * kWeight; at += kLine) __builtin_prefetch(weight + kAhead + at);
      int64_t t = 0;
      for (; t + kTiles <= tiles; t += kTiles) block<kTiles>(pairs, filter, weight, v + t * bytes, sums_at + t * kCell);
      if constexpr (kTiles > 2)
        for (; t + 2 <= tiles; t += 2) block<2>(pairs, filter, weight, v + t * bytes, sums_at + t * kCell);
      for (; t < tiles; ++t) block<1>(pairs, filter, weight, v + t * bytes, sums_at + t * kCell);
    }
  }

  // A^T m A of one tile and the channels of a cell, and what follows a convolution.
  template <bool OTHER, class Place>
  static void tile_out_of(const Layer& layer, const Plan& plan, int64_t channel, int64_t tile, const char* m, const Place& other,
                          const Place& target) {
    const Integers inverse_of_9 = Kind::all(int32_t(0x38e38e39));
    const int64_t top = tile / plan.across * kTile, left = tile % plan.across * kTile, at = channel / kUnit * kCell;
    Integers half[kUnit][kTile][kSide];
    for (int f = 0; f < kUnit; ++f, m += plan.batch * kCell)
      SPACTE_UNROLL for (int j = 0; j < kSide; ++j) {
        Integers column[kSide], y[kTile];
        SPACTE_UNROLL for (int i = 0; i < kSide; ++i) column[i] = Kind::load(m + (i * kSide + j) * plan.sum_step);
        out_of(column, y);
        SPACTE_UNROLL for (int i = 0; i < kTile; ++i) half[f][i][j] = y[i];
      }
    const int64_t down = std::min(layer.height - top, kTile), right = std::min(layer.width - left, kTile);
    for (int64_t i = 0; i < down; ++i) {
      Integers row[kUnit][kTile];
      SPACTE_UNROLL for (int f = 0; f < kUnit; ++f) out_of(half[f][i], row[f]);
      SPACTE_UNROLL for (int j = 0; j < kTile; ++j) {
        Integers sums[kUnit];
        SPACTE_UNROLL for (int f = 0; f < kUnit; ++f)
          sums[f] = Kind::template right_signed<6>(Kind::times(row[f][j], inverse_of_9));
        const int64_t y = top + i, x = left + j;
        if (j < right) finish<Kind, OTHER, false>(layer, channel, sums, other.at(y, x) + at, target.at(y, x) + at);
      }
    }
  }

  template <bool OTHER, class Place>
  static void convolve(const Layer& layer, const Place& source, const Place& other, const Place& target, char* work) {
    const Plan plan(layer, source.pixel / kCell * kUnit);
    char *const v = work, *const m = v + kProducts * plan.step, *const halves = m + kProducts * plan.sum_step;
    for (int64_t first = 0; first < plan.tiles; first += plan.batch) {
      const int64_t end = std::min(first + plan.batch, plan.tiles);
      for (int64_t tile = first, next; tile < end; tile = next) {
        const int64_t down = tile / plan.across, left = tile % plan.across;
        next = std::min(end, (down + 1) * plan.across);
        tiles_into(layer, plan, source, down, left, left + next - tile, halves, v + (tile - first) * plan.pairs * kCell);
      }
      const char* weight = layer.weight;
      for (int64_t channel = 0; channel < layer.channels; channel += kFilters) {
        const int64_t here = std::min(layer.channels - channel, kFilters);
        for (int64_t p = 0; p < kProducts; ++p, weight += here * plan.pairs * 4)
          multiply(plan, end - first, here / kBlock, weight, v + p * plan.step, m + p * plan.sum_step);
        for (int64_t c = 0; c < here; c += kUnit)
          for (int64_t tile = first; tile < end; ++tile)
            tile_out_of<OTHER>(layer, plan, channel + c, tile, m + (c * plan.batch + tile - first) * kCell, other, target);
      }
    }
  }
};

}  // namespace
