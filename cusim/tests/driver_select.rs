//! Choosing the device. A process chooses once, so every case is a process: this test, started again with
//! another environment.

use std::process::Command;

use cusim::{Choice, Device, SelectError};

/// Set for the process that is started: what it does.
const CASE: &str = "CUSIM_TEST_CASE";
const CHOICE: &str = "CUSIM_TEST_DEVICE";

/// What a process prints that runs `case`, with this environment.
fn run(case: &str, set: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["--exact", "the_process", "--nocapture"])
        .env(CASE, case)
        .env_remove(CHOICE)
        .env_remove("CUSIM_ARCH")
        .env_remove("CUSIM_SEED");
    let output = command
        .envs(set.iter().copied())
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    text
}

/// The started process. By itself it does nothing.
#[test]
fn the_process() {
    match std::env::var(CASE).as_deref() {
        Ok("select") => match Device::from_env(CHOICE) {
            Ok(device) => println!("selected {device}"),
            Err(error) => println!("failed {error:?}: {error}"),
        },
        Ok("twice") => {
            let first = Device::select(Choice::Cusim).expect("the emulator");
            assert_eq!(Device::select(Choice::Auto), Ok(first.clone()));
            let refused = SelectError::AlreadySelected {
                asked: Choice::Gpu,
                device: first,
            };
            assert_eq!(Device::select(Choice::Gpu), Err(refused));
            println!("refused");
        }
        Ok("threads") => {
            let select = || std::thread::spawn(|| Device::select(Choice::Cusim));
            let threads: Vec<_> = (0..8).map(|_| select()).collect();
            let mut devices: Vec<_> = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic").expect("the emulator"))
                .collect();
            devices.dedup();
            println!("{} device", devices.len());
        }
        Ok(case) => panic!("no case {case}"),
        Err(_) => {}
    }
}

#[test]
fn the_emulator_says_what_it_is() {
    let set = [(CHOICE, "cusim"), ("CUSIM_ARCH", "90"), ("CUSIM_SEED", "5")];
    let text = run("select", &set);
    assert!(
        text.contains("selected cusim: emulated sm_90 on the CPU, no GPU (seed 5)"),
        "{text}"
    );
    let text = run("select", &[(CHOICE, "cusim")]);
    assert!(
        text.contains("emulated sm_80 on the CPU, no GPU (seed 0)"),
        "{text}"
    );
}

#[test]
fn without_a_choice_there_is_always_a_device() {
    let text = run("select", &[]);
    assert!(text.contains("selected "), "{text}");
}

#[test]
fn a_gpu_is_a_gpu_or_an_error() {
    let text = run("select", &[(CHOICE, "gpu")]);
    let gpu = text.contains("selected GPU: ");
    let none = text.contains("failed NoGpu") && text.contains("libcuda.so.1");
    assert!(gpu || none, "{text}");
}

#[test]
fn unknown_choices_are_errors() {
    let text = run("select", &[(CHOICE, "gpuu")]);
    let error = "CUSIM_TEST_DEVICE=gpuu is none of auto, gpu, cusim";
    assert!(
        text.contains("failed BadChoice") && text.contains(error),
        "{text}"
    );
}

#[test]
fn a_missing_library_is_named() {
    let set = [(CHOICE, "cusim"), ("CUSIM_LIBRARY", "/nowhere/libcusim.so")];
    let text = run("select", &set);
    assert!(text.contains("failed LibraryNotFound"), "{text}");
    assert!(text.contains("looked for /nowhere/libcusim.so"), "{text}");
}

#[test]
fn another_library_is_not_the_emulator() {
    let set = [(CHOICE, "cusim"), ("CUSIM_LIBRARY", "libc.so.6")];
    let text = run("select", &set);
    assert!(text.contains("failed WrongLibrary"), "{text}");
}

#[test]
fn a_process_has_one_device() {
    assert!(run("twice", &[]).contains("refused"));
    assert!(run("threads", &[]).contains("1 device"));
}
