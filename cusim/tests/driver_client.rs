//! The switches of the loaded emulator. They hold for the whole process, so this is a test of its own.

#![allow(unsafe_code)] // the driver API is C

use cudarc::driver::sys::{CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use cusim::exec::{Checks, Options};
use cusim::fault::FaultKind;
use cusim::program::Program;

/// `unwritten` reads shared memory that nobody wrote; `swapped` lets two warps write a word that no barrier
/// orders, and stores what is there in the end.
const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .entry unwritten(.param .u64 out)
{
    .reg .pred %p;
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    .shared .align 4 .b8 staged[4];
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd1, %rd1;
    ld.shared.u32 %r1, [staged];
    mov.u32 %r2, %tid.x;
    setp.eq.u32 %p, %r2, 0;
    @%p st.global.u32 [%rd1], %r1;
    ret;
}
.visible .entry swapped(.param .u64 out)
{
    .reg .pred %p<3>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<2>;
    .shared .align 4 .b8 staged[4];
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    and.b32 %r2, %r1, 31;
    setp.eq.u32 %p1, %r2, 0;
    @%p1 st.shared.u32 [staged], %r1;
    bar.sync 0;
    setp.eq.u32 %p2, %r1, 0;
    @%p2 ld.shared.u32 %r3, [staged];
    @%p2 st.global.u32 [%rd1], %r3;
    ret;
}
"#;

/// Runs a kernel on 64 threads in a context of its own: what it stored, or how it failed.
fn run(name: &str) -> Result<u32, CUresult> {
    cusim::Device::select(cusim::Choice::Cusim).expect("the emulator's library");
    let context = CudaContext::new_non_primary(0, 0).expect("a context");
    // Else a launch would also record an event, which fails once the kernel has.
    unsafe { context.disable_event_tracking() };
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    let kernel = module.load_function(name).expect("a kernel");
    let mut out = stream.alloc_zeros::<u32>(1).expect("memory");
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (64, 1, 1),
        shared_mem_bytes: 0,
    };
    let mut call = stream.launch_builder(&kernel);
    call.arg(&mut out);
    unsafe { call.launch(config) }.expect("the launch itself succeeds");
    let copied = stream.clone_dtoh(&out);
    copied.map(|out| out[0]).map_err(|error| error.0)
}

const FAILED: Result<u32, CUresult> = Err(CUresult::CUDA_ERROR_LAUNCH_FAILED);

#[test]
fn checks_and_lists_are_switched_and_emptied() {
    let kinds = || {
        let reports = cusim::take_reports();
        reports.iter().map(|report| report.kind).collect::<Vec<_>>()
    };
    // All checks are on at first.
    assert_eq!((run("unwritten"), run("swapped")), (FAILED, FAILED));
    assert_eq!(kinds(), [FaultKind::Uninitialized, FaultKind::Race]);
    assert_eq!(kinds(), [], "they have been taken");
    assert_eq!(
        cusim::last_launch(),
        None,
        "failed launches are not counted"
    );

    cusim::set_checks(Checks {
        race: true,
        ..Checks::NONE
    });
    assert!(run("unwritten").is_ok());
    assert_eq!(run("swapped"), FAILED);
    cusim::set_checks(Checks {
        init: true,
        ..Checks::NONE
    });
    assert_eq!(run("unwritten"), FAILED);
    assert!(run("swapped").is_ok());
    assert_eq!(kinds(), [FaultKind::Race, FaultKind::Uninitialized]);

    let launches: Vec<_> = cusim::take_launches()
        .into_iter()
        .map(|launch| launch.kernel)
        .collect();
    assert_eq!(launches, ["unwritten", "swapped"]);
    assert_eq!(cusim::launches(), []);

    records_are_launches_that_can_be_made_again();

    // One seed, one schedule; some seed lets the other warp win.
    let outcome = |seed| {
        cusim::set_seed(seed);
        run("swapped").expect("a word")
    };
    let first: Vec<u32> = (0..32).map(outcome).collect();
    assert_eq!(first, (0..32).map(outcome).collect::<Vec<_>>());
    assert!(first.contains(&0) && first.contains(&32), "{first:?}");

    parts_of_the_gpu_have_fewer_multiprocessors();
}

fn parts_of_the_gpu_have_fewer_multiprocessors() {
    let context = CudaContext::new(0).expect("a context");
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    let kernel = module.load_function("swapped").expect("a kernel");
    let mut out = stream.alloc_zeros::<u32>(1).expect("memory");
    // Of blocks with so much shared memory a multiprocessor of sm_80 has three.
    let mut all_at_once = |blocks| {
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (64, 1, 1),
            shared_mem_bytes: 47 * 1024,
        };
        let mut call = stream.launch_builder(&kernel);
        call.arg(&mut out);
        let launched = unsafe { call.launch_cooperative(config) };
        launched.map(drop).map_err(|error| error.0)
    };
    let multiprocessors = || {
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        context.attribute(attribute).expect("a number")
    };
    let whole = multiprocessors();
    cusim::set_checks(Checks::NONE);
    let too_large = Err(CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    cusim::set_multiprocessors(2);
    assert_eq!(multiprocessors(), 2);
    assert_eq!((all_at_once(6), all_at_once(7)), (Ok(()), too_large));
    // What is no part changes nothing.
    cusim::set_multiprocessors(0);
    cusim::set_multiprocessors(whole as u32 + 1);
    assert_eq!(multiprocessors(), 2);
    cusim::set_multiprocessors(whole as u32);
    assert_eq!(multiprocessors(), whole);
    assert_eq!(all_at_once(7), Ok(()));
}

/// With the check for races off.
fn records_are_launches_that_can_be_made_again() {
    assert_eq!(cusim::take_recordings(), [], "nobody asked for any");
    cusim::record(true);
    let stored = run("swapped").expect("a word");
    cusim::record(false);
    assert!(run("swapped").is_ok());
    assert_eq!(cusim::take_recordings(), [], "those made are forgotten");

    cusim::record(true);
    assert_eq!(run("swapped"), Ok(stored));
    let recordings = cusim::take_recordings();
    let [recording] = recordings.as_slice() else {
        panic!("{recordings:?}");
    };
    cusim::record(false);
    assert_eq!(&*recording.module, PTX);
    assert_eq!(
        (&*recording.kernel, recording.block),
        ("swapped", [64, 1, 1])
    );
    assert_eq!(recording.allocations[0].contents, [(0, vec![0; 4])]);
    let module = cusim::ptx::parse(&recording.module).expect("PTX");
    let program = Program::load(&module).expect("a program");
    let mut options = Options::default();
    let replay = recording.replay(&program, &options).expect("a launch");
    assert_eq!(replay.outcome.expect_err("a race").kind, FaultKind::Race);
    options.checks.race = false;
    let replay = recording.replay(&program, &options).expect("a launch");
    assert!(replay.outcome.is_ok());
    assert_eq!(replay.memory, [stored.to_le_bytes()]);
}
