// Weights as whole numbers, each of which makes up for the errors of those behind it, and the moments of inputs that say
// how: `rounding.py` and `windows.py` say why.
//
// All of it is float64. Sums are of fused products in an order of their own, so that every processor finds the same.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 8;  // of a register: compilers are slow at wider vectors than there are
#elif defined(__AVX__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif
constexpr int kVectors = 2;  // of filters at a time
constexpr int kWeights = 4;  // at a time, so that an error is read once for all of them

typedef double Doubles __attribute__((vector_size(8 * kLanes)));

inline Doubles load(const double* from) {
  Doubles value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void store(double* to, Doubles value) { std::memcpy(to, &value, sizeof value); }

// due += sum over j in [first, end) of factor_j error_j, for ROWS weights.
template <int ROWS>
inline __attribute__((always_inline)) void add_errors(const double* factor, int64_t places, int64_t first, int64_t end,
                                                      const double* errors, int64_t filters, Doubles (*due)[kVectors]) {
  for (int64_t j = first; j < end; ++j) {
    Doubles error[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) error[v] = load(errors + j * filters + v * kLanes);
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) due[row][v] += factor[row * places + j] * error[v];
  }
}

// The places [k, k + ROWS) of some filters.
template <int ROWS>
void round_rows(const double* factor, const double* units, int64_t places, int64_t filters, double limit, int64_t k,
                double* codes, double* errors) {
  Doubles due[ROWS][kVectors];
  for (int row = 0; row < ROWS; ++row)
    for (int v = 0; v < kVectors; ++v) due[row][v] = load(units + (k + row) * filters + v * kLanes);
  add_errors<ROWS>(factor + k * places, places, k + ROWS, places, errors, filters, due);
  for (int row = ROWS - 1; row >= 0; --row) {
    add_errors<1>(factor + (k + row) * places, places, k + row + 1, k + ROWS, errors, filters, due + row);
    for (int v = 0; v < kVectors; ++v)
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t at = (k + row) * filters + v * kLanes + lane;
        codes[at] = std::min(std::max(std::nearbyint(due[row][v][lane]), -limit), limit);
        errors[at] = units[at] - codes[at];
      }
  }
}

constexpr int kRows = 8;           // channels of one side that are multiplied at a time, with kVectors registers of the other
constexpr int64_t kTogether = 32;  // places that are worked on while they are in the nearest cache, 32 KB of 64 channels

// sums [kRows, kVectors * kLanes], rows `stride` apart, += the products of values `a` and `b` behind each place.
void add_products(const double* const* places, int64_t count, int64_t a, int64_t b, double* sums, int64_t stride) {
  Doubles sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[row][v] = load(sums + row * stride + v * kLanes);
  for (int64_t p = 0; p < count; ++p) {
    const double *from = places[p] + a, *with = places[p] + b;
    Doubles value[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) value[v] = load(with + v * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[row][v] += from[row] * value[v];
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(sums + row * stride + v * kLanes, sum[row][v]);
}

// sums [channels, channels] += the products of the channels of the pixels at each place and `behind` it.
void add_moments(const double* const* places, int64_t count, int64_t behind, int64_t channels, double* sums) {
  for (int64_t c = 0; c < channels; c += kRows)
    for (int64_t d = 0; d < channels; d += kVectors * kLanes)
      add_products(places, count, c, behind + d, sums + c * channels + d, channels);
}

}  // namespace

extern "C" {

// Sums over places of the products of two pixels' channels, [sums, channels, channels]. A sum is six numbers: where its first
// place begins, how many rows and columns there are, and how far the second pixel lies behind the first, then the
// distances from one row, and one column, to the next. Channels are a multiple of 16.
void spacte_moments(const double* maps, int64_t images, int64_t image, const int64_t* sums, int64_t count,
                    int64_t channels, int64_t threads, double* to) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t s = 0; s < count; ++s) {
    const int64_t first = sums[6 * s], height = sums[6 * s + 1], width = sums[6 * s + 2], behind = sums[6 * s + 3];
    const int64_t row = sums[6 * s + 4], column = sums[6 * s + 5];
    double* const sum = to + s * channels * channels;
    std::memset(sum, 0, sizeof(double) * channels * channels);
    const double* places[kTogether];
    int64_t filled = 0;
    for (int64_t n = 0; n < images; ++n)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
          places[filled++] = maps + first + n * image + y * row + x * column;
          if (filled < kTogether) continue;
          add_moments(places, filled, behind, channels, sum);
          filled = 0;
        }
    if (filled) add_moments(places, filled, behind, channels, sum);
  }
}

// to_ij = from_kl with k and l at the places i and j of an order, for j up to i; the rest stays what it is.
void spacte_ordered(const double* from, const int64_t* order, int64_t places, int64_t threads, double* to) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 32)
  for (int64_t i = 0; i < places; ++i)
    for (int64_t j = 0; j <= i; ++j) to[i * places + j] = from[order[i] * places + order[j]];
}

// Codes and errors, [places, filters], of weights in units of a code, from the last place to the first. `factor` is
// [places, places]: row k has, behind k, the shares of the errors there that place k makes up for. `filters` is a multiple
// of 16, and codes lie in [-limit, limit].
void spacte_round(const double* factor, const double* units, int64_t places, int64_t filters, int64_t limit,
                  double* codes, double* errors) {
  for (int64_t o = 0; o < filters; o += kVectors * kLanes) {
    int64_t k = places;
    for (; k >= kWeights; k -= kWeights)
      round_rows<kWeights>(factor, units + o, places, filters, (double)limit, k - kWeights, codes + o, errors + o);
    for (; k > 0; --k) round_rows<1>(factor, units + o, places, filters, (double)limit, k - 1, codes + o, errors + o);
  }
}
}
