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
 * A reference far from 0 rounds by so much that the largest weight is not 1 when it is rounded for P V, and a row that has
 * but this one, as rows of large logits do, would not get its V exactly. Such a reference rests in shared memory, `max` is
 * -inf, so that no tile is in range, and the sums are of rounded weights.
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
#include "../common/types.cuh"

namespace fflash {

template <int kMTiles, int kThreads>
class OnlineSoftmax {
public:
    /* What the weights of a lane's columns of a tile may add up to. A single one then fits every element type. */
    static constexpr float kMaxTileSum = 16384.0f;
    /* 2^-24 of this, the error of a rounded reference, is 2^-12, and 2^(2^-12) is nearer to 1 than to its neighbours in f16. */
    static constexpr float kMaxReference = 4096.0f;
    /* Shared memory for far references: one of each row of each thread. */
    static constexpr int kFarBytes = kMTiles * kLaneRows * kThreads * 4;

    float max[kMTiles][kLaneRows];
    float sum[kMTiles][kLaneRows];
    float tile_sum[kMTiles][kLaneRows]; /* of the tile being weighed */
    float max_reference = kMaxReference; /* any that is further from 0 counts as far; 0 where O is not rounded */

    /* `far`: kFarBytes of shared memory. */
    __device__ __forceinline__ explicit OnlineSoftmax(char *far) : far_(reinterpret_cast<float *>(far)) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                max[m][half] = -INFINITY;
                sum[m][half] = 0.0f;
                tile_sum[m][half] = 0.0f;
                *far_reference(m, half) = -INFINITY;
            }
    }

    /*
     * The weights of two neighbouring accumulator tiles of logits, 16 keys, rounded to T as an operand of P V. `first` starts
     * the sums of a tile. kAfterAdapt: far references count, and one that is still -inf counts as 0.
     */
    template <class T, bool kAfterAdapt>
    __device__ __forceinline__ void weigh(uint32_t (&rP)[4], int m, const float (&left)[4], const float (&right)[4],
                                          float exponent_scale, bool first) {
        float p[2][4];
        bool far[kLaneRows] = {};
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            float shift = max[m][half];
            if constexpr (kAfterAdapt) {
                shift = reference(m, half) == -INFINITY ? 0.0f : reference(m, half);
                far[half] = is_far(shift);
            }
#pragma unroll
            for (int i = half * 2; i < half * 2 + 2; ++i) {
                p[0][i] = ptx::ex2_approx_ftz(fmaf(left[i], exponent_scale, -shift));
                p[1][i] = ptx::ex2_approx_ftz(fmaf(right[i], exponent_scale, -shift));
            }
        }
        pack_operand_a<T>(rP, p[0], p[1]);
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const float2 left_keys = far[half] ? unpack_f32<T>(rP[half]) : make_float2(p[0][half * 2], p[0][half * 2 + 1]);
            const float2 right_keys = far[half] ? unpack_f32<T>(rP[half + 2]) : make_float2(p[1][half * 2], p[1][half * 2 + 1]);
            const float keys = (left_keys.x + left_keys.y) + (right_keys.x + right_keys.y);
            tile_sum[m][half] = first ? keys : tile_sum[m][half] + keys;
        }
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

                const float before = reference(m, half);
                const float after = excess != 0.0f ? fmaxf(before, tile_max * exponent_scale) : before;
                *far_reference(m, half) = after;
                max[m][half] = is_far(after) ? -INFINITY : after;
                /* Rows that stay, be it at -inf, keep their bits. A row that leaves -inf has summed nothing: 2^-inf = 0. */
                rescale[m][half] = after == before ? 1.0f : ptx::ex2_approx_ftz(before - after);
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

    /* Of which the sums are. */
    __device__ __forceinline__ float reference(int m, int half) const {
        return max[m][half] == -INFINITY ? *far_reference(m, half) : max[m][half];
    }

private:
    __device__ __forceinline__ bool is_far(float reference) const { return fabsf(reference) > max_reference; }

    /* This thread's. */
    __device__ __forceinline__ float *far_reference(int m, int half) const {
        return far_ + (m * kLaneRows + half) * kThreads + threadIdx.x;
    }

    float *far_;
};

}  // namespace fflash
