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

/*
 * fflash_prefill_*: O = softmax(mask(softcap(Q K^T * softmax_scale))) V.
 *
 * Query row i sees key j when
 *   i + (seqlen_k - seqlen_q) - window_left <= j <= i + (seqlen_k - seqlen_q) + window_right
 * and 0 <= j < seqlen_k; a bound of FFLASH_UNBOUNDED does not limit. Causal is
 * window_left = FFLASH_UNBOUNDED, window_right = 0.
 */
typedef struct fflash_prefill_params {
    const void *q;             /* [batch, seqlen_q, num_qo_heads, head_dim] */
    const void *k;             /* [batch, seqlen_k, num_kv_heads, head_dim] */
    const void *v;             /* [batch, seqlen_k, num_kv_heads, head_dim] */
    void *o;                   /* [batch, seqlen_q, num_qo_heads, head_dim] */
    float *lse;                /* [batch, num_qo_heads, seqlen_q], natural log; null when not asked for */
    fflash_strides4 q_strides;
    fflash_strides4 k_strides;
    fflash_strides4 v_strides;
    fflash_strides4 o_strides;
    int64_t lse_batch_stride;
    int64_t lse_head_stride;
    int64_t lse_seqlen_stride;
    int32_t batch;
    int32_t seqlen_q;
    int32_t seqlen_k;
    int32_t num_qo_heads;
    int32_t num_kv_heads;
    int32_t group_size;        /* num_qo_heads / num_kv_heads */
    int32_t window_left;
    int32_t window_right;
    float softmax_scale;       /* multiplies Q K^T */
    float softcap;             /* logits become softcap * tanh(logits / softcap); 0: no cap */
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
    float reserved;
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
