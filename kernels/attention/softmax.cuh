/*
 * The online softmax of Milakov and Gimelshein (arXiv 1805.02867) for a warp's rows, in base 2.
 *
 * State of a row after some keys: max = max_j x_j * c and sum = sum_j 2^(x_j * c - max), where x are the transformed logits
 * and c their exponent scale (mask.cuh). A new tile moves max and multiplies what was summed, O included, by
 * 2^(old max - new max). `max` is kept after scaling and rounding, so that every weight of a row has the same
 * rounding error in its exponent and it cancels in O = sum(p v) / sum(p).
 *
 * Of a row's sum each of its four lanes keeps the part of its own columns until finish().
 *
 * A maximum of -inf (nothing but masked keys so far) counts as 0 in the exponent: weights become 2^-inf = 0 and not
 * 2^(-inf + inf) = NaN. NaN logits do not move the maximum but are NaN as weights, so the row's sum and O are NaN; +inf gives
 * inf - inf = NaN. Both are what an exact softmax gives.
 */
#pragma once

#include "../common/fragment.cuh"
#include "../common/ptx.cuh"
#include "../common/reduce.cuh"

namespace fflash {

template <int kMTiles>
struct OnlineSoftmax {
    float max[kMTiles][kLaneRows];
    float sum[kMTiles][kLaneRows];

    __device__ __forceinline__ OnlineSoftmax() {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                max[m][half] = -INFINITY;
                sum[m][half] = 0.0f;
            }
    }

    /* Takes a tile of logits in, replaces them by their weights, and returns in `rescale` the factors for O. */
    template <int kNTiles>
    __device__ __forceinline__ void update(float (&acc_s)[kMTiles][kNTiles][4], float exponent_scale,
                                           float (&rescale)[kMTiles][kLaneRows]) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                float tile_max = acc_s[m][0][half * 2];
#pragma unroll
                for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) tile_max = fmaxf(tile_max, acc_s[m][n][half * 2 + i]);
                tile_max = lanes_max<kRowLanes>(tile_max);

                const float old_max = max[m][half];
                max[m][half] = fmaxf(old_max, tile_max * exponent_scale);
                const float shift = max[m][half] == -INFINITY ? 0.0f : max[m][half];
                rescale[m][half] = ptx::ex2_approx_ftz(old_max - shift);

                float tile_sum = 0.0f;
#pragma unroll
                for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float &x = acc_s[m][n][half * 2 + i];
                        x = ptx::ex2_approx_ftz(fmaf(x, exponent_scale, -shift));
                        tile_sum += x;
                    }
                sum[m][half] = fmaf(sum[m][half], rescale[m][half], tile_sum);
            }
    }

    /* Completes the sums over the lanes of each row. */
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) sum[m][half] = lanes_sum<kRowLanes>(sum[m][half]);
    }

    /* Natural log of the sum of exponentials of a row's logits; -inf for a row without keys. After finish(). */
    __device__ __forceinline__ float log_sum_exp(int m, int half) const {
        constexpr float kLn2 = 0.6931471805599453f;
        return fmaf(max[m][half], kLn2, logf(sum[m][half]));
    }
};

}  // namespace fflash
