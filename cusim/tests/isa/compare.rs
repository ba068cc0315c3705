//! Comparison and selection: every comparison on every type that has it.

use proptest::prelude::*;

use crate::harness::{
    Form, Out, check, config, floats32, floats64, form, halves, integers, pairs, run,
};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    integers_compare,
    floats_compare,
    halves_compare_in_pairs,
    combinations,
    selections,
    kinds_of_floats,
];

/// The name of a comparison, what it says of ordered operands, and whether it holds of unordered ones.
type Comparison = (&'static str, fn(std::cmp::Ordering) -> bool, bool);

const COMPARISONS: [Comparison; 14] = [
    ("eq", |o| o.is_eq(), false),
    ("ne", |o| o.is_ne(), false),
    ("lt", |o| o.is_lt(), false),
    ("le", |o| o.is_le(), false),
    ("gt", |o| o.is_gt(), false),
    ("ge", |o| o.is_ge(), false),
    ("equ", |o| o.is_eq(), true),
    ("neu", |o| o.is_ne(), true),
    ("ltu", |o| o.is_lt(), true),
    ("leu", |o| o.is_le(), true),
    ("gtu", |o| o.is_gt(), true),
    ("geu", |o| o.is_ge(), true),
    ("num", |_| true, false),
    ("nan", |_| false, true),
];

/// Comparisons of integers have these names only.
const ORDERED: usize = 6;

/// Checks comparisons of `ty` in registers `%{file}n`.
fn compare<T: PartialOrd>(
    names: usize,
    ty: &str,
    file: char,
    operands: &[[u64; 4]],
    read: impl Fn(u64) -> T,
) {
    for (name, holds, unordered) in &COMPARISONS[..names] {
        let body = format!("setp.{name}.{ty} %p4, %{file}0, %{file}1;");
        let results = run(&body, Out::P, operands);
        for ([a, b, ..], got) in operands.iter().zip(results) {
            let expected = read(*a).partial_cmp(&read(*b)).map_or(*unordered, holds);
            assert_eq!(got, u64::from(expected), "{body} of {a:#x}, {b:#x}");
        }
    }
}

const COMBINED: &[Form] = &[
    form(
        "setp.lt.and.s32 %p4, %r0, %r1, %p2;",
        Out::P,
        |[a, b, c, _]| u64::from((a as i32) < b as i32) & c & 1,
    ),
    form(
        "setp.lt.or.u32 %p4, %r0, %r1, !%p2;",
        Out::P,
        |[a, b, c, _]| u64::from((a as u32) < b as u32) | !c & 1,
    ),
    form(
        "setp.ne.xor.b64 %p4, %q0, %q1, %p2;",
        Out::P,
        |[a, b, c, _]| u64::from(a != b) ^ c & 1,
    ),
    // The second destination has the complement of the comparison, combined with the same predicate.
    form(
        "setp.ge.and.s32 %p5|%p4, %r0, %r1, %p2;",
        Out::P,
        |[a, b, c, _]| u64::from((a as i32) < b as i32) & c & 1,
    ),
    form("setp.lo.u32 %p4, %r0, %r1;", Out::P, |[a, b, ..]| {
        ((a as u32) < b as u32).into()
    }),
    form("setp.hs.u64 %p4, %q0, %q1;", Out::P, |[a, b, ..]| {
        (a >= b).into()
    }),
    form("set.gt.u32.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        if a as i32 > b as i32 { 0xffff_ffff } else { 0 }
    }),
    form("set.le.f32.u32 %f8, %r0, %r1;", Out::F, |[a, b, ..]| {
        if a as u32 <= b as u32 { 0x3f80_0000 } else { 0 }
    }),
    form(
        "set.eq.or.u32.u32 %r8, %r0, %r1, %p2;",
        Out::R,
        |[a, b, c, _]| {
            if a as u32 == b as u32 || c & 1 == 1 {
                0xffff_ffff
            } else {
                0
            }
        },
    ),
];

const SELECTED: &[Form] = &[
    form("selp.b32 %r8, %r0, %r1, %p2;", Out::R, |[a, b, c, _]| {
        if c & 1 == 1 {
            a & 0xffff_ffff
        } else {
            b & 0xffff_ffff
        }
    }),
    form("selp.b64 %q8, %q0, %q1, %p2;", Out::Q, |[a, b, c, _]| {
        if c & 1 == 1 { a } else { b }
    }),
    form("selp.b16 %h8, %h0, %h1, %p2;", Out::H, |[a, b, c, _]| {
        if c & 1 == 1 { a & 0xffff } else { b & 0xffff }
    }),
    form(
        "selp.f64 %d8, %d0, %d1, %p2; mov.b64 %q8, %d8;",
        Out::Q,
        |[a, b, c, _]| {
            if c & 1 == 1 { a } else { b }
        },
    ),
    form(
        "slct.u32.s32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            if c as i32 >= 0 {
                a & 0xffff_ffff
            } else {
                b & 0xffff_ffff
            }
        },
    ),
    form(
        "slct.b64.f32 %q8, %q0, %q1, %f2;",
        Out::Q,
        |[a, b, c, _]| {
            if f32::from_bits(c as u32) >= 0.0 {
                a
            } else {
                b
            }
        },
    ),
];

fn flushed(bits: u64) -> f32 {
    let x = f32::from_bits(bits as u32);
    if x.is_subnormal() {
        0.0f32.copysign(x)
    } else {
        x
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn integers_compare(operands in integers()) {
        compare(ORDERED, "s32", 'r', &operands, |x| x as i32);
        compare(ORDERED, "u32", 'r', &operands, |x| x as u32);
        compare(2, "b32", 'r', &operands, |x| x as u32);
        compare(ORDERED, "s64", 'q', &operands, |x| x as i64);
        compare(ORDERED, "u64", 'q', &operands, |x| x);
        compare(ORDERED, "s16", 'h', &operands, |x| x as i16);
        compare(ORDERED, "u16", 'h', &operands, |x| x as u16);
    }

    #[test]
    fn floats_compare(operands in floats32(), wide in floats64(), narrow in halves()) {
        let all = COMPARISONS.len();
        compare(all, "f32", 'f', &operands, |x| f32::from_bits(x as u32));
        compare(all, "f64", 'd', &wide, f64::from_bits);
        compare(all, "f16", 'h', &narrow, |x| ::half::f16::from_bits(x as u16).to_f64());
        compare(all, "bf16", 'h', &narrow, |x| ::half::bf16::from_bits(x as u16).to_f64());
        for (name, holds, unordered) in &COMPARISONS {
            let body = format!("setp.{name}.ftz.f32 %p4, %f0, %f1;");
            for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::P, &operands)) {
                let expected = flushed(*a).partial_cmp(&flushed(*b)).map_or(*unordered, holds);
                assert_eq!(got, u64::from(expected), "{body} of {a:#x}, {b:#x}");
            }
        }
    }

    #[test]
    fn halves_compare_in_pairs(operands in pairs()) {
        let f16 = |bits: u64| ::half::f16::from_bits(bits as u16).to_f64();
        for (name, holds, unordered) in &COMPARISONS {
            let body = format!(
                "setp.{name}.f16x2 %p4|%p5, %r0, %r1; selp.b32 %r8, 1, 0, %p4; @%p5 add.u32 %r8, %r8, 2;"
            );
            for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                let one = |shift| {
                    let order = f16(a >> shift).partial_cmp(&f16(b >> shift));
                    u64::from(order.map_or(*unordered, holds))
                };
                assert_eq!(got, one(16) << 1 | one(0), "{body} of {a:#x}, {b:#x}");
            }
        }
    }

    #[test]
    fn combinations(operands in integers()) {
        check(COMBINED, &operands);
    }

    #[test]
    fn selections(operands in integers()) {
        check(SELECTED, &operands);
    }
}

/// A kind of `testp` by name, of a value and whether it is subnormal.
type Kind = (&'static str, fn(f64, bool) -> bool);

const KINDS: [Kind; 6] = [
    ("finite", |x, _| x.is_finite()),
    ("infinite", |x, _| x.is_infinite()),
    ("number", |x, _| !x.is_nan()),
    ("notanumber", |x, _| x.is_nan()),
    ("normal", |x, subnormal| {
        // As a special case, zeros are normal.
        x.is_finite() && !subnormal
    }),
    ("subnormal", |_, subnormal| subnormal),
];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn kinds_of_floats(operands in floats32(), wide in floats64()) {
        for (name, holds) in KINDS {
            let body = format!("testp.{name}.f32 %p4, %f0;");
            for ([a, ..], got) in operands.iter().zip(run(&body, Out::P, &operands)) {
                let x = f32::from_bits(*a as u32);
                assert_eq!(got, u64::from(holds(x.into(), x.is_subnormal())), "{body} of {a:#x}");
            }
            let body = format!("testp.{name}.f64 %p4, %d0;");
            for ([a, ..], got) in wide.iter().zip(run(&body, Out::P, &wide)) {
                let x = f64::from_bits(*a);
                assert_eq!(got, u64::from(holds(x, x.is_subnormal())), "{body} of {a:#x}");
            }
        }
    }
}
