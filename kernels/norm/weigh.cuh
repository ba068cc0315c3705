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

/* x * w or x * (1 + w), plus b where there is a bias. load_weight(w, n) makes w the weights of chunks from n on, load_bias likewise. */
template <class Traits, int kCount, int kWidth, class LoadWeight, class LoadBias>
__device__ __forceinline__ void weigh(float (&x)[kCount][kWidth], bool one_plus, LoadWeight load_weight, bool has_bias,
                                      LoadBias load_bias) {
    constexpr int kPart = kCount < Traits::kPart ? kCount : Traits::kPart;
#pragma unroll
    for (int n = 0; n < kCount; n += kPart) {
        float w[kPart][kWidth];
        load_weight(w, n);
        if (has_bias) {
            float b[kPart][kWidth];
            load_bias(b, n);
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

/* x = f(x, operand) of an operand that load(operand, n) loads. */
template <class Traits, int kCount, int kWidth, class Load, class F>
__device__ __forceinline__ void combine(float (&x)[kCount][kWidth], Load load, F f) {
    constexpr int kPart = kCount < Traits::kPart ? kCount : Traits::kPart;
#pragma unroll
    for (int n = 0; n < kCount; n += kPart) {
        float other[kPart][kWidth];
        load(other, n);
        apply<kPart, kWidth>([&](int m, int i) { x[n + m][i] = f(x[n + m][i], other[m][i]); });
    }
}

/* y times gate * sigmoid(gate). */
__device__ __forceinline__ float times_silu(float y, float gate) {
    constexpr float kLog2E = 1.4426950408889634f;
    return y * (gate * ptx::rcp_approx_ftz(1.0f + ptx::ex2_approx_ftz(gate * -kLog2E)));
}

}  // namespace fflash
