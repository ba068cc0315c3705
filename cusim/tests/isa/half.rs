//! f16 and bf16 arithmetic, alone and in pairs, rounded once from the exact result.

use proptest::prelude::*;

use crate::arithmetic::{multiply, negate, sum};
use crate::exact::{BF16, F16, Format, Mode, Value};
use crate::harness::{Operands, Out, config, pairs, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    results_are_rounded_once,
    the_lesser_and_the_greater,
    signs,
    functions_are_close,
];

/// An instruction, its operands and its exact result.
type Operation = (&'static str, usize, fn([Value; 3]) -> Value);

const OPERATIONS: [Operation; 4] = [
    ("add.rn", 2, |[a, b, _]| sum(a, b, Mode::Nearest)),
    ("sub.rn", 2, |[a, b, _]| sum(a, negate(b), Mode::Nearest)),
    ("mul.rn", 2, |[a, b, _]| multiply(a, b)),
    ("fma.rn", 3, |[a, b, c]| {
        sum(multiply(a, b), c, Mode::Nearest)
    }),
];

/// What is done to operands and result.
#[derive(Clone, Copy)]
struct Modifier {
    name: &'static str,
    operand: fn(Format, u64) -> u64,
    result: fn(Format, u64) -> u64,
}

const PLAIN: Modifier = Modifier {
    name: "",
    operand: |_, bits| bits,
    result: |_, bits| bits,
};

const FLUSH: Modifier = Modifier {
    name: ".ftz",
    operand: Format::flush,
    result: Format::flush,
};

const SATURATE: Modifier = Modifier {
    name: ".sat",
    operand: |_, bits| bits,
    result: |format, bits| {
        let one = format.encode(Value::integer(1), Mode::Nearest);
        if format.is_nan(bits) || bits & format.sign() != 0 {
            0
        } else {
            bits.min(one)
        }
    },
};

const RELU: Modifier = Modifier {
    name: ".relu",
    operand: |_, bits| bits,
    result: |format, bits| {
        if !format.is_nan(bits) && bits & format.sign() != 0 {
            0
        } else {
            bits
        }
    },
};

const FLUSH_RELU: Modifier = Modifier {
    name: ".ftz.relu",
    operand: Format::flush,
    result: |format, bits| (RELU.result)(format, format.flush(bits)),
};

/// Both halves of the result, where `one` is that of single numbers.
fn in_halves(operands: Operands, one: impl Fn([u64; 3]) -> u64) -> [u64; 2] {
    [0, 16].map(|shift| {
        let [a, b, c, _] = operands.map(|x| x >> shift & 0xffff);
        one([a, b, c])
    })
}

fn check(body: &str, format: Format, operands: &[Operands], one: impl Fn([u64; 3]) -> u64) {
    for (operands, got) in operands.iter().zip(run(body, Out::R, operands)) {
        for (got, expected) in [got & 0xffff, got >> 16]
            .into_iter()
            .zip(in_halves(*operands, &one))
        {
            let both_nan = format.is_nan(got) && format.is_nan(expected);
            assert!(
                got == expected || both_nan,
                "{body} of {operands:x?} is {got:#x}, not {expected:#x}"
            );
        }
    }
}

/// The instruction on pairs, and on both halves one after the other.
fn bodies(name: &str, format: Format, count: usize) -> [String; 2] {
    let sources = |file: &str, from: usize| -> String {
        (0..count)
            .map(|at| format!(", %{file}{}", from + at))
            .collect()
    };
    let ty = format.name;
    let split: String = (0..count)
        .map(|at| format!("mov.b32 {{%h{at}, %h{}}}, %r{at}; ", 4 + at))
        .collect();
    [
        format!("{name}.{ty}x2 %r8{};", sources("r", 0)),
        format!(
            "{split}{name}.{ty} %h8{}; {name}.{ty} %h10{}; mov.b32 %r8, {{%h8, %h10}};",
            sources("h", 0),
            sources("h", 4)
        ),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn results_are_rounded_once(operands in pairs()) {
        for (name, count, exact) in OPERATIONS {
            for (format, modifiers) in [
                (F16, &[PLAIN, FLUSH, SATURATE, RELU, FLUSH_RELU][..]),
                (BF16, &[PLAIN, RELU][..]),
            ] {
                for modifier in modifiers {
                    // Only fma has .relu.
                    if modifier.name.ends_with(".relu") && count < 3 {
                        continue;
                    }
                    for body in bodies(&format!("{name}{}", modifier.name), format, count) {
                        check(&body, format, &operands, |operands| {
                            let values = operands
                                .map(|bits| format.decode((modifier.operand)(format, bits)));
                            let bits = format.encode(exact(values), Mode::Nearest);
                            (modifier.result)(format, bits)
                        });
                    }
                }
            }
        }
    }

    #[test]
    fn the_lesser_and_the_greater(operands in pairs()) {
        for format in [F16, BF16] {
            // In this order numbers of either sign are as their bits are, -0 below 0.
            let key = |bits: u64| {
                let bits = bits as i32;
                if bits & 0x8000 == 0 { bits } else { 0x7fff - bits }
            };
            for (name, takes_first) in [
                ("min", (|a, b| a < b) as fn(i32, i32) -> bool),
                ("max", |a, b| a > b),
            ] {
                for (modifier, propagates) in [("", false), (".NaN", true), (".ftz", false)] {
                    let flushes = modifier == ".ftz";
                    if flushes && format == BF16 {
                        continue;
                    }
                    for body in bodies(&format!("{name}{modifier}"), format, 2) {
                        check(&body, format, &operands, |[a, b, _]| {
                            let read = |x| if flushes { format.flush(x) } else { x };
                            let (a, b) = (read(a), read(b));
                            match (format.is_nan(a), format.is_nan(b)) {
                                (true, true) => 0x7fff,
                                (true, false) | (false, true) if propagates => 0x7fff,
                                (true, false) => b,
                                (false, true) => a,
                                _ if takes_first(key(a), key(b)) => a,
                                _ => b,
                            }
                        });
                    }
                }
            }
        }
    }

    #[test]
    fn signs(operands in pairs()) {
        for format in [F16, BF16] {
            for body in bodies("neg", format, 1) {
                check(&body, format, &operands, |[a, ..]| a ^ 0x8000);
            }
            for body in bodies("abs", format, 1) {
                check(&body, format, &operands, |[a, ..]| a & 0x7fff);
            }
        }
    }

    /// Within an ulp or so of f64, as documented for the hardware.
    #[test]
    fn functions_are_close(operands in pairs()) {
        for (format, name, f) in [
            (F16, "ex2.approx", f64::exp2 as fn(f64) -> f64),
            (F16, "tanh.approx", f64::tanh),
            (BF16, "ex2.approx.ftz", f64::exp2),
            (BF16, "tanh.approx", f64::tanh),
        ] {
            for body in bodies(name, format, 1) {
                let results = run(&body, Out::R, &operands);
                for ([a, ..], got) in operands.iter().zip(results) {
                    for (x, got) in [(a & 0xffff, got & 0xffff), (a >> 16 & 0xffff, got >> 16)] {
                        let value = |bits| {
                            f64::from_bits(crate::exact::F64.encode(format.decode(bits), Mode::Zero))
                        };
                        let (x, got) = (value(x), value(got));
                        let (step, range) = if format == F16 {
                            (2f64.powi(-10), 2f64.powi(-14)..65504.0)
                        } else {
                            (2f64.powi(-7), 2f64.powi(-126)..3e38)
                        };
                        let expected = f(x);
                        if range.contains(&expected.abs()) {
                            let error = (got - expected).abs() / expected.abs();
                            prop_assert!(error <= step, "{body} of {x:e} is {got:e}, not {expected:e}");
                        } else if expected.is_nan() {
                            prop_assert!(got.is_nan());
                        }
                    }
                }
            }
        }
    }
}
