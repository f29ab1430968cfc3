// Batch normalisation, an optional sum and ReLU in as few passes over memory as they need: for maps [N, H, W, C] in
// float32 or bfloat16 with statistics in float32. `batch_norm.py` says what each function computes and when it is used.
//
// A map is read from front to back, in tiles of as many whole pixels as fill registers: four with 16 channels, one with 64
// or 128, eight with 24; pixels that fill no tile come at the end. Sums are taken over fixed runs of tiles and added in a
// fixed order, so that the result does not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "float_vectors.h"

namespace {

constexpr int64_t TILE = 64;    // a tile's values are a multiple of it
constexpr int64_t RUN = 16384;  // values of a run, about: 64 KB of float32 stay near the core while they are read again
constexpr int64_t LEAST = 16;   // tiles of a run
constexpr int64_t GROUP = 4;    // tiles that are summed in registers

// `value` where `gate` is above zero or no number, else 0: ReLU, and what passes back through it.
inline Floats where_positive(Floats gate, Floats value) {
    const Masks closed = gate <= 0;
    return (Floats)((Masks)value & ~closed);
}

// What a ReLU let pass: by its result, or where nothing was added by the map before, which saves reading a map.
enum class Gate { kNone, kResult, kInput };

inline Floats normalised(Floats x, const float* scale, const float* shift) { return x * load(scale) + load(shift); }

// How a map of `rows` pixels with `channels` channels falls into tiles of `width` values. Tiles begin with a pixel's first
// channel, and so does the rest.
struct Shape {
    int64_t channels, values, width, tiles, run, runs;

    Shape(int64_t rows, int64_t channels)
        : channels(channels),
          values(rows * channels),
          width(std::lcm(channels, TILE)),
          tiles(values / width),
          run(std::max(LEAST, RUN / width)),
          runs((tiles + run - 1) / run) {}

    int64_t rest() const { return values - tiles * width; }
    int64_t rows() const { return values / channels; }
    int64_t first(int64_t number) const { return number * run; }
    int64_t end(int64_t number) const { return std::min(first(number) + run, tiles); }

    // Values a channel, repeated to fill a tile.
    std::vector<float> spread(const float* by_channel) const {
        std::vector<float> wide(width);
        for (int64_t i = 0; i < width; i += channels) std::copy_n(by_channel, channels, wide.data() + i);
        return wide;
    }
};

// Calls work(first tile, end, number) for every run.
//
// Here and below, what is called has its pointers by value: a map is stored as bytes, which compilers take for anything
// that is reached by reference, so that it would be read again after each store.
template <class Work>
void for_runs(const Shape shape, int threads, const Work work) {
#pragma omp parallel for num_threads(threads) schedule(static) firstprivate(shape, work)
    for (int64_t number = 0; number < shape.runs; ++number) work(shape.first(number), shape.end(number), number);
}

// Calls work(offset, place in the tile, count) for vectors at one place of `count` tiles that follow one another.
template <class Work>
inline void for_groups(int64_t width, int64_t first, int64_t end, const Work work) {
    for (int64_t t = first; t < end; t += GROUP)
        for (int64_t c = 0; c < width; c += LANES) work(t * width + c, c, std::min(GROUP, end - t));
}

// Calls work(offset, place in the tile, Part) for the vectors of the rest.
template <class Work>
void for_rest(const Shape shape, const Work work) {
    for (int64_t c = 0; c < shape.rest(); c += LANES)
        work(shape.tiles * shape.width + c, c, Part{std::min(LANES, shape.rest() - c)});
}

// Calls work(offset, place in the tile, Whole or Part) for every vector.
template <class Work>
void for_vectors(const Shape& shape, int threads, const Work work) {
    for_runs(shape, threads, [=, width = shape.width](int64_t first, int64_t end, int64_t) {
        for (int64_t t = first; t < end; ++t)
            for (int64_t c = 0; c < width; c += LANES) work(t * width + c, c, Whole{});
    });
    for_rest(shape, work);
}

template <class T>
void statistics(const Shape& shape, int threads, const T* x, float eps, float* mean_C, float* var_C, float* rstd_C) {
    const int64_t width = shape.width;
    std::vector<float> means(shape.runs * width), squares(shape.runs * width), rest(width);
    float *const all_means = means.data(), *const all_squares = squares.data(), *const rest_values = rest.data();
    for_runs(shape, threads, [=](int64_t first, int64_t end, int64_t number) {
        float *const mean = all_means + number * width, *const square = all_squares + number * width;
        for_groups(width, first, end, [=](int64_t at, int64_t c, int64_t count) {
            Floats sum = load(mean + c);
            for (int64_t t = 0; t < count; ++t) sum += load(x + at + t * width);
            store(mean + c, sum);
        });
        for (int64_t c = 0; c < width; c += LANES) store(mean + c, load(mean + c) / (float)(end - first));
        for_groups(width, first, end, [=](int64_t at, int64_t c, int64_t count) {
            Floats sum = load(square + c);
            const Floats middle = load(mean + c);
            for (int64_t t = 0; t < count; ++t) {
                const Floats d = load(x + at + t * width) - middle;
                sum += d * d;
            }
            store(square + c, sum);
        });
    });
    for_rest(shape, [=](int64_t at, int64_t c, Part part) { store(rest_values + c, load(x + at, part)); });
    const double count = (double)shape.rows();
    for (int64_t c = 0; c < shape.channels; ++c) {
        double mean = 0, square = 0;
        for (int64_t run = 0; run < shape.runs; ++run)
            for (int64_t i = c; i < width; i += shape.channels)
                mean += means[run * width + i] * (double)(shape.end(run) - shape.first(run));
        for (int64_t i = c; i < shape.rest(); i += shape.channels) mean += rest[i];
        mean /= count;
        for (int64_t run = 0; run < shape.runs; ++run)
            for (int64_t i = c; i < width; i += shape.channels) {
                const double d = means[run * width + i] - mean;
                square += squares[run * width + i] + d * d * (double)(shape.end(run) - shape.first(run));
            }
        for (int64_t i = c; i < shape.rest(); i += shape.channels) square += (rest[i] - mean) * (rest[i] - mean);
        mean_C[c] = (float)mean;
        var_C[c] = (float)(square / count);
        rstd_C[c] = (float)(1 / std::sqrt(square / count + eps));
    }
}

template <class T, bool PLUS, bool RELU>
void apply(const Shape& shape, int threads, const T* x, const T* plus, const float* scale_C, const float* shift_C, T* y) {
    const std::vector<float> scales = shape.spread(scale_C), shifts = shape.spread(shift_C);
    const float *const scale = scales.data(), *const shift = shifts.data();
    for_vectors(shape, threads, [=](int64_t at, int64_t c, auto part) {
        Floats value = normalised(load(x + at, part), scale + c, shift + c);
        if (PLUS) value += load(plus + at, part);
        store(y + at, RELU ? where_positive(value, value) : value, part);
    });
}

template <class T>
void apply(const Shape& shape, int threads, const T* x, const T* plus, bool relu, const float* scale_C,
           const float* shift_C, T* y) {
    const auto variant = plus ? (relu ? apply<T, true, true> : apply<T, true, false>)
                              : (relu ? apply<T, false, true> : apply<T, false, false>);
    variant(shape, threads, x, plus, scale_C, shift_C, y);
}

// What came out of the forward pass, repeated to fill a tile, and y for a gate that needs it.
struct Forward {
    const float *mean, *scale, *shift;
    const void* y;
};

template <class T, Gate GATE, class Size>
inline Floats through(const Forward forward, int64_t at, int64_t c, Floats x, Floats g, Size part) {
    if (GATE == Gate::kResult) return where_positive(load((const T*)forward.y + at, part), g);
    if (GATE == Gate::kInput) return where_positive(normalised(x, forward.scale + c, forward.shift + c), g);
    return g;
}

// g = dy through ReLU. With `d_plus` g is kept there, for it is the gradient of the sum's other side.
template <class T, Gate GATE>
void sums(const Shape& shape, int threads, const T* dy, const T* x, const Forward& forward, T* d_plus, double* sum_C,
          double* product_C) {
    const int64_t width = shape.width;
    std::vector<float> ones((shape.runs + 1) * width), products((shape.runs + 1) * width);  // the last are the rest's
    float *const all_ones = ones.data(), *const all_products = products.data();
    const auto add = [=](int64_t at, int64_t c, auto part, Floats& sum, Floats& product) {
        const Floats value = load(x + at, part), g = through<T, GATE>(forward, at, c, value, load(dy + at, part), part);
        if (d_plus) store(d_plus + at, g, part);
        sum += g;
        product += g * (value - load(forward.mean + c));
    };
    for_runs(shape, threads, [=](int64_t first, int64_t end, int64_t number) {
        float *const one = all_ones + number * width, *const product = all_products + number * width;
        for_groups(width, first, end, [=](int64_t at, int64_t c, int64_t count) {
            Floats g_sum = load(one + c), product_sum = load(product + c);
            for (int64_t t = 0; t < count; ++t) add(at + t * width, c, Whole{}, g_sum, product_sum);
            store(one + c, g_sum);
            store(product + c, product_sum);
        });
    });
    const int64_t last = shape.runs * width;
    for_rest(shape, [=](int64_t at, int64_t c, Part part) {  // zeros behind it add nothing
        Floats g_sum = {}, product_sum = {};
        add(at, c, part, g_sum, product_sum);
        store(all_ones + last + c, g_sum);
        store(all_products + last + c, product_sum);
    });
    for (int64_t c = 0; c < shape.channels; ++c) {
        sum_C[c] = product_C[c] = 0;
        for (int64_t run = 0; run <= shape.runs; ++run)
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
    const float *const a = as.data(), *const b = bs.data(), *const c_of = cs.data();
    for_vectors(shape, threads, [=](int64_t at, int64_t c, auto part) {
        const Floats value = load(x + at, part);
        const Floats g = through<T, GATE>(forward, at, c, value, load(g_or_dy + at, part), part);
        store(dx + at, g * load(a + c) + ((value - load(forward.mean + c)) * load(b + c) + load(c_of + c)), part);
    });
}

template <class T, Gate GATE>
void backward(const Shape& shape, int threads, const T* dy, const T* x, const Forward& forward, const float* weight_C,
              const float* rstd_C, T* dx, T* d_plus, float* d_weight_C, float* d_bias_C) {
    const int64_t channels = shape.channels;
    const double count = (double)shape.rows();
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
    const float* const scale = scales.data();
    for_vectors(shape, threads, [=](int64_t at, int64_t c, auto part) {
        Floats g = load(dy + at, part);
        if (y) g = where_positive(load(y + at, part), g);
        if (d_plus) store(d_plus + at, g, part);
        store(dx + at, g * load(scale + c), part);
    });
}

}  // namespace

// `half` is 1 for bfloat16 maps and 0 for float32; `plus`, `d_plus` and, in a backward pass, `y` may be null. `gate`: 0 for
// no ReLU, 1 for one whose result is `y`, 2 for one of the scaled and shifted map.
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
    const std::vector<float> means = shape.spread(mean_C), scales = shape.spread(scale_C), shifts = shape.spread(shift_C);
    const Forward forward{means.data(), scales.data(), shifts.data(), y};
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
