/*
 * What a norm is multiplied by and what is added to it: operands of the width of a row, loaded a few chunks at a time
 * (Traits::kPart).
 */
#pragma once

#include "row.cuh"

namespace fflash {

/* Calls f for every element of kCount chunks. */
template <int kCount, int kWidth, class F>
__device__ __forceinline__ void apply(F f) {
#pragma unroll
    for (int m = 0; m < kCount; ++m) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) f(m, i);
    }
}

/* x * w, x * (1 + w), and what `bias` (may be null) adds. Where there is no chunk, x is anything without kZero. */
template <bool kZero, int kCount, int kWidth, class Traits>
__device__ __forceinline__ void weigh(float (&x)[kCount][kWidth], Slots<Traits, kCount> slots,
                                      const fflash_norm_params &params, const void *weight, int dtype, const void *bias) {
    constexpr int kPart = kCount < Traits::kPart ? kCount : Traits::kPart;
    const bool one_plus = params.flags & FFLASH_NORM_ONE_PLUS;
#pragma unroll
    for (int n = 0; n < kCount; n += kPart) {
        const auto part = slots.template part<kPart>(n);
        float w[kPart][kWidth];
        load<kZero>(w, part, weight, dtype);
        if (bias) {
            float b[kPart][kWidth];
            load<false>(b, part, bias, params.bias_dtype);
            apply<kPart, kWidth>([&](int m, int i) {
                float &y = x[n + m][i];
                y = one_plus ? fmaf(y, w[m][i], y) + b[m][i] : fmaf(y, w[m][i], b[m][i]);
            });
        } else if (one_plus) {
            apply<kPart, kWidth>([&](int m, int i) { x[n + m][i] = fmaf(x[n + m][i], w[m][i], x[n + m][i]); });
        } else {
            apply<kPart, kWidth>([&](int m, int i) { x[n + m][i] *= w[m][i]; });
        }
    }
}

/* x * operand, x + operand or whatever f(x, operand) is. */
template <int kCount, int kWidth, class Traits, class F>
__device__ __forceinline__ void combine(float (&x)[kCount][kWidth], Slots<Traits, kCount> slots, const void *operand,
                                        int dtype, F f) {
    constexpr int kPart = kCount < Traits::kPart ? kCount : Traits::kPart;
#pragma unroll
    for (int n = 0; n < kCount; n += kPart) {
        float other[kPart][kWidth];
        load<false>(other, slots.template part<kPart>(n), operand, dtype);
        apply<kPart, kWidth>([&](int m, int i) { x[n + m][i] = f(x[n + m][i], other[m][i]); });
    }
}

/* x * gate * sigmoid(gate). */
template <int kCount, int kWidth, class Traits>
__device__ __forceinline__ void multiply_by_silu(float (&x)[kCount][kWidth], Slots<Traits, kCount> slots, const void *gate,
                                                 int dtype) {
    combine(x, slots, gate, dtype, [](float y, float g) {
        constexpr float kLog2E = 1.4426950408889634f;
        return y * (g * ptx::rcp_approx_ftz(1.0f + ptx::ex2_approx_ftz(g * -kLog2E)));
    });
}

}  // namespace fflash
