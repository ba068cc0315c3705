/*
 * Row-major tiles of 16-bit elements in shared memory, swizzled so that nothing that touches them conflicts.
 *
 * A row is a whole number of 128-byte lines (64 elements); a 16-byte chunk c of row r is stored at chunk
 * c ^ (r % 8) of that row, which permutes the 8 chunks of every line.
 *
 * Banks: a line spans all 32 banks once, so a chunk's 4 banks are given by its position in the line, (c ^ r) % 8.
 *   ldmatrix   reads 8 rows of one chunk per phase: 8 different r % 8, hence 8 different positions.
 *   cp.async   writes (16-byte stores and loads: read and write) 8 consecutive chunks of one row per phase.
 *   fragments  stored as 32-bit pairs: 4 lanes fill one chunk, 8 rows per warp as for ldmatrix.
 * In each case the 32 words of a phase fall in 32 different banks.
 */
#pragma once

#include <stdint.h>

#include "reduce.cuh"

namespace fflash {

constexpr int kChunkElements = 8;
constexpr int kChunkBytes = 16;
constexpr int kSwizzleRows = 8;

__host__ __device__ constexpr int swizzled_chunk(int row, int chunk) { return chunk ^ (row % kSwizzleRows); }

/* The shape of a tile; where it lies is a 32-bit address in the shared window, aligned to kAlignment. */
template <int kRows_, int kCols_>
struct SmemTile {
    static constexpr int kRows = kRows_;
    static constexpr int kCols = kCols_;
    static constexpr int kRowBytes = kCols * 2;
    static constexpr int kChunks = kCols / kChunkElements;
    static constexpr int kBytes = kRows * kRowBytes;
    static constexpr int kAlignment = 128;
    static_assert(kRowBytes % 128 == 0, "a row is a whole number of lines");
    static_assert(kRows % kSwizzleRows == 0, "the pattern repeats every 8 rows");

    /* Byte offset of a chunk from the start of the tile. */
    __device__ __forceinline__ static uint32_t offset(int row, int chunk) {
        return row * kRowBytes + swizzled_chunk(row, chunk) * kChunkBytes;
    }
};

/*
 * A lane's part of the addresses of an ldmatrix.x4 whose four 8x8 matrices tile a 16x16 square.
 *
 * The swizzle acts on the low three bits of the chunk and depends on row % 8, which does not change between squares
 * that start at a multiple of 8 rows: stepping to another row block or line adds a constant, stepping inside a
 * line flips bits.
 */
template <class Tile>
class SquareReader {
public:
    /* Matrices in the order (rows 0-7, left), (rows 8-15, left), (rows 0-7, right), (rows 8-15, right). */
    __device__ __forceinline__ static SquareReader rows_first() {
        const int lane = threadIdx.x % kWarpSize;
        return SquareReader(lane % 16, lane / 16);
    }

    /* Matrices in the order (rows 0-7, left), (rows 0-7, right), (rows 8-15, left), (rows 8-15, right). */
    __device__ __forceinline__ static SquareReader columns_first() {
        const int lane = threadIdx.x % kWarpSize;
        return SquareReader(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    }

    /* This lane's address for the square at `row` (a multiple of 8) and `col` (a multiple of 16) of the tile at `tile`. */
    __device__ __forceinline__ uint32_t address(uint32_t tile, int row, int col) const {
        const int line = col / 64;
        const int bits = col % 64 / kChunkElements * kChunkBytes;
        return tile + row_ + (chunk_ ^ bits) + (row * Tile::kRowBytes + line * 128);
    }

private:
    __device__ __forceinline__ SquareReader(int row, int chunk)
        : row_(row * Tile::kRowBytes), chunk_(swizzled_chunk(row, chunk) * kChunkBytes) {}

    uint32_t row_;
    uint32_t chunk_;
};

}  // namespace fflash
