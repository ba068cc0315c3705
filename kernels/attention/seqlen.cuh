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

/* seqlen_q and seqlen_k may not exceed this: sums of a row and a bound then fit 32 bits. */
constexpr int kMaxSeqlen = 1 << 29;

struct KeyBounds {
    int left;
    int right;
    int seqlen_k;

    __device__ __forceinline__ explicit KeyBounds(const fflash_prefill_params &params) : seqlen_k(params.seqlen_k) {
        /* Clamping changes no row's keys: a bound a whole sequence away already excludes all keys or none. */
        const int64_t shift = int64_t{params.seqlen_k} - params.seqlen_q;
        left = clamp(shift - params.window_left);
        right = clamp(shift + params.window_right);
    }

    /* The keys that `row` sees are first(row) <= j < end(row). */
    __device__ __forceinline__ int first(int row) const { return max(row + left, 0); }
    __device__ __forceinline__ int end(int row) const { return min(row + right + 1, seqlen_k); }

private:
    __device__ __forceinline__ static int clamp(int64_t bound) {
        return int(max(int64_t{-kMaxSeqlen}, min(bound, int64_t{kMaxSeqlen})));
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
