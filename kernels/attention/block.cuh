/*
 * What a CTA computes: rows of one request and one group of heads.
 *
 * Row r is query r / pack of head r % pack of the group. Grid: x = row blocks * head groups * requests, row blocks of
 * the longest request; they vary fastest and run from the last to the first (under a causal mask the last is the
 * longest), then heads, so that CTAs that share K and V run together. A block past the end of its request has no rows.
 */
#pragma once

#include <stdint.h>

#include "../common/divide.cuh"
#include "../common/ptx.cuh"
#include "../params.h"
#include "seqlen.cuh"

namespace fflash {

struct PrefillBlock {
    int request;
    int qo_head; /* the first of the group */
    int kv_head;
    int row_first;

    template <int kBlockM>
    __device__ __forceinline__ static PrefillBlock of(const fflash_prefill_params &params) {
        const uint32_t rows = params.requests.seqlen_q * params.pack.divisor;
        const uint32_t blocks = (rows + kBlockM - 1) / kBlockM;
        const uint32_t groups = divide(params.num_qo_heads, params.pack);
        const uint32_t index = ptx::block_index_x();
        const uint32_t group = index / blocks;
        PrefillBlock block;
        block.request = group / groups;
        block.qo_head = group % groups * params.pack.divisor;
        block.kv_head = block.qo_head / params.group_size;
        block.row_first = (blocks - 1 - index % blocks) * kBlockM;
        return block;
    }
};

/* A row as a query of a head. */
struct QueryRow {
    int query;
    int head;

    __device__ __forceinline__ QueryRow(const fflash_prefill_params &params, const PrefillBlock &block, int row)
        : query(row), head(block.qo_head) {
        if (params.pack.divisor > 1) {
            query = divide(row, params.pack);
            head += row - query * params.pack.divisor;
        }
    }
};

/* The index of a query's row of q or o, in elements. */
__device__ __forceinline__ int64_t row_index(const fflash_strides4 &strides, const Request &request, QueryRow row) {
    return request.index * strides.batch + (int64_t(request.q_row) + row.query) * strides.seqlen + row.head * strides.heads;
}

/* Where the log-sum-exp of a row goes. */
__device__ __forceinline__ float *lse_of(const fflash_prefill_params &params, const Request &request, QueryRow row) {
    return params.lse + request.index * params.lse_batch_stride + row.head * params.lse_head_stride +
           (int64_t(request.q_row) + row.query) * params.lse_seqlen_stride;
}

/* Where a key lies: row `row` of entry `entry` of the outermost axis of k and v. */
struct KeyPlace {
    int64_t entry;
    int64_t row;
    bool exists;

    /* A page that does not exist makes a key that does not, and is reported if anybody wants to know. */
    __device__ __forceinline__ KeyPlace(const fflash_requests &requests, const Request &request, int key, bool wanted)
        : entry(request.index), row(int64_t(request.k_row) + key), exists(wanted) {
        if (requests.page_table != nullptr && wanted) {
            const int index = divide(key, requests.page_size);
            entry = requests.page_table[request.index * requests.page_table_stride + index];
            row = key - index * requests.page_size.divisor;
            exists = uint64_t(entry) < uint64_t(requests.num_pages);
            if (!exists && requests.page_error != nullptr) atomicMax(requests.page_error, 1 + request.index);
        }
    }

    /* The index of the key's row, in elements. */
    __device__ __forceinline__ int64_t index(const fflash_strides4 &strides, int head) const {
        return exists ? entry * strides.batch + row * strides.seqlen + head * strides.heads : 0;
    }
};

}  // namespace fflash
