/*
 * The table of cosines and sines that RoPE kernels may read instead of computing them:
 *   table[i][0][p] = factor * cos(angle(first_position + i, p)), table[i][1][p] = factor * sin(the same).
 *
 * Grid    x = ceil(positions * chunks / threads), where a position has ceil(rotary_pairs / kWidth) chunks of kWidth pairs.
 * Block   kRopeTableThreads threads, each for one chunk: it stores 16 bytes of cosines and 16 of sines where their addresses
 *         allow that, or else single elements. No shared memory, no barriers. Angles as in angles.cuh, rounded once to T.
 *
 * Preconditions (checked by the host): positions >= 1, at least one pair; positions do not overlap; first_position is not negative.
 */
#pragma once

#include <stdint.h>

#include "../common/chunk.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "angles.cuh"

namespace fflash {

constexpr int kRopeTableThreads = 256;

/* Stores the first `count` of a chunk. */
template <class T, int kWidth>
__device__ __forceinline__ void store_first(T *to, const float (&x)[kWidth], int count) {
    if (count >= kWidth && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        *reinterpret_cast<Chunk<T, kWidth> *>(to) = pack<T>(x);
        return;
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        if (i < count) to[i] = from_f32<T>(x[i]);
    }
}

template <class T>
__device__ __forceinline__ void rope_table(const fflash_rope_table_params &params) {
    constexpr int kWidth = kVecWidth<T>;
    const uint32_t chunks = (uint32_t(params.rotary_pairs) + kWidth - 1) / kWidth;
    const int64_t thread = int64_t(blockIdx.x) * kRopeTableThreads + threadIdx.x;
    const int64_t position = thread / chunks;
    if (position >= params.positions) return;
    const int pair = int(thread - position * chunks) * kWidth;
    float cos[kWidth], sin[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        const uint64_t turns = params.turns[min(pair + i, params.rotary_pairs - 1)];
        const float2 angle = cos_sin_of_turn(uint64_t(params.first_position + position) * turns);
        cos[i] = angle.x * params.factor;
        sin[i] = angle.y * params.factor;
    }
    T *to = static_cast<T *>(params.table) + position * params.position_stride + pair;
    store_first(to, cos, params.rotary_pairs - pair);
    store_first(to + params.part_stride, sin, params.rotary_pairs - pair);
}

}  // namespace fflash
