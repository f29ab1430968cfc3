// The back ends of a chain for vector units: AVX-512 with VNNI and BF16, AVX2 with AVX-VNNI, and either without; NEON, with
// ARM's products of 8-bit matrices and without.
//
// The lanes of a vector are the images of a group. A cell is a vector of 4 bytes of each image: a few channels of one
// pixel, and a map of the group lies as [height + 2][width + 2][cells] with a border that stands for zeros. A product
// multiplies a cell by the weights that a filter has for its channels, the same for all lanes, and adds up within each
// lane: every shape, stride and border is the same case, and a lane's result is its image's own. A block is four
// filters at a few pixels next to each other, whose sums stay in registers.
//
// Sums of codes are exact, so that all targets give the same bits; those of bfloat16 are float32, added in a fixed
// order. What follows a convolution (scale, bias, residual, ReLU, rounding) is done before a block is stored.
// Compile without contraction into fused multiply-adds: those that are wanted are written out.

#include <type_traits>
#include <vector>

#include "chain_kinds.h"
#include "chain_winograd.h"
#include "chain_walk.h"

namespace {

template <class Kind>
struct Lanes {
  typedef typename Kind::Integers Integers;
  typedef typename Kind::Reals Reals;
  typedef typename Kind::Sums Sums;
  static constexpr int64_t kImages = Kind::kLanes, kUnit = Kind::kUnit, kCell = 4 * kImages;
  static constexpr int64_t kUnitBytes = kUnit * sizeof(typename Kind::Value);  // of a cell's channels in an outer map
  static constexpr int kFilters = 4, kTogether = 48;  // filters of a block, and of the blocks that share a few pixels
  static constexpr bool kCodes = sizeof(typename Kind::Value) == 1;

  struct Session {};

  static int64_t work_bytes(const Layer& layer, const Map& source) {
    return layer.shape == kByWinograd ? typename Winograd<Kind>::Plan(layer, source.channels).bytes() : 0;
  }

  // Where the first pixel lies, the bytes from row to row and from pixel to pixel, and in an outer map from image to image.
  struct Place {
    char* base;
    int64_t line, pixel, image;

    char* at(int64_t y, int64_t x) const { return base + y * line + x * pixel; }
  };

  static int64_t cells(int64_t channels) { return (channels + kUnit - 1) / kUnit; }

  static int64_t map_bytes(const Map& map) { return (map.height + 2) * (map.width + 2) * cells(map.channels) * kCell; }

  static Place place(const Map& map, char* inner, int64_t first) {
    if (map.data) {
      const int64_t pixel = map.channels * sizeof(typename Kind::Value), line = map.width * pixel, image = map.height * line;
      return {map.data + first * image, line, pixel, image};
    }
    const int64_t pixel = cells(map.channels) * kCell, line = (map.width + 2) * pixel;
    return {inner + line + pixel, line, pixel, 0};  // past the border
  }

  // The border.
  static void fill(const Map& map, char* inner) {
    const Integers border = Kind::all(int32_t(map.border * (kCodes ? kUnit == 4 ? 0x01010101 : 0x00010001 : 0)));
    const int64_t pixel = cells(map.channels) * kCell, line = (map.width + 2) * pixel;
    const auto fill_part = [&](int64_t from, int64_t bytes) {
      for (int64_t at = from; at < from + bytes; at += kCell) Kind::store(inner + at, border);
    };
    fill_part(0, line + pixel);  // the first line, and the first place of the next
    for (int64_t y = 1; y <= map.height; ++y) fill_part((y + 1) * line - pixel, 2 * pixel);  // the last and the next first
    fill_part((map.height + 1) * line + pixel, line - pixel);
  }

  static void copy_in(const Map& map, const Place& from, const Place& to, int64_t images) {
    typedef typename Kind::Value Value;
    const int64_t count = map.width * cells(map.channels), values = std::max(count, kImages) * kUnit;
    const bool as_they_are = map.channels % kUnit == 0 && count >= kImages;
    std::vector<Value> rows_of_cells(as_they_are ? 0 : kImages * values);
    for (int64_t y = 0; y < map.height; ++y) {
      for (int64_t n = 0; n < images && !as_they_are; ++n)
        into_cells(map, reinterpret_cast<const Value*>(from.at(y, 0) + n * from.image), &rows_of_cells[n * values]);
      for (int64_t c = 0; c < count; c += kImages) {
        const int64_t here = std::max<int64_t>(std::min(c, count - kImages), 0);  // the last ones may be done twice
        Integers rows[kImages];
        SPACTE_UNROLL
        for (int64_t i = 0; i < kImages; ++i) {
          const int64_t n = std::min(i, images - 1);
          const char* const row = as_they_are ? from.at(y, 0) + n * from.image : reinterpret_cast<const char*>(&rows_of_cells[n * values]);
          rows[i] = Kind::row(row + here * kUnitBytes);
        }
        Kind::transpose(rows);
        SPACTE_UNROLL
        for (int64_t i = 0; i < kImages; ++i)
          if (i < count) Kind::store(to.at(y, 0) + (here + i) * kCell, rows[i]);
      }
    }
  }

  // A row of an image with zeros after the channels of each pixel, up to whole cells; these are there already.
  static void into_cells(const Map& map, const typename Kind::Value* row, typename Kind::Value* made) {
    const int64_t width = map.width, filled = cells(map.channels) * kUnit;
    const auto by_channels = [=](auto channels) {
      for (int64_t x = 0; x < width; ++x)
        for (int64_t c = 0; c < channels; ++c) made[x * filled + c] = row[x * channels + c];
    };
    if (map.channels == 3)
      by_channels(std::integral_constant<int64_t, 3>());
    else
      by_channels(map.channels);
  }

  // Channels are whole cells here.
  static void copy_out(const Map& map, const Place& from, const Place& to, int64_t images) {
    const int64_t count = map.width * cells(map.channels);
    char row[4 * kImages];
    for (int64_t y = 0; y < map.height; ++y)
      for (int64_t c = 0; c < count; c += kImages) {
        const int64_t here = std::max<int64_t>(std::min(c, count - kImages), 0), width = std::min(count, kImages);
        Integers rows[kImages];
        SPACTE_UNROLL for (int64_t n = 0; n < kImages; ++n)
          rows[n] = Kind::load(from.at(y, 0) + (here + std::min(n, width - 1)) * kCell);
        Kind::transpose(rows);
        for (int64_t n = 0; n < images; ++n) {
          char* const target = to.at(y, 0) + n * to.image + here * kUnitBytes;
          if (width == kImages) {
            Kind::store_row(target, rows[n]);
          } else {
            Kind::store_row(row, rows[n]);
            std::memcpy(target, row, width * kUnitBytes);
          }
        }
      }
  }

  // What a layer's blocks have in common.
  struct Blocks {
    const Layer& layer;
    int64_t line, step, chunks;  // of the source: bytes from row to row and from pixel to pixel; cells of a filter's row
    int64_t pixel;               // of the target, and of the residual
    int64_t weights;             // bytes of the weights of four filters
  };

  // `FOURS` times four filters at a few pixels.
  template <bool OTHER, bool RELU, int PIXELS, int FOURS>
  static __attribute__((noinline)) void block(const Blocks& with, int64_t channel, const char* weight, const char* source,
                                              const char* other, char* target) {
    constexpr int kAll = FOURS * kFilters;
    Sums sums[kAll][PIXELS];
    SPACTE_UNROLL for (int f = 0; f < kAll; ++f) SPACTE_UNROLL for (int p = 0; p < PIXELS; ++p) sums[f][p] = Kind::zero();
    const int64_t step = with.step, weights = with.weights;
    for (int64_t row = 0; row < with.layer.kernel; ++row, source += with.line) {
      const char* from = source;
      for (int64_t chunk = 0; chunk < with.chunks; ++chunk, from += kCell, weight += 4 * kFilters) {
        Integers cell[PIXELS];
        SPACTE_UNROLL
        for (int p = 0; p < PIXELS; ++p) cell[p] = Kind::load(from + p * step);
        SPACTE_UNROLL
        for (int f = 0; f < kAll; ++f) {
          const Integers w = Kind::all(reinterpret_cast<const int32_t*>(weight + f / kFilters * weights)[f % kFilters]);
          SPACTE_UNROLL
          for (int p = 0; p < PIXELS; ++p) sums[f][p] = Kind::plus_products(sums[f][p], cell[p], w);
        }
      }
    }
    SPACTE_UNROLL for (int p = 0; p < PIXELS; ++p) SPACTE_UNROLL for (int first = 0; first < kAll; first += kUnit) {
      const int64_t at = p * with.pixel + first / kUnit * kCell;
      Sums together[kUnit];
      SPACTE_UNROLL for (int i = 0; i < kUnit; ++i) together[i] = sums[first + i][p];
      finish<Kind, OTHER, RELU>(with.layer, channel + first, together, other + at, target + at);
    }
  }

  template <bool OTHER, bool RELU>
  static void by_blocks(const Layer& layer, const Place& source, const Place& other, const Place& target) {
    const int64_t chunks = layer.kernel * (source.pixel / kCell), border = layer.padding;
    const Blocks with{layer, source.line, layer.stride * source.pixel, chunks, target.pixel, layer.kernel * chunks * kFilters * 4};
    for (int64_t y = 0; y < layer.height; ++y)
      for (int64_t first = 0, end; first < layer.channels; first = end) {
        end = std::min(first + kTogether, layer.channels);
        // Pixels from `x` on by as many at a time, for filters from `channel` on by as many fours as there are registers for.
        const auto blocks_of = [&](auto pixels, auto fours, int64_t x, int64_t& channel) {
          for (; channel + kFilters * fours.value <= end; channel += kFilters * fours.value)
            for (int64_t p = x; p + pixels.value <= layer.width; p += pixels.value) {
              const int64_t at = channel / kUnit * kCell;
              block<OTHER, RELU, pixels.value, fours.value>(with, channel, layer.weight + channel / kFilters * with.weights,
                                                            source.at(y * layer.stride - border, p * layer.stride - border),
                                                            other.at(y, p) + at, target.at(y, p) + at);
            }
        };
        const auto from = [&](auto pixels, auto fours, int64_t x) {
          int64_t channel = first;
          blocks_of(pixels, fours, x, channel);
          if constexpr (fours.value > 1) blocks_of(pixels, std::integral_constant<int, 1>(), x, channel);
          return layer.width - (layer.width - x) % pixels.value;
        };
        // The few pixels that are left take more filters together, or their sums would wait for one another.
        int64_t x = from(std::integral_constant<int, Kind::kPixels>(), std::integral_constant<int, 1>(), 0);
        x = from(std::integral_constant<int, 2>(), std::integral_constant<int, Kind::kPixels / 2>(), x);
        from(std::integral_constant<int, 1>(), std::integral_constant<int, Kind::kPixels>(), x);
      }
  }

  template <bool OTHER, bool RELU>
  static void convolve(const Layer& layer, const Place& source, const Place& other, const Place& target, char* work) {
    if (layer.shape == kByWinograd)
      Winograd<Kind>::template convolve<OTHER, RELU>(layer, source, other, target, work);
    else
      by_blocks<OTHER, RELU>(layer, source, other, target);
  }

  static void convolve(const Layer& layer, const Place& source, const Place* other, const Place& target, int64_t, char* work) {
    const bool relu = !kCodes && layer.relu;  // codes are clamped, which is their ReLU
    if (other)
      (relu ? convolve<true, true> : convolve<true, false>)(layer, source, *other, target, work);
    else
      (relu ? convolve<false, true> : convolve<false, false>)(layer, source, target, target, work);
  }

  static void pool(const Layer& layer, const Place& source, const Place& target, int64_t) {
    const int64_t border = layer.padding;
    for (int64_t y = 0; y < layer.height; ++y)
      for (int64_t x = 0; x < layer.width; ++x) {
        const char* const from = source.at(y * layer.stride - border, x * layer.stride - border);
        for (int64_t at = 0; at < target.pixel; at += kCell) {
          Integers greatest = Kind::load(from + at);
          for (int64_t i = 1; i < layer.kernel * layer.kernel; ++i)
            greatest = Kind::greatest(greatest, Kind::load(from + i / layer.kernel * source.line + i % layer.kernel * source.pixel + at));
          Kind::store(target.at(y, x) + at, greatest);
        }
      }
  }

  static void average(const Layer& layer, const Place& source, float* target, int64_t images) {
    const Reals scale = Kind::all(float(layer.other_scale));
    float values[kImages];
    for (int64_t c = 0; c < layer.channels; ++c) {
      Reals sum = Kind::all(0.0f);
      for (int64_t y = 0; y < layer.height; ++y)
        for (int64_t x = 0; x < layer.width; ++x)
          sum = Kind::plus(sum, Kind::part(Kind::load(source.at(y, x) + c / kUnit * kCell), c % kUnit));
      Kind::store(values, sum * scale);
      for (int64_t n = 0; n < images; ++n) target[n * layer.channels + c] = values[n];
    }
  }
};

// `parts` times `each` products of vectors that are there already, and their multiply-adds.
template <class Kind>
int64_t products(int64_t each, int64_t parts, int64_t threads) {
  constexpr int kSums = Kind::kLanes == 16 ? 16 : 12;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t part = 0; part < parts; ++part) {
    typename Kind::Sums sums[kSums];
    for (auto& sum : sums) sum = Kind::zero();
    typename Kind::Integers cell = Kind::all(int32_t(0)), weight = Kind::all(int32_t(0));
    for (int64_t i = 0; i < each; i += kSums) {
      SPACTE_UNROLL for (int s = 0; s < kSums; ++s) {
        asm volatile("" : SPACTE_VECTOR_OUT(cell), SPACTE_VECTOR_OUT(weight));  // they may be others each time
        sums[s] = Kind::plus_products(sums[s], cell, weight);
      }
    }
    for (auto& sum : sums) asm volatile("" : SPACTE_VECTOR_OUT(sum));  // somebody may want them
  }
  return parts * ((each + kSums - 1) / kSums * kSums) * Kind::kLanes * Kind::kUnit;
}

// The function for a kind of maps.
template <class Function>
Function by_kind(int64_t kind, Function of_codes, Function of_bfloat16, Function of_float32) {
  return kind == kOfCodes ? of_codes : kind == kOfBfloat16 ? of_bfloat16 : of_float32;
}

#ifndef __AVX512BF16__
typedef BestSingles Floats;  // nobody asks for them here
#endif

}  // namespace

extern "C" {

// What the vector units can do at most.
int64_t spacte_chain_products(int64_t each, int64_t parts, int64_t threads, int64_t kind) {
  return by_kind(kind, products<BestCodes>, products<Floats>, products<BestSingles>)(each, parts, threads);
}

// Bytes of scratch memory that a thread needs.
int64_t spacte_chain_scratch(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count, int64_t kind) {
  const auto bytes =
      by_kind(kind, Scratch<Lanes<BestCodes>>::bytes, Scratch<Lanes<Floats>>::bytes, Scratch<Lanes<BestSingles>>::bytes);
  return bytes(layers, layer_count, maps, map_count);
}

// The layers, in this order, for all images.
void spacte_chain(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count, const int64_t* copies,
                  int64_t copies_in, int64_t copies_out, int64_t images, int64_t threads, char* scratch, int64_t kind) {
  const auto all = by_kind(kind, run<Lanes<BestCodes>>, run<Lanes<Floats>>, run<Lanes<BestSingles>>);
  all(layers, layer_count, maps, map_count, copies, copies_in, copies_out, images, threads, scratch);
}
}
