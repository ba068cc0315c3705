/*
 * Rotary position embedding, in place on q and k: pair p of every head of a token turns by angle(position, p),
 *   (a, b) -> (a cos - b sin, a sin + b cos).
 *
 * Pairs are (p, p + rotary_pairs), half-split, or (2p, 2p + 1), interleaved. Elements past 2 * rotary_pairs are not touched.
 *
 * Grid    x = ceil(tokens / block tokens), y = 1, or 2 where a block has no room for threads of both q and k.
 * Block   (chunks, heads, tokens). A thread owns two chunks of kWidth elements, one in each half of the rotated part, at
 *         x * kWidth and rotary_pairs + x * kWidth. Half-split these are kWidth pairs across the two; interleaved, each
 *         chunk is kWidth / 2 whole pairs. It visits every n-th head of q, or of k, for which n threads are there, kHeads
 *         at a time; the threads are divided as the heads are.
 *         The narrow variant, for extents, strides and addresses that do not allow 16-byte chunks, has one pair a thread.
 *
 * Shared memory, dynamic: [tokens][2][rotary_pairs] f32, cos and sin of every pair, computed once per token and block, at most
 * 16 KiB. A thread keeps those of its pairs in registers for all heads; reading them, once, conflicts two ways half-split
 * and not at all interleaved. One barrier, between computing and reading them; the first heads are loaded before it.
 *
 * Angles: turns[p] is the angle per position as a 64-bit fraction of a turn (rounded to nearest by the host), so position *
 * turns[p] modulo 2^64 is the fraction of a turn with an error below position / 2^65: 4e-10 radians at position 2^31. It is
 * split into the nearest quarter turn and a rest of at most 1/8 turn, both exact; only the rest is rounded to f32 (error
 * below 2^-25 * pi/4), and sincospi of it is good to 1 ulp. No position makes the result worse than another.
 *
 * Rounding: products in f32 with one fma each, then once to T.
 *
 * Preconditions (checked by the host): tokens >= 1; positions not negative and inside the table; blockDim.x * kWidth =
 * rotary_pairs; at most kThreads threads; no two heads overlap. For 16-byte chunks addresses and strides are multiples
 * of 16 bytes.
 *
 * Source: Su et al., "RoFormer" (arXiv 2104.09864); interleaved as in GPT-J, half-split as in GPT-NeoX.
 */
#pragma once

#include <stdint.h>

#include "../common/chunk.cuh"
#include "../common/types.cuh"
#include "../params.h"

namespace fflash {

template <class T_, int kWidth_>
struct RopeTraits {
    using T = T_;
    static constexpr int kWidth = kWidth_; /* elements per chunk */
    static constexpr int kHeads = 4;       /* heads a thread holds at once */
    static constexpr int kThreads = 256;
};

/* Cosine and sine of fraction / 2^64 of a turn. */
__device__ __forceinline__ float2 cos_sin_of_turn(uint64_t fraction) {
    constexpr uint64_t kEighth = uint64_t{1} << 61;
    const uint32_t quarter = uint32_t((fraction + kEighth) >> 62);
    const int64_t rest = int64_t(fraction - (uint64_t{quarter} << 62));
    float sin, cos;
    sincospif(float(rest) * 0x1p-63f, &sin, &cos); /* in half turns */
    if (quarter & 1) {
        const float old = cos;
        cos = -sin;
        sin = old;
    }
    return quarter & 2 ? float2{-cos, -sin} : float2{cos, sin};
}

/* Fills this token's cosines and sines; the threads of the token share the work. */
__device__ __forceinline__ void compute_angles(const fflash_rope_params &params, int64_t token, float *cos, float *sin) {
    const int64_t position = params.positions[token];
    const float *table = params.table + position * params.table_position_stride;
    for (int p = threadIdx.y * blockDim.x + threadIdx.x; p < params.rotary_pairs; p += blockDim.x * blockDim.y) {
        const float2 angle = params.table ? float2{table[p], table[params.table_part_stride + p]}
                                          : cos_sin_of_turn(uint64_t(position) * params.turns[p]);
        cos[p] = angle.x;
        sin[p] = angle.y;
    }
}

/* One thread's chunks of kHeads heads. */
template <class Traits, bool kInterleaved>
class RopeHeads {
    using T = typename Traits::T;
    static constexpr int kWidth = Traits::kWidth;
    static constexpr int kHeads = Traits::kHeads;
    static constexpr bool kNeighbours = kInterleaved && kWidth == 1; /* a chunk each for the elements of one pair */
    static constexpr int kHalf = kWidth > 1 ? kWidth / 2 : 1;
    using Chunk = fflash::Chunk<T, kWidth>;

public:
    __device__ __forceinline__ RopeHeads(const fflash_rope_params &params, int64_t token) {
        const int threads = gridDim.y * blockDim.y;
        const int thread = blockIdx.y * blockDim.y + threadIdx.y;
        const int of_q = threads - threads_of_k(params, threads);
        const bool is_q = thread < of_q;
        const fflash_strides3 strides = is_q ? params.q_strides : params.k_strides;
        const int first_head = is_q ? thread : thread - of_q;
        step_ = is_q ? of_q : threads - of_q;
        left_ = token < params.tokens ? (is_q ? params.q_heads : params.k_heads) - first_head : 0;
        next_ = static_cast<T *>(is_q ? params.q : params.k) + token * strides.tokens + first_head * strides.heads +
                threadIdx.x * (kNeighbours ? 2 : kWidth);
        stride_ = step_ * strides.heads;
        second_ = kNeighbours ? 1 : params.rotary_pairs;
    }

    /* True when no head is left to load. */
    __device__ __forceinline__ bool done() const { return left_ <= 0; }

    /* Issues the loads of the next heads. */
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            live_[i] = left_ > 0;
            at_[i] = next_;
            load_if(live_[i], a_[i], reinterpret_cast<const Chunk *>(next_));
            load_if(live_[i], b_[i], reinterpret_cast<const Chunk *>(next_ + second_));
            next_ += stride_;
            left_ -= step_;
        }
    }

    /* Keeps the cosines and sines of this thread's pairs. */
    __device__ __forceinline__ void keep_angles(const fflash_rope_params &params, const float *cos, const float *sin) {
        if constexpr (kWidth == 1) {
            cos_[0] = cos[threadIdx.x];
            sin_[0] = sin[threadIdx.x];
        } else {
            using Half = Vec<float, kHalf>;
            const int chunk = threadIdx.x;
            const int of_a = kInterleaved ? chunk : 2 * chunk;
            const int of_b = kInterleaved ? chunk + params.rotary_pairs / kWidth : 2 * chunk + 1;
            copy(&cos_[0], reinterpret_cast<const Half *>(cos)[of_a]);
            copy(&cos_[kHalf], reinterpret_cast<const Half *>(cos)[of_b]);
            copy(&sin_[0], reinterpret_cast<const Half *>(sin)[of_a]);
            copy(&sin_[kHalf], reinterpret_cast<const Half *>(sin)[of_b]);
        }
    }

    /* Rotates and stores what load() brought. */
    __device__ __forceinline__ void store() const {
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            if (!live_[i]) continue;
            float a[kWidth], b[kWidth];
            unpack(a, a_[i]);
            unpack(b, b_[i]);
#pragma unroll
            for (int j = 0; j < kWidth; ++j) {
                if constexpr (!kInterleaved || kWidth == 1) {
                    rotate(a[j], b[j], j);
                } else if (j < kHalf) {
                    rotate(a[2 * j], a[2 * j + 1], j);
                } else {
                    rotate(b[2 * (j - kHalf)], b[2 * (j - kHalf) + 1], j);
                }
            }
            *reinterpret_cast<Chunk *>(at_[i]) = pack<T>(a);
            *reinterpret_cast<Chunk *>(at_[i] + second_) = pack<T>(b);
        }
    }

private:
    /* How many of `threads` visit heads of k: its share to the nearest, but at least one for each tensor that has heads. */
    __device__ __forceinline__ static int threads_of_k(const fflash_rope_params &params, int threads) {
        if (params.k_heads == 0) return 0;
        if (params.q_heads == 0) return threads;
        const float share = __fdividef(float(params.k_heads), float(params.q_heads) + float(params.k_heads));
        return min(max(__float2int_rn(share * float(threads)), 1), threads - 1);
    }

    __device__ __forceinline__ static void copy(float *to, Vec<float, kHalf> from) {
#pragma unroll
        for (int i = 0; i < kHalf; ++i) to[i] = from[i];
    }

    __device__ __forceinline__ void rotate(float &a, float &b, int pair) const {
        const float x = a, y = b;
        a = fmaf(x, cos_[pair], -y * sin_[pair]);
        b = fmaf(x, sin_[pair], y * cos_[pair]);
    }

    T *next_;
    int64_t stride_; /* from one head of this thread to its next */
    int second_;     /* from its first chunk of a head to the second */
    int step_;       /* the same as stride_, in heads */
    int left_;       /* heads from the next one to the last */
    T *at_[kHeads];
    bool live_[kHeads];
    Chunk a_[kHeads];
    Chunk b_[kHeads];
    float cos_[kWidth];
    float sin_[kWidth];
};

template <class Traits, bool kInterleaved>
__device__ __forceinline__ void rope_styled(const fflash_rope_params &params) {
    extern __shared__ __align__(16) float angles[];
    float *cos = angles + threadIdx.z * (2 * params.rotary_pairs);
    float *sin = cos + params.rotary_pairs;
    const int64_t token = int64_t(blockIdx.x) * blockDim.z + threadIdx.z;

    RopeHeads<Traits, kInterleaved> heads(params, token);
    heads.load();
    if (token < params.tokens) compute_angles(params, token, cos, sin);
    __syncthreads();
    if (token >= params.tokens) return;
    heads.keep_angles(params, cos, sin);
    for (;;) {
        heads.store();
        if (heads.done()) return;
        heads.load();
    }
}

template <class Traits>
__device__ __forceinline__ void rope(const fflash_rope_params &params) {
    if (params.interleaved) {
        rope_styled<Traits, true>(params);
    } else {
        rope_styled<Traits, false>(params);
    }
}

}  // namespace fflash
