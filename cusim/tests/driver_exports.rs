//! The library exports every function that cudarc may look for, and answers for the driver's name.

#![allow(unsafe_code)] // looking up symbols, and calling one

use std::collections::BTreeSet;
use std::path::PathBuf;

use libloading::Library;

/// cudarc's bindings, by the list of sources that the compiler wrote beside what it made of them.
fn bindings_source() -> PathBuf {
    let executable = std::env::current_exe().expect("tests have a path");
    let folder = executable.parent().expect("tests lie in a folder");
    let lists = folder
        .read_dir()
        .expect("the folder can be read")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?;
            let of_cudarc = name.starts_with("cudarc-") && name.ends_with(".d");
            of_cudarc.then(|| std::fs::read_to_string(&path).ok())?
        });
    let lists: Vec<String> = lists.collect();
    let mut sources = lists.iter().flat_map(|list| list.split_whitespace());
    let source = sources.find(|source| source.ends_with("/driver/sys/mod.rs"));
    PathBuf::from(source.expect("the tests are built with cudarc"))
}

/// Every driver function that cudarc has bindings of, for any version of CUDA.
fn bindings() -> BTreeSet<String> {
    let source = std::fs::read_to_string(bindings_source()).expect("cudarc's bindings");
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
    let create = unsafe { library.get::<unsafe extern "C" fn(u64, u32) -> u32>(b"cuGraphCreate") };
    let create = create.expect("it is exported");
    // SAFETY: the function takes two words, and reads neither.
    assert_eq!(unsafe { create(0, 0) }, 801, "CUDA_ERROR_NOT_SUPPORTED");
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
