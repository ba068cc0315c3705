/*
 * Rotary position embedding of q and k: pair p of every head of a token turns by angle(position, p),
 *   (a, b) -> (a cos - b sin, a sin + b cos).
 *
 * Pairs are (p, p + rotary_pairs), half-split, or (2p, 2p + 1), interleaved, from element rotary_offset of the head on. What is
 * not rotated is copied where the result goes elsewhere, and not touched in place. The fused kernels may normalise every head
 * before, x / sqrt(mean(x^2) + eps) * (weight_offset + weight), and write k and v to the pages of a cache after it,
 * as they are or times 1 / scale as FP8.
 *
 * Grid    x = ceil(tokens / block tokens), y more than 1 where a block has no room for threads of each of q, k and v.
 * Block   (columns, heads, tokens). A thread owns one column of chunks (share.cuh): two of kWidth elements, in place in one access
 *         each. It visits every n-th head of q, of k, or of v, for which n threads are there, kHeads at a time; the
 *         threads are divided as the heads are (src/rope/geometry.rs). With the norm the columns are rounded up to a power of
 *         two: up to 32 lanes share a head inside a warp, more share it over whole warps.
 *         The narrow variants, for extents, strides and addresses that do not allow 16-byte chunks, have chunks of one element.
 *
 * Shared memory, dynamic: for each token of the block the cosines and sines of every pair (angles.cuh), 16 bytes for its places
 * in the cache; then with the norm the weights of q and k. Static: partial sums of heads over several warps. A thread
 * keeps what it needs of that in registers for all heads. One barrier, between computing and reading; the first heads are
 * loaded before it. With heads over several warps, two more for each sum.
 *
 * Rounding: f32 throughout, products and sums with one fma each, then once to the type stored. With the norm a pair's cosine and
 * sine are multiplied by its weights first, and 1 + w is rounded to f32.
 *
 * Range of the norm: as in norm/rms_norm.cuh, heads whose mean square is outside [kSmallest, FLT_MAX] are multiplied by a power of two
 * in registers and summed again: 2^-80 if it was too large, 2^100 if it was too small. f16 needs none of this. A head
 * with an infinity becomes 0 where it is finite and NaN where it is not; one with a NaN all NaN.
 *
 * Preconditions (checked by the host): tokens >= 1; positions inside the table; slots inside the cache, none twice; blockDim.x is
 * `columns`, with the norm the next power of two, and then a block is whole warps; at most kThreads threads; no
 * two heads overlap, nor those of an input and an output unless they are the same. For 16-byte chunks addresses, strides, offset,
 * rotary_pairs and head_dim are multiples of 16 bytes (pages of FP8: of as many bytes as a chunk has elements; see cache_joined).
 * What the host could not check (`faults` is there) is checked here: a token with a position or slot that points outside is left out.
 *
 * Source: Su et al., "RoFormer" (arXiv 2104.09864); interleaved as in GPT-J, half-split as in GPT-NeoX; QK-norm: Henry et al.,
 * "Query-key normalization for transformers" (arXiv 2010.04245), as RMSNorm.
 */
#pragma once

#include <stdint.h>

#include <type_traits>

#include "../common/chunk.cuh"
#include "../common/reduce.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "angles.cuh"
#include "share.cuh"

namespace fflash {

template <class T_, int kWidth_>
struct RopeTraits {
    using T = T_;
    static constexpr int kWidth = kWidth_; /* elements per chunk */
    static constexpr int kHeads = 4;       /* heads a thread holds at once */
    static constexpr int kNormHeads = 2;   /* and with the norm, whose heads take more registers */
    static constexpr int kThreads = 256;
    static constexpr int kRegisters = 128; /* of the fused kernels: four warps in each quarter of an SM */
    static constexpr int kWarps = kThreads / kWarpSize;
    static constexpr bool kSquaresFit = std::is_same<T, F16>::value;
    static constexpr float kSmallest = 0x1p-90f;
    static constexpr float kScaleUp = 0x1p100f;
    static constexpr float kScaleDown = 0x1p-80f;
};

/* Chunks of 16 bytes, and of one element. */
template <class T>
using WideRope = RopeTraits<T, kVecWidth<T>>;
template <class T>
using NarrowRope = RopeTraits<T, 1>;

/* The weights of the norm of q and of k, to shared memory. */
template <class T, int kWidth>
__device__ __forceinline__ void copy_weights(const fflash_rope_params &params, T *weights) {
    using Chunk = fflash::Chunk<T, kWidth>;
    const int chunks = params.head_dim / kWidth;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    for (int i = thread; i < 2 * chunks; i += blockDim.x * blockDim.y * blockDim.z) {
        const bool is_q = i < chunks;
        const void *from = params.heads[is_q ? 0 : 1].weight;
        float one[kWidth];
#pragma unroll
        for (int j = 0; j < kWidth; ++j) one[j] = 1.0f - params.weight_offset;
        Chunk chunk = pack<T>(one);
        if (from) chunk = static_cast<const Chunk *>(from)[is_q ? i : i - chunks];
        reinterpret_cast<Chunk *>(weights)[i] = chunk;
    }
}

/* Where the token's k and v go, in elements from the start of the pages; negative where they are not written. */
template <bool kNorm>
__device__ __forceinline__ void find_places(const fflash_rope_params &params, int64_t token, int64_t *places) {
    if (threadIdx.x != 0 || threadIdx.y != 0) return;
    if (kNorm && params.slots == nullptr) return; /* without the norm only a cache makes a call fused */
    const int64_t slot = params.slots[token];
    const int64_t page = slot / params.page_size;
    const int64_t of_page = slot - page * params.page_size;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int64_t place = page * params.pages[i].page_stride + of_page * params.pages[i].token_stride;
        places[i] = slot < 0 ? -1 : place;
    }
}

/* Tells of the index for which a token was left out, unless it is past the last. */
__device__ __forceinline__ void tell_of_fault(const fflash_rope_params &params, int64_t token) {
    if (params.faults == nullptr || token >= params.tokens || threadIdx.x != 0 || threadIdx.y != 0) return;
    const auto fault = (unsigned long long)(token << 1 | fault_of(params, token));
    atomicMin(reinterpret_cast<unsigned long long *>(params.faults), fault);
}

template <class Traits, bool kNorm, bool kCache>
__device__ __forceinline__ void rope_heads(const fflash_rope_params &params) {
    using T = typename Traits::T;
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ float partials[kNorm ? Traits::kNormHeads : 1][Traits::kWarps];
    const int plane = angle_plane<Traits::kWidth>(params);
    float *angles = reinterpret_cast<float *>(shared);
    float *cos = angles + threadIdx.z * (2 * plane);
    float *sin = cos + plane;
    int64_t *places = reinterpret_cast<int64_t *>(angles + blockDim.z * (2 * plane));
    T *weights = reinterpret_cast<T *>(places + 2 * blockDim.z);
    places += 2 * threadIdx.z;

    const int64_t token = int64_t(blockIdx.x) * blockDim.z + threadIdx.z;
    const bool alive = is_alive(params, token);
    if (!alive) tell_of_fault(params, token);
    RopeShare<Traits, kNorm, kCache> share(params, token, alive);
    share.load();
    if constexpr (kNorm) copy_weights<T, Traits::kWidth>(params, weights);
    compute_angles<Traits::kWidth>(params, angles);
    if (kCache && alive) find_places<kNorm>(params, token, places);
    __syncthreads();
    const bool here = alive && share.has_column();
    if (here && share.turns()) share.keep_angles(params, cos, sin);
    if (kCache && here) share.keep_place(params, places);
    if constexpr (kNorm) {
        if (here) share.keep_weights(params, weights);
        /* The threads of a warp, or of a block, add their sums together: all go along to the last lot. */
        for (int lot = 0;;) {
            float inverse[Traits::kNormHeads];
            share.normalise(inverse, params, partials);
            share.store(params, inverse);
            if (++lot == params.lots) return;
            share.load();
        }
    } else {
        if (!here) return;
        for (;;) {
            share.store(params, {});
            if (share.done()) return;
            share.load();
        }
    }
}

template <class Traits>
__device__ __forceinline__ void rope(const fflash_rope_params &params) {
    rope_heads<Traits, false, false>(params);
}

template <class Traits>
__device__ __forceinline__ void rope_fused(const fflash_rope_params &params) {
    if (params.normalise) {
        rope_heads<Traits, true, true>(params);
    } else {
        rope_heads<Traits, false, true>(params);
    }
}

}  // namespace fflash
