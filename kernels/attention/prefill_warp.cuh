/*
 * What one warp of the prefill kernels computes: the two products, the softmax between them, and the registers they need.
 *
 * A lane's registers: O, kMTiles * head_dim / 2; S of the tile at hand, kMTiles * block_n / 2; P of the tile before, half of
 * that; the columns of Q that are held, kMTiles * held_q / 4.
 */
#pragma once

#include <stdint.h>

#include "../common/fragment.cuh"
#include "../common/ptx.cuh"
#include "../common/smem_tile.cuh"
#include "../common/types.cuh"
#include "mask.cuh"
#include "softmax.cuh"
#include "traits.cuh"

namespace fflash {

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
    /* S of one tile. */
    using Logits = float[kMTiles][kNTiles][4];

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
                for (int i = 0; i < 4; ++i) acc_o[m][n][i] = 0.0f;
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
    __device__ __forceinline__ void multiply_qk(Logits &acc_s, uint32_t sK) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc_s[m][n][i] = 0.0f;
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
                    mma<T>(acc_s[m][n], rQ[m], rK[0], rK[1]);
                    mma<T>(acc_s[m][n + 1], rQ[m], rK[2], rK[3]);
                }
            }
        }
    }

    /* Scale, softcap and mask for S of the tile that starts at `key`. */
    __device__ __forceinline__ void shape_logits(Logits &acc_s, const fflash_prefill_params &params, const KeyBounds &bounds,
                                                 int row_first, int key) {
        if (transforms_logits(params.logits)) transform_logits(acc_s, params.logits);
        /* Read anew, so that no row or column of the mask takes a register of the plain steps. */
        const uint32_t thread = ptx::thread_index_x();
        mask_logits(acc_s, bounds, params.pack, row_first + warp_row(thread) + lane_row(thread), key + lane_col(thread));
    }

    /* P of S, rounded to the element type. The P before must have been multiplied. */
    template <bool kAfterAdapt = false>
    __device__ __forceinline__ void weigh(const Logits &acc_s, float exponent_scale) {
#pragma unroll
        for (int k = 0; k < kPVSteps; ++k)
#pragma unroll
            for (int m = 0; m < kMTiles; ++m)
                softmax.template weigh<T, kAfterAdapt>(tOrP_[m][k], m, acc_s[m][2 * k], acc_s[m][2 * k + 1],
                                                       exponent_scale, k == 0);
    }

    /* Moves the maxima to S where weights were out of range, and O with them. O must hold all tiles before S. */
    __device__ __forceinline__ void adapt(const Logits &acc_s, float exponent_scale) {
        float rescale[kMTiles][kLaneRows];
        softmax.adapt(acc_s, exponent_scale, rescale);
#pragma unroll
        for (int m = 0; m < kMTiles; ++m)
#pragma unroll
            for (int n = 0; n < kOTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc_o[m][n][i] *= rescale[m][i / 2];
    }

    /* Reads of V, 16 keys by 16 columns each, of a whole tile. */
    static constexpr int kPVReads = kPVSteps * kOTiles / 2;

    /* O += P V of the tile at shared address sV, or the part of it that reads [first, end) of kPVReads. */
    __device__ __forceinline__ void multiply_pv(uint32_t sV, int first = 0, int end = kPVReads) {
#pragma unroll
        for (int read = 0; read < kPVReads; ++read) {
            if (read < first || read >= end) continue;
            const int k = read / (kOTiles / 2);
            const int n = read % (kOTiles / 2) * 2;
            uint32_t rV[4];
            ptx::ldmatrix_x4_trans(rV, v_reader_.address(sV, k * kMmaK, n * kMmaN));
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                mma<T>(acc_o[m][n], tOrP_[m][k], rV[0], rV[1]);
                mma<T>(acc_o[m][n + 1], tOrP_[m][k], rV[2], rV[3]);
            }
        }
    }

    OnlineSoftmax<kMTiles> softmax;
    float acc_o[kMTiles][kOTiles][4];

private:
    __device__ __forceinline__ void read_q(uint32_t (&rQ)[kMTiles][4], int k) {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) ptx::ldmatrix_x4(rQ[m], q_reader_.address(sQ_, m * kMmaM, k * kMmaK));
    }

    uint32_t sQ_;
    SquareReader<typename Traits::QTile> q_reader_;
    SquareReader<typename Traits::KvTile> k_reader_;
    SquareReader<typename Traits::KvTile> v_reader_;
    uint32_t tSrQ_[Traits::kHeldQSteps + 1][kMTiles][4]; /* the last is read anew for every step not held */
    uint32_t tOrP_[kMTiles][kPVSteps][4];
};

}  // namespace fflash
