/*
 * The forward kernels of the RMSNorm family. For every row, of which h is x or what Form says (params.h):
 *   out[c] = (h[c] - mean) / sqrt(mean_c((h[c] - mean)^2) + eps) * weight[c] + bias[c], times gate[c] * sigmoid(gate[c])
 * where mean is 0 but for LayerNorm. Which chunks of a row a thread holds is said in row.cuh.
 *
 * Form    kPlain     out = norm(x) * weight, and nothing else: no mean, no partial statistics, no option of rounding.
 *         kAdd       the same of h = round(x + residual), which is stored too.
 *         kCentre    LayerNorm of x, with and without weight and bias, and nothing else.
 *         kGate      norm(x) * weight times the gate.
 *         kPost      kAdd of round(norm(x) * post_weight) instead of x.
 *         kQuantise  kPlain or kAdd with a quantised output, whose rows are whole accesses of 16 bytes.
 *         kEvery     everything, as the parameters say: branches that all threads take alike, none inside a loop over elements.
 * Grid    x = for each part ceil(rows / block rows), y = blocks that share a row.
 *
 * x is read from global memory once. Of a row of more than kSlots * kThreads chunks the tail stays in dynamic shared memory, as
 * much as the launch gives, where every thread reads back only what it wrote itself:
 *                                      in registers   and in shared memory of sm_80   of sm_90
 *   eight slots: f16, bf16             32768 columns                 115968 columns     148736 columns
 *                f32                   16384                          57984              74368
 *   four: chunks of 8                  16384                          99584             132352
 *         chunks of 4                   8192                          49792              66176
 *         chunks of 1                   2048                          43648              60032
 * Longer rows take kEvery: several blocks share a row, each has some columns of it, and reductions go over the blocks too
 * (exchange.cuh).
 * Except with kEvery, blocks whose rows all exist and fill their threads' slots take code of their own, without guards.
 *
 * Shared memory: dynamic as above; static 264 bytes, two partial results per warp for each of two reductions in turn, and two results
 * of blocks that share a row (row.cuh).
 * Barriers: one for each reduction of a row that spans warps. There is one for the mean square, two for LayerNorm, one
 * more for a second norm and for a scale per row. Where blocks share a row one more for each.
 *
 * Rounding: f32 throughout; h is rounded to the residual's type and is what is normalised; the post-norm rounds to the type of x; out
 * is rounded once. With FFLASH_NORM_LLAMA norm(h) is rounded to the type of h before it is multiplied. 1 + w is not rounded:
 * y * (1 + w) is the one fma y * w + y, and y * w + bias is one fma. A quantised element is out * inverse, rounded once, where
 * inverse = 1 / scale; a scale is max(largest |out| / largest finite value, 2^-126), each division rounded to nearest. A NaN
 * among the elements that share a scale makes the scale NaN, and hence all of them (0 in i8, which has none).
 *
 * Range: squares of bf16 and f32 leave the range of f32. A row whose mean square plus eps is outside [kSmallest, FLT_MAX] is
 * multiplied by a power of two and summed again: 2^-80 if it was too large (then some |x| > 2^48, and what the
 * scaling flushes to zero is below 2^-94 of it), 2^100 if it was too small (then all |x| < 2^-29, and the square of the smallest
 * subnormal becomes 2^-98). For LayerNorm, whose sums are of differences from the mean, such a row (h) is loaded again. If they were
 * too large it is scaled before the mean is found, since that or a difference from it may have been infinite; if they were too small,
 * after the mean is subtracted, since that may be large. f16 needs none of this. Rows with infinities and NaN, which also
 * come that way, are what arithmetic makes of them: with an infinity 1 / sqrt(inf) = 0, hence 0 where x is finite and NaN where it
 * is not, but all NaN for LayerNorm; with a NaN all NaN. The mean of LayerNorm is corrected by the mean of what is left after
 * subtracting it, which cancels its rounding.
 *
 * Preconditions (checked by the host): rows >= 1, width >= 1, 1 <= stat_width <= width, eps finite and not negative; a block is whole
 * warps, at most kThreads threads; lanes * kSlots chunks cover the row, or lanes = kThreads and dynamic shared memory
 * is whole steps of a warp (512 bytes), enough for the tail; where blocks share a row, of a block's columns, lanes = kThreads, all
 * blocks run at once, their columns cover the row and each has one at least. The width is a whole number of
 * chunks, addresses and row strides are multiples of a chunk of their type.
 * Outputs may be inputs of the same type and strides; otherwise nothing overlaps an output. The width is a multiple of group.
 *
 * Source: Zhang, Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467); Ba et al., "Layer Normalization" (arXiv
 * 1607.06450).
 */
#pragma once

#include "place.cuh"
#include "quantise.cuh"
#include "weigh.cuh"

namespace fflash {

/* One thread's share of a row. */
template <class Traits>
class NormRow {
    using T = typename Traits::T;
    using Partials = typename RowReduction<Traits>::Partials;
    using Kept = Chunk<typename Traits::Kept, Traits::kWidth>;
    static constexpr int kWidth = Traits::kWidth;
    static constexpr int kSlots = Traits::kSlots;
    static constexpr FormTraits kForm = Traits::kForm;
    template <int kCount>
    using Values = float[kCount][kWidth];
    template <int kCount>
    using SlotsOf = Slots<Traits, kCount>;

public:
    /* Issues all loads of x, and those of the operand that comes early. `kept` is the dynamic shared memory. */
    __device__ __forceinline__ NormRow(const fflash_norm_params &params, const NormPlace<Traits> &place, unsigned char *kept,
                                       Partials &partials)
        : params_(params),
          place_(place),
          first_(place.first_column(params)),
          chunks_(place.exists ? uint32_t(place.columns(params)) / kWidth : 0),
          kept_(reinterpret_cast<Kept *>(kept)),
          reduce_(partials, params.exchange),
          quantised_(params, place.row, first_),
          slots_(SlotsOf<kSlots>::in_registers(chunks_)),
          again_(place_.x),
          again_dtype_(params.x_dtype) {
        if constexpr (kForm.early == Early::kNone) {
            load<true>(x_, slots_, place_.x, params.x_dtype);
        } else {
            Chunk<T, kWidth> x[kSlots];
            load<true>(x, slots_, place_.x);
            if constexpr (kForm.early == Early::kWeight) load<false>(early_, slots_, place_.weight);
            if constexpr (kForm.early == Early::kResidual) load<true>(early_, slots_, residual());
            if constexpr (kForm.early == Early::kGate) load<false>(early_, slots_, gate());
#pragma unroll
            for (int n = 0; n < kSlots; ++n) unpack(x_[n], x[n]);
        }
        each_in_tail([&](auto &x, auto slots) {
            load<true>(x, slots, place_.x, params_.x_dtype);
            keep(x, slots);
        });
    }

    /* Makes h of x; finds the factor of norm(h), and for LayerNorm what is subtracted from h. */
    __device__ __forceinline__ void measure() {
        const bool add = has<kForm.residual>(params_.residual);
        const bool post = has<kForm.post>(params_.flags & FFLASH_NORM_POST);
        /* With a post-norm, x is measured first. One piece of code for both. */
        for (bool is_last = !post;; is_last = true) {
            if (add && is_last) add_residual(post);
            const int columns = has<kForm.columns>(is_last) ? params_.stat_width : params_.width;
            inverse_ = inverse_of(columns);
            if (is_last) break;
        }
    }

    __device__ __forceinline__ void write() {
        finish(x_, slots_);
        float factor = params_.inverse_scale;
        if (has<kForm.quantised>(true) && params_.group == params_.width) factor = row_scale();
        emit(x_, slots_, factor);
        each_in_tail([&](auto &x, auto slots) {
            fetch(x, slots);
            finish(x, slots);
            emit(x, slots, factor);
        });
    }

private:
    /* ---- The tail: what registers have no room for ---- */

    /* Calls f with room for the values of each step, and its slots. The threads of a warp go round equally often. */
    template <class F>
    __device__ __forceinline__ void each_in_tail(F f) {
        if constexpr (!Traits::kShort && !Traits::kFull) {
            constexpr int kCount = Traits::kTailSlots;
            const int lane = threadIdx.x % kWarpSize;
            const int warp_first = int(blockDim.x) * kSlots + int(threadIdx.x - lane) * kCount;
            for (int first = warp_first; first < chunks_; first += blockDim.x * kCount) {
                Values<kCount> x;
                const int left = chunks_ - first - lane;
                f(x, SlotsOf<kCount>{first + lane, (left + kWarpSize - 1) / kWarpSize});
            }
        }
    }

    /* Where shared memory has a chunk of the tail. */
    __device__ __forceinline__ static int kept_at(int chunk) { return chunk - int(blockDim.x) * kSlots; }

    template <int kCount>
    __device__ __forceinline__ void keep(Values<kCount> &x, SlotsOf<kCount> slots) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            if (slots.has(n)) kept_[kept_at(slots.at(n))] = pack<typename Traits::Kept>(x[n]);
        }
    }

    /* Values of the tail as those in registers are by now. */
    template <int kCount>
    __device__ __forceinline__ void fetch(Values<kCount> &x, SlotsOf<kCount> slots) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            Kept chunk = {};
            if (slots.has(n)) chunk = kept_[kept_at(slots.at(n))];
            unpack(x[n], chunk);
        }
        if constexpr (kForm.mean != Has::kNo) {
            if (!Traits::kSquaresFit) multiply(x, before_);
            subtract(x, slots, mean_);
        }
        if (!Traits::kSquaresFit) multiply(x, scale_);
    }

    template <int kCount>
    __device__ __forceinline__ static void subtract(Values<kCount> &x, SlotsOf<kCount> slots, float mean) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            const float here = slots.has(n) ? mean : 0.0f;
#pragma unroll
            for (int i = 0; i < kWidth; ++i) x[n][i] -= here;
        }
    }

    /* ---- Operands ---- */

    __device__ __forceinline__ const void *residual() const {
        return behind<T>(params_.residual, place_.row * params_.residual_row_stride, params_.residual_dtype);
    }
    __device__ __forceinline__ const void *gate() const {
        return behind<T>(params_.gate, place_.row * params_.gate_row_stride, params_.gate_dtype);
    }

    /*
     * A function that makes `to` the chunks of an operand that the slots from n on have: what came early, or loaded from `row`, where
     * all columns of the operand are.
     */
    template <Early kOperand, bool kZero, int kCount>
    __device__ __forceinline__ auto operand(SlotsOf<kCount> slots, const void *row, int dtype) const {
        const void *from = behind<T>(row, first_, dtype);
        return [this, slots, from, dtype](auto &to, int n) {
            constexpr int kPart = sizeof to / sizeof to[0];
            if constexpr (kOperand != Early::kNone && kOperand == kForm.early && kCount == kSlots) {
#pragma unroll
                for (int m = 0; m < kPart; ++m) unpack(to[m], early_[n + m]);
            } else {
                load<kZero>(to, slots.template part<kPart>(n), from, dtype);
            }
        };
    }

    __device__ __forceinline__ bool one_plus() const { return params_.flags & FFLASH_NORM_ONE_PLUS; }

    /* ---- h ---- */

    __device__ __forceinline__ void add_residual(bool post) {
        residual_ = residual();
        auto *sum =
            behind<T>(params_.residual_out, place_.row * params_.residual_out_row_stride + first_, params_.residual_dtype);
        add_residual(x_, slots_, post, sum);
        each_in_tail([&](auto &x, auto slots) {
            fetch(x, slots);
            add_residual(x, slots, post, sum);
            keep(x, slots);
        });
        again_ = sum;
        again_dtype_ = params_.residual_dtype;
        scale_ = 1.0f;
    }

    template <int kCount>
    __device__ __forceinline__ void add_residual(Values<kCount> &x, SlotsOf<kCount> slots, bool post, void *sum) {
        constexpr int kPart = kCount < Traits::kPart ? kCount : Traits::kPart;
        if (post) {
            multiply(x, inverse_);
            if (has<kForm.llama>(params_.flags & FFLASH_NORM_LLAMA)) round_to(x, slots, params_.x_dtype);
            /* What is past the row's end is still summed up: it must stay 0. */
            if (has<kForm.weight>(params_.post_weight)) {
                const auto load = operand<Early::kNone, true>(slots, params_.post_weight, params_.post_weight_dtype);
                weigh<Traits>(x, one_plus(), load, false, load);
            }
            round_to(x, slots, params_.x_dtype);
        }
        const auto load_residual = operand<Early::kResidual, true>(slots, residual_, params_.residual_dtype);
#pragma unroll
        for (int n = 0; n < kCount; n += kPart) {
            auto &part = reinterpret_cast<Values<kPart> &>(x[n]);
            const auto slots_of_part = slots.template part<kPart>(n);
            Values<kPart> residual;
            load_residual(residual, n);
#pragma unroll
            for (int m = 0; m < kPart; ++m) {
#pragma unroll
                for (int i = 0; i < kWidth; ++i) part[m][i] += residual[m][i];
            }
            store<true>(part, slots_of_part, sum, params_.residual_dtype);
        }
    }

    /* ---- Statistics ---- */

    /* Adds f(x) over the first `columns` columns of this thread's share; elements past the row's end are 0. */
    template <class F>
    __device__ __forceinline__ void add_up(int columns, F f) {
        const auto all = [&](auto &x, auto slots) {
            constexpr int kCount = decltype(slots)::kCount;
            if (has<kForm.columns>(columns != params_.width)) {
                const int here = columns - first_;
#pragma unroll
                for (int n = 0; n < kCount; ++n) {
#pragma unroll
                    for (int i = 0; i < kWidth; ++i) f(slots.at(n) * kWidth + i < here ? x[n][i] : 0.0f);
                }
            } else {
#pragma unroll
                for (int n = 0; n < kCount; ++n) {
#pragma unroll
                    for (int i = 0; i < kWidth; ++i) f(x[n][i]);
                }
            }
        };
        all(x_, slots_);
        each_in_tail([&](auto &x, auto slots) {
            fetch(x, slots);
            all(x, slots);
        });
    }

    __device__ __forceinline__ bool centre() const {
        return has<kForm.mean>(params_.flags & FFLASH_NORM_CENTRE);
    }

    /*
     * 1 / sqrt(mean square + eps), for LayerNorm of x_ less its mean, which is subtracted. If need be x_ is scaled by a power of two,
     * and the factor is for that.
     */
    __device__ __forceinline__ float inverse_of(int columns) {
        float eps = params_.eps;
        float scale_less_mean = 1.0f;
        for (bool again = false;; again = true) {
            if (centre()) {
                subtract_mean(columns);
                scale_ = scale_less_mean;
                if (again) multiply(x_, scale_);
            }
            const float found = mean_square(columns) + eps;
            const bool fits = found >= Traits::kSmallest && found <= FLT_MAX;
            if (Traits::kSquaresFit || again || !__any_sync(kFullWarp, !fits)) {
                return inverse_root<!Traits::kHalf>(found);
            }
            const bool is_small = found < Traits::kSmallest;
            const float scale = fits ? 1.0f : is_small ? Traits::kScaleUp : Traits::kScaleDown;
            if (centre()) {
                before_ = is_small ? 1.0f : scale;
                scale_less_mean = is_small ? scale : 1.0f;
                mean_ = 0.0f;
                load<true>(x_, slots_, again_, again_dtype_);
                multiply(x_, before_);
            } else {
                scale_ = scale;
                multiply(x_, scale_);
            }
            eps = eps * scale * scale;
        }
    }

    __device__ __forceinline__ float mean_square(int columns) {
        float sums[2] = {0.0f, 0.0f};
        if (!centre()) {
            add_up(columns, [&](float x) { sums[0] = fmaf(x, x, sums[0]); });
            return quotient<!Traits::kHalf>(reduce_(sums[0], Add()), float(columns));
        }
        add_up(columns, [&](float x) {
            sums[0] = fmaf(x, x, sums[0]);
            sums[1] += x;
        });
        reduce_(sums, Add());
        rest_ = quotient<!Traits::kHalf>(sums[1], float(columns));
        const float variance = fmaf(-rest_, rest_, quotient<!Traits::kHalf>(sums[0], float(columns)));
        return variance < 0.0f ? 0.0f : variance;
    }

    __device__ __forceinline__ void subtract_mean(int columns) {
        float sum = 0.0f;
        add_up(columns, [&](float x) { sum += x; });
        mean_ = quotient<!Traits::kHalf>(reduce_(sum, Add()), float(columns));
        subtract(x_, slots_, mean_);
    }

    /* ---- out ---- */

    /* x = what out is before it is rounded. */
    template <int kCount>
    __device__ __forceinline__ void finish(Values<kCount> &x, SlotsOf<kCount> slots) const {
        if (centre()) {
            const float shift = -rest_ * inverse_;
            apply<kCount, kWidth>([&](int n, int i) { x[n][i] = fmaf(x[n][i], inverse_, shift); });
        } else {
            multiply(x, inverse_);
        }
        if (has<kForm.llama>(params_.flags & FFLASH_NORM_LLAMA)) round_to(x, slots, again_dtype_);
        const bool has_bias = has<kForm.bias>(params_.bias);
        const auto load_bias = operand<Early::kNone, false>(slots, params_.bias, params_.bias_dtype);
        if (has<kForm.weight>(place_.weight)) {
            const auto load = operand<Early::kWeight, false>(slots, place_.weight, params_.weight_dtype);
            weigh<Traits>(x, one_plus(), load, has_bias, load_bias);
        } else if (has_bias) {
            combine<Traits>(x, load_bias, [](float y, float b) { return y + b; });
        }
        if (has<kForm.gate>(params_.gate)) {
            const auto load = operand<Early::kGate, false>(slots, gate(), params_.gate_dtype);
            combine<Traits>(x, load, [](float y, float g) { return times_silu(y, g); });
        }
    }

    /* ---- Quantisation ---- */

    /* Of one scale for the row: stores it and returns its inverse. x_ is finished. */
    __device__ __forceinline__ float row_scale() {
        float most = 0.0f;
        const auto all = [&](auto &x, auto slots) {
            constexpr int kCount = decltype(slots)::kCount;
            float of[kCount];
            largest(of, x, slots);
#pragma unroll
            for (int n = 0; n < kCount; ++n) most = ptx::max_nan(most, of[n]);
        };
        all(x_, slots_);
        each_in_tail([&](auto &x, auto slots) {
            fetch(x, slots);
            finish(x, slots);
            all(x, slots);
        });
        return quantised_.set_scale(0, reduce_(most, Max()), threadIdx.x == 0 && chunks_ > 0 && first_ == 0);
    }

    template <int kCount>
    __device__ __forceinline__ void emit(Values<kCount> &x, SlotsOf<kCount> slots, float factor) const {
        if (!has<kForm.quantised>(params_.out_dtype > FFLASH_DTYPE_F32)) {
            store<false>(x, slots, place_.out, params_.out_dtype);
            return;
        }
        float factors[kCount];
        if (params_.group == 0 || params_.group == params_.width) {
#pragma unroll
            for (int n = 0; n < kCount; ++n) factors[n] = factor;
        } else {
            quantised_.set_group_scales(factors, x, slots);
        }
        quantised_.store<kForm.quantised == Has::kYes>(x, slots, place_.out, factors);
    }

    const fflash_norm_params &params_;
    const NormPlace<Traits> place_;
    const int first_;  /* column; 0 but where blocks share a row */
    const int chunks_; /* 0 past the last row */
    Kept *const kept_;
    RowReduction<Traits> reduce_;
    const QuantisedRow quantised_;
    const Slots<Traits, kSlots> slots_;
    const void *residual_ = nullptr;
    const void *again_; /* h, where it is loaded again */
    int again_dtype_;   /* its type */
    float x_[kSlots][kWidth];
    Chunk<T, kWidth> early_[kForm.early == Early::kNone ? 1 : kSlots];
    float before_ = 1.0f, mean_ = 0.0f, scale_ = 1.0f; /* x_ is (h * before - mean) * scale */
    float rest_ = 0.0f;                                /* the mean of x_ of LayerNorm */
    float inverse_ = 0.0f;
};

template <class Traits>
__device__ __forceinline__ void norm_row(const fflash_norm_params &params, const NormPlace<Traits> &place, unsigned char *kept,
                                         RowPartials<Traits::kWarps> &partials) {
    NormRow<Traits> row(params, place, kept, partials);
    row.measure();
    row.write();
}

template <class Traits>
__device__ __forceinline__ void norm(const fflash_norm_params &params) {
    extern __shared__ __align__(16) unsigned char kept[];
    __shared__ RowPartials<Traits::kWarps> partials;
    const auto place = NormPlace<Traits>::of(params);
    if constexpr (!Traits::kEvery) {
        using Full = FullTraits<Traits>;
        if (place.all_exist && params.width == int(blockDim.x) * (Traits::kSlots * Traits::kWidth)) {
            return norm_row<Full>(params, place, kept, partials);
        }
    }
    norm_row<Traits>(params, place, kept, partials);
}

}  // namespace fflash

/* An entry point of these traits. */
#define FFLASH_NORM(symbol, ...)                                           \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__::kThreads, 1) \
        symbol(const __grid_constant__ fflash_norm_params params) {        \
        fflash::norm<__VA_ARGS__>(params);                                 \
    }
