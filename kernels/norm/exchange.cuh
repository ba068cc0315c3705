/*
 * Reductions over rows that several blocks, those of blockIdx.y, share. The launch is cooperative: all blocks run at once, so that they
 * may wait for each other.
 *
 * Memory: for each row a word that counts arrivals, 0 at first; then for each row [2 turns, 2 values, blocks] partial results. Those
 * of two calls in turn lie apart: a block writes those of the call after the next when every block has arrived at the next,
 * before which it has read these.
 */
#pragma once

#include <stdint.h>

#include "../common/ptx.cuh"
#include "../common/reduce.cuh"
#include "../params.h"

namespace fflash {

class RowExchange {
public:
    /* Of the rows of this launch; `found` is shared memory. */
    __device__ __forceinline__ RowExchange(uint32_t *words, float (&found)[2]) : words_(words), found_(found) {}

    /*
     * Reduces the values, which all threads of a block have, over the blocks of the row, at most kWarpSize: to the same bits in
     * each. 0 must not change what op makes of it. All threads of the blocks must call it, equally often, with a barrier of their
     * block between two calls.
     */
    template <int kCount, class Op>
    __device__ __forceinline__ void operator()(float (&values)[kCount], Op op) {
        static_assert(kCount <= 2, "two values of a call have room");
        const uint32_t blocks = gridDim.y;
        uint32_t *const arrivals = words_ + blockIdx.x;
        float *const partials = reinterpret_cast<float *>(words_ + gridDim.x) + (blockIdx.x * 2 + turn_) * (2 * blocks);
        turn_ ^= 1;
        awaited_ += blocks;
        if (threadIdx.x < kWarpSize) {
            if (threadIdx.x == 0) {
#pragma unroll
                for (int k = 0; k < kCount; ++k) partials[k * blocks + blockIdx.y] = values[k];
                ptx::red_release_increment(arrivals);
                while (ptx::ld_acquire(arrivals) < awaited_) {
                }
            }
            __syncwarp();
#pragma unroll
            for (int k = 0; k < kCount; ++k) values[k] = threadIdx.x < blocks ? partials[k * blocks + threadIdx.x] : 0.0f;
            butterfly<kWarpSize>(values, op);
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
                if (threadIdx.x == 0) found_[k] = values[k];
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kCount; ++k) values[k] = found_[k];
    }

private:
    uint32_t *const words_;
    float (&found_)[2];
    int turn_ = 0;
    uint32_t awaited_ = 0;
};

/* Of rows that have a block of their own. */
struct NoExchange {
    __device__ __forceinline__ NoExchange(uint32_t *, float (&)[2]) {}
};

}  // namespace fflash
