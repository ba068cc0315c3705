/*
 * Which keys a query row sees, and which key tiles a CTA visits.
 *
 * Row i sees key j when  i + left <= j <= i + right  and  0 <= j < seqlen_k,  where left and right are the window's
 * bounds shifted by seqlen_k - seqlen_q (bottom-right alignment).
 */
#pragma once

#include <stdint.h>

#include "../params.h"

namespace fflash {

/* seqlen_q and seqlen_k may not exceed this: sums of a row, a shift and a window then fit 32 bits. */
constexpr int kMaxSeqlen = 1 << 29;

struct KeyBounds {
    int left;
    int right;
    int seqlen_k;

    /* A window of kMaxSeqlen reaches over any sequence, so that shortening longer ones to it changes nothing. */
    __device__ __forceinline__ explicit KeyBounds(const fflash_prefill_params &params)
        : left(params.seqlen_k - params.seqlen_q - min(params.window_left, kMaxSeqlen)),
          right(params.seqlen_k - params.seqlen_q + min(params.window_right, kMaxSeqlen)),
          seqlen_k(params.seqlen_k) {}

    /* The keys that `row` sees are first(row) <= j < end(row). */
    __device__ __forceinline__ int first(int row) const { return max(row + left, 0); }
    __device__ __forceinline__ int end(int row) const { return min(row + right + 1, seqlen_k); }
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

    /* Rows [row_first, row_last] with row_first <= row_last. */
    template <int kBlockN>
    __device__ __forceinline__ static TileRange of(const KeyBounds &bounds, int row_first, int row_last) {
        TileRange range;
        range.key_first = bounds.first(row_first);
        range.key_end = max(bounds.end(row_last), range.key_first);
        range.first = range.key_first / kBlockN;
        range.end = range.key_end == range.key_first ? range.first : (range.key_end + kBlockN - 1) / kBlockN;
        range.plain_first = (bounds.first(row_last) + kBlockN - 1) / kBlockN;
        range.plain_end = max(bounds.end(row_first), 0) / kBlockN;
        return range;
    }
};

}  // namespace fflash
