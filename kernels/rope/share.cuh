/*
 * One thread's share of the heads of a token: which chunks it moves, and what it does to them.
 *
 * A head is divided into pairs of chunks, the columns; threadIdx.x chooses one. The first columns hold the rotated part: a chunk of
 * each of its halves, kWidth pairs between the two half-split, kWidth / 2 whole pairs in each interleaved (with chunks of one
 * element: the two of a pair). Later columns, where there are any, hold two chunks of the rest, before and behind the rotated part: one
 * of its first half, one of its second, so that consecutive threads access consecutive chunks. The very last one may have only one.
 */
#pragma once

#include <float.h>
#include <stdint.h>

#include <type_traits>

#include "../common/chunk.cuh"
#include "../common/fp8.cuh"
#include "../common/ptx.cuh"
#include "../common/reduce.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "angles.cuh"

namespace fflash {

/* Where the chunks of a column begin, in elements from the start of the head; second is 0 where there is none. */
struct RopeColumn {
    int first;
    int second; /* from first on */
    bool rotates;

    template <int kWidth>
    __device__ __forceinline__ static RopeColumn of(const fflash_rope_params &params) {
        const int column = threadIdx.x;
        if (column * kWidth < params.rotary_pairs) {
            const bool neighbours = kWidth == 1 && params.interleaved;
            return {params.rotary_offset + column * (neighbours ? 2 : kWidth), neighbours ? 1 : params.rotary_pairs, true};
        }
        const int rotating = uint32_t(params.rotary_pairs) / kWidth;
        const int first = in_rest(params, (column - rotating) * kWidth);
        const int second = in_rest(params, (column + params.columns - 2 * rotating) * kWidth);
        return {first, second < params.head_dim ? second - first : 0, false};
    }

private:
    /* Where the element of the rest with this index is. */
    __device__ __forceinline__ static int in_rest(const fflash_rope_params &params, int rest) {
        return rest < params.rotary_offset ? rest : rest + 2 * params.rotary_pairs;
    }
};

/* Which elements of a column turn together. */
enum class RopePairs { kNone, kHalfSplit, kInterleaved };

/* Calls f(first, second, pair) for the elements of each pair that two chunks hold. */
template <RopePairs kPairs, int kWidth, class F>
__device__ __forceinline__ void for_pairs(float (&a)[kWidth], float (&b)[kWidth], F f) {
    constexpr int kHalf = kWidth / 2;
#pragma unroll
    for (int pair = 0; pair < kWidth; ++pair) {
        if constexpr (kPairs == RopePairs::kHalfSplit || kWidth == 1) {
            f(a[pair], b[pair], pair);
        } else if (pair < kHalf) {
            f(a[2 * pair], a[2 * pair + 1], pair);
        } else {
            f(b[2 * (pair - kHalf)], b[2 * (pair - kHalf) + 1], pair);
        }
    }
}

template <int kWidth>
__device__ __forceinline__ void scale_by(float (&x)[kWidth], float factor) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i] *= factor;
}

template <class Traits, bool kNorm, bool kCache>
class RopeShare {
    using T = typename Traits::T;
    static constexpr int kWidth = Traits::kWidth;
    static constexpr int kHeads = kNorm ? Traits::kNormHeads : Traits::kHeads;
    using Chunk = fflash::Chunk<T, kWidth>;

public:
    __device__ __forceinline__ RopeShare(const fflash_rope_params &params, int64_t token, bool alive)
        : column_(RopeColumn::of<kWidth>(params)) {
        int thread = blockIdx.y * blockDim.y + threadIdx.y;
        role_ = 0;
#pragma unroll
        for (int before = 0; before < (kCache ? 2 : 1); ++before) {
            if (role_ == before && thread >= params.heads[before].threads) {
                thread -= params.heads[before].threads;
                ++role_;
            }
        }
        const fflash_rope_heads &heads = params.heads[role_];
        heads_ = &heads;
        pages_ = &params.pages[role_ == 2];
        step_ = heads.threads;
        left_ = heads.heads - thread;
        /* Some threads may be over, and with the norm some lanes, whose number is a power of two. */
        has_column_ = !kNorm || int(threadIdx.x) < params.columns;
        if (!alive || !has_column_ || thread >= step_) left_ = 0;
        next_ = static_cast<const T *>(heads.x) + token * heads.x_strides.tokens + thread * heads.x_strides.heads + column_.first;
        out_ = static_cast<T *>(heads.out) + token * heads.out_strides.tokens + thread * heads.out_strides.heads + column_.first;
        if constexpr (kCache) {
            /* In place, what neither rotates nor is normalised stays; of q, which is not cached, it is not even read. */
            const bool stays = !kNorm && !column_.rotates && heads.out == heads.x;
            has_out_ = heads.out != nullptr && !stays;
            if (stays && role_ == 0) left_ = 0;
        }
        if constexpr (kNorm) {
#pragma unroll
            for (int i = 0; i < kHeads; ++i) a_[i] = b_[i] = {};
        }
    }

    /* Which head the i-th of those held is, where it is live. */
    __device__ __forceinline__ int head(int i) const { return heads_->heads - left_ - (kHeads - i) * step_; }

    /* True when no head is left to load. */
    __device__ __forceinline__ bool done() const { return left_ <= 0; }

    /* Issues the loads of the next heads. */
    __device__ __forceinline__ void load() {
        left_ -= kHeads * step_;
        if (full()) {
            load_lot<true>();
        } else {
            load_lot<false>();
        }
    }

    /* False for lanes that only fill up a power of two. */
    __device__ __forceinline__ bool has_column() const { return has_column_; }

    /* True where the angles of the token matter to this thread. */
    __device__ __forceinline__ bool turns() const { return column_.rotates && role_ < 2; }

    /* Keeps the cosines and sines of this thread's pairs. */
    __device__ __forceinline__ void keep_angles(const fflash_rope_params &params, const float *cos, const float *sin) {
        if constexpr (kWidth == 1) {
            cos_[0] = cos[threadIdx.x];
            sin_[0] = sin[threadIdx.x];
        } else {
            using Half = Vec<float, kWidth / 2>;
            const int second = uint32_t(params.angle_region) / (kWidth / 2) + threadIdx.x;
            copy(&cos_[0], reinterpret_cast<const Half *>(cos)[threadIdx.x]);
            copy(&cos_[kWidth / 2], reinterpret_cast<const Half *>(cos)[second]);
            copy(&sin_[0], reinterpret_cast<const Half *>(sin)[threadIdx.x]);
            copy(&sin_[kWidth / 2], reinterpret_cast<const Half *>(sin)[second]);
        }
    }

    /*
     * Makes of the angles and the weight of the norm what an element is multiplied by: of a pair (x, y) with weights (v, w),
     * x' = x * (v cos) - y * (w sin) and y' = x * (v sin) + y * (w cos). `weights` are those of q, then of k.
     */
    __device__ __forceinline__ void keep_weights(const fflash_rope_params &params, const T *weights) {
        float v[kWidth], w[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; ++i) v[i] = w[i] = 1.0f;
        if (role_ < 2) {
            const T *of_head = weights + role_ * params.head_dim + column_.first;
            unpack(v, *reinterpret_cast<const Chunk *>(of_head));
            if (column_.second != 0) unpack(w, *reinterpret_cast<const Chunk *>(of_head + column_.second));
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                v[i] += params.weight_offset;
                w[i] += params.weight_offset;
            }
        }
        const auto keep = [&](float of_x, float of_y, int pair) {
            x_cos_[pair] = of_x * cos_[pair];
            y_cos_[pair] = of_y * cos_[pair];
            x_sin_[pair] = of_x * sin_[pair];
            y_sin_[pair] = of_y * sin_[pair];
        };
        if (turns()) {
            if (params.interleaved) {
                for_pairs<RopePairs::kInterleaved>(v, w, keep);
            } else {
                for_pairs<RopePairs::kHalfSplit>(v, w, keep);
            }
        } else {
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                x_cos_[i] = v[i];
                y_cos_[i] = w[i];
            }
        }
    }

    /* Where this token's k or v goes in the cache; negative: nowhere. */
    __device__ __forceinline__ void keep_place(const fflash_rope_params &params, const int64_t *places) {
        cached_ = false;
        if (role_ == 0 || params.slots == nullptr) return;
        const int64_t place = places[role_ - 1];
        cached_ = place >= 0;
        const fflash_rope_pages &pages = *pages_;
        const int64_t bytes = page_bytes(params);
        cache_ = static_cast<char *>(pages.pages) + (place + head(0) * pages.head_stride + column_.first) * bytes;
        cache_second_ = column_.second * int(bytes);
    }

    /* Of an element of the cache. */
    __device__ __forceinline__ static int64_t page_bytes(const fflash_rope_params &params) {
        return params.cache_type == FFLASH_PAGES_SAME ? sizeof(T) : 1;
    }

    /* Does to the heads that load() brought what is asked for, and stores them; `inverse` comes from normalise(). */
    __device__ __forceinline__ void store(const fflash_rope_params &params, const float (&inverse)[kHeads]) {
        if (kCache || turns()) turn(params, inverse);
        if (full()) {
            store_lot<true>(params);
        } else {
            store_lot<false>(params);
        }
    }

    /* 1 / the root mean square of every head held; 1 for v. With the norm all threads of the block come along. */
    __device__ __forceinline__ void normalise(float (&inverse)[kHeads], const fflash_rope_params &params,
                                              float (*partials)[Traits::kWarps]) {
        float mean[kHeads];
        squares(mean, partials);
        bool fit = true;
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            mean[i] = fmaf(mean[i], params.inverse_head_dim, params.eps);
            fit = fit && (fits(mean[i]) || !live(i));
        }
        if constexpr (!Traits::kSquaresFit) {
            const bool all_fit = blockDim.x > kWarpSize ? __syncthreads_and(fit) : __all_sync(kFullWarp, fit);
            if (!all_fit) scale_up_or_down(mean, params, partials);
        }
#pragma unroll
        for (int i = 0; i < kHeads; ++i) inverse[i] = role_ < 2 ? ptx::rsqrt_approx(mean[i]) : 1.0f;
    }

private:
    /* Bytes from a head of this thread to its next. Strides are read where they are needed: kept, they would be registers. */
    __device__ __forceinline__ int64_t cache_step(const fflash_rope_params &params) const {
        return step_ * pages_->head_stride * page_bytes(params);
    }

    /* Whether there is an i-th of those held. */
    __device__ __forceinline__ bool live(int i) const { return left_ > (i - kHeads) * step_; }

    /* No head of those held is missing, nor a chunk of one. */
    __device__ __forceinline__ bool full() const { return live(kHeads - 1) && column_.second != 0; }

    __device__ __forceinline__ static void copy(float *to, Vec<float, (kWidth > 1 ? kWidth / 2 : 1)> from) {
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) to[i] = from[i];
    }

    template <bool kFull>
    __device__ __forceinline__ void load_lot() {
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            const Chunk *first = reinterpret_cast<const Chunk *>(next_);
            const Chunk *second = reinterpret_cast<const Chunk *>(next_ + column_.second);
            if constexpr (kFull) {
                a_[i] = *first;
                b_[i] = *second;
            } else {
                load_if(live(i), a_[i], first);
                load_if(live(i) && column_.second != 0, b_[i], second);
            }
            next_ += step_ * heads_->x_strides.heads;
        }
    }

    template <bool kFull>
    __device__ __forceinline__ void store_lot(const fflash_rope_params &params) {
        const int64_t step = step_ * heads_->out_strides.heads;
        if (!kCache || has_out_) put<kFull>(reinterpret_cast<char *>(out_), column_.second * int(sizeof(T)), step * sizeof(T));
        out_ += kHeads * step;
        if constexpr (kCache) {
            if (cached_ && params.cache_type == FFLASH_PAGES_SAME) put<kFull>(cache_, cache_second_, cache_step(params));
            cache_ += kHeads * cache_step(params);
        }
    }

    /* Stores the heads held, `step` bytes apart. */
    template <bool kFull>
    __device__ __forceinline__ void put(char *to, int second, int64_t step) const {
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            Chunk *first = reinterpret_cast<Chunk *>(to);
            if constexpr (kFull) {
                *first = a_[i];
                *reinterpret_cast<Chunk *>(to + second) = b_[i];
            } else {
                store_if(live(i), first, a_[i]);
                store_if(live(i) && second != 0, reinterpret_cast<Chunk *>(to + second), b_[i]);
            }
            to += step;
        }
    }

    /* Normalises and rotates the heads held. Those of FP8 are stored at once, before they are rounded. */
    __device__ __forceinline__ void turn(const fflash_rope_params &params, const float (&inverse)[kHeads]) {
        const bool as_f8 = kCache && cached_ && params.cache_type != FFLASH_PAGES_SAME;
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            float a[kWidth], b[kWidth];
            unpack(a, a_[i]);
            unpack(b, b_[i]);
            if constexpr (kNorm) {
                scale_by(a, inverse[i]);
                scale_by(b, inverse[i]);
            }
            if (kCache && !turns()) {
                if constexpr (kNorm) multiply(a, b);
            } else if (kWidth > 1 && params.interleaved) {
                rotate<RopePairs::kInterleaved>(a, b);
            } else {
                rotate<RopePairs::kHalfSplit>(a, b);
            }
            if constexpr (kCache) {
                if (as_f8 && live(i)) store_f8(params, i, a, b);
            }
            a_[i] = pack<T>(a);
            b_[i] = pack<T>(b);
        }
    }

    template <RopePairs kPairs>
    __device__ __forceinline__ void rotate(float (&a)[kWidth], float (&b)[kWidth]) const {
        for_pairs<kPairs>(a, b, [&](float &x, float &y, int pair) {
            const float old = x;
            if constexpr (kNorm) {
                x = fmaf(old, x_cos_[pair], -y * y_sin_[pair]);
                y = fmaf(old, x_sin_[pair], y * y_cos_[pair]);
            } else {
                x = fmaf(old, cos_[pair], -y * sin_[pair]);
                y = fmaf(old, sin_[pair], y * cos_[pair]);
            }
        });
    }

    /* Where nothing rotates, keep_weights() has put the weights here. */
    __device__ __forceinline__ void multiply(float (&a)[kWidth], float (&b)[kWidth]) const {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            a[i] *= x_cos_[i];
            b[i] *= y_cos_[i];
        }
    }

    __device__ __forceinline__ void store_f8(const fflash_rope_params &params, int i, const float (&a)[kWidth],
                                             const float (&b)[kWidth]) const {
        char *at = cache_ + i * cache_step(params);
        const fflash_rope_pages &pages = *pages_;
        float inverse_scale = pages.inverse_scale;
        if (pages.scales) inverse_scale = __frcp_rn(pages.scales[head(i) * pages.scale_stride]);
        const ToF8 to(inverse_scale, params.cache_type == FFLASH_PAGES_E4M3);
        if constexpr (kWidth == 1) {
            *reinterpret_cast<uint8_t *>(at) = uint8_t(to(a[0], 0.0f, 0.0f, 0.0f));
            if (cache_second_ != 0) *reinterpret_cast<uint8_t *>(at + cache_second_) = uint8_t(to(b[0], 0.0f, 0.0f, 0.0f));
        } else {
            using Words = Vec<uint32_t, kWidth / 4>;
            const Words of_a = to_f8(to, a), of_b = to_f8(to, b);
            if (params.cache_joined) {
                store_joined(at, of_a, of_b);
            } else {
                *reinterpret_cast<Words *>(at) = of_a;
                if (cache_second_ != 0) *reinterpret_cast<Words *>(at + cache_second_) = of_b;
            }
        }
    }

    template <class Words = Vec<uint32_t, kWidth / 4>>
    __device__ __forceinline__ static Words to_f8(const ToF8 &to, const float (&x)[kWidth]) {
        Words words;
#pragma unroll
        for (int i = 0; i < kWidth / 4; ++i) words[i] = to(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
        return words;
    }

    /*
     * Stores the chunks of columns next to each other in accesses of 16 bytes: the first lane those of their first chunks, the next
     * those of their second ones. `at` is where this lane's first chunk goes.
     */
    template <class Words>
    __device__ __forceinline__ void store_joined(char *at, Words of_a, Words of_b) const {
        constexpr int kWords = kWidth / 4, kLanes = 4 / kWords;
        const uint32_t lane = ptx::lane(), members = ((1u << kLanes) - 1) << (lane / kLanes * kLanes);
        const bool is_odd = lane % 2 != 0;
        /* Takes the second number in odd lanes. Of a conditional the compiler makes branches, with a shuffle in each. */
        const uint32_t bytes = is_odd ? 0x7654 : 0x3210;
        uint32_t words[2 * kWords];
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
            const uint32_t other = __shfl_xor_sync(members, __byte_perm(of_b[i], of_a[i], bytes), 1);
            words[i] = __byte_perm(of_a[i], other, bytes);
            words[kWords + i] = __byte_perm(other, of_b[i], bytes);
        }
        const uint4 joined = join_words<2>(words, members);
        if (lane % kLanes < 2) *reinterpret_cast<uint4 *>(at + (is_odd ? cache_second_ - kWidth : 0)) = joined;
    }

    __device__ __forceinline__ static bool fits(float mean) { return mean >= Traits::kSmallest && mean <= FLT_MAX; }

    /* Heads whose squares leave the range of f32, times a power of two, and their means again. */
    __device__ __forceinline__ void scale_up_or_down(float (&mean)[kHeads], const fflash_rope_params &params,
                                                     float (*partials)[Traits::kWarps]) {
        float scale[kHeads];
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            const bool is_small = mean[i] < Traits::kSmallest;
            scale[i] = fits(mean[i]) || role_ == 2 ? 1.0f : is_small ? Traits::kScaleUp : Traits::kScaleDown;
            float a[kWidth], b[kWidth];
            unpack(a, a_[i]);
            unpack(b, b_[i]);
            scale_by(a, scale[i]);
            scale_by(b, scale[i]);
            a_[i] = pack<T>(a);
            b_[i] = pack<T>(b);
        }
        squares(mean, partials);
#pragma unroll
        for (int i = 0; i < kHeads; ++i) mean[i] = fmaf(mean[i], params.inverse_head_dim, params.eps * scale[i] * scale[i]);
    }

    /* The sum of squares of every head held, the same bits in each of its threads. */
    __device__ __forceinline__ void squares(float (&sum)[kHeads], float (*partials)[Traits::kWarps]) const {
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            float a[kWidth], b[kWidth];
            unpack(a, a_[i]);
            unpack(b, b_[i]);
            sum[i] = 0.0f;
#pragma unroll
            for (int j = 0; j < kWidth; ++j) sum[i] = fmaf(a[j], a[j], fmaf(b[j], b[j], sum[i]));
        }
        const int lanes = blockDim.x;
#pragma unroll 1
        for (int mask = min(lanes, kWarpSize) / 2; mask > 0; mask /= 2) {
#pragma unroll
            for (int i = 0; i < kHeads; ++i) sum[i] += __shfl_xor_sync(kFullWarp, sum[i], mask);
        }
        if (lanes > kWarpSize) add_warps(sum, partials);
    }

    /* Adds the sums of the warps that share a head. Every warp of the block comes here, as often as the others. */
    __device__ __forceinline__ static void add_warps(float (&sum)[kHeads], float (*partials)[Traits::kWarps]) {
        const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        const int warps = blockDim.x / kWarpSize;
        const int first = (threadIdx.z * blockDim.y + threadIdx.y) * warps;
        __syncthreads(); /* the sums before these have been read */
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            if (thread % kWarpSize == 0) partials[i][thread / kWarpSize] = sum[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kHeads; ++i) {
            sum[i] = 0.0f;
#pragma unroll 1
            for (int warp = 0; warp < warps; ++warp) sum[i] += partials[i][first + warp];
        }
    }

    RopeColumn column_;
    bool has_column_;
    const fflash_rope_heads *heads_;
    const fflash_rope_pages *pages_;
    int role_; /* 0: q, 1: k, 2: v */
    int step_; /* heads from one of this thread to its next */
    int left_; /* heads from the next one to the last */
    const T *next_;
    T *out_;
    bool has_out_;
    bool cached_;
    char *cache_;
    int cache_second_;
    Chunk a_[kHeads];
    Chunk b_[kHeads];
    float cos_[kWidth];
    float sin_[kWidth];
    float x_cos_[kWidth], y_cos_[kWidth], x_sin_[kWidth], y_sin_[kWidth]; /* with the norm, also weighted */
};

}  // namespace fflash
