/* What happens to logits between Q K^T and the softmax: scale, softcap, mask, in this order. */
#pragma once

#include "../common/fragment.cuh"
#include "seqlen.cuh"

namespace fflash {

/*
 * Usually the softmax scale is folded into the exponent: softmax(scale * s) = 2^(scale * log2(e) * (s - max s)), one FFMA. A
 * softcap is not linear, and a scale that is not positive turns the maximum around: then logits are transformed first and
 * the exponent carries log2(e) alone.
 */
__device__ __forceinline__ bool transforms_logits(const fflash_prefill_params &params) {
    return params.softcap != 0.0f || !(params.softmax_scale > 0.0f);
}

/* Log2 units per (transformed) logit; positive. */
__device__ __forceinline__ float exponent_scale_of(const fflash_prefill_params &params) {
    constexpr float kLog2e = 1.4426950408889634f;
    return transforms_logits(params) ? kLog2e : params.softmax_scale * kLog2e;
}

/*
 * Scales and caps every logit of a warp's rows.
 *
 * tanhf is within 2 ulp. tanh.approx (2^-11) would put an error of softcap * 2^-11, 0.02 at a cap of 50, into the exponent:
 * a weight 2 % off, where rounding it to f16 costs 0.05 %.
 */
template <int kMTiles, int kNTiles>
__device__ __forceinline__ void transform_logits(float (&acc_s)[kMTiles][kNTiles][4], float scale, float softcap) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m)
#pragma unroll
        for (int n = 0; n < kNTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float &logit = acc_s[m][n][i];
                logit = softcap != 0.0f ? softcap * tanhf(logit * (scale / softcap)) : logit * scale;
            }
}

/*
 * Sets the logits of keys that a row does not see to -inf. `row` is the row of this lane's first accumulator and `key`
 * the key of its first column.
 */
template <int kMTiles, int kNTiles>
__device__ __forceinline__ void mask_logits(float (&acc_s)[kMTiles][kNTiles][4], const KeyBounds &bounds, int row,
                                            int key) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const int r = row + m * kMmaM + half * 8;
            const int first = bounds.first(r) - key;
            const int end = bounds.end(r) - key;
#pragma unroll
            for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int column = n * kMmaN + i;
                    const bool seen = column >= first && column < end;
                    float &logit = acc_s[m][n][half * 2 + i];
                    logit = seen ? logit : -INFINITY;
                }
        }
}

}  // namespace fflash
