// The tiles of AMX in plain C++, so that the kernel for matrix units can be tested on machines without them.
// Included before the kernel's own headers. Codes add up exactly; bfloat16 in the order of Intel's manual.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
#define syscall(...) 0L

namespace emulated {

struct Tile {
  uint8_t bytes[16][64];
};

inline thread_local Tile tiles[8];

inline void load(int t, const void* from, int64_t stride) {
  for (int row = 0; row < 16; ++row) std::memcpy(tiles[t].bytes[row], static_cast<const char*>(from) + row * stride, 64);
}

inline void store(int t, void* to, int64_t stride) {
  for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * stride, tiles[t].bytes[row], 64);
}

inline void products_of_codes(int c, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n) {
        int32_t sum;
        std::memcpy(&sum, tiles[c].bytes[m] + 4 * n, 4);
        for (int j = 0; j < 4; ++j) sum += int32_t(tiles[a].bytes[m][4 * k + j]) * int8_t(tiles[b].bytes[k][4 * n + j]);
        std::memcpy(tiles[c].bytes[m] + 4 * n, &sum, 4);
      }
}

inline float widened(const uint8_t* from) {
  uint16_t half;
  std::memcpy(&half, from, 2);
  const uint32_t bits = uint32_t(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline void products_of_floats(int c, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n) {
        float sum;
        std::memcpy(&sum, tiles[c].bytes[m] + 4 * n, 4);
        for (int j = 0; j < 2; ++j)
          sum = std::fma(widened(tiles[a].bytes[m] + 4 * k + 2 * j), widened(tiles[b].bytes[k] + 4 * n + 2 * j), sum);
        std::memcpy(tiles[c].bytes[m] + 4 * n, &sum, 4);
      }
}

}  // namespace emulated

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_storeconfig
#undef _tile_release
#define _tile_zero(t) (emulated::tiles[t] = {})
#define _tile_loadd(t, from, stride) emulated::load(t, from, stride)
#define _tile_stored(t, to, stride) emulated::store(t, to, stride)
#define _tile_dpbusd(c, a, b) emulated::products_of_codes(c, a, b)
#define _tile_dpbf16ps(c, a, b) emulated::products_of_floats(c, a, b)
#define _tile_loadconfig(config) ((void)(config))
#define _tile_storeconfig(config) std::memset(config, 0, 64)
#define _tile_release() ((void)0)
