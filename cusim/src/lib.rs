//! A CUDA driver that needs no GPU.
pub mod arch;
pub mod exec;
pub mod fault;
pub mod image;
pub mod memory;
pub mod program;
pub mod ptx;
