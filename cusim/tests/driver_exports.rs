//! The library exports every function that cudarc may look for, and answers for the driver's name.

#![allow(unsafe_code)] // looking up symbols, and calling one

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use libloading::Library;

/// The sources of the cudarc that this workspace builds with.
fn cudarc() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--format-version", "1"])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let manifests = text.split("\"manifest_path\":\"").skip(1);
    let manifest = manifests
        .filter_map(|rest| rest.split('"').next())
        .find(|path| path.contains("/cudarc-"))
        .expect("the tests depend on cudarc");
    Path::new(manifest).with_file_name("src")
}

/// Every driver function that cudarc has bindings of, for any version of CUDA.
fn bindings() -> BTreeSet<String> {
    let source =
        std::fs::read_to_string(cudarc().join("driver/sys/mod.rs")).expect("cudarc's bindings");
    source
        .lines()
        .filter_map(|line| line.strip_prefix("pub unsafe fn "))
        .filter_map(|line| line.split('(').next())
        .filter(|name| name.starts_with("cu") && name[2..].starts_with(char::is_uppercase))
        .map(str::to_owned)
        .collect()
}

fn library() -> Library {
    let executable = std::env::current_exe().expect("tests have a path");
    // SAFETY: the library has no initialisers.
    unsafe { Library::new(executable.with_file_name("libcusim.so")) }
        .expect("it is built with the tests")
}

#[test]
fn every_function_of_the_bindings_is_exported() {
    let names = bindings();
    assert!(
        names.len() >= 514,
        "only {} functions were found",
        names.len()
    );
    let library = library();
    let missing: Vec<_> = names
        .iter()
        // SAFETY: the symbol is looked up and not used.
        .filter(|name| unsafe { library.get::<*const ()>(name.as_bytes()) }.is_err())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_is_not_implemented_says_so() {
    let library = library();
    // SAFETY: the driver API gives this function this type.
    let capture =
        unsafe { library.get::<unsafe extern "C" fn(u64, u32) -> u32>(b"cuStreamBeginCapture_v2") };
    let capture = capture.expect("it is exported");
    // SAFETY: the function takes two numbers.
    assert_eq!(unsafe { capture(0, 0) }, 801, "CUDA_ERROR_NOT_SUPPORTED");
}

#[test]
fn once_open_it_answers_for_the_driver() {
    let library = library();
    // SAFETY: the library is open already, by the other name.
    let driver = unsafe { Library::new("libcuda.so") }.expect("a library of this name");
    // SAFETY: the symbols are looked up and not used.
    let (one, other) = unsafe {
        (
            library
                .get::<*const ()>(b"cusim_version")
                .map(|symbol| *symbol),
            driver
                .get::<*const ()>(b"cusim_version")
                .map(|symbol| *symbol),
        )
    };
    assert_eq!(one.expect("the emulator"), other.expect("the emulator"));
}
