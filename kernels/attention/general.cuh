/*
 * Fused attention with every option for heads of up to 256 elements: O = softmax(mask(logits(Q K^T))) V.
 *
 * Grid    block.cuh
 * CTA     128 rows, 8 warps; loops over tiles of 64 keys (32 at head_dim 256).
 * Warp    16 rows, all keys, all of head_dim: a row's softmax never leaves its warp.
 *
 * Shared memory, bytes:        Q      K      V   total
 *   head_dim  64           16384   8192   8192   32768
 *   head_dim 128           32768  16384  16384   65536
 *   head_dim 256           65536  16384  16384   98304
 * O leaves through Q's bytes. Only the steps and columns that head_dim and head_dim_v have are computed.
 *
 * One buffer each of K and V, which are awaited apart. Step t:
 *   barrier: K(t) has landed; everybody is done with V(t - 1).        Start the copy of V(t).
 *   S = Q K(t)^T
 *   barrier: everybody is done with K(t).                             Start the copy of K(t + 1).
 *   P = softmax step of S
 *   barrier: V(t) has landed.                                         O += P V(t)
 *
 * Preconditions (checked by the host): those of prefill.cuh; head_dim and head_dim_v at most kHeadDim, multiples of 8.
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
#include "logits.cuh"
#include "row_copy.cuh"
#include "seqlen.cuh"
#include "tile_walk.cuh"

namespace fflash {

template <class T_, int kHeadDim_>
struct GeneralTraits {
    using T = T_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kBlockM = 128;
    static constexpr int kBlockN = kHeadDim > 128 ? 32 : 64;
    static constexpr int kWarps = 8;
    static constexpr int kThreads = kWarps * kWarpSize;
    using QTile = SmemTile<kBlockM, kHeadDim>;
    using KvTile = SmemTile<kBlockN, kHeadDim>;
    static constexpr int kSmemQ = 0;
    static constexpr int kSmemK = kSmemQ + QTile::kBytes;
    static constexpr int kSmemV = kSmemK + KvTile::kBytes;
    static constexpr int kSmemBytes = kSmemV + KvTile::kBytes;
    static_assert(kWarps * kMmaM == kBlockM, "a warp has 16 rows");
    static_assert(kSmemBytes <= 99 * 1024, "the least that sm_80 and later offer to one CTA");
};

template <class Traits>
class GeneralKernel {
    using T = typename Traits::T;
    using QTile = typename Traits::QTile;
    using KvTile = typename Traits::KvTile;
    using Walk = TileWalk<Traits::kBlockN>;
    static constexpr int kNTiles = Traits::kBlockN / kMmaN;
    static constexpr int kOTiles = Traits::kHeadDim / kMmaN;

public:
    __device__ __forceinline__ GeneralKernel(char *smem, const fflash_prefill_params &params)
        : params_(params), smem_(smem), smem_address_(__cvta_generic_to_shared(smem)) {}

    __device__ __forceinline__ void run() {
        const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params_);
        const Request request(params_.requests, block.request);
        const int row_end = min(block.row_first + Traits::kBlockM, request.seqlen_q * params_.pack.divisor);
        if (block.row_first >= row_end) return;
        const KeyBounds bounds(params_.mask, request);
        const Walk walk(params_, request, bounds, block, row_end);
        const LogitRow rows[kLaneRows] = {
            LogitRow(params_, request, bounds, block, QueryRow(params_, block, block.row_first + tile_row(0))),
            LogitRow(params_, request, bounds, block, QueryRow(params_, block, block.row_first + tile_row(1)))};

        int tile = walk.first(params_.mask);
        if (!walk.is_end(tile)) {
            copy_queries<QTile, T, Traits::kThreads>(smem_ + Traits::kSmemQ, params_, request, block, row_end, kMmaK);
            load_k(request, block, walk, tile);
            while (!walk.is_end(tile)) {
                ptx::cp_async_wait<0>();
                __syncthreads();
                load_v(request, block, walk, tile);
                multiply_qk();
                __syncthreads();
                const int next = walk.next(params_.mask, tile);
                load_k(request, block, walk, next);
                shape_logits(rows, tile * Traits::kBlockN + lane_col(threadIdx.x));
                weigh();
                ptx::cp_async_wait<1>();
                __syncthreads();
                multiply_pv();
                tile = next;
            }
        }
        finish(request, block, row_end);
    }

private:
    /* The rows of the tile that this lane has a share of. */
    __device__ __forceinline__ static int tile_row(int half) {
        return threadIdx.x / kWarpSize * kMmaM + half * 8 + lane_row(threadIdx.x);
    }

    __device__ __forceinline__ void load_k(const Request &request, const PrefillBlock &block, const Walk &walk, int tile) {
        if (!walk.is_end(tile))
            copy_keys<KvTile, T, Traits::kThreads>(smem_ + Traits::kSmemK, params_.k, params_.k_strides, params_, request,
                                                   block.kv_head, walk, tile * Traits::kBlockN, params_.head_dim, kMmaK);
        ptx::cp_async_commit();
    }

    __device__ __forceinline__ void load_v(const Request &request, const PrefillBlock &block, const Walk &walk, int tile) {
        copy_keys<KvTile, T, Traits::kThreads>(smem_ + Traits::kSmemV, params_.v, params_.v_strides, params_, request,
                                               block.kv_head, walk, tile * Traits::kBlockN, params_.head_dim_v, kMmaK);
        ptx::cp_async_commit();
    }

    __device__ __forceinline__ void multiply_qk() {
        const SquareReader<QTile> q_reader = SquareReader<QTile>::rows_first();
        const SquareReader<KvTile> k_reader = SquareReader<KvTile>::columns_first();
        const uint32_t sQ = smem_address_ + Traits::kSmemQ + threadIdx.x / kWarpSize * kMmaM * QTile::kRowBytes;
#pragma unroll
        for (int n = 0; n < kNTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) acc_s_[n][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < Traits::kHeadDim; k += kMmaK) {
            if (k >= params_.head_dim) break;
            uint32_t rQ[4];
            ptx::ldmatrix_x4(rQ, q_reader.address(sQ, 0, k));
#pragma unroll
            for (int n = 0; n < kNTiles; n += 2) {
                uint32_t rK[4];
                ptx::ldmatrix_x4(rK, k_reader.address(smem_address_ + Traits::kSmemK, n * kMmaN, k));
                mma<T>(acc_s_[n], rQ, rK[0], rK[1]);
                mma<T>(acc_s_[n + 1], rQ, rK[2], rK[3]);
            }
        }
    }

    /* Calls f(logit, half, key) for every logit of this lane; `key` is the key of its first column. */
    template <class F>
    __device__ __forceinline__ void for_each_logit(int key, F f) {
#pragma unroll
        for (int n = 0; n < kNTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) f(acc_s_[n][i], i / 2, key + n * kMmaN + i % 2);
    }

    /* What LogitRow::shape does, option by option: each is a branch that all threads take alike. */
    __device__ __forceinline__ void shape_logits(const LogitRow (&rows)[kLaneRows], int key) {
        const fflash_logits &logits = params_.logits;
        if (logits.softcap != 0.0f) {
            for_each_logit(key, [&](float &x, int, int) { x = scale_and_cap(logits, x); });
        } else {
            for_each_logit(key, [&](float &x, int, int) { x *= logits.softmax_scale; });
        }
        if (logits.alibi_slopes != nullptr)
            for_each_logit(key, [&](float &x, int half, int j) { x = rows[half].lean(x, j); });
        if (logits.bias != nullptr)
            for_each_logit(key, [&](float &x, int half, int j) {
                if (rows[half].is_between(j)) x += rows[half].bias(logits, j);
            });
        for_each_logit(key, [&](float &x, int half, int j) { x = rows[half].is_between(j) ? x : -INFINITY; });
        if (params_.mask.bits != nullptr) hide_by_bits(rows, key);
        if (params_.mask.blocks != nullptr) hide_by_blocks(rows, key);
    }

    /* Eight keys share a byte, which four lanes read. */
    __device__ __forceinline__ void hide_by_bits(const LogitRow (&rows)[kLaneRows], int key) {
#pragma unroll
        for (int n = 0; n < kNTiles; ++n)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                const int j = key + n * kMmaN;
                const bool is_any = rows[half].is_between(j) || rows[half].is_between(j + 1);
                const uint32_t bits = is_any ? rows[half].bits(j) : 0;
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float &x = acc_s_[n][half * 2 + i];
                    x = bits >> (j + i) % 8 & 1 ? x : -INFINITY;
                }
            }
    }

    __device__ __forceinline__ void hide_by_blocks(const LogitRow (&rows)[kLaneRows], int key) {
        const fflash_divisor &block_k = params_.mask.block_k;
#pragma unroll
        for (int n = 0; n < kNTiles; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int j = key + n * kMmaN + i % 2;
                float &x = acc_s_[n][i];
                if (rows[i / 2].is_between(j) && !rows[i / 2].sees_block(divide(j, block_k))) x = -INFINITY;
            }
    }

    /*
     * The online softmax of softmax.cuh; the maximum is kept unscaled, so that its weight is 1 exactly. Replaces S by P and
     * moves O to the new maxima.
     */
    __device__ __forceinline__ void weigh() {
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            float tile_max = acc_s_[0][half * 2];
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) tile_max = fmaxf(tile_max, fmaxf(acc_s_[n][half * 2], acc_s_[n][half * 2 + 1]));
            const float old_max = max_[half];
            max_[half] = fmaxf(old_max, lanes_max<kRowLanes>(tile_max));
            const float shift = max_[half] == -INFINITY ? 0.0f : max_[half];
            const float rescale = ptx::ex2_approx_ftz((old_max - shift) * kLog2e);
            float tile_sum = 0.0f;
#pragma unroll
            for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float &x = acc_s_[n][half * 2 + i];
                    x = ptx::ex2_approx_ftz((x - shift) * kLog2e);
                    tile_sum += x;
                }
            sum_[half] = fmaf(sum_[half], rescale, tile_sum);
#pragma unroll
            for (int n = 0; n < kOTiles; ++n) {
                acc_o_[n][half * 2] *= rescale;
                acc_o_[n][half * 2 + 1] *= rescale;
            }
        }
    }

    __device__ __forceinline__ void multiply_pv() {
        const SquareReader<KvTile> v_reader = SquareReader<KvTile>::rows_first();
        uint32_t rP[kNTiles / 2][4];
#pragma unroll
        for (int k = 0; k < kNTiles / 2; ++k) pack_operand_a<T>(rP[k], acc_s_[2 * k], acc_s_[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < kOTiles; n += 2) {
            if (n * kMmaN >= params_.head_dim_v) break;
#pragma unroll
            for (int k = 0; k < kNTiles / 2; ++k) {
                uint32_t rV[4];
                ptx::ldmatrix_x4_trans(rV, v_reader.address(smem_address_ + Traits::kSmemV, k * kMmaK, n * kMmaN));
                mma<T>(acc_o_[n], rP[k], rV[0], rV[1]);
                mma<T>(acc_o_[n + 1], rP[k], rV[2], rV[3]);
            }
        }
    }

    /* Normalises O and stores it and, if asked for, the log-sum-exp. */
    __device__ __forceinline__ void finish(const Request &request, const PrefillBlock &block, int row_end) {
        /* The copy of no tile after the last; everybody is done with the last V. Q's rows are each warp's own. */
        ptx::cp_async_wait<0>();
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const int row = block.row_first + tile_row(half);
            const QueryRow query(params_, block, row);
            const RowEnd end(params_.logits, query.head, max_[half] * kLog2e, lanes_sum<kRowLanes>(sum_[half]));
            if (params_.lse != nullptr && row < row_end && threadIdx.x % kRowLanes == 0) *lse_of(params_, request, query) = end.lse;
            if (kTakesF32<T> && params_.is_f32) {
                if (row < row_end) store_f32(static_cast<float *>(params_.o) + row_index(params_.o_strides, request, query), half, end.factor);
            } else {
#pragma unroll
                for (int n = 0; n < kOTiles; ++n)
                    *reinterpret_cast<uint32_t *>(smem_ + Traits::kSmemQ + QTile::offset(tile_row(half), n) + lane_col(threadIdx.x) * 2) =
                        pack_f32<T>(acc_o_[n][half * 2] * end.factor, acc_o_[n][half * 2 + 1] * end.factor);
            }
        }
        if (kTakesF32<T> && params_.is_f32) return;
        __syncthreads();
        store_staged<QTile, T, Traits::kThreads>(smem_ + Traits::kSmemQ, params_, request, block, row_end);
    }

    /* 4 lanes store 32 bytes of a row at a time. */
    __device__ __forceinline__ void store_f32(float *gO, int half, float factor) {
#pragma unroll
        for (int n = 0; n < kOTiles; ++n)
            if (n * kMmaN < params_.head_dim_v)
                *reinterpret_cast<float2 *>(gO + n * kMmaN + lane_col(threadIdx.x)) =
                    make_float2(acc_o_[n][half * 2] * factor, acc_o_[n][half * 2 + 1] * factor);
    }

    const fflash_prefill_params &params_;
    char *smem_;
    uint32_t smem_address_;
    float max_[kLaneRows] = {-INFINITY, -INFINITY};
    float sum_[kLaneRows] = {};
    float acc_s_[kNTiles][4];
    float acc_o_[kOTiles][4] = {};
};

}  // namespace fflash

#define FFLASH_PREFILL_GENERAL(symbol, Element, kHeadDim)                                        \
    using symbol##_traits = fflash::GeneralTraits<fflash::Element, kHeadDim>;                    \
    extern "C" __global__ void __launch_bounds__(symbol##_traits::kThreads, 1)                   \
        symbol(const __grid_constant__ fflash_prefill_params params) {                           \
        extern __shared__ __align__(128) char smem[];                                            \
        fflash::GeneralKernel<symbol##_traits>(smem, params).run();                              \
    }
