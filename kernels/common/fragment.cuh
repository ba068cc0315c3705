/*
 * Register fragments of mma.m16n8k16 (PTX ISA 8.8, 9.7.14.5.8).
 *
 * Accumulator (16x8, f32): lane l holds row l / 4 in c[0], c[1] and row l / 4 + 8 in c[2], c[3], at columns
 * 2 * (l % 4) and + 1. Operand A (16x16) is two such tiles side by side with pairs packed, which is why the
 * accumulators of one product become the A operand of the next without moving between lanes.
 */
#pragma once

#include <stdint.h>

#include "ptx.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace fflash {

constexpr int kMmaM = 16;
constexpr int kMmaN = 8;
constexpr int kMmaK = 16;

/* Rows of a 16-row accumulator that one lane holds: l / 4 and l / 4 + 8. */
constexpr int kLaneRows = 2;
/* Lanes that share a row. */
constexpr int kRowLanes = 4;

/* The first row and the first column of a thread's share of an accumulator. */
__device__ __forceinline__ int lane_row(uint32_t thread) { return thread % kWarpSize / kRowLanes; }
__device__ __forceinline__ int lane_col(uint32_t thread) { return thread % kRowLanes * 2; }

template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<F16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_m16n8k16_f16(c, a, b0, b1);
}
template <>
__device__ __forceinline__ void mma<Bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_m16n8k16_bf16(c, a, b0, b1);
}

/* Two neighbouring accumulator tiles, rounded to T, as the A operand of 16 columns. */
template <class T>
__device__ __forceinline__ void pack_operand_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack_f32<T>(left[0], left[1]);
    a[1] = pack_f32<T>(left[2], left[3]);
    a[2] = pack_f32<T>(right[0], right[1]);
    a[3] = pack_f32<T>(right[2], right[3]);
}

}  // namespace fflash
