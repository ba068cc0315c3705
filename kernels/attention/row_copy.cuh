/* Copies of rows whose place is computed anew for each: into shared memory, 8 elements at a time. */
#pragma once

#include <stdint.h>

#include "../common/ptx.cuh"
#include "../common/smem_tile.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "block.cuh"
#include "seqlen.cuh"

namespace fflash {

/*
 * Copies the 8 elements from `index` on of a tensor of T, or, rounded to nearest even, of f32; zeros, and nothing is
 * read, when they do not exist. 16-bit elements arrive asynchronously, as part of the current cp.async group.
 */
template <class T>
__device__ __forceinline__ void copy_chunk(char *to, const void *tensor, int64_t index, bool exists, bool is_f32) {
    if (!is_f32) {
        ptx::cp_async_16(__cvta_generic_to_shared(to), static_cast<const T *>(tensor) + index, exists ? kChunkBytes : 0);
        return;
    }
    const float4 *from = reinterpret_cast<const float4 *>(static_cast<const float *>(tensor) + index);
    const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float4 low = exists ? from[0] : zero;
    const float4 high = exists ? from[1] : zero;
    *reinterpret_cast<uint4 *>(to) = make_uint4(pack_f32<T>(low.x, low.y), pack_f32<T>(low.z, low.w),
                                                pack_f32<T>(high.x, high.y), pack_f32<T>(high.z, high.w));
}

/* Starts the copy of the rows [block.row_first, row_end) of Q into the tile at shared address `tile`; the others are zero. */
template <class Tile, class T, int kThreads>
__device__ __forceinline__ void load_q(uint32_t tile, const fflash_prefill_params &params, const Request &request,
                                       const PrefillBlock &block, int row_end) {
    const int chunk = threadIdx.x % Tile::kChunks;
    const T *q = static_cast<const T *>(params.q) + chunk * kChunkElements;
    for (int tile_row = threadIdx.x / Tile::kChunks; tile_row < Tile::kRows; tile_row += kThreads / Tile::kChunks) {
        const int row = block.row_first + tile_row;
        const bool exists = row < row_end && chunk * kChunkElements < params.head_dim;
        const int64_t index = exists ? row_index(params.q_strides, request, QueryRow(params, block, row)) : 0;
        ptx::cp_async_16(tile + Tile::offset(tile_row, chunk), q + index, exists ? kChunkBytes : 0);
    }
}

}  // namespace fflash
