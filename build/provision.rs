//! A compiler for machines that have none: the pinned CUDA wheels and libclang from PyPI, in a
//! virtual environment below the target directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The CUDA compiler and what its headers need.
pub const CUDA: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// What bindgen reads C with.
pub const LIBCLANG: &[&str] = &["libclang==18.1.1"];

/// The virtual environment; nothing is installed before [`Toolchain::install`].
pub struct Toolchain {
    root: PathBuf,
}

impl Toolchain {
    /// `<target directory>/ferroflash`, from the path of this build script's output.
    pub fn below_target(out: &Path) -> Self {
        // <target>/<profile>/build/ferroflash-<hash>/out
        let target = out.ancestors().nth(4).unwrap_or(out);
        Self {
            root: target.join("ferroflash"),
        }
    }

    /// The directory that all builds of this target directory share.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Installs `packages` once, however many builds ask at the same time, and returns the
    /// `site-packages` directory that holds them.
    pub fn install(&self, packages: &[&str]) -> Result<PathBuf, String> {
        fs::create_dir_all(&self.root).map_err(|e| format!("{}: {e}", self.root.display()))?;
        let lock = self.root.join("provision.lock");
        let lock = File::create(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
        lock.lock()
            .map_err(|e| format!("cannot lock the toolchain directory: {e}"))?;

        // The marker is written last: an interrupted installation is done again.
        let venv = self.root.join("venv");
        let marker = self.root.join(format!(
            "installed-{}",
            packages.join("+").replace("==", "-")
        ));
        if !marker.exists() {
            println!(
                "cargo::warning=installing {} into {} (once)",
                packages.join(", "),
                venv.display()
            );
            let python = venv.join("bin").join("python");
            if !python.exists() {
                run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            }
            run(Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--no-input"])
                .args(["--disable-pip-version-check"])
                .args(packages))?;
            fs::write(&marker, "").map_err(|e| format!("{}: {e}", marker.display()))?;
        }
        site_packages(&venv)
    }
}

fn site_packages(venv: &Path) -> Result<PathBuf, String> {
    let lib = venv.join("lib");
    fs::read_dir(&lib)
        .map_err(|e| format!("{}: {e}", lib.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages")))
        .find(|path| path.is_dir())
        .ok_or_else(|| format!("no site-packages below {}", lib.display()))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
