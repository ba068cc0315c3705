/*
 * Fused attention for heads too wide for the registers of one warp, with every option: O = softmax(mask(logits(Q K^T))) V.
 *
 * Grid    block.cuh
 * CTA     32 rows, 8 warps; loops over tiles of 16 keys.
 * Warp    S: all rows and 8 keys, over a quarter of head_dim, whose columns of Q stay in registers. Softmax: 4 rows, 8 lanes to
 *         a row. O: all rows, an eighth of head_dim_v.
 *
 * Shared memory, bytes: Q 36864 (O leaves through it), K 24576, V 16384, S 16384 (two tiles, four summands), P 2048 and factors
 * of rows 256 (two tiles); 96512.
 *
 * What a warp multiplies of K and V no other warp needs: it copies that itself, into a slice of its own, without a barrier. Between
 * two barriers three tiles are worked at:
 *   O = O * factors + P(t - 1) V(t - 1)     then the copy of V(t) is started;
 *   P(t) = softmax step of S(t)             element by element, with the factors for O;
 *   S(t + 1) = Q K(t + 1)^T                 then the copy of K(t + 2) is started.
 * S, P and factors lie in one of two buffers in turn: what is written was last read before the barrier. K(t + 1) and V(t) are each
 * the older of two groups of copies in flight.
 *
 * Banks: S is a row of 16 words per query whose halves swap places in every other pair of rows: fragments store 4 rows
 * of 8 words, 8 lanes read a row of 16, and either covers 32 banks once. P swaps halves every 4 rows, for ldmatrix. Slices:
 * see WideSlice.
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

/* Columns that steps of `unit` read: what lies past head_dim is zero. */
__device__ __forceinline__ int padded(int head_dim, int unit) { return (head_dim + unit - 1) / unit * unit; }

/*
 * Columns of K or V that one warp copies and reads, kChunks_ chunks to a row of whole lines. A 16-byte chunk c of row r is stored at chunk
 * c ^ rotated(r), where the lowest bit of r decides between the halves of a line.
 *
 * Banks: ldmatrix reads 8 rows of one chunk, for which rotated(r) differs. cp.async writes 4 chunks of a half of a line in each of
 * two neighbouring rows, which go to different halves.
 */
template <int kRows_, int kChunks_>
struct WideSlice {
    static constexpr int kRows = kRows_;
    static constexpr int kChunks = kChunks_;
    static constexpr int kRowBytes = (kChunks * kChunkBytes + 127) / 128 * 128;
    static constexpr int kBytes = kRows * kRowBytes;

    __device__ __forceinline__ static uint32_t offset(int row, int chunk) {
        const int rotated = row % 2 * 4 + row % kSwizzleRows / 2;
        return row * kRowBytes + (chunk ^ rotated) * kChunkBytes;
    }
};

struct WideTraits {
    static constexpr int kBlockM = 32;
    static constexpr int kBlockN = 16;
    static constexpr int kWarps = 8;
    static constexpr int kThreads = kWarps * kWarpSize;
    static constexpr int kMaxHeadDim = 576;
    static constexpr int kMaxHeadDimV = 512;
    static constexpr int kParts = 4; /* of head_dim, each with a summand of S */
    static constexpr int kSteps = kMaxHeadDim / kMmaK / kParts;
    static constexpr int kSquares = kMaxHeadDimV / (2 * kMmaN) / kWarps;
    using QTile = SmemTile<kBlockM, kMaxHeadDim>;
    using KSlice = WideSlice<kMmaN, kSteps * 2>;
    using VSlice = WideSlice<kBlockN, kSquares * 2>;
    static constexpr int kScoresBytes = kParts * kBlockM * kBlockN * 4;
    static constexpr int kWeightsBytes = kBlockM * kBlockN * 2;
    static constexpr int kSmemQ = 0;
    static constexpr int kSmemK = kSmemQ + QTile::kBytes;
    static constexpr int kSmemV = kSmemK + kWarps * KSlice::kBytes;
    static constexpr int kSmemS = kSmemV + kWarps * VSlice::kBytes;
    static constexpr int kSmemP = kSmemS + 2 * kScoresBytes;
    static constexpr int kSmemFactors = kSmemP + 2 * kWeightsBytes;
    static constexpr int kSmemBytes = kSmemFactors + 2 * kBlockM * 4;
    static constexpr int kRowThreads = kThreads / kBlockM; /* softmax */
    static constexpr int kCopyThreads = kWarpSize / kSwizzleRows; /* to a row of a slice */
    static_assert(kBlockN == 2 * kRowThreads, "a thread has two keys of its row");
    static_assert(kWarps == kParts * (kBlockN / kMmaN), "a warp for each part of S");
    static_assert(kSteps * kParts * kMmaK == kMaxHeadDim && kSquares * kWarps * 2 * kMmaN == kMaxHeadDimV, "parts are whole");
};

template <class T>
class WideKernel {
    using Traits = WideTraits;
    using QTile = Traits::QTile;
    using KSlice = Traits::KSlice;
    using VSlice = Traits::VSlice;
    static constexpr int kMTiles = Traits::kBlockM / kMmaM;

public:
    __device__ __forceinline__ WideKernel(char *smem, const fflash_prefill_params &params)
        : params_(params), smem_(smem), smem_address_(__cvta_generic_to_shared(smem)),
          k_slice_(Traits::kSmemK + warp() * KSlice::kBytes), v_slice_(Traits::kSmemV + warp() * VSlice::kBytes),
          steps_((uint32_t(params.head_dim) + kMmaK * Traits::kParts - 1) / (kMmaK * Traits::kParts)),
          squares_((uint32_t(params.head_dim_v) + 2 * kMmaN * Traits::kWarps - 1) / (2 * kMmaN * Traits::kWarps)) {}

    __device__ __forceinline__ void run() {
        const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params_);
        const Request request(params_.requests, block.request);
        const int row_end = min(int64_t(block.row_first) + Traits::kBlockM, int64_t(request.seqlen_q) * params_.pack.divisor);
        if (block.row_first >= row_end) return;
        const KeyBounds bounds(params_.mask, request);
        const TileWalk<Traits::kBlockN> walk(params_, request, bounds, block, row_end);
        const QueryRow row(params_, block, min(block.row_first + thread_row(), row_end - 1));
        const LogitRow logits(params_, block, request.q_row, row, RowPlace(params_.logits, bounds, block.request, row));

        const int first = walk.from(params_.mask, 0);
        int buffer = 0;
        if (!walk.is_end(first)) {
            copy_queries<QTile, T, Traits::kThreads>(smem_ + Traits::kSmemQ, params_, request, block, row_end,
                                                     padded(params_.head_dim, kMmaK * Traits::kParts));
            load_k(request, block, walk, first);
            ptx::cp_async_wait<0>();
            __syncthreads();
            hold_q();
            multiply_qk(buffer);
            int tile = first;
            int next = walk.from(params_.mask, tile + 1);
            load_k(request, block, walk, next);
            for (;;) {
                __syncthreads();
                if (tile != first) {
                    await_copy();
                    multiply_pv(buffer ^ 1);
                }
                load_v(request, block, walk, tile);
                weigh(logits, tile * Traits::kBlockN, buffer);
                if (walk.is_end(next)) break;
                await_copy();
                multiply_qk(buffer ^ 1);
                tile = next;
                next = walk.from(params_.mask, tile + 1);
                load_k(request, block, walk, next);
                buffer ^= 1;
            }
            ptx::cp_async_wait<0>();
            __syncthreads();
            multiply_pv(buffer);
        }
        finish(request, block, row, row_end, buffer ^ 1);
    }

private:
    /* Softmax: the row of this thread. */
    __device__ __forceinline__ static int thread_row() { return threadIdx.x / Traits::kRowThreads; }
    __device__ __forceinline__ static int warp() { return threadIdx.x / kWarpSize; }
    __device__ __forceinline__ static int lane() { return threadIdx.x % kWarpSize; }
    /* The part of S of this warp: 8 keys, and steps over head_dim. */
    __device__ __forceinline__ static int first_key() { return warp() % 2 * kMmaN; }
    __device__ __forceinline__ static int part() { return warp() / 2; }
    __device__ __forceinline__ int first_step() const { return part() * steps_; }

    /* Waits for the older of two groups of copies, which the warp then sees. */
    __device__ __forceinline__ static void await_copy() {
        ptx::cp_async_wait<1>();
        __syncwarp();
    }

    __device__ __forceinline__ void load_k(const Request &request, const PrefillBlock &block,
                                           const TileWalk<Traits::kBlockN> &walk, int tile) {
        if (!walk.is_end(tile))
            copy_slice<KSlice>(k_slice_, params_.k, params_.k_strides, request, block, walk,
                               tile * Traits::kBlockN + first_key(), first_step() * 2, steps_ * 2, params_.head_dim);
        ptx::cp_async_commit();
    }

    __device__ __forceinline__ void load_v(const Request &request, const PrefillBlock &block,
                                           const TileWalk<Traits::kBlockN> &walk, int tile) {
        copy_slice<VSlice>(v_slice_, params_.v, params_.v_strides, request, block, walk, tile * Traits::kBlockN,
                           first_square() * 2, squares_ * 2, params_.head_dim_v);
        ptx::cp_async_commit();
    }

    /*
     * Starts the copy of `chunks` chunks from `first` on, of rows of K or V of `columns` columns, for the keys from `key` on. Chunks
     * past them up to a multiple of 4, and keys that no row wants, are zero.
     */
    template <class Slice>
    __device__ __forceinline__ void copy_slice(int slice, const void *tensor, const fflash_strides4 &strides,
                                               const Request &request, const PrefillBlock &block,
                                               const TileWalk<Traits::kBlockN> &walk, int key, int first, int chunks,
                                               int columns) {
        __syncwarp(); /* all lanes have read what was there */
        const int limit = min(chunks, columns / kChunkElements - first);
#pragma unroll
        for (int rows = 0; rows < Slice::kRows; rows += kSwizzleRows) {
            const int row = rows + lane() / Traits::kCopyThreads;
            const KeyPlace place(params_.requests, request, key + row, walk.wants(key + row));
            const int64_t index = place.index(strides, block.kv_head) + first * kChunkElements;
#pragma unroll
            for (int begin = 0; begin < Slice::kChunks; begin += Traits::kCopyThreads) {
                if (begin > 0 && begin >= chunks) break;
                const int chunk = begin + lane() % Traits::kCopyThreads;
                copy_chunk<T>(smem_ + slice + Slice::offset(row, chunk), tensor, index + chunk * kChunkElements,
                              place.exists && chunk < limit, params_.is_f32);
            }
        }
    }

    /* Keeps the columns of Q of this warp's steps, and zeros for steps past them. */
    __device__ __forceinline__ void hold_q() {
#pragma unroll
        for (int step = 0; step < Traits::kSteps; ++step)
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                if (step == 0 || step < steps_) {
                    const int chunk = (first_step() + step) * 2;
                    ptx::ldmatrix_x4(q_[step][m], smem_address_ + Traits::kSmemQ +
                                                      QTile::offset(m * kMmaM + lane() % 16, chunk + lane() / 16));
                } else {
#pragma unroll
                    for (int i = 0; i < 4; ++i) q_[step][m][i] = 0;
                }
            }
    }

    /* This warp's summand of S. */
    __device__ __forceinline__ void multiply_qk(int buffer) {
        float acc_s[kMTiles][4] = {};
        const uint32_t k = smem_address_ + k_slice_;
#pragma unroll
        for (int step = 0; step < Traits::kSteps; step += 2) {
            if (step > 0 && step >= steps_) break;
            uint32_t rK[4];
            ptx::ldmatrix_x4(rK, k + KSlice::offset(lane() % 8, step * 2 + lane() / 8));
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                mma<T>(acc_s[m], q_[step][m], rK[0], rK[1]);
                if (step + 1 < Traits::kSteps) mma<T>(acc_s[m], q_[step + 1][m], rK[2], rK[3]);
            }
        }
        float *s = scores(buffer);
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                const int row = m * kMmaM + half * 8 + lane_row(threadIdx.x);
                ptx::st_shared_8(s + s_index(part(), row, first_key() + lane_col(threadIdx.x)), acc_s[m][half * 2],
                                 acc_s[m][half * 2 + 1]);
            }
    }

    /* The online softmax of softmax.cuh, two keys to a thread; the maximum is kept unscaled, so that its weight is 1 exactly. */
    __device__ __forceinline__ void weigh(const LogitRow &logits, int key_first, int buffer) {
        const int row = thread_row();
        const int column = threadIdx.x % Traits::kRowThreads * 2;
        const float *s = scores(buffer);
        float2 product = {0.0f, 0.0f};
#pragma unroll
        for (int part = 0; part < Traits::kParts; ++part) {
            const float2 summand = *reinterpret_cast<const float2 *>(s + s_index(part, row, column));
            product.x += summand.x;
            product.y += summand.y;
        }
        const uint32_t seen = logits.visible<Traits::kBlockN>(params_.mask, key_first) >> column;
        const float x0 = shape_logit(product.x, params_.logits, logits, key_first + column, seen & 1);
        const float x1 = shape_logit(product.y, params_.logits, logits, key_first + column + 1, seen >> 1 & 1);

        const float old_max = max_;
        max_ = fmaxf(old_max, lanes_max<Traits::kRowThreads>(fmaxf(x0, x1)));
        const float shift = max_ == -INFINITY ? 0.0f : max_;
        const float rescale = ptx::ex2_approx_ftz((old_max - shift) * kLog2e);
        const float p0 = ptx::ex2_approx_ftz((x0 - shift) * kLog2e);
        const float p1 = ptx::ex2_approx_ftz((x1 - shift) * kLog2e);
        sum_ = fmaf(sum_, rescale, p0 + p1);
        *reinterpret_cast<uint32_t *>(smem_ + weights(buffer) + p_offset(row, column / 8) + column % 8 * 2) = pack_f32<T>(p0, p1);
        if (column == 0) row_factors(buffer)[row] = rescale;
    }

    /* O = O * factors + P V. */
    __device__ __forceinline__ void multiply_pv(int buffer) {
        uint32_t rP[kMTiles][4];
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
            ptx::ldmatrix_x4(rP[m], smem_address_ + weights(buffer) + p_offset(m * kMmaM + lane() % 16, lane() / 16));
        rescale_o(buffer);
        const uint32_t v = smem_address_ + v_slice_;
#pragma unroll
        for (int square = 0; square < Traits::kSquares; ++square) {
            if (square > 0 && square >= squares_) break;
            uint32_t rV[4];
            ptx::ldmatrix_x4_trans(rV, v + VSlice::offset(lane() % 16, square * 2 + lane() / 16));
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                mma<T>(acc_o_[m][2 * square], rP[m], rV[0], rV[1]);
                mma<T>(acc_o_[m][2 * square + 1], rP[m], rV[2], rV[3]);
            }
        }
    }

    __device__ __forceinline__ void rescale_o(int buffer) {
        float factors[kMTiles][kLaneRows];
        bool keeps = true;
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                factors[m][half] = row_factors(buffer)[m * kMmaM + half * 8 + lane_row(threadIdx.x)];
                keeps &= factors[m][half] == 1.0f;
            }
        if (__all_sync(kFullWarp, keeps)) return; /* the usual case: no maximum grew */
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half)
#pragma unroll
                for (int n = 0; n < 2 * Traits::kSquares; ++n) {
                    acc_o_[m][n][half * 2] *= factors[m][half];
                    acc_o_[m][n][half * 2 + 1] *= factors[m][half];
                }
    }

    /* Normalises O, by factors in `buffer`, and stores it and, if asked for, the log-sum-exp. */
    __device__ __forceinline__ void finish(const Request &request, const PrefillBlock &block, QueryRow row, int row_end, int buffer) {
        const float sum = lanes_sum<Traits::kRowThreads>(sum_);
        const RowEnd end(params_.logits, row.head, max_ * kLog2e, sum);
        if (threadIdx.x % Traits::kRowThreads == 0) {
            row_factors(buffer)[thread_row()] = end.factor;
            if (params_.lse != nullptr && block.row_first + thread_row() < row_end)
                *lse_of(params_, request, row) = end.lse;
        }
        __syncthreads();
        rescale_o(buffer);
        if (kTakesF32<T> && params_.is_f32) {
            store_f32(request, block, row_end);
        } else {
            stage_o();
            __syncthreads();
            store_staged<QTile, T, Traits::kThreads>(smem_ + Traits::kSmemQ, params_, request, block, row_end);
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
                for (int n = 0; n < 2 * Traits::kSquares; ++n) {
                    if (n > 1 && n >= 2 * squares_) break;
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
                for (int n = 0; n < 2 * Traits::kSquares; ++n) {
                    if (n > 1 && n >= 2 * squares_) break;
                    const int row = m * kMmaM + half * 8 + lane_row(threadIdx.x);
                    const int chunk = square_column(n / 2) / kChunkElements + n % 2;
                    *reinterpret_cast<uint32_t *>(smem_ + Traits::kSmemQ + QTile::offset(row, chunk) + lane_col(threadIdx.x) * 2) =
                        pack_f32<T>(acc_o_[m][n][half * 2], acc_o_[m][n][half * 2 + 1]);
                }
    }

    /* Of 16 columns of O. */
    __device__ __forceinline__ int first_square() const { return warp() * squares_; }
    __device__ __forceinline__ int square_column(int square) const { return (first_square() + square) * 2 * kMmaN; }

    __device__ __forceinline__ static int s_index(int part, int row, int key) {
        return (part * Traits::kBlockM + row) * Traits::kBlockN + (key ^ (row >> 1 & 1) * 8);
    }
    __device__ __forceinline__ static int p_offset(int row, int chunk) { return row * 32 + (chunk ^ (row >> 2 & 1)) * 16; }

    __device__ __forceinline__ float *scores(int buffer) const {
        return reinterpret_cast<float *>(smem_ + Traits::kSmemS + buffer * Traits::kScoresBytes);
    }
    /* Where P is. */
    __device__ __forceinline__ static int weights(int buffer) { return Traits::kSmemP + buffer * Traits::kWeightsBytes; }
    /* One f32 for each row: what O is multiplied by. */
    __device__ __forceinline__ float *row_factors(int buffer) const {
        return reinterpret_cast<float *>(smem_ + Traits::kSmemFactors) + buffer * Traits::kBlockM;
    }

    const fflash_prefill_params &params_;
    char *smem_;
    uint32_t smem_address_;
    int k_slice_, v_slice_;
    int steps_;   /* of 16 columns of head_dim in each part; at least one */
    int squares_; /* of 16 columns of head_dim_v of each warp; at least one */
    uint32_t q_[Traits::kSteps][kMTiles][4];
    float max_ = -INFINITY;
    float sum_ = 0.0f;
    float acc_o_[kMTiles][2 * Traits::kSquares][4] = {};
};

}  // namespace fflash

#define FFLASH_PREFILL_WIDE(symbol, Element)                                               \
    extern "C" __global__ void __launch_bounds__(fflash::WideTraits::kThreads, 1)          \
        symbol(const __grid_constant__ fflash_prefill_params params) {                     \
        extern __shared__ __align__(128) char smem[];                                      \
        fflash::WideKernel<fflash::Element>(smem, params).run();                           \
    }
