/*
 * FP8, as bytes in memory: E4M3 (1-4-3 bits, finite up to 448, NaN 0x7f, no infinity) and E5M2 (1-5-2 bits, finite up to
 * 57344). Conversions are exact to the rounding: to nearest, ties to even, saturating at the largest finite value (so do
 * infinities); NaN stays NaN.
 *
 * Integer arithmetic, since the PTX that ships is compute_80 and the conversion instruction came with compute_89. |x| is
 * added to the power of two whose unit in the last place is the step of FP8 at |x|: the addition rounds, and its low
 * bits are |x| in such steps. Below the smallest normal value the step no longer shrinks, which is all that subnormals need.
 *
 * Source: Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433).
 */
#pragma once

#include <stdint.h>

namespace fflash {

struct F8E4M3 {
    uint8_t bits;
    static constexpr int kMantissa = 3;
    static constexpr int kMinExponent = -6; /* of normal values */
    static constexpr float kMax = 448.0f;
};

struct F8E5M2 {
    uint8_t bits;
    static constexpr int kMantissa = 2;
    static constexpr int kMinExponent = -14;
    static constexpr float kMax = 57344.0f;
};

/* The seven bits below the sign of x as F8. */
template <class F8>
__device__ __forceinline__ uint32_t f8_magnitude(float x) {
    constexpr int kDropped = 23 - F8::kMantissa; /* mantissa bits that f32 has more */
    constexpr uint32_t kMinExponent = 127 + F8::kMinExponent;
    const float magnitude = fminf(fabsf(x), F8::kMax);
    const uint32_t exponent = max(__float_as_uint(magnitude) & 0x7f800000u, kMinExponent << 23);
    const uint32_t power = exponent + (uint32_t{kDropped} << 23);
    const uint32_t steps = __float_as_uint(magnitude + __uint_as_float(power)) - power;
    /* Steps count from the exponent below; a carry out of the mantissa increments the exponent, as it should. */
    const uint32_t code = steps - (kMinExponent << F8::kMantissa) + (exponent >> kDropped);
    return x == x ? code : 0x7f;
}

template <class F8>
__device__ __forceinline__ F8 f8_from_f32(float x) {
    return F8{uint8_t(f8_magnitude<F8>(x) | (__float_as_uint(x) >> 24 & 0x80))};
}

/* Four of them, the first at the lowest address. */
template <class F8>
__device__ __forceinline__ uint32_t pack_f8(float x0, float x1, float x2, float x3) {
    const uint32_t low = __byte_perm(f8_magnitude<F8>(x0), f8_magnitude<F8>(x1), 0x0040);
    const uint32_t high = __byte_perm(f8_magnitude<F8>(x2), f8_magnitude<F8>(x3), 0x0040);
    const uint32_t low_signs = __byte_perm(__float_as_uint(x0), __float_as_uint(x1), 0x0073);
    const uint32_t high_signs = __byte_perm(__float_as_uint(x2), __float_as_uint(x3), 0x0073);
    return __byte_perm(low, high, 0x5410) | (__byte_perm(low_signs, high_signs, 0x5410) & 0x80808080u);
}

}  // namespace fflash
