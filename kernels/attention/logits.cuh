/*
 * What the options make of a logit, for one query row: scale, softcap, ALiBi and bias, mask, in this order; and how a row
 * ends: its sink, the factor on O and the log-sum-exp.
 */
#pragma once

#include <math.h>
#include <stdint.h>

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

class LogitRow {
public:
    /* A row that is not there sees no key, and nothing of it is read. */
    __device__ __forceinline__ LogitRow(const fflash_prefill_params &params, const Request &request,
                                        const KeyBounds &bounds, const PrefillBlock &block, QueryRow row)
        : position_(row.query + bounds.shift), slope_(0.0f), bias_(params.logits.bias), bits_(params.mask.bits),
          blocks_(params.mask.blocks) {
        const bool exists = row.query < request.seqlen_q;
        first_ = bounds.first(row.query);
        end_ = exists ? bounds.end(row.query) : 0;
        sinks_end_ = params.mask.sink_tokens;
        const int64_t query = int64_t(request.q_row) + row.query;
        const fflash_logits &logits = params.logits;
        bias_index_ = request.index * logits.bias_batch_stride + row.head * logits.bias_head_stride +
                      query * logits.bias_seqlen_stride;
        if (logits.alibi_slopes != nullptr)
            slope_ = logits.alibi_slopes[request.index * logits.alibi_batch_stride + row.head * logits.alibi_head_stride];
        bits_ += request.index * params.mask.bits_batch_stride + query * params.mask.bits_seqlen_stride;
        if (params.mask.blocks != nullptr)
            blocks_ += request.index * params.mask.blocks_batch_stride + block.kv_head * params.mask.blocks_head_stride +
                       divide(row.query, params.mask.block_q) * params.mask.blocks_row_stride;
    }

    __device__ __forceinline__ float shape(const fflash_prefill_params &params, float product, int key) const {
        if (!is_between(key)) return -INFINITY;
        if (params.mask.bits != nullptr && !(bits(key) >> key % 8 & 1)) return -INFINITY;
        if (params.mask.blocks != nullptr && !sees_block(divide(key, params.mask.block_k))) return -INFINITY;
        float logit = scale_and_cap(params.logits, product);
        if (params.logits.alibi_slopes != nullptr) logit = lean(logit, key);
        if (params.logits.bias != nullptr) logit += bias(params.logits, key);
        return logit;
    }

    /* Whether window, chunk, prefix and sink tokens let the row see a key. Other keys may not exist. */
    __device__ __forceinline__ bool is_between(int key) const { return key < end_ && (key >= first_ || key < sinks_end_); }

    /* The bits of the keys key / 8 * 8 to + 7, of which one is between. */
    __device__ __forceinline__ uint32_t bits(int key) const { return bits_[key / 8]; }

    __device__ __forceinline__ bool sees_block(int block) const { return blocks_[block / 32] >> block % 32 & 1; }

    /* ALiBi. */
    __device__ __forceinline__ float lean(float logit, int key) const {
        return fmaf(-slope_, fabsf(float(position_ - key)), logit);
    }

    /* Of a key that is between. */
    __device__ __forceinline__ float bias(const fflash_logits &logits, int key) const {
        const int64_t index = bias_index_ + key * logits.bias_key_stride;
        if (logits.bias_dtype == FFLASH_DTYPE_F32) return static_cast<const float *>(bias_)[index];
        const uint16_t bits = static_cast<const uint16_t *>(bias_)[index];
        return logits.bias_dtype == FFLASH_DTYPE_F16 ? to_f32(F16{bits}) : to_f32(Bf16{bits});
    }

private:
    int position_; /* the key that the query stands at */
    int first_;
    int end_;
    int sinks_end_;
    float slope_;
    int64_t bias_index_;
    const void *bias_;
    const uint8_t *bits_;
    const uint32_t *blocks_;
};

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
