/*
 * The loop of the prefill kernels in which warps work in teams (traits.cuh), with P V one tile behind.
 *
 * Step t:
 *   wait for this thread's copies of K(t) and V(t - 1)
 *   barrier: everybody's have landed, the weights of t - 1 are shared, all warps are done with step t - 1, and all know
 *   whether somebody's weights were out of range (softmax.cuh)
 *   S = Q K(t)^T; O += a part of P V(t - 1)
 *   issue the copies of V(t) and K(t + 1), which have the rest of this step to land
 *   O += the rest of P V(t - 1)
 *   P = weights of S, shared
 * No P V comes before the barrier, for which a team would have to wait twice; so V is loaded with the K of the tile after it,
 * and two buffers suffice. Weights out of range are found at the barrier that ends their step, before P has touched O: the plain loop is left, S of
 * that tile is computed again, from its K, which is overwritten only after, and the maxima are adapted. All warps of the
 * CTA do so together, for what one warp finds is another's O to rescale.
 *
 * As in prefill_loop.cuh the plain loop takes tiles that all rows see in full, and never the first.
 */
#pragma once

#include <stdint.h>

#include "prefill_loop.cuh"

namespace fflash {

/* A step without mask. False, and only the barrier is passed, if weights of the tile before are out of range. */
template <class Traits, class Kv>
__device__ __forceinline__ bool plain_team_step(PrefillWarp<Traits> &warp, Kv &kv, int tile,
                                                float exponent_scale) {
    typename PrefillWarp<Traits>::Logits acc_s;
    constexpr int kReads = PrefillWarp<Traits>::kPVReads;
    constexpr int kCopies = kReads * Traits::kMiddleSixteenths / 16;
    if (kv.wait_any(!warp.softmax.in_range())) return false;
    warp.softmax.accept();
    warp.multiply_qk(acc_s, kv.sK(tile));
    warp.multiply_pv(kv.sV(tile - 1), tile - 1, 0, kCopies);
    kv.load(tile + 1, tile);
    warp.multiply_pv(kv.sV(tile - 1), tile - 1, kCopies, kReads);
    warp.weigh(acc_s, exponent_scale, tile);
    return true;
}

/* Brings weights of a tile into range. A barrier must follow before they are multiplied. */
template <class Traits>
__device__ __forceinline__ void settle(PrefillWarp<Traits> &warp, const typename PrefillWarp<Traits>::Logits &acc_s, int tile,
                                       float exponent_scale) {
    warp.adapt(acc_s, exponent_scale);
    warp.template weigh<true>(acc_s, exponent_scale, tile);
    warp.softmax.accept();
}

/* The barrier of a step; `failed`: it has been passed, and weights of the tile before are out of range. */
template <class Traits>
__device__ __forceinline__ void enter_step(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, int tile, bool failed,
                                           float exponent_scale) {
    if (failed || kv.wait_any(!warp.softmax.in_range())) {
        typename PrefillWarp<Traits>::Logits acc_s;
        warp.multiply_qk(acc_s, kv.sK(tile - 1));
        settle(warp, acc_s, tile - 1, exponent_scale);
        __syncthreads();
    } else {
        warp.softmax.accept();
    }
}

/* All steps of a CTA. `tiles` is not empty. */
template <class Traits>
__device__ __forceinline__ void run_tiles_in_teams(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, const TileRange &tiles,
                                                   const fflash_prefill_params &params) {
    const float exponent_scale = exponent_scale_of(params.logits);
    const int plain_first = max(tiles.plain_first, tiles.first + 1);
    kv.load_k(tiles.first);
    int tile = tiles.first;
    while (tile < tiles.end) {
        bool failed = false;
        if (tile >= plain_first && tile < tiles.plain_end) {
#pragma unroll 1
            do failed = !plain_team_step(warp, kv, tile, exponent_scale);
            while (!failed && ++tile < tiles.plain_end);
        }
        if (tile == tiles.end) break;
        enter_step(warp, kv, tile, failed, exponent_scale);
        if (tile > tiles.first) warp.multiply_pv(kv.sV(tile - 1), tile - 1);
        kv.load(tile + 1, tile);
        typename PrefillWarp<Traits>::Logits acc_s;
        warp.multiply_qk(acc_s, kv.sK(tile));
        /* Found anew, so that nothing of the mask takes a register of the plain steps. */
        const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params);
        const KeyBounds bounds(params.mask, Request(params.requests, block.request));
        warp.shape_logits(acc_s, params, bounds, block.row_first, tile * Traits::kBlockN);
        warp.weigh(acc_s, exponent_scale, tile);
        if (__syncthreads_or(!warp.softmax.in_range())) settle(warp, acc_s, tile, exponent_scale);
        ++tile;
    }
    enter_step(warp, kv, tiles.end, false, exponent_scale);
    warp.multiply_pv(kv.sV(tiles.end - 1), tiles.end - 1);
}

}  // namespace fflash
