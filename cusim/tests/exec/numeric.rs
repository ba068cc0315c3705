//! Approximations moved within their bounds, and numbers that are no longer finite.

use cusim::exec::Checks;
use cusim::fault::FaultKind;
use half::{bf16, f16};

use crate::machine::Machine;

/// What an instruction gives for each of these numbers.
fn results(instruction: &str, seed: u64, perturb: bool, inputs: &[f32]) -> Vec<f32> {
    let body = format!(
        "mov.u32 %r0, %tid.x; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd1, %rd0, %p0; add.u64 %rd2, %rd0, %p1;\n\
         ld.global.f32 %f0, [%rd1]; {instruction} %f1, %f0; st.global.f32 [%rd2], %f1;"
    );
    let mut machine = Machine::of(2, &body).seed(seed);
    machine.options.perturb = perturb;
    let source = machine.upload(inputs, f32::to_le_bytes);
    let target = machine.alloc(4 * inputs.len() as u64);
    machine
        .launch(inputs.len() as u32, &[source, target])
        .unwrap_or_else(|fault| panic!("{fault}"));
    let words = machine.words(target, inputs.len());
    words.into_iter().map(f32::from_bits).collect()
}

/// An instruction, its function, and the most that a result may be off.
type Approximation = (&'static str, fn(f64) -> f64, fn(f64, f64) -> f64);

#[test]
fn perturbed_results_stay_within_their_bounds_and_fill_them() {
    let ulp = |exact: f64| (exact.abs().log2().floor() - 23.0).exp2();
    const ULP: fn(f64) -> f64 = |exact| (exact.abs().log2().floor() - 23.0).exp2();
    let approximations: [Approximation; 6] = [
        ("rcp.approx.ftz.f32", |x| 1.0 / x, |_, exact| ULP(exact)),
        ("ex2.approx.ftz.f32", f64::exp2, |_, exact| 2.0 * ULP(exact)),
        (
            "rsqrt.approx.f32",
            |x| 1.0 / x.sqrt(),
            |_, exact| exact * (-22.9f64).exp2(),
        ),
        ("lg2.approx.f32", f64::log2, |x, exact| {
            (-22f64).exp2() * if x > 0.5 && x < 2.0 { 1.0 } else { exact.abs() }
        }),
        ("sin.approx.f32", f64::sin, |_, _| (-20.5f64).exp2()),
        ("tanh.approx.f32", f64::tanh, |_, exact| {
            exact.abs() * (-11f64).exp2()
        }),
    ];
    // Up to a turn, beyond which `sin` has another bound.
    let inputs: Vec<f32> = (1..=512).map(|at| at as f32 * 0.0122).collect();
    for (instruction, function, width) in approximations {
        let (mut widest, mut moved) = (0f64, 0);
        for seed in 0..4 {
            let perturbed = results(instruction, seed, true, &inputs);
            assert_eq!(
                perturbed,
                results(instruction, seed, true, &inputs),
                "one seed, one result"
            );
            for (&x, got) in inputs.iter().zip(perturbed) {
                let exact = function(x.into());
                let off = (f64::from(got) - exact).abs() / width(x.into(), exact);
                assert!(
                    off <= 1.0,
                    "{instruction} of {x}: {got} is {off} of the bound from {exact}"
                );
                widest = widest.max(off);
                moved += u32::from((f64::from(got) - exact).abs() > ulp(exact) / 2.0);
            }
        }
        assert!(widest > 0.9, "{instruction}: at most {widest} of the bound");
        assert!(moved > 200, "{instruction}: only {moved} were moved");
    }
}

/// The bounds of the 16-bit forms are far wider than a step, and absolute for `tanh`, so that they show best where
/// it is small: below a quarter.
#[test]
fn halves_stay_within_their_bounds_and_fill_them() {
    let bound = |exponent: f64| exponent.exp2();
    type Width = fn(f64, f64) -> f64;
    type Half = (&'static str, fn(f64) -> f64, f64, Width, bool);
    let (relative, absolute): (Width, Width) = (|part, exact| part * exact, |width, _| width);
    let bf16_value = |bits: u16| bf16::from_bits(bits).to_f64();
    let f16_value = |bits: u16| f16::from_bits(bits).to_f64();
    let forms: [Half; 4] = [
        ("ex2.approx.f16", f64::exp2, bound(-9.9), relative, false),
        (
            "ex2.approx.ftz.bf16",
            f64::exp2,
            bound(-7.0),
            relative,
            true,
        ),
        (
            "tanh.approx.f16",
            f64::tanh,
            bound(-10.987),
            absolute,
            false,
        ),
        ("tanh.approx.bf16", f64::tanh, bound(-8.0), absolute, true),
    ];
    for (instruction, function, part, width, is_bf16) in forms {
        let value: &dyn Fn(u16) -> f64 = if is_bf16 { &bf16_value } else { &f16_value };
        let inputs: Vec<u16> = (0..512)
            .map(|at| match f64::from(at) / 2048.0 + 0.001 {
                x if is_bf16 => bf16::from_f64(x).to_bits(),
                x => f16::from_f64(x).to_bits(),
            })
            .collect();
        let body = format!(
            "mov.u32 %r0, %tid.x; mul.wide.u32 %rd0, %r0, 2; add.u64 %rd1, %rd0, %p0; add.u64 %rd2, %rd0, %p1;\n\
             ld.global.u16 %h0, [%rd1]; {instruction} %h1, %h0; st.global.u16 [%rd2], %h1;"
        );
        let mut machine = Machine::of(2, &body).seed(5);
        machine.options.perturb = true;
        let source = machine.upload(&inputs, u16::to_le_bytes);
        let target = machine.alloc(1024);
        machine
            .launch(512, &[source, target])
            .unwrap_or_else(|fault| panic!("{fault}"));
        let mut widest = 0f64;
        for (x, got) in inputs
            .iter()
            .zip(machine.download(target, 1024).as_chunks::<2>().0)
        {
            let (x, got) = (value(*x), value(u16::from_le_bytes(*got)));
            let off = (got - function(x)).abs() / width(part, function(x));
            assert!(
                off <= 1.0,
                "{instruction} of {x}: {got} is {off} of the bound away"
            );
            widest = widest.max(off);
        }
        assert!(widest > 0.9, "{instruction}: at most {widest} of the bound");
    }
}

#[test]
fn special_results_are_not_moved() {
    let inputs = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40];
    for instruction in [
        "rcp.approx.ftz.f32",
        "ex2.approx.ftz.f32",
        "rsqrt.approx.ftz.f32",
    ] {
        let plain = results(instruction, 0, false, &inputs);
        let perturbed = results(instruction, 3, true, &inputs);
        for ((x, plain), perturbed) in inputs.iter().zip(plain).zip(perturbed) {
            let is_special = !plain.is_normal();
            assert!(
                !is_special || plain.to_bits() == perturbed.to_bits(),
                "{instruction} of {x}: {plain} and {perturbed}"
            );
        }
    }
}

/// The kind of fault and what it notes, with the check on; without it there is none.
fn born(body: &str) -> Option<String> {
    let run = |checks| {
        let mut machine = Machine::of(0, body).checks(checks);
        machine.launch(32, &[])
    };
    run(Checks::default()).unwrap_or_else(|fault| panic!("unchecked: {fault}"));
    let fault = run(Checks::ALL).err()?;
    assert_eq!(fault.kind, FaultKind::Arithmetic, "{fault}");
    Some(fault.to_string())
}

#[test]
fn the_first_infinity_or_nan_is_reported_where_it_is_born() {
    for (body, what) in [
        (
            "mov.f32 %f0, 0f7f000000; mul.f32 %f1, %f0, %f0;",
            "infinity",
        ),
        (
            "mov.f32 %f0, 0f00000000; rcp.approx.f32 %f1, %f0;",
            "infinity",
        ),
        ("mov.f32 %f0, 0fbf800000; sqrt.rn.f32 %f1, %f0;", "NaN"),
        (
            "mov.f32 %f0, 0f49742400; cvt.rn.f16.f32 %h0, %f0;",
            "infinity",
        ),
        ("mov.u32 %r0, 1000000; cvt.rn.f16.u32 %h0, %r0;", "infinity"),
        (
            "mov.f64 %fd0, 0d7fefffffffffffff; add.f64 %fd1, %fd0, %fd0;",
            "infinity",
        ),
        (
            "mov.u32 %r0, 0x7bff3c00; add.f16x2 %r1, %r0, %r0;",
            "infinity",
        ),
        (
            "mov.u32 %r0, 0x7bff7bff; mov.u32 %r1, 0; \
             mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r2, %r3}, {%r0, %r0}, {%r0}, {%r1, %r1};",
            "infinity",
        ),
    ] {
        let report = born(body).unwrap_or_else(|| panic!("{body}: nothing is reported"));
        assert!(report.contains(what), "{report}");
    }
}

#[test]
fn what_was_not_finite_before_is_not_reported() {
    for body in [
        "mov.f32 %f0, 0fff800000; ex2.approx.f32 %f1, %f0; add.f32 %f2, %f0, %f0;",
        "mov.f32 %f0, 0f7f800000; sub.f32 %f1, %f0, %f0; mul.f32 %f2, %f1, %f1;",
        "mov.f32 %f0, 0f3f800000; fma.rn.f32 %f1, %f0, %f0, %f0;",
        // The upper half is infinite and stays so, the lower one is finite.
        "mov.u32 %r0, 0x7c003c00; add.f16x2 %r1, %r0, %r0;",
        "mov.f32 %f0, 0f7f000000; setp.eq.u32 %q0, 1, 2; @%q0 mul.f32 %f1, %f0, %f0;",
    ] {
        assert_eq!(born(body), None, "{body}");
    }
}
