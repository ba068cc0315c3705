/*
 * The last step of the prefill kernels: O divided by its sums, through shared memory to global memory, and the log-sum-exp.
 *
 * O passes through the bytes of Q, every warp through those of its own rows, to be stored in whole lines.
 */
#pragma once

#include <stdint.h>

#include "../common/fragment.cuh"
#include "../common/smem_tile.cuh"
#include "../common/types.cuh"
#include "prefill_block.cuh"
#include "prefill_warp.cuh"
#include "seqlen.cuh"

namespace fflash {

/* Copies this warp's rows of O from shared to global memory, 16 bytes per lane, whole lines per row. */
template <class Traits>
__device__ __forceinline__ void store_rows(const char *smem_o, const fflash_prefill_params &params,
                                           const PrefillBlock &block) {
    using T = typename Traits::Element;
    using Tile = typename Traits::QTile;
    constexpr int kRowsPerPass = kWarpSize / Tile::kChunks;
    static_assert(kRowsPerPass * Tile::kChunks == kWarpSize, "a warp stores whole rows");
    const int lane = threadIdx.x % kWarpSize;
    const int chunk = lane % Tile::kChunks;
    T *gO = head_of(static_cast<T *>(params.o), params.o_strides, block.batch, block.qo_head);
#pragma unroll
    for (int pass = 0; pass < Traits::kWarpRows / kRowsPerPass; ++pass) {
        const int tile_row = PrefillWarp<Traits>::warp_row() + pass * kRowsPerPass + lane / Tile::kChunks;
        const int row = block.row_first + tile_row;
        if (row < params.seqlen_q)
            *reinterpret_cast<uint4 *>(gO + row * params.o_strides.seqlen + chunk * kChunkElements) =
                *reinterpret_cast<const uint4 *>(smem_o + Tile::offset(tile_row, chunk));
    }
}

/* Normalises O, stores it and, if asked for, the log-sum-exp. The bytes at smem_o must be free. */
template <class Traits>
__device__ __forceinline__ void store_output(PrefillWarp<Traits> &warp, char *smem_o, const fflash_prefill_params &params,
                                             const KeyBounds &bounds) {
    using T = typename Traits::Element;
    using Tile = typename Traits::QTile;
    /* Found anew: two divisions cost less than registers held across the loop. */
    const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params);
    warp.softmax.finish();
#pragma unroll
    for (int m = 0; m < Traits::kMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const int tile_row = warp.warp_row() + m * kMmaM + half * 8 + lane_row(threadIdx.x);
            const int row = block.row_first + tile_row;
            const bool sees_any = bounds.first(row) < bounds.end(row);
            /* A row that sees keys divides even by 0: all its logits were -inf, and 0 / 0 is the answer. */
            const float inverse = sees_any ? 1.0f / warp.softmax.sum[m][half] : 0.0f;
#pragma unroll
            for (int n = 0; n < Traits::kHeadDim / kMmaN; ++n) {
                const float(&o)[4] = warp.acc_o[m][n];
                const uint32_t pair = pack_f32<T>(o[half * 2] * inverse, o[half * 2 + 1] * inverse);
                *reinterpret_cast<uint32_t *>(smem_o + Tile::offset(tile_row, n) + lane_col(threadIdx.x) * 2) = pair;
            }
            if (params.lse != nullptr && row < params.seqlen_q && threadIdx.x % kRowLanes == 0)
                params.lse[block.batch * params.lse_batch_stride + block.qo_head * params.lse_head_stride +
                           row * params.lse_seqlen_stride] = warp.softmax.log_sum_exp(m, half);
        }
    __syncwarp();
    store_rows<Traits>(smem_o, params, block);
}

}  // namespace fflash
