/* What happens to logits between Q K^T and the softmax: scale, softcap, mask, in this order. */
#pragma once

#include "../common/fragment.cuh"
#include "seqlen.cuh"

namespace fflash {

/*
 * Usually the softmax scale is folded into the exponent: softmax(scale * s) = 2^(scale * log2(e) * (s - max s)), one FFMA. A
 * softcap is not linear, and a scale that is not positive turns the maximum around, so then logits are transformed
 * first (`explicit_transform`) and the exponent carries log2(e) alone.
 */
struct LogitTransform {
    static constexpr float kLog2e = 1.4426950408889634f;

    bool explicit_transform;
    float scale;          /* logit units per unit of Q K^T */
    float softcap;        /* 0: none */
    float exponent_scale; /* positive: log2 units per transformed logit */

    __device__ __forceinline__ LogitTransform(float softmax_scale, float cap)
        : explicit_transform(cap != 0.0f || !(softmax_scale > 0.0f)),
          scale(softmax_scale),
          softcap(cap),
          exponent_scale(explicit_transform ? kLog2e : softmax_scale * kLog2e) {}

    /*
     * tanhf is within 2 ulp. tanh.approx (2^-11) would put an error of softcap * 2^-11, 0.02 at a cap of 50, into the
     * exponent: a weight 2 % off, where rounding it to f16 costs 0.05 %.
     */
    __device__ __forceinline__ float apply(float logit) const {
        return softcap != 0.0f ? softcap * tanhf(logit * (scale / softcap)) : logit * scale;
    }
};

/* Applies the transform to every logit of a warp's rows. */
template <int kMTiles, int kNTiles>
__device__ __forceinline__ void transform_logits(float (&acc_s)[kMTiles][kNTiles][4], const LogitTransform &transform) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m)
#pragma unroll
        for (int n = 0; n < kNTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) acc_s[m][n][i] = transform.apply(acc_s[m][n][i]);
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
