// 3 x 3 convolutions with stride 1 in a quarter of the products: Winograd's F(4 x 4, 3 x 3), for codes in whole numbers and
// with not one bit else, for bfloat16 and float32 maps in float32.
//
// A tile of 4 x 4 results is A^T [ (G g G^T) . (B^T d B) ] A, with d the 6 x 6 inputs that it hangs on (Lavin and Gray 2016).
// A few tiles, a batch, are transformed at a time; then some filters after the others, whose 36 sums of each tile stay
// near the core until they are transformed back.
#pragma once

#include <type_traits>

#include "chain_kinds.h"
#include "chain_walk.h"
#include "winograd_points.h"

namespace {

constexpr int64_t kByWinograd = 1;  // the shape of a layer that this computes

// The points 0, +-1, +-2 and infinity. All of B is whole, and a 24 for either side makes G and A whole:
//
//   B^T d of codes 0..255 has values of up to 8 * 255, B^T d B of up to 68 * 255 = 17,340;
//   24 G g (24 G)^T of weights -128..127, the last row of G by 12 and A's share of it by 2: up to 144 * 128 = 18,432.
//
// Both are words of 16 bits, and two of their products fit 32. The sums are taken modulo 2^32, where A gives 576 = 64 * 9
// times the convolution's: the inverse of 9 leaves 64 times, and a shift the very sum, as long as that lies within
// 2^25. `chain_winograd.py` transforms the weights, and takes only layers whose sums do.
template <class Kind>
struct WholeNumbers {
  typedef typename Kind::Integers Vector;
  static constexpr int64_t kParts = Kind::kUnit / 2;  // of a cell: pairs of its channels
  static constexpr int64_t kFilters = 8, kBatchBytes = 160 << 10;

  static SPACTE_ALWAYS Vector load(const char* from) { return Kind::load(from); }
  static SPACTE_ALWAYS void store(char* to, Vector value) { Kind::store(to, value); }
  static SPACTE_ALWAYS Vector part(typename Kind::Integers cell, int i) { return Kind::pair(cell, i); }
  static SPACTE_ALWAYS Vector zero() { return Kind::zero(); }
  static SPACTE_ALWAYS Vector weight(const char* from) { return Kind::all(*reinterpret_cast<const int32_t*>(from)); }

  static SPACTE_ALWAYS Vector plus_products(Vector sums, Vector v, Vector weight) {
    return Kind::plus_products_of_words(sums, v, weight);
  }

  // B^T d
  static SPACTE_ALWAYS void into(const Vector d[kSide], Vector y[kSide]) {
    const Vector a = Kind::minus_words(d[4], d[2]), b = Kind::template left_words<1>(Kind::minus_words(d[3], d[1]));
    const Vector even = Kind::minus_words(d[4], Kind::template left_words<2>(d[2]));
    const Vector odd = Kind::minus_words(d[3], Kind::template left_words<2>(d[1]));
    y[0] = Kind::plus_words(Kind::template left_words<2>(Kind::minus_words(d[0], d[2])), a);
    y[1] = Kind::plus_words(even, odd);
    y[2] = Kind::minus_words(even, odd);
    y[3] = Kind::plus_words(a, b);
    y[4] = Kind::minus_words(a, b);
    y[5] = Kind::minus_words(Kind::minus_words(d[5], d[3]), Kind::template left_words<1>(b));
  }

  // 24 A^T m, with the factors that are in the weights already.
  static SPACTE_ALWAYS void out_of(const Vector m[kSide], Vector y[kTile]) {
    const Vector s = Kind::plus(m[1], m[2]), d = Kind::minus(m[1], m[2]);
    const Vector t = Kind::plus(m[3], m[4]), e = Kind::minus(m[3], m[4]);
    y[0] = Kind::plus(Kind::plus(m[0], s), t);
    y[1] = Kind::plus(d, Kind::template left<1>(e));
    y[2] = Kind::plus(s, Kind::template left<2>(t));
    y[3] = Kind::plus(Kind::plus(d, Kind::template left<3>(e)), Kind::template left<1>(m[5]));
  }

  static SPACTE_ALWAYS typename Kind::Sums result(Vector sum) {
    return Kind::template right_signed<6>(Kind::times(sum, Kind::all(int32_t(0x38e38e39))));  // the inverse of 9
  }
};

// The points of `winograd_points.h`, for maps of bfloat16, too, whose products would lose too much.
template <class Kind>
struct RealNumbers {
  typedef typename Kind::Reals Vector;
  static constexpr int64_t kParts = Kind::kUnit;
  static constexpr int64_t kFilters = 16, kBatchBytes = 640 << 10;

  static SPACTE_ALWAYS Vector load(const char* from) { return Kind::load(reinterpret_cast<const float*>(from)); }
  static SPACTE_ALWAYS void store(char* to, Vector value) { Kind::store(reinterpret_cast<float*>(to), value); }
  static SPACTE_ALWAYS Vector part(typename Kind::Integers cell, int i) { return Kind::part(cell, i); }
  static SPACTE_ALWAYS Vector zero() { return Kind::zero(); }
  static SPACTE_ALWAYS Vector weight(const char* from) { return Kind::all(*reinterpret_cast<const float*>(from)); }

  static SPACTE_ALWAYS Vector plus_products(Vector sums, Vector v, Vector weight) { return Kind::plus_product(sums, v, weight); }

  static SPACTE_ALWAYS void into(const Vector d[kSide], Vector y[kSide]) { Points<Kind>::into(d, y); }
  static SPACTE_ALWAYS void out_of(const Vector m[kSide], Vector y[kTile]) { Points<Kind>::out_of(m, y); }
  static SPACTE_ALWAYS Vector result(Vector sum) { return sum; }
};

template <class Kind>
struct Winograd {
  static constexpr bool kCodes = sizeof(typename Kind::Value) == 1;
  typedef std::conditional_t<kCodes, WholeNumbers<Kind>, RealNumbers<Kind>> Numbers;
  typedef typename Numbers::Vector Vector;
  static constexpr int64_t kUnit = Kind::kUnit, kParts = Numbers::kParts, kCell = 4 * Kind::kLanes;
  static constexpr int64_t kBlock = 4, kFilters = Numbers::kFilters;  // filters of a step, and those that are taken together
  static constexpr int64_t kWeight = 4 * kBlock;      // bytes of a step's weights
  static constexpr int kTiles = Kind::kPixels == 4 ? 4 : 2;  // of a step, as many as registers hold sums of
  static constexpr int64_t kBatchBytes = Numbers::kBatchBytes;  // of a batch's transformed inputs: they fit a second-level cache
  static constexpr int64_t kAhead = 4096;  // bytes that weights are fetched ahead: a layer has more than stay in the cache

  // What a layer needs, and how its tiles are taken.
  struct Plan {
    int64_t parts, across, tiles, batch;  // of a pixel's channels; tiles of a row, of a map and of a batch
    int64_t step, sum_step;               // bytes from one of the 36 products to the next: of their inputs, of their sums

    Plan(const Layer& layer, int64_t channels_in) {
      parts = (channels_in + kUnit - 1) / kUnit * kParts;
      across = (layer.width + kTile - 1) / kTile;
      tiles = across * ((layer.height + kTile - 1) / kTile);
      batch = std::min(std::max<int64_t>(kBatchBytes / (kProducts * parts * kCell), 2), tiles);
      step = batch * parts * kCell + kLine;  // not a power of two: the 36 would fall into the same lines of the cache
      sum_step = batch * kFilters * kCell + kLine;
    }

    int64_t columns() const { return kTile * std::min(batch, across) + 2; }
    int64_t bytes() const { return kProducts * (step + sum_step) + kSide * columns() * kCell; }
  };

  // B^T d B of tiles `first` to `last` of the row of tiles `down`, to v + product * step + tile * parts * kCell + part * kCell.
  // What lies beyond the border, for results that nobody wants, may be any codes.
  template <class Place>
  static void tiles_into(const Layer& layer, const Plan& plan, const Place& source, int64_t down, int64_t first, int64_t last,
                         char* halves, char* v) {
    const int64_t line = (kTile * (last - first) + 2) * kCell;
    const char* lines[kSide];
    for (int64_t i = 0; i < kSide; ++i) lines[i] = source.at(std::min(down * kTile + i - 1, layer.height), 0);
    for (int64_t part = 0; part < plan.parts; ++part) {
      const int64_t at = part / kParts * kCell;
      for (int64_t x = kTile * first - 1; x <= kTile * last; ++x) {
        const int64_t from = std::min(x, layer.width) * source.pixel + at;
        char* const to = halves + (x - kTile * first + 1) * kCell;
        Vector d[kSide], y[kSide];
        SPACTE_UNROLL for (int i = 0; i < kSide; ++i) d[i] = Numbers::part(Kind::load(lines[i] + from), part % kParts);
        Numbers::into(d, y);
        SPACTE_UNROLL for (int i = 0; i < kSide; ++i) Numbers::store(to + i * line, y[i]);
      }
      for (int64_t tile = 0; tile < last - first; ++tile)
        for (int i = 0; i < kSide; ++i) {
          const char* const from = halves + i * line + tile * kTile * kCell;
          char* const to = v + i * kSide * plan.step + (tile * plan.parts + part) * kCell;
          Vector d[kSide], y[kSide];
          SPACTE_UNROLL for (int j = 0; j < kSide; ++j) d[j] = Numbers::load(from + j * kCell);
          Numbers::into(d, y);
          SPACTE_UNROLL for (int j = 0; j < kSide; ++j) Numbers::store(to + j * plan.step, y[j]);
        }
    }
  }

  // One of the 36 products of four filters at a few tiles, to [filters, tiles of a batch].
  template <int TILES>
  static __attribute__((noinline)) void block(int64_t parts, int64_t filter, const char* weight, const char* v, char* sums_at) {
    Vector sums[kBlock][TILES];
    SPACTE_UNROLL for (int f = 0; f < kBlock; ++f) SPACTE_UNROLL for (int t = 0; t < TILES; ++t) sums[f][t] = Numbers::zero();
    const int64_t bytes = parts * kCell;
    for (const char* const end = v + bytes; v != end; v += kCell, weight += kWeight) {
      Vector part[TILES];
      SPACTE_UNROLL for (int t = 0; t < TILES; ++t) part[t] = Numbers::load(v + t * bytes);
      SPACTE_UNROLL for (int f = 0; f < kBlock; ++f) {
        const Vector w = Numbers::weight(weight + 4 * f);
        SPACTE_UNROLL for (int t = 0; t < TILES; ++t) sums[f][t] = Numbers::plus_products(sums[f][t], part[t], w);
      }
    }
    SPACTE_UNROLL for (int f = 0; f < kBlock; ++f)
      SPACTE_UNROLL for (int t = 0; t < TILES; ++t) Numbers::store(sums_at + f * filter + t * kCell, sums[f][t]);
  }

  // One of the 36 products of `blocks` times four filters, for all tiles of a batch.
  static void multiply(const Plan& plan, int64_t tiles, int64_t blocks, const char* weight, const char* v, char* sums_at) {
    const int64_t parts = plan.parts, filter = plan.batch * kCell, bytes = parts * kCell;
    for (int64_t b = 0; b < blocks; ++b, weight += parts * kWeight, sums_at += kBlock * filter) {
      for (int64_t at = 0; at < parts * kWeight; at += kLine) __builtin_prefetch(weight + kAhead + at);
      int64_t t = 0;
      for (; t + kTiles <= tiles; t += kTiles) block<kTiles>(parts, filter, weight, v + t * bytes, sums_at + t * kCell);
      if constexpr (kTiles > 2)
        for (; t + 2 <= tiles; t += 2) block<2>(parts, filter, weight, v + t * bytes, sums_at + t * kCell);
      for (; t < tiles; ++t) block<1>(parts, filter, weight, v + t * bytes, sums_at + t * kCell);
    }
  }

  // A^T m A of one tile and the channels of a cell, and what follows a convolution.
  template <bool OTHER, bool RELU, class Place>
  static void tile_out_of(const Layer& layer, const Plan& plan, int64_t channel, int64_t tile, const char* m, const Place& other,
                          const Place& target) {
    const int64_t top = tile / plan.across * kTile, left = tile % plan.across * kTile, at = channel / kUnit * kCell;
    Vector half[kUnit][kTile][kSide];
    for (int f = 0; f < kUnit; ++f, m += plan.batch * kCell)
      SPACTE_UNROLL for (int j = 0; j < kSide; ++j) {
        Vector column[kSide], y[kTile];
        SPACTE_UNROLL for (int i = 0; i < kSide; ++i) column[i] = Numbers::load(m + (i * kSide + j) * plan.sum_step);
        Numbers::out_of(column, y);
        SPACTE_UNROLL for (int i = 0; i < kTile; ++i) half[f][i][j] = y[i];
      }
    const int64_t down = std::min(layer.height - top, kTile), right = std::min(layer.width - left, kTile);
    for (int64_t i = 0; i < down; ++i) {
      Vector row[kUnit][kTile];
      SPACTE_UNROLL for (int f = 0; f < kUnit; ++f) Numbers::out_of(half[f][i], row[f]);
      SPACTE_UNROLL for (int j = 0; j < kTile; ++j) {
        typename Kind::Sums sums[kUnit];
        SPACTE_UNROLL for (int f = 0; f < kUnit; ++f) sums[f] = Numbers::result(row[f][j]);
        const int64_t y = top + i, x = left + j;
        if (j < right) finish<Kind, OTHER, RELU>(layer, channel, sums, other.at(y, x) + at, target.at(y, x) + at);
      }
    }
  }

  template <bool OTHER, bool RELU, class Place>
  static void convolve(const Layer& layer, const Place& source, const Place& other, const Place& target, char* work) {
    const Plan plan(layer, source.pixel / kCell * kUnit);
    char *const v = work, *const m = v + kProducts * plan.step, *const halves = m + kProducts * plan.sum_step;
    for (int64_t first = 0; first < plan.tiles; first += plan.batch) {
      const int64_t end = std::min(first + plan.batch, plan.tiles);
      for (int64_t tile = first, next; tile < end; tile = next) {
        const int64_t down = tile / plan.across, left = tile % plan.across;
        next = std::min(end, (down + 1) * plan.across);
        tiles_into(layer, plan, source, down, left, left + next - tile, halves, v + (tile - first) * plan.parts * kCell);
      }
      const char* weight = layer.weight;
      for (int64_t channel = 0; channel < layer.channels; channel += kFilters) {
        const int64_t here = std::min(layer.channels - channel, kFilters);
        for (int64_t p = 0; p < kProducts; ++p, weight += here * plan.parts * 4)
          multiply(plan, end - first, here / kBlock, weight, v + p * plan.step, m + p * plan.sum_step);
        for (int64_t c = 0; c < here; c += kUnit)
          for (int64_t tile = first; tile < end; ++tile)
            tile_out_of<OTHER, RELU>(layer, plan, channel + c, tile, m + (c * plan.batch + tile - first) * kCell, other, target);
      }
    }
  }
};

}  // namespace
