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
    pub batch: i32,
    pub seqlen_q: i32,
    pub seqlen_k: i32,
    pub num_qo_heads: i32,
    pub num_kv_heads: i32,
    pub group_size: i32,
    pub window_left: i32,
    pub window_right: i32,
    pub softmax_scale: f32,
    pub softcap: f32,
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
