/*
 * Fused attention over whole sequences: O = softmax(mask(softcap(Q K^T * scale))) V, with optional log-sum-exp.
 *
 * Grid    block.cuh
 * CTA     block_m rows of one group of heads; loops over the key tiles that some row of it sees.
 * Warp    block_m / warps rows, all keys, all of head_dim: a row's softmax never leaves its warp. At head_dim 256 two warps
 *         multiply the weights of both by V, half of its columns each.
 *
 * Shared memory (traits.cuh), bytes:       K      V      Q  teams   total
 *   head_dim  64: tiles of 64 keys      16384  24576  16384      -   59392
 *   head_dim 128: tiles of 32 keys      16384  24576  32768      -   75776
 *   head_dim 256: tiles of 32 keys      32768  32768 (both)  16896   84480   Q passes through to registers first
 * with 2048 for the softmax.
 * O leaves through shared memory too, to be stored in whole lines: through Q's bytes.
 *
 * The loop over tiles, and who waits for what in it, is in prefill_loop.cuh and prefill_team.cuh; before it, all wait for Q where it is held.
 * Steps over tiles that all rows see in full carry no mask; the others, and all under a softcap, take the general step.
 *
 * Preconditions (checked by the host): head_dim contiguous; pointers and strides multiples of 16 bytes; seqlens in
 * [0, kMaxSeqlen]; window bounds non-negative; num_qo_heads = group_size * num_kv_heads; head_dim_v = head_dim, a multiple of 8
 * up to kHeadDim; grid and rows of a head group below 2^30.
 *
 * A key that no row of a block sees is not read, nor is anything past seqlen_k. A key that some but not all rows of a block
 * see has weight 0 in the others: if its V is NaN or infinite, so become those rows (0 * NaN), here as in every
 * attention kernel that multiplies tiles.
 *
 * Source: FlashAttention-2 (Dao, arXiv 2307.08691).
 */
#pragma once

#include <stdint.h>

#include "../common/fragment.cuh"
#include "../common/ptx.cuh"
#include "../common/smem_tile.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "block.cuh"
#include "kv_tiles.cuh"
#include "mask.cuh"
#include "prefill_loop.cuh"
#include "prefill_store.cuh"
#include "prefill_team.cuh"
#include "prefill_warp.cuh"
#include "row_copy.cuh"
#include "seqlen.cuh"
#include "traits.cuh"

namespace fflash {

template <class Traits>
__device__ __forceinline__ void prefill(const fflash_prefill_params &params) {
    extern __shared__ __align__(Traits::QTile::kAlignment) char smem[];
    const uint32_t smem_base = __cvta_generic_to_shared(smem);

    const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params);
    const Request request(params.requests, block.request);
    const int row_end = min(block.row_first + Traits::kBlockM, request.seqlen_q * params.pack.divisor);
    if (block.row_first >= row_end) return;
    const KeyBounds bounds(params.mask, request);
    TileRange tiles = TileRange::of<Traits::kBlockN>(bounds, QueryRow(params, block, block.row_first).query,
                                                     QueryRow(params, block, row_end - 1).query);
    if (transforms_logits(params.logits)) tiles.plain_end = tiles.plain_first;

    PrefillWarp<Traits> warp(smem);
    if (tiles.first < tiles.end) {
        KvPipeline<Traits> kv(smem_base, params, request, block.kv_head, tiles);
        load_q<typename Traits::QTile, typename Traits::Element, Traits::kThreads>(smem_base + Traits::kSmemQ, params, request, block, row_end);
        if constexpr (Traits::kHeldQSteps > 0) {
            ptx::cp_async_commit();
            ptx::cp_async_wait<0>();
            __syncthreads();
            warp.hold_q();
            if constexpr (Traits::kQUnderTiles) __syncthreads();
        }
        if constexpr (Traits::kTeam > 1) {
            run_tiles_in_teams(warp, kv, tiles, params);
        } else {
            run_tiles(warp, kv, tiles, params, bounds, block.row_first);
        }
    }
    store_output(warp, smem + Traits::kSmemQ, params);
}

}  // namespace fflash

/* One entry: its launch bounds follow from the traits; the host launches kThreads threads with kSmemBytes. */
#define FFLASH_PREFILL(symbol, Element, kHeadDim)                                                    \
    using symbol##_traits = fflash::PrefillTraits<fflash::Element, kHeadDim>;                        \
    extern "C" __global__ void __launch_bounds__(symbol##_traits::kThreads, symbol##_traits::kMinBlocks) \
        symbol(const __grid_constant__ fflash_prefill_params params) {                               \
        fflash::prefill<symbol##_traits>(params);                                                    \
    }
