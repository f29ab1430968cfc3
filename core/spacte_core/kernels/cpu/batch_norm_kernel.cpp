// Batch normalisation, an optional sum and ReLU in as few passes over memory as they need: for maps [N, H, W, C] in
// float32 or bfloat16 with statistics in float32. `batch_norm.py` says what each function computes and when it is used.
//
// A map is read in tiles of 64 values: with 16 or 32 channels a tile holds several pixels, with 128 a pixel holds several
// tiles, and with 24 eight pixels hold three. Sums are taken over fixed runs of tiles and added in a fixed order, so
// that the result does not depend on the number of threads.

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

#ifdef __AVX512F__
constexpr int64_t LANES = 16;  // float32 values of a register: compilers are slow at wider vectors than there are
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
constexpr int64_t TILE = 64, VECTORS = TILE / LANES;
constexpr int64_t RUN = 256;  // tiles of a run, 64 KB of float32: they stay near the core while they are read twice

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Masks __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

typedef uint16_t bf16;

inline Floats load(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Floats load(const bf16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    return (Floats)words;
}

inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline void store(bf16* to, Floats value) {  // to the nearest, ties to even; the instruction takes denormals for zeros
#ifdef __AVX512BF16__
    const __m256bh halves = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(to, &halves, sizeof halves);
#else
    const Words none = (Words)(value != value);  // some would be rounded to a zero
    const Words words = ((Words)value & ~none) | (none & 0x7fc00000);
    const Halves halves = __builtin_convertvector((words + 0x7fff + ((words >> 16) & 1)) >> 16, Halves);
    std::memcpy(to, &halves, sizeof halves);
#endif
}

// `value` where `gate` is above zero or no number, else 0: ReLU, and what passes back through it.
inline Floats where_positive(Floats gate, Floats value) {
    const Masks closed = gate <= 0;
    return (Floats)((Masks)value & ~closed);
}

// What a ReLU let pass: by its result, or where nothing was added by the map before, which saves reading a map.
enum class Gate { kNone, kResult, kInput };

inline Floats normalised(Floats x, const float* scale, const float* shift) { return x * load(scale) + load(shift); }

// How a map of `rows` pixels with `channels` channels falls into tiles: the first ones of `blocks` that follow one
// another start with a pixel's first channel.
struct Shape {
    int64_t channels, stride, tiles, blocks, runs;

    Shape(int64_t rows, int64_t channels)
        : channels(channels),
          stride(std::lcm(channels, TILE)),
          tiles(rows * channels / stride),
          blocks(stride / TILE),
          runs((tiles + RUN - 1) / RUN) {}

    int64_t width() const { return blocks * TILE; }
    int64_t first(int64_t run) const { return run * RUN; }
    int64_t end(int64_t run) const { return first(run) + RUN < tiles ? first(run) + RUN : tiles; }

    // Values a channel, repeated to fill a tile.
    std::vector<float> spread(const float* by_channel) const {
        std::vector<float> wide(width());
        for (int64_t i = 0; i < width(); ++i) wide[i] = by_channel[i % channels];
        return wide;
    }
};

// Calls work(offset of the first value, number of tiles, block, run) for every run of every block.
template <class Work>
void for_runs(const Shape& shape, int threads, Work work) {
    const int64_t jobs = shape.runs * shape.blocks;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t job = 0; job < jobs; ++job) {
        const int64_t run = job / shape.blocks, block = job % shape.blocks;
        const int64_t first = shape.first(run);
        work(first * shape.stride + block * TILE, shape.end(run) - first, block, run);
    }
}

template <class T>
void statistics(const Shape& shape, int threads, const T* x, float eps, float* mean_C, float* var_C, float* rstd_C) {
    const int64_t width = shape.width();
    std::vector<float> means(shape.runs * width), squares(shape.runs * width);
    for_runs(shape, threads, [&](int64_t offset, int64_t tiles, int64_t block, int64_t run) {
        Floats sum[VECTORS] = {}, square[VECTORS] = {};
        for (int64_t t = 0; t < tiles; ++t)
            for (int v = 0; v < VECTORS; ++v) sum[v] += load(x + offset + t * shape.stride + v * LANES);
        for (int v = 0; v < VECTORS; ++v) sum[v] /= (float)tiles;
        for (int64_t t = 0; t < tiles; ++t)
            for (int v = 0; v < VECTORS; ++v) {
                const Floats d = load(x + offset + t * shape.stride + v * LANES) - sum[v];
                square[v] += d * d;
            }
        for (int v = 0; v < VECTORS; ++v) {
            store(&means[run * width + block * TILE + v * LANES], sum[v]);
            store(&squares[run * width + block * TILE + v * LANES], square[v]);
        }
    });
    const double count = (double)shape.tiles * width / shape.channels;
    for (int64_t c = 0; c < shape.channels; ++c) {
        double mean = 0, square = 0;
        for (int64_t run = 0; run < shape.runs; ++run)
            for (int64_t i = c; i < width; i += shape.channels)
                mean += means[run * width + i] * (double)(shape.end(run) - shape.first(run));
        mean /= count;
        for (int64_t run = 0; run < shape.runs; ++run)
            for (int64_t i = c; i < width; i += shape.channels) {
                const double d = means[run * width + i] - mean;
                square += squares[run * width + i] + d * d * (double)(shape.end(run) - shape.first(run));
            }
        mean_C[c] = (float)mean;
        var_C[c] = (float)(square / count);
        rstd_C[c] = (float)(1 / std::sqrt(square / count + eps));
    }
}

template <class T, bool PLUS, bool RELU>
void apply(const Shape& shape, int threads, const T* x, const T* plus, const float* scale_C, const float* shift_C, T* y) {
    const std::vector<float> scales = shape.spread(scale_C), shifts = shape.spread(shift_C);
    for_runs(shape, threads, [&](int64_t offset, int64_t tiles, int64_t block, int64_t) {
        for (int64_t t = 0; t < tiles; ++t)
            for (int v = 0; v < VECTORS; ++v) {
                const int64_t at = offset + t * shape.stride + v * LANES, c = block * TILE + v * LANES;
                Floats value = normalised(load(x + at), &scales[c], &shifts[c]);
                if (PLUS) value += load(plus + at);
                store(y + at, RELU ? where_positive(value, value) : value);
            }
    });
}

template <class T>
void apply(const Shape& shape, int threads, const T* x, const T* plus, bool relu, const float* scale_C,
           const float* shift_C, T* y) {
    const auto variant = plus ? (relu ? apply<T, true, true> : apply<T, true, false>)
                              : (relu ? apply<T, false, true> : apply<T, false, false>);
    variant(shape, threads, x, plus, scale_C, shift_C, y);
}

// What came out of the forward pass, by channel, and y for a gate that needs it.
struct Forward {
    std::vector<float> means, scales, shifts;
    const void* y;
};

template <class T, Gate GATE>
inline Floats through(const Forward& forward, int64_t at, int64_t c, Floats x, Floats g) {
    if (GATE == Gate::kResult) return where_positive(load((const T*)forward.y + at), g);
    if (GATE == Gate::kInput) return where_positive(normalised(x, &forward.scales[c], &forward.shifts[c]), g);
    return g;
}

// g = dy through ReLU. With `d_plus` g is kept there, for it is the gradient of the sum's other side.
template <class T, Gate GATE>
void sums(const Shape& shape, int threads, const T* dy, const T* x, const Forward& forward, T* d_plus, double* sum_C,
          double* product_C) {
    const int64_t width = shape.width();
    std::vector<float> ones(shape.runs * width), products(shape.runs * width);
    for_runs(shape, threads, [&](int64_t offset, int64_t tiles, int64_t block, int64_t run) {
        Floats sum[VECTORS] = {}, product[VECTORS] = {};
        for (int64_t t = 0; t < tiles; ++t)
            for (int v = 0; v < VECTORS; ++v) {
                const int64_t at = offset + t * shape.stride + v * LANES, c = block * TILE + v * LANES;
                const Floats value = load(x + at), g = through<T, GATE>(forward, at, c, value, load(dy + at));
                if (d_plus) store(d_plus + at, g);
                sum[v] += g;
                product[v] += g * (value - load(&forward.means[c]));
            }
        for (int v = 0; v < VECTORS; ++v) {
            store(&ones[run * width + block * TILE + v * LANES], sum[v]);
            store(&products[run * width + block * TILE + v * LANES], product[v]);
        }
    });
    for (int64_t c = 0; c < shape.channels; ++c) {
        sum_C[c] = product_C[c] = 0;
        for (int64_t run = 0; run < shape.runs; ++run)
            for (int64_t i = c; i < width; i += shape.channels) {
                sum_C[c] += ones[run * width + i];
                product_C[c] += products[run * width + i];
            }
    }
}

// dx = a g + b (x - mean) + c by channel.
template <class T, Gate GATE>
void spread_back(const Shape& shape, int threads, const T* g_or_dy, const T* x, const Forward& forward, const float* a_C,
                 const float* b_C, const float* c_C, T* dx) {
    const std::vector<float> as = shape.spread(a_C), bs = shape.spread(b_C), cs = shape.spread(c_C);
    for_runs(shape, threads, [&](int64_t offset, int64_t tiles, int64_t block, int64_t) {
        for (int64_t t = 0; t < tiles; ++t)
            for (int v = 0; v < VECTORS; ++v) {
                const int64_t at = offset + t * shape.stride + v * LANES, c = block * TILE + v * LANES;
                const Floats value = load(x + at), g = through<T, GATE>(forward, at, c, value, load(g_or_dy + at));
                store(dx + at, g * load(&as[c]) + ((value - load(&forward.means[c])) * load(&bs[c]) + load(&cs[c])));
            }
    });
}

template <class T, Gate GATE>
void backward(const Shape& shape, int threads, const T* dy, const T* x, const Forward& forward, const float* weight_C,
              const float* rstd_C, T* dx, T* d_plus, float* d_weight_C, float* d_bias_C) {
    const int64_t channels = shape.channels;
    const double count = (double)shape.tiles * shape.width() / channels;
    std::vector<double> sum_C(channels), product_C(channels);
    sums<T, GATE>(shape, threads, dy, x, forward, d_plus, sum_C.data(), product_C.data());
    std::vector<float> a_C(channels), b_C(channels), c_C(channels);
    for (int64_t c = 0; c < channels; ++c) {
        d_bias_C[c] = (float)sum_C[c];
        d_weight_C[c] = (float)(product_C[c] * rstd_C[c]);
        const double a = (double)weight_C[c] * rstd_C[c];
        a_C[c] = (float)a;
        b_C[c] = (float)(-a * rstd_C[c] * rstd_C[c] * product_C[c] / count);
        c_C[c] = (float)(-a * sum_C[c] / count);
    }
    const auto input_gradient = d_plus ? spread_back<T, Gate::kNone> : spread_back<T, GATE>;
    input_gradient(shape, threads, d_plus ? d_plus : dy, x, forward, a_C.data(), b_C.data(), c_C.data(), dx);
}

template <class T>
void backward_constant(const Shape& shape, int threads, const T* dy, const T* y, const float* scale_C, T* dx,
                       T* d_plus) {
    const std::vector<float> scales = shape.spread(scale_C);
    for_runs(shape, threads, [&](int64_t offset, int64_t tiles, int64_t block, int64_t) {
        for (int64_t t = 0; t < tiles; ++t)
            for (int v = 0; v < VECTORS; ++v) {
                const int64_t at = offset + t * shape.stride + v * LANES;
                Floats g = load(dy + at);
                if (y) g = where_positive(load(y + at), g);
                if (d_plus) store(d_plus + at, g);
                store(dx + at, g * load(&scales[block * TILE + v * LANES]));
            }
    });
}

}  // namespace

// `half` is 1 for bfloat16 maps and 0 for float32; `plus`, `d_plus` and, in a backward pass, `y` may be null. `gate`: 0 for
// no ReLU, 1 for one whose result is `y`, 2 for one of the scaled and shifted map.
#define FOR_EITHER_TYPE(...) \
    if (half) {              \
        using T = bf16;      \
        __VA_ARGS__;         \
    } else {                 \
        using T = float;     \
        __VA_ARGS__;         \
    }

extern "C" {

void spacte_norm_statistics(int64_t half, int64_t rows, int64_t channels, int64_t threads, const void* x, float eps,
                            float* mean_C, float* var_C, float* rstd_C) {
    const Shape shape(rows, channels);
    FOR_EITHER_TYPE(statistics(shape, threads, (const T*)x, eps, mean_C, var_C, rstd_C))
}

void spacte_norm_apply(int64_t half, int64_t rows, int64_t channels, int64_t threads, const void* x, const void* plus,
                       int64_t relu, const float* scale_C, const float* shift_C, void* y) {
    const Shape shape(rows, channels);
    FOR_EITHER_TYPE(apply(shape, threads, (const T*)x, (const T*)plus, relu != 0, scale_C, shift_C, (T*)y))
}

void spacte_norm_backward(int64_t half, int64_t rows, int64_t channels, int64_t threads, const void* dy, const void* x,
                          int64_t gate, const void* y, const float* scale_C, const float* shift_C, const float* weight_C,
                          const float* mean_C, const float* rstd_C, void* dx, void* d_plus, float* d_weight_C,
                          float* d_bias_C) {
    const Shape shape(rows, channels);
    const Forward forward{shape.spread(mean_C), shape.spread(scale_C), shape.spread(shift_C), y};
    FOR_EITHER_TYPE(const auto by_gate = gate == 0   ? backward<T, Gate::kNone>
                                         : gate == 1 ? backward<T, Gate::kResult>
                                                     : backward<T, Gate::kInput>;
                    by_gate(shape, threads, (const T*)dy, (const T*)x, forward, weight_C, rstd_C, (T*)dx, (T*)d_plus,
                            d_weight_C, d_bias_C))
}

void spacte_norm_backward_constant(int64_t half, int64_t rows, int64_t channels, int64_t threads, const void* dy,
                                   const void* y, const float* scale_C, void* dx, void* d_plus) {
    const Shape shape(rows, channels);
    FOR_EITHER_TYPE(backward_constant(shape, threads, (const T*)dy, (const T*)y, scale_C, (T*)dx, (T*)d_plus))
}
}
