//! Integer arithmetic in every width, through i128.

use proptest::prelude::*;

use crate::harness::{Operands, Out, config, integers, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    arithmetic,
    extended_precision,
    selections,
    packed_integers,
    dot_products,
    bit_masks,
];

/// A type of integers: its name, whether it is signed, its bits.
type Type = (&'static str, bool, u32);

const TYPES: [Type; 6] = [
    ("u16", false, 16),
    ("s16", true, 16),
    ("u32", false, 32),
    ("s32", true, 32),
    ("u64", false, 64),
    ("s64", true, 64),
];

fn file(bits: u32) -> (char, Out) {
    match bits {
        16 => ('h', Out::H),
        32 => ('r', Out::R),
        _ => ('q', Out::Q),
    }
}

fn value(x: u64, signed: bool, bits: u32) -> i128 {
    let unused = 128 - bits;
    if signed {
        i128::from(x) << unused >> unused
    } else {
        (u128::from(x) << unused >> unused) as i128
    }
}

fn low(x: i128, bits: u32) -> u64 {
    (x as u128 & (u128::MAX >> (128 - bits))) as u64
}

/// Products of two 64-bit numbers need all of i128, and unsigned ones more than that.
fn high_half(a: i128, b: i128, signed: bool, bits: u32) -> i128 {
    if signed {
        (a * b) >> bits
    } else {
        ((a as u128 * b as u128) >> bits) as i128
    }
}

fn check(body: &str, out: Out, operands: &[Operands], expected: impl Fn(Operands) -> u64) {
    for (operands, got) in operands.iter().zip(run(body, out, operands)) {
        let expected = expected(*operands);
        assert_eq!(got, expected, "{body} of {operands:x?}");
    }
}

/// Values of all operands.
fn values(operands: Operands, signed: bool, bits: u32) -> [i128; 4] {
    operands.map(|x| value(x, signed, bits))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arithmetic(operands in integers()) {
        for (ty, signed, bits) in TYPES {
            let (f, out) = file(bits);
            let all = |x| values(x, signed, bits);
            type Two = fn(i128, i128) -> i128;
            let two: [(&str, Two); 4] = [
                ("add", |a, b| a + b),
                ("sub", |a, b| a - b),
                ("min", |a, b| a.min(b)),
                ("max", |a, b| a.max(b)),
            ];
            for (name, function) in two {
                check(&format!("{name}.{ty} %{f}8, %{f}0, %{f}1;"), out, &operands, |x| {
                    let [a, b, ..] = all(x);
                    low(function(a, b), bits)
                });
            }
            // Of division by zero the ISA says nothing.
            for (name, function) in [("div", (|a, b| a / b) as Two), ("rem", |a, b| a % b)] {
                let body = format!("or.b{bits} %{f}1, %{f}1, 1; {name}.{ty} %{f}8, %{f}0, %{f}1;");
                check(&body, out, &operands, |x| {
                    let [a, b, ..] = [x[0], x[1] | 1, 0, 0].map(|x| value(x, signed, bits));
                    low(function(a, b), bits)
                });
            }
            check(&format!("sad.{ty} %{f}8, %{f}0, %{f}1, %{f}2;"), out, &operands, |x| {
                let [a, b, c, _] = all(x);
                low(c + (a - b).abs(), bits)
            });
            for high in [false, true] {
                let part = if high { "hi" } else { "lo" };
                let product = |a: i128, b: i128| match high {
                    true => high_half(a, b, signed, bits),
                    false => a.wrapping_mul(b),
                };
                check(&format!("mul.{part}.{ty} %{f}8, %{f}0, %{f}1;"), out, &operands, |x| {
                    let [a, b, ..] = all(x);
                    low(product(a, b), bits)
                });
                let body = format!("mad.{part}.{ty} %{f}8, %{f}0, %{f}1, %{f}2;");
                check(&body, out, &operands, |x| {
                    let [a, b, c, _] = all(x);
                    low(product(a, b).wrapping_add(c), bits)
                });
                if bits == 32 {
                    let cut = |x: u64| value(x, signed, 24);
                    let part24 = |a: u64, b: u64| match high {
                        true => (cut(a) * cut(b)) >> 16,
                        false => cut(a) * cut(b),
                    };
                    check(&format!("mul24.{part}.{ty} %r8, %r0, %r1;"), out, &operands, |[a, b, ..]| {
                        low(part24(a, b), 32)
                    });
                    check(&format!("mad24.{part}.{ty} %r8, %r0, %r1, %r2;"), out, &operands, |[a, b, c, _]| {
                        low(part24(a, b) + i128::from(c as u32), 32)
                    });
                }
            }
            if bits < 64 {
                let (wide, wide_out) = file(2 * bits);
                let body = format!("mul.wide.{ty} %{wide}8, %{f}0, %{f}1;");
                check(&body, wide_out, &operands, |x| {
                    let [a, b, ..] = all(x);
                    low(a * b, 2 * bits)
                });
                let body = format!("mad.wide.{ty} %{wide}8, %{f}0, %{f}1, %{wide}2;");
                check(&body, wide_out, &operands, |x| {
                    let [a, b, ..] = all(x);
                    low((a * b).wrapping_add(value(x[2], signed, 2 * bits)), 2 * bits)
                });
            }
            if signed {
                check(&format!("neg.{ty} %{f}8, %{f}0;"), out, &operands, |x| low(-all(x)[0], bits));
                check(&format!("abs.{ty} %{f}8, %{f}0;"), out, &operands, |x| low(all(x)[0].abs(), bits));
            }
            let b = format!("b{bits}");
            check(&format!("and.{b} %{f}8, %{f}0, %{f}1;"), out, &operands, |[a, b, ..]| low((a & b).into(), bits));
            check(&format!("or.{b} %{f}8, %{f}0, %{f}1;"), out, &operands, |[a, b, ..]| low((a | b).into(), bits));
            check(&format!("xor.{b} %{f}8, %{f}0, %{f}1;"), out, &operands, |[a, b, ..]| low((a ^ b).into(), bits));
            check(&format!("cnot.{b} %{f}8, %{f}0;"), out, &operands, |[a, ..]| (low(a.into(), bits) == 0).into());
            for kind in [ty, &b] {
                check(&format!("mov.{kind} %{f}8, %{f}0;"), out, &operands, |[a, ..]| low(a.into(), bits));
                let extends = signed && kind == ty;
                check(&format!("shr.{kind} %{f}8, %{f}0, %r1;"), out, &operands, |[a, n, ..]| {
                    low(value(a, extends, bits) >> (n as u32).min(127), bits)
                });
            }
        }
        check("mov.f32 %f8, %f0;", Out::F, &operands, |[a, ..]| low(a.into(), 32));
        check("mov.f64 %d8, %d0; mov.b64 %q8, %d8;", Out::Q, &operands, |[a, ..]| a);
        let clamp = |x: i128| x.clamp(i32::MIN.into(), i32::MAX.into());
        check("mad.hi.sat.s32 %r8, %r0, %r1, %r2;", Out::R, &operands, |x| {
            let [a, b, c, _] = values(x, true, 32);
            low(clamp(((a * b) >> 32) + c), 32)
        });
        check("mad24.hi.sat.s32 %r8, %r0, %r1, %r2;", Out::R, &operands, |x| {
            let [a, b, ..] = values(x, true, 24);
            low(clamp(((a * b) >> 16) + value(x[2], true, 32)), 32)
        });
        for (name, sign) in [("add", 1), ("sub", -1)] {
            check(&format!("{name}.sat.s32 %r8, %r0, %r1;"), Out::R, &operands, |x| {
                let [a, b, ..] = values(x, true, 32);
                low(clamp(a + sign * b), 32)
            });
        }
        for (name, greater) in [("min", false), ("max", true)] {
            check(&format!("{name}.relu.s32 %r8, %r0, %r1;"), Out::R, &operands, |x| {
                let [a, b, ..] = values(x, true, 32);
                low(if greater { a.max(b) } else { a.min(b) }.max(0), 32)
            });
        }
    }

    /// The lower parts set the carry, the upper ones take it and set another, which is then read.
    #[test]
    fn extended_precision(operands in integers()) {
        for (ty, signed, bits) in &TYPES[2..] {
            let (f, _) = file(*bits);
            let carry = if *bits == 64 { "mov.b64 %q10, %q8;" } else { "cvt.u64.u32 %q10, %r8;" };
            let ends = format!("addc.{ty} %{f}9, %{f}9, 0; ");
            let widen = if *bits == 64 { "mov.b64 %q11, %q9;" } else { "cvt.u64.u32 %q11, %r9;" };
            let sum = "mul.lo.u64 %q11, %q11, 3; add.u64 %q8, %q10, %q11;";
            let weighed = |result: i128, carry: bool| low(result, *bits).wrapping_add(3 * u64::from(carry));
            let unsigned = |x: u64| value(x, false, *bits);
            let zero = format!("mov.b{bits} %{f}9, 0;");
            for (first, reads) in [("", false), ("c", true)] {
                // The carry is set by a sum whose carry is the lowest bit of the fourth operand.
                let set = format!(
                    "and.b{bits} %{f}12, %{f}3, 1; neg.s{bits} %{f}12, %{f}12; add.cc.{ty} %{f}12, %{f}12, %{f}12;"
                );
                let carried = |x: Operands| i128::from(reads && x[3] & 1 == 1);
                let body = format!("{zero} {set} add{first}.cc.{ty} %{f}8, %{f}0, %{f}1; {ends}{carry}{widen}{sum}");
                check(&body, Out::Q, &operands, |x| {
                    let total = unsigned(x[0]) + unsigned(x[1]) + carried(x);
                    weighed(total, total >> bits != 0)
                });
                let body = format!("{zero} {set} sub{first}.cc.{ty} %{f}8, %{f}0, %{f}1; subc.{ty} %{f}9, %{f}9, 0; neg.s{bits} %{f}9, %{f}9; {carry}{widen}{sum}");
                check(&body, Out::Q, &operands, |x| {
                    let borrowed = i128::from(reads && x[3] & 1 == 0);
                    let total = unsigned(x[0]) - unsigned(x[1]) - borrowed;
                    weighed(total, total < 0)
                });
                for part in ["lo", "hi"] {
                    let body = format!("{zero} {set} mad{first}.{part}.cc.{ty} %{f}8, %{f}0, %{f}1, %{f}2; {ends}{carry}{widen}{sum}");
                    check(&body, Out::Q, &operands, |x| {
                        let [a, b, ..] = values(x, *signed, *bits);
                        let product = match part {
                            "hi" => high_half(a, b, *signed, *bits),
                            _ => a.wrapping_mul(b),
                        };
                        let product = i128::from(low(product, *bits));
                        let total = product + unsigned(x[2]) + carried(x);
                        weighed(total, total >> bits != 0)
                    });
                }
            }
            for part in ["lo", "hi"] {
                let body = format!("{zero} madc.{part}.{ty} %{f}8, %{f}0, %{f}1, %{f}2; {carry} mov.b64 %q8, %q10;");
                check(&body, Out::Q, &operands, |x| {
                    let [a, b, c, _] = values(x, *signed, *bits);
                    let product = match part {
                        "hi" => high_half(a, b, *signed, *bits),
                        _ => a.wrapping_mul(b),
                    };
                    low(product.wrapping_add(c), *bits)
                });
            }
        }
    }

    #[test]
    fn selections(operands in integers()) {
        let types = ["b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"];
        for ty in types {
            let bits: u32 = ty[1..].parse().expect("a width");
            let (file, out) = match ty {
                "f32" => ('f', Out::F),
                "f64" => ('d', Out::D),
                _ => file(bits),
            };
            let after = if ty == "f64" { "mov.b64 %q8, %d8;" } else { "" };
            let out = if ty == "f64" { Out::Q } else { out };
            let pick = |first: bool, x: Operands| low(x[usize::from(!first)].into(), bits);
            let body = format!("selp.{ty} %{file}8, %{file}0, %{file}1, %p2; {after}");
            check(&body, out, &operands, |x| pick(x[2] & 1 == 1, x));
            let body = format!("slct.{ty}.s32 %{file}8, %{file}0, %{file}1, %r2; {after}");
            check(&body, out, &operands, |x| pick(x[2] as i32 >= 0, x));
            for flush in ["", ".ftz"] {
                let body = format!("slct{flush}.{ty}.f32 %{file}8, %{file}0, %{file}1, %f2; {after}");
                check(&body, out, &operands, |x| {
                    let c = f32::from_bits(x[2] as u32);
                    pick(c >= 0.0 || !flush.is_empty() && c.is_subnormal(), x)
                });
            }
        }
    }

    #[test]
    fn packed_integers(operands in integers()) {
        for (ty, signed) in [("u16", false), ("s16", true)] {
            type Two = fn(i128, i128) -> i128;
            let forms: [(&str, Two); 3] = [("add", |a, b| a + b), ("min", |a, b| a.min(b)), ("max", |a, b| a.max(b))];
            for (name, function) in forms {
                for relu in [false, true] {
                    if relu && (name == "add" || !signed) {
                        continue;
                    }
                    let modifier = if relu { ".relu" } else { "" };
                    check(&format!("{name}{modifier}.{ty}x2 %r8, %r0, %r1;"), Out::R, &operands, |[a, b, ..]| {
                        let half = |at: u32| {
                            let result = function(value(a >> at, signed, 16), value(b >> at, signed, 16));
                            low(if relu { result.max(0) } else { result }, 16) << at
                        };
                        half(0) | half(16)
                    });
                }
            }
        }
        for bits in [2u32, 4, 8, 16] {
            for (sign, signed) in [("u", false), ("s", true)] {
                let (third, operand) = if bits == 16 { ("", "") } else { (".b32", ", %r2") };
                let body = format!("cvt.pack.sat.{sign}{bits}.s32{third} %r8, %r0, %r1{operand};");
                check(&body, Out::R, &operands, |[a, b, c, _]| {
                    let half = 1i128 << (bits - 1);
                    let narrow = |x: u64| {
                        let x = value(x, true, 32);
                        low(if signed { x.clamp(-half, half - 1) } else { x.clamp(0, 2 * half - 1) }, bits)
                    };
                    let above = if bits == 16 { 0 } else { low(c.into(), 32) << (2 * bits) };
                    low((above | narrow(a) << bits | narrow(b)).into(), 32)
                });
            }
        }
    }

    #[test]
    fn dot_products(operands in integers()) {
        for (a_type, a_signed) in [("u32", false), ("s32", true)] {
            for (b_type, b_signed) in [("u32", false), ("s32", true)] {
                let byte = |x: u64, at: u32, signed| value(x >> (8 * at), signed, 8);
                check(&format!("dp4a.{a_type}.{b_type} %r8, %r0, %r1, %r2;"), Out::R, &operands, |[a, b, c, _]| {
                    let sum: i128 = (0..4).map(|at| byte(a, at, a_signed) * byte(b, at, b_signed)).sum();
                    low(sum + i128::from(c), 32)
                });
                for (half, first) in [("lo", 0), ("hi", 2)] {
                    check(&format!("dp2a.{half}.{a_type}.{b_type} %r8, %r0, %r1, %r2;"), Out::R, &operands, |[a, b, c, _]| {
                        let sum: i128 = (0..2)
                            .map(|at| value(a >> (16 * at), a_signed, 16) * byte(b, first + at, b_signed))
                            .sum();
                        low(sum + i128::from(c), 32)
                    });
                }
            }
        }
    }

    #[test]
    fn bit_masks(operands in integers()) {
        for (mode, limit) in [("clamp", (|n: u64| (n as u32).min(32)) as fn(u64) -> u32), ("wrap", |n| n as u32 & 31)] {
            for (ty, signed) in [("u32", false), ("s32", true)] {
                check(&format!("szext.{mode}.{ty} %r8, %r0, %r1;"), Out::R, &operands, |[a, n, ..]| {
                    match limit(n) {
                        0 => 0,
                        bits => low(value(a, signed, bits), 32),
                    }
                });
            }
            check(&format!("bmsk.{mode}.b32 %r8, %r0, %r1;"), Out::R, &operands, |[a, n, ..]| {
                let ones = (1u128 << limit(n)) - 1;
                low((ones << limit(a)) as i128, 32)
            });
            }
        for (ty, signed, bits) in &TYPES[2..] {
            let (f, _) = file(*bits);
            for amount in [false, true] {
                let modifier = if amount { ".shiftamt" } else { "" };
                check(&format!("bfind{modifier}.{ty} %r8, %{f}0;"), Out::R, &operands, |[a, ..]| {
                    let x = value(a, *signed, *bits);
                    let x = if x < 0 { !x } else { x };
                    match 128 - x.leading_zeros() {
                        0 => 0xffff_ffff,
                        top if amount => u64::from(bits - top),
                        top => u64::from(top - 1),
                    }
                });
            }
        }
    }
}
