/*
 * The last step of the prefill kernels: O divided by its sums, through shared memory to global memory, and the log-sum-exp.
 *
 * O passes through the bytes of Q, every warp or team through those of its own rows, to be stored in whole lines.
 */
#pragma once

#include <stdint.h>

#include "../common/fragment.cuh"
#include "../common/smem_tile.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "block.cuh"
#include "logits.cuh"
#include "prefill_warp.cuh"
#include "seqlen.cuh"

namespace fflash {

/* Copies this warp's rows of O from shared to global memory, 16 bytes per lane, whole lines per row. */
template <class Traits>
__device__ __forceinline__ void store_rows(const char *smem_o, const fflash_prefill_params &params,
                                           const PrefillBlock &block, const Request &request) {
    using T = typename Traits::Element;
    using Tile = typename Traits::QTile;
    constexpr int kRowsPerPass = kWarpSize / Tile::kChunks;
    static_assert(kRowsPerPass * Tile::kChunks == kWarpSize, "a warp stores whole rows");
    const int lane = threadIdx.x % kWarpSize;
    const int chunk = lane % Tile::kChunks;
    if (chunk * kChunkElements >= params.head_dim_v) return;
    T *o = static_cast<T *>(params.o) + chunk * kChunkElements;
#pragma unroll
    for (int pass = 0; pass < Traits::kWarpRows / kRowsPerPass; ++pass) {
        const int tile_row = PrefillWarp<Traits>::warp_row() + pass * kRowsPerPass + lane / Tile::kChunks;
        const QueryRow row(params, block, block.row_first + tile_row);
        if (row.query < request.seqlen_q)
            *reinterpret_cast<uint4 *>(o + row_index(params.o_strides, request, row)) =
                *reinterpret_cast<const uint4 *>(smem_o + Tile::offset(tile_row, chunk));
    }
}

/* Stores this warp's part of O, in f32: 4 lanes store 32 bytes of a row at a time. */
template <class Traits>
__device__ __forceinline__ void store_f32(const PrefillWarp<Traits> &warp, const float (&factors)[Traits::kOMTiles][kLaneRows],
                                          const fflash_prefill_params &params, const PrefillBlock &block,
                                          const Request &request) {
    const int column = warp.o_column() + lane_col(threadIdx.x);
#pragma unroll
    for (int m = 0; m < Traits::kOMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const QueryRow row(params, block, block.row_first + warp.team_row() + m * kMmaM + half * 8 + lane_row(threadIdx.x));
            if (row.query >= request.seqlen_q) continue;
            float *gO = static_cast<float *>(params.o) + row_index(params.o_strides, request, row);
#pragma unroll
            for (int n = 0; n < Traits::kOColumns / kMmaN; ++n)
                if (column + n * kMmaN < params.head_dim_v)
                    *reinterpret_cast<float2 *>(gO + column + n * kMmaN) =
                        make_float2(warp.acc_o[m][n][half * 2] * factors[m][half], warp.acc_o[m][n][half * 2 + 1] * factors[m][half]);
        }
}

/*
 * Normalises O, stores it and, if asked for, the log-sum-exp. kAny: O may be f32. No copy may be on its way to the bytes at smem_o.
 * Warps that work alone have those of their rows for themselves; teams, whose O goes over the tiles, pass a barrier before
 * they write.
 */
template <class Traits, bool kAny = false>
__device__ __forceinline__ void store_output(PrefillWarp<Traits> &warp, char *smem_o, const fflash_prefill_params &params) {
    using T = typename Traits::Element;
    using Tile = typename Traits::QTile;
    /* Found anew: two divisions cost less than registers held across the loop. */
    const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params);
    const Request request(params.requests, block.request);
    warp.softmax.finish();
    float factors[Traits::kMTiles][kLaneRows];
#pragma unroll
    for (int m = 0; m < Traits::kMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const int tile_row = warp.warp_row() + m * kMmaM + half * 8 + lane_row(threadIdx.x);
            const QueryRow row(params, block, block.row_first + tile_row);
            const RowEnd end(params.logits, row.head, warp.softmax.reference(m, half), warp.softmax.sum[m][half]);
            factors[m][half] = end.factor;
            if (params.lse != nullptr && row.query < request.seqlen_q && threadIdx.x % kRowLanes == 0)
                *lse_of(params, request, row) = end.lse;
        }
    float team_factors[Traits::kOMTiles][kLaneRows];
    warp.share_with_team(factors, team_factors);
    if constexpr (kAny)
        if (params.is_f32) return store_f32<Traits>(warp, team_factors, params, block, request);
    /* Other lanes read the bytes of Q that this one writes. */
    if constexpr (Traits::kTeam == 1) __syncwarp();
#pragma unroll
    for (int m = 0; m < Traits::kOMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half)
#pragma unroll
            for (int n = 0; n < Traits::kOColumns / kMmaN; ++n) {
                const int tile_row = warp.team_row() + m * kMmaM + half * 8 + lane_row(threadIdx.x);
                const int chunk = (warp.o_column() + n * kMmaN) / kChunkElements;
                const float(&o)[4] = warp.acc_o[m][n];
                const float factor = team_factors[m][half];
                *reinterpret_cast<uint32_t *>(smem_o + Tile::offset(tile_row, chunk) + lane_col(threadIdx.x) * 2) =
                    pack_f32<T>(o[half * 2] * factor, o[half * 2 + 1] * factor);
            }
    /* The rows that a warp stores come from it and its team. */
    if constexpr (Traits::kTeam > 1) {
        __syncthreads();
    } else {
        __syncwarp();
    }
    store_rows<Traits>(smem_o, params, block, request);
}

}  // namespace fflash
