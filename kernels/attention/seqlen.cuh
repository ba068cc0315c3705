/*
 * The requests of a launch, which keys a query sees for where it stands, and which key tiles a CTA visits.
 *
 * Query i sees key j when first(i) <= j < end(i); both rise with i. params.h says how window, chunk and prefix make them.
 */
#pragma once

#include <stdint.h>

#include "../common/divide.cuh"
#include "../params.h"

namespace fflash {

/* seqlen_q and seqlen_k may not exceed this: sums of a row, a shift and a window then fit 32 bits. */
constexpr int kMaxSeqlen = 1 << 29;

/* One request: its lengths and its first row in tensors of packed tokens. */
struct Request {
    int index;
    int seqlen_q;
    int seqlen_k;
    int q_row;
    int k_row;

    __device__ __forceinline__ Request(const fflash_requests &requests, int index)
        : index(index), seqlen_q(requests.seqlen_q), seqlen_k(requests.seqlen_k), q_row(0), k_row(0) {
        if (requests.cu_seqlens_q != nullptr) {
            q_row = requests.cu_seqlens_q[index];
            seqlen_q = min(requests.cu_seqlens_q[index + 1] - q_row, requests.seqlen_q);
        }
        if (requests.cu_seqlens_k != nullptr) {
            k_row = requests.cu_seqlens_k[index];
            seqlen_k = min(requests.cu_seqlens_k[index + 1] - k_row, requests.seqlen_k);
        } else if (requests.kv_lens != nullptr) {
            seqlen_k = min(max(requests.kv_lens[index], 0), requests.seqlen_k);
        }
    }
};

struct KeyBounds {
    int shift; /* query i stands at key i + shift */
    int left;
    int right;
    int seqlen_k;
    int chunk;
    int prefix;

    /* A window of kMaxSeqlen reaches over any sequence, so that shortening longer ones to it changes nothing. */
    __device__ __forceinline__ KeyBounds(const fflash_mask &mask, const Request &request)
        : shift(request.seqlen_k - request.seqlen_q),
          left(shift - min(mask.window_left, kMaxSeqlen)),
          right(shift + min(mask.window_right, kMaxSeqlen)),
          seqlen_k(request.seqlen_k),
          chunk(mask.chunk),
          prefix(mask.prefix_lens == nullptr
                     ? 0
                     : min(mask.prefix_lens[request.index * mask.prefix_lens_stride], request.seqlen_k)) {}

    __device__ __forceinline__ int first(int i) const {
        const int first = max(i + left, 0);
        return chunk == 0 ? first : max(first, chunk_of(i));
    }
    __device__ __forceinline__ int end(int i) const {
        const int end = min(i + right + 1, seqlen_k);
        return max(chunk == 0 ? end : min(end, chunk_of(i) + chunk), prefix);
    }

private:
    /* The first key of the chunk that query i stands in; negative for one that stands before all keys. */
    __device__ __forceinline__ int chunk_of(int i) const {
        const int key = i + shift;
        return (key < 0 ? -((chunk - 1 - key) / chunk) : key / chunk) * chunk;
    }
};

/* The key tiles [first, end) of a block of rows; all rows see all keys of [plain_first, plain_end), which may be empty. */
struct TileRange {
    int first;
    int end;
    int plain_first;
    int plain_end;
    /* Keys outside [key_first, key_end) are seen by no row of the block and are not read. */
    int key_first;
    int key_end;

    /* Queries [i_first, i_last] with i_first <= i_last. */
    template <int kBlockN>
    __device__ __forceinline__ static TileRange of(const KeyBounds &bounds, int i_first, int i_last) {
        TileRange range;
        range.key_first = bounds.first(i_first);
        range.key_end = max(bounds.end(i_last), range.key_first);
        range.first = range.key_first / kBlockN;
        range.end = range.key_end == range.key_first ? range.first : (range.key_end + kBlockN - 1) / kBlockN;
        range.plain_first = (bounds.first(i_last) + kBlockN - 1) / kBlockN;
        range.plain_end = max(bounds.end(i_first), 0) / kBlockN;
        return range;
    }
};

}  // namespace fflash
