//! Runs a kernel with a bug and prints what the emulator says of it.
//!
//! The kernel reverses 64 numbers through shared memory, again and again. A barrier is missing between
//! the reads of a round and the writes of the next: on a GPU it works most of the time.
//!
//! ```text
//! cargo run -p cusim --example report
//! ```

#![allow(unsafe_code)] // launching a kernel

use std::error::Error;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const REVERSE: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.file 1 "reverse.cu"
.visible .entry reverse(.param .u64 numbers, .param .u32 rounds)
{
    .reg .pred %p;
    .reg .b32 %number, %round, %thread, %own, %mirrored;
    .reg .b64 %place, %offset;
    .shared .align 4 .b8 staged[256];
    .loc 1 4 1
    mov.u32 %thread, %tid.x;
    ld.param.u64 %place, [numbers];
    cvta.to.global.u64 %place, %place;
    mul.wide.u32 %offset, %thread, 4;
    add.s64 %place, %place, %offset;
    ld.param.u32 %round, [rounds];
    ld.global.u32 %number, [%place];
    mov.u32 %own, staged;
    shl.b32 %thread, %thread, 2;
    sub.s32 %mirrored, %own, %thread;
    add.s32 %own, %own, %thread;
again:
    .loc 1 6 1
    st.shared.u32 [%own], %number;
    .loc 1 7 1
    bar.sync 0;
    .loc 1 8 1
    ld.shared.u32 %number, [%mirrored+252];
    .loc 1 5 1
    sub.s32 %round, %round, 1;
    setp.ne.s32 %p, %round, 0;
    @%p bra again;
    .loc 1 10 1
    st.global.u32 [%place], %number;
    ret;
}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let device = cusim::Device::select(cusim::Choice::Cusim)?;
    println!("{device}");

    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let reverse = context
        .load_module(Ptx::from_src(REVERSE))?
        .load_function("reverse")?;
    let mut numbers = stream.clone_htod(&(0..64).collect::<Vec<u32>>())?;
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (64, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the kernel takes a pointer and a number, and stays within the 64 numbers there.
    unsafe {
        stream
            .launch_builder(&reverse)
            .arg(&mut numbers)
            .launch(config)
    }?;

    // As on a GPU, the launch itself succeeds and what comes after it fails.
    match stream.synchronize() {
        Ok(()) => println!("no error"),
        Err(error) => println!("the stream reports: {error}"),
    }
    for report in cusim::reports() {
        println!("\n{report}");
    }
    Ok(())
}
