/*
 * What the kernels of the RMSNorm family have in common: which chunks of a row a thread holds, operands whose type the
 * parameters tell, and reductions over a row.
 *
 * A row is a sequence of chunks of kWidth elements, one access each. The first ones stay in registers as f32, kSlots per thread:
 *   long    rows of whole warps: warp w holds chunks [32 * kSlots * w, 32 * kSlots * (w + 1)), its lanes stride by 32, so that every
 *           address is a base and a constant.
 *   short   1, 2, 4, 8 or 16 lanes share a row and stride by their number.
 * Block   (lanes, rows): `lanes` threads share a row. More than one row only where a row does not span warps.
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
#include "exchange.cuh"

namespace fflash {

/* Stands for the element types where each operand has its own, told by the parameters. */
struct Any {};

/*
 * kT: the type of all operands, or Any. kWidth: elements per chunk, so that a chunk of the widest operand is 16 bytes; 1 for addresses
 * and extents that do not allow that. kShort: rows lie inside a warp.
 */
template <class T_, int kWidth_, bool kShort_>
struct RowTraits {
    using T = T_;
    using Kept = std::conditional_t<std::is_same<T, Any>::value, float, T>; /* what holds any value of a row exactly */
    static constexpr int kWidth = kWidth_;
    static constexpr bool kShort = kShort_;
    static constexpr bool kFull = false; /* the slots all hold a chunk, and nothing asks */
    static constexpr bool kSplit = false; /* several blocks may share a row */
    static constexpr int kThreads = 512;
    static constexpr int kWarps = kThreads / kWarpSize;
    static constexpr bool kSquaresFit = std::is_same<T, F16>::value;
    static constexpr bool kHalf = std::is_same<T, F16>::value || std::is_same<T, Bf16>::value;
    /* Rows of which the mean square is outside [kSmallest, FLT_MAX] are scaled by one of these (norm.cuh, "Range"). */
    static constexpr float kSmallest = 0x1p-90f;
    static constexpr float kScaleUp = 0x1p100f;
    static constexpr float kScaleDown = 0x1p-80f;
};

/* The same for threads whose slots all hold a chunk: the usual ones, in fewer instructions. */
template <class Traits>
struct FullTraits : Traits {
    static constexpr bool kFull = true;
};

/* Calls f with an element of the type in question. */
template <class T, class F>
__device__ __forceinline__ void with_type(int dtype, F f) {
    if constexpr (std::is_same<T, Any>::value) {
        if (dtype == FFLASH_DTYPE_F32) {
            f(float{});
        } else if (dtype == FFLASH_DTYPE_BF16) {
            f(Bf16{});
        } else {
            f(F16{});
        }
    } else {
        f(T{});
    }
}

/* The address `elements` behind `data`, which may be null where it is not used. */
template <class T>
__device__ __forceinline__ unsigned char *behind(const void *data, int64_t elements, int dtype) {
    auto *bytes = const_cast<unsigned char *>(static_cast<const unsigned char *>(data));
    if constexpr (std::is_same<T, Any>::value) {
        return bytes + (elements << (dtype == FFLASH_DTYPE_F32 ? 2 : dtype <= FFLASH_DTYPE_BF16 ? 1 : 0));
    } else {
        return bytes + elements * int64_t(sizeof(T));
    }
}

/* kCount chunks of a row: first, first + stride(), ..., of which `held` exist. */
template <class Traits, int kCount_>
struct Slots {
    static constexpr int kCount = kCount_;

    int first;
    int held;

    __device__ __forceinline__ static int stride() { return Traits::kShort ? int(blockDim.x) : kWarpSize; }
    __device__ __forceinline__ bool has(int n) const { return Traits::kFull || n < held; }

    __device__ __forceinline__ int at(int n) const { return first + n * stride(); }

    /* The kPart of them from n on. */
    template <int kPart>
    __device__ __forceinline__ Slots<Traits, kPart> part(int n) const {
        return {at(n), held - n};
    }

    /* Those in registers, of a row of so many chunks. */
    __device__ __forceinline__ static Slots in_registers(int chunks) {
        const int log2_stride = Traits::kShort ? 31 - __clz(blockDim.x) : 5;
        const int thread = threadIdx.x;
        const int first =
            Traits::kShort ? thread : thread / kWarpSize * (kWarpSize * kCount) + thread % kWarpSize;
        return {first, (chunks - first + stride() - 1) >> log2_stride};
    }
};

/* Loads those of the chunks of the row at `row` that exist. The others are 0 with kZero, and otherwise keep what they are. */
template <bool kZero, class T, int kWidth, class Traits, int kCount>
__device__ __forceinline__ void load(Chunk<T, kWidth> (&chunks)[kCount], Slots<Traits, kCount> slots, const void *row) {
    const auto *from = static_cast<const Chunk<T, kWidth> *>(row) + slots.first;
    __builtin_assume(__isGlobal(from));
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
        if constexpr (Traits::kFull) {
            chunks[n] = from[n * slots.stride()];
        } else {
            if (kZero) chunks[n] = {};
            load_if(slots.has(n), chunks[n], from + n * slots.stride());
        }
    }
}

/* The same as f32. */
template <bool kZero, int kWidth, class Traits, int kCount>
__device__ __forceinline__ void load(float (&x)[kCount][kWidth], Slots<Traits, kCount> slots, const void *row, int dtype) {
    with_type<typename Traits::T>(dtype, [&](auto element) {
        Chunk<decltype(element), kWidth> chunks[kCount];
        load<kZero>(chunks, slots, row);
#pragma unroll
        for (int n = 0; n < kCount; ++n) unpack(x[n], chunks[n]);
    });
}

/* Rounds x to a type and stores it. With kKeep, x is then what was stored. */
template <bool kKeep, int kWidth, class Traits, int kCount>
__device__ __forceinline__ void store(float (&x)[kCount][kWidth], Slots<Traits, kCount> slots, void *row, int dtype) {
    with_type<typename Traits::T>(dtype, [&](auto element) {
        using T = decltype(element);
        auto *to = reinterpret_cast<Chunk<T, kWidth> *>(row) + slots.first;
        __builtin_assume(__isGlobal(to));
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            const Chunk<T, kWidth> chunk = pack<T>(x[n]);
            if constexpr (Traits::kFull) {
                to[n * slots.stride()] = chunk;
            } else {
                store_if(slots.has(n), to + n * slots.stride(), chunk);
            }
            if constexpr (kKeep) unpack(x[n], chunk);
        }
    });
}

template <int kWidth, class Traits, int kCount>
__device__ __forceinline__ void round_to(float (&x)[kCount][kWidth], Slots<Traits, kCount>, int dtype) {
    with_type<typename Traits::T>(dtype, [&](auto element) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) unpack(x[n], pack<decltype(element)>(x[n]));
    });
}

template <int kCount, int kWidth>
__device__ __forceinline__ void multiply(float (&x)[kCount][kWidth], float factor) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) x[n][i] *= factor;
    }
}

struct Add {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

/* Of magnitudes; NaN where there is one. */
struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const { return ptx::max_nan(a, b); }
};

/* Shared memory of RowReduction: two values of each warp, for each of two calls in turn, and two of all blocks that share a row. */
template <int kWarps>
struct RowPartials {
    float of[2][2][kWarps];
    float found[2];
};

/*
 * Reduces kCount values over the threads of a row, to the same bits in each. All threads of the block must call it. A
 * row that spans warps takes one barrier: the partial results of two calls in turn lie apart, and who writes those of the
 * call after the next has passed the next one's barrier, before which everyone has read these.
 */
template <class Traits>
class RowReduction {
public:
    using Partials = RowPartials<Traits::kWarps>;

    using Exchange = std::conditional_t<Traits::kSplit, RowExchange, NoExchange>;

    __device__ __forceinline__ explicit RowReduction(Partials &partials, uint32_t *exchange = nullptr)
        : partials_(partials), exchange_(exchange, partials.found) {}

    template <class Op>
    __device__ __forceinline__ float operator()(float value, Op op) {
        float values[1] = {value};
        (*this)(values, op);
        return values[0];
    }

    template <int kCount, class Op>
    __device__ __forceinline__ void operator()(float (&values)[kCount], Op op) {
        const uint32_t lanes = blockDim.x;
        if constexpr (Traits::kShort) {
#pragma unroll
            for (uint32_t mask = kWarpSize / 4; mask > 0; mask /= 2) {
#pragma unroll
                for (int k = 0; k < kCount; ++k) {
                    const float other = __shfl_xor_sync(kFullWarp, values[k], mask);
                    if (mask < lanes) values[k] = op(values[k], other);
                }
            }
        } else {
            butterfly<kWarpSize>(values, op);
            if (lanes == kWarpSize) return;
            auto &partials = partials_.of[turn_];
            turn_ ^= 1;
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
                if (threadIdx.x % kWarpSize == 0) partials[k][threadIdx.x / kWarpSize] = values[k];
            }
            __syncthreads();
            const uint32_t warp = threadIdx.x % Traits::kWarps; /* whose result this lane takes */
#pragma unroll
            for (int k = 0; k < kCount; ++k) values[k] = warp < lanes / kWarpSize ? partials[k][warp] : 0.0f;
            butterfly<Traits::kWarps>(values, op);
            if constexpr (Traits::kSplit) {
                if (gridDim.y > 1) exchange_(values, op);
            }
        }
    }

private:
    Partials &partials_;
    Exchange exchange_;
    int turn_ = 0;
};

/*
 * x / y and 1 / sqrt(x). 16-bit results hide the last bit of the approximations; with kExact a Newton step corrects it,
 * except where the step itself is not finite: at 0 and infinity the approximations are exact.
 */
template <bool kExact>
__device__ __forceinline__ float quotient(float x, float y) {
    const float inverse = ptx::rcp_approx_ftz(y);
    const float q = x * inverse;
    if constexpr (!kExact) return q;
    const float rest = fmaf(-q, y, x);
    return fabsf(rest) <= FLT_MAX ? fmaf(rest, inverse, q) : q;
}
template <bool kExact>
__device__ __forceinline__ float inverse_root(float x) {
    const float r = ptx::rsqrt_approx(x);
    if constexpr (!kExact) return r;
    const float root = x * r;
    const float rest = fmaf(-fmaf(x, r, -root), r, fmaf(-root, r, 1.0f));
    return fabsf(rest) <= FLT_MAX ? fmaf(0.5f * r, rest, r) : r;
}

}  // namespace fflash
