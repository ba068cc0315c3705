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

/* Element types of tensors whose type the entry point's symbol does not name. */
#define FFLASH_DTYPE_F16 0
#define FFLASH_DTYPE_BF16 1
#define FFLASH_DTYPE_F32 2
#define FFLASH_DTYPE_E4M3 3
#define FFLASH_DTYPE_E5M2 4
#define FFLASH_DTYPE_I8 5

/* Bits of fflash_norm_params.flags. */
#define FFLASH_NORM_CENTRE 1    /* LayerNorm: the mean is subtracted first */
#define FFLASH_NORM_ONE_PLUS 2  /* weights count as 1 + w */
#define FFLASH_NORM_LLAMA 4     /* what is normalised is rounded before it is multiplied by the weight */
#define FFLASH_NORM_POST 8      /* x is normalised with post_weight before the residual is added */

/* One tensor of rows [tokens, heads, width] that fflash_norm_* and fflash_rms_norm_* normalise. */
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
 * fflash_rms_norm_*, fflash_add_rms_norm_*, fflash_norm_*: for every row
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
