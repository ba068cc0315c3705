//! Launches recorded to be run again, without a driver: with another schedule, other checks or a changed
//! module.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::exec::{self, Counters, LaunchConfig, Options};
use crate::fault::Fault;
use crate::memory::{GlobalMemory, MemoryError};
use crate::program::{KernelId, Program};

/// A launch and the memory it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recording {
    /// The module, as PTX text.
    pub module: Arc<str>,
    /// The kernel.
    pub kernel: String,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter buffer.
    pub params: Vec<u8>,
    /// Addresses of the module's variables.
    pub globals: Vec<u64>,
    /// Whether all blocks run at once.
    pub cooperative: bool,
    /// Compute capability of the device: 80 for sm_80.
    pub sm: u32,
    /// Everything allocated, in order of address.
    pub allocations: Vec<Allocated>,
}

/// An allocation before a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocated {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// What made it.
    pub origin: String,
    /// What is initialised: offsets and bytes.
    pub contents: Vec<(u64, Vec<u8>)>,
}

/// What became of a launch that was run again.
#[derive(Debug)]
pub struct Replay {
    /// Its counters, or how it failed.
    pub outcome: Result<Counters, Box<Fault>>,
    /// The bytes of every allocation afterwards.
    pub memory: Vec<Vec<u8>>,
    /// Lines of the PTX text with instructions that were executed, where [`Options::profile`] asks for them and
    /// the launch did not fail.
    pub ptx_lines: HashSet<u32>,
}

/// Why a recording cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The program has no such kernel.
    #[error("the program has no kernel {0}")]
    NoKernel(String),
    /// The kernel takes other parameters, or the program other variables, than those recorded.
    #[error("{0} takes other parameters or variables than those recorded")]
    OtherParameters(String),
    /// The device is not modelled.
    #[error("sm_{0} is not modelled")]
    NoModel(u32),
    /// The recorded memory is not one that could have been.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Recording {
    /// The launch as it is about to happen.
    pub(crate) fn of(
        program: &Program,
        kernel: KernelId,
        memory: &GlobalMemory,
        config: &LaunchConfig<'_>,
    ) -> Self {
        let allocated = memory.live().map(|info| {
            let written = memory.written(info.base, info.len).unwrap_or_default();
            let mut start = 0;
            let mut contents = Vec::new();
            for run in written.chunk_by(|a, b| a == b) {
                if run[0] {
                    let mut bytes = vec![0; run.len()];
                    // The run is inside an allocation that is live.
                    let _ = memory.read(info.base + start, &mut bytes);
                    contents.push((start, bytes));
                }
                start += run.len() as u64;
            }
            Allocated {
                base: info.base,
                len: info.len,
                contents,
                origin: info.origin,
            }
        });
        Self {
            module: program.text().clone(),
            kernel: program.get(kernel).name().to_owned(),
            grid: config.grid,
            block: config.block,
            dynamic_shared: config.dynamic_shared,
            params: config.params.to_vec(),
            globals: config.global_addresses.to_vec(),
            cooperative: config.cooperative,
            sm: config.arch.sm,
            allocations: allocated.collect(),
        }
    }

    /// Runs the launch again, with the kernel of this name in `program`, which may be a changed one.
    ///
    /// # Errors
    /// [`ReplayError`] when the program cannot be launched so. A kernel that fails is no error.
    pub fn replay(&self, program: &Program, options: &Options) -> Result<Replay, ReplayError> {
        let id = program.kernel(&self.kernel);
        let id = id.ok_or_else(|| ReplayError::NoKernel(self.kernel.clone()))?;
        let parameters = program.get(id).param_bytes() as usize;
        if parameters != self.params.len() || program.globals().len() != self.globals.len() {
            return Err(ReplayError::OtherParameters(self.kernel.clone()));
        }
        let arch = Arch::of(self.sm).ok_or(ReplayError::NoModel(self.sm))?;
        let mut memory = GlobalMemory::new(arch.global_memory);
        for allocated in &self.allocations {
            memory.alloc_at(allocated.base, allocated.len, &allocated.origin)?;
            for (offset, bytes) in &allocated.contents {
                memory.write(allocated.base + offset, bytes)?;
            }
        }
        let config = LaunchConfig {
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            params: &self.params,
            global_addresses: &self.globals,
            arch,
            options,
            cooperative: self.cooperative,
            unordered: &[],
        };
        let outcome = exec::profile(program, id, &mut memory, &config);
        let ptx_lines = outcome.iter().flat_map(|profile| {
            let counted = profile.instructions.iter();
            let lines = program.get(id).ptx_lines().zip(counted);
            lines.filter(|(_, counters)| counters.instructions > 0)
        });
        let ptx_lines = ptx_lines.map(|(line, _)| line).collect();
        let after = self.allocations.iter().map(|allocated| {
            let mut bytes = vec![0; allocated.len as usize];
            memory.read(allocated.base, &mut bytes).map(|()| bytes)
        });
        let memory = after.collect::<Result<_, _>>()?;
        Ok(Replay {
            outcome: outcome.map(|profile| profile.counters),
            memory,
            ptx_lines,
        })
    }
}
