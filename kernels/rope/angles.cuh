/*
 * The angles of RoPE: where a token stands, and the cosine and sine of every pair there.
 *
 * turns[p] is the angle of pair p per position as a 64-bit fraction of a turn, rounded to nearest by the host. Integer
 * positions: position * turns[p] modulo 2^64 is the fraction of a turn with an error below position / 2^65: 4e-10 radians at
 * position 2^31, 2e-8 at 2^36, the limit. Real positions are split into floor and rest, both exact in f64; the rest as a 64-bit
 * fraction (error 2^-64) times turns[p], taken as signed (the host sees to it that no pair turns by half a turn
 * or more per position), adds the upper 64 bits of the product.
 *
 * The fraction is split into the nearest quarter turn and a rest of at most 1/8 turn, both exact; only the rest is rounded to f32
 * (error below 2^-25 * pi/4), and its sine and cosine are good to 1 ulp. No position makes the result worse than another.
 *
 * Shared memory of a token: cos of every pair, then sin, in two halves each, `region` floats apart: those that a thread reads with
 * its first access, and with its second. Consecutive threads read consecutive accesses, which does not conflict. Of
 * interleaved heads the halves are those of the pairs in order, so consecutive pairs are written to consecutive words; half-split
 * ones alternate, and do not conflict where the region is 16 more than a multiple of 32 floats. Chunks of one element have one
 * access, and their angles lie in the order of pairs.
 */
#pragma once

#include <stdint.h>

#include "../common/reduce.cuh"
#include "../common/types.cuh"
#include "../params.h"

namespace fflash {

/* Cosine and sine of x half turns, x in [-1/4, 1/4]: what sincospif computes there, to the bit. */
__device__ __forceinline__ float2 cos_sin_of_eighth(float x) {
    const float square = x * x;
    float cos = fmaf(0x1.d09c24p-3f, square, -0x1.55a5c0p+0f);
    cos = fmaf(cos, square, 0x1.03c19ep+2f);
    cos = fmaf(cos, square, -0x1.3bd3ccp+2f);
    cos = fmaf(cos, square, 1.0f);
    float sin = fmaf(-0x1.2f5992p-1f, square, 0x1.466b20p+1f);
    sin = fmaf(sin, square, -0x1.4abbecp+2f);
    sin = fmaf(0x1.921fb6p+1f, x, sin * (square * x));
    return {cos, sin};
}

/* Cosine and sine of fraction / 2^64 of a turn. */
__device__ __forceinline__ float2 cos_sin_of_turn(uint64_t fraction) {
    constexpr uint64_t kEighth = uint64_t{1} << 61;
    const uint64_t ahead = fraction + kEighth; /* its upper two bits: the nearest quarter turn */
    const int64_t rest = int64_t(ahead % (2 * kEighth)) - int64_t(kEighth);
    const float2 of_rest = cos_sin_of_eighth(float(rest) * 0x1p-63f);
    const uint32_t quarter = uint32_t(ahead >> 32);
    const bool swaps = quarter & 0x40000000;
    const float cos = swaps ? of_rest.y : of_rest.x;
    const float sin = swaps ? of_rest.x : of_rest.y;
    /* The cosine is negative in quarters 1 and 2, the sine in 2 and 3. */
    const uint32_t cos_sign = (quarter + 0x40000000) & 0x80000000, sin_sign = quarter & 0x80000000;
    return {__uint_as_float(__float_as_uint(cos) ^ cos_sign), __uint_as_float(__float_as_uint(sin) ^ sin_sign)};
}

/* A position as whole + part / 2^64. */
struct RopePosition {
    int64_t whole;
    uint64_t part;

    __device__ __forceinline__ static RopePosition of_real(double x) {
        const int64_t whole = __double2ll_rd(x);
        return {whole, __double2ull_rz((x - __ll2double_rn(whole)) * 0x1p64)};
    }

    /* Of a turn. */
    __device__ __forceinline__ uint64_t times(uint64_t turns) const {
        uint64_t fraction = uint64_t(whole) * turns;
        if (part != 0) fraction += __umul64hi(part, turns) - (int64_t(turns) < 0 ? part : 0);
        return fraction;
    }
};

/* The position of a token of packed sequences: the offset of its sequence, and its distance from the sequence's first token. */
__device__ __forceinline__ int64_t packed_position(const fflash_rope_params &params, int64_t token) {
    const int64_t *firsts = static_cast<const int64_t *>(params.positions);
    const int64_t *offsets = firsts + params.sequences + 1;
    /* The last sequence that starts at the token or before it: an empty one starts where the next does. */
    int low = 0;
    for (int high = params.sequences; high - low > 1;) {
        const int middle = (low + high) / 2;
        if (firsts[middle] <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return offsets[low] + (token - firsts[low]);
}

__device__ __forceinline__ bool is_real(const fflash_rope_params &params) {
    return params.position_type == FFLASH_POSITIONS_F32 || params.position_type == FFLASH_POSITIONS_F64;
}

/* Real positions from an array. */
__device__ __forceinline__ double real_position(const fflash_rope_params &params, int64_t token, int axis) {
    const int64_t at = axis * params.tokens + token;
    return params.position_type == FFLASH_POSITIONS_F32 ? static_cast<const float *>(params.positions)[at]
                                                        : static_cast<const double *>(params.positions)[at];
}

/* Integer positions from an array. */
__device__ __forceinline__ int64_t array_position(const fflash_rope_params &params, int64_t token, int axis) {
    const int64_t at = axis * params.tokens + token;
    return params.position_type == FFLASH_POSITIONS_I32 ? static_cast<const int32_t *>(params.positions)[at]
                                                        : static_cast<const int64_t *>(params.positions)[at];
}

/* Which of a token's indices, if any, points outside what it indexes: as FFLASH_FAULT_*, or -1. Only asked where indices are checked. */
__device__ __forceinline__ int fault_of(const fflash_rope_params &params, int64_t token) {
    if (params.check_positions) {
        for (int axis = 0; axis < params.axes; ++axis) {
            bool inside;
            if (is_real(params)) {
                inside = fabs(real_position(params, token, axis)) <= double(params.position_limit);
            } else {
                inside = uint64_t(array_position(params, token, axis)) < uint64_t(params.position_limit);
            }
            if (!inside) return FFLASH_FAULT_POSITION;
        }
    }
    if (params.check_slots) {
        const int64_t slot = params.slots[token];
        if (slot < -1 || slot >= params.num_slots) return FFLASH_FAULT_SLOT;
    }
    return -1;
}

/* False for tokens past the last, and, where indices are checked, for those with one that points outside. */
__device__ __forceinline__ bool is_alive(const fflash_rope_params &params, int64_t token) {
    return token < params.tokens && (params.faults == nullptr || fault_of(params, token) < 0);
}

/* An entry of the table. */
__device__ __forceinline__ float table_entry(const fflash_rope_params &params, int64_t at) {
    switch (params.table_type) {
        case FFLASH_TABLE_F32: return static_cast<const float *>(params.table)[at];
        case FFLASH_TABLE_F16: return to_f32(static_cast<const F16 *>(params.table)[at]);
        default: return to_f32(static_cast<const Bf16 *>(params.table)[at]);
    }
}

/* A token's position on an axis, from an array. */
__device__ __forceinline__ RopePosition position_on(const fflash_rope_params &params, int64_t token, int axis) {
    if (is_real(params)) return RopePosition::of_real(real_position(params, token, axis));
    return {array_position(params, token, axis), 0};
}

/* A token's position, or that on the first of several axes: only of one are there others than from an array. */
__device__ __forceinline__ RopePosition position_of(const fflash_rope_params &params, int64_t token) {
    if (params.position_type == FFLASH_POSITIONS_RANGE) return {params.first_position + token, 0};
    if (params.position_type == FFLASH_POSITIONS_PACKED) return {packed_position(params, token), 0};
    return position_on(params, token, 0);
}

/* Cosine and sine of pair p there. */
__device__ __forceinline__ float2 angle_of(const fflash_rope_params &params, RopePosition position, int p) {
    float2 angle;
    if (params.table) {
        const int64_t at = position.whole * params.table_position_stride + p;
        angle = {table_entry(params, at), table_entry(params, at + params.table_part_stride)};
    } else {
        angle = cos_sin_of_turn(position.times(params.turns[p]));
    }
    return {angle.x * params.cos_factor, angle.y * params.sin_factor};
}

/* Where pair p lies among the cosines of a token whose chunks have kWidth elements. */
template <int kWidth>
__device__ __forceinline__ int angle_index(const fflash_rope_params &params, uint32_t p) {
    if (kWidth == 1 || params.interleaved) return p;
    constexpr uint32_t kHalf = kWidth > 1 ? kWidth / 2 : 1;
    const uint32_t group = p / kHalf;
    return group / 2 * kHalf + p % kHalf + (group % 2 ? params.angle_region : 0);
}

/* Floats of shared memory for the angles of a token: its cosines, and as many sines. */
template <int kWidth>
__device__ __forceinline__ int angle_plane(const fflash_rope_params &params) {
    return kWidth == 1 ? params.angle_region : 2 * params.angle_region;
}

/*
 * Fills the cosines and sines of the block's tokens. Of several a warp takes one at a time, so that its lanes write what does not
 * conflict; one alone all threads share.
 */
template <int kWidth>
__device__ __forceinline__ void compute_angles(const fflash_rope_params &params, float *angles) {
    const int threads = blockDim.x * blockDim.y * blockDim.z;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const bool alone = blockDim.z == 1;
    const int warp = thread / kWarpSize;
    const int step = alone ? threads : min(kWarpSize, threads - warp * kWarpSize);
    const int plane = angle_plane<kWidth>(params);
    for (int of_block = alone ? 0 : warp; of_block < blockDim.z; of_block += (threads + kWarpSize - 1) / kWarpSize) {
        const int64_t token = int64_t(blockIdx.x) * blockDim.z + of_block;
        int p = alone ? thread : thread % kWarpSize;
        if (p >= params.rotary_pairs || !is_alive(params, token)) continue;
        RopePosition position = position_of(params, token);
        float *cos = angles + of_block * (2 * plane);
        for (; p < params.rotary_pairs; p += step) {
            if (params.axes > 1) {
                position = position_on(params, token, params.axis_of_pair[uint32_t(p) / 16] >> (p % 16u * 2) & 3);
            }
            const float2 angle = angle_of(params, position, p);
            float *at = cos + angle_index<kWidth>(params, p);
            at[0] = angle.x;
            at[plane] = angle.y;
        }
    }
}

}  // namespace fflash
