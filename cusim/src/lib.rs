//! A CUDA driver that needs no GPU.
pub mod ptx;
