/*
 * Which of the forward kernels of the RMSNorm family there are, and where a row of theirs lies.
 */
#pragma once

#include "row.cuh"

namespace fflash {

enum class Form { kPlain, kAdd, kCentre, kGate, kPost, kQuantise, kEvery };

/* Whether the rows of a kernel have something; kAsked: as the parameters say. */
enum class Has { kNo, kYes, kAsked };

template <Has kHas>
__device__ __forceinline__ bool has(bool asked) {
    return kHas == Has::kYes || (kHas == Has::kAsked && asked);
}

/* Which operand is asked for together with x. The others are loaded when they are needed. */
enum class Early { kNone, kWeight, kResidual, kGate };

struct FormTraits {
    Has residual, post, mean, gate, quantised;
    Has weight, bias;
    Has llama, columns; /* a rounding before the weight; statistics of the first columns alone */
    bool parts;         /* a second tensor of rows, and several heads of each */
    Early early;
    int slots;          /* chunks of a thread in registers */
    int operands;       /* of which operands are loaded at a time */
};

__host__ __device__ constexpr FormTraits traits_of(Form form) {
    constexpr Has no = Has::kNo, yes = Has::kYes, asked = Has::kAsked;
    using E = Early;
    switch (form) {
        /*                       residual post  mean   gate   quant  weight bias   llama  columns parts  early        slots operands */
        case Form::kPlain:    return {no, no,    no,    no,    no,    yes,   no,    no,    no,    true,  E::kWeight,   8, 2};
        case Form::kAdd:      return {yes, no,   no,    no,    no,    yes,   no,    no,    no,    false, E::kNone,     8, 2};
        case Form::kCentre:   return {no, no,    yes,   no,    no,    asked, asked, no,    no,    true,  E::kNone,     8, 2};
        case Form::kGate:     return {no, no,    no,    yes,   no,    yes,   no,    no,    no,    false, E::kGate,     4, 2};
        case Form::kPost:     return {yes, yes,  no,    no,    no,    yes,   no,    no,    no,    false, E::kResidual, 4, 2};
        case Form::kQuantise: return {asked, no, no,    no,    yes,   yes,   no,    no,    no,    false, E::kNone,     8, 2};
        default:              return {asked, asked, asked, asked, asked, asked, asked, asked, asked, true, E::kNone,   4, 4};
    }
}

template <class T_, int kWidth_, bool kShort_, Form kForm_>
struct NormTraits : RowTraits<T_, kWidth_, kShort_> {
    static constexpr bool kEvery = kForm_ == Form::kEvery;
    static constexpr bool kSplit = kEvery && !kShort_;
    static constexpr FormTraits kForm = traits_of(kForm_);
    static constexpr int kSlots = kForm.slots;
    static constexpr int kPart = kForm.operands;
    static constexpr int kTailSlots = kWidth_ > 1 ? 1 : 4; /* of a step beyond them: a warp has whole groups */
};

/* A type as long as a quantised element. */
struct Byte {
    unsigned char bits;
};

/* Where a row, or the block's columns of it, lies; the weight is that of all columns. */
template <class T, class Out, bool kParts, bool kSplit>
struct NormPlaceOf {
    const void *x;
    void *out;
    const void *weight;
    uint32_t row;
    bool exists;
    bool all_exist; /* the block's rows */

    __device__ __forceinline__ static NormPlaceOf of(const fflash_norm_params &params) {
        const uint32_t block = kSplit ? params.block_offset + blockIdx.x : blockIdx.x;
        if (kParts && block >= params.first_block) {
            return of(params, params.parts[1], block - params.first_block);
        }
        return of(params, params.parts[0], block);
    }

    /* The first of this block's columns, and how many it has. */
    __device__ __forceinline__ static int first_column(const fflash_norm_params &params) {
        return kSplit ? int(blockIdx.y) * params.split_width : 0;
    }
    __device__ __forceinline__ static int columns(const fflash_norm_params &params) {
        return kSplit ? min(params.width - first_column(params), params.split_width) : params.width;
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
        x_head += first_column(params);
        out_head += first_column(params);
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

/* What `out` has: the type of everything, or one byte, or either. */
template <class Traits>
using NormOut = std::conditional_t<Traits::kForm.quantised == Has::kNo, typename Traits::T,
                                   std::conditional_t<Traits::kForm.quantised == Has::kYes, Byte, Any>>;

template <class Traits>
using NormPlace = NormPlaceOf<typename Traits::T, NormOut<Traits>, Traits::kForm.parts, Traits::kSplit>;

}  // namespace fflash
