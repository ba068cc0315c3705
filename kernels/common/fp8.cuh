/*
 * FP8, as bytes in memory: E4M3 (1-4-3 bits, finite up to 448, no infinity) and E5M2 (1-5-2 bits, finite up to 57344).
 * Rounds to nearest, ties to even, and saturates at the largest finite value, which infinities become too; NaN becomes 0x7f.
 *
 * Exact for every f32 without the conversion instruction, which came with compute_89: the PTX that ships is compute_80. Adding
 * and subtracting 1.5 * 2^(e + 23 - m) rounds to m fractional bits of a number of exponent e (e at least that of the smallest
 * normal number, for subnormals). What remains fits f16, whose upper byte is e5m2; e4m3 has one exponent bit less, which 2^-8
 * times the number leaves zero in f16, so its seven bits are those below.
 *
 * Source: Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433).
 */
#pragma once

#include <stdint.h>

#include "ptx.cuh"

namespace fflash {

/*
 * Four numbers times a factor, as E4M3 or else E5M2; the first in the lowest byte. The format is told at run time: the same
 * instructions for both, half the code.
 */
class ToF8 {
public:
    __device__ __forceinline__ ToF8(float inverse_scale, bool e4m3) {
        factor_ = e4m3 ? inverse_scale * 0x1p-8f : inverse_scale;
        limit_ = e4m3 ? 1.75f : 57344.0f;
        magic_ = e4m3 ? (20 << 23) + 0x400000 : (21 << 23) + 0x400000;
        once_ = e4m3 ? 0xbfffbfffu : 0xffffffffu;
        twice_ = e4m3 ? 0x3fff3fffu : 0u;
    }

    __device__ __forceinline__ uint32_t operator()(float a, float b, float c, float d) const {
        return __byte_perm(pair(a, b), pair(c, d), 0x7531);
    }

private:
    /* Of e4m3 the sign stays and the rest moves up by one bit, past the exponent bit that it does not have. */
    __device__ __forceinline__ uint32_t pair(float lo, float hi) const {
        const uint32_t halves = ptx::f16x2_from_f32(rounded(lo), rounded(hi));
        return (halves & once_) + (halves & twice_);
    }

    __device__ __forceinline__ float rounded(float x) const {
        x = ptx::max_nan(ptx::min_nan(x * factor_, limit_), -limit_);
        const int32_t exponent = max(__float_as_int(x) & 0x7f800000, (127 - 14) << 23);
        const float magic = __int_as_float(exponent + magic_);
        return copysignf((x + magic) - magic, x); /* of what became 0, too */
    }

    float factor_, limit_;
    int32_t magic_; /* 23 - m, and a half, in the place of an exponent */
    uint32_t once_, twice_;
};

}  // namespace fflash
