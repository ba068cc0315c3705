//! The same kernels on a GPU: `CUSIM_HARDWARE=FILE cargo test -p cusim --test isa` runs whatever the tests run there too and
//! adds to the file which forms the driver refuses and where results differ. A person reads it: the ISA leaves
//! approximations, payloads of NaN and addresses to the hardware. The tensor cores' rounding it does not leave to a person.

#![allow(unsafe_code)] // launches

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use cusim::exec::MmaMode;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::harness::{Operands, Out, agrees, try_run_as};

struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// By text; `None` where the driver refuses it.
    kernels: Mutex<HashMap<String, Option<CudaFunction>>>,
    report: Mutex<File>,
}

static GPU: LazyLock<Option<Gpu>> = LazyLock::new(|| {
    let path = std::env::var_os("CUSIM_HARDWARE")?;
    cusim::Device::select(cusim::Choice::Gpu).expect("a GPU");
    let context = CudaContext::new(0).expect("a context");
    let report = OpenOptions::new().create(true).append(true).open(path);
    Some(Gpu {
        stream: context.new_stream().expect("a stream"),
        context,
        kernels: Mutex::default(),
        report: Mutex::new(report.expect("the report")),
    })
});

/// Whether a GPU is asked for.
pub fn is_asked_for() -> bool {
    GPU.is_some()
}

impl Gpu {
    fn say(&self, text: &str) {
        let mut report = self.report.lock().expect("no panic with the report");
        writeln!(report, "{text}").expect("the report");
    }

    fn kernel(&self, text: &str, body: &str) -> Option<CudaFunction> {
        let mut kernels = self.kernels.lock().expect("no panic with the kernels");
        let kernel = kernels.entry(text.to_owned()).or_insert_with(|| {
            let module = self.context.load_module(Ptx::from_src(text));
            if let Err(error) = &module {
                self.say(&format!("refused ({error}): {body}"));
            }
            Some(module.ok()?.load_function("k").expect("the kernel"))
        });
        kernel.clone()
    }

    fn launch(
        &self,
        kernel: &CudaFunction,
        operands: &[Operands],
    ) -> Result<Vec<u64>, DriverError> {
        let input = self.stream.clone_htod(operands.as_flattened())?;
        let mut output = self.stream.alloc_zeros::<u64>(operands.len())?;
        let config = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (operands.len() as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = self.stream.launch_builder(kernel);
        launch.arg(&input).arg(&mut output);
        // SAFETY: the emulator, which checks every access, has run the kernel without a fault.
        unsafe { launch.launch(config) }?;
        self.stream.clone_dtoh(&output)
    }
}

/// Runs a kernel that did not fault on the emulator; the results, where the driver takes it.
fn run(text: &str, body: &str, operands: &[Operands]) -> Option<Vec<u64>> {
    let gpu = GPU.as_ref()?;
    let kernel = gpu.kernel(text, body)?;
    // A context is of no use after a fault.
    let results = gpu.launch(&kernel, operands);
    Some(results.unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// Compares the emulator's results of a kernel with the GPU's.
pub fn compare(text: &str, body: &str, out: Out, operands: &[Operands], emulated: &[u64]) {
    let (Some(gpu), Some(results)) = (GPU.as_ref(), run(text, body, operands)) else {
        return;
    };
    let pairs = results.iter().zip(emulated).zip(operands);
    let mut differing = pairs.filter(|((gpu, emulated), _)| !agrees(out, **gpu, **emulated));
    let Some(((result, emulated), operands)) = differing.next() else {
        return;
    };
    let others = differing.count();
    gpu.say(&format!(
        "differs (and {others} more of {}): {body}\n  {operands:x?} becomes {result:#x}, emulated {emulated:#x}",
        results.len()
    ));
}

/// Elements of two formats in one register, or one of tf32: any bits, or numbers whose exponents are at most `spread`
/// apart.
fn register(element: &str, spread: Option<u32>) -> BoxedStrategy<u32> {
    let Some(spread) = spread else {
        return any::<u32>().boxed();
    };
    let (exponent_bits, fraction_bits) = match element {
        "f16" => (5, 10),
        "bf16" => (8, 7),
        _ => (8, 23),
    };
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = bias - spread / 2..=bias + spread.div_ceil(2);
    let one = (any::<bool>(), exponent, 0..1u32 << fraction_bits).prop_map(
        move |(sign, exponent, fraction)| {
            u32::from(sign) << (exponent_bits + fraction_bits)
                | exponent << fraction_bits
                | fraction
        },
    );
    match element {
        "tf32" => one.boxed(),
        _ => (one.clone(), one)
            .prop_map(|(low, high)| high << 16 | low)
            .boxed(),
    }
}

/// The model of Hopper's tensor cores against such a GPU, to the bit: products whose sizes are alike, which round, and
/// apart, of which digits are cut off, infinities and NaN among them.
#[test]
fn tensor_cores_of_hopper_round_as_modelled() {
    if !is_asked_for() {
        return;
    }
    let mut runner = TestRunner::deterministic();
    for (element, sum, depths) in [
        ("f16", "f32", [8, 16]),
        ("bf16", "f32", [8, 16]),
        ("f16", "f16", [8, 16]),
        ("tf32", "f32", [4, 8]),
    ] {
        for (k, spread) in depths
            .into_iter()
            .flat_map(|k| [Some(0), Some(1), Some(4), Some(12), None].map(|spread| (k, spread)))
        {
            let sums = match sum {
                "f16" => register("f16", spread),
                _ => register("tf32", spread.map(|spread| 2 * spread)),
            };
            let sums = prop_oneof![1 => Just(0), 3 => sums];
            let words = (
                proptest::array::uniform6(register(element, spread)),
                proptest::array::uniform2(sums),
            );
            let operands = words.prop_map(|([a0, a1, a2, a3, b0, b1], [c0, c1])| {
                [[a0, a1], [a2, a3], [b0, b1], [c0, c1]]
                    .map(|[low, high]| u64::from(high) << 32 | u64::from(low))
            });
            let warps = proptest::collection::vec(operands, 32);
            for half in 0..if sum == "f16" { 1 } else { 2 } {
                let body = product(element, sum, k, half);
                for _ in 0..16 {
                    let operands = warps.new_tree(&mut runner).expect("operands").current();
                    let (text, emulated) =
                        try_run_as(MmaMode::Hopper, "", &body, Out::Q, &operands)
                            .unwrap_or_else(|fault| panic!("{fault}\n{body}"));
                    let results = run(&text, &body, &operands).expect("mma of sm_80");
                    assert_eq!(results, emulated, "{body} of {operands:x?}");
                }
            }
        }
    }
}

/// One product whose operands are the words of a thread, and half of its sums.
fn product(element: &str, sum: &str, k: usize, half: usize) -> String {
    let registers = |first: usize, count: usize| {
        let names: Vec<_> = (first..first + count).map(|at| format!("%r{at}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let packed = if element == "tf32" { 1 } else { 2 };
    let (a, b) = (16 * k / 32 / packed, 8 * k / 32 / packed);
    let sums = if sum == "f16" { 2 } else { 4 };
    format!(
        "mov.b64 {{%r32, %r33}}, %q0; mov.b64 {{%r34, %r35}}, %q1; mov.b64 {{%r36, %r37}}, %q2;
         mov.b64 {{%r40, %r41}}, %q3; mov.b32 %r42, %r41; mov.b32 %r43, 0;
         mma.sync.aligned.m16n8k{k}.row.col.{sum}.{element}.{element}.{sum} {}, {}, {}, {};
         mov.b64 %q8, {{%r{}, %r{}}};",
        registers(20, sums),
        registers(32, a),
        registers(36, b),
        registers(40, sums),
        20 + 2 * half,
        21 + 2 * half,
    )
}
