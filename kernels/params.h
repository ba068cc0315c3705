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
#define FFLASH_DTYPE_F16 0
#define FFLASH_DTYPE_BF16 1
#define FFLASH_DTYPE_F32 2
#define FFLASH_DTYPE_E4M3 3
#define FFLASH_DTYPE_E5M2 4
#define FFLASH_DTYPE_I8 5

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
    int32_t bias_dtype;             /* FFLASH_DTYPE_F16, _BF16 or _F32 */
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

/* Bits of fflash_norm_params.flags. */
#define FFLASH_NORM_CENTRE 1    /* LayerNorm: the mean is subtracted first */
#define FFLASH_NORM_ONE_PLUS 2  /* weights count as 1 + w */
#define FFLASH_NORM_LLAMA 4     /* what is normalised is rounded before it is multiplied by the weight */
#define FFLASH_NORM_POST 8      /* x is normalised with post_weight before the residual is added */

/* One tensor of rows [tokens, heads, width] that the forward kernels of the RMSNorm family normalise. */
typedef struct fflash_norm_part {
    const void *x;             /* [tokens, heads, width] */
    const void *weight;        /* [width]; null: none */
    void *out;                 /* [tokens, heads, width]; may be x with the same strides */
    fflash_strides3 x_strides;
    fflash_strides3 out_strides;
    int64_t rows;              /* tokens * heads */
    int32_t heads;
} fflash_norm_part;

/*
 * fflash_rms_norm_*, fflash_add_rms_norm_*, fflash_layer_norm_*, fflash_gated_norm_*, fflash_post_norm_*, fflash_quantised_norm_*,
 * fflash_norm_*: for every row
 *   h = x, or round(norm(x) * post_weight) with FFLASH_NORM_POST; then h = round(h + residual)
 *   out = norm(h) * weight + bias, times gate * sigmoid(gate); divided by a scale where out is quantised
 *   norm(v) = v / sqrt(mean(v^2) + eps), with FFLASH_NORM_CENTRE of v - mean(v); means of the first stat_width columns
 * The second part (k beside q) has the blocks from first_block on; residual, gate and scales go with the first alone.
 */
typedef struct fflash_norm_params {
    fflash_norm_part parts[2];
    const void *residual;      /* [rows, width]; null: none */
    void *residual_out;        /* [rows, width]: h; may be residual with the same stride */
    const void *post_weight;   /* [width]; null: none */
    const void *bias;          /* [width]; null: none */
    const void *gate;          /* [rows, width]; null: none */
    float *scales;             /* [rows, groups]: where group is not 0 */
    int64_t residual_row_stride;
    int64_t residual_out_row_stride;
    int64_t gate_row_stride;
    int64_t scales_row_stride;
    int64_t scales_group_stride;
    uint32_t first_block;
    int32_t width;
    int32_t stat_width;
    int32_t group;             /* columns that share a scale, `width`: all; 0: inverse_scale counts, or nothing is quantised */
    int32_t flags;
    int32_t x_dtype;
    int32_t residual_dtype;
    int32_t weight_dtype;
    int32_t post_weight_dtype;
    int32_t bias_dtype;
    int32_t gate_dtype;
    int32_t out_dtype;
    float eps;
    float inverse_scale;       /* 1 / the scale, where it is given */
    uint32_t *exchange;        /* [rows] zero, then [rows, 4, blocks of a row] for norm/exchange.cuh: where blocks share rows */
    uint32_t block_offset;     /* rows of launches before this one, where blocks share rows */
    int32_t split_width;       /* columns of each of the blocks that share a row but the last, a multiple of the largest group; else width */
} fflash_norm_params;

/*
 * fflash_norm_backward_*: for y = x * r * w with r = 1 / sqrt(mean(x^2) + eps) and w = weight or 1 + weight
 *   dx = (g - x * r * mean(g * x * r)) * r + dh with g = dy * w;  partials[p, c] = sum of dy * x * r over the rows of p
 * fflash_norm_backward_weight: dw[c] = sum of partials[p, c] over p, in an order that depends on count alone.
 */
typedef struct fflash_norm_backward_params {
    const void *x;             /* [rows, width] */
    const void *dy;            /* [rows, width] */
    const void *dh;            /* [rows, width]: what else x's gradient is given; null: none */
    const void *weight;        /* [width]; null: none */
    void *dx;                  /* [rows, width]; may be dy or dh with the same stride */
    float *partials;           /* [count, width]; null: no dw */
    void *dw;                  /* [width] */
    int64_t x_row_stride;
    int64_t dy_row_stride;
    int64_t dh_row_stride;
    int64_t dx_row_stride;
    int64_t rows;
    int32_t count;             /* partial sums: rows p, p + count, ... are those of p */
    int32_t width;
    int32_t one_plus;
    int32_t split;             /* partials[p] has columns 0 to 3 of every 8, then 4 to 7 of every 8 */
    int32_t x_dtype;
    int32_t dy_dtype;
    int32_t dh_dtype;
    int32_t weight_dtype;
    int32_t dx_dtype;
    int32_t dw_dtype;
    float eps;
} fflash_norm_backward_params;

/* What fflash_rope_params.positions holds. */
#define FFLASH_POSITIONS_I32 0
#define FFLASH_POSITIONS_I64 1
#define FFLASH_POSITIONS_F32 2
#define FFLASH_POSITIONS_F64 3
#define FFLASH_POSITIONS_RANGE 4
#define FFLASH_POSITIONS_PACKED 5

/* What fflash_rope_params.table and fflash_rope_table_* hold. */
#define FFLASH_TABLE_F32 0
#define FFLASH_TABLE_F16 1
#define FFLASH_TABLE_BF16 2

/* What the pages of a cache hold: the type of the heads, or FP8. */
#define FFLASH_PAGES_SAME 0
#define FFLASH_PAGES_E4M3 1
#define FFLASH_PAGES_E5M2 2

/* Bits of an entry of fflash_rope_params.faults below the token. */
#define FFLASH_FAULT_POSITION 0
#define FFLASH_FAULT_SLOT 1

/* One of the tensors whose heads fflash_rope_* visits. */
typedef struct fflash_rope_heads {
    const void *x;             /* [tokens, heads, head_dim] */
    void *out;                 /* [tokens, heads, head_dim]; may be x with the same strides; null: only the cache is written */
    const void *weight;        /* [head_dim], of the norm; null: ones */
    fflash_strides3 x_strides;
    fflash_strides3 out_strides;
    int32_t heads;
    int32_t threads;           /* in y, over the grid, that visit them; 0 exactly when there are no heads */
} fflash_rope_heads;

/* The pages of a cache for k or v. */
typedef struct fflash_rope_pages {
    void *pages;               /* [num_pages, page_size, heads, head_dim] of cache_type */
    const float *scales;       /* [heads]: what is stored times the scale is the value; null: inverse_scale serves all */
    int64_t page_stride;
    int64_t token_stride;
    int64_t head_stride;
    int64_t scale_stride;
    float inverse_scale;       /* 1 / scale */
    float reserved;
} fflash_rope_pages;

/*
 * fflash_rope_*: rotates the elements [rotary_offset, rotary_offset + 2 * rotary_pairs) of every head of q and k.
 * fflash_rope_fused_*: besides, before it, the RMSNorm of every head, and after it writing k and v to a paged cache.
 *
 * Pair p turns by angle(position of axis(p), p): with `table` null that is position * turns[p] / 2^64 of a full turn, the
 * product taken modulo 2^64 (so the fraction of a turn is exact however large the position); otherwise cos and sin are
 * read from the table.
 */
typedef struct fflash_rope_params {
    fflash_rope_heads heads[3]; /* q, k, v; v is only written to the cache */
    fflash_rope_pages pages[2]; /* of k, of v */
    const int64_t *slots;      /* [tokens]: page * page_size + token of the page; -1: not written; null: no cache */
    const void *positions;     /* [axes, tokens]; RANGE: null; PACKED: i64 [sequences + 1] first tokens, [sequences] offsets */
    const void *table;         /* [table positions, 2, rotary_pairs]: cos, then sin; null: use turns */
    uint64_t *faults;          /* receives the least token << 1 | FFLASH_FAULT_* that is refused; null where nothing is checked */
    int64_t tokens;
    int64_t first_position;    /* RANGE: of token 0 */
    int64_t position_limit;    /* checked positions are in 0..limit, real ones in -limit..limit */
    int64_t num_slots;         /* checked slots are below */
    int64_t table_position_stride;
    int64_t table_part_stride; /* from a position's cos to its sin */
    int32_t page_size;
    int32_t sequences;
    int32_t axes;              /* of positions */
    int32_t position_type;
    int32_t table_type;
    int32_t cache_type;
    int32_t check_positions;
    int32_t check_slots;
    int32_t head_dim;
    int32_t rotary_offset;
    int32_t rotary_pairs;      /* rotary_dim / 2, at most FFLASH_MAX_ROTARY_PAIRS */
    int32_t interleaved;       /* 1: pairs (2p, 2p + 1), GPT-J; 0: pairs (p, p + rotary_pairs), NeoX */
    int32_t columns;           /* pairs of chunks of a head that are moved */
    int32_t lots;              /* of heads that a thread visits, where all threads must go along */
    int32_t angle_region;      /* floats of shared memory between the halves of a token's cosines; see rope/angles.cuh */
    int32_t normalise;
    float cos_factor;
    float sin_factor;          /* -cos_factor for the inverse rotation */
    float eps;
    float weight_offset;       /* 0: plain; 1: Gemma */
    float inverse_head_dim;
    int32_t cache_joined;      /* 1: what neighbouring columns write to pages of FP8 is whole, aligned 16 bytes */
    uint32_t axis_of_pair[FFLASH_MAX_ROTARY_PAIRS / 16]; /* two bits a pair, from the lowest */
    uint64_t turns[FFLASH_MAX_ROTARY_PAIRS]; /* turns per position, 0.64 fixed point */
} fflash_rope_params;

/* fflash_rope_table_*: cosines and sines of positions first..first + positions. */
typedef struct fflash_rope_table_params {
    void *table;               /* [positions, 2, rotary_pairs]: cos, then sin */
    int64_t position_stride;
    int64_t part_stride;
    int64_t first_position;
    int64_t positions;
    int32_t rotary_pairs;
    float factor;
    uint64_t turns[FFLASH_MAX_ROTARY_PAIRS]; /* as in fflash_rope_params */
} fflash_rope_table_params;

#endif /* FFLASH_PARAMS_H */
