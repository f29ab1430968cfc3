// Max pooling over windows of 2 x 2 and its gradient, for maps [N, H, W, C] in float32 or bfloat16. `max_pool.py` says
// when they are used.
//
// Windows do not overlap, so that the gradient of a map is written once, from front to back, and never filled with zeros
// before. Of a map of odd sides the last row and column are in no window.

#include <cstdint>
#include <cstring>

#include "float_vectors.h"

namespace {

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

struct Pool {
    int64_t height, width, channels;

    int64_t down() const { return height / 2; }
    int64_t across() const { return width / 2; }
    int64_t row() const { return width * channels; }
};

// Calls work(place of a vector at the top left of its windows, place of their results) for all windows, and
// edge(place, count) for runs of values that are in none. Both have their pointers by value: see batch_norm_kernel.cpp.
template <class Work, class Edge>
void for_windows(const Pool pool, int64_t images, int threads, const Work work, const Edge edge) {
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2) firstprivate(pool, work, edge)
    for (int64_t image = 0; image < images; ++image)
        for (int64_t i = 0; i < pool.down(); ++i) {
            const int64_t channels = pool.channels, across = pool.across(), row = pool.row();
            const int64_t first = (image * pool.height + 2 * i) * row;
            const int64_t result = (image * pool.down() + i) * across * channels;
            for (int64_t j = 0; j < across; ++j)
                for (int64_t c = 0; c < channels; c += LANES)
                    work(first + 2 * j * channels + c, result + j * channels + c);
            if (pool.width % 2)
                for (int64_t r = 1; r < 3; ++r) edge(first + r * row - channels, channels);
            if (pool.height % 2 && i + 1 == pool.down()) edge(first + 2 * row, row);
        }
}

// The largest value of each window and which it is: the first one of equals, or the last one that is no number.
template <class T>
void forward(const Pool& pool, int64_t images, int threads, const T* x, T* y, uint8_t* which) {
    const int64_t right = pool.channels, below = pool.row();
    const auto largest = [=](int64_t from, int64_t to) {
        const T* const values[] = {x + from, x + from + right, x + from + below, x + from + below + right};
        Floats best = load(values[0]);
        Masks at = {};
        for (int k = 1; k < 4; ++k) {
            const Floats value = load(values[k]);
            const Masks better = (value > best) | (value != value);
            best = better ? value : best;
            at = better ? Masks{} + k : at;
        }
        store_exact(y + to, best);
        const Bytes bytes = __builtin_convertvector(at, Bytes);
        std::memcpy(which + to, &bytes, sizeof bytes);
    };
    for_windows(pool, images, threads, largest, [](int64_t, int64_t) {});
}

// dy where a window had its largest value, and 0 elsewhere. PyTorch adds dy to 0, which has no sign then.
template <class T>
void backward(const Pool& pool, int64_t images, int threads, const T* dy, const uint8_t* which, T* dx) {
    const int64_t right = pool.channels, below = pool.row();
    const auto back = [=](int64_t to, int64_t from) {
        T* const values[] = {dx + to, dx + to + right, dx + to + below, dx + to + below + right};
        const Floats g = load(dy + from) + Floats{};
        Bytes bytes;
        std::memcpy(&bytes, which + from, sizeof bytes);
        const Masks at = __builtin_convertvector(bytes, Masks);
        for (int k = 0; k < 4; ++k) store_exact(values[k], at == k ? g : Floats{});
    };
    for_windows(pool, images, threads, back, [=](int64_t at, int64_t count) { std::memset(dx + at, 0, count * sizeof(T)); });
}

}  // namespace

extern "C" {

void spacte_max_pool_forward(int64_t half, int64_t images, int64_t height, int64_t width, int64_t channels,
                             int64_t threads, const void* x, void* y, uint8_t* which) {
    FOR_EITHER_TYPE(forward(Pool{height, width, channels}, images, threads, (const T*)x, (T*)y, which))
}

void spacte_max_pool_backward(int64_t half, int64_t images, int64_t height, int64_t width, int64_t channels,
                              int64_t threads, const void* dy, const uint8_t* which, void* dx) {
    FOR_EITHER_TYPE(backward(Pool{height, width, channels}, images, threads, (const T*)dy, which, (T*)dx))
}
}
