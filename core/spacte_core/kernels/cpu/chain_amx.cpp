// The back end of a chain for the matrix units of recent CPUs (AMX).
//
// The sixteen rows of
// a tile are one pixel of sixteen images: a row holds 64 bytes of that pixel and of those to its right, which is what
// a filter's line covers, so that every shape, stride and border is the same case. A map of the sixteen
// lies as [height + 2][16 images][width + 2][channels] with a border that stands for zeros. Rows of a tile never meet: an image's result
// is its own, whatever its place in the batch.
//
// Sums of codes are exact; those of bfloat16 are float32, added in a fixed order. What follows a convolution (scale,
// bias, residual, ReLU, rounding) is done to each block of four tiles while the matrix unit is at the next one.

#if !defined(__AMX_INT8__) || !defined(__AMX_BF16__) || !defined(__AVX512BF16__) || !defined(__AVX512BW__)
#error "this kernel is written for AMX and AVX-512"
#endif

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "chain_walk.h"

namespace {

constexpr int64_t kTileBytes = 1024, kLanes = 16;

inline int64_t rounded_up(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

struct Codes {
  typedef uint8_t Value;
};

struct Floats {
  typedef uint16_t Value;  // bfloat16
};

template <class Kind>
int64_t row_bytes(const Map& map) {
  // A tile may read up to 63 bytes more than a filter covers. An odd number of lines spreads rows over the cache.
  return rounded_up((map.width + 2) * map.channels * sizeof(typename Kind::Value) + kLine - 1) | kLine;
}

// What the four tiles of a block of sums are: four places of 16 channels, or two places of 32. With one place to a row of
// the matrix unit, a filter's line has to be loaded for each. Where the 64 bytes hold the line of the next place, too, one
// load serves both: they are told apart by their weights, which the second has moved along by a place.
enum Shape { kFour, kFourInPairs, kTwoWide };

#define SPACTE_ALL_WRITTEN asm volatile("" ::: "memory")

// One step: a chunk of a filter's line, for four tiles of sums.
#define SPACTE_STEP(KIND, PRODUCT)                                                                        \
  template <Shape SHAPE>                                                                                  \
  SPACTE_ALWAYS void step(KIND, const char* const a[4], const char* b, const char* second, int64_t stride) { \
    _tile_loadd(6, b, kLine);                                                                             \
    _tile_loadd(4, a[0], stride);                                                                         \
    PRODUCT(0, 4, 6);                                                                                     \
    _tile_loadd(5, a[1], stride);                                                                         \
    if (SHAPE == kFour) {                                                                                 \
      PRODUCT(1, 5, 6);                                                                                   \
      _tile_loadd(7, a[2], stride);                                                                       \
      PRODUCT(2, 7, 6);                                                                                   \
      _tile_loadd(4, a[3], stride);                                                                       \
      PRODUCT(3, 4, 6);                                                                                   \
    } else {                                                                                              \
      _tile_loadd(7, second, kLine);                                                                      \
      PRODUCT(1, 4, 7);                                                                                   \
      PRODUCT(2, 5, 6);                                                                                   \
      PRODUCT(3, 5, 7);                                                                                   \
    }                                                                                                     \
  }
SPACTE_STEP(Codes, _tile_dpbusd)
SPACTE_STEP(Floats, _tile_dpbf16ps)

// A block whose sums are there, and what is left to do: to finish its images from `next` on.
struct Block {
  const char* sums;   // [4][16 images][16]
  const char* other;  // of the first image and place
  char* target;
  int64_t places;  // that count: at the right edge some may lie outside
  int64_t next;
};

// What the finishing of a layer's blocks has in common.
template <class Kind, Shape SHAPE>
struct Finish {
  static constexpr bool wide = SHAPE == kTwoWide;
  __m512 scale[4], bias[4], other_scale;
  int64_t other_image, target_image, pixel;  // bytes from image to image, and from place to place
  bool relu;

  Finish(const Layer& layer, int64_t channel, int64_t other_image, int64_t target_image, int64_t pixel)
      : other_scale(_mm512_set1_ps(float(layer.other_scale))),
        other_image(other_image),
        target_image(target_image),
        pixel(pixel),
        relu(layer.relu) {
    for (int t = 0; t < 4; ++t) {
      const int64_t c = channel + (wide ? t % 2 * kLanes : 0);
      scale[t] = layer.scale ? _mm512_loadu_ps(layer.scale + c) : _mm512_setzero_ps();
      bias[t] = _mm512_loadu_ps(layer.bias + c);
    }
  }
};

// Sixteen values of a map.
SPACTE_ALWAYS __m512 values(Codes, const char* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

SPACTE_ALWAYS __m512 values(Floats, const char* from) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

template <bool OTHER, Shape SHAPE>
SPACTE_ALWAYS void finish(const Finish<Codes, SHAPE>& with, const Block& block, int64_t n) {
  constexpr bool wide = SHAPE == kTwoWide;
  __m512i y[4];
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    const __m512i sum = _mm512_load_si512(block.sums + t * kTileBytes + n * kLine);
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), with.scale[t], with.bias[t]);
    if (OTHER) {
      const char* from = block.other + n * with.other_image + (wide ? t / 2 : t) * with.pixel + (wide ? t % 2 * kLanes : 0);
      value = _mm512_fmadd_ps(values(Codes{}, from), with.other_scale, value);
    }
    y[t] = _mm512_cvtps_epi32(value);
  }
  // Packing leaves each tile's codes in four places: the last step puts them together.
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  const __m512i packed = _mm512_permutexvar_epi32(
      order, _mm512_packus_epi16(_mm512_packs_epi32(y[0], y[1]), _mm512_packs_epi32(y[2], y[3])));
  char* const to = block.target + n * with.target_image;
  const __m128i parts[4] = {_mm512_castsi512_si128(packed), _mm512_extracti32x4_epi32(packed, 1),
                            _mm512_extracti32x4_epi32(packed, 2), _mm512_extracti32x4_epi32(packed, 3)};
  if (with.pixel == (wide ? 2 : 1) * kLanes && block.places == (wide ? 2 : 4)) {
    _mm512_storeu_si512(to, packed);
  } else {
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
      const int64_t place = wide ? t / 2 : t;
      if (place < block.places)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + place * with.pixel + (wide ? t % 2 * kLanes : 0)), parts[t]);
    }
  }
}

template <bool OTHER, Shape SHAPE>
SPACTE_ALWAYS void finish(const Finish<Floats, SHAPE>& with, const Block& block, int64_t n) {
  constexpr bool wide = SHAPE == kTwoWide;
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    const int64_t place = wide ? t / 2 : t, at = place * with.pixel + (wide ? t % 2 * kLanes * 2 : 0);
    if (place >= block.places) continue;
    __m512 value = _mm512_add_ps(_mm512_load_ps(block.sums + t * kTileBytes + n * kLine), with.bias[t]);
    if (OTHER) value = _mm512_add_ps(value, values(Floats{}, block.other + n * with.other_image + at));
    if (with.relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);  // no number stays none
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block.target + n * with.target_image + at),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
  }
}

// Where a pixel of the first image lies, and the bytes from image to image.
struct Place {
  char* base;
  int64_t line, image, pixel;  // bytes from row to row, image to image, pixel to pixel

  char* at(int64_t y, int64_t x) const { return base + y * line + x * pixel; }
};

template <class Kind, Shape SHAPE, bool OTHER>
void by_blocks(const Layer& layer, const Place& source, const Place& other, const Place& target, int64_t images,
               char* scratch) {
  SPACTE_ALL_WRITTEN;  // the compiler does not know that tiles are loaded from memory
  constexpr int64_t across = SHAPE == kTwoWide ? 2 : 4, deep = SHAPE == kTwoWide ? 2 : 1;
  constexpr int64_t loads = SHAPE == kFour ? 4 : 2;
  const int64_t chunks = rounded_up(layer.kernel * source.pixel) / kLine, steps = layer.kernel * chunks;
  const int64_t border = layer.padding, share = (kLanes + steps - 1) / steps;
  const int64_t weights = steps * kTileBytes * (SHAPE == kFour ? 1 : 2);
  for (int64_t tile = 0; tile < layer.channels / kLanes; tile += deep) {
    const char* const weight = layer.weight + tile / deep * weights;
    const int64_t channel_bytes = tile * kLanes * sizeof(typename Kind::Value);
    const Finish<Kind, SHAPE> with(layer, tile * kLanes, other.image, target.image, target.pixel);
    Block last{nullptr, nullptr, nullptr, 0, images};
    char *sums = scratch, *free = scratch + 4 * kTileBytes;
    for (int64_t y = 0; y < layer.height; ++y)
      for (int64_t x = 0; x < layer.width; x += across) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        const char* a[4];
        for (int64_t p = 0; p < loads; ++p)
          a[p] = source.at(y * layer.stride - border,
                           std::min(x + p * across / loads, layer.width - 1) * layer.stride - border);
        const char* b = weight;
        for (int64_t line = 0; line < layer.kernel; ++line)
          for (int64_t chunk = 0; chunk < chunks; ++chunk, b += kTileBytes) {
            const char* here[4];
            for (int64_t p = 0; p < loads; ++p) here[p] = a[p] + line * source.line + chunk * kLine;
            step<SHAPE>(Kind{}, here, b, b + steps * kTileBytes, source.image);
            for (const int64_t until = std::min(last.next + share, images); last.next < until; ++last.next)
              finish<OTHER>(with, last, last.next);  // of the block before, while the matrix unit is at this one
          }
        _tile_stored(0, sums, kLine);
        _tile_stored(1, sums + kTileBytes, kLine);
        _tile_stored(2, sums + 2 * kTileBytes, kLine);
        _tile_stored(3, sums + 3 * kTileBytes, kLine);
        last = {sums, OTHER ? other.at(y, x) + channel_bytes : nullptr, target.at(y, x) + channel_bytes,
                std::min(across, layer.width - x), 0};
        std::swap(sums, free);
      }
    for (; last.next < images; ++last.next) finish<OTHER>(with, last, last.next);
  }
}

// Averages are left simple: they are one in a hundred of the work. Sums of codes are whole numbers that float32 holds.
template <class Kind>
void average_of(const Layer& layer, const Place& source, float* target, int64_t images) {
  const __m512 scale = _mm512_set1_ps(float(layer.other_scale));
  for (int64_t n = 0; n < images; ++n)
    for (int64_t c = 0; c < layer.channels; c += kLanes) {
      const int64_t first = n * source.image + c * sizeof(typename Kind::Value);
      __m512 sum = _mm512_setzero_ps();
      for (int64_t y = 0; y < layer.height; ++y)
        for (int64_t x = 0; x < layer.width; ++x) sum = _mm512_add_ps(sum, values(Kind{}, source.at(y, x) + first));
      _mm512_storeu_ps(target + n * layer.channels + c, _mm512_mul_ps(sum, scale));
    }
}

// The greater of sixteen values of two maps each; no number stays none, on either side.
SPACTE_ALWAYS void store_greatest(Codes, char* to, const char* from) {
  const __m128i greatest = _mm_max_epu8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(to)),
                                        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), greatest);
}

SPACTE_ALWAYS void store_greatest(Floats, char* to, const char* from) {
  const __m512 x = values(Floats{}, to), y = values(Floats{}, from);
  const __m512 greatest = _mm512_mask_add_ps(_mm512_max_ps(x, y), _mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q), x, y);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(greatest)));
}

template <class Kind>
void greatest_of(const Layer& layer, const Place& source, const Place& target, int64_t images) {
  constexpr int64_t kBytes = kLanes * sizeof(typename Kind::Value);
  const int64_t border = layer.padding;
  for (int64_t y = 0; y < layer.height; ++y)
    for (int64_t n = 0; n < images; ++n)
      for (int64_t x = 0; x < layer.width; ++x) {
        const char* const from = source.at(y * layer.stride - border, x * layer.stride - border) + n * source.image;
        char* const to = target.at(y, x) + n * target.image;
        std::memcpy(to, from, target.pixel);
        for (int64_t i = 1; i < layer.kernel * layer.kernel; ++i)
          for (int64_t at = 0; at < target.pixel; at += kBytes)
            store_greatest(Kind{}, to + at, from + i / layer.kernel * source.line + i % layer.kernel * source.pixel + at);
      }
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A thread's tiles, all of 16 rows, while this object lives; then they are as they were.
class Tiles {
 public:
  Tiles() {
    const TileConfig mine;
    _tile_storeconfig(&before_);
    SPACTE_ALL_WRITTEN;  // the compiler does not know that all of `mine` is read
    _tile_loadconfig(&mine);
  }

  ~Tiles() {
    if (before_.palette)
      _tile_loadconfig(&before_);
    else
      _tile_release();
  }

 private:
  TileConfig before_;
};

template <class Kind>
struct MatrixUnits {
  static constexpr int64_t kImages = kLanes;

  typedef Tiles Session;

  static int64_t work_bytes(const Layer&, const Map&) { return 2 * 4 * kTileBytes; }

  static int64_t map_bytes(const Map& map) { return (map.height + 2) * kImages * row_bytes<Kind>(map); }

  static Place place(const Map& map, char* inner, int64_t first) {
    const int64_t pixel = map.channels * sizeof(typename Kind::Value);
    if (map.data) {
      const int64_t line = map.width * pixel, image = map.height * line;
      return {map.data + first * image, line, image, pixel};
    }
    const int64_t row = row_bytes<Kind>(map);
    return {inner + kImages * row + pixel, kImages * row, row, pixel};  // past the border
  }

  static void fill(const Map& map, char* inner) { std::memset(inner, int(map.border), map_bytes(map)); }

  static void copy_in(const Map& map, const Place& from, const Place& to, int64_t images) {
    for (int64_t y = 0; y < map.height; ++y)
      for (int64_t n = 0; n < images; ++n) std::memcpy(to.at(y, 0) + n * to.image, from.at(y, 0) + n * from.image, from.line);
  }

  static void copy_out(const Map&, const Place&, const Place&, int64_t) {}  // layers write to outer maps themselves

  static void convolve(const Layer& layer, const Place& source, const Place* other, const Place& target, int64_t images,
                       char* work) {
    const auto by_shape = layer.shape == kTwoWide       ? (other ? by_blocks<Kind, kTwoWide, true> : by_blocks<Kind, kTwoWide, false>)
                          : layer.shape == kFourInPairs ? (other ? by_blocks<Kind, kFourInPairs, true> : by_blocks<Kind, kFourInPairs, false>)
                                                        : (other ? by_blocks<Kind, kFour, true> : by_blocks<Kind, kFour, false>);
    by_shape(layer, source, other ? *other : Place{}, target, images, work);
  }

  static void pool(const Layer& layer, const Place& source, const Place& target, int64_t images) {
    greatest_of<Kind>(layer, source, target, images);
  }

  static void average(const Layer& layer, const Place& source, float* target, int64_t images) {
    average_of<Kind>(layer, source, target, images);
  }
};

}  // namespace

extern "C" {

// Asks the system for the tiles, for this process; whether it gives them.
int spacte_amx_allowed() {
  constexpr long kAskForState = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
}

// `parts` times `each` products of tiles that are there already, and their multiply-adds: what the matrix units can do.
int64_t spacte_chain_products(int64_t each, int64_t parts, int64_t threads, int64_t kind) {
#pragma omp parallel num_threads(threads)
  {
    const Tiles tiles;
    _tile_zero(4);
    _tile_zero(6);
#pragma omp for schedule(dynamic)
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t i = 0; i < each; i += 4)
        if (kind == kOfBfloat16) {
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 6);
          _tile_dpbf16ps(2, 4, 6);
          _tile_dpbf16ps(3, 4, 6);
        } else {
          _tile_dpbusd(0, 4, 6);
          _tile_dpbusd(1, 4, 6);
          _tile_dpbusd(2, 4, 6);
          _tile_dpbusd(3, 4, 6);
        }
  }
  return parts * each * kLanes * kLanes * (kind == kOfBfloat16 ? kLine / 2 : kLine);
}

// Bytes of scratch memory that a thread needs.
int64_t spacte_chain_scratch(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count, int64_t kind) {
  const auto by_kind = kind == kOfBfloat16 ? Scratch<MatrixUnits<Floats>>::bytes : Scratch<MatrixUnits<Codes>>::bytes;
  return by_kind(layers, layer_count, maps, map_count);
}

// The layers, in this order, for all images.
void spacte_chain(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count, const int64_t* copies,
                  int64_t copies_in, int64_t copies_out, int64_t images, int64_t threads, char* scratch, int64_t kind) {
  const auto by_kind = kind == kOfBfloat16 ? run<MatrixUnits<Floats>> : run<MatrixUnits<Codes>>;
  by_kind(layers, layer_count, maps, map_count, copies, copies_in, copies_out, images, threads, scratch);
}
}
