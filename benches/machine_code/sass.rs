//! Facts of the machine code: the kernels' fat binaries, taken apart with NVIDIA's disassembler by `sasscheck.py`.

// The build script's own way to the packages of the CUDA compiler.
#[allow(dead_code)]
#[path = "../../build/provision.rs"]
mod provision;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::case::Run;

const DISASSEMBLER: &[&str] = &[
    "nvidia-cuda-nvdisasm==13.5.37",
    "nvidia-cuda-cuobjdump==13.5.37",
];

/// The machine code of one kernel for one architecture.
#[derive(Debug, Deserialize)]
pub struct Kernel {
    /// As `sm_80`.
    pub built_for: String,
    pub registers: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Outside of innermost loops.
    pub straight: Code,
    /// Innermost loops.
    pub loops: Vec<Code>,
}

/// Some instructions of it: all, or those of one loop.
#[derive(Debug, Deserialize)]
pub struct Code {
    pub instructions: u32,
    /// How many of each class there are.
    pub counts: BTreeMap<String, u32>,
    pub global_accesses: u32,
    /// Of its accesses to global memory, those of 128 bits.
    pub share_128bit: Option<f64>,
    #[serde(rename = "instructions_per_16B")]
    pub instructions_per_16_bytes: Option<f64>,
    /// If every load is issued before the first use.
    pub load_bytes_in_flight_sm: Option<u64>,
    /// Cycles of the tensor pipe over those of the busiest pipe.
    pub tensor_bound: Option<f64>,
    pub replay: Option<Replay>,
}

/// The loop in ptxas's own order on a model of one SM with all blocks that fit.
#[derive(Debug, Deserialize)]
pub struct Replay {
    /// Share of the cycles in which the tensor pipe works.
    pub tensor: f64,
}

impl Kernel {
    pub fn spills(&self) -> u32 {
        self.spill_stores + self.spill_loads
    }

    /// Where it moves most: one of its loops, or what is outside of them.
    pub fn streaming(&self) -> &Code {
        let most = self.loops.iter().max_by_key(|code| code.global_accesses);
        match most {
            Some(most) if most.global_accesses > self.straight.global_accesses => most,
            _ => &self.straight,
        }
    }

    /// The loop that multiplies most.
    pub fn main_loop(&self) -> Option<&Code> {
        let tensor = |code: &&Code| {
            let of_tensor = code
                .counts
                .iter()
                .filter(|(class, _)| class.contains("MMA"));
            of_tensor.map(|(_, count)| count).sum::<u32>()
        };
        self.loops
            .iter()
            .filter(|code| code.tensor_bound.is_some())
            .max_by_key(tensor)
    }
}

impl Code {
    pub fn local_accesses(&self) -> u32 {
        let of_local = |class: &str| class.starts_with("ldl") || class.starts_with("stl");
        let counts = self.counts.iter().filter(|(class, _)| of_local(class));
        counts.map(|(_, count)| count).sum()
    }
}

/// Where the disassembler is, and the fat binaries of this build.
pub struct Toolkit {
    home: PathBuf,
    binaries: Vec<PathBuf>,
}

impl Toolkit {
    /// Takes `CUDA_HOME` where that has the disassembler, else installs it below the target directory as the build
    /// script installs the compiler.
    pub fn install() -> Result<Self, Box<dyn Error>> {
        let out = Path::new(env!("OUT_DIR"));
        let given = std::env::var_os("CUDA_HOME").map(PathBuf::from);
        let home = match given.filter(|home| home.join("bin").join("nvdisasm").is_file()) {
            Some(home) => home,
            None => {
                let site = provision::Toolchain::below_target(out).install(DISASSEMBLER)?;
                site.join("nvidia").join("cu13")
            }
        };
        let mut binaries = Vec::new();
        for entry in fs::read_dir(out)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "fatbin")
            {
                binaries.push(path);
            }
        }
        binaries.sort();
        Ok(Self { home, binaries })
    }

    /// The machine code of the kernel that ran, for each architecture.
    pub fn examine(&self, run: &Run) -> Result<Vec<Kernel>, Box<dyn Error>> {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/machine_code/sasscheck.py");
        for binary in &self.binaries {
            // Names of entry points stand in a fat binary as they are.
            let bytes = fs::read(binary)?;
            let name = run.kernel.as_bytes();
            if !bytes.windows(name.len()).any(|window| window == name) {
                continue;
            }
            let output = Command::new("python3")
                .arg(&script)
                .arg(binary)
                .arg(format!("^{}$", run.kernel))
                .arg(format!("--threads=.={}", run.threads))
                .arg(format!("--smem=.={}", run.dynamic_shared))
                .arg("--json")
                .env("CUDA_HOME", &self.home)
                .output()?;
            if output.status.success() {
                return Ok(serde_json::from_slice(&output.stdout)?);
            }
            let error = String::from_utf8_lossy(&output.stderr);
            // The name may be that of a longer one.
            if !error.contains("no kernel matches") {
                return Err(format!("{}: {error}", binary.display()).into());
            }
        }
        Err(format!("no machine code of {} in this build", run.kernel).into())
    }
}
