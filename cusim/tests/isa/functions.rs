//! Approximate functions, and the forms of floating-point arithmetic that other files leave out.

use proptest::prelude::*;

use crate::harness::{Form, Operands, Out, check, config, floats32, floats64, form, pairs, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    approximations,
    division_by_large_numbers,
    signs_of_doubles,
    signs_of_products,
    sums_with_modifiers,
];

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}

/// A function, and the most that the ISA lets it be wrong, relative or absolute.
type Function = (&'static str, fn(f64) -> f64, f64, f64);

const FUNCTIONS: [Function; 7] = [
    ("rcp", |x| 1.0 / x, 1.2e-7, 0.0),
    ("sqrt", f64::sqrt, 2.4e-7, 0.0),
    ("rsqrt", |x| 1.0 / x.sqrt(), 2.4e-7, 0.0),
    ("sin", f64::sin, 1.2e-7, 5e-7),
    ("cos", f64::cos, 1.2e-7, 5e-7),
    ("lg2", f64::log2, 2.4e-7, 2.4e-7),
    ("ex2", f64::exp2, 2.4e-7, 0.0),
];

const DOUBLES: &[Form] = &[
    form("neg.f64 %d8, %d0; mov.b64 %q8, %d8;", Out::Q, |[a, ..]| {
        a ^ 1 << 63
    }),
    form("abs.f64 %d8, %d0; mov.b64 %q8, %d8;", Out::Q, |[a, ..]| {
        a & !(1 << 63)
    }),
    form(
        "copysign.f64 %d8, %d0, %d1; mov.b64 %q8, %d8;",
        Out::Q,
        |[a, b, ..]| a & 1 << 63 | b & !(1 << 63),
    ),
    form("min.f64 %d8, %d0, %d1;", Out::D, |[a, b, ..]| {
        lesser(a, b, false)
    }),
    form("max.f64 %d8, %d0, %d1;", Out::D, |[a, b, ..]| {
        lesser(a, b, true)
    }),
    // Of the upper words alone.
    form("rcp.approx.ftz.f64 %d8, %d0;", Out::D, |[a, ..]| {
        (1.0 / f64::from_bits(a >> 32 << 32)).to_bits() >> 32 << 32
    }),
    form("rsqrt.approx.f64 %d8, %d0;", Out::D, |[a, ..]| {
        (1.0 / f64::from_bits(a >> 32 << 32).sqrt()).to_bits() >> 32 << 32
    }),
    form("rsqrt.approx.ftz.f64 %d8, %d0;", Out::D, |[a, ..]| {
        (1.0 / f64::from_bits(a >> 32 << 32).sqrt()).to_bits() >> 32 << 32
    }),
    form("fma.rn.f64 %d8, %d0, %d1, %d2;", Out::D, fused),
    form("mad.rn.f64 %d8, %d0, %d1, %d2;", Out::D, fused),
];

fn fused([a, b, c, _]: Operands) -> u64 {
    f64::from_bits(a)
        .mul_add(f64::from_bits(b), f64::from_bits(c))
        .to_bits()
}

/// NaN only where both are; -0 is less than +0.
fn lesser(a: u64, b: u64, greater: bool) -> u64 {
    let key = |x: u64| if x >> 63 == 1 { !x } else { x | 1 << 63 };
    match (f64::from_bits(a).is_nan(), f64::from_bits(b).is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if (key(a) < key(b)) != greater => a,
        _ => b,
    }
}

const SUMS: &[Form] = &[
    form("sub.sat.f32 %f8, %f0, %f1;", Out::F, |[a, b, ..]| {
        unit(single(a) - single(b))
    }),
    form(
        "mad.rn.sat.f32 %f8, %f0, %f1, %f2;",
        Out::F,
        |[a, b, c, _]| unit(single(a).mul_add(single(b), single(c))),
    ),
    form(
        "mad.rn.ftz.f32 %f8, %f0, %f1, %f2;",
        Out::F,
        |[a, b, c, _]| {
            flushed(flushed(single(a)).mul_add(flushed(single(b)), flushed(single(c))))
                .to_bits()
                .into()
        },
    ),
    form("neg.ftz.f32 %f8, %f0;", Out::F, |[a, ..]| {
        (-flushed(single(a))).to_bits().into()
    }),
    form("abs.ftz.f32 %f8, %f0;", Out::F, |[a, ..]| {
        flushed(single(a)).abs().to_bits().into()
    }),
    form("cvt.ftz.f32.f32 %f8, %f0;", Out::F, |[a, ..]| {
        flushed(single(a)).to_bits().into()
    }),
    form("cvt.ftz.sat.f32.f32 %f8, %f0;", Out::F, |[a, ..]| {
        unit(flushed(single(a)))
    }),
    form("cvt.rn.ftz.sat.f32.s32 %f8, %r0;", Out::F, |[a, ..]| {
        unit(a as i32 as f32)
    }),
];

fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// `.sat`: NaN becomes +0.
fn unit(x: f32) -> u64 {
    (if x > 0.0 { x.min(1.0) } else { 0.0 }).to_bits().into()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn approximations(operands in floats32()) {
        for (name, function, relative, absolute) in FUNCTIONS {
            for flush in [false, true] {
                let body = format!("{name}.approx{}.f32 %f8, %f0;", if flush { ".ftz" } else { "" });
                for ([a, ..], got) in operands.iter().zip(run(&body, Out::F, &operands)) {
                    let (a, got) = (single(*a), single(got));
                    let a = if flush { flushed(a) } else { a };
                    let wanted = function(a.into());
                    let rounded = if flush { flushed(wanted as f32) } else { wanted as f32 };
                    let error = (f64::from(got) - wanted).abs();
                    let bound = relative * wanted.abs() + absolute + f64::from(f32::from_bits(1));
                    let fits = error <= bound || got == rounded || got.is_nan() && wanted.is_nan();
                    let at_limit = flush && wanted.abs() < 1.2e-38 && got.abs() < 1.2e-38;
                    prop_assert!(fits || at_limit, "{body} of {a:e} is {got:e}, not {wanted:e}");
                }
            }
        }
        for ([a, ..], got) in operands.iter().zip(run("tanh.approx.f32 %f8, %f0;", Out::F, &operands)) {
            let (a, got) = (single(*a), f64::from(single(got)));
            let wanted = f64::from(a).tanh();
            let fits = (got - wanted).abs() <= 4.9e-4 * wanted.abs() + 1e-44;
            prop_assert!(fits || got.is_nan() && a.is_nan(), "tanh of {a:e} is {got:e}");
        }
    }

    /// 1 / b underflows for the largest b; `div.full` has no such range.
    #[test]
    fn division_by_large_numbers(operands in floats32()) {
        for (form, coarse) in [("approx", true), ("approx.ftz", true), ("full", false), ("full.ftz", false)] {
            let flush = form.ends_with("ftz");
            let body = format!("div.{form}.f32 %f8, %f0, %f1;");
            for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::F, &operands)) {
                let read = |x: u64| if flush { flushed(single(x)) } else { single(x) };
                let (a, b, got) = (read(*a), read(*b), single(got));
                let large = coarse && b.is_finite() && b.abs() > 2f32.powi(126);
                let wanted = match large {
                    true if a.is_infinite() => f64::NAN,
                    true => f64::from(a) * 0.0,
                    false => f64::from(a) / f64::from(b),
                };
                let error = (f64::from(got) - wanted).abs();
                let fits = error <= 2.4e-7 * wanted.abs() + 3e-45 || got == wanted as f32;
                let tiny = flush && wanted.abs() < 1.2e-38 && got == 0.0;
                prop_assert!(fits || tiny || got.is_nan() && wanted.is_nan(), "{body} of {a:e}, {b:e} is {got:e}, not {wanted:e}");
            }
        }
    }

    #[test]
    fn signs_of_doubles(operands in floats64()) {
        check(DOUBLES, &operands);
    }

    #[test]
    fn sums_with_modifiers(operands in floats32()) {
        check(SUMS, &operands);
    }

    /// `.xorsign.abs`: of the magnitudes, with the sign of the product.
    #[test]
    fn signs_of_products(singles in floats32(), operands in pairs()) {
        for (name, greater) in [("min", false), ("max", true)] {
            for propagates in [false, true] {
                let nan = if propagates { ".NaN" } else { "" };
                let one = |a: u64, b: u64, sign: u64, infinity: u64| {
                    let (x, y) = (a & (sign - 1), b & (sign - 1));
                    let magnitude = match (x > infinity, y > infinity) {
                        (true, true) => return None,
                        (true, _) | (_, true) if propagates => return None,
                        (true, _) => y,
                        (_, true) => x,
                        _ if greater => x.max(y),
                        _ => x.min(y),
                    };
                    Some(magnitude | (a ^ b) & sign)
                };
                for flush in ["", ".ftz"] {
                    let body = format!("{name}{flush}{nan}.xorsign.abs.f32 %f8, %f0, %f1;");
                    for ([a, b, ..], got) in singles.iter().zip(run(&body, Out::F, &singles)) {
                        let read = |x: &u64| if flush.is_empty() { *x as u32 } else { flushed(single(*x)).to_bits() };
                        let wanted = one(read(a).into(), read(b).into(), 1 << 31, 0x7f80_0000);
                        let fits = wanted.map_or(single(got).is_nan(), |wanted| got == wanted);
                        prop_assert!(fits, "{body} of {a:#x}, {b:#x} is {got:#x}, not {wanted:x?}");
                    }
                }
                for (ty, infinity) in [("f16", 0x7c00), ("bf16", 0x7f80)] {
                    for two in [false, true] {
                        let body = match two {
                            true => format!("{name}{nan}.xorsign.abs.{ty}x2 %r8, %r0, %r1;"),
                            false => format!("{name}{nan}.xorsign.abs.{ty} %h8, %h0, %h1; mov.b32 %r8, {{%h8, %h9}};"),
                        };
                        for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                            for shift in if two { &[0, 16][..] } else { &[0] } {
                                let half = |x: u64| x >> shift & 0xffff;
                                let wanted = one(half(*a), half(*b), 0x8000, infinity);
                                let got = half(got);
                                let fits = wanted.map_or(got & 0x7fff > infinity, |wanted| got == wanted);
                                prop_assert!(fits, "{body} of {a:#x}, {b:#x} is {got:#x}, not {wanted:x?}");
                            }
                        }
                    }
                }
            }
        }
    }
}
