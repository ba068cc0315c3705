/*
 * Quantised outputs: f32 to the types of one byte, four at a time, and dynamic scales. Rounds to nearest even, saturates at the
 * largest finite value. FP8 is converted by common/fp8.cuh; NaN in i8 becomes 0.
 */
#pragma once

#include <float.h>
#include <stdint.h>

#include "../common/fp8.cuh"
#include "../common/ptx.cuh"
#include "../params.h"
#include "row.cuh"

namespace fflash {

/* The largest finite value of a type, by which dynamic scales are the largest magnitude divided. */
__device__ __forceinline__ float quantised_max(int dtype) {
    return dtype == FFLASH_DTYPE_E4M3 ? 448.0f : dtype == FFLASH_DTYPE_E5M2 ? 57344.0f : 127.0f;
}

/* Four numbers times a factor as integers, as ToF8 does it. */
class ToI8 {
public:
    __device__ __forceinline__ ToI8(float inverse_scale, bool) : factor_(inverse_scale) {}
    __device__ __forceinline__ uint32_t operator()(float a, float b, float c, float d) const {
        return __byte_perm(pair(a, b), pair(c, d), 0x5410);
    }

private:
    __device__ __forceinline__ uint32_t pair(float lo, float hi) const {
        return __byte_perm(ptx::s8_from_f32(lo * factor_), ptx::s8_from_f32(hi * factor_), 0x0040);
    }

    float factor_;
};

/* Elements of the smallest and the largest group with a scale of its own. */
constexpr int kSmallestGroup = 64;
constexpr int kLargestGroup = 128;

__host__ __device__ constexpr int lanes_of_group(int group, int width) { return group / width < kWarpSize ? group / width : kWarpSize; }

/* The largest magnitude of each chunk. */
template <int kCount, int kWidth, class Traits>
__device__ __forceinline__ void largest(float (&of)[kCount], const float (&x)[kCount][kWidth], Slots<Traits, kCount> slots) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
        of[n] = 0.0f;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) of[n] = ptx::max_nan(of[n], fabsf(x[n][i]));
        if (!slots.has(n)) of[n] = 0.0f;
    }
}

/* A row of a quantised output and its scales. */
class QuantisedRow {
public:
    /* `first` is the first of the columns. */
    __device__ __forceinline__ QuantisedRow(const fflash_norm_params &params, uint32_t row, int first)
        : params_(params), row_(row), first_(first) {}

    /* 1 / scale of elements up to `largest`; stores the scale as that of a group if `stores`. */
    __device__ __forceinline__ float set_scale(uint32_t group, float largest, bool stores) const {
        const float scale = ptx::max_nan(__fdiv_rn(largest, quantised_max(params_.out_dtype)), FLT_MIN);
        if (stores) params_.scales[row_ * params_.scales_row_stride + group * params_.scales_group_stride] = scale;
        return __frcp_rn(scale);
    }

    /* Of a scale for each group: makes `factors` their inverses. A group is some lanes of some slots. */
    template <int kCount, int kWidth, class Traits>
    __device__ __forceinline__ void set_group_scales(float (&factors)[kCount], const float (&x)[kCount][kWidth],
                                                     Slots<Traits, kCount> slots) const {
        const int chunks = uint32_t(params_.group) / kWidth; /* a power of two */
        const int log2_chunks = 31 - __clz(chunks);
        const int lanes = min(chunks, slots.stride());
        constexpr int kFewestLanes = Traits::kShort ? 1 : lanes_of_group(kSmallestGroup, kWidth);
        constexpr int kMostLanes = Traits::kShort ? kWarpSize / 2 : lanes_of_group(kLargestGroup, kWidth);
        float of[kCount];
        largest(of, x, slots);
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
#pragma unroll
            for (int mask = kMostLanes / 2; mask > 0; mask /= 2) {
                const float other = __shfl_xor_sync(kFullWarp, of[n], mask);
                if (mask < kFewestLanes || mask < lanes) of[n] = ptx::max_nan(of[n], other);
            }
        }
#pragma unroll
        for (int step = 1; step < kCount; step *= 2) {
            if (step * lanes >= chunks) break;
#pragma unroll
            for (int n = 0; n < kCount; ++n) {
                if (n & step) of[n] = of[n - step] = ptx::max_nan(of[n], of[n - step]);
            }
        }
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            const int at = slots.at(n);
            factors[n] = set_scale((at + uint32_t(first_) / kWidth) >> log2_chunks, of[n],
                                   slots.has(n) && (at & (chunks - 1)) == 0);
        }
    }

    /* Stores x * factors, a factor for each chunk; with kJoined in accesses of 16 bytes, which the rows of out are whole ones of. */
    template <bool kJoined, int kCount, int kWidth, class Traits>
    __device__ __forceinline__ void store(const float (&x)[kCount][kWidth], Slots<Traits, kCount> slots, void *out,
                                          const float (&factors)[kCount]) const {
        if (params_.out_dtype == FFLASH_DTYPE_I8) {
            store_as<ToI8, kJoined>(x, slots, out, factors);
        } else {
            store_as<ToF8, kJoined>(x, slots, out, factors);
        }
    }

private:
    template <class To, bool kJoined, int kCount, int kWidth, class Traits>
    __device__ __forceinline__ void store_as(const float (&x)[kCount][kWidth], Slots<Traits, kCount> slots, void *out,
                                             const float (&factors)[kCount]) const {
        auto *to_row = static_cast<unsigned char *>(out);
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            const To to(factors[n], params_.out_dtype == FFLASH_DTYPE_E4M3);
            unsigned char *at = to_row + slots.at(n) * kWidth;
            if constexpr (kJoined) {
                uint32_t words[kWidth / 4];
#pragma unroll
                for (int k = 0; k < kWidth / 4; ++k) words[k] = to(x[n][4 * k], x[n][4 * k + 1], x[n][4 * k + 2], x[n][4 * k + 3]);
                const uint4 joined = join_words<1>(words, kFullWarp);
                ptx::st_global_16_if(threadIdx.x % (16 / kWidth) == 0 && slots.has(n), at, joined);
            } else if constexpr (kWidth == 8) {
                const uint2 words = {to(x[n][0], x[n][1], x[n][2], x[n][3]), to(x[n][4], x[n][5], x[n][6], x[n][7])};
                ptx::st_global_8_if(slots.has(n), at, words);
            } else if constexpr (kWidth == 4) {
                ptx::st_global_4_if(slots.has(n), at, to(x[n][0], x[n][1], x[n][2], x[n][3]));
            } else {
                if (slots.has(n)) *at = static_cast<unsigned char>(to(x[n][0], 0.0f, 0.0f, 0.0f));
            }
        }
    }

    const fflash_norm_params &params_;
    const uint32_t row_;
    const int first_;
};

}  // namespace fflash
