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

#include "chain_vectors.h"
#include "chain_walk.h"

namespace {

// Kinds of maps. kUnit is how many channels a cell has; `part` is one of them, `cell` rounds and puts them together;
// `row` and `store_row` are kLanes cells of one image in an outer map.

// Codes, all that their kinds have in common.
template <class Vector>
struct Codes : Vector {
  typedef uint8_t Value;
  typedef typename Vector::Integers Integers;
  typedef typename Vector::Reals Reals;
  typedef Integers Sums;

  static SPACTE_ALWAYS Sums zero() { return Vector::all(int32_t(0)); }

  static SPACTE_ALWAYS Reals finished(Sums sums, float scale, float bias) {
    return Vector::plus_product(Vector::all(bias), Vector::reals(sums), Vector::all(scale));
  }

  static SPACTE_ALWAYS Reals with_other(Reals value, Reals other, Reals scale) { return Vector::plus_product(value, other, scale); }

  static SPACTE_ALWAYS Reals through_relu(Reals value) { return value; }  // they are clamped
};

// Codes in bytes, for instructions that multiply unsigned by signed ones and add up four products.
template <class Vector>
struct Bytes : Codes<Vector> {
  typedef typename Vector::Integers Integers;
  typedef typename Vector::Reals Reals;
  static constexpr int kUnit = 4;

  static SPACTE_ALWAYS Reals part(Integers cell, int i) {
    return Vector::reals(Vector::both(Vector::right(cell, 8 * i), Vector::all(int32_t(255))));
  }

  static SPACTE_ALWAYS Integers cell(const Reals value[4]) {
    const Integers packed = Vector::bytes(Vector::words(Vector::rounded(value[0]), Vector::rounded(value[1])),
                                          Vector::words(Vector::rounded(value[2]), Vector::rounded(value[3])));
    return Vector::shuffled(packed, Vector::order(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  }

  static SPACTE_ALWAYS Integers row(const char* from) { return Vector::load(from); }
  static SPACTE_ALWAYS void store_row(char* to, Integers row) { Vector::store(to, row); }
};

// Codes in words of 16 bits, whose products and their sums by twos are exact without such instructions.
template <class Vector>
struct Words : Codes<Vector> {
  typedef typename Vector::Integers Integers;
  typedef typename Vector::Reals Reals;
  static constexpr int kUnit = 2;

  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    return Vector::plus(sums, Vector::products_of_words(cell, weight));
  }

  static SPACTE_ALWAYS Reals part(Integers cell, int i) {
    return Vector::reals(Vector::both(Vector::right(cell, 16 * i), Vector::all(int32_t(255))));
  }

  static SPACTE_ALWAYS Integers cell(const Reals value[2]) {
    const Integers packed = Vector::clamped_words(Vector::words(Vector::rounded(value[0]), Vector::rounded(value[1])));
    return Vector::shuffled(packed, Vector::order(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  }

  static SPACTE_ALWAYS Integers row(const char* from) { return Vector::widened(from); }
  static SPACTE_ALWAYS void store_row(char* to, Integers row) { Vector::store_narrowed(to, row); }
};

// The instructions are written out: GCC 12 moves the sums of their intrinsics to and fro, at half the speed.
#if defined(__AVX512VNNI__)
struct BestCodes : Bytes<Wide> {
  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(cell), "v"(weight));
    return sums;
  }
};
#elif defined(__AVX512BW__)
typedef Words<Wide> BestCodes;
#elif defined(__AVXVNNI__)
struct BestCodes : Bytes<Narrow> {
  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(cell), "x"(weight));
    return sums;
  }
};
#elif defined(__AVX2__)
typedef Words<Narrow> BestCodes;
#elif defined(__ARM_FEATURE_MATMUL_INT8)
struct BestCodes : Bytes<Quad> {
  static SPACTE_ALWAYS Integers plus_products(Integers sums, Integers cell, Integers weight) {
    return vusdotq_s32(sums, vreinterpretq_u8_s32(cell), vreinterpretq_s8_s32(weight));
  }
};
#else
typedef Words<Quad> BestCodes;
#endif

#ifdef __AVX512BF16__
struct Floats : Wide {
  typedef uint16_t Value;  // bfloat16
  typedef Reals Sums;
  static constexpr int kUnit = 2;

  static SPACTE_ALWAYS Sums zero() { return _mm512_setzero_ps(); }

  static SPACTE_ALWAYS Sums plus_products(Sums sums, Integers cell, Integers weight) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(cell), "v"(weight));
    return sums;
  }

  static SPACTE_ALWAYS Reals finished(Sums sums, float, float bias) { return plus(sums, all(bias)); }

  static SPACTE_ALWAYS Reals with_other(Reals value, Reals other, Reals) { return plus(value, other); }

  static SPACTE_ALWAYS Reals through_relu(Reals value) { return _mm512_max_ps(_mm512_setzero_ps(), value); }  // no number stays none

  static SPACTE_ALWAYS Reals part(Integers cell, int i) {
    return _mm512_castsi512_ps(i ? both(cell, all(int32_t(0xffff0000))) : _mm512_slli_epi32(cell, 16));
  }

  static SPACTE_ALWAYS Integers cell(const Reals value[2]) {
    const Integers order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
                                            4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, Integers(_mm512_cvtne2ps_pbh(value[1], value[0])));
  }

  static SPACTE_ALWAYS Integers row(const char* from) { return load(from); }
  static SPACTE_ALWAYS void store_row(char* to, Integers row) { store(to, row); }
};
#endif

template <class Kind>
struct Lanes {
  typedef typename Kind::Integers Integers;
  typedef typename Kind::Reals Reals;
  typedef typename Kind::Sums Sums;
  static constexpr int64_t kImages = Kind::kLanes, kWorkBytes = 0, kUnit = Kind::kUnit, kCell = 4 * kImages;
  static constexpr int64_t kUnitBytes = kUnit * sizeof(typename Kind::Value);  // of a cell's channels in an outer map
  static constexpr int kFilters = 4;
  static constexpr bool kCodes = sizeof(typename Kind::Value) == 1;

  struct Session {};

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
  };

  template <bool OTHER, bool RELU, int PIXELS>
  static __attribute__((noinline)) void block(const Blocks& with, int64_t channel, const char* weight, const char* source,
                                              const char* other, char* target) {
    Sums sums[kFilters][PIXELS];
    SPACTE_UNROLL for (int f = 0; f < kFilters; ++f) SPACTE_UNROLL for (int p = 0; p < PIXELS; ++p) sums[f][p] = Kind::zero();
    const int64_t step = with.step;
    for (int64_t row = 0; row < with.layer.kernel; ++row, source += with.line) {
      const char* from = source;
      for (int64_t chunk = 0; chunk < with.chunks; ++chunk, from += kCell, weight += 4 * kFilters) {
        Integers cell[PIXELS];
        SPACTE_UNROLL
        for (int p = 0; p < PIXELS; ++p) cell[p] = Kind::load(from + p * step);
        SPACTE_UNROLL
        for (int f = 0; f < kFilters; ++f) {
          const Integers w = Kind::all(reinterpret_cast<const int32_t*>(weight)[f]);
          SPACTE_UNROLL
          for (int p = 0; p < PIXELS; ++p) sums[f][p] = Kind::plus_products(sums[f][p], cell[p], w);
        }
      }
    }
    const Reals other_scale = Kind::all(float(with.layer.other_scale));
    const float *const scale = with.layer.scale + channel, *const bias = with.layer.bias + channel;
    SPACTE_UNROLL for (int p = 0; p < PIXELS; ++p) SPACTE_UNROLL for (int first = 0; first < kFilters; first += kUnit) {
      const int64_t at = p * with.pixel + first / kUnit * kCell;
      Integers there;
      if (OTHER) there = Kind::load(other + at);
      Reals value[kUnit];
      SPACTE_UNROLL for (int i = 0; i < kUnit; ++i) {
        const int f = first + i;
        value[i] = Kind::finished(sums[f][p], kCodes ? scale[f] : 1.0f, bias[f]);
        if (OTHER) value[i] = Kind::with_other(value[i], Kind::part(there, i), other_scale);
        if (RELU) value[i] = Kind::through_relu(value[i]);
      }
      Kind::store(target + at, Kind::cell(value));
    }
  }

  template <bool OTHER, bool RELU>
  static void by_blocks(const Layer& layer, const Place& source, const Place& other, const Place& target) {
    const Blocks with{layer, source.line, layer.stride * source.pixel, layer.kernel * (source.pixel / kCell), target.pixel};
    const int64_t weights = layer.kernel * with.chunks * kFilters * 4, border = layer.kernel / 2;
    for (int64_t y = 0; y < layer.height; ++y)
      for (int64_t channel = 0; channel < layer.channels; channel += kFilters) {
        const char* const weight = layer.weight + channel / kFilters * weights;
        const int64_t at = channel / kUnit * kCell;
        int64_t x = 0;
        const auto blocks_of = [&](auto pixels) {
          for (; x + pixels.value <= layer.width; x += pixels.value)
            block<OTHER, RELU, pixels.value>(with, channel, weight, source.at(y * layer.stride - border, x * layer.stride - border),
                                             other.at(y, x) + at, target.at(y, x) + at);
        };
        blocks_of(std::integral_constant<int, Kind::kPixels>());
        if constexpr (Kind::kPixels > 2) blocks_of(std::integral_constant<int, 2>());
        blocks_of(std::integral_constant<int, 1>());
      }
  }

  static void convolve(const Layer& layer, const Place& source, const Place* other, const Place& target, int64_t, char*) {
    if (other)
      (layer.relu ? by_blocks<true, true> : by_blocks<true, false>)(layer, source, *other, target);
    else
      (layer.relu ? by_blocks<false, true> : by_blocks<false, false>)(layer, source, target, target);
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
      asm volatile("" : SPACTE_VECTOR_OUT(cell), SPACTE_VECTOR_OUT(weight));  // they may be others each time
      SPACTE_UNROLL for (int s = 0; s < kSums; ++s) sums[s] = Kind::plus_products(sums[s], cell, weight);
    }
    for (auto& sum : sums) asm volatile("" : SPACTE_VECTOR_OUT(sum));  // somebody may want them
  }
  return parts * ((each + kSums - 1) / kSums * kSums) * Kind::kLanes * Kind::kUnit;
}

}  // namespace

extern "C" {

// What the vector units can do at most.
int64_t spacte_chain_products(int64_t each, int64_t parts, int64_t threads, int64_t is_float) {
  auto by_kind = products<BestCodes>;
#ifdef __AVX512BF16__
  if (is_float) by_kind = products<Floats>;
#endif
  return by_kind(each, parts, threads);
}

// Bytes of scratch memory that a thread needs.
int64_t spacte_chain_scratch(const Map* maps, int64_t map_count, int64_t is_float) {
  auto by_kind = Scratch<Lanes<BestCodes>>::bytes;
#ifdef __AVX512BF16__
  if (is_float) by_kind = Scratch<Lanes<Floats>>::bytes;
#endif
  return by_kind(maps, map_count);
}

// The layers, in this order, for all images.
void spacte_chain(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count, const int64_t* copies,
                  int64_t copies_in, int64_t copies_out, int64_t images, int64_t threads, char* scratch, int64_t is_float) {
  auto by_kind = run<Lanes<BestCodes>>;
#ifdef __AVX512BF16__
  if (is_float) by_kind = run<Lanes<Floats>>;
#endif
  by_kind(layers, layer_count, maps, map_count, copies, copies_in, copies_out, images, threads, scratch);
}
}
