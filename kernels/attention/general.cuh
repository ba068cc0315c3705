/*
 * Fused attention with every option for heads of up to 256 elements: O = softmax(mask(logits(Q K^T))) V.
 *
 * Grid, CTA, warps, tiles and the loop are those of prefill.cuh, with two differences: keys are gathered (gathered_tiles.cuh), and
 * the step that is not plain knows every option (shape.cuh). Plain steps are the same: of tiles that all rows see in full,
 * without an option that shapes logits and with 16-bit elements.
 *
 * Shared memory, bytes: that of prefill.cuh, then what options need to know of rows, then GatheredShared.
 *   head_dim  64: 59392 + 2080 + 9072, 70544
 *   head_dim 128: 75776 + 2080 + 4976, 82832
 *   head_dim 256: 84480 + 2080 + 9888, 96448
 *
 * Preconditions (checked by the host): those of prefill.cuh; head_dim and head_dim_v at most kHeadDim, multiples of 8.
 *
 * Source: FlashAttention-2 (Dao, arXiv 2307.08691).
 */
#pragma once

#include <stdint.h>

#include "../params.h"
#include "block.cuh"
#include "gathered_tiles.cuh"
#include "logits.cuh"
#include "prefill_loop.cuh"
#include "prefill_store.cuh"
#include "prefill_team.cuh"
#include "prefill_warp.cuh"
#include "row_copy.cuh"
#include "seqlen.cuh"
#include "shape.cuh"
#include "tile_walk.cuh"
#include "traits.cuh"

namespace fflash {

template <class T, int kHeadDim>
struct GeneralTraits : PrefillTraits<T, kHeadDim> {
    using Base = PrefillTraits<T, kHeadDim>;
    using Rows = LogitRows<Base::kBlockM>;
    using Gathered = typename GatheredTiles<GeneralTraits>::Shared;
    /* As in traits.cuh, tried out for these kernels. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
    static constexpr int kMiddleOfWidest = 3;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 860
    static constexpr int kMiddleOfWidest = 2;
#else
    static constexpr int kMiddleOfWidest = 6;
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    static constexpr int kMiddleOf128 = 5;
#else
    static constexpr int kMiddleOf128 = 4;
#endif
    static constexpr int kMiddleSixteenths = kHeadDim == 64 ? 2 : kHeadDim == 128 ? kMiddleOf128 : kMiddleOfWidest;
    static constexpr int kSmemRows = Base::kSmemBytes;
    static constexpr int kSmemGathered = kSmemRows + sizeof(Rows);
    static constexpr int kSmemBytes = kSmemGathered + sizeof(Gathered);
    static_assert(sizeof(Rows) == Base::kBlockM * 16 + 32 &&
                      sizeof(Gathered) == (Base::kTeam > 1 ? 16 : 8) * (Base::kBlockN + 4) * 16 + Base::kWarps * 76 + 64,
                  "as src/attention/tiles.rs has it");
    static_assert(kSmemBytes <= 99 * 1024, "the least that sm_80 and later offer to one CTA");
};

template <class Traits>
class GeneralKernel {
    using T = typename Traits::Element;
    using Warp = PrefillWarp<Traits>;
    using Logits = typename Warp::Logits;
    using Kv = GatheredTiles<Traits>;

public:
    __device__ __forceinline__ GeneralKernel(char *smem, const fflash_prefill_params &params)
        : smem_(smem), params_(params), rows_(*reinterpret_cast<typename Traits::Rows *>(smem + Traits::kSmemRows)),
          gathered_(*reinterpret_cast<typename Traits::Gathered *>(smem + Traits::kSmemGathered)) {}

    __device__ __forceinline__ void run() {
        {
            const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params_);
            const Request request(params_.requests, block.request);
            const int row_end = min(block.row_first + Traits::kBlockM, request.seqlen_q * params_.pack.divisor);
            if (block.row_first >= row_end) return;
            prepare(request, block, row_end);
        }
        __syncthreads();
        Warp warp(smem_);
        if (kTakesF32<T> && params_.is_f32) warp.softmax.max_reference = 0.0f;
        Kv kv(smem_, gathered_, params_);
        if (!gathered_.source.walk.is_end(kv.tile(0))) {
            if constexpr (Traits::kHeldQSteps > 0) {
                ptx::cp_async_wait<0>();
                __syncthreads();
                warp.hold_q();
                if constexpr (Traits::kQUnderTiles) __syncthreads();
            }
            if constexpr (Traits::kTeam > 1) {
                run_in_teams(warp, kv);
            } else {
                run_alone(warp, kv);
            }
        }
        /* O goes over Q, and over tiles that Q passed through: the copy of zeros past the last must land, every warp be done. */
        kv.wait();
        store_output<Traits, kTakesF32<T>>(warp, smem_ + Traits::kSmemQ, params_);
    }

private:
    /* What all threads need to know, and the copy of Q. */
    __device__ __forceinline__ void prepare(const Request &request, const PrefillBlock &block, int row_end) {
        const KeyBounds bounds(params_.mask, request);
        if (threadIdx.x < Traits::kBlockM) {
            /* Rows past the last are like it, so that nothing is read that is not there. */
            const QueryRow row(params_, block, min(block.row_first + int(threadIdx.x), row_end - 1));
            rows_.put(threadIdx.x, RowPlace(params_.logits, bounds, block.request, row));
        }
        if (threadIdx.x == 0) {
            rows_.put_block(block, request.q_row, row_end);
            const TileWalk<Traits::kBlockN> walk(params_, request, bounds, block, row_end);
            gathered_.source = KeySource<Traits::kBlockN>(params_, request, block.kv_head, walk);
        }
        copy_queries<typename Traits::QTile, T, Traits::kThreads>(smem_ + Traits::kSmemQ, params_, request, block, row_end,
                                                                  Traits::kHeadDim);
        ptx::cp_async_commit();
    }

    __device__ __forceinline__ float exponent_scale() const {
        return shapes_logits(params_.logits) ? kLog2e : params_.logits.softmax_scale * kLog2e;
    }

    /* So many steps from this one on are plain, or more; never the first. */
    __device__ __forceinline__ int plain_steps(const Kv &kv, int step) const {
        if (step == 0 || shapes_logits(params_.logits) || params_.mask.bits != nullptr || (kTakesF32<T> && params_.is_f32)) return 0;
        return kv.plain_steps(step);
    }

    __device__ __forceinline__ void shape(Logits &acc_s, int tile) const {
        const LogitRow own = rows_.get(params_, Warp::warp_row() + threadIdx.x % kWarpSize % Traits::kWarpRows);
        shape_logits(acc_s, params_, own, tile * Traits::kBlockN);
    }

    /* The steps of prefill_loop.cuh. */
    __device__ __forceinline__ void run_alone(Warp &warp, Kv &kv) {
        const float scale = exponent_scale();
        kv.template load<true>(0, 0);
        int step = 0;
        for (;;) {
            if (gathered_.source.walk.is_end(kv.tile(step))) break;
            kv.find(step + 1);
            bool redo = false;
            const int plain_end = step + plain_steps(kv, step);
            if (step < plain_end) {
#pragma unroll 1
                do redo = !plain_step(warp, kv, step, scale);
                while (!redo && ++step < plain_end);
                if (!redo) continue;
            }
            shaped_step(warp, kv, step++, redo, scale);
        }
        warp.multiply_pv(kv.sV(step - 1), step - 1);
    }

    /* A step with everything. `redo`: of a tile whose plain step failed. */
    __device__ __forceinline__ void shaped_step(Warp &warp, Kv &kv, int step, bool redo, float scale) {
        Logits acc_s;
        if (!redo) {
            if (step > 0) warp.multiply_pv(kv.sV(step - 1), step - 1);
            kv.wait();
            kv.template load<true>(step + 1, step + 1);
        }
        warp.multiply_qk(acc_s, kv.sK(step));
        shape(acc_s, kv.tile(step));
        warp.weigh(acc_s, scale, step);
        if (!__all_sync(kFullWarp, warp.softmax.in_range())) {
            warp.adapt(acc_s, scale);
            warp.template weigh<true>(acc_s, scale, step);
        }
        warp.softmax.accept();
    }

    /* The steps of prefill_team.cuh. */
    __device__ __forceinline__ void run_in_teams(Warp &warp, Kv &kv) {
        const float scale = exponent_scale();
        kv.load_k(0);
        int step = 0;
        for (;;) {
            kv.find(step + 1);
            bool failed = false;
            const int plain_end = step + plain_steps(kv, step);
            if (step < plain_end) {
#pragma unroll 1
                do failed = !plain_team_step(warp, kv, step, scale);
                while (!failed && ++step < plain_end);
                if (!failed) continue;
            }
            failed = failed || kv.wait_any(!warp.softmax.in_range());
            if (!failed) {
                warp.softmax.accept();
                if (step > 0) warp.multiply_pv(kv.sV(step - 1), step - 1);
                if (gathered_.source.walk.is_end(kv.tile(step))) break;
                kv.template load<true>(step + 1, step);
            }
            /* Weights of the step before that were out of range are found again; the next barrier is before their use. */
            const int current = failed ? step - 1 : step;
            Logits acc_s;
            warp.multiply_qk(acc_s, kv.sK(current));
            shape(acc_s, kv.tile(current));
            if (!failed) {
                warp.weigh(acc_s, scale, step);
                /* Those of the first always are: it costs a barrier to find out while S is at hand. */
                failed = step++ == 0 && __syncthreads_or(!warp.softmax.in_range());
            }
            if (failed) settle(warp, acc_s, current, scale);
        }
    }

    char *smem_;
    const fflash_prefill_params &params_;
    typename Traits::Rows &rows_;
    typename Traits::Gathered &gathered_;
};

}  // namespace fflash

#define FFLASH_PREFILL_GENERAL(symbol, Element, kHeadDim)                                                    \
    using symbol##_traits = fflash::GeneralTraits<fflash::Element, kHeadDim>;                                \
    extern "C" __global__ void __launch_bounds__(symbol##_traits::kThreads, symbol##_traits::kMinBlocks)     \
        symbol(const __grid_constant__ fflash_prefill_params params) {                                       \
        extern __shared__ __align__(128) char smem[];                                                        \
        fflash::GeneralKernel<symbol##_traits>(smem, params).run();                                          \
    }
