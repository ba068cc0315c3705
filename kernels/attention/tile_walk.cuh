/*
 * Which key tiles a CTA visits when they need not follow each other: sink tokens before a window, lists of blocks. Visited
 * tiles come in runs; what a run ends at takes reads of the lists, so that a loop asks between runs only.
 *
 * Tiles stay aligned to multiples of their size, whatever is left out, so that the sums of a row do not depend on which
 * other rows share its CTA.
 */
#pragma once

#include <stdint.h>

#include "block.cuh"
#include "seqlen.cuh"

namespace fflash {

template <int kBlockN>
class TileWalk {
public:
    /* Rows [block.row_first, row_end) of the request, at least one. */
    __device__ __forceinline__ TileWalk(const fflash_prefill_params &params, const Request &request,
                                        const KeyBounds &bounds, const PrefillBlock &block, int row_end)
        : blocks_(params.mask.blocks) {
        const int query_first = QueryRow(params, block, block.row_first).query;
        const int query_last = QueryRow(params, block, row_end - 1).query;
        key_first_ = bounds.first(query_first);
        key_end_ = max(bounds.end(query_last), 0);
        sinks_end_ = min(params.mask.sink_tokens, key_end_);
        plain_first_ = tiles_to(bounds.first(query_last));
        plain_end_ = max(bounds.end(query_first), 0) / kBlockN;
        if (blocks_ != nullptr) {
            const int first = divide(query_first, params.mask.block_q);
            blocks_ += request.index * params.mask.blocks_batch_stride +
                       block.kv_head * params.mask.blocks_head_stride + first * params.mask.blocks_row_stride;
            block_rows_ = divide(query_last, params.mask.block_q) - first + 1;
        }
    }

    /* Keys that some row may see. */
    __device__ __forceinline__ bool wants(int key) const {
        return (key < key_end_) & ((key >= key_first_) | (key < sinks_end_));
    }

    /* The first visited tile that is not before `tile`. */
    __device__ __forceinline__ int from(const fflash_mask &mask, int tile) const {
        for (;;) {
            if (tile * kBlockN >= sinks_end_) tile = max(tile, key_first_ / kBlockN);
            if (tile * kBlockN >= key_end_ || (key_first_ >= key_end_ && tile * kBlockN >= sinks_end_)) return kEnd;
            if (blocks_ == nullptr) return tile;
            const int listed = max(tile, listed_key(mask, tile * kBlockN) / kBlockN);
            /* Between the sinks and the window a listed block counts for nothing. */
            if (listed == tile) return tile;
            tile = listed;
        }
    }

    /* No row wants a key of such a tile. */
    __device__ __forceinline__ bool is_end(int tile) const { return tile >= kEnd; }

    /* All tiles from the visited one `tile` to this one are visited. */
    __device__ __forceinline__ int run_end(const fflash_mask &mask, int tile) const {
        if (is_end(tile)) return INT32_MAX;
        const int end = tiles_to(tile * kBlockN < sinks_end_ ? sinks_end_ : key_end_);
        return blocks_ == nullptr ? end : min(end, max(tile + 1, tiles_to(block_end(mask, tile))));
    }

    /* All rows see all keys of a tile. */
    __device__ __forceinline__ bool is_plain(const fflash_mask &mask, int tile) const {
        if (tile < plain_first_ || tile >= plain_end_) return false;
        if (blocks_ == nullptr) return true;
        const int block = divide(tile * kBlockN, mask.block_k);
        if (block_end(mask, tile) < (tile + 1) * kBlockN) return false;
        uint32_t listed = ~0u;
#pragma unroll 1
        for (int row = 0; row < block_rows_; ++row) listed &= blocks_[row * mask.blocks_row_stride + block / 32];
        return listed >> block % 32 & 1;
    }

private:
    static constexpr int kEnd = kMaxSeqlen / kBlockN;

    /* Tiles that the keys before `key` are in. */
    __device__ __forceinline__ static int tiles_to(int key) { return (key + kBlockN - 1) / kBlockN; }

    /* The end of the block of keys that a tile starts in. */
    __device__ __forceinline__ static int block_end(const fflash_mask &mask, int tile) {
        return (divide(tile * kBlockN, mask.block_k) + 1) * mask.block_k.divisor;
    }

    /* The first key not before `key`'s block that lies in a block listed for some row; kMaxSeqlen if there is none. */
    __device__ __forceinline__ int listed_key(const fflash_mask &mask, int key) const {
        const int block = divide(key, mask.block_k);
        const int words = (divide(key_end_ - 1, mask.block_k) + 32) / 32;
        uint32_t wanted = ~0u << block % 32;
        for (int word = block / 32; word < words; ++word) {
            uint32_t listed = 0;
#pragma unroll 1
            for (int row = 0; row < block_rows_; ++row) listed |= blocks_[row * mask.blocks_row_stride + word];
            listed &= wanted;
            if (listed != 0) return min(int64_t(kMaxSeqlen), int64_t(word * 32 + __ffs(listed) - 1) * mask.block_k.divisor);
            wanted = ~0u;
        }
        return kMaxSeqlen;
    }

    const uint32_t *blocks_;
    int block_rows_;
    int key_first_;
    int key_end_;
    int sinks_end_;
    int plain_first_;
    int plain_end_;
};

}  // namespace fflash
