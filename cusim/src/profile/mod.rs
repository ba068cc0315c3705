//! Where a kernel spends its instructions and its traffic: by kernel, by line of its source, by instruction and by
//! allocation; as values, as a table for the terminal, as JSON and as a page for a browser.
//!
//! A program asks for it with [`set_profile`](crate::set_profile) and [`take_profiles`](crate::take_profiles); for
//! one that knows nothing of the emulator, the environment variable `CUSIM_PROFILE` names a file that is written when
//! the process ends: `.json`, `.html`, or else the table.

mod html;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::exec::{AllocationTraffic, Counters, Profile};
use crate::program::{Kernel, Program};

pub use html::html;
pub use table::table;

/// The launches of a kernel, added up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KernelProfile {
    /// The kernel.
    pub kernel: String,
    /// How many launches.
    pub launches: u64,
    /// Blocks by axis, of the last launch.
    pub grid: [u32; 3],
    /// Threads of a block by axis, of the last launch.
    pub block: [u32; 3],
    /// The totals.
    pub counters: Counters,
    /// Those that were executed, in the order of the PTX text.
    pub instructions: Vec<InstructionProfile>,
    /// Those that were accessed, by address.
    pub allocations: Vec<AllocationTraffic>,
}

/// One instruction of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstructionProfile {
    /// As it could be written.
    pub instruction: String,
    /// Path of the CUDA source, where the module says.
    pub file: Option<String>,
    /// Line in that file; 0 where there is none.
    pub line: u32,
    /// Line in the PTX text.
    pub ptx_line: u32,
    /// What it took.
    pub counters: Counters,
}

/// One line of source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LineProfile {
    /// Path of the CUDA source; empty for instructions of which the module does not say, whose lines are those
    /// of the PTX text.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// What its instructions took.
    pub counters: Counters,
}

impl KernelProfile {
    /// One launch of a kernel.
    pub fn new(
        program: &Program,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        profile: &Profile,
    ) -> Self {
        let executed = profile.instructions.iter().enumerate();
        let executed = executed.filter(|(_, counters)| counters.instructions != 0);
        let instructions = executed.map(|(pc, counters)| {
            let site = program.site(kernel, pc);
            let place = site
                .source
                .as_deref()
                .and_then(|source| source.rsplit_once(':'));
            InstructionProfile {
                instruction: site.instruction,
                file: place.map(|(file, _)| file.to_owned()),
                line: place.and_then(|(_, line)| line.parse().ok()).unwrap_or(0),
                ptx_line: site.ptx_line,
                counters: *counters,
            }
        });
        Self {
            kernel: kernel.name().to_owned(),
            launches: 1,
            grid,
            block,
            counters: profile.counters,
            instructions: instructions.collect(),
            allocations: profile.allocations.clone(),
        }
    }

    /// The lines that were executed, by file and line.
    pub fn lines(&self) -> Vec<LineProfile> {
        let mut lines: BTreeMap<(&str, u32), Counters> = BTreeMap::new();
        for instruction in &self.instructions {
            *lines.entry(instruction.place()).or_default() += instruction.counters;
        }
        let line = |((file, line), counters): ((&str, u32), Counters)| LineProfile {
            file: file.to_owned(),
            line,
            counters,
        };
        lines.into_iter().map(line).collect()
    }

    /// Adds a later launch of the same kernel.
    fn add(&mut self, later: Self) {
        self.launches += later.launches;
        (self.grid, self.block) = (later.grid, later.block);
        self.counters += later.counters;
        let mut all: BTreeMap<_, InstructionProfile> = BTreeMap::new();
        for instruction in self.instructions.drain(..).chain(later.instructions) {
            let key = (instruction.ptx_line, instruction.instruction.clone());
            match all.entry(key) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(instruction);
                }
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.get_mut().counters += instruction.counters;
                }
            }
        }
        self.instructions = all.into_values().collect();
        self.allocations.extend(later.allocations);
    }
}

impl InstructionProfile {
    /// File and line, or no file and the line of the PTX text.
    fn place(&self) -> (&str, u32) {
        match &self.file {
            Some(file) => (file, self.line),
            None => ("", self.ptx_line),
        }
    }
}

/// Adds a launch to those of its kernel.
pub(crate) fn collect(profiles: &mut Vec<KernelProfile>, launch: KernelProfile) {
    match profiles
        .iter_mut()
        .find(|known| known.kernel == launch.kernel)
    {
        Some(known) => known.add(launch),
        None => profiles.push(launch),
    }
}

/// Profiles as JSON.
pub fn json(profiles: &[KernelProfile]) -> String {
    serde_json::to_string_pretty(profiles)
        .unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
}

/// The report that suits the name of a file: `.json`, `.html`, or else the table.
pub(crate) fn report_for(path: &str, profiles: &[KernelProfile]) -> String {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json") => json(profiles),
        Some("html") => html(profiles),
        _ => table(profiles),
    }
}

/// The names of counters with their values, for reports.
fn named(counters: &Counters) -> Vec<(&'static str, u64)> {
    let Counters {
        instructions,
        thread_instructions,
        integer,
        float,
        convert,
        moves,
        memory,
        tensor,
        warp,
        barrier,
        control,
        divergent_branches,
        mma_flops,
        global_load_requests,
        global_load_sectors,
        global_load_bytes,
        global_store_requests,
        global_store_sectors,
        global_store_bytes,
        global_vector_bytes,
        copy_async_bytes,
        shared_wavefronts,
        shared_wavefronts_ideal,
    } = *counters;
    vec![
        ("warp instructions", instructions),
        ("thread instructions", thread_instructions),
        ("integer", integer),
        ("float", float),
        ("conversion", convert),
        ("move", moves),
        ("memory", memory),
        ("tensor core", tensor),
        ("shuffle and vote", warp),
        ("barrier and fence", barrier),
        ("control", control),
        ("divergent branches", divergent_branches),
        ("mma flops", mma_flops),
        ("global load requests", global_load_requests),
        ("global load sectors", global_load_sectors),
        ("global load bytes", global_load_bytes),
        ("global store requests", global_store_requests),
        ("global store sectors", global_store_sectors),
        ("global store bytes", global_store_bytes),
        ("global bytes in vectors of 16", global_vector_bytes),
        ("cp.async bytes", copy_async_bytes),
        ("shared wavefronts", shared_wavefronts),
        ("ideal shared wavefronts", shared_wavefronts_ideal),
    ]
}

/// Sectors that the bytes of an access would fill.
fn ideal_sectors(bytes: u64) -> u64 {
    bytes.div_ceil(crate::memory::SECTOR as u64)
}

/// What stands out in some counters, in words.
fn remarks(counters: &Counters) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut excess = |what: &str, got: u64, ideal: u64| {
        if got > ideal {
            let part = 100.0 * (got - ideal) as f64 / ideal.max(1) as f64;
            remarks.push(format!("{what}: {got} instead of {ideal} (+{part:.1} %)"));
        }
    };
    let (wavefronts, ideal) = (counters.shared_wavefronts, counters.shared_wavefronts_ideal);
    excess("bank conflicts, wavefronts", wavefronts, ideal);
    let loads = ideal_sectors(counters.global_load_bytes);
    excess("load sectors", counters.global_load_sectors, loads);
    let stores = ideal_sectors(counters.global_store_bytes);
    excess("store sectors", counters.global_store_sectors, stores);
    if counters.divergent_branches != 0 {
        remarks.push(format!(
            "divergent branches: {}",
            counters.divergent_branches
        ));
    }
    remarks
}
