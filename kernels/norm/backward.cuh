/*
 * Gradients of RMSNorm: for y = n * w with n = x * r, r = 1 / sqrt(mean(x^2) + eps) and w = weight or 1 + weight,
 *   dx[c] = (g[c] - n[c] * mean(g * n)) * r + dh[c] with g = dy * w;   dw[c] = sum over rows of dy[c] * n[c].
 * Where x is itself the sum of a residual and something else, dx is the gradient of both, and dh what the residual's later
 * uses add.
 *
 * norm_backward     Rows p, p + count, ... belong to the block row p = blockIdx.x * blockDim.y + threadIdx.y. Which chunks of them
 *                   a thread holds is said in row.cuh (long), the same ones of every row: it adds up their dw in registers and stores
 *                   the sums to partials[p] at the end. Chunks past kSlots * blockDim.x are read again in each of three
 *                   passes, and their sums are kept in partials[p] from the first row on.
 * norm_backward_weight   Blocks of (32 columns, 16): thread (c, k) adds partials k, k + 16, ...; thread (c, 0) adds the 16 sums.
 * Both orders depend on shapes only, so results are the same bits in every run. There are no atomics.
 *
 * Shared memory: 256 bytes for reductions (row.cuh); 2 KiB in norm_backward_weight, of which each thread writes its own word and a warp
 * reads 32 words in a row.
 * Barriers: in norm_backward two for each row that spans warps; in norm_backward_weight one.
 *
 * Rounding: f32 throughout, once at the end. Range: x is scaled as in norm.cuh before it is squared.
 *
 * Preconditions (checked by the host): 1 <= count <= rows, width >= 1, eps finite and not negative; a block is whole warps, at
 * most kThreads threads; more than one row in it only where lanes = 32; there are at least count block rows. The width is a
 * whole number of chunks, addresses and row strides of rows are multiples of a chunk of their type. dx may be dy, dh or x.
 *
 * Source: Zhang, Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467), section 4.
 */
#pragma once

#include "row.cuh"

namespace fflash {

template <class T_, int kWidth_>
struct NormBackwardTraits : RowTraits<T_, kWidth_, false> {
    static constexpr int kSlots = kWidth_ == 4 ? 4 : 2; /* chunks of a thread in registers */
};

template <class Traits>
class NormBackwardRow {
    using T = typename Traits::T;
    using Partials = typename RowReduction<Traits>::Partials;
    static constexpr int kWidth = Traits::kWidth;
    static constexpr int kSlots = Traits::kSlots;
    template <int kCount>
    using Values = float[kCount][kWidth];
    using Held = Slots<Traits, kSlots>;        /* in registers */
    using Tail = Slots<FullTraits<Traits>, 1>; /* one of the others */

public:
    __device__ __forceinline__ NormBackwardRow(const fflash_norm_backward_params &params, Partials &partials)
        : params_(params),
          reduce_(partials),
          chunks_(uint32_t(params.width) / kWidth),
          slots_(Held::in_registers(chunks_)) {
        clear(sums_);
    }

    /* dx of one row; adds to the sums of dw. */
    __device__ __forceinline__ void step(int64_t row, float *partials, bool is_first) {
        x_at_ = behind<T>(params_.x, row * params_.x_row_stride, params_.x_dtype);
        dy_at_ = behind<T>(params_.dy, row * params_.dy_row_stride, params_.dy_dtype);
        dh_at_ = behind<T>(params_.dh, row * params_.dh_row_stride, params_.dh_dtype);
        dx_at_ = behind<T>(params_.dx, row * params_.dx_row_stride, params_.dx_dtype);
        Values<kSlots> x, dy;
        load<true>(x, slots_, x_at_, params_.x_dtype);
        load<true>(dy, slots_, dy_at_, params_.dy_dtype);
        measure(x);
        float dot = 0.0f;
        multiply(x, inverse_);
        gradients(x, dy, slots_, sums_, dot);
        each_in_tail([&](auto slots) {
            Values<1> x, dy, sums;
            load_tail(x, dy, slots);
            if (is_first || !params_.partials) {
                clear(sums);
            } else {
                load_sums(sums, slots, partials);
            }
            gradients(x, dy, slots, sums, dot);
            if (params_.partials) store_sums(sums, slots, partials);
        });
        const float mean = quotient<true>(reduce_(dot, Add()), float(params_.width));
        finish(x, dy, slots_, mean);
        each_in_tail([&](auto slots) {
            Values<1> x, dy, unused;
            load_tail(x, dy, slots);
            clear(unused);
            gradients(x, dy, slots, unused, dot);
            finish(x, dy, slots, mean);
        });
    }

    __device__ __forceinline__ void store_sums(float *partials) const { store_sums(sums_, slots_, partials); }

private:
    template <class F>
    __device__ __forceinline__ void each_in_tail(F f) {
        for (int c = int(blockDim.x) * kSlots + int(threadIdx.x); c < chunks_; c += blockDim.x) f(Tail{c, 1});
    }

    template <int kCount>
    __device__ __forceinline__ static void clear(Values<kCount> &x) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
#pragma unroll
            for (int i = 0; i < kWidth; ++i) x[n][i] = 0.0f;
        }
    }

    /* x normalised and dy. */
    __device__ __forceinline__ void load_tail(Values<1> &x, Values<1> &dy, Tail slots) {
        load<true>(x, slots, x_at_, params_.x_dtype);
        load<true>(dy, slots, dy_at_, params_.dy_dtype);
        multiply(x, scale_);
        multiply(x, inverse_);
    }

    /* x is multiplied by scale_, and inverse_ is 1 / sqrt(mean(x^2) + eps) of what is then x. */
    __device__ __forceinline__ void measure(Values<kSlots> &x) {
        scale_ = 1.0f;
        for (bool again = false;; again = true) {
            float sum = 0.0f;
            const auto add = [&](auto &x) {
                for (auto &chunk : x) {
                    for (float element : chunk) sum = fmaf(element, element, sum);
                }
            };
            add(x);
            each_in_tail([&](auto slots) {
                Values<1> tail;
                load<true>(tail, slots, x_at_, params_.x_dtype);
                multiply(tail, scale_);
                add(tail);
            });
            const float mean = quotient<true>(reduce_(sum, Add()), float(params_.width));
            const float found = mean + params_.eps * scale_ * scale_;
            const bool fits = found >= Traits::kSmallest && found <= FLT_MAX;
            if (Traits::kSquaresFit || again || !__any_sync(kFullWarp, !fits)) {
                inverse_ = inverse_root<true>(found);
                return;
            }
            scale_ = fits ? 1.0f : found < Traits::kSmallest ? Traits::kScaleUp : Traits::kScaleDown;
            multiply(x, scale_);
        }
    }

    /* Of n and dy: adds to dw and to the sum of g * n, and makes g of dy. */
    template <int kCount, class SlotTraits>
    __device__ __forceinline__ void gradients(const Values<kCount> &x, Values<kCount> &dy, Slots<SlotTraits, kCount> slots,
                                              Values<kCount> &sums, float &dot) const {
        const bool one_plus = params_.one_plus;
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
#pragma unroll
            for (int i = 0; i < kWidth; ++i) sums[n][i] = fmaf(dy[n][i], x[n][i], sums[n][i]);
            if (params_.weight) {
                Values<1> w;
                load<true>(w, slots.template part<1>(n), params_.weight, params_.weight_dtype);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) {
                    dy[n][i] = fmaf(dy[n][i], w[0][i], one_plus ? dy[n][i] : 0.0f);
                }
            }
#pragma unroll
            for (int i = 0; i < kWidth; ++i) dot = fmaf(dy[n][i], x[n][i], dot);
        }
    }

    /* Stores dx of n and g. */
    template <int kCount, class SlotTraits>
    __device__ __forceinline__ void finish(Values<kCount> &x, const Values<kCount> &g, Slots<SlotTraits, kCount> slots,
                                           float mean) {
        const float factor = inverse_ * scale_;
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            auto &of_slot = reinterpret_cast<Values<1> &>(x[n]);
            const auto slot = slots.template part<1>(n);
#pragma unroll
            for (int i = 0; i < kWidth; ++i) x[n][i] = fmaf(-x[n][i], mean, g[n][i]) * factor;
            if (params_.dh) {
                Values<1> dh;
                load<true>(dh, slot, dh_at_, params_.dh_dtype);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) x[n][i] += dh[0][i];
            }
            store<false>(of_slot, slot, dx_at_, params_.dx_dtype);
        }
    }

    /* Partial sums are f32, 4 to an access where a chunk has as many; the halves of chunks of 8 lie apart, each next to the same half. */
    __device__ __forceinline__ int64_t sums_at(int chunk, int i) const {
        if constexpr (kWidth == 8) return (i / 4) * int64_t(params_.width / 2) + chunk * int64_t(4);
        return chunk * int64_t(kWidth);
    }

    __device__ __forceinline__ void load_sums(Values<1> &sums, Tail slots, const float *partials) const {
        constexpr int kVec = kWidth < 4 ? kWidth : 4;
#pragma unroll
        for (int i = 0; i < kWidth; i += kVec) {
            const auto *from = reinterpret_cast<const Chunk<float, kVec> *>(partials + sums_at(slots.first, i));
            unpack(reinterpret_cast<float(&)[kVec]>(sums[0][i]), *from);
        }
    }

    template <int kCount, class SlotTraits>
    __device__ __forceinline__ void store_sums(const Values<kCount> &sums, Slots<SlotTraits, kCount> slots,
                                               float *partials) const {
        constexpr int kVec = kWidth < 4 ? kWidth : 4;
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
#pragma unroll
            for (int i = 0; i < kWidth; i += kVec) {
                const auto chunk = pack<float>(reinterpret_cast<const float(&)[kVec]>(sums[n][i]));
                store_if(slots.has(n), reinterpret_cast<Chunk<float, kVec> *>(partials + sums_at(slots.at(n), i)), chunk);
            }
        }
    }

    const fflash_norm_backward_params &params_;
    RowReduction<Traits> reduce_;
    const int chunks_;
    const Held slots_;
    const void *x_at_, *dy_at_, *dh_at_;
    void *dx_at_;
    float sums_[kSlots][kWidth];
    float scale_ = 1.0f, inverse_ = 0.0f;
};

template <class Traits>
__device__ __forceinline__ void norm_backward(const fflash_norm_backward_params &params) {
    __shared__ typename RowReduction<Traits>::Partials partials;
    const int64_t p = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (p >= params.count) return; /* whole warps, and then there are no barriers */
    float *const sums = params.partials + p * params.width;
    NormBackwardRow<Traits> rows(params, partials);
    for (int64_t row = p; row < params.rows; row += params.count) rows.step(row, sums, row == p);
    if (params.partials) rows.store_sums(sums);
}

__device__ __forceinline__ void norm_backward_weight(const fflash_norm_backward_params &params) {
    constexpr int kRows = 16;
    __shared__ float sums[kRows][kWarpSize];
    const int64_t column = int64_t(blockIdx.x) * kWarpSize + threadIdx.x;
    float sum = 0.0f;
    if (column < params.width) {
        const int64_t half = column % 8 / 4 * int64_t(params.width / 2);
        const float *partials = params.partials + (params.split ? half + column / 8 * 4 + column % 4 : column);
        for (int p = threadIdx.y; p < params.count; p += kRows) sum += partials[int64_t(p) * params.width];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= params.width) return;
    for (int k = 1; k < kRows; ++k) sum += sums[k][threadIdx.x];
    with_type<Any>(params.dw_dtype, [&](auto element) {
        using T = decltype(element);
        static_cast<T *>(params.dw)[column] = from_f32<T>(sum);
    });
}

}  // namespace fflash
