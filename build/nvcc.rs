//! Finds nvcc and compiles every translation unit below kernels/ into one fat binary.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use crate::provision::{CUDA, Toolchain};
use crate::table::Image;

/// GPUs that get machine code unless `FERROFLASH_CUDA_ARCHS` says otherwise. Later ones compile the
/// PTX, which is always included.
const DEFAULT_ARCHS: &str = "80,86,89,90,100,120";

/// The oldest architecture the kernels are written for; its PTX is what ships for all others.
const PTX_ARCH: &str = "80";

/// A found compiler with the flags of this build.
pub struct Nvcc {
    path: PathBuf,
    flags: Vec<String>,
}

impl Nvcc {
    /// `FERROFLASH_NVCC`, then `CUDA_HOME`, `CUDA_PATH`, `PATH`, the usual folder, then the wheels.
    pub fn find(toolchain: Option<&Toolchain>) -> Result<Self, String> {
        let path = match (installed()?, toolchain) {
            (Some(path), _) => path,
            (None, Some(toolchain)) => toolchain
                .install(CUDA)?
                .join("nvidia")
                .join("cu13")
                .join("bin")
                .join("nvcc"),
            (None, None) => {
                return Err(
                    "ferroflash: no CUDA compiler was found: install the CUDA toolkit (12.8 \
                            or later) and set CUDA_HOME or FERROFLASH_NVCC, or set \
                            FERROFLASH_SKIP_KERNELS=1 to build without kernels"
                        .to_owned(),
                );
            }
        };
        let host = cc::Build::new()
            .cpp(true)
            .try_get_compiler()
            .map_err(|e| format!("nvcc needs a host C++ compiler: {e}"))?;
        let mut flags: Vec<String> = [
            "-fatbin",
            "-std=c++17",
            "-O3",
            "-lineinfo",
            // A sixth of the size of the usual compression; any driver of CUDA 12.4 or later unpacks it.
            "--compress-mode=size",
            "-Ikernels",
            "-Werror=all-warnings",
        ]
        .map(str::to_owned)
        .to_vec();
        flags.push(format!("-ccbin={}", host.path().display()));
        let archs = env::var("FERROFLASH_CUDA_ARCHS").unwrap_or_else(|_| DEFAULT_ARCHS.to_owned());
        for arch in archs
            .split(',')
            .map(str::trim)
            .filter(|arch| !arch.is_empty())
        {
            flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        }
        flags.push(format!(
            "-gencode=arch=compute_{PTX_ARCH},code=compute_{PTX_ARCH}"
        ));
        Ok(Self { path, flags })
    }

    /// Compiles what changed, several units at a time, and copies all fat binaries to `out`.
    /// `work` keeps them between builds, apart for each set of flags; one build at a time uses it.
    pub fn compile_all(&self, out: &Path, work: &Path) -> Result<Vec<Image>, String> {
        let headers = work.join("generated");
        let work = &work.join(format!("kernels-{:016x}", self.command_hash().finish()));
        fs::create_dir_all(work).map_err(|e| format!("{}: {e}", work.display()))?;
        let lock = work.join("lock");
        let lock = File::create(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
        lock.lock()
            .map_err(|e| format!("cannot lock {}: {e}", work.display()))?;

        let mut sources = Vec::new();
        find_sources(Path::new("kernels"), &mut sources)?;
        sources.sort();
        sources.push(PathBuf::from("build/layout_probe.cu"));

        let jobs = env::var("NUM_JOBS")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(1usize);
        let queue = Mutex::new(sources.iter());
        let errors = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, sources.len()) {
                scope.spawn(|| {
                    while let Some(source) = next(&queue) {
                        if let Err(error) = self.compile(source, out, work, &headers)
                            && let Ok(mut errors) = errors.lock()
                        {
                            errors.push(error);
                        }
                    }
                });
            }
        });
        let mut errors = errors.into_inner().unwrap_or_default();
        errors.sort();
        if let Some(first) = errors.into_iter().next() {
            return Err(first);
        }

        let kernels = sources
            .iter()
            .filter(|source| source.starts_with("kernels"));
        kernels
            .map(|source| {
                Ok(Image {
                    name: unit_name(source),
                    path: out.join(file_name(source, "fatbin")),
                    symbols: symbols(source)?,
                })
            })
            .collect()
    }

    /// Compiles one unit unless its stamp shows that neither the command nor any file it read
    /// has changed.
    fn compile(
        &self,
        source: &Path,
        out: &Path,
        work: &Path,
        headers: &Path,
    ) -> Result<(), String> {
        let fatbin = work.join(file_name(source, "fatbin"));
        let depfile = work.join(file_name(source, "d"));
        let stamp = work.join(file_name(source, "stamp"));
        let old = fs::read_to_string(&stamp).unwrap_or_default();
        if !fatbin.exists() || self.fingerprint(&depfile).is_none_or(|new| new != old) {
            // Whatever happens to this compilation, the next build must not take it for done.
            remove(&stamp)?;
            let mut command = Command::new(&self.path);
            command.args(&self.flags).arg("-I").arg(headers);
            command
                .args(["-MD", "-MF"])
                .arg(&depfile)
                .arg(source)
                .arg("-o")
                .arg(&fatbin);
            let output = command
                .output()
                .map_err(|e| format!("cannot run {command:?}: {e}"))?;
            if !output.status.success() {
                return Err(format!(
                    "{}{}",
                    String::from_utf8_lossy(&output.stderr),
                    String::from_utf8_lossy(&output.stdout)
                ));
            }
            let new = self
                .fingerprint(&depfile)
                .ok_or_else(|| format!("nvcc wrote no usable {}", depfile.display()))?;
            fs::write(&stamp, new).map_err(|e| format!("{}: {e}", stamp.display()))?;
        }
        let target = out.join(file_name(source, "fatbin"));
        fs::copy(&fatbin, &target)
            .map(drop)
            .map_err(|e| format!("{}: {e}", fatbin.display()))
    }

    /// The command and the contents of every file that the depfile names; `None` when one is gone.
    fn fingerprint(&self, depfile: &Path) -> Option<String> {
        let rule = fs::read_to_string(depfile).ok()?.replace("\\\n", " ");
        let (_, files) = rule.split_once(" : ").or_else(|| rule.split_once(": "))?;
        let mut hasher = self.command_hash();
        for file in files.split_whitespace() {
            hasher.write(&fs::read(file).ok()?);
        }
        Some(format!("{:016x}", hasher.finish()))
    }

    fn command_hash(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.path.as_os_str().as_encoded_bytes());
        for flag in &self.flags {
            hasher.write(flag.as_bytes());
        }
        hasher
    }
}

fn installed() -> Result<Option<PathBuf>, String> {
    if let Some(path) = env::var_os("FERROFLASH_NVCC").map(PathBuf::from) {
        return if path.is_file() {
            Ok(Some(path))
        } else {
            Err(format!(
                "ferroflash: FERROFLASH_NVCC={} is not a file",
                path.display()
            ))
        };
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(homes
        .chain(env::split_paths(&path))
        .chain([PathBuf::from("/usr/local/cuda/bin")])
        .map(|folder| folder.join("nvcc"))
        .find(|nvcc| nvcc.is_file()))
}

fn next<'a>(queue: &Mutex<std::slice::Iter<'a, PathBuf>>) -> Option<&'a PathBuf> {
    queue.lock().ok()?.next()
}

fn find_sources(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry
            .map_err(|e| format!("{}: {e}", folder.display()))?
            .path();
        if path.is_dir() {
            find_sources(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
    Ok(())
}

/// Entry points are written out in full, one a line, so that they can be found by searching the
/// source; that is also how they are found here. Comments are not searched.
fn symbols(source: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(['/', '*']));
    let words = code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let mut symbols: Vec<String> = words
        .filter(|word| word.starts_with("fflash_") && !word.ends_with("_params"))
        .map(str::to_owned)
        .collect();
    symbols.sort();
    symbols.dedup();
    Ok(symbols)
}

/// `kernels/norm/rms_norm.cu` -> `norm/rms_norm`.
fn unit_name(source: &Path) -> String {
    let below = source.strip_prefix("kernels").unwrap_or(source);
    below.with_extension("").display().to_string()
}

fn file_name(source: &Path, extension: &str) -> String {
    format!("{}.{extension}", unit_name(source).replace('/', "_"))
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {e}", path.display()))
        }
        _ => Ok(()),
    }
}
