//! What the GPU at hand can do at most, measured.

#![allow(unsafe_code)] // the launch of a kernel that is no part of the library

use std::fmt;

use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::cases::Result;
use crate::timer::Timer;

/// Bytes copied.
const COPIED: usize = 1 << 30;

/// Warps of a block, two blocks an SM; products that do not wait for each other; rounds.
const WARPS: u32 = 8;
const PRODUCTS: u32 = 8;
const ROUNDS: u32 = 256;

/// The best rates that were seen.
pub struct Ceilings {
    /// Bytes a second, read and written, of a copy.
    pub memory: f64,
    /// Operations a second of `mma.sync` on f16 that adds up in f32, from registers.
    pub tensor: f64,
}

impl Ceilings {
    pub fn measure(timer: &mut Timer) -> Result<Self> {
        Ok(Self {
            memory: memory(timer)?,
            tensor: tensor(timer)?,
        })
    }
}

impl fmt::Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ceilings: {:.0} GB/s in a copy, {:.0} TFLOP/s in mma.sync of f16",
            self.memory / 1e9,
            self.tensor / 1e12
        )
    }
}

fn memory(timer: &mut Timer) -> Result<f64> {
    let stream = timer.stream.clone();
    let from = stream.alloc_zeros::<u8>(COPIED)?;
    let mut to = stream.alloc_zeros::<u8>(COPIED)?;
    let time = timer.time(|| Ok(stream.memcpy_dtod(&from, &mut to)?))?;
    Ok(2.0 * COPIED as f64 / time.median)
}

fn tensor(timer: &mut Timer) -> Result<f64> {
    let stream = timer.stream.clone();
    let module = stream.context().load_module(Ptx::from_src(products()))?;
    let kernel = module.load_function("products")?;
    let mut out = stream.alloc_zeros::<f32>(1)?;
    let sms = stream
        .context()
        .attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let config = LaunchConfig {
        grid_dim: (2 * sms as u32, 1, 1),
        block_dim: (32 * WARPS, 1, 1),
        shared_mem_bytes: 0,
    };
    let time = timer.time(|| {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&mut out).arg(&ROUNDS);
        // SAFETY: the kernel writes at most the one element of `out`.
        unsafe { launch.launch(config) }?;
        Ok(())
    })?;
    let warps = f64::from(config.grid_dim.0 * WARPS);
    let operations = f64::from(2 * 16 * 8 * 16 * PRODUCTS) * f64::from(ROUNDS) * warps;
    Ok(operations / time.median)
}

/// A kernel of nothing but products, of numbers from 1 to 2 with any sign: zeros would take less power.
fn products() -> String {
    let registers = |product: u32| (0..4).map(move |at| format!("%f{}", 4 * product + at));
    let list = |product| registers(product).collect::<Vec<_>>().join(", ");
    let each = |line: &dyn Fn(u32) -> String| (0..PRODUCTS).map(line).collect::<String>();
    let multiply = each(&|product| {
        let sums = list(product);
        format!(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{{sums}}}, {{%a0, %a1, %a2, %a3}}, {{%b0, %b1}}, {{{sums}}};\n"
        )
    });
    let clear = each(&|product| {
        registers(product)
            .map(|register| format!("mov.f32 {register}, 0f00000000;\n"))
            .collect()
    });
    let add = each(&|product| {
        registers(product)
            .map(|register| format!("add.f32 %sum, %sum, {register};\n"))
            .collect()
    });
    let operands: String = ["a0", "a1", "a2", "a3", "b0", "b1"]
        .iter()
        .map(|register| {
            format!(
                "mad.lo.u32 %bits, %bits, 1664525, 1013904223;\n\
                 and.b32 %{register}, %bits, 0x83ff83ff;\nor.b32 %{register}, %{register}, 0x3c003c00;\n"
            )
        })
        .collect();
    format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n\
         .visible .entry products(.param .u64 out, .param .u32 rounds)\n{{\n\
         .reg .pred %p; .reg .b32 %bits, %a<4>, %b<2>, %left; .reg .b64 %out; .reg .f32 %sum, %f<{}>;\n\
         mov.u32 %bits, %tid.x;\nld.param.u32 %left, [rounds];\nmov.f32 %sum, 0f00000000;\n\
         {operands}{clear}\
         next:\n{multiply}\
         sub.u32 %left, %left, 1;\nsetp.ne.u32 %p, %left, 0;\n@%p bra next;\n\
         {add}\
         setp.eq.f32 %p, %sum, 0f3f800000;\n\
         ld.param.u64 %out, [out];\n@%p st.global.f32 [%out], %sum;\nret;\n}}\n",
        4 * PRODUCTS
    )
}
