//! Facts of the machine code: the kernels' fat binaries, taken apart with NVIDIA's disassembler by `sasscheck.py`.

// The build script's own way to the packages of the CUDA compiler.
#[allow(dead_code)]
#[path = "../../build/provision.rs"]
mod provision;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::cases::Result;
use crate::report::Run;

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
    /// For each 16 bytes of global memory, the instructions of the way through the kernel that takes the fewest, around no
    /// loop, and through a barrier where there is one: of a kernel with a variant for full blocks it is that.
    #[serde(rename = "straightest_way_per_16B")]
    pub straightest_way: Option<f64>,
}

/// Some instructions of it: all, or those of one loop.
#[derive(Debug, Deserialize)]
pub struct Code {
    pub instructions: u32,
    /// How many of each class there are.
    pub counts: BTreeMap<String, u32>,
    /// That a thread moves to and from global memory.
    pub global_bytes_per_thread: u32,
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
        let most = self
            .loops
            .iter()
            .max_by_key(|code| code.global_bytes_per_thread);
        match most {
            Some(most) if most.global_bytes_per_thread >= self.straight.global_bytes_per_thread => {
                most
            }
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

/// Where the disassembler is, and the machine code of this build.
pub struct Toolkit {
    home: PathBuf,
    /// One file for each unit and architecture.
    cubins: Vec<PathBuf>,
}

impl Toolkit {
    /// Takes `CUDA_HOME` where that has the disassembler, else installs it below the target directory as the build
    /// script installs the compiler; takes the fat binaries of this build apart.
    pub fn install() -> Result<Self> {
        let out = Path::new(env!("OUT_DIR"));
        let given = std::env::var_os("CUDA_HOME").map(PathBuf::from);
        let home = match given.filter(|home| home.join("bin").join("nvdisasm").is_file()) {
            Some(home) => home,
            None => {
                let site = provision::Toolchain::below_target(out).install(DISASSEMBLER)?;
                site.join("nvidia").join("cu13")
            }
        };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine_code");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        // What earlier builds left is not in the table of this one.
        let table = fs::read_to_string(out.join("kernel_images.rs"))?;
        let is_current = |binary: &PathBuf| {
            let name = binary.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| table.contains(name))
        };
        for binary in files(out, "fatbin")?.into_iter().filter(is_current) {
            let mut command = Command::new(home.join("bin").join("cuobjdump"));
            command.args(["-xelf", "all"]).arg(&binary);
            let output = command.current_dir(&folder).output()?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{}: {error}", binary.display()).into());
            }
        }
        let cubins = files(&folder, "cubin")?;
        Ok(Self { home, cubins })
    }

    /// The machine code of the kernel that ran, for each architecture.
    pub fn examine(&self, run: &Run) -> Result<Vec<Kernel>> {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/machine_code/sasscheck.py");
        let section = format!(".text.{}\0", run.kernel).into_bytes();
        let mut kernels = Vec::new();
        for cubin in &self.cubins {
            let bytes = fs::read(cubin)?;
            if !bytes.windows(section.len()).any(|window| window == section) {
                continue;
            }
            let output = Command::new("python3")
                .arg(&script)
                .arg(cubin)
                .arg(format!("^{}$", run.kernel))
                .arg(format!("--threads=.={}", run.threads))
                .arg(format!("--smem=.={}", run.dynamic_shared))
                .arg("--json")
                .env("CUDA_HOME", &self.home)
                .output()?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{}: {error}", cubin.display()).into());
            }
            kernels.extend(serde_json::from_slice::<Vec<Kernel>>(&output.stdout)?);
        }
        if kernels.is_empty() {
            return Err(format!("no machine code of {} in this build", run.kernel).into());
        }
        Ok(kernels)
    }
}

/// The files of a folder with this extension, in order.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
