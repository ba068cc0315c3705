//! Integer arithmetic against the same in 128 bits.

use proptest::prelude::*;

use crate::harness::{Form, Operands, Out, check, config, form, integers};

/// The tests of this file.
pub const TESTS: &[fn()] = &[sums, products, quotients, carries, dot_products];

fn s16(x: u64) -> i128 {
    (x as i16).into()
}
fn u16(x: u64) -> i128 {
    (x as u16).into()
}
fn s32(x: u64) -> i128 {
    (x as i32).into()
}
fn u32(x: u64) -> i128 {
    (x as u32).into()
}
fn s64(x: u64) -> i128 {
    (x as i64).into()
}
fn u64(x: u64) -> i128 {
    x.into()
}

/// The low bits of a result.
fn h(x: i128) -> u64 {
    x as u64 & 0xffff
}
fn r(x: i128) -> u64 {
    x as u64 & 0xffff_ffff
}
fn q(x: i128) -> u64 {
    x as u64
}

const SUMS: &[Form] = &[
    form("add.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(s32(a) + s32(b))
    }),
    form("add.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(u32(a) + u32(b))
    }),
    form("add.sat.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r((s32(a) + s32(b)).clamp(i32::MIN.into(), i32::MAX.into()))
    }),
    form("sub.sat.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r((s32(a) - s32(b)).clamp(i32::MIN.into(), i32::MAX.into()))
    }),
    form("sub.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(u32(a) - u32(b))
    }),
    form("add.s64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        q(s64(a) + s64(b))
    }),
    form("sub.u64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        q(u64(a) - u64(b))
    }),
    form("add.u16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(u16(a) + u16(b))
    }),
    form("sub.s16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(s16(a) - s16(b))
    }),
    form("neg.s32 %r8, %r0;", Out::R, |[a, ..]| r(-s32(a))),
    form("neg.s64 %q8, %q0;", Out::Q, |[a, ..]| q(-s64(a))),
    form("neg.s16 %h8, %h0;", Out::H, |[a, ..]| h(-s16(a))),
    form("abs.s32 %r8, %r0;", Out::R, |[a, ..]| r(s32(a).abs())),
    form("abs.s64 %q8, %q0;", Out::Q, |[a, ..]| q(s64(a).abs())),
    form("abs.s16 %h8, %h0;", Out::H, |[a, ..]| h(s16(a).abs())),
    form("min.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(s32(a).min(s32(b)))
    }),
    form("min.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(u32(a).min(u32(b)))
    }),
    form("max.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(s32(a).max(s32(b)))
    }),
    form("max.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(u32(a).max(u32(b)))
    }),
    form("min.s64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        q(s64(a).min(s64(b)))
    }),
    form("max.u64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        q(u64(a).max(u64(b)))
    }),
    form("min.s16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(s16(a).min(s16(b)))
    }),
    form("max.u16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(u16(a).max(u16(b)))
    }),
    form("sad.s32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        r(s32(c) + (s32(a) - s32(b)).abs())
    }),
    form("sad.u32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        r(u32(c) + (u32(a) - u32(b)).abs())
    }),
];

const PRODUCTS: &[Form] = &[
    form("mul.lo.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(s32(a) * s32(b))
    }),
    form("mul.hi.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r((s32(a) * s32(b)) >> 32)
    }),
    form("mul.hi.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r((u32(a) * u32(b)) >> 32)
    }),
    form("mul.wide.s32 %q8, %r0, %r1;", Out::Q, |[a, b, ..]| {
        q(s32(a) * s32(b))
    }),
    form("mul.wide.u32 %q8, %r0, %r1;", Out::Q, |[a, b, ..]| {
        q(u32(a) * u32(b))
    }),
    form("mul.wide.s16 %r8, %h0, %h1;", Out::R, |[a, b, ..]| {
        r(s16(a) * s16(b))
    }),
    form("mul.wide.u16 %r8, %h0, %h1;", Out::R, |[a, b, ..]| {
        r(u16(a) * u16(b))
    }),
    form("mul.lo.s16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(s16(a) * s16(b))
    }),
    form("mul.hi.s16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h((s16(a) * s16(b)) >> 16)
    }),
    form("mul.hi.u16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h((u16(a) * u16(b)) >> 16)
    }),
    form("mul.lo.s64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        a.wrapping_mul(b)
    }),
    form("mul.hi.s64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        q((s64(a) * s64(b)) >> 64)
    }),
    form("mul.hi.u64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    }),
    form("mad.lo.s32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        r(s32(a) * s32(b) + s32(c))
    }),
    form("mad.hi.s32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        r(((s32(a) * s32(b)) >> 32) + s32(c))
    }),
    form("mad.hi.u32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        r(((u32(a) * u32(b)) >> 32) + u32(c))
    }),
    form(
        "mad.hi.sat.s32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            r((((s32(a) * s32(b)) >> 32) + s32(c)).clamp(i32::MIN.into(), i32::MAX.into()))
        },
    ),
    form(
        "mad.wide.s32 %q8, %r0, %r1, %q2;",
        Out::Q,
        |[a, b, c, _]| q(s32(a) * s32(b) + s64(c)),
    ),
    form(
        "mad.wide.u32 %q8, %r0, %r1, %q2;",
        Out::Q,
        |[a, b, c, _]| q(u32(a) * u32(b) + u64(c)),
    ),
    form(
        "mad.wide.u16 %r8, %h0, %h1, %r2;",
        Out::R,
        |[a, b, c, _]| r(u16(a) * u16(b) + u32(c)),
    ),
    form("mad.lo.s16 %h8, %h0, %h1, %h2;", Out::H, |[a, b, c, _]| {
        h(s16(a) * s16(b) + s16(c))
    }),
    form("mad.lo.u64 %q8, %q0, %q1, %q2;", Out::Q, |[a, b, c, _]| {
        a.wrapping_mul(b).wrapping_add(c)
    }),
    form("mul24.lo.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(low24(a) * low24(b))
    }),
    form("mul24.hi.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r((low24(a) * low24(b)) >> 16)
    }),
    form(
        "mad24.lo.u32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| r(u32(a & 0xff_ffff) * u32(b & 0xff_ffff) + u32(c)),
    ),
];

/// The low 24 bits as a signed number.
fn low24(x: u64) -> i128 {
    i128::from((x as u32) << 8) << 96 >> 104
}

/// Quotients where the divisor is not zero.
const QUOTIENTS: &[Form] = &[
    form("div.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(s32(a) / s32(b))
    }),
    form("div.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(u32(a) / u32(b))
    }),
    form("rem.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(s32(a) % s32(b))
    }),
    form("rem.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        r(u32(a) % u32(b))
    }),
    form("div.s64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        q(s64(a) / s64(b))
    }),
    form("div.u64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| a / b),
    form("rem.s64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| {
        q(s64(a) % s64(b))
    }),
    form("rem.u64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| a % b),
    form("div.s16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(s16(a) / s16(b))
    }),
    form("div.u16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(u16(a) / u16(b))
    }),
    form("rem.s16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        h(s16(a) % s16(b))
    }),
];

/// Chains with a carry, two words each.
const CARRIES: &[Form] = &[
    form(
        "mov.b64 {%r10, %r11}, %q0; mov.b64 {%r12, %r13}, %q1;
         add.cc.u32 %r10, %r10, %r12; addc.u32 %r11, %r11, %r13; mov.b64 %q8, {%r10, %r11};",
        Out::Q,
        |[a, b, ..]| a.wrapping_add(b),
    ),
    form(
        "mov.b64 {%r10, %r11}, %q0; mov.b64 {%r12, %r13}, %q1;
         sub.cc.u32 %r10, %r10, %r12; subc.u32 %r11, %r11, %r13; mov.b64 %q8, {%r10, %r11};",
        Out::Q,
        |[a, b, ..]| a.wrapping_sub(b),
    ),
    // The flag of a subtraction is a carry: set where nothing was borrowed.
    form(
        "sub.cc.u32 %r9, %r0, %r1; addc.u32 %r8, %r2, 0;",
        Out::R,
        |[a, b, c, _]| r(i128::from(u32(a) >= u32(b)) + u32(c)),
    ),
    form(
        "sub.cc.u64 %q9, %q0, %q1; madc.lo.u64 %q8, %q2, %q3, 0;",
        Out::Q,
        |[a, b, c, d]| c.wrapping_mul(d).wrapping_add((a >= b).into()),
    ),
    form(
        "add.cc.u32 %r9, %r0, %r1; subc.u32 %r8, %r2, %r3;",
        Out::R,
        |[a, b, c, d]| {
            let carry = (u32(a) + u32(b)) >> 32;
            r(u32(c)
                .wrapping_sub(u32(d))
                .wrapping_sub(1)
                .wrapping_add(carry))
        },
    ),
    // The carry out of 128 bits.
    form(
        "add.cc.u64 %q9, %q0, %q1; addc.cc.u64 %q10, %q2, %q3; addc.u64 %q8, 0, 0;",
        Out::Q,
        |[a, b, c, d]| {
            let low = u128::from(c) << 64 | u128::from(a);
            low.overflowing_add(u128::from(d) << 64 | u128::from(b))
                .1
                .into()
        },
    ),
    form(
        "mad.lo.cc.u32 %r9, %r0, %r1, %r2; madc.hi.u32 %r8, %r0, %r1, 0;",
        Out::R,
        |[a, b, c, _]| r((u32(a) * u32(b) + u32(c)) >> 32),
    ),
];

fn bytes(x: u64) -> [u8; 4] {
    (x as u32).to_le_bytes()
}

const DOT_PRODUCTS: &[Form] = &[
    form(
        "dp4a.u32.u32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            let products = bytes(a).into_iter().zip(bytes(b));
            r(u32(c)
                + products
                    .map(|(a, b)| i128::from(a) * i128::from(b))
                    .sum::<i128>())
        },
    ),
    form(
        "dp4a.s32.u32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            let products = bytes(a).into_iter().zip(bytes(b));
            r(s32(c)
                + products
                    .map(|(a, b)| i128::from(a as i8) * i128::from(b))
                    .sum::<i128>())
        },
    ),
    form(
        "dp2a.lo.s32.s32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            let b = bytes(b);
            r(s32(c) + s16(a) * i128::from(b[0] as i8) + s16(a >> 16) * i128::from(b[1] as i8))
        },
    ),
    form(
        "dp2a.hi.u32.u32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            let b = bytes(b);
            r(u32(c) + u16(a) * i128::from(b[2]) + u16(a >> 16) * i128::from(b[3]))
        },
    ),
];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn sums(operands in integers()) {
        check(SUMS, &operands);
    }

    #[test]
    fn products(operands in integers()) {
        check(PRODUCTS, &operands);
    }

    #[test]
    fn quotients(operands in integers()) {
        // Division by zero is unspecified, and so is the most negative number by -1.
        let divisible: Vec<Operands> = operands
            .into_iter()
            .filter(|[_, b, ..]| b & 0xffff != 0)
            .filter(|[a, b, ..]| a & 0x7fff != 0 || b & 0xffff != 0xffff)
            .collect();
        prop_assume!(!divisible.is_empty());
        check(QUOTIENTS, &divisible);
    }

    #[test]
    fn carries(operands in integers()) {
        check(CARRIES, &operands);
    }

    #[test]
    fn dot_products(operands in integers()) {
        check(DOT_PRODUCTS, &operands);
    }
}
