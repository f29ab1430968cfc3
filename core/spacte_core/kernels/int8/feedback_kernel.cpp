// Rounds weights to whole numbers, each so that it makes up for the errors of those behind it: `rounding.py` says why.
//
// Sums are of fused products, from the first weight to the last, so that every processor rounds alike.

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
constexpr int kVectors = 2;   // of filters at a time
constexpr int kWeights = 4;   // at a time, so that an error is read once for all of them

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

}  // namespace

// Codes and errors, [places, filters], of weights in units of a code, from the last place to the first. `factor` is
// [places, places]: row k has, behind k, the shares of the errors there that place k makes up for. `filters` is a multiple
// of 16, and codes lie in [-limit, limit].
extern "C" void spacte_round(const double* factor, const double* units, int64_t places, int64_t filters, int64_t limit,
                             double* codes, double* errors) {
  for (int64_t o = 0; o < filters; o += kVectors * kLanes) {
    int64_t k = places;
    for (; k >= kWeights; k -= kWeights)
      round_rows<kWeights>(factor, units + o, places, filters, (double)limit, k - kWeights, codes + o, errors + o);
    for (; k > 0; --k) round_rows<1>(factor, units + o, places, filters, (double)limit, k - 1, codes + o, errors + o);
  }
}
