/*
 * Which of the forward kernels of the RMSNorm family there are, and where a row of theirs lies.
 */
#pragma once

#include "row.cuh"

namespace fflash {

enum class Form { kPlain, kAdd, kCentre, kEvery };

template <class T_, int kWidth_, bool kShort_, Form kForm_>
struct NormTraits : RowTraits<T_, kWidth_, kShort_> {
    static constexpr Form kForm = kForm_;
    static constexpr bool kEvery = kForm == Form::kEvery;
    static constexpr bool kHasMean = kEvery || kForm == Form::kCentre;
    static constexpr int kSlots = kEvery ? 4 : 8; /* chunks of a thread in registers */
    static constexpr int kPart = kForm == Form::kAdd || kForm == Form::kCentre ? 2 : 4; /* of which operands are loaded at a time */
    static constexpr int kTailSlots = kWidth_ > 1 ? 1 : 4; /* of a step beyond them: a warp has whole groups */
};

/* Where a row lies. Out is Any where it may be quantised. */
template <class T, class Out, bool kParts>
struct NormPlaceOf {
    const void *x;
    void *out;
    const void *weight;
    uint32_t row;
    bool exists;
    bool all_exist; /* the block's rows */

    __device__ __forceinline__ static NormPlaceOf of(const fflash_norm_params &params) {
        if (kParts && blockIdx.x >= params.first_block) {
            return of(params, params.parts[1], blockIdx.x - params.first_block);
        }
        return of(params, params.parts[0], blockIdx.x);
    }

private:
    __device__ __forceinline__ static NormPlaceOf of(const fflash_norm_params &params, const fflash_norm_part &part,
                                                   uint32_t block) {
        const uint32_t first = block * blockDim.y; /* rows and the rest of a block are less than 2^32 */
        const uint32_t row = first + threadIdx.y;
        uint32_t token = row;
        int64_t x_head = 0, out_head = 0;
        if (kParts && part.heads > 1) {
            token = row / uint32_t(part.heads);
            const uint32_t head = row - token * part.heads;
            x_head = head * part.x_strides.heads;
            out_head = head * part.out_strides.heads;
        }
        return {
            behind<T>(part.x, token * part.x_strides.tokens + x_head, params.x_dtype),
            behind<Out>(part.out, token * part.out_strides.tokens + out_head, params.out_dtype),
            part.weight,
            row,
            row < uint32_t(part.rows),
            first + blockDim.y <= uint32_t(part.rows),
        };
    }
};

template <class Traits>
using NormPlace = NormPlaceOf<typename Traits::T, std::conditional_t<Traits::kEvery, Any, typename Traits::T>,
                              Traits::kForm != Form::kAdd>;

}  // namespace fflash
