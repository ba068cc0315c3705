/*
 * What the options make of logits (logits.cuh): of one, and of all that a warp has in accumulators.
 *
 * In accumulators every option is a branch that all threads take alike. What an option needs to know of a row, and which keys the row sees,
 * is found by one lane, the one whose number is the row's in its warp, and passed on to the four that have its logits.
 */
#pragma once

#include <stdint.h>

#include "../common/fragment.cuh"
#include "../params.h"
#include "logits.cuh"
#include "mask.cuh"

namespace fflash {

/* Whether logits are transformed before the softmax, which then carries no scale (mask.cuh). */
__device__ __forceinline__ bool shapes_logits(const fflash_logits &logits) {
    return transforms_logits(logits) || logits.alibi_slopes != nullptr || logits.bias != nullptr;
}

/* The lane that has the row of a half of an accumulator tile. */
__device__ __forceinline__ int owner_of(int m, int half) { return m * kMmaM + half * 8 + lane_row(threadIdx.x); }

/* Element `index` of the bias. */
__device__ __forceinline__ float bias_at(const fflash_logits &logits, int64_t index) {
    if (logits.bias_dtype == FFLASH_DTYPE_F32) return static_cast<const float *>(logits.bias)[index];
    const uint16_t bits = static_cast<const uint16_t *>(logits.bias)[index];
    return logits.bias_dtype == FFLASH_DTYPE_F16 ? to_f32(F16{bits}) : to_f32(Bf16{bits});
}

/* One logit. */
__device__ __forceinline__ float shape_logit(float product, const fflash_logits &logits, const LogitRow &row, int key, bool seen) {
    if (!seen) return -INFINITY;
    float logit = scale_and_cap(logits, product);
    if (logits.alibi_slopes != nullptr) logit = lean(logit, row.slope(), float(row.distance(key)));
    if (logits.bias != nullptr) logit += bias_at(logits, row.bias() + key * logits.bias_key_stride);
    return logit;
}

template <class B, int kMTiles, int kNTiles>
__device__ __forceinline__ void add_bias(float (&acc_s)[kMTiles][kNTiles][4], const fflash_logits &logits, const LogitRow &own,
                                         KeySet<kNTiles * kMmaN> own_seen, int key) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const B *bias = static_cast<const B *>(logits.bias) + __shfl_sync(kFullWarp, own.bias(), owner_of(m, half));
            const KeySet<kNTiles * kMmaN> of_row = __shfl_sync(kFullWarp, own_seen, owner_of(m, half));
            if (of_row == 0) continue;
            /* The bias of a key that is not seen is not read: one of a key that is, of which nothing comes, makes no branch. */
            const int64_t instead = (key + lowest(of_row)) * logits.bias_key_stride;
            const KeySet<kNTiles * kMmaN> seen = of_row >> lane_col(threadIdx.x);
            const int64_t first = (key + lane_col(threadIdx.x)) * logits.bias_key_stride;
            float added[kNTiles][2];
#pragma unroll
            for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const bool is_seen = seen >> (n * kMmaN + i) & 1;
                    added[n][i] = to_f32(bias[is_seen ? first + (n * kMmaN + i) * logits.bias_key_stride : instead]);
                }
#pragma unroll
            for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) acc_s[m][n][half * 2 + i] += added[n][i];
        }
}

/* `own`: the row of this lane; `key`: the first of the tile. */
template <int kMTiles, int kNTiles>
__device__ __forceinline__ void shape_logits(float (&acc_s)[kMTiles][kNTiles][4], const fflash_prefill_params &params,
                                             const LogitRow &own, int key) {
    const fflash_logits &logits = params.logits;
    const KeySet<kNTiles * kMmaN> own_seen = own.template visible<kNTiles * kMmaN>(params.mask, key);
    if (shapes_logits(logits)) {
        transform_logits(acc_s, logits);
        if (logits.alibi_slopes != nullptr) {
#pragma unroll
            for (int m = 0; m < kMTiles; ++m)
#pragma unroll
                for (int half = 0; half < kLaneRows; ++half) {
                    const float slope = __shfl_sync(kFullWarp, own.slope(), owner_of(m, half));
                    const int key_distance = __shfl_sync(kFullWarp, own.distance(key), owner_of(m, half));
                    const float distance = float(key_distance - lane_col(threadIdx.x));
#pragma unroll
                    for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                        for (int i = 0; i < 2; ++i)
                            acc_s[m][n][half * 2 + i] = lean(acc_s[m][n][half * 2 + i], slope, distance - float(n * kMmaN + i));
                }
        }
        if (logits.bias != nullptr) {
            switch (logits.bias_dtype) {
            case FFLASH_DTYPE_F16: add_bias<F16>(acc_s, logits, own, own_seen, key); break;
            case FFLASH_DTYPE_BF16: add_bias<Bf16>(acc_s, logits, own, own_seen, key); break;
            default: add_bias<float>(acc_s, logits, own, own_seen, key);
            }
        }
    }
    if (__all_sync(kFullWarp, (own_seen ^ keys_below<kNTiles * kMmaN>(kNTiles * kMmaN)) == 0)) return;
#pragma unroll
    for (int m = 0; m < kMTiles; ++m)
#pragma unroll
        for (int half = 0; half < kLaneRows; ++half) {
            const KeySet<kNTiles * kMmaN> seen = __shfl_sync(kFullWarp, own_seen, owner_of(m, half)) >> lane_col(threadIdx.x);
#pragma unroll
            for (int n = 0; n < kNTiles; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float &logit = acc_s[m][n][half * 2 + i];
                    logit = seen >> (n * kMmaN + i) & 1 ? logit : -INFINITY;
                }
        }
}

}  // namespace fflash
