/*
 * The loop of the prefill kernels over the key tiles of a CTA, with P V one tile behind.
 *
 * Step t:
 *   O += a quarter of P V(t - 1)
 *   wait for this thread's copies of K(t) and V(t)
 *   barrier: everybody's have landed, and all warps are done with step t - 1, whose buffers may be refilled
 *   S = Q K(t)^T; O += a little more of P V(t - 1)
 *   issue the copies of K(t + 1) and V(t + 1), which have the rest of this step to land
 *   O += the rest of P V(t - 1)
 *   P = weights of S
 * P V of one tile and the softmax of the next do not depend on each other, so the tensor pipe has work while exponentials
 * are computed. P V is cut where memory accesses stand, the barrier and the copies, because the compiler does not move its
 * reads of V across them: what comes before the barrier covers the wait and the first reads of K, and the address arithmetic
 * of the copies finds products on both sides. Weights out of range (softmax.cuh) are found at the end of the step, before
 * P has touched O: the plain loop is left, and the general step computes S again, from K(t) in its buffer, and adapts. That
 * keeps S, the largest thing in registers after O, from living through the step.
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

/* The K and V tiles of a CTA, whose keys follow each other. */
template <class Traits>
class KvPipeline : public KvBuffers<Traits> {
    using T = typename Traits::Element;
    using Tile = typename Traits::KvTile;
    using Loader = TileLoader<Tile, Traits::kThreads>;

public:
    /* Of a row's chunks those past head_dim do not exist. */
    __device__ __forceinline__ KvPipeline(uint32_t smem, const fflash_prefill_params &params, const Request &request,
                                          int kv_head, const TileRange &tiles)
        : KvBuffers<Traits>(smem),
          key_first_(tiles.key_first),
          key_end_(Loader::column() < params.head_dim ? tiles.key_end : tiles.key_first),
          k_(head(params.k, params.k_strides, request, kv_head), params.k_strides.seqlen, tiles.first * Tile::kRows),
          v_(head(params.v, params.v_strides, request, kv_head), params.v_strides.seqlen, tiles.first * Tile::kRows) {}

    /* Starts the copies of K of one tile and of V of another, as one group. Tiles come in order; past the last only zeros are written. */
    __device__ __forceinline__ void load(int tile_k, int tile_v) {
        /* Tried out: see kMiddleSixteenths. */
        if constexpr (Traits::kTeam > 1) load(v_, this->sV(tile_v), tile_v);
        load(k_, this->sK(tile_k), tile_k);
        if constexpr (Traits::kTeam == 1) load(v_, this->sV(tile_v), tile_v);
        ptx::cp_async_commit();
    }
    /* The same of K alone. */
    __device__ __forceinline__ void load_k(int tile) {
        load(k_, this->sK(tile), tile);
        ptx::cp_async_commit();
    }

private:
    __device__ __forceinline__ void load(Loader &loader, uint32_t target, int tile) {
        const int key = tile * Tile::kRows;
        loader.load_next(target, key_first_ - key, key_end_ - key);
    }

    /* The first key of the request. */
    __device__ __forceinline__ static const T *head(const void *tensor, const fflash_strides4 &strides,
                                                    const Request &request, int kv_head) {
        return static_cast<const T *>(tensor) + request.index * strides.batch + request.k_row * strides.seqlen +
               kv_head * strides.heads;
    }

    int key_first_;
    int key_end_;
    Loader k_;
    Loader v_;
};

/* A step without mask. False if the weights are out of range: all is done then but P. */
template <class Traits, class Kv>
__device__ __forceinline__ bool plain_step(PrefillWarp<Traits> &warp, Kv &kv, int tile,
                                           float exponent_scale) {
    typename PrefillWarp<Traits>::Logits acc_s;
    constexpr int kReads = PrefillWarp<Traits>::kPVReads;
    constexpr int kBarrier = kReads / 4;
    constexpr int kCopies = kBarrier + kReads * Traits::kMiddleSixteenths / 16;
    warp.multiply_pv(kv.sV(tile - 1), tile - 1, 0, kBarrier);
    kv.wait();
    warp.multiply_qk(acc_s, kv.sK(tile));
    warp.multiply_pv(kv.sV(tile - 1), tile - 1, kBarrier, kCopies);
    kv.load(tile + 1, tile + 1);
    warp.multiply_pv(kv.sV(tile - 1), tile - 1, kCopies, kReads);
    warp.weigh(acc_s, exponent_scale, tile);
    if (!__all_sync(kFullWarp, warp.softmax.in_range())) return false;
    warp.softmax.accept();
    return true;
}

/* A step with everything. `redo`: of a tile whose plain step failed. */
template <class Traits>
__device__ __forceinline__ void general_step(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, int tile, bool redo,
                                             const TileRange &tiles, const fflash_prefill_params &params,
                                             const KeyBounds &bounds, int row_first) {
    const float exponent_scale = exponent_scale_of(params.logits);
    typename PrefillWarp<Traits>::Logits acc_s;
    if (!redo) {
        if (tile > tiles.first) warp.multiply_pv(kv.sV(tile - 1), tile - 1);
        kv.wait();
        kv.load(tile + 1, tile + 1);
    }
    warp.multiply_qk(acc_s, kv.sK(tile));
    if (!redo) warp.shape_logits(acc_s, params, bounds, row_first, tile * Traits::kBlockN);
    warp.weigh(acc_s, exponent_scale, tile);
    if (!__all_sync(kFullWarp, warp.softmax.in_range())) {
        warp.adapt(acc_s, exponent_scale);
        warp.template weigh<true>(acc_s, exponent_scale, tile);
    }
    warp.softmax.accept();
}

/* All steps of a CTA. `tiles` is not empty. */
template <class Traits>
__device__ __forceinline__ void run_tiles(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, const TileRange &tiles,
                                          const fflash_prefill_params &params, const KeyBounds &bounds, int row_first) {
    const float exponent_scale = exponent_scale_of(params.logits);
    const int plain_first = max(tiles.plain_first, tiles.first + 1);
    kv.load(tiles.first, tiles.first);
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
    warp.multiply_pv(kv.sV(tiles.end - 1), tiles.end - 1);
}

}  // namespace fflash
