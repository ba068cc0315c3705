/* What happens to logits between Q K^T and the softmax: scale, softcap, mask, in this order. */
#pragma once

#include "../common/fragment.cuh"
#include "logits.cuh"
#include "seqlen.cuh"

namespace fflash {

/*
 * Usually the softmax scale is folded into the exponent: softmax(scale * s) = 2^(scale * log2(e) * (s - max s)), one FFMA. A
 * softcap is not linear, and a scale that is not positive turns the maximum around: then logits are transformed first and
 * the exponent carries log2(e) alone.
 */
__device__ __forceinline__ bool transforms_logits(const fflash_logits &logits) {
    return logits.softcap != 0.0f || !(logits.softmax_scale > 0.0f);
}

/* Log2 units per (transformed) logit; positive. */
__device__ __forceinline__ float exponent_scale_of(const fflash_logits &logits) {
    return transforms_logits(logits) ? kLog2e : logits.softmax_scale * kLog2e;
}

/* Scales and caps every logit of a warp's rows. */
template <int kMTiles, int kNTiles>
__device__ __forceinline__ void transform_logits(float (&acc_s)[kMTiles][kNTiles][4], const fflash_logits &logits) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m)
#pragma unroll
        for (int n = 0; n < kNTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) acc_s[m][n][i] = scale_and_cap(logits, acc_s[m][n][i]);
}

/*
 * Sets the logits of keys that a row does not see to -inf. `row` is the row of this lane's first accumulator and `key`
 * the key of its first column; `pack` rows are one query.
 */
template <int kMTiles, int kNTiles>
__device__ __forceinline__ void mask_logits(float (&acc_s)[kMTiles][kNTiles][4], const KeyBounds &bounds,
                                            const fflash_divisor &pack, int row, int key) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            int query = row + m * kMmaM + half * 8;
            if (pack.divisor > 1) query = divide(query, pack);
            const int first = bounds.first(query) - key;
            const int end = bounds.end(query) - key;
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
