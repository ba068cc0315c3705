/*
 * Buffers for tiles of K and V, and copies of [rows, head_dim] tiles from global to shared memory, 16 bytes per cp.async.
 *
 * Consecutive threads take consecutive chunks of a row, so that a warp reads whole 128-byte lines; a thread keeps
 * its chunk and steps down the rows. Rows outside the given range are zero-filled and not read.
 */
#pragma once

#include <stdint.h>

#include "../common/ptx.cuh"
#include "../common/smem_tile.cuh"

namespace fflash {

/* Walks down a strided matrix of 16-bit elements, one Tile at a time. */
template <class Tile, int kThreads>
class TileLoader {
public:
    static constexpr int kRowsPerPass = kThreads / Tile::kChunks;
    static constexpr int kPasses = Tile::kRows / kRowsPerPass;
    static_assert(kPasses * kRowsPerPass == Tile::kRows, "threads cover the tile evenly");
    static_assert(kRowsPerPass % kSwizzleRows == 0, "a thread's chunk has the same place in every pass");

    /* `matrix` is row 0 of the matrix and `stride` the elements from row to row; the first tile starts at `row`. */
    __device__ __forceinline__ TileLoader(const void *matrix, int64_t stride, int row)
        : source_(static_cast<const char *>(matrix) + ((row + thread_row()) * stride + thread_chunk() * kChunkElements) * 2),
          pass_bytes_(stride * (kRowsPerPass * 2)) {}

    /*
     * Starts the copy of the next tile into the one at shared address `tile`. Of its rows only [row_first, row_end) exist,
     * counted from its own first row.
     */
    __device__ __forceinline__ void load_next(uint32_t tile, int row_first, int row_end) {
        const uint32_t target = tile + Tile::offset(thread_row(), thread_chunk());
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            /* One comparison for both ends: rows before the first wrap to large numbers. */
            const int row = thread_row() + pass * kRowsPerPass;
            const bool exists = uint32_t(row - row_first) < uint32_t(row_end - row_first);
            ptx::cp_async_16(target + pass * kRowsPerPass * Tile::kRowBytes, source_, exists ? kChunkBytes : 0);
            source_ += pass_bytes_;
        }
    }

    /* The first column of this thread's chunk. */
    __device__ __forceinline__ static int column() { return thread_chunk() * kChunkElements; }

private:
    __device__ __forceinline__ static int thread_row() { return threadIdx.x / Tile::kChunks; }
    __device__ __forceinline__ static int thread_chunk() { return threadIdx.x % Tile::kChunks; }

    const char *source_; /* this thread's chunk in the first row of its next tile */
    int64_t pass_bytes_;
};

/* The rotating buffers of K and V in shared memory, from address `smem` on, and when a tile is there. */
template <class Traits>
class KvBuffers {
public:
    __device__ __forceinline__ explicit KvBuffers(uint32_t smem) : smem_(smem) {}

    __device__ __forceinline__ uint32_t sK(uint32_t step) const { return smem_ + Traits::kSmemK + step % Traits::kStagesK * kBytes; }
    __device__ __forceinline__ uint32_t sV(uint32_t step) const { return smem_ + Traits::kSmemV + step % Traits::kStagesV * kBytes; }

    /* Waits for the tile loaded last, and for all warps to be through with the step before. */
    __device__ __forceinline__ void wait() {
        ptx::cp_async_wait<0>();
        __syncthreads();
    }

    /* The same; whether `flag` was set by any thread. */
    __device__ __forceinline__ bool wait_any(bool flag) {
        ptx::cp_async_wait<0>();
        return __syncthreads_or(flag);
    }

private:
    static constexpr int kBytes = Traits::KvTile::kBytes;
    static_assert(Traits::kStagesK == 2 && Traits::kStagesV == (Traits::kTeam == 1 ? 3 : 2),
                  "step t reads K(t), V(t - 1), loads K(t + 1), and V(t + 1) beside V(t) or, in teams, V(t)");
    uint32_t smem_;
};

}  // namespace fflash
