//! `setp` and `set` in every type, with every modifier.

use proptest::prelude::*;

use crate::exact::{BF16, F16, F32, F64, Format, Mode};
use crate::harness::{Operands, Out, config, floats32, floats64, integers, pairs, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[integers_are_set, floats_are_set, pairs_are_set];

/// A comparison: its name, whether it holds of lesser, equal, greater and unordered operands.
type Comparison = (&'static str, [bool; 4]);

const COMPARISONS: [Comparison; 18] = [
    ("eq", [false, true, false, false]),
    ("ne", [true, false, true, false]),
    ("lt", [true, false, false, false]),
    ("le", [true, true, false, false]),
    ("gt", [false, false, true, false]),
    ("ge", [false, true, true, false]),
    ("lo", [true, false, false, false]),
    ("ls", [true, true, false, false]),
    ("hi", [false, false, true, false]),
    ("hs", [false, true, true, false]),
    ("equ", [false, true, false, true]),
    ("neu", [true, false, true, true]),
    ("ltu", [true, false, false, true]),
    ("leu", [true, true, false, true]),
    ("gtu", [false, false, true, true]),
    ("geu", [false, true, true, true]),
    ("num", [true, true, true, false]),
    ("nan", [false, false, false, true]),
];

/// A modifier, and what it makes of a comparison and a predicate.
type Combination = (&'static str, fn(bool, bool) -> bool);

/// The predicate that a comparison is combined with is the lowest bit of the third operand.
const COMBINATIONS: [Combination; 4] = [
    ("", |holds, _| holds),
    (".and", |holds, c| holds && c),
    (".or", |holds, c| holds || c),
    (".xor", |holds, c| holds != c),
];

/// What `set` writes where the comparison holds, and where that is.
const RESULTS: [(&str, u64, Out); 5] = [
    ("u32", 0xffff_ffff, Out::R),
    ("s32", 0xffff_ffff, Out::R),
    ("f32", 0x3f80_0000, Out::F),
    ("f16", 0x3c00, Out::H),
    ("bf16", 0x3f80, Out::H),
];

fn is_integer_comparison(name: &str, ty: &str) -> bool {
    match (&ty[..1], name) {
        (_, "eq" | "ne") => true,
        ("b", _) => false,
        (_, "lt" | "le" | "gt" | "ge") => true,
        (sign, _) => sign == "u" && matches!(name, "lo" | "ls" | "hi" | "hs"),
    }
}

/// Checks the forms that compare operands of a type in registers `%{file}n`.
fn check(
    ty: &str,
    file: char,
    flush: &str,
    results: &[(&str, u64, Out)],
    operands: &[Operands],
    names: impl Fn(&str) -> bool,
    order: impl Fn(u64, u64) -> usize,
) {
    for (name, holds) in COMPARISONS.into_iter().filter(|(name, _)| names(name)) {
        for (combined, combine) in COMBINATIONS {
            let third = if combined.is_empty() { "" } else { ", %p2" };
            let sources = format!("%{file}0, %{file}1{third};");
            let expected = |[a, b, c, _]: Operands| combine(holds[order(a, b)], c & 1 == 1);
            let body = format!("setp.{name}{combined}{flush}.{ty} %p4, {sources}");
            for (x, got) in operands.iter().zip(run(&body, Out::P, operands)) {
                assert_eq!(got, u64::from(expected(*x)), "{body} of {x:x?}");
            }
            for (to, bits, out) in results {
                let dest = match out {
                    Out::R => "%r8",
                    Out::F => "%f8",
                    _ => "%h8",
                };
                let body = format!("set.{name}{combined}{flush}.{to}.{ty} {dest}, {sources}");
                for (x, got) in operands.iter().zip(run(&body, *out, operands)) {
                    assert_eq!(
                        got,
                        if expected(*x) { *bits } else { 0 },
                        "{body} of {x:x?}"
                    );
                }
            }
        }
    }
}

/// 0 where a < b, 1 where they are equal, 2 where a > b, 3 where one is NaN.
fn float_order(format: Format, flush: bool, a: u64, b: u64) -> usize {
    let number = |bits: u64| {
        let bits = bits & (u64::MAX >> (64 - format.bits()));
        let bits = if flush { format.flush(bits) } else { bits };
        f64::from_bits(F64.encode(format.decode(bits), Mode::Nearest))
    };
    match number(a).partial_cmp(&number(b)) {
        Some(order) => (order as i8 + 1) as usize,
        None => 3,
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn integers_are_set(operands in integers()) {
        for bits in [16u32, 32, 64] {
            let file = match bits {
                16 => 'h',
                32 => 'r',
                _ => 'q',
            };
            for sign in ["b", "u", "s"] {
                let ty = format!("{sign}{bits}");
                let order = |a: u64, b: u64| {
                    let value = |x: u64| match sign {
                        "s" => i128::from((x << (64 - bits)) as i64),
                        _ => i128::from(x << (64 - bits)),
                    };
                    (value(a).cmp(&value(b)) as i8 + 1) as usize
                };
                check(&ty, file, "", &RESULTS, &operands, |name| is_integer_comparison(name, &ty), order);
            }
        }
    }

    #[test]
    fn floats_are_set(singles in floats32(), doubles in floats64(), halves in pairs()) {
        let is_float = |name: &str| !matches!(name, "lo" | "ls" | "hi" | "hs");
        for flush in [false, true] {
            let modifier = if flush { ".ftz" } else { "" };
            check("f32", 'f', modifier, &RESULTS, &singles, is_float, |a, b| float_order(F32, flush, a, b));
            let shorts = [("u16", 0xffff, Out::H), ("s16", 0xffff, Out::H)];
            let results: Vec<_> = shorts.into_iter().chain([RESULTS[0], RESULTS[1], RESULTS[3]]).collect();
            check("f16", 'h', modifier, &results, &halves, is_float, |a, b| float_order(F16, flush, a, b));
            if !flush {
                let results: Vec<_> = shorts.into_iter().chain([RESULTS[0], RESULTS[1], RESULTS[4]]).collect();
                check("bf16", 'h', "", &results, &halves, is_float, |a, b| float_order(BF16, false, a, b));
                check("f64", 'd', "", &RESULTS, &doubles, is_float, |a, b| float_order(F64, false, a, b));
            }
        }
    }

    #[test]
    fn pairs_are_set(operands in pairs()) {
        for (format, ty, one) in [(F16, "f16x2", 0x3c00), (BF16, "bf16x2", 0x3f80)] {
            for (name, holds) in COMPARISONS.into_iter().filter(|(name, _)| !matches!(*name, "lo" | "ls" | "hi" | "hs")) {
                for (combined, combine) in COMBINATIONS {
                    for flush in [false, true] {
                        if flush && format == BF16 {
                            continue;
                        }
                        let modifier = if flush { ".ftz" } else { "" };
                        let third = if combined.is_empty() { "" } else { ", %p2" };
                        let half = |[a, b, c, _]: Operands, at: u32| {
                            combine(holds[float_order(format, flush, a >> at, b >> at)], c & 1 == 1)
                        };
                        for (to, bits) in [("u32", 0xffff), ("s32", 0xffff), (ty, one)] {
                            let body = format!("set.{name}{combined}{modifier}.{to}.{ty} %r8, %r0, %r1{third};");
                            for (x, got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                                let part = |at| if half(*x, at) { bits << at } else { 0 };
                                prop_assert_eq!(got, part(0) | part(16), "{} of {:x?}", body, x);
                            }
                        }
                        let body = format!(
                            "setp.{name}{combined}{modifier}.{ty} %p4|%p5, %r0, %r1{third};
                             selp.b32 %r8, 1, 0, %p4; selp.b32 %r9, 2, 0, %p5; or.b32 %r8, %r8, %r9;"
                        );
                        for (x, got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                            let expected = u64::from(half(*x, 0)) + 2 * u64::from(half(*x, 16));
                            prop_assert_eq!(got, expected, "{} of {:x?}", body, x);
                        }
                    }
                }
            }
        }
    }
}
