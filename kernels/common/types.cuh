/*
 * The element types of tensors, as storage plus exact conversions; all arithmetic is done in f32.
 *
 * The toolkit's own 16-bit types are not used: the kernels need two conversions of them, and their headers
 * cost more compile time than a kernel.
 */
#pragma once

#include <stdint.h>

#include "ptx.cuh"

namespace fflash {

struct alignas(2) F16 {
    uint16_t bits;
};

struct alignas(2) Bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(F16 x) { return ptx::f32_from_f16(x.bits); }
/* bf16 is the upper half of an f32. */
__device__ __forceinline__ float to_f32(Bf16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }

/* Rounds to nearest even. */
template <class T>
__device__ __forceinline__ T from_f32(float x);

template <>
__device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ F16 from_f32<F16>(float x) {
    return F16{ptx::f16_from_f32(x)};
}
template <>
__device__ __forceinline__ Bf16 from_f32<Bf16>(float x) {
    return Bf16{ptx::bf16_from_f32(x)};
}

/* Two 16-bit elements in one register, `lo` at the lower address. Rounds to nearest even. */
template <class T>
__device__ __forceinline__ uint32_t pack_f32(float lo, float hi);

template <>
__device__ __forceinline__ uint32_t pack_f32<F16>(float lo, float hi) {
    return ptx::f16x2_from_f32(lo, hi);
}
template <>
__device__ __forceinline__ uint32_t pack_f32<Bf16>(float lo, float hi) {
    return ptx::bf16x2_from_f32(lo, hi);
}

/* The inverse of pack_f32: exact. */
template <class T>
__device__ __forceinline__ float2 unpack_f32(uint32_t pair);

template <>
__device__ __forceinline__ float2 unpack_f32<F16>(uint32_t pair) {
    uint16_t lo, hi;
    ptx::halves(lo, hi, pair);
    return {to_f32(F16{lo}), to_f32(F16{hi})};
}
template <>
__device__ __forceinline__ float2 unpack_f32<Bf16>(uint32_t pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

/* kCount consecutive elements that move as one access; 16 bytes are one 128-bit load or store. */
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vec {
    static_assert(kCount > 0 && (kCount & (kCount - 1)) == 0 && sizeof(T) * kCount <= 16, "one access at most");
    T elements[kCount];

    __device__ __forceinline__ T &operator[](int i) { return elements[i]; }
    __device__ __forceinline__ const T &operator[](int i) const { return elements[i]; }
};

/* Elements of T in a 16-byte access. */
template <class T>
constexpr int kVecWidth = 16 / int(sizeof(T));

}  // namespace fflash
