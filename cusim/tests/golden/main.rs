//! What the emulator says of kernels with one fault each, word for word, and that it says nothing of
//! their neighbours without it.
//!
//! The reports are in `*.txt` beside this file; with `UPDATE_EXPECT=1` the test writes them anew.

use cusim::arch::Arch;
use cusim::exec::{self, Checks, Counters, LaunchConfig, Options};
use cusim::fault::{Fault, FaultKind};
use cusim::memory::GlobalMemory;
use cusim::program::Program;
use cusim::ptx;
use expect_test::expect_file;

/// Words of each buffer and threads of each block.
const WORDS: u32 = 64;

/// What is done to the operands before the launch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Both buffers are live, and the input is written: 0, 1, 2 … in every block's part.
    Written,
    /// Nobody wrote the input.
    Fresh,
    /// The input was freed.
    Freed,
    /// The input is a null pointer.
    Null,
}

fn launch(kernel: &str, blocks: u32, input: Input) -> Result<Counters, Box<Fault>> {
    let module = ptx::parse(include_str!("faults.ptx")).expect("PTX");
    let program = Program::load(&module).expect("a program");
    let mut memory = GlobalMemory::new(1 << 20);
    let mut globals = Vec::new();
    for variable in program.globals() {
        let address = memory.alloc(variable.size, "a module variable");
        globals.push(address.expect("room"));
    }
    for (variable, &address) in program.globals().iter().zip(&globals) {
        memory.write(address, &variable.bytes).expect("inside");
    }
    let bytes = u64::from(4 * WORDS * blocks);
    let out = memory.alloc(bytes, "cuMemAlloc").expect("room");
    let mut data = memory.alloc(bytes, "cuMemAlloc").expect("room");
    let numbers = (0..WORDS * blocks).flat_map(|at| (at % WORDS).to_le_bytes());
    match input {
        Input::Written => memory
            .write(data, &numbers.collect::<Vec<u8>>())
            .expect("inside"),
        Input::Fresh => {}
        Input::Freed => memory.free(data).expect("an allocation"),
        Input::Null => data = 0,
    }
    let id = program.kernel(kernel).expect(kernel);
    let params = [out, data].map(u64::to_le_bytes).concat();
    let config = LaunchConfig {
        grid: [blocks, 1, 1],
        block: [WORDS, 1, 1],
        dynamic_shared: 4 * WORDS,
        params: &params,
        global_addresses: &globals,
        arch: Arch::of(80).expect("sm_80"),
        options: &Options {
            checks: Checks::ALL,
            ..Options::default()
        },
        cooperative: false,
        unordered: &[],
    };
    exec::launch(&program, id, &mut memory, &config)
}

/// The report of a kernel is the one on file, and its neighbour has none.
fn check_in(name: &str, kernel: &str, blocks: u32, input: Input, kind: FaultKind) {
    let fault = launch(kernel, blocks, input).expect_err(name);
    assert_eq!(fault.kind, kind, "{fault}");
    expect_file![format!("{name}.txt")].assert_eq(&format!("{fault}\n"));
}

fn check(name: &str, kind: FaultKind) {
    let blocks = if name.contains("blocks") { 2 } else { 1 };
    check_in(name, name, blocks, Input::Written, kind);
    let clean = format!("{name}_clean");
    launch(&clean, blocks, Input::Written).unwrap_or_else(|fault| panic!("{fault}"));
}

/// A test for each pair of kernels.
macro_rules! pairs {
    ($($name:ident: $kind:ident,)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), FaultKind::$kind);
        })*
    };
}

pairs! {
    past_the_end: IllegalAddress,
    misaligned: MisalignedAddress,
    shared_past: IllegalAddress,
    local_past: IllegalAddress,
    constant_past: IllegalAddress,
    parameter_past: IllegalAddress,
    wild: IllegalAddress,
    uninitialized_shared: Uninitialized,
    race_read_after_write: Race,
    race_write_after_read: Race,
    race_write_write: Race,
    race_global_warps: Race,
    race_global_blocks: Race,
    async_not_waited: AsyncPending,
    async_refill: Race,
    async_before_barrier: Race,
    async_misaligned: MisalignedAddress,
    barrier_count: Undefined,
    missing_warp: Deadlock,
    arrivals: Undefined,
    unfenced_blocks: Race,
    deadlock: Deadlock,
    divergent_barrier: Deadlock,
    absent_lanes: Undefined,
    assertion: Trap,
    trap: Trap,
    endless: Deadlock,
    overflow: Arithmetic,
    lanes_read_after_write: Race,
    lanes_write_after_read: Race,
    lanes_write_write: Race,
    lanes_shuffle: Race,
    lanes_halves: Race,
    lanes_diverged: Race,
    lanes_async: Race,
    lanes_matrix: Race,
}

/// Faults of the buffers, not of the kernel, which is the clean neighbour above.
#[test]
fn buffers_at_fault_are_told_apart() {
    use FaultKind::{IllegalAddress, Uninitialized};
    for (name, input, kind) in [
        ("uninitialized_global", Input::Fresh, Uninitialized),
        ("freed", Input::Freed, IllegalAddress),
        ("null", Input::Null, IllegalAddress),
    ] {
        check_in(name, "past_the_end_clean", 1, input, kind);
    }
}
