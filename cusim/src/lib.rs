//! A CUDA driver that needs no GPU.
pub mod image;
pub mod ptx;
