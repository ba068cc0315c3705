/*
 * The loop of the prefill kernels over the key tiles of a CTA, with P V one tile behind.
 *
 * Step t:
 *   wait for this thread's copies of K(t) and V(t - 1)
 *   barrier: everybody's have landed, and all warps are done with step t - 1, whose buffers may be refilled
 *   S = Q K(t)^T
 *   issue the copies of K(t + 1) and V(t), which have the rest of this step to land
 *   O += P V(t - 1)
 *   P = weights of S
 * P V of one tile and the softmax of the next do not depend on each other, so the tensor pipe has work while exponentials
 * are computed. Weights out of range (softmax.cuh) are found at the end of the step, before P has touched O: the plain loop
 * is left, and the general step computes S again, from K(t) in its buffer, and adapts. That keeps S, the largest thing in
 * registers after O, from living through the step.
 *
 * The plain loop takes tiles that all rows see in full: no mask, no branch but the one that leaves. It never takes the
 * first tile, whose weights are never in range and which has no P before it.
 */
#pragma once

#include <stdint.h>

#include "../common/ptx.cuh"
#include "../params.h"
#include "kv_tiles.cuh"
#include "mask.cuh"
#include "prefill_warp.cuh"
#include "seqlen.cuh"
#include "traits.cuh"

namespace fflash {

/* The K and V tiles of a CTA: double buffers in shared memory and the copies into them. */
template <class Traits>
class KvPipeline {
    using Tile = typename Traits::KvTile;
    using Loader = TileLoader<Tile, Traits::kThreads>;

public:
    template <class T>
    __device__ __forceinline__ KvPipeline(uint32_t smem, const T *gK, const T *gV, const fflash_prefill_params &params,
                                          const TileRange &tiles)
        : smem_(smem),
          key_first_(tiles.key_first),
          key_end_(tiles.key_end),
          k_(gK, params.k_strides.seqlen, tiles.first * Tile::kRows),
          v_(gV, params.v_strides.seqlen, tiles.first * Tile::kRows) {}

    __device__ __forceinline__ uint32_t sK(int tile) const { return smem_ + Traits::kSmemK + (tile & 1) * Tile::kBytes; }
    __device__ __forceinline__ uint32_t sV(int tile) const { return smem_ + Traits::kSmemV + (tile & 1) * Tile::kBytes; }

    /* Starts the copy of the first tile of K. */
    __device__ __forceinline__ void start(int tile) {
        load_k(tile);
        ptx::cp_async_commit();
    }

    /* Waits for what step `tile` reads, and for all warps to be through with the step before. */
    __device__ __forceinline__ void wait() {
        ptx::cp_async_wait<0>();
        __syncthreads();
    }

    /* Starts the copies that step `tile` leaves for the next: K(tile + 1) and V(tile). Past the last only zeros are written. */
    __device__ __forceinline__ void advance(int tile) {
        load_k(tile + 1);
        const int key = tile * Tile::kRows;
        v_.load_next(sV(tile), key_first_ - key, key_end_ - key);
        ptx::cp_async_commit();
    }

private:
    __device__ __forceinline__ void load_k(int tile) {
        const int key = tile * Tile::kRows;
        k_.load_next(sK(tile), key_first_ - key, key_end_ - key);
    }

    static_assert(Traits::kStages == 2, "the buffer of a tile is its parity");
    uint32_t smem_;
    int key_first_;
    int key_end_;
    Loader k_;
    Loader v_;
};

/* A step without mask. False if the weights are out of range: all is done then but P. */
template <class Traits>
__device__ __forceinline__ bool plain_step(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, int tile,
                                           float exponent_scale) {
    typename PrefillWarp<Traits>::Logits acc_s;
    kv.wait();
    warp.multiply_qk(acc_s, kv.sK(tile));
    /* Issued here and not above, so that the first reads of K do not queue behind the copies. */
    kv.advance(tile);
    warp.multiply_pv(kv.sV(tile - 1));
    warp.weigh(acc_s, exponent_scale);
    if (!warp.softmax.in_range()) return false;
    warp.softmax.accept();
    return true;
}

/* A step with everything. `redo`: of a tile whose plain step failed. */
template <class Traits>
__device__ __forceinline__ void general_step(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, int tile, bool redo,
                                             const TileRange &tiles, const fflash_prefill_params &params,
                                             const KeyBounds &bounds, int row_first) {
    const float exponent_scale = exponent_scale_of(params);
    typename PrefillWarp<Traits>::Logits acc_s;
    if (!redo) {
        kv.wait();
        kv.advance(tile);
    }
    warp.multiply_qk(acc_s, kv.sK(tile));
    if (!redo) {
        warp.shape_logits(acc_s, params, bounds, row_first, tile * Traits::kBlockN);
        if (tile > tiles.first) warp.multiply_pv(kv.sV(tile - 1));
    }
    warp.weigh(acc_s, exponent_scale);
    if (!warp.softmax.in_range()) {
        warp.adapt(acc_s, exponent_scale);
        warp.template weigh<true>(acc_s, exponent_scale);
    }
    warp.softmax.accept();
}

/* All steps of a CTA. `tiles` is not empty. */
template <class Traits>
__device__ __forceinline__ void run_tiles(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, const TileRange &tiles,
                                          const fflash_prefill_params &params, const KeyBounds &bounds, int row_first) {
    const float exponent_scale = exponent_scale_of(params);
    const int plain_first = max(tiles.plain_first, tiles.first + 1);
    kv.start(tiles.first);
    int tile = tiles.first;
    while (tile < tiles.end) {
        bool redo = false;
        if (tile >= plain_first && tile < tiles.plain_end) {
#pragma unroll 1
            do redo = !plain_step(warp, kv, tile, exponent_scale);
            while (!redo && ++tile < tiles.plain_end);
        }
        if (tile < tiles.end) general_step(warp, kv, tile++, redo, tiles, params, bounds, row_first);
    }
    kv.wait();
    warp.multiply_pv(kv.sV(tiles.end - 1));
}

}  // namespace fflash
