/*
 * What one warp of the prefill kernels computes: the two products, the softmax between them, and the registers they need.
 *
 * A lane's registers: O, kMTiles * head_dim / 2; S of the tile at hand, kMTiles * block_n / 2; P of the tile before, half of
 * that; the columns of Q that are held, kMTiles * held_q / 4. Warps of a team have the rows of O in common and share out its
 * columns; P passes from one to the other through shared memory, as the operands that it is.
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
    static constexpr int kTeam = Traits::kTeam;
    static constexpr int kOMTiles = Traits::kOMTiles;
    static constexpr int kOTiles = Traits::kOColumns / kMmaN;
    static constexpr int kQKSteps = kHeadDim / kMmaK;
    static constexpr int kPVSteps = Traits::kBlockN / kMmaK;

public:
    /* S of one tile. */
    using Logits = float[kMTiles][kNTiles][4];

    __device__ __forceinline__ PrefillWarp(char *smem)
        : softmax(smem + Traits::kSmemFar),
          smem_(smem),
          q_reader_(SquareReader<typename Traits::QTile>::rows_first()),
          k_reader_(SquareReader<typename Traits::KvTile>::columns_first()),
          v_reader_(SquareReader<typename Traits::KvTile>::rows_first()) {
#pragma unroll
        for (int m = 0; m < kOMTiles; ++m)
#pragma unroll
            for (int n = 0; n < kOTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc_o[m][n][i] = 0.0f;
    }

    /* The first of this warp's rows, within the block. */
    __device__ __forceinline__ static int warp_row(uint32_t thread = threadIdx.x) {
        return thread / kWarpSize * Traits::kWarpRows;
    }

    /* The first of its team's. */
    __device__ __forceinline__ static int team_row() { return threadIdx.x / (kWarpSize * kTeam) * kTeam * Traits::kWarpRows; }

    /* The first of its columns of O. */
    __device__ __forceinline__ static int o_column() { return threadIdx.x / kWarpSize % kTeam * Traits::kOColumns; }

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

    /* P of S, rounded to the element type. The P before, in a team that of two tiles before, must have been multiplied. */
    template <bool kAfterAdapt = false>
    __device__ __forceinline__ void weigh(const Logits &acc_s, float exponent_scale, int tile) {
#pragma unroll
        for (int k = 0; k < kPVSteps; ++k)
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                uint32_t(&rP)[4] = tOrP_[m][k];
                softmax.template weigh<T, kAfterAdapt>(rP, m, acc_s[m][2 * k], acc_s[m][2 * k + 1], exponent_scale, k == 0);
                if constexpr (kTeam > 1) *shared_weights(tile, warp_row(), m, k) = make_uint4(rP[0], rP[1], rP[2], rP[3]);
            }
    }

    /* Moves the maxima to S where weights were out of range, and O with them. O must hold all tiles before S. */
    __device__ __forceinline__ void adapt(const Logits &acc_s, float exponent_scale) {
        float factors[kMTiles][kLaneRows];
        softmax.adapt(acc_s, exponent_scale, factors);
        float team_factors[kOMTiles][kLaneRows];
        share_with_team(factors, team_factors);
#pragma unroll
        for (int m = 0; m < kOMTiles; ++m)
#pragma unroll
            for (int n = 0; n < kOTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc_o[m][n][i] *= team_factors[m][i / 2];
    }

    /* From a number for each of a warp's own rows, one for each of its team's. In a team with a barrier of the CTA. */
    __device__ __forceinline__ void share_with_team(const float (&own)[kMTiles][kLaneRows], float (&team)[kOMTiles][kLaneRows]) {
        float *shared = reinterpret_cast<float *>(smem_ + Traits::kSmemFactors) + lane_row(threadIdx.x);
        if constexpr (kTeam > 1) {
#pragma unroll
            for (int m = 0; m < kMTiles; ++m)
#pragma unroll
                for (int half = 0; half < kLaneRows; ++half)
                    if (threadIdx.x % kRowLanes == 0) shared[warp_row() + m * kMmaM + half * 8] = own[m][half];
            __syncthreads();
        }
#pragma unroll
        for (int m = 0; m < kOMTiles; ++m)
#pragma unroll
            for (int half = 0; half < kLaneRows; ++half)
                team[m][half] = kTeam > 1 ? shared[team_row() + m * kMmaM + half * 8] : own[m][half];
    }

    /* Reads of V, 16 keys by 16 columns each, of a whole tile. */
    static constexpr int kPVReads = kPVSteps * kOTiles / 2;

    /* O += P V of a tile, V at shared address sV, or the part of it that reads [first, end) of kPVReads. */
    __device__ __forceinline__ void multiply_pv(uint32_t sV, int tile, int first = 0, int end = kPVReads) {
#pragma unroll
        for (int read = 0; read < kPVReads; ++read) {
            if (read < first || read >= end) continue;
            const int k = read / (kOTiles / 2);
            const int n = read % (kOTiles / 2) * 2;
            if (kTeam > 1 && n == 0) {
#pragma unroll
                for (int m = 0; m < kOMTiles; ++m) read_weights(tSrTeamP_[m], tile, m, k);
            }
            uint32_t rV[4];
            ptx::ldmatrix_x4_trans(rV, v_reader_.address(sV + o_column() * 2, k * kMmaK, n * kMmaN));
#pragma unroll
            for (int m = 0; m < kOMTiles; ++m) {
                const uint32_t(&rP)[4] = kTeam > 1 ? tSrTeamP_[m] : tOrP_[m % kMTiles][k];
                mma<T>(acc_o[m][n], rP, rV[0], rV[1]);
                mma<T>(acc_o[m][n + 1], rP, rV[2], rV[3]);
            }
        }
    }

    typename Traits::Softmax softmax;
    float acc_o[kOMTiles][kOTiles][4];

private:
    __device__ __forceinline__ void read_q(uint32_t (&rQ)[kMTiles][4], int k) {
        const uint32_t sQ = __cvta_generic_to_shared(smem_ + Traits::kSmemQ) + warp_row() * Traits::QTile::kRowBytes;
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) ptx::ldmatrix_x4(rQ[m], q_reader_.address(sQ, m * kMmaM, k * kMmaK));
    }

    /* Where a lane's operand of the weights of 16 rows and 16 keys lies: rows from `row` + 16 m, keys from 16 k. */
    __device__ __forceinline__ uint4 *shared_weights(int tile, int row, int m, int k) const {
        char *weights = smem_ + Traits::kSmemWeights + tile % 2u * Traits::kWeightBytes;
        return reinterpret_cast<uint4 *>(weights) + ((row / kMmaM + m) * kPVSteps + k) * kWarpSize + threadIdx.x % kWarpSize;
    }

    __device__ __forceinline__ void read_weights(uint32_t (&rP)[4], int tile, int m, int k) const {
        const uint4 p = *shared_weights(tile, team_row(), m, k);
        rP[0] = p.x;
        rP[1] = p.y;
        rP[2] = p.z;
        rP[3] = p.w;
    }

    char *smem_;
    SquareReader<typename Traits::QTile> q_reader_;
    SquareReader<typename Traits::KvTile> k_reader_;
    SquareReader<typename Traits::KvTile> v_reader_;
    uint32_t tSrQ_[Traits::kHeldQSteps + 1][kMTiles][4]; /* the last is read anew for every step not held */
    uint32_t tOrP_[kMTiles][kPVSteps][4];
    uint32_t tSrTeamP_[kOMTiles][4]; /* of a team: P of all its rows, read anew for every 16 keys */
};

}  // namespace fflash
