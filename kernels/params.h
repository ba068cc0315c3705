/*
 * The parameter block of every kernel entry point: one definition, read by nvcc (the kernels), by
 * bindgen (src/launch.rs) and by the layout probe (build/layout_probe.cpp).
 *
 * Plain C. Strides and offsets are in elements, 64-bit. The head_dim (last) dimension of every
 * tensor is contiguous. `const void *` points to the element type named by the entry point's symbol.
 */
#ifndef FFLASH_PARAMS_H
#define FFLASH_PARAMS_H

#include <stdint.h>

/* A window or sequence bound that no position exceeds. */
#define FFLASH_UNBOUNDED INT32_MAX

/* The largest rotary_dim / 2 that fflash_rope_params carries frequencies for. */
#define FFLASH_MAX_ROTARY_PAIRS 256

/* Element strides of the leading dimensions of a [batch, seqlen, heads, head_dim] tensor. */
typedef struct fflash_strides4 {
    int64_t batch;
    int64_t seqlen;
    int64_t heads;
} fflash_strides4;

/* Element strides of the leading dimensions of a [tokens, heads, head_dim] tensor. */
typedef struct fflash_strides3 {
    int64_t tokens;
    int64_t heads;
} fflash_strides3;

/* The element type of an operand that the symbol does not name. */
#define FFLASH_F16 0
#define FFLASH_BF16 1
#define FFLASH_F32 2

/* n / divisor for 0 <= n < 2^30 without a division: (n * multiplier) >> shift, the product in 64 bits. */
typedef struct fflash_divisor {
    int32_t divisor;
    uint32_t multiplier;
    uint32_t shift;
} fflash_divisor;

/*
 * Where requests lie and how long they are. Exactly one of three forms:
 *   dense     every pointer null: `batch` requests of seqlen_q queries and seqlen_k keys
 *   packed    cu_seqlens_q and cu_seqlens_k: request r is rows cu[r] to cu[r + 1] of q and o, of k and v
 *   paged     cu_seqlens_q, page_table and kv_lens: key j of request r is row j % page_size of page
 *             page_table[r][j / page_size] of k and v, whose batch axis counts pages
 * seqlen_q and seqlen_k bound the lengths in the last two; longer ones are cut.
 */
typedef struct fflash_requests {
    const int32_t *cu_seqlens_q;  /* [batch + 1] */
    const int32_t *cu_seqlens_k;  /* [batch + 1] */
    const int32_t *kv_lens;       /* [batch] */
    const int32_t *page_table;    /* [batch, pages of the longest request] */
    int32_t *page_error;          /* null, or where 1 + r is left when request r names a page that is not there */
    int64_t page_table_stride;    /* from request to request */
    fflash_divisor page_size;
    int32_t num_pages;            /* pages are 0 to num_pages - 1; keys in any other are not read */
    int32_t batch;
    int32_t seqlen_q;
    int32_t seqlen_k;
} fflash_requests;

/*
 * Which keys a query sees. With d = i + seqlen_k - seqlen_q (bottom-right alignment), query i sees key j when
 *   first <= j < end  or  j < sink_tokens and j < end,
 *     first = max(0, d - window_left), end = min(seqlen_k, d + window_right + 1);
 *     chunk > 0: first is at least the first key of the chunk that d lies in, and end at most the first of the next;
 *     prefix_lens: end is at least min(seqlen_k, prefix_lens[r])
 * and bit j % 8 of byte j / 8 of row i of bits is set, and bit j / block_k % 32 of word j / block_k / 32 of row
 * i / block_q of blocks is. Bounds of FFLASH_UNBOUNDED and pointers that are null do not limit. Causal is
 * window_left = FFLASH_UNBOUNDED, window_right = 0.
 */
typedef struct fflash_mask {
    int32_t window_left;
    int32_t window_right;
    int32_t chunk;                  /* keys of a chunk; 0: one chunk */
    int32_t sink_tokens;
    const int32_t *prefix_lens;     /* [batch] */
    int64_t prefix_lens_stride;
    const uint8_t *bits;            /* [batch, seqlen_q, (seqlen_k + 7) / 8]; packed queries: [1, tokens, ...] */
    int64_t bits_batch_stride;
    int64_t bits_seqlen_stride;
    const uint32_t *blocks;         /* [batch, num_kv_heads, query blocks, words] */
    int64_t blocks_batch_stride;
    int64_t blocks_head_stride;
    int64_t blocks_row_stride;
    fflash_divisor block_q;
    fflash_divisor block_k;
} fflash_mask;

/* What becomes of a product q k^T: s * softmax_scale, then softcap, then bias and ALiBi. */
typedef struct fflash_logits {
    float softmax_scale;
    float softcap;                  /* s becomes softcap * tanh(s / softcap); 0: no cap */
    const float *sinks;             /* null, or [num_qo_heads]: a logit of each head that no key has */
    int64_t sinks_stride;
    const float *alibi_slopes;      /* null, or [batch, num_qo_heads]: s - slope * |d - j| */
    int64_t alibi_batch_stride;
    int64_t alibi_head_stride;
    const void *bias;               /* null, or [batch, num_qo_heads, seqlen_q, seqlen_k]; packed: [1, heads, tokens, ...] */
    int64_t bias_batch_stride;
    int64_t bias_head_stride;
    int64_t bias_seqlen_stride;
    int64_t bias_key_stride;
    int32_t bias_dtype;             /* FFLASH_F16, FFLASH_BF16 or FFLASH_F32 */
} fflash_logits;

/*
 * fflash_prefill_*: O = softmax(mask(logits(Q K^T))) V for every request.
 *
 * Row `r` of a head group is query r / pack of head r % pack of the group: with pack = group_size one read of K and V
 * serves all heads that share them, with pack = 1 each head reads its own.
 */
typedef struct fflash_prefill_params {
    const void *q;                  /* [batch, seqlen_q, num_qo_heads, head_dim] or [tokens, num_qo_heads, head_dim] */
    const void *k;                  /* [batch, seqlen_k, num_kv_heads, head_dim], [tokens, ...] or [pages, page_size, ...] */
    const void *v;                  /* the same with head_dim_v */
    void *o;                        /* the shape of q with head_dim_v; may be q */
    float *lse;                     /* [batch, num_qo_heads, seqlen_q], [1, num_qo_heads, tokens], natural log; or null */
    fflash_strides4 q_strides;      /* of packed tensors the batch stride is 0, of pages it is from page to page */
    fflash_strides4 k_strides;
    fflash_strides4 v_strides;
    fflash_strides4 o_strides;
    int64_t lse_batch_stride;
    int64_t lse_head_stride;
    int64_t lse_seqlen_stride;
    fflash_requests requests;
    fflash_mask mask;
    fflash_logits logits;
    int32_t num_qo_heads;
    int32_t num_kv_heads;
    int32_t group_size;             /* num_qo_heads / num_kv_heads */
    int32_t head_dim;               /* of q and k, a multiple of 8; the kernel fills up with zeros to its own */
    int32_t head_dim_v;             /* of v and o */
    int32_t is_f32;                 /* q, k, v and o are f32, rounded to the kernel's type as they are loaded */
    fflash_divisor pack;
} fflash_prefill_params;

/* fflash_rms_norm_*: out[r, c] = x[r, c] / sqrt(mean_c(x[r, c]^2) + eps) * (weight_offset + weight[c]). */
typedef struct fflash_rms_norm_params {
    const void *x;             /* [rows, width] */
    const void *weight;        /* [width] */
    void *out;                 /* [rows, width]; may be x with the same stride */
    int64_t x_row_stride;
    int64_t out_row_stride;
    int64_t rows;
    int32_t width;
    float eps;
    float weight_offset;       /* 0: plain; 1: Gemma */
} fflash_rms_norm_params;

/*
 * fflash_rope_*: rotates the first rotary_dim elements of every head of q and k in place.
 *
 * Pair p of rotary_pairs turns by angle(position, p): with `table` null that is
 * position * turns[p] / 2^64 of a full turn, the product taken modulo 2^64 (so the fraction of a turn
 * is exact however large the position); otherwise cos and sin are read from the table.
 */
typedef struct fflash_rope_params {
    void *q;                   /* [tokens, q_heads, head_dim] */
    void *k;                   /* [tokens, k_heads, head_dim]; null when k_heads is 0 */
    const int32_t *positions;  /* [tokens], non-negative */
    const float *table;        /* [table positions, 2, rotary_pairs]: cos, then sin; null: use turns */
    fflash_strides3 q_strides;
    fflash_strides3 k_strides;
    int64_t table_position_stride;
    int64_t table_part_stride; /* from a position's cos to its sin */
    int64_t tokens;
    int32_t q_heads;
    int32_t k_heads;
    int32_t rotary_pairs;      /* rotary_dim / 2, at most FFLASH_MAX_ROTARY_PAIRS */
    int32_t interleaved;       /* 1: pairs (2p, 2p + 1), GPT-J; 0: pairs (p, p + rotary_pairs), NeoX */
    uint64_t turns[FFLASH_MAX_ROTARY_PAIRS]; /* turns per position, 0.64 fixed point */
} fflash_rope_params;

#endif /* FFLASH_PARAMS_H */
