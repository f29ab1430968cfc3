// Noisy network inputs on the CPU: the same bits as the torch operations of `GridNoise`, about ten times as fast.
//
// For each row: Philox 4x32-10 gives 16 bits a pixel, which pick a column of the noise table; 64 further bits decide
// between the two values of a shared column; the noise is added to the 8-bit pixels as integers; the sum becomes a
// network input, scale * x + shift, as float32, bfloat16 (round to nearest even) or an 8-bit code (clamped, truncated).
// Compile without contraction into fused multiply-adds: the torch operations round twice.

#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

namespace {

// Philox 4x32-10's constants (Salmon et al. 2011).
constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;
constexpr uint32_t kSharedBlocks = 1u << 31;  // blocks from here on decide between the values of shared columns
// Blocks computed side by side: several registers of 16 lanes each, and one register for the rest of an image, or for
// an image of up to 128 pixels (benchmarks/results/engine_cpu.md, "Noise").
constexpr int kChunk = 64, kSmallChunk = 16;
constexpr int64_t kPartsEach = 4;  // of the rows, for each thread: threads get more or less of their cores

struct Row {
  uint32_t k0, k1, c2, c3, sample;
};

template <int CHUNK>
inline void philox_chunk(const Row& row, uint32_t first_block, uint32_t (*__restrict out)[kChunk]) {
  uint32_t c0[CHUNK], c1[CHUNK], c2[CHUNK], c3[CHUNK];
  for (int i = 0; i < CHUNK; ++i) {
    c0[i] = first_block + i;
    c1[i] = row.sample;
    c2[i] = row.c2;
    c3[i] = row.c3;
  }
  uint32_t k0 = row.k0, k1 = row.k1;
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < CHUNK; ++i) {
      const uint64_t p0 = static_cast<uint64_t>(kMultiplier0) * c0[i];
      const uint64_t p1 = static_cast<uint64_t>(kMultiplier1) * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(p1);
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  std::memcpy(out[0], c0, sizeof c0);
  std::memcpy(out[1], c1, sizeof c1);
  std::memcpy(out[2], c2, sizeof c2);
  std::memcpy(out[3], c3, sizeof c3);
}

inline uint64_t second_draw(const Row& row, uint32_t pixel) {
  uint32_t words[4][kChunk];
  philox_chunk<1>(row, kSharedBlocks + pixel, words);
  return static_cast<uint64_t>(words[1][0]) << 32 | words[0][0];
}

}  // namespace

extern "C" {

struct Table {
  const int16_t* value;       // [65536]
  const int16_t* other;       // [65536 - first_shared]
  const uint64_t* threshold;  // [65536 - first_shared]
  int64_t first_shared;
};

}

namespace {

// The rows from `first` on, up to `end`; the arguments are those of the function at the end.
FOR_EACH_CPU void draw_rows(int64_t first, int64_t end, const int64_t* rows, int64_t pixels, const Table* table,
                            const int16_t* images, const int64_t* image_of_row, const float* scale, const float* shift,
                            int64_t kind, void* out) {
  const int64_t blocks = (pixels + 7) / 8;
  std::vector<uint16_t> column(8 * (blocks + kChunk));
  std::vector<int16_t> noisy(pixels);
  uint32_t words[4][kChunk];
  for (int64_t r = first; r < end; ++r) {
    const int64_t* name = rows + 5 * r;
    const Row row{static_cast<uint32_t>(name[0]), static_cast<uint32_t>(name[1]), static_cast<uint32_t>(name[2]),
                  static_cast<uint32_t>(name[3]), static_cast<uint32_t>(name[4])};
    // Lane l of block b belongs to pixel l * blocks + b: low halves of the four words, then high halves.
    for (int64_t b = 0; b < blocks; b += kChunk) {
      if (blocks - b <= kSmallChunk)
        philox_chunk<kSmallChunk>(row, static_cast<uint32_t>(b), words);
      else
        philox_chunk<kChunk>(row, static_cast<uint32_t>(b), words);
      const int64_t here = blocks - b < kChunk ? blocks - b : kChunk;
      for (int lane = 0; lane < 4; ++lane) {
        uint16_t* low = column.data() + lane * blocks + b;
        uint16_t* high = column.data() + (lane + 4) * blocks + b;
        for (int64_t i = 0; i < here; ++i) {
          low[i] = static_cast<uint16_t>(words[lane][i]);
          high[i] = static_cast<uint16_t>(words[lane][i] >> 16);
        }
      }
    }
    const int16_t* base = images + image_of_row[r] * pixels;
    for (int64_t p = 0; p < pixels; ++p) noisy[p] = table->value[column[p]];
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t shared = static_cast<int64_t>(column[p]) - table->first_shared;
      if (__builtin_expect(shared >= 0, 0) &&
          second_draw(row, static_cast<uint32_t>(p)) >= table->threshold[shared]) {
        noisy[p] = table->other[shared];
      }
    }
    for (int64_t p = 0; p < pixels; ++p) noisy[p] = static_cast<int16_t>(noisy[p] + base[p]);

    if (kind == 0) {
      std::memcpy(static_cast<int16_t*>(out) + r * pixels, noisy.data(), pixels * sizeof(int16_t));
    } else if (kind == 1) {
      float* to = static_cast<float*>(out) + r * pixels;
      for (int64_t p = 0; p < pixels; ++p) to[p] = static_cast<float>(noisy[p]) * scale[p] + shift[p];
    } else if (kind == 2) {
      uint16_t* to = static_cast<uint16_t*>(out) + r * pixels;
      for (int64_t p = 0; p < pixels; ++p) {
        const float x = static_cast<float>(noisy[p]) * scale[p] + shift[p];
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        to[p] = static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
      }
    } else {
      uint8_t* to = static_cast<uint8_t*>(out) + r * pixels;
      for (int64_t p = 0; p < pixels; ++p) {
        float x = static_cast<float>(noisy[p]) * scale[p] + shift[p];
        x = x < 0.0f ? 0.0f : (x > 255.0f ? 255.0f : x);
        to[p] = static_cast<uint8_t>(static_cast<int32_t>(x));
      }
    }
  }
}

}  // namespace

// rows [R, 5]; images [U, P] with image_of_row [R]; out [R, P] of the type that `kind` names:
// 0 int16 (x itself), 1 float32, 2 bfloat16, 3 uint8. scale and shift are [P]. A row's bits are its own, whatever the
// number of threads; without OpenMP there is one.
extern "C" void spacte_grid_noise(const int64_t* rows, int64_t row_count, int64_t pixels, const Table* table,
                                  const int16_t* images, const int64_t* image_of_row, const float* scale, const float* shift,
                                  int64_t kind, void* out, int64_t threads) {
  const int64_t parts = kPartsEach * threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t part = 0; part < parts; ++part)
    draw_rows(row_count * part / parts, row_count * (part + 1) / parts, rows, pixels, table, images, image_of_row, scale,
              shift, kind, out);
}
