/*
 * The online softmax of Milakov and Gimelshein (arXiv 1805.02867) for a warp's rows, in base 2, with maxima that lag.
 *
 * State of a row after some keys: a reference `max` and sum = sum_j 2^(x_j * c - max), where x are the transformed logits
 * and c their exponent scale (mask.cuh). Any reference gives the same O = sum(p v) / sum(p) as long as nothing leaves the
 * range of its type. So new keys are weighed with the reference as it is, and only when a weight turns out too large does
 * it move, to the largest logit so far, and what was summed, O included, is multiplied by 2^(old max - new max). In
 * range, which after the first tile is nearly always, no maximum is looked for and O is left alone.
 *
 * A row decides by itself, whatever the other rows of its warp do, so that its bits depend on its own logits only.
 * `max` is kept after scaling and rounding, so that every weight of a row has the same rounding error in its exponent
 * and it cancels. Of a row's sum each of its four lanes keeps the part of its own columns until finish().
 *
 * A reference of -inf (nothing but masked keys so far) gives inf or NaN as weights, both out of range; if it stays -inf it
 * then counts as 0, and weights become 2^-inf = 0. NaN logits do not move the reference but are NaN as weights, so the
 * row's sum and O are NaN; +inf gives inf - inf = NaN. Both are what an exact softmax gives.
 *
 * Source for the lag: FlashAttention-4, which rescales when the maximum has grown by more than a threshold.
 */
#pragma once

#include "../common/fragment.cuh"
#include "../common/ptx.cuh"
#include "../common/reduce.cuh"

namespace fflash {

template <int kMTiles>
struct OnlineSoftmax {
    /* What the weights of a lane's columns of a tile may add up to. A single one then fits every element type. */
    static constexpr float kMaxTileSum = 16384.0f;

    float max[kMTiles][kLaneRows];
    float sum[kMTiles][kLaneRows];
    float tile_sum[kMTiles][kLaneRows]; /* of the tile being weighed */

    __device__ __forceinline__ OnlineSoftmax() {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                max[m][half] = -INFINITY;
                sum[m][half] = 0.0f;
                tile_sum[m][half] = 0.0f;
            }
    }

    /*
     * The weights of two neighbouring accumulator tiles of logits, 16 keys, rounded to T as an operand of P V. `first` starts
     * the sums of a tile. kAfterAdapt: a maximum that is still -inf counts as 0.
     */
    template <class T, bool kAfterAdapt>
    __device__ __forceinline__ void weigh(uint32_t (&rP)[4], int m, const float (&left)[4], const float (&right)[4],
                                          float exponent_scale, bool first) {
        float p[2][4];
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const float shift = kAfterAdapt && max[m][half] == -INFINITY ? 0.0f : max[m][half];
#pragma unroll
            for (int i = half * 2; i < half * 2 + 2; ++i) {
                p[0][i] = ptx::ex2_approx_ftz(fmaf(left[i], exponent_scale, -shift));
                p[1][i] = ptx::ex2_approx_ftz(fmaf(right[i], exponent_scale, -shift));
            }
            const float keys = (p[0][half * 2] + p[0][half * 2 + 1]) + (p[1][half * 2] + p[1][half * 2 + 1]);
            tile_sum[m][half] = first ? keys : tile_sum[m][half] + keys;
        }
        pack_operand_a<T>(rP, p[0], p[1]);
    }

    /* Whether this lane's weights of the tile are in range; NaN is not. May be false when they just are. */
    __device__ __forceinline__ bool in_range() const {
        float all = 0.0f;
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) all += tile_sum[m][half];
        return all <= kMaxTileSum;
    }

    /* Counts the weights of the tile, once. */
    __device__ __forceinline__ void accept() {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                sum[m][half] += tile_sum[m][half];
                tile_sum[m][half] = 0.0f;
            }
    }

    /*
     * Moves the maxima of the rows whose weights were out of range to their logits' and brings the sums along; the tile is to
     * be weighed again. Returns the factors for O.
     */
    template <int kNTiles>
    __device__ __forceinline__ void adapt(const float (&acc_s)[kMTiles][kNTiles][4], float exponent_scale,
                                          float (&rescale)[kMTiles][kLaneRows]) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                const float excess = lanes_max<kRowLanes>(tile_sum[m][half] <= kMaxTileSum ? 0.0f : 1.0f);
                float tile_max = acc_s[m][0][half * 2];
#pragma unroll
                for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) tile_max = fmaxf(tile_max, acc_s[m][n][half * 2 + i]);
                tile_max = lanes_max<kRowLanes>(tile_max);

                const float old_max = max[m][half];
                if (excess != 0.0f) max[m][half] = fmaxf(old_max, tile_max * exponent_scale);
                /* Rows that stay, be it at -inf, keep their bits. A row that leaves -inf has summed nothing: 2^-inf = 0. */
                rescale[m][half] = max[m][half] == old_max ? 1.0f : ptx::ex2_approx_ftz(old_max - max[m][half]);
                sum[m][half] *= rescale[m][half];
            }
    }

    /* Completes the sums over the lanes of each row. */
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) sum[m][half] = lanes_sum<kRowLanes>(sum[m][half]);
    }
};

}  // namespace fflash
