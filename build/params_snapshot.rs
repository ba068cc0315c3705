pub const FFLASH_UNBOUNDED: u32 = 2147483647;
pub const FFLASH_MAX_ROTARY_PAIRS: u32 = 256;
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
