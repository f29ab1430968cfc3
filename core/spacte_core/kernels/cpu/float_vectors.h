// Vectors of float32 values for maps in float32 or bfloat16, on any processor: of the size of its registers.

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

namespace {

#ifdef __AVX512F__
constexpr int64_t LANES = 16;  // float32 values of a register: compilers are slow at wider vectors than there are
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif

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

// What a map had: nothing is to be rounded.
inline void store_exact(float* to, Floats value) { store(to, value); }

inline void store_exact(bf16* to, Floats value) {
    const Halves halves = __builtin_convertvector((Words)value >> 16, Halves);
    std::memcpy(to, &halves, sizeof halves);
}

// Whether a vector of a map is whole, or has `count` values, behind which zeros are read and nothing is written.
struct Whole {};
struct Part {
    int64_t count;
};

template <class T>
inline Floats load(const T* from, Whole) {
    return load(from);
}

template <class T>
inline Floats load(const T* from, Part part) {
    T padded[LANES] = {};
    std::memcpy(padded, from, part.count * sizeof(T));
    return load(padded);
}

template <class T>
inline void store(T* to, Floats value, Whole) {
    store(to, value);
}

template <class T>
inline void store(T* to, Floats value, Part part) {
    T padded[LANES];
    store(padded, value);
    std::memcpy(to, padded, part.count * sizeof(T));
}

}  // namespace

// `half` is 1 for bfloat16 maps and 0 for float32: what follows is done with T, the type of a value.
#define FOR_EITHER_TYPE(...) \
    if (half) {              \
        using T = bf16;      \
        __VA_ARGS__;         \
    } else {                 \
        using T = float;     \
        __VA_ARGS__;         \
    }
