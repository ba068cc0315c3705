pub const FFLASH_UNBOUNDED: u32 = 2147483647;
pub const FFLASH_MAX_ROTARY_PAIRS: u32 = 256;
pub const FFLASH_F16: u32 = 0;
pub const FFLASH_BF16: u32 = 1;
pub const FFLASH_F32: u32 = 2;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_strides4 {
    pub batch: i64,
    pub seqlen: i64,
    pub heads: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_strides3 {
    pub tokens: i64,
    pub heads: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_divisor {
    pub divisor: i32,
    pub multiplier: u32,
    pub shift: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_requests {
    pub cu_seqlens_q: *const i32,
    pub cu_seqlens_k: *const i32,
    pub kv_lens: *const i32,
    pub page_table: *const i32,
    pub page_error: *mut i32,
    pub page_table_stride: i64,
    pub page_size: fflash_divisor,
    pub num_pages: i32,
    pub batch: i32,
    pub seqlen_q: i32,
    pub seqlen_k: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_mask {
    pub window_left: i32,
    pub window_right: i32,
    pub chunk: i32,
    pub sink_tokens: i32,
    pub prefix_lens: *const i32,
    pub prefix_lens_stride: i64,
    pub bits: *const u8,
    pub bits_batch_stride: i64,
    pub bits_seqlen_stride: i64,
    pub blocks: *const u32,
    pub blocks_batch_stride: i64,
    pub blocks_head_stride: i64,
    pub blocks_row_stride: i64,
    pub block_q: fflash_divisor,
    pub block_k: fflash_divisor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_logits {
    pub softmax_scale: f32,
    pub softcap: f32,
    pub sinks: *const f32,
    pub sinks_stride: i64,
    pub alibi_slopes: *const f32,
    pub alibi_batch_stride: i64,
    pub alibi_head_stride: i64,
    pub bias: *const ::std::os::raw::c_void,
    pub bias_batch_stride: i64,
    pub bias_head_stride: i64,
    pub bias_seqlen_stride: i64,
    pub bias_key_stride: i64,
    pub bias_dtype: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_prefill_params {
    pub q: *const ::std::os::raw::c_void,
    pub k: *const ::std::os::raw::c_void,
    pub v: *const ::std::os::raw::c_void,
    pub o: *mut ::std::os::raw::c_void,
    pub lse: *mut f32,
    pub q_strides: fflash_strides4,
    pub k_strides: fflash_strides4,
    pub v_strides: fflash_strides4,
    pub o_strides: fflash_strides4,
    pub lse_batch_stride: i64,
    pub lse_head_stride: i64,
    pub lse_seqlen_stride: i64,
    pub requests: fflash_requests,
    pub mask: fflash_mask,
    pub logits: fflash_logits,
    pub num_qo_heads: i32,
    pub num_kv_heads: i32,
    pub group_size: i32,
    pub head_dim: i32,
    pub head_dim_v: i32,
    pub is_f32: i32,
    pub pack: fflash_divisor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_rms_norm_params {
    pub x: *const ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
    pub out: *mut ::std::os::raw::c_void,
    pub x_row_stride: i64,
    pub out_row_stride: i64,
    pub rows: i64,
    pub width: i32,
    pub eps: f32,
    pub weight_offset: f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_rope_params {
    pub q: *mut ::std::os::raw::c_void,
    pub k: *mut ::std::os::raw::c_void,
    pub positions: *const i32,
    pub table: *const f32,
    pub q_strides: fflash_strides3,
    pub k_strides: fflash_strides3,
    pub table_position_stride: i64,
    pub table_part_stride: i64,
    pub tokens: i64,
    pub q_heads: i32,
    pub k_heads: i32,
    pub rotary_pairs: i32,
    pub interleaved: i32,
    pub turns: [u64; 256usize],
}
