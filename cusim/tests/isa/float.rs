//! f32 and f64 arithmetic in every rounding, rounded once from the exact result.

use proptest::prelude::*;

use crate::arithmetic::{divide, multiply, negate, root, sum};
use crate::exact::{F32, F64, Format, MODES, Mode, Value};
use crate::harness::{Form, Operands, Out, check, config, floats32, floats64, form, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    singles_are_rounded_once,
    doubles_are_rounded_once,
    signs_and_bounds,
];

/// An instruction of up to three operands and its exact result.
type Operation = (&'static str, usize, fn([Value; 3], Mode) -> Value);

const OPERATIONS: [Operation; 8] = [
    ("add", 2, |[a, b, _], mode| sum(a, b, mode)),
    ("sub", 2, |[a, b, _], mode| sum(a, negate(b), mode)),
    ("mul", 2, |[a, b, _], _| multiply(a, b)),
    ("fma", 3, |[a, b, c], mode| sum(multiply(a, b), c, mode)),
    ("mad", 3, |[a, b, c], mode| sum(multiply(a, b), c, mode)),
    ("div", 2, |[a, b, _], _| divide(a, b)),
    ("rcp", 1, |[a, ..], _| divide(Value::integer(1), a)),
    ("sqrt", 1, |[a, ..], _| root(a)),
];

fn check_operation(operation: Operation, format: Format, flush: bool, operands: &[Operands]) {
    let (name, count, exact) = operation;
    let (file, out) = if format == F32 {
        ('f', Out::F)
    } else {
        ('d', Out::D)
    };
    for (rounding, mode) in MODES {
        let ftz = if flush { ".ftz" } else { "" };
        let sources: String = (0..count).map(|n| format!(", %{file}{n}")).collect();
        let body = format!("{name}.{rounding}{ftz}.{} %{file}8{sources};", format.name);
        for (operands, got) in operands.iter().zip(run(&body, out, operands)) {
            let [a, b, c, _] = operands.map(|bits| if flush { format.flush(bits) } else { bits });
            let value = exact([a, b, c].map(|bits| format.decode(bits)), mode);
            let bits = format.encode(value, mode);
            let expected = if flush { format.flush(bits) } else { bits };
            let both_nan = format.is_nan(got) && format.is_nan(expected);
            assert!(
                got == expected || both_nan,
                "{body} of {operands:x?} is {got:#x}, not {expected:#x}"
            );
        }
    }
}

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn b(x: f32) -> u64 {
    x.to_bits().into()
}

/// The lesser of two floats, -0 below 0, a number before NaN.
fn least(x: f32, y: f32) -> f32 {
    if x.is_nan() {
        return y;
    }
    if y.is_nan() {
        return x;
    }
    match x.total_cmp(&y) {
        std::cmp::Ordering::Less => x,
        _ => y,
    }
}

fn flushed(x: u64) -> f32 {
    f(F32.flush(x & 0xffff_ffff))
}

fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

const SIGNS_AND_BOUNDS: &[Form] = &[
    form("neg.f32 %f8, %f0;", Out::F, |[x, ..]| {
        (x ^ 0x8000_0000) & 0xffff_ffff
    }),
    form("abs.f32 %f8, %f0;", Out::F, |[x, ..]| x & 0x7fff_ffff),
    form("copysign.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        x & 0x8000_0000 | y & 0x7fff_ffff
    }),
    form("min.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        b(least(f(x), f(y)))
    }),
    form("max.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        b(-least(-f(x), -f(y)))
    }),
    form("min.ftz.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        b(least(flushed(x), flushed(y)))
    }),
    form("max.ftz.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        b(-least(-flushed(x), -flushed(y)))
    }),
    form("min.NaN.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        if f(x).is_nan() || f(y).is_nan() {
            0x7fff_ffff
        } else {
            b(least(f(x), f(y)))
        }
    }),
    form(
        "max.xorsign.abs.f32 %f8, %f0, %f1;",
        Out::F,
        |[x, y, ..]| {
            let (larger, sign) = (-least(-f(x).abs(), -f(y).abs()), (x ^ y) & 0x8000_0000);
            b(larger) & 0x7fff_ffff | sign
        },
    ),
    form("add.sat.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        b(saturate(f(x) + f(y)))
    }),
    form("mul.sat.f32 %f8, %f0, %f1;", Out::F, |[x, y, ..]| {
        b(saturate(f(x) * f(y)))
    }),
    form(
        "fma.rn.sat.f32 %f8, %f0, %f1, %f2;",
        Out::F,
        |[x, y, z, _]| b(saturate(f(x).mul_add(f(y), f(z)))),
    ),
    form("mad.rn.f32 %f8, %f0, %f1, %f2;", Out::F, |[x, y, z, _]| {
        b(f(x).mul_add(f(y), f(z)))
    }),
];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn singles_are_rounded_once(operands in floats32()) {
        for operation in OPERATIONS {
            check_operation(operation, F32, false, &operands);
            check_operation(operation, F32, true, &operands);
        }
    }

    #[test]
    fn doubles_are_rounded_once(operands in floats64()) {
        for operation in OPERATIONS {
            check_operation(operation, F64, false, &operands);
        }
    }

    #[test]
    fn signs_and_bounds(operands in floats32()) {
        check(SIGNS_AND_BOUNDS, &operands);
    }
}
