/*
 * Reductions over lanes and warps. Every lane ends with the same result, bit for bit: the butterfly adds
 * the same pairs in every lane and addition commutes.
 */
#pragma once

#include <stdint.h>

namespace fflash {

constexpr int kWarpSize = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;

/* Reduces kCount values over aligned groups of kLanes lanes. All 32 lanes of the warp must call it. */
template <int kLanes, int kCount, class Op>
__device__ __forceinline__ void butterfly(float (&values)[kCount], Op op) {
    static_assert(kLanes > 0 && kLanes <= kWarpSize && (kLanes & (kLanes - 1)) == 0, "a power of two");
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) {
#pragma unroll
        for (int k = 0; k < kCount; ++k) values[k] = op(values[k], __shfl_xor_sync(kFullWarp, values[k], mask));
    }
}

/* Sum over aligned groups of kLanes lanes. All 32 lanes of the warp must call it. */
template <int kLanes = kWarpSize>
__device__ __forceinline__ float lanes_sum(float x) {
    static_assert(kLanes > 0 && kLanes <= kWarpSize && (kLanes & (kLanes - 1)) == 0, "a power of two");
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(kFullWarp, x, mask);
    return x;
}

/* Maximum over aligned groups of kLanes lanes; NaN is ignored where another lane has a number. */
template <int kLanes = kWarpSize>
__device__ __forceinline__ float lanes_max(float x) {
    static_assert(kLanes > 0 && kLanes <= kWarpSize && (kLanes & (kLanes - 1)) == 0, "a power of two");
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, mask));
    return x;
}

/*
 * Sum over the kWarps warps of a CTA, all of whose threads must call it. `partials` is shared memory for this
 * call alone: reusing it for another reduction needs a barrier between.
 */
template <int kWarps>
__device__ __forceinline__ float block_sum(float x, float (&partials)[kWarps]) {
    static_assert(kWarps > 0 && kWarps <= kWarpSize, "one lane reads one warp's partial sum");
    const int warp = threadIdx.x / kWarpSize;
    const int lane = threadIdx.x % kWarpSize;
    x = lanes_sum(x);
    if constexpr (kWarps == 1) return x;
    if (lane == 0) partials[warp] = x;
    __syncthreads();
    return lanes_sum(lane < kWarps ? partials[lane] : 0.0f);
}

}  // namespace fflash
