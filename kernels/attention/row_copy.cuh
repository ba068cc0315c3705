/* Copies of rows whose place is computed anew for each: into shared memory, 8 elements at a time. */
#pragma once

#include <stdint.h>

#include <type_traits>

#include "../common/ptx.cuh"
#include "../common/smem_tile.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "block.cuh"
#include "seqlen.cuh"

namespace fflash {

/* Whether a kernel that computes in T takes f32 tensors too: they are computed in bf16 (src/attention/plan.rs). */
template <class T>
constexpr bool kTakesF32 = std::is_same<T, Bf16>::value;

/* Copies 8 f32, rounded to nearest even, to T; zeros, and nothing is read, when they do not exist. */
template <class T>
__device__ __forceinline__ void convert_chunk(char *to, const float *from, bool exists) {
    const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float4 low = exists ? reinterpret_cast<const float4 *>(from)[0] : zero;
    const float4 high = exists ? reinterpret_cast<const float4 *>(from)[1] : zero;
    *reinterpret_cast<uint4 *>(to) = make_uint4(pack_f32<T>(low.x, low.y), pack_f32<T>(low.z, low.w),
                                                pack_f32<T>(high.x, high.y), pack_f32<T>(high.z, high.w));
}

/*
 * Copies the 8 elements from `index` on of a tensor of T or of f32; zeros, and nothing is read, when they do not exist.
 * 16-bit elements arrive asynchronously, as part of the current cp.async group.
 */
template <class T>
__device__ __forceinline__ void copy_chunk(char *to, const void *tensor, int64_t index, bool exists, bool is_f32) {
    if (kTakesF32<T> && is_f32) {
        convert_chunk<T>(to, static_cast<const float *>(tensor) + index, exists);
    } else {
        ptx::cp_async_16(__cvta_generic_to_shared(to), static_cast<const T *>(tensor) + index, exists ? kChunkBytes : 0);
    }
}

/* How the threads of a CTA split a tile: so many to a row, each with every so manieth chunk. */
template <class Tile>
constexpr int kRowCopyThreads = Tile::kChunks < 16 ? Tile::kChunks : 16;

/* Copies the chunks of one row that this thread has, zeros past head_dim up to `columns`. */
template <class Tile, class T>
__device__ __forceinline__ void copy_row(char *tile, int row, const void *tensor, int64_t index, int head_dim, int columns,
                                         bool exists, bool is_f32) {
    for (int chunk = threadIdx.x % kRowCopyThreads<Tile>; chunk * kChunkElements < columns; chunk += kRowCopyThreads<Tile>)
        copy_chunk<T>(tile + Tile::offset(row, chunk), tensor, index + chunk * kChunkElements,
                      exists && chunk * kChunkElements < head_dim, is_f32);
}

/* Starts the copy of the rows [block.row_first, row_end) of Q, zeros for other rows and past head_dim up to `columns`. */
template <class Tile, class T, int kThreads>
__device__ __forceinline__ void copy_queries(char *tile, const fflash_prefill_params &params, const Request &request,
                                             const PrefillBlock &block, int row_end, int columns) {
    constexpr int kRowsPerPass = kThreads / kRowCopyThreads<Tile>;
    for (int tile_row = threadIdx.x / kRowCopyThreads<Tile>; tile_row < Tile::kRows; tile_row += kRowsPerPass) {
        const int row = block.row_first + tile_row;
        const bool exists = row < row_end;
        const int64_t index = exists ? row_index(params.q_strides, request, QueryRow(params, block, row)) : 0;
        copy_row<Tile, T>(tile, tile_row, params.q, index, params.head_dim, columns, exists, params.is_f32);
    }
}

/* Stores the rows of O that are staged in a tile, 16 bytes at a time. */
template <class Tile, class T, int kThreads>
__device__ __forceinline__ void store_staged(const char *tile, const fflash_prefill_params &params, const Request &request,
                                             const PrefillBlock &block, int row_end) {
    constexpr int kRowsPerPass = kThreads / kRowCopyThreads<Tile>;
    for (int tile_row = threadIdx.x / kRowCopyThreads<Tile>; tile_row < Tile::kRows; tile_row += kRowsPerPass) {
        const int row = block.row_first + tile_row;
        if (row >= row_end) continue;
        T *gO = static_cast<T *>(params.o) + row_index(params.o_strides, request, QueryRow(params, block, row));
        for (int chunk = threadIdx.x % kRowCopyThreads<Tile>; chunk * kChunkElements < params.head_dim_v;
             chunk += kRowCopyThreads<Tile>)
            *reinterpret_cast<uint4 *>(gO + chunk * kChunkElements) =
                *reinterpret_cast<const uint4 *>(tile + Tile::offset(tile_row, chunk));
    }
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
