/*
 * Root-mean-square normalisation: out[r, c] = x[r, c] / sqrt(mean_c(x[r, c]^2) + eps) * (weight_offset + weight[c]).
 *
 * A row is a sequence of chunks of kWidth elements, one access each; the first ones stay in registers as f32, kSlots per
 * thread. Three variants:
 *   (none)   16-byte chunks, rows of whole warps: warp w holds chunks [32 * kSlots * w, 32 * kSlots * (w + 1)), its lanes
 *            stride by 32, so that every address is a base and a constant.
 *   short    16-byte chunks, rows of at most 16 * kSlots: 1, 2, 4, 8 or 16 lanes share a row and stride by their number.
 *   narrow   as the first with chunks of one element, for widths, strides and addresses that do not allow 16 bytes.
 * Block   (lanes, rows): `lanes` threads share a row. More than one row only where a row does not span warps.
 * Grid    x = ceil(rows / block rows).
 *
 * x is read from global memory once. A row of more than kSlots * kThreads chunks keeps the next kSharedBytes in dynamic
 * shared memory, where every thread reads back only what it wrote itself; only what exceeds that is read again.
 *   columns read once              16-byte chunks   narrow
 *     f16, bf16: in registers               32768     8192
 *                and shared memory          81920    57344
 *     f32:       in registers               16384     8192
 *                and shared memory          40960    32768
 *
 * Shared memory: dynamic as above; static 128 bytes, a partial sum per warp for each of two reductions, so that the second need
 * not wait for the readers of the first. Barriers: one for each reduction of a row that spans warps.
 *
 * Rounding: f32 throughout, then once to T. 1 + w is not rounded: y * (1 + w) is the one fma y * w + y.
 *
 * Range: squares of bf16 and f32 leave the range of f32. A row whose mean square plus eps is outside [kSmallest, FLT_MAX] is
 * done again in plain loops (and read again: nothing has been stored yet) after scaling by a power of two: 2^-80 if it
 * was too large (then some |x| > 2^48, and what the scaling flushes to zero is below 2^-94 of it), 2^100 if it was too
 * small (then all |x| < 2^-29, and the square of the smallest subnormal becomes 2^-98). f16 needs none of this. Rows with
 * infinities and NaN, which also come that way, are what arithmetic makes of them: with an infinity 1 / sqrt(inf) = 0, hence 0
 * where x is finite and NaN where it is not; with a NaN all NaN.
 *
 * Preconditions (checked by the host): rows >= 1, width >= 1, eps finite and not negative, weight_offset 0 or 1; a block is whole
 * warps, at most kThreads threads; lanes * kSlots chunks cover the row, or lanes = kThreads and dynamic shared memory
 * is as above. For 16-byte chunks the width is a whole number of them, addresses and row strides are multiples of 16
 * bytes. out may be x if their strides are equal; otherwise nothing overlaps out.
 *
 * Source: Zhang, Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467).
 */
#pragma once

#include <float.h>
#include <stdint.h>

#include <type_traits>

#include "../common/chunk.cuh"
#include "../common/ptx.cuh"
#include "../common/reduce.cuh"
#include "../common/types.cuh"
#include "../params.h"

namespace fflash {

template <class T_, int kWidth_, bool kShort_>
struct RmsNormTraits {
    using T = T_;
    static constexpr int kWidth = kWidth_;             /* elements per chunk */
    static constexpr bool kShort = kShort_;            /* rows lie inside a warp */
    static constexpr int kSlots = kWidth > 1 ? 8 : 16; /* chunks of a thread in registers */
    static constexpr int kThreads = 512;
    static constexpr int kWarps = kThreads / kWarpSize;
    static constexpr int kSharedBytes = 96 * 1024;
    static constexpr int kSharedChunks = kSharedBytes / int(sizeof(T) * kWidth);
    static constexpr bool kSquaresFit = std::is_same<T, F16>::value;
    static constexpr float kSmallest = 0x1p-90f;
    static constexpr float kScaleUp = 0x1p100f;
    static constexpr float kScaleDown = 0x1p-80f;
};

/*
 * Sum over the threads of a row, the same bits in each. All threads of the block must call it, each
 * time with other `partials`, one per warp.
 */
template <class Traits>
__device__ __forceinline__ float row_sum(float x, float *partials) {
    const uint32_t lanes = blockDim.x;
    if constexpr (Traits::kShort) {
#pragma unroll
        for (uint32_t mask = kWarpSize / 4; mask > 0; mask /= 2) {
            const float other = __shfl_xor_sync(kFullWarp, x, mask);
            if (mask < lanes) x += other;
        }
        return x;
    }
    x = lanes_sum(x);
    if (lanes == kWarpSize) return x;
    if (threadIdx.x % kWarpSize == 0) partials[threadIdx.x / kWarpSize] = x;
    __syncthreads();
    const uint32_t warp = threadIdx.x % Traits::kWarps; /* whose sum this lane takes */
    return lanes_sum<Traits::kWarps>(warp < lanes / kWarpSize ? partials[warp] : 0.0f);
}

/*
 * x / y and 1 / sqrt(x). 16-bit results hide the last bit of the approximations; for f32 results a Newton step corrects it,
 * except where the step itself is not finite: at 0 and infinity the approximations are exact.
 */
template <class T>
__device__ __forceinline__ float quotient(float x, float y) {
    const float inverse = ptx::rcp_approx_ftz(y);
    const float q = x * inverse;
    if constexpr (sizeof(T) == 2) return q;
    const float rest = fmaf(-q, y, x);
    return fabsf(rest) <= FLT_MAX ? fmaf(rest, inverse, q) : q;
}
template <class T>
__device__ __forceinline__ float inverse_root(float x) {
    const float r = ptx::rsqrt_approx(x);
    if constexpr (sizeof(T) == 2) return r;
    const float root = x * r;
    const float rest = fmaf(-fmaf(x, r, -root), r, fmaf(-root, r, 1.0f));
    return fabsf(rest) <= FLT_MAX ? fmaf(0.5f * r, rest, r) : r;
}

/* Where a row lies. */
template <class Traits>
struct RmsNormRow {
    using T = typename Traits::T;
    using Chunk = fflash::Chunk<T, Traits::kWidth>;

    const Chunk *x;
    const Chunk *weight;
    Chunk *out;
    int chunks; /* 0 past the last row */

    __device__ __forceinline__ static RmsNormRow of(const fflash_rms_norm_params &params) {
        const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
        return {
            reinterpret_cast<const Chunk *>(static_cast<const T *>(params.x) + row * params.x_row_stride),
            static_cast<const Chunk *>(params.weight),
            reinterpret_cast<Chunk *>(static_cast<T *>(params.out) + row * params.out_row_stride),
            row < params.rows ? int(uint32_t(params.width) / Traits::kWidth) : 0,
        };
    }
};

template <int kWidth>
__device__ __forceinline__ void add_squares(float &sum, const float (&x)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum = fmaf(x[i], x[i], sum);
}

template <int kWidth>
__device__ __forceinline__ void multiply(float (&x)[kWidth], float factor) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i] *= factor;
}

/* x * inverse * w, or x * inverse * (1 + w). */
template <class T, bool kOnePlus, int kWidth>
__device__ __forceinline__ Chunk<T, kWidth> normalised(const float (&x)[kWidth], float inverse, Chunk<T, kWidth> weight) {
    float w[kWidth];
    unpack(w, weight);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        const float y = x[i] * inverse;
        w[i] = kOnePlus ? fmaf(y, w[i], y) : y * w[i];
    }
    return pack<T>(w);
}

/* One thread's share of a row that is read once. */
template <class Traits>
class RmsNormShare {
    using T = typename Traits::T;
    using Row = RmsNormRow<Traits>;
    using Chunk = typename Row::Chunk;
    static constexpr int kSlots = Traits::kSlots;

public:
    /* Issues all loads of x and weight that registers have room for. `kept` is the dynamic shared memory. */
    __device__ __forceinline__ RmsNormShare(const Row &row, Chunk *kept) : row_(row), kept_(kept) {
        const int log2_stride = Traits::kShort ? 31 - __clz(blockDim.x) : 5;
        held_ = (row.chunks - first() + stride() - 1) >> log2_stride;
        Chunk x[kSlots];
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            x[slot] = {};
            load_if(slot < held_, x[slot], row.x + first() + slot * stride());
        }
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            load_if(slot < held_, w_[slot], row.weight + first() + slot * stride());
        }
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) unpack(x_[slot], x[slot]);
    }

    /* This thread's sum of squares; fills shared memory. */
    __device__ __forceinline__ float squares() {
        float sum = 0.0f;
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) add_squares(sum, x_[slot]);
        for (int c = rest(); c < row_.chunks; c += blockDim.x) {
            const Chunk chunk = row_.x[c];
            if (place(c) < Traits::kSharedChunks) kept_[place(c)] = chunk;
            float x[Traits::kWidth];
            unpack(x, chunk);
            add_squares(sum, x);
        }
        return sum;
    }

    template <bool kOnePlus>
    __device__ __forceinline__ void store(float inverse) const {
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            const Chunk out = normalised<T, kOnePlus>(x_[slot], inverse, w_[slot]);
            store_if(slot < held_, row_.out + first() + slot * stride(), out);
        }
        for (int c = rest(); c < row_.chunks; c += blockDim.x) {
            Chunk chunk;
            if (place(c) < Traits::kSharedChunks) {
                chunk = kept_[place(c)];
            } else {
                chunk = row_.x[c];
            }
            float x[Traits::kWidth];
            unpack(x, chunk);
            row_.out[c] = normalised<T, kOnePlus>(x, inverse, row_.weight[c]);
        }
    }

private:
    /* The chunks in registers are first(), first() + stride(), ... */
    __device__ __forceinline__ static int stride() { return Traits::kShort ? int(blockDim.x) : kWarpSize; }
    __device__ __forceinline__ static int first() {
        if constexpr (Traits::kShort) return threadIdx.x;
        return threadIdx.x / kWarpSize * (kWarpSize * kSlots) + threadIdx.x % kWarpSize;
    }

    /* The others are rest(), rest() + blockDim.x, ..., and place() is where shared memory has them. A short row has none. */
    __device__ __forceinline__ int rest() const {
        return Traits::kShort ? row_.chunks : int(blockDim.x) * kSlots + int(threadIdx.x);
    }
    __device__ __forceinline__ static int place(int c) { return c - int(blockDim.x) * kSlots; }

    Row row_;
    Chunk *kept_;
    int held_; /* slots that hold a chunk; in the others x is 0 */
    float x_[kSlots][Traits::kWidth];
    Chunk w_[kSlots];
};

/* The whole operation in plain loops for rows that must be scaled by a power of two; `scale` is 1 for others in their warp. */
template <class Traits>
__device__ __forceinline__ void rms_norm_scaled(const fflash_rms_norm_params &params, float scale, float *partials) {
    using T = typename Traits::T;
    const RmsNormRow<Traits> row = RmsNormRow<Traits>::of(params);
    const auto load = [&](float(&x)[Traits::kWidth], int c) {
        unpack(x, row.x[c]);
        multiply(x, scale);
    };
    float sum = 0.0f;
    float x[Traits::kWidth];
    for (int c = threadIdx.x; c < row.chunks; c += blockDim.x) {
        load(x, c);
        add_squares(sum, x);
    }
    const float mean = quotient<T>(row_sum<Traits>(sum, partials), float(params.width)) + params.eps * scale * scale;
    const float inverse = inverse_root<T>(mean);
    for (int c = threadIdx.x; c < row.chunks; c += blockDim.x) {
        load(x, c);
        row.out[c] = params.weight_offset == 0.0f ? normalised<T, false>(x, inverse, row.weight[c])
                                                  : normalised<T, true>(x, inverse, row.weight[c]);
    }
}

template <class Traits>
__device__ __forceinline__ void rms_norm(const fflash_rms_norm_params &params) {
    using T = typename Traits::T;
    using Row = RmsNormRow<Traits>;
    extern __shared__ __align__(16) unsigned char kept[];
    __shared__ float partials[2][Traits::kWarps];
    RmsNormShare<Traits> share(Row::of(params), reinterpret_cast<typename Row::Chunk *>(kept));

    const float sum = row_sum<Traits>(share.squares(), partials[0]);
    const float mean = quotient<T>(sum, float(params.width)) + params.eps;
    if constexpr (!Traits::kSquaresFit) {
        const bool fits = mean >= Traits::kSmallest && mean <= FLT_MAX;
        if (__any_sync(kFullWarp, !fits)) {
            const float scale = fits ? 1.0f : mean < Traits::kSmallest ? Traits::kScaleUp : Traits::kScaleDown;
            return rms_norm_scaled<Traits>(params, scale, partials[1]);
        }
    }
    const float inverse = inverse_root<T>(mean);
    if (params.weight_offset == 0.0f) {
        share.template store<false>(inverse);
    } else {
        share.template store<true>(inverse);
    }
}

}  // namespace fflash
