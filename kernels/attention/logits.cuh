/*
 * What the options make of a logit: scale, softcap, ALiBi and bias, mask, in this order; and how a row ends: its sink, the
 * factor on O and the log-sum-exp.
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include <type_traits>

#include "../common/divide.cuh"
#include "../common/ptx.cuh"
#include "../common/types.cuh"
#include "../params.h"
#include "block.cuh"
#include "seqlen.cuh"

namespace fflash {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

/* A softcap needs tanhf, which is within 2 ulp: tanh.approx (2^-11) would put an error of softcap * 2^-11, 0.02 at a cap
 * of 50, into the exponent: a weight 2 % off, where rounding it to f16 costs 0.05 %. */
__device__ __forceinline__ float scale_and_cap(const fflash_logits &logits, float product) {
    return logits.softcap != 0.0f ? logits.softcap * tanhf(product * (logits.softmax_scale / logits.softcap))
                                  : product * logits.softmax_scale;
}

/* A set of keys of a tile: bit i for its key i. */
template <int kKeys>
using KeySet = std::conditional_t<(kKeys > 32), uint64_t, uint32_t>;

/* kKeys bits in memory. */
template <int kKeys>
using KeyWord = std::conditional_t<kKeys == 16, uint16_t, KeySet<kKeys>>;

/* The first n of a tile's keys: none for n <= 0, all for n >= kKeys. */
template <int kKeys>
__device__ __forceinline__ KeySet<kKeys> keys_below(int n) {
    constexpr KeySet<kKeys> kAll = ~KeySet<kKeys>(0);
    return n <= 0 ? KeySet<kKeys>(0) : n >= int(sizeof(kAll) * 8) ? kAll : ~(kAll << n);
}

/* The first key of a set that is not empty. */
__device__ __forceinline__ int lowest(uint32_t keys) { return __ffs(int(keys)) - 1; }
__device__ __forceinline__ int lowest(uint64_t keys) { return __ffsll((long long)(keys)) - 1; }

/* Which keys a row sees for where it stands, and how ALiBi leans. */
struct __align__(16) RowPlace {
    int first;
    int end;
    int position; /* the key that the query stands at */
    float slope;

    __device__ __forceinline__ RowPlace(const fflash_logits &logits, const KeyBounds &bounds, int request, QueryRow row)
        : first(bounds.first(row.query)), end(bounds.end(row.query)), position(row.query + bounds.shift), slope(0.0f) {
        if (logits.alibi_slopes != nullptr)
            slope = logits.alibi_slopes[request * logits.alibi_batch_stride + row.head * logits.alibi_head_stride];
    }
};

/* What the options need to know of a row. */
class LogitRow {
public:
    /* `q_row`: the request's first. */
    __device__ __forceinline__ LogitRow(const fflash_prefill_params &params, const PrefillBlock &block, int q_row, QueryRow row,
                                        const RowPlace &place)
        : place_(place), blocks_(params.mask.blocks) {
        const fflash_logits &logits = params.logits;
        const fflash_mask &mask = params.mask;
        const int64_t query = int64_t(q_row) + row.query;
        bias_ = block.request * logits.bias_batch_stride + row.head * logits.bias_head_stride + query * logits.bias_seqlen_stride;
        bits_ = mask.bits + block.request * mask.bits_batch_stride + query * mask.bits_seqlen_stride;
        if (blocks_ != nullptr)
            blocks_ += block.request * mask.blocks_batch_stride + block.kv_head * mask.blocks_head_stride +
                       divide(row.query, mask.block_q) * mask.blocks_row_stride;
    }

    /* Which of the kKeys keys from `key` on, a multiple of 8, the row sees: a bit for each. */
    template <int kKeys>
    __device__ __forceinline__ KeySet<kKeys> visible(const fflash_mask &mask, int key) const {
        using Set = KeySet<kKeys>;
        Set seen = keys_below<kKeys>(place_.end - key) &
                   (~keys_below<kKeys>(place_.first - key) | keys_below<kKeys>(mask.sink_tokens - key));
        if (mask.bits != nullptr) {
            using Word = KeyWord<kKeys>;
            const uint8_t *bits = bits_ + key / 8;
            /* What no key is seen of is not read: it may not be there. */
            if ((~seen & keys_below<kKeys>(kKeys)) == 0 && reinterpret_cast<uintptr_t>(bits) % sizeof(Word) == 0) {
                seen = *reinterpret_cast<const Word *>(bits);
            } else {
#pragma unroll
                for (int byte = 0; byte < kKeys / 8; ++byte) {
                    const Set of_byte = Set(0xff) << byte * 8;
                    if ((seen & of_byte) != 0) seen &= ~of_byte | Set(bits[byte]) << byte * 8;
                }
            }
        }
        if (mask.blocks != nullptr) {
            int block = divide(key, mask.block_k);
            for (int begin = block * mask.block_k.divisor - key; begin < kKeys; ++block, begin += mask.block_k.divisor) {
                const Set of_block = keys_below<kKeys>(begin + mask.block_k.divisor) & ~keys_below<kKeys>(begin);
                if ((seen & of_block) != 0 && !(blocks_[block / 32] >> block % 32 & 1)) seen &= ~of_block;
            }
        }
        return seen;
    }

    /* From the key that the query stands at back to `key`. */
    __device__ __forceinline__ int distance(int key) const { return place_.position - key; }
    /* ALiBi's. */
    __device__ __forceinline__ float slope() const { return place_.slope; }
    /* The index of key 0 in the bias. */
    __device__ __forceinline__ int64_t bias() const { return bias_; }

private:
    RowPlace place_;
    int64_t bias_;
    const uint8_t *bits_;
    const uint32_t *blocks_;
};

/* The rows of a CTA, in shared memory: what takes reads or divisions to find. */
template <int kRows>
class LogitRows {
public:
    /* By one thread. `row_end`: the first row that is not there. */
    __device__ __forceinline__ void put_block(const PrefillBlock &block, int q_row, int row_end) {
        block_ = block;
        q_row_ = q_row;
        row_end_ = row_end;
    }
    __device__ __forceinline__ void put(int i, const RowPlace &place) { places_[i] = place; }

    /* Row i of the block; rows past the last are like it, so that nothing is read that is not there. */
    __device__ __forceinline__ LogitRow get(const fflash_prefill_params &params, int i) const {
        const QueryRow row(params, block_, min(block_.row_first + i, row_end_ - 1));
        return LogitRow(params, block_, q_row_, row, places_[i]);
    }

private:
    RowPlace places_[kRows];
    PrefillBlock block_;
    int q_row_;
    int row_end_;
};

/* ALiBi, from the key that the query stands at back to the logit's. */
__device__ __forceinline__ float lean(float logit, float slope, float distance) { return fmaf(-slope, fabsf(distance), logit); }

/* The end of a row whose logits had the maximum max * ln 2 and the sum `sum` of exponentials above it. */
struct RowEnd {
    float factor; /* on O; 0 for a row without keys, or of logits that are all -inf */
    float lse;    /* natural log of the sum of all exponentials; -inf for such a row */

    __device__ __forceinline__ RowEnd(const fflash_logits &logits, int head, float max, float sum) {
        factor = sum == 0.0f ? 0.0f : 1.0f / sum;
        lse = fmaf(max, kLn2, logf(sum));
        if (logits.sinks == nullptr) return;
        const float sink = logits.sinks[head * logits.sinks_stride];
        const float sink_max = sink * kLog2e;
        if (sink_max > max) {
            /* In units of the sink's exponential; `sum` is 0 where `max` is -inf. */
            const float rest = ptx::ex2_approx_ftz(max - sink_max);
            const float total = fmaf(sum, rest, 1.0f);
            factor = rest / total;
            lse = sink + logf(total);
        } else if (sink > -INFINITY) {
            const float total = sum + ptx::ex2_approx_ftz(sink_max - max);
            factor = 1.0f / total;
            lse = fmaf(max, kLn2, logf(total));
        } else if (sink != sink) {
            factor = lse = sink;
        }
    }
};

}  // namespace fflash
