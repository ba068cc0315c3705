//! Execution of a launch: blocks one after the other, warps interleaved, lanes together.

mod access;
mod address;
mod arithmetic;
mod atomic;
mod barrier;
mod collective;
mod copies;
mod count;
mod cta;
mod mbarrier;
mod report;
mod run;
mod shadow;
mod system;
mod tensor;
mod warp;
mod words;

pub use count::Counters;

use crate::arch::Arch;
use crate::fault::Fault;
use crate::memory::GlobalMemory;
use crate::program::{KernelId, Program};

/// Which checks are made beyond what every access needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Reads of shared, local and global bytes that nothing wrote.
    pub init: bool,
    /// Accesses to shared memory by two warps, one a write, that no barrier orders.
    pub race: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            init: true,
            race: true,
        }
    }
}

/// How a launch is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Fixes the schedule. 0 runs each warp as far as it can go, which shows missing barriers best;
    /// others permute the warps and switch between them.
    pub seed: u64,
    /// What is checked.
    pub checks: Checks,
}

/// One launch.
#[derive(Debug, Clone, Copy)]
pub struct LaunchConfig<'a> {
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter buffer, [`Kernel::param_bytes`](crate::program::Kernel::param_bytes) long.
    pub params: &'a [u8],
    /// Where the driver placed [`Program::globals`].
    pub global_addresses: &'a [u64],
    /// The device.
    pub arch: &'a Arch,
    /// Schedule and checks.
    pub options: &'a Options,
}

/// Runs a kernel to its end.
///
/// # Errors
/// The first [`Fault`]. What was written before it stays written, as on a GPU.
pub fn launch(
    program: &Program,
    kernel: KernelId,
    memory: &mut GlobalMemory,
    config: &LaunchConfig<'_>,
) -> Result<Counters, Box<Fault>> {
    let mut launch = cta::Launch::new(program, program.get(kernel), memory, config);
    for z in 0..config.grid[2] {
        for y in 0..config.grid[1] {
            for x in 0..config.grid[0] {
                launch.run_cta([x, y, z])?;
            }
        }
    }
    Ok(launch.into_counters())
}
