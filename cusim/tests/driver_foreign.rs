//! Programs that know nothing of the emulator run on it when it is put in the driver's place. The program
//! is this test, started again with another environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cudarc::driver::CudaContext;

/// Set for the program that is started.
const FOREIGN: &str = "CUSIM_TEST_FOREIGN";

/// Where cargo put the library that belongs to this test.
fn library() -> PathBuf {
    let executable = std::env::current_exe().expect("tests have a path");
    let library = executable.with_file_name("libcusim.so");
    assert!(
        library.is_file(),
        "{} is built with the tests",
        library.display()
    );
    library
}

/// Starts this test again as a foreign program.
fn start(set: &[(&str, &Path)]) -> Output {
    let executable = std::env::current_exe().expect("tests have a path");
    let mut command = Command::new(executable);
    command
        .args(["--exact", "the_foreign_program", "--nocapture"])
        .env(FOREIGN, "1");
    command
        .envs(set.iter().copied())
        .output()
        .expect("the program starts")
}

fn assert_ran_on_cusim(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{error}");
    assert!(text.contains("ran on cusim sm_80"), "{text}\n{error}");
}

/// Only cudarc, and what any program does with it. A test of its own only when it is started for that.
#[test]
fn the_foreign_program() {
    if std::env::var_os(FOREIGN).is_none() {
        return;
    }
    let context = CudaContext::new(0).expect("a device");
    let stream = context.default_stream();
    let data: Vec<u32> = (0..100).collect();
    let device = stream.clone_htod(&data).expect("a copy to the device");
    assert_eq!(stream.clone_dtoh(&device).expect("a copy back"), data);
    println!("ran on {}", context.name().expect("a name"));
    // A program loaded like this may still ask the emulator what it saw.
    let device = cusim::Device::select(cusim::Choice::Auto).expect("the driver in place");
    assert!(device.is_emulated(), "{device}");
    assert!(cusim::Device::select(cusim::Choice::Gpu).is_err());
}

#[test]
fn preloaded_it_is_the_driver() {
    assert_ran_on_cusim(&start(&[("LD_PRELOAD", &library())]));
}

#[test]
fn on_the_loaders_path_it_is_the_driver() {
    let directory = std::env::temp_dir().join(format!("cusim-foreign-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = directory.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(library(), link).expect("a link");
    }
    let output = start(&[("LD_LIBRARY_PATH", &directory)]);
    std::fs::remove_dir_all(&directory).expect("the directory is there");
    assert_ran_on_cusim(&output);
}
