//! Execution of a launch: blocks on several threads where they cannot communicate, warps of a block
//! interleaved, lanes of a warp together.

mod access;
mod address;
mod arithmetic;
mod atomic;
mod barrier;
mod collective;
mod copies;
mod count;
mod cta;
mod grid;
mod mbarrier;
mod numeric;
mod product;
mod profile;
mod race;
mod report;
mod run;
mod shadow;
mod system;
mod tensor;
mod warp;
mod words;

pub use count::Counters;
pub use profile::{AllocationTraffic, Profile};

use crate::arch::Arch;
use crate::fault::Fault;
use crate::memory::{GlobalMemory, MemoryError};
use crate::program::{KernelId, Program};

/// Which checks are made beyond what every access needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Reads of shared, local and global bytes that nothing wrote.
    pub init: bool,
    /// Accesses to shared or global memory by two warps, of the same block or not, of which one is a write
    /// and which no barrier, fence or atomic operation orders; and those of two operations on global
    /// memory that no stream orders.
    pub race: bool,
    /// NaN and infinities that floating-point instructions make from finite numbers. Off by default, because
    /// many kernels make them on purpose.
    pub arithmetic: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Self = Self {
        init: true,
        race: true,
        arithmetic: true,
    };
    /// None of them; what no access can do without is checked in any case.
    pub const NONE: Self = Self {
        init: false,
        race: false,
        arithmetic: false,
    };
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            init: true,
            race: true,
            arithmetic: false,
        }
    }
}

/// How `mma` sums the products of 16-bit and tf32 elements. Integers are exact in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum MmaMode {
    /// One after the other in f32, each sum rounded to nearest.
    #[default]
    Fast,
    /// As the tensor cores of Ampere and Ada: 8 products (4 of tf32) and the accumulator at once, each cut to 24
    /// bits behind the point of the largest.
    Ampere,
    /// As those of Hopper: 16 products (8 of tf32) at once, cut to 25 bits.
    Hopper,
}

/// How a launch is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Fixes the schedule. 0 runs each warp as far as it can go, which shows missing barriers best;
    /// others permute the warps and switch between them.
    pub seed: u64,
    /// What is checked.
    pub checks: Checks,
    /// The most threads that run blocks; 0 stands for as many as the machine has cores. Results and counters
    /// do not depend on it: blocks that can communicate run one after the other in any case.
    pub threads: usize,
    /// How tensor cores round.
    pub mma: MmaMode,
    /// Instructions and allocations are counted one by one, for [`profile`].
    pub profile: bool,
    /// Approximate instructions (`ex2`, `rcp.approx` and so on) give results anywhere within the bounds that the
    /// PTX ISA documents, instead of the correctly rounded ones. Which, the operands and the seed decide.
    pub perturb: bool,
    /// Warp instructions after which a launch that is not over fails; each of its threads counts its own, now
    /// and then, so that it may get further.
    pub max_instructions: Option<u64>,
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
    /// All blocks run at once, so that they may wait for each other.
    pub cooperative: bool,
    /// Earlier operations on the memory that do not happen before the launch: see [`GlobalMemory::begin`].
    pub unordered: &'a [u32],
}

impl LaunchConfig<'_> {
    /// The index of a block by axis.
    fn cta(&self, block: u64) -> [u32; 3] {
        let [width, height, _] = self.grid.map(u64::from);
        [
            block % width,
            block / width % height,
            block / width / height,
        ]
        .map(|index| index as u32)
    }
}

/// Runs a kernel to its end, as an operation of its own on the memory ([`GlobalMemory::begin`]).
///
/// # Errors
/// The first [`Fault`] in the order of blocks. What was written before it stays written, as on a GPU.
pub fn launch(
    program: &Program,
    kernel: KernelId,
    memory: &mut GlobalMemory,
    config: &LaunchConfig<'_>,
) -> Result<Counters, Box<Fault>> {
    profile(program, kernel, memory, config).map(|profile| profile.counters)
}

/// As [`launch`], in detail where [`Options::profile`] says so.
///
/// # Errors
/// Those of [`launch`].
pub fn profile(
    program: &Program,
    kernel: KernelId,
    memory: &mut GlobalMemory,
    config: &LaunchConfig<'_>,
) -> Result<Profile, Box<Fault>> {
    let kernel = program.get(kernel);
    memory.begin(kernel.name(), config.unordered.to_vec());
    // Without it, `grid.sync()` traps, as it does in a launch that is not cooperative.
    let workspace = if config.cooperative {
        workspace(memory).unwrap_or(0)
    } else {
        0
    };
    let outcome = grid::run(program, kernel, memory, config, workspace);
    let profile = outcome.map(|tally| match tally.details {
        Some(details) => details.finish(tally.counters, memory),
        None => Profile {
            counters: tally.counters,
            ..Profile::default()
        },
    });
    if workspace != 0 {
        // It can only fail where there is none.
        let _ = memory.free(workspace);
    }
    profile
}

/// What cooperative groups keep for a launch: first a size that nothing reads, then the barrier of the grid.
fn workspace(memory: &mut GlobalMemory) -> Result<u64, MemoryError> {
    const BYTES: u64 = 32;
    let address = memory.alloc(BYTES, "a cooperative launch")?;
    memory.fill(address, &[0], BYTES)?;
    Ok(address)
}
