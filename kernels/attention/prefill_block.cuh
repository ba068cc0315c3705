/* Which rows of which head a CTA of the prefill kernels computes, and where the tensors of that head begin. */
#pragma once

#include <stdint.h>

#include "../common/ptx.cuh"
#include "../params.h"

namespace fflash {

/* What one CTA computes: a block of query rows of one head. */
struct PrefillBlock {
    int batch;
    int qo_head;
    int kv_head;
    int row_first;

    template <int kBlockM>
    __device__ __forceinline__ static PrefillBlock of(const fflash_prefill_params &params) {
        const uint32_t blocks = (params.seqlen_q + kBlockM - 1) / kBlockM;
        const uint32_t index = ptx::block_index_x();
        const int head = index / blocks;
        PrefillBlock block;
        block.batch = head / params.num_qo_heads;
        block.qo_head = head % params.num_qo_heads;
        block.kv_head = block.qo_head / params.group_size;
        block.row_first = (blocks - 1 - index % blocks) * kBlockM;
        return block;
    }
};

/* Row 0 of one head of a [batch, seqlen, heads, head_dim] tensor of 16-bit elements. */
template <class Pointer>
__device__ __forceinline__ Pointer *head_of(Pointer *tensor, const fflash_strides4 &strides, int batch, int head) {
    return tensor + batch * strides.batch + head * strides.heads;
}

}  // namespace fflash
