//! Runs a kernel with a bug and prints what the emulator says of it.
//!
//! The kernel reverses 64 numbers through shared memory. Between its writes and its reads a barrier is
//! missing: on a GPU it works most of the time.
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
.visible .entry reverse(.param .u64 numbers)
{
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    .shared .align 4 .b8 staged[256];
    .loc 1 5 1
    mov.u32 %r1, %tid.x;
    ld.param.u64 %rd1, [numbers];
    cvta.to.global.u64 %rd1, %rd1;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd2, %rd1, %rd2;
    ld.global.u32 %r2, [%rd2];
    shl.b32 %r3, %r1, 2;
    mov.u32 %r4, staged;
    add.s32 %r5, %r4, %r3;
    .loc 1 6 1
    st.shared.u32 [%r5], %r2;
    .loc 1 8 1
    sub.s32 %r6, %r4, %r3;
    ld.shared.u32 %r7, [%r6+252];
    st.global.u32 [%rd2], %r7;
    ret;
}
.file 1 "reverse.cu"
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
    // SAFETY: the kernel takes one pointer and stays within the 64 numbers there.
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
    for report in cusim::client::reports() {
        println!("\n{report}");
    }
    Ok(())
}
