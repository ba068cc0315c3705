pub const FFLASH_UNBOUNDED: u32 = 2147483647;
pub const FFLASH_MAX_ROTARY_PAIRS: u32 = 256;
pub const FFLASH_DTYPE_F16: u32 = 0;
pub const FFLASH_DTYPE_BF16: u32 = 1;
pub const FFLASH_DTYPE_F32: u32 = 2;
pub const FFLASH_DTYPE_E4M3: u32 = 3;
pub const FFLASH_DTYPE_E5M2: u32 = 4;
pub const FFLASH_DTYPE_I8: u32 = 5;
pub const FFLASH_NORM_CENTRE: u32 = 1;
pub const FFLASH_NORM_ONE_PLUS: u32 = 2;
pub const FFLASH_NORM_LLAMA: u32 = 4;
pub const FFLASH_NORM_POST: u32 = 8;
pub const FFLASH_POSITIONS_I32: u32 = 0;
pub const FFLASH_POSITIONS_I64: u32 = 1;
pub const FFLASH_POSITIONS_F32: u32 = 2;
pub const FFLASH_POSITIONS_F64: u32 = 3;
pub const FFLASH_POSITIONS_RANGE: u32 = 4;
pub const FFLASH_POSITIONS_PACKED: u32 = 5;
pub const FFLASH_TABLE_F32: u32 = 0;
pub const FFLASH_TABLE_F16: u32 = 1;
pub const FFLASH_TABLE_BF16: u32 = 2;
pub const FFLASH_PAGES_SAME: u32 = 0;
pub const FFLASH_PAGES_E4M3: u32 = 1;
pub const FFLASH_PAGES_E5M2: u32 = 2;
pub const FFLASH_FAULT_POSITION: u32 = 0;
pub const FFLASH_FAULT_SLOT: u32 = 1;
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
pub struct fflash_norm_part {
    pub x: *const ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
    pub out: *mut ::std::os::raw::c_void,
    pub x_strides: fflash_strides3,
    pub out_strides: fflash_strides3,
    pub rows: i64,
    pub heads: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_norm_params {
    pub parts: [fflash_norm_part; 2usize],
    pub residual: *const ::std::os::raw::c_void,
    pub residual_out: *mut ::std::os::raw::c_void,
    pub post_weight: *const ::std::os::raw::c_void,
    pub bias: *const ::std::os::raw::c_void,
    pub gate: *const ::std::os::raw::c_void,
    pub scales: *mut f32,
    pub residual_row_stride: i64,
    pub residual_out_row_stride: i64,
    pub gate_row_stride: i64,
    pub scales_row_stride: i64,
    pub scales_group_stride: i64,
    pub first_block: u32,
    pub width: i32,
    pub stat_width: i32,
    pub group: i32,
    pub flags: i32,
    pub x_dtype: i32,
    pub residual_dtype: i32,
    pub weight_dtype: i32,
    pub post_weight_dtype: i32,
    pub bias_dtype: i32,
    pub gate_dtype: i32,
    pub out_dtype: i32,
    pub eps: f32,
    pub inverse_scale: f32,
    pub exchange: *mut u32,
    pub block_offset: u32,
    pub split_width: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_norm_backward_params {
    pub x: *const ::std::os::raw::c_void,
    pub dy: *const ::std::os::raw::c_void,
    pub dh: *const ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
    pub dx: *mut ::std::os::raw::c_void,
    pub partials: *mut f32,
    pub dw: *mut ::std::os::raw::c_void,
    pub x_row_stride: i64,
    pub dy_row_stride: i64,
    pub dh_row_stride: i64,
    pub dx_row_stride: i64,
    pub rows: i64,
    pub count: i32,
    pub width: i32,
    pub one_plus: i32,
    pub split: i32,
    pub x_dtype: i32,
    pub dy_dtype: i32,
    pub dh_dtype: i32,
    pub weight_dtype: i32,
    pub dx_dtype: i32,
    pub dw_dtype: i32,
    pub eps: f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_rope_heads {
    pub x: *const ::std::os::raw::c_void,
    pub out: *mut ::std::os::raw::c_void,
    pub weight: *const ::std::os::raw::c_void,
    pub x_strides: fflash_strides3,
    pub out_strides: fflash_strides3,
    pub heads: i32,
    pub threads: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_rope_pages {
    pub pages: *mut ::std::os::raw::c_void,
    pub scales: *const f32,
    pub page_stride: i64,
    pub token_stride: i64,
    pub head_stride: i64,
    pub scale_stride: i64,
    pub inverse_scale: f32,
    pub reserved: f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_rope_params {
    pub heads: [fflash_rope_heads; 3usize],
    pub pages: [fflash_rope_pages; 2usize],
    pub slots: *const i64,
    pub positions: *const ::std::os::raw::c_void,
    pub table: *const ::std::os::raw::c_void,
    pub faults: *mut u64,
    pub tokens: i64,
    pub first_position: i64,
    pub position_limit: i64,
    pub num_slots: i64,
    pub table_position_stride: i64,
    pub table_part_stride: i64,
    pub page_size: i32,
    pub sequences: i32,
    pub axes: i32,
    pub position_type: i32,
    pub table_type: i32,
    pub cache_type: i32,
    pub check_positions: i32,
    pub check_slots: i32,
    pub head_dim: i32,
    pub rotary_offset: i32,
    pub rotary_pairs: i32,
    pub interleaved: i32,
    pub columns: i32,
    pub lots: i32,
    pub angle_region: i32,
    pub normalise: i32,
    pub cos_factor: f32,
    pub sin_factor: f32,
    pub eps: f32,
    pub weight_offset: f32,
    pub inverse_head_dim: f32,
    pub cache_joined: i32,
    pub axis_of_pair: [u32; 16usize],
    pub turns: [u64; 256usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct fflash_rope_table_params {
    pub table: *mut ::std::os::raw::c_void,
    pub position_stride: i64,
    pub part_stride: i64,
    pub first_position: i64,
    pub positions: i64,
    pub rotary_pairs: i32,
    pub factor: f32,
    pub turns: [u64; 256usize],
}
