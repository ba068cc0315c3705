/*
 * Fused attention for heads too wide for the registers of one warp, with every option: O = softmax(mask(logits(Q K^T))) V.
 *
 * Grid    block.cuh
 * CTA     32 rows, 8 warps; loops over tiles of 16 keys.
 * Warp    S: one 16x8 part over every second pair of steps of 16 head_dim columns. Softmax: 4 rows, 8 lanes to a row.
 *         O: all 32 rows, every eighth square of 16 columns of head_dim_v.
 *
 * Shared memory, bytes: Q 36864 (O leaves through it), K 18432, V 16384, S 4096 (two summands), P 1024, factors and
 * options of rows 128 + 1280; 78208.
 *
 * One buffer each of K and V, which are awaited apart. Step t:
 *   barrier: K(t) has landed; everybody is done with V(t - 1).        Start the copy of V(t).
 *   S = Q K(t)^T, to shared memory
 *   barrier: S is there; everybody is done with K(t).                 Start the copy of K(t + 1).
 *   P = softmax step of S, element by element, to shared memory, with the factors for O
 *   barrier: P is there, V(t) has landed.                             O = O * factors + P V(t)
 *
 * Banks: S is a row of 16 words per query whose halves swap places in every other pair of rows: fragments store 4 rows
 * of 8 words, 8 lanes read a row of 16, and either covers 32 banks once. P swaps halves every 4 rows, for ldmatrix.
 *
 * Preconditions (checked by the host): those of prefill.cuh; head_dim <= 576, head_dim_v <= 512, multiples of 8.
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
#include "shape.cuh"
#include "tile_walk.cuh"

namespace fflash {

struct WideTraits {
    static constexpr int kBlockM = 32;
    static constexpr int kBlockN = 16;
    static constexpr int kWarps = 8;
    static constexpr int kThreads = kWarps * kWarpSize;
    static constexpr int kMinBlocks = 2;
    static constexpr int kMaxHeadDim = 576;
    static constexpr int kMaxHeadDimV = 512;
    using QTile = SmemTile<kBlockM, kMaxHeadDim>;
    using KTile = SmemTile<kBlockN, kMaxHeadDim>;
    using VTile = SmemTile<kBlockN, kMaxHeadDimV>;
    static constexpr int kSmemQ = 0;
    static constexpr int kSmemK = kSmemQ + QTile::kBytes;
    static constexpr int kSmemV = kSmemK + KTile::kBytes;
    static constexpr int kSmemS = kSmemV + VTile::kBytes;
    static constexpr int kSmemP = kSmemS + 2 * kBlockM * kBlockN * 4;
    static constexpr int kSmemRows = kSmemP + kBlockM * kBlockN * 2;
    static constexpr int kSmemLogitRows = kSmemRows + kBlockM * 4;
    static constexpr int kSmemBytes = kSmemLogitRows + sizeof(LogitRows<kBlockM>);
    static constexpr int kRowThreads = kThreads / kBlockM;
    static_assert(kBlockN == 2 * kRowThreads, "a thread has two keys of its row");
    static_assert(kThreads == kRowCopyThreads<KTile> * kBlockN, "all keys are copied in one pass");
};

/* S and P in shared memory. */
struct WideScores {
    float *s;
    char *p;

    __device__ __forceinline__ static int s_index(int part, int row, int key) {
        return (part * WideTraits::kBlockM + row) * WideTraits::kBlockN + (key ^ (row >> 1 & 1) * 8);
    }
    __device__ __forceinline__ static int p_offset(int row, int chunk) { return row * 32 + (chunk ^ (row >> 2 & 1)) * 16; }
};

template <class T>
class WideKernel {
    using Traits = WideTraits;
    static constexpr int kMTiles = Traits::kBlockM / kMmaM;
    static constexpr int kSquares = Traits::kMaxHeadDimV / (2 * kMmaN) / Traits::kWarps;

public:
    __device__ __forceinline__ WideKernel(char *smem, const fflash_prefill_params &params)
        : params_(params), smem_(smem), smem_address_(__cvta_generic_to_shared(smem)),
          scores_{reinterpret_cast<float *>(smem + Traits::kSmemS), smem + Traits::kSmemP} {}

    __device__ __forceinline__ void run() {
        const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params_);
        const Request request(params_.requests, block.request);
        const int row_end = min(int64_t(block.row_first) + Traits::kBlockM, int64_t(request.seqlen_q) * params_.pack.divisor);
        if (block.row_first >= row_end) return;
        const KeyBounds bounds(params_.mask, request);
        const TileWalk<Traits::kBlockN> walk(params_, request, bounds, block, row_end);
        const QueryRow row(params_, block, min(block.row_first + thread_row(), row_end - 1));
        if (threadIdx.x % Traits::kRowThreads == 0) logit_rows().put(thread_row(), LogitRow(params_, request, bounds, block, row));

        int tile = walk.from(params_.mask, 0);
        if (!walk.is_end(tile)) {
            copy_queries<typename Traits::QTile, T, Traits::kThreads>(smem_ + Traits::kSmemQ, params_, request, block, row_end, 32);
            load_k(request, block, walk, tile);
            while (!walk.is_end(tile)) {
                ptx::cp_async_wait<0>();
                __syncthreads();
                load_v(request, block, walk, tile);
                multiply_qk();
                __syncthreads();
                const int next = walk.from(params_.mask, tile + 1);
                load_k(request, block, walk, next);
                weigh(tile * Traits::kBlockN);
                ptx::cp_async_wait<1>();
                __syncthreads();
                multiply_pv();
                tile = next;
            }
            /* The copy of no tile after the last, and Q, whose place O takes. */
            ptx::cp_async_wait<0>();
            __syncthreads();
        }
        finish(request, block, row, row_end);
    }

private:
    /* Softmax: the row of this thread. */
    __device__ __forceinline__ static int thread_row() { return threadIdx.x / Traits::kRowThreads; }
    __device__ __forceinline__ static int warp() { return threadIdx.x / kWarpSize; }

    __device__ __forceinline__ void load_k(const Request &request, const PrefillBlock &block,
                                           const TileWalk<Traits::kBlockN> &walk, int tile) {
        if (!walk.is_end(tile))
            copy_keys<typename Traits::KTile, T, Traits::kThreads>(smem_ + Traits::kSmemK, params_.k, params_.k_strides, params_,
                                                                   request, block.kv_head, walk, tile * Traits::kBlockN,
                                                                   params_.head_dim, 32);
        ptx::cp_async_commit();
    }

    __device__ __forceinline__ void load_v(const Request &request, const PrefillBlock &block,
                                           const TileWalk<Traits::kBlockN> &walk, int tile) {
        copy_keys<typename Traits::VTile, T, Traits::kThreads>(smem_ + Traits::kSmemV, params_.v, params_.v_strides, params_,
                                                               request, block.kv_head, walk, tile * Traits::kBlockN,
                                                               params_.head_dim_v, 16);
        ptx::cp_async_commit();
    }

    /* Two summands of S: over the even and over the odd pairs of steps. */
    __device__ __forceinline__ void multiply_qk() {
        const int m = warp() % 2 * kMmaM;
        const int n = warp() / 2 % 2 * kMmaN;
        const int part = warp() / 4;
        const int lane = threadIdx.x % kWarpSize;
        const SquareReader<typename Traits::QTile> q_reader = SquareReader<typename Traits::QTile>::rows_first();
        float acc_s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        const int pairs = padded(params_.head_dim, 32) / 32;
        for (int pair = part; pair < pairs; pair += 2) {
            uint32_t rQ[2][4], rK[4];
            ptx::ldmatrix_x4(rQ[0], smem_address_ + Traits::kSmemQ + q_offset(m, pair * 4, lane));
            ptx::ldmatrix_x4(rQ[1], smem_address_ + Traits::kSmemQ + q_offset(m, pair * 4 + 2, lane));
            ptx::ldmatrix_x4(rK, smem_address_ + Traits::kSmemK + Traits::KTile::offset(n + lane % 8, pair * 4 + lane / 8));
            mma<T>(acc_s, rQ[0], rK[0], rK[1]);
            mma<T>(acc_s, rQ[1], rK[2], rK[3]);
        }
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const int row = m + half * 8 + lane_row(threadIdx.x);
            *reinterpret_cast<float2 *>(scores_.s + WideScores::s_index(part, row, n + lane_col(threadIdx.x))) =
                make_float2(acc_s[half * 2], acc_s[half * 2 + 1]);
        }
    }

    /* This lane's address in an ldmatrix.x4 of the 16x16 square of Q at row `m` and chunk `chunk`. */
    __device__ __forceinline__ static uint32_t q_offset(int m, int chunk, int lane) {
        return Traits::QTile::offset(m + lane % 16, chunk + lane / 16);
    }

    /* The online softmax of softmax.cuh, two keys to a thread; the maximum is kept unscaled, so that its weight is 1 exactly. */
    __device__ __forceinline__ void weigh(int key_first) {
        const int row = thread_row();
        const LogitRow logits = logit_rows().get(row);
        const int column = threadIdx.x % Traits::kRowThreads * 2;
        const float2 even = *reinterpret_cast<const float2 *>(scores_.s + WideScores::s_index(0, row, column));
        const float2 odd = *reinterpret_cast<const float2 *>(scores_.s + WideScores::s_index(1, row, column));
        const uint32_t seen = logits.visible<Traits::kBlockN>(params_.mask, key_first) >> column;
        const float x0 = shape_logit(even.x + odd.x, params_.logits, logits, key_first + column, seen & 1);
        const float x1 = shape_logit(even.y + odd.y, params_.logits, logits, key_first + column + 1, seen >> 1 & 1);

        const float old_max = max_;
        max_ = fmaxf(old_max, lanes_max<Traits::kRowThreads>(fmaxf(x0, x1)));
        const float shift = max_ == -INFINITY ? 0.0f : max_;
        const float rescale = ptx::ex2_approx_ftz((old_max - shift) * kLog2e);
        const float p0 = ptx::ex2_approx_ftz((x0 - shift) * kLog2e);
        const float p1 = ptx::ex2_approx_ftz((x1 - shift) * kLog2e);
        sum_ = fmaf(sum_, rescale, p0 + p1);
        *reinterpret_cast<uint32_t *>(scores_.p + WideScores::p_offset(row, column / 8) + column % 8 * 2) = pack_f32<T>(p0, p1);
        if (column == 0) row_factors()[row] = rescale;
    }

    /* O = O * factors + P V. */
    __device__ __forceinline__ void multiply_pv() {
        const int lane = threadIdx.x % kWarpSize;
        uint32_t rP[kMTiles][4];
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
            ptx::ldmatrix_x4(rP[m], smem_address_ + Traits::kSmemP + WideScores::p_offset(m * kMmaM + lane % 16, lane / 16));
        rescale_o();
        const SquareReader<typename Traits::VTile> v_reader = SquareReader<typename Traits::VTile>::rows_first();
#pragma unroll
        for (int square = 0; square < kSquares; ++square) {
            const int column = square_column(square);
            if (column >= params_.head_dim_v) break;
            uint32_t rV[4];
            ptx::ldmatrix_x4_trans(rV, v_reader.address(smem_address_ + Traits::kSmemV, 0, column));
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                mma<T>(acc_o_[m][2 * square], rP[m], rV[0], rV[1]);
                mma<T>(acc_o_[m][2 * square + 1], rP[m], rV[2], rV[3]);
            }
        }
    }

    __device__ __forceinline__ void rescale_o() {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                const float factor = row_factors()[m * kMmaM + half * 8 + lane_row(threadIdx.x)];
#pragma unroll
                for (int n = 0; n < 2 * kSquares; ++n) {
                    acc_o_[m][n][half * 2] *= factor;
                    acc_o_[m][n][half * 2 + 1] *= factor;
                }
            }
    }

    /* Normalises O and stores it and, if asked for, the log-sum-exp. */
    __device__ __forceinline__ void finish(const Request &request, const PrefillBlock &block, QueryRow row, int row_end) {
        const float sum = lanes_sum<Traits::kRowThreads>(sum_);
        const RowEnd end(params_.logits, row.head, max_ * kLog2e, sum);
        if (threadIdx.x % Traits::kRowThreads == 0) {
            row_factors()[thread_row()] = end.factor;
            if (params_.lse != nullptr && block.row_first + thread_row() < row_end)
                *lse_of(params_, request, row) = end.lse;
        }
        __syncthreads();
        rescale_o();
        if (kTakesF32<T> && params_.is_f32) {
            store_f32(request, block, row_end);
        } else {
            stage_o();
            __syncthreads();
            store_staged<typename Traits::QTile, T, Traits::kThreads>(smem_ + Traits::kSmemQ, params_, request, block, row_end);
        }
    }

    /* 4 lanes store 32 bytes of a row at a time. */
    __device__ __forceinline__ void store_f32(const Request &request, const PrefillBlock &block, int row_end) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                const int row = block.row_first + m * kMmaM + half * 8 + lane_row(threadIdx.x);
                if (row >= row_end) continue;
                float *gO = static_cast<float *>(params_.o) + row_index(params_.o_strides, request, QueryRow(params_, block, row));
#pragma unroll
                for (int n = 0; n < 2 * kSquares; ++n) {
                    const int column = square_column(n / 2) + n % 2 * kMmaN;
                    if (column < params_.head_dim_v)
                        *reinterpret_cast<float2 *>(gO + column + lane_col(threadIdx.x)) =
                            make_float2(acc_o_[m][n][half * 2], acc_o_[m][n][half * 2 + 1]);
                }
            }
    }

    __device__ __forceinline__ void stage_o() {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half)
#pragma unroll
                for (int n = 0; n < 2 * kSquares; ++n) {
                    const int row = m * kMmaM + half * 8 + lane_row(threadIdx.x);
                    const int chunk = square_column(n / 2) / kChunkElements + n % 2;
                    *reinterpret_cast<uint32_t *>(smem_ + Traits::kSmemQ + Traits::QTile::offset(row, chunk) + lane_col(threadIdx.x) * 2) =
                        pack_f32<T>(acc_o_[m][n][half * 2], acc_o_[m][n][half * 2 + 1]);
                }
    }

    /* The first column of this warp's square. */
    __device__ __forceinline__ static int square_column(int square) { return (square * Traits::kWarps + warp()) * 2 * kMmaN; }

    /* One f32 for each row: what O is multiplied by. */
    __device__ __forceinline__ float *row_factors() const { return reinterpret_cast<float *>(smem_ + Traits::kSmemRows); }

    /* What the options need to know of each row. */
    __device__ __forceinline__ LogitRows<Traits::kBlockM> &logit_rows() const {
        return *reinterpret_cast<LogitRows<Traits::kBlockM> *>(smem_ + Traits::kSmemLogitRows);
    }

    const fflash_prefill_params &params_;
    char *smem_;
    uint32_t smem_address_;
    WideScores scores_;
    float max_ = -INFINITY;
    float sum_ = 0.0f;
    float acc_o_[kMTiles][2 * kSquares][4] = {};
};

}  // namespace fflash

#define FFLASH_PREFILL_WIDE(symbol, Element)                                                                         \
    extern "C" __global__ void __launch_bounds__(fflash::WideTraits::kThreads, fflash::WideTraits::kMinBlocks)       \
        symbol(const __grid_constant__ fflash_prefill_params params) {                                               \
        extern __shared__ __align__(128) char smem[];                                                                \
        fflash::WideKernel<fflash::Element>(smem, params).run();                                                     \
    }
