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
