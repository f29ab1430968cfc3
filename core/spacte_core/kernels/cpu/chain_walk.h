// A chain of layers on maps of 8-bit codes, of bfloat16 or of float32: what all instruction targets have in common.
//
// A few images, a group, go through all layers together, whose maps then stay in the second-level cache. A back end
// says how a map of a group lies there, and computes the layers; `chain_amx.cpp` has the one for matrix units,
// `chain_vectors.cpp` those for vector units. Images never meet: a result is its image's own, whatever its place in
// the batch, its neighbours and the number of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#define SPACTE_ALWAYS inline __attribute__((always_inline))

extern "C" {

// relu?(convolution of `source` * scale + bias + `other` * other_scale?) into `target`, with `kernel` x `kernel` weights
// and a padding of 0 or 1. The three are numbers of maps, `other` may be -1 and may
// be the target. `height` and `width` are the result's. Codes are clamped to 0..255, which is their ReLU.
// Without weights it is the greatest of `kernel` x `kernel` places, of values that are not negative where there is
// padding; with kernel 0 the average over `height` x `width` places, the sum times `other_scale`, in float32 into
// an outer map.
struct Layer {
  const char* weight;  // in the order of the back end, or null
  const float* scale;  // [channels], of codes
  const float* bias;   // [channels]
  double other_scale;
  int64_t channels, height, width, kernel, stride, padding, relu, shape, source, other, target;
};

// A map of one image. With data it lies outside as [batch, height, width, channels], else in the scratch memory.
struct Map {
  char* data;
  int64_t channels, height, width;
  int64_t border;  // the code of zero
};
}

extern "C" {

// made[row] = weight_IO^T row + bias, each sum by itself and in the order of the inputs: a row's result is its own, and
// the same on every processor.
void spacte_linear(const float* rows, const float* weight_IO, const float* bias, float* made, int64_t count, int64_t inputs,
                   int64_t outputs) {
  for (int64_t n = 0; n < count; ++n, rows += inputs, made += outputs) {
    std::memcpy(made, bias, outputs * sizeof(float));
    for (int64_t i = 0; i < inputs; ++i) {
      const float value = rows[i], *const weight = weight_IO + i * outputs;
#pragma GCC ivdep
      for (int64_t o = 0; o < outputs; ++o) made[o] += value * weight[o];
    }
  }
}
}

namespace {

constexpr int64_t kLine = 64;  // bytes of the cache's lines
constexpr int64_t kOfCodes = 0, kOfBfloat16 = 1;  // kinds of maps; what is neither is float32

// What a thread has in the scratch memory: the back end's work space, and the inner maps of a group.
template <class Backend>
class Scratch {
 public:
  Scratch(char* memory, const Layer* layers, int64_t layer_count, const Map* maps)
      : maps_(maps), start_(memory + (kLine - reinterpret_cast<uintptr_t>(memory) % kLine) % kLine),
        work_bytes_(work_bytes(layers, layer_count, maps)) {}

  static int64_t bytes(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count) {
    int64_t total = work_bytes(layers, layer_count, maps) + kLine;
    for (int64_t i = 0; i < map_count; ++i) total += maps[i].data ? 0 : Backend::map_bytes(maps[i]);
    return total;
  }

  char* work() const { return start_; }

  char* inner(int64_t number) const {
    char* at = start_ + work_bytes_;
    for (int64_t i = 0; i < number; ++i) at += maps_[i].data ? 0 : Backend::map_bytes(maps_[i]);
    return at;
  }

 private:
  static int64_t work_bytes(const Layer* layers, int64_t layer_count, const Map* maps) {
    int64_t most = 0;
    for (int64_t i = 0; i < layer_count; ++i) most = std::max(most, Backend::work_bytes(layers[i], maps[layers[i].source]));
    return (most + kLine - 1) / kLine * kLine;
  }

  const Map* maps_;
  char* start_;
  int64_t work_bytes_;
};

// The layers, in this order, for all images. `copies` are pairs of maps: `copies_in` from an outer to an inner one
// before the layers, then `copies_out` from an inner to an outer one after them.
template <class Backend>
void run(const Layer* layers, int64_t layer_count, const Map* maps, int64_t map_count, const int64_t* copies,
         int64_t copies_in, int64_t copies_out, int64_t images, int64_t threads, char* scratch) {
  constexpr int64_t kImages = Backend::kImages;
  const int64_t each = Scratch<Backend>::bytes(layers, layer_count, maps, map_count), groups = (images + kImages - 1) / kImages;
#pragma omp parallel num_threads(threads)
  {
    const Scratch<Backend> mine(scratch + omp_get_thread_num() * each, layers, layer_count, maps);
    const typename Backend::Session session;
    for (int64_t i = 0; i < map_count; ++i)
      if (!maps[i].data) Backend::fill(maps[i], mine.inner(i));
#pragma omp for schedule(dynamic)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * kImages, here = std::min(images - first, kImages);
      const auto at = [&](int64_t number) { return Backend::place(maps[number], mine.inner(number), first); };
      for (int64_t i = 0; i < copies_in; ++i) Backend::copy_in(maps[copies[2 * i]], at(copies[2 * i]), at(copies[2 * i + 1]), here);
      for (int64_t i = 0; i < layer_count; ++i) {
        const Layer& layer = layers[i];
        if (!layer.kernel) {
          float* const target = reinterpret_cast<float*>(maps[layer.target].data) + first * layer.channels;
          Backend::average(layer, at(layer.source), target, here);
        } else if (!layer.weight) {
          Backend::pool(layer, at(layer.source), at(layer.target), here);
        } else {
          const auto other = layer.other < 0 ? at(layer.source) : at(layer.other);
          Backend::convolve(layer, at(layer.source), layer.other < 0 ? nullptr : &other, at(layer.target), here, mine.work());
        }
      }
      for (int64_t i = copies_in; i < copies_in + copies_out; ++i)
        Backend::copy_out(maps[copies[2 * i + 1]], at(copies[2 * i]), at(copies[2 * i + 1]), here);
    }
  }
}

}  // namespace
