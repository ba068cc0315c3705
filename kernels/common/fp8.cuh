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

/* What tells the formats apart. Kernels that serve both have it at run time: the same instructions, half the code. */
struct F8Format {
    uint32_t mantissa_bits;
    uint32_t min_exponent; /* of normal values, biased as in f32 */
    float max;

    __device__ __forceinline__ static constexpr F8Format e4m3() { return {3, 127 - 6, 448.0f}; }
    __device__ __forceinline__ static constexpr F8Format e5m2() { return {2, 127 - 14, 57344.0f}; }
};

/* The seven bits below the sign of x as FP8; what is above them is of no meaning. */
__device__ __forceinline__ uint32_t f8_magnitude(F8Format format, float x) {
    const uint32_t dropped = 23 - format.mantissa_bits; /* mantissa bits that f32 has more */
    const float magnitude = fminf(fabsf(x), format.max);
    const uint32_t exponent = max(__float_as_uint(magnitude) & 0x7f800000u, format.min_exponent << 23);
    const uint32_t power = exponent + (dropped << 23);
    const uint32_t steps = __float_as_uint(magnitude + __uint_as_float(power)) - power;
    /* Steps count from the exponent below; a carry out of the mantissa increments the exponent, as it should. */
    const uint32_t code = steps - (format.min_exponent << format.mantissa_bits) + (exponent >> dropped);
    return x == x ? code : 0x7f;
}

__device__ __forceinline__ uint8_t f8_from_f32(F8Format format, float x) {
    return uint8_t((f8_magnitude(format, x) & 0x7f) | (__float_as_uint(x) >> 24 & 0x80));
}

/* Four of them, the first at the lowest address. */
__device__ __forceinline__ uint32_t pack_f8(F8Format format, float x0, float x1, float x2, float x3) {
    const uint32_t low = __byte_perm(f8_magnitude(format, x0), f8_magnitude(format, x1), 0x0040);
    const uint32_t high = __byte_perm(f8_magnitude(format, x2), f8_magnitude(format, x3), 0x0040);
    const uint32_t low_signs = __byte_perm(__float_as_uint(x0), __float_as_uint(x1), 0x0073);
    const uint32_t high_signs = __byte_perm(__float_as_uint(x2), __float_as_uint(x3), 0x0073);
    return __byte_perm(low, high, 0x5410) | (__byte_perm(low_signs, high_signs, 0x5410) & 0x80808080u);
}

}  // namespace fflash
