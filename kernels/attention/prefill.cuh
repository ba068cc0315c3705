/*
 * Fused attention over whole sequences: O = softmax(mask(softcap(Q K^T * scale))) V, with optional log-sum-exp.
 *
 * Grid    block.cuh
 * CTA     block_m rows of one group of heads; loops over the key tiles that some row of it sees.
 * Warp    block_m / warps rows, all keys, all of head_dim: a row's softmax never leaves its warp.
 *
 * Shared memory (traits.cuh), bytes:       K      V      Q   total
 *   head_dim  64: tiles of 64 keys      16384  16384  16384   49152
 *   head_dim 128: tiles of 32 keys      16384  16384  32768   65536
 *   head_dim 256: tiles of 32 keys      32768  32768  (both)  65536   Q passes through to registers first
 * O leaves through shared memory too, to be stored in whole lines: through Q's bytes.
 *
 * Pipeline, two buffers of K and V. Step t:
 *   wait for this thread's copies of tile t
 *   barrier: everybody's copies of tile t have landed, and all warps are done with step t - 1, whose buffers may be refilled
 *   S = Q K(t)^T
 *   issue the copies of tile t + 1, which have the rest of this step to land
 *   P = softmax step of S; O += P V(t)
 * Steps over tiles that all rows see in full carry no mask; the others, and all under a softcap, take the general step.
 *
 * Preconditions (checked by the host): head_dim contiguous; pointers and strides multiples of 16 bytes; seqlens in
 * [0, kMaxSeqlen]; window bounds non-negative; num_qo_heads = group_size * num_kv_heads; grid below 2^31.
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
#include "logits.cuh"
#include "mask.cuh"
#include "row_copy.cuh"
#include "seqlen.cuh"
#include "softmax.cuh"
#include "traits.cuh"

namespace fflash {

/* The products and the softmax of one warp. */
template <class Traits>
class PrefillWarp {
    using T = typename Traits::Element;
    static constexpr int kHeadDim = Traits::kHeadDim;
    static constexpr int kMTiles = Traits::kMTiles;
    static constexpr int kNTiles = Traits::kBlockN / kMmaN;
    static constexpr int kOTiles = kHeadDim / kMmaN;
    static constexpr int kQKSteps = kHeadDim / kMmaK;
    static constexpr int kPVSteps = Traits::kBlockN / kMmaK;

public:
    __device__ __forceinline__ PrefillWarp(uint32_t sQ)
        : sQ_(sQ + warp_row() * Traits::QTile::kRowBytes),
          q_reader_(SquareReader<typename Traits::QTile>::rows_first()),
          k_reader_(SquareReader<typename Traits::KvTile>::columns_first()),
          v_reader_(SquareReader<typename Traits::KvTile>::rows_first()) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int n = 0; n < kOTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc_o_[m][n][i] = 0.0f;
    }

    /* The first of this warp's rows, within the block. */
    __device__ __forceinline__ static int warp_row(uint32_t thread = threadIdx.x) {
        return thread / kWarpSize * Traits::kWarpRows;
    }

    /* Moves the part of Q that stays in registers there. */
    __device__ __forceinline__ void hold_q() {
#pragma unroll
        for (int k = 0; k < Traits::kHeldQSteps; ++k) read_q(tSrQ_[k], k);
    }

    /* S = Q K^T of the tile at shared address sK. */
    __device__ __forceinline__ void multiply_qk(uint32_t sK) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc_s_[m][n][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < kQKSteps; ++k) {
            uint32_t(&rQ)[kMTiles][4] = tSrQ_[min(k, Traits::kHeldQSteps)];
            if (k >= Traits::kHeldQSteps) read_q(rQ, k);
#pragma unroll
            for (int n = 0; n < kNTiles; n += 2) {
                uint32_t rK[4];
                ptx::ldmatrix_x4(rK, k_reader_.address(sK, n * kMmaN, k * kMmaK));
#pragma unroll
                for (int m = 0; m < kMTiles; ++m) {
                    mma<T>(acc_s_[m][n], rQ[m], rK[0], rK[1]);
                    mma<T>(acc_s_[m][n + 1], rQ[m], rK[2], rK[3]);
                }
            }
        }
    }

    /* Scale, softcap and mask for S of the tile that starts at `key`. */
    __device__ __forceinline__ void shape_logits(const fflash_prefill_params &params, const KeyBounds &bounds,
                                                 int row_first, int key) {
        if (transforms_logits(params.logits)) transform_logits(acc_s_, params.logits);
        /* Read anew, so that no row or column of the mask takes a register of the plain steps. */
        const uint32_t thread = ptx::thread_index_x();
        mask_logits(acc_s_, bounds, params.pack, row_first + warp_row(thread) + lane_row(thread), key + lane_col(thread));
    }

    /* Turns S into P, rounded to the element type, and rescales O to the new maxima. */
    __device__ __forceinline__ void weigh(float exponent_scale) {
        float rescale[kMTiles][kLaneRows];
        softmax_.update(acc_s_, exponent_scale, rescale);
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int k = 0; k < kPVSteps; ++k) pack_operand_a<T>(tOrP_[m][k], acc_s_[m][2 * k], acc_s_[m][2 * k + 1]);
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int n = 0; n < kOTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc_o_[m][n][i] *= rescale[m][i / 2];
    }

    /* O += P V of the tile at shared address sV. */
    __device__ __forceinline__ void multiply_pv(uint32_t sV) {
#pragma unroll
        for (int k = 0; k < kPVSteps; ++k)
#pragma unroll
            for (int n = 0; n < kOTiles; n += 2) {
                uint32_t rV[4];
                ptx::ldmatrix_x4_trans(rV, v_reader_.address(sV, k * kMmaK, n * kMmaN));
#pragma unroll
                for (int m = 0; m < kMTiles; ++m) {
                    mma<T>(acc_o_[m][n], tOrP_[m][k], rV[0], rV[1]);
                    mma<T>(acc_o_[m][n + 1], tOrP_[m][k], rV[2], rV[3]);
                }
            }
    }

    /* Normalises O, stores it and, if asked for, the log-sum-exp. Q's bytes in shared memory must be free. */
    __device__ __forceinline__ void store(char *smem_q, const fflash_prefill_params &params) {
        /* Found anew: two divisions cost less than registers held across the loop. */
        const PrefillBlock block = PrefillBlock::of<Traits::kBlockM>(params);
        const Request request(params.requests, block.request);
        softmax_.finish();
        using Tile = typename Traits::QTile;
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half) {
                const int tile_row = warp_row() + m * kMmaM + half * 8 + lane_row(threadIdx.x);
                const QueryRow row(params, block, block.row_first + tile_row);
                const RowEnd end(params.logits, row.head, softmax_.max[m][half], softmax_.sum[m][half]);
#pragma unroll
                for (int n = 0; n < kOTiles; ++n) {
                    const float(&o)[4] = acc_o_[m][n];
                    const uint32_t pair = pack_f32<T>(o[half * 2] * end.factor, o[half * 2 + 1] * end.factor);
                    *reinterpret_cast<uint32_t *>(smem_q + Tile::offset(tile_row, n) + lane_col(threadIdx.x) * 2) = pair;
                }
                if (params.lse != nullptr && row.query < request.seqlen_q && threadIdx.x % kRowLanes == 0)
                    *lse_of(params, request, row) = end.lse;
            }
        __syncwarp();
        store_rows(smem_q, params, block, request);
    }

private:
    /* Copies this warp's rows of O from shared to global memory, 16 bytes per lane, whole lines per row. */
    __device__ __forceinline__ static void store_rows(const char *smem_q, const fflash_prefill_params &params,
                                                      const PrefillBlock &block, const Request &request) {
        using Tile = typename Traits::QTile;
        constexpr int kRowsPerPass = kWarpSize / Tile::kChunks;
        static_assert(kRowsPerPass * Tile::kChunks == kWarpSize, "a warp stores whole rows");
        const int lane = threadIdx.x % kWarpSize;
        const int chunk = lane % Tile::kChunks;
        if (chunk * kChunkElements >= params.head_dim_v) return;
        T *o = static_cast<T *>(params.o) + chunk * kChunkElements;
#pragma unroll
        for (int pass = 0; pass < Traits::kWarpRows / kRowsPerPass; ++pass) {
            const int tile_row = warp_row() + pass * kRowsPerPass + lane / Tile::kChunks;
            const QueryRow row(params, block, block.row_first + tile_row);
            if (row.query < request.seqlen_q)
                *reinterpret_cast<uint4 *>(o + row_index(params.o_strides, request, row)) =
                    *reinterpret_cast<const uint4 *>(smem_q + Tile::offset(tile_row, chunk));
        }
    }

    __device__ __forceinline__ void read_q(uint32_t (&rQ)[kMTiles][4], int k) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) ptx::ldmatrix_x4(rQ[m], q_reader_.address(sQ_, m * kMmaM, k * kMmaK));
    }

    uint32_t sQ_;
    SquareReader<typename Traits::QTile> q_reader_;
    SquareReader<typename Traits::KvTile> k_reader_;
    SquareReader<typename Traits::KvTile> v_reader_;
    OnlineSoftmax<kMTiles> softmax_;
    uint32_t tSrQ_[Traits::kHeldQSteps + 1][kMTiles][4]; /* the last is read anew for every step not held */
    uint32_t tOrP_[kMTiles][kPVSteps][4];
    float acc_s_[kMTiles][kNTiles][4];
    float acc_o_[kMTiles][kOTiles][4];
};

/* The K and V tiles of a CTA: double buffers in shared memory and the copies into them. */
template <class Traits>
class KvPipeline {
    using T = typename Traits::Element;
    using Tile = typename Traits::KvTile;
    using Loader = TileLoader<Tile, Traits::kThreads>;

public:
    /* Of a row's chunks those past head_dim do not exist. */
    __device__ __forceinline__ KvPipeline(uint32_t smem, const fflash_prefill_params &params, const Request &request,
                                          int kv_head, const TileRange &tiles)
        : smem_(smem),
          key_first_(tiles.key_first),
          key_end_(Loader::column() < params.head_dim ? tiles.key_end : tiles.key_first),
          k_(head(params.k, params.k_strides, request, kv_head), params.k_strides.seqlen, tiles.first * Tile::kRows),
          v_(head(params.v, params.v_strides, request, kv_head), params.v_strides.seqlen, tiles.first * Tile::kRows) {}

    __device__ __forceinline__ uint32_t sK(int tile) const { return smem_ + Traits::kSmemK + (tile & 1) * Tile::kBytes; }
    __device__ __forceinline__ uint32_t sV(int tile) const { return smem_ + Traits::kSmemV + (tile & 1) * Tile::kBytes; }

    /* Starts the copy of a tile, as one group. Tiles come in order; past the last only zeros are written. */
    __device__ __forceinline__ void load(int tile) {
        const int key = tile * Tile::kRows;
        k_.load_next(sK(tile), key_first_ - key, key_end_ - key);
        v_.load_next(sV(tile), key_first_ - key, key_end_ - key);
        ptx::cp_async_commit();
    }

private:
    /* The first key of the request. */
    __device__ __forceinline__ static const T *head(const void *tensor, const fflash_strides4 &strides,
                                                    const Request &request, int kv_head) {
        return static_cast<const T *>(tensor) + request.index * strides.batch + request.k_row * strides.seqlen +
               kv_head * strides.heads;
    }

    static_assert(Traits::kStages == 2, "the buffer of a tile is its parity");
    uint32_t smem_;
    int key_first_;
    int key_end_;
    Loader k_;
    Loader v_;
};

/* Step `tile` of the pipeline described at the top. */
template <bool kGeneral, class Traits>
__device__ __forceinline__ void prefill_step(PrefillWarp<Traits> &warp, KvPipeline<Traits> &kv, int tile,
                                             const fflash_prefill_params &params, const KeyBounds &bounds,
                                             int row_first) {
    ptx::cp_async_wait<0>();
    __syncthreads();
    warp.multiply_qk(kv.sK(tile));
    /* Issued here and not above, so that the first reads of K do not queue behind the copies. */
    kv.load(tile + 1);
    if constexpr (kGeneral) warp.shape_logits(params, bounds, row_first, tile * Traits::kBlockN);
    warp.weigh(exponent_scale_of(params.logits));
    warp.multiply_pv(kv.sV(tile));
}

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

    PrefillWarp<Traits> warp(smem_base + Traits::kSmemQ);
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
        kv.load(tiles.first);

        for (int tile = tiles.first; tile < tiles.end; ++tile) {
            for (; tile >= tiles.plain_first && tile < tiles.plain_end; ++tile)
                prefill_step<false>(warp, kv, tile, params, bounds, block.row_first);
            if (tile < tiles.end) prefill_step<true>(warp, kv, tile, params, bounds, block.row_first);
        }
        /* Where O goes over the tiles, the copy of zeros past the last must land and every warp be done first. */
        if constexpr (Traits::kQUnderTiles) {
            ptx::cp_async_wait<0>();
            __syncthreads();
        }
    }
    warp.store(smem + Traits::kSmemQ, params);
}

}  // namespace fflash

/* One entry: its launch bounds follow from the traits; the host launches kThreads threads with kSmemBytes. */
#define FFLASH_PREFILL(symbol, Element, kHeadDim)                                                    \
    using symbol##_traits = fflash::PrefillTraits<fflash::Element, kHeadDim>;                        \
    extern "C" __global__ void __launch_bounds__(symbol##_traits::kThreads, symbol##_traits::kMinBlocks) \
        symbol(const __grid_constant__ fflash_prefill_params params) {                               \
        fflash::prefill<symbol##_traits>(params);                                                    \
    }
