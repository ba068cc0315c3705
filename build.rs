//! Compiles the kernels: `kernels/**/*.cu` to fat binaries, `kernels/params.h` to Rust.
//!
//! Environment: `FERROFLASH_NVCC`, `CUDA_HOME`, `CUDA_PATH` say where nvcc is;
//! `FERROFLASH_CUDA_ARCHS` (default `80,86,89,90,100,120`) for which GPUs machine code is made;
//! `FERROFLASH_SKIP_KERNELS=1` builds without kernels; `FERROFLASH_PROVISION=1` installs a compiler
//! below the target directory when there is none.

#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/params.rs"]
mod params;
#[path = "build/provision.rs"]
mod provision;
#[path = "build/table.rs"]
mod table;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match env::var_os(params::CHILD) {
        Some(out) => params::generate_here(&PathBuf::from(out)),
        None => build(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    for name in [
        "FERROFLASH_NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "FERROFLASH_CUDA_ARCHS",
        "FERROFLASH_SKIP_KERNELS",
        "FERROFLASH_PROVISION",
        "LIBCLANG_PATH",
        "DOCS_RS",
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rustc-check-cfg=cfg(ferroflash_kernels)");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    if env::var_os("DOCS_RS").is_some() || flag("FERROFLASH_SKIP_KERNELS") {
        params::use_snapshot(&out)?;
        return table::write(&out, &[]);
    }

    // In this repository debug and release builds share what they compile; elsewhere a build
    // script stays inside its own directory.
    let provision = flag("FERROFLASH_PROVISION").then(|| provision::Toolchain::below_target(&out));
    let work = match &provision {
        Some(toolchain) => toolchain.root().to_path_buf(),
        None => out.clone(),
    };
    params::generate(&out, &work, provision.as_ref())?;
    let nvcc = nvcc::Nvcc::find(provision.as_ref())?;
    let images = nvcc.compile_all(&out, &work)?;
    table::write(&out, &images)?;
    println!("cargo::rustc-cfg=ferroflash_kernels");
    Ok(())
}

fn flag(name: &str) -> bool {
    env::var(name).is_ok_and(|value| value == "1")
}
