/*
 * Chunks: what the kernels that stream memory move in one access, either 16 bytes or, where addresses or extents do not
 * allow that, one element. Unpacked, a chunk is an array of f32.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "ptx.cuh"
#include "types.cuh"

namespace fflash {

/* kWidth consecutive elements as they lie in memory. 16-bit elements are held in pairs: apart, each would take a register. */
template <class T, int kWidth>
struct Chunk {
    static constexpr bool kPairs = sizeof(T) == 2 && kWidth > 1;
    using Word = std::conditional_t<kPairs, uint32_t, T>;
    Vec<Word, kPairs ? kWidth / 2 : kWidth> words;
};

/* Loads the chunk at `from`, or leaves `chunk` as it is without touching memory. */
template <class T, int kWidth>
__device__ __forceinline__ void load_if(bool wanted, Chunk<T, kWidth> &chunk, const Chunk<T, kWidth> *from) {
    if constexpr (sizeof chunk == 16) {
        uint4 bits;
        memcpy(&bits, &chunk, sizeof bits);
        ptx::ld_global_16_if(wanted, bits, from);
        memcpy(&chunk, &bits, sizeof bits);
    } else if constexpr (sizeof chunk == 8) {
        uint2 bits;
        memcpy(&bits, &chunk, sizeof bits);
        ptx::ld_global_8_if(wanted, bits, from);
        memcpy(&chunk, &bits, sizeof bits);
    } else {
        if (wanted) chunk = *from;
    }
}

template <class T, int kWidth>
__device__ __forceinline__ void store_if(bool wanted, Chunk<T, kWidth> *to, Chunk<T, kWidth> chunk) {
    if constexpr (sizeof chunk == 16) {
        uint4 bits;
        memcpy(&bits, &chunk, sizeof chunk);
        ptx::st_global_16_if(wanted, to, bits);
    } else if constexpr (sizeof chunk == 8) {
        uint2 bits;
        memcpy(&bits, &chunk, sizeof chunk);
        ptx::st_global_8_if(wanted, to, bits);
    } else {
        if (wanted) *to = chunk;
    }
}

/*
 * The 16 bytes of 4 / kWords lanes, kStep apart, each of which has kWords of their words; for the first of them. All lanes of
 * `members` must call it.
 */
template <int kStep, int kWords>
__device__ __forceinline__ uint4 join_words(const uint32_t (&words)[kWords], uint32_t members) {
    uint32_t all[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) all[k] = k < kWords ? words[k] : __shfl_down_sync(members, words[k % kWords], k / kWords * kStep);
    return {all[0], all[1], all[2], all[3]};
}

/* Exact. */
template <class T, int kWidth>
__device__ __forceinline__ void unpack(float (&x)[kWidth], Chunk<T, kWidth> chunk) {
    if constexpr (Chunk<T, kWidth>::kPairs) {
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) {
            const float2 pair = unpack_f32<T>(chunk.words[i]);
            x[2 * i] = pair.x;
            x[2 * i + 1] = pair.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) x[i] = to_f32(chunk.words[i]);
    }
}

/* Rounds to nearest even. */
template <class T, int kWidth>
__device__ __forceinline__ Chunk<T, kWidth> pack(const float (&x)[kWidth]) {
    Chunk<T, kWidth> chunk;
    if constexpr (Chunk<T, kWidth>::kPairs) {
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) chunk.words[i] = pack_f32<T>(x[2 * i], x[2 * i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) chunk.words[i] = from_f32<T>(x[i]);
    }
    return chunk;
}

}  // namespace fflash
