//! Runs a kernel with a bank conflict and loads that waste most of what they fetch, and shows where.
//!
//! The kernel transposes tiles of 32 x 32 numbers through shared memory, row by row in and column by column out: every
//! lane reads the same bank. The table goes to the terminal, the page to `target/profile.html`.
//!
//! ```text
//! cargo run -p cusim --example profile
//! ```

#![allow(unsafe_code)] // launching a kernel

use std::error::Error;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const TRANSPOSE: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.file 1 "transpose.cu"
.visible .entry transpose(.param .u64 from, .param .u64 to)
{
    .reg .pred %p;
    .reg .b32 %row, %lane, %in, %out, %number;
    .reg .b64 %from, %to, %offset;
    .shared .align 4 .b8 tile[4096];
    .loc 1 3 1
    ld.param.u64 %from, [from];
    ld.param.u64 %to, [to];
    mov.u32 %lane, %tid.x;
    mov.u32 %row, 0;
    mov.u32 %in, tile;
    mad.lo.u32 %out, %lane, 128, %in;
    mad.lo.u32 %in, %lane, 4, %in;
    mul.wide.u32 %offset, %lane, 128;
    add.u64 %from, %from, %offset;
    mul.wide.u32 %offset, %lane, 4;
    add.u64 %to, %to, %offset;
again:
    .loc 1 5 1
    ld.global.u32 %number, [%from];
    .loc 1 6 1
    st.shared.u32 [%out], %number;
    .loc 1 7 1
    bar.warp.sync -1;
    .loc 1 8 1
    ld.shared.u32 %number, [%in];
    .loc 1 9 1
    st.global.u32 [%to], %number;
    .loc 1 4 1
    bar.warp.sync -1;
    add.u64 %from, %from, 4;
    add.u64 %to, %to, 128;
    add.u32 %row, %row, 1;
    setp.lt.u32 %p, %row, 32;
    @%p bra again;
    ret;
}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let device = cusim::Device::select(cusim::Choice::Cusim)?;
    println!("{device}");
    cusim::set_profile(true);

    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let transpose = context
        .load_module(Ptx::from_src(TRANSPOSE))?
        .load_function("transpose")?;
    let from = stream.clone_htod(&(0..32 * 32).collect::<Vec<u32>>())?;
    let mut to = stream.alloc_zeros::<u32>(32 * 32)?;
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (32, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the kernel takes two pointers to 32 x 32 numbers and stays within them.
    unsafe {
        stream
            .launch_builder(&transpose)
            .arg(&from)
            .arg(&mut to)
            .launch(config)
    }?;
    stream.synchronize()?;

    let profiles = cusim::take_profiles();
    print!("{}", cusim::profile::table(&profiles));
    std::fs::create_dir_all("target")?;
    std::fs::write("target/profile.html", cusim::profile::html(&profiles))?;
    println!("the source with its counts: target/profile.html");
    Ok(())
}
