//! Logic, shifts and bit fields, bit by bit.

use proptest::prelude::*;

use crate::harness::{Form, Operands, Out, check, config, form, integers, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    logic,
    shifts,
    fields,
    permutations,
    any_function_of_three,
    whether_any_function_of_three_is_zero,
    nth_set_bit,
];

const LOW: u64 = 0xffff_ffff;

/// Bit `at` of a number.
fn bit(x: u64, at: u64) -> u64 {
    x >> at & 1
}

/// A number of `width` bits by its bits.
fn of_bits(width: u64, bit: impl Fn(u64) -> u64) -> u64 {
    (0..width).map(|at| (bit(at) & 1) << at).sum()
}

/// `x` of `width` bits, shifted left, amounts beyond the width giving zero.
fn shl(width: u64, x: u64, by: u64) -> u64 {
    of_bits(width, |at| if at >= by { bit(x, at - by) } else { 0 })
}

/// Shifted right, `fill` coming in.
fn shr(width: u64, x: u64, by: u64, fill: u64) -> u64 {
    of_bits(width, |at| match at.checked_add(by) {
        Some(from) if from < width => bit(x, from),
        _ => fill,
    })
}

const LOGIC: &[Form] = &[
    form("and.b32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| a & b & LOW),
    form("or.b64 %q8, %q0, %q1;", Out::Q, |[a, b, ..]| a | b),
    form("xor.b16 %h8, %h0, %h1;", Out::H, |[a, b, ..]| {
        (a ^ b) & 0xffff
    }),
    form("not.b32 %r8, %r0;", Out::R, |[a, ..]| !a & LOW),
    form("not.b16 %h8, %h0;", Out::H, |[a, ..]| !a & 0xffff),
    form("not.b64 %q8, %q0;", Out::Q, |[a, ..]| !a),
    form("cnot.b32 %r8, %r0;", Out::R, |[a, ..]| {
        (a & LOW == 0).into()
    }),
    form("and.pred %p4, %p0, %p1;", Out::P, |[a, b, ..]| a & b & 1),
    form("or.pred %p4, %p0, !%p1;", Out::P, |[a, b, ..]| (a | !b) & 1),
    form("xor.pred %p4, %p0, %p1;", Out::P, |[a, b, ..]| (a ^ b) & 1),
    form("not.pred %p4, %p0;", Out::P, |[a, ..]| !a & 1),
    form("brev.b32 %r8, %r0;", Out::R, |[a, ..]| {
        of_bits(32, |at| bit(a, 31 - at))
    }),
    form("brev.b64 %q8, %q0;", Out::Q, |[a, ..]| {
        of_bits(64, |at| bit(a, 63 - at))
    }),
    form("popc.b32 %r8, %r0;", Out::R, |[a, ..]| {
        (0..32).map(|at| bit(a, at)).sum()
    }),
    form("popc.b64 %r8, %q0;", Out::R, |[a, ..]| {
        (0..64).map(|at| bit(a, at)).sum()
    }),
    form("clz.b32 %r8, %r0;", Out::R, |[a, ..]| {
        (0..32).find(|at| bit(a, 31 - at) == 1).unwrap_or(32)
    }),
    form("clz.b64 %r8, %q0;", Out::R, |[a, ..]| {
        (0..64).find(|at| bit(a, 63 - at) == 1).unwrap_or(64)
    }),
    form("bfind.u32 %r8, %r0;", Out::R, |[a, ..]| highest(32, a, 0)),
    form("bfind.u64 %r8, %q0;", Out::R, |[a, ..]| highest(64, a, 0)),
    form("bfind.s32 %r8, %r0;", Out::R, |[a, ..]| {
        highest(32, a, bit(a, 31))
    }),
    form("bfind.s64 %r8, %q0;", Out::R, |[a, ..]| {
        highest(64, a, bit(a, 63))
    }),
    form(
        "bfind.shiftamt.u32 %r8, %r0;",
        Out::R,
        |[a, ..]| match highest(32, a, 0) {
            LOW => LOW,
            at => 31 - at,
        },
    ),
];

/// The highest bit that is not `sign`, or all ones.
fn highest(width: u64, x: u64, sign: u64) -> u64 {
    (0..width)
        .rev()
        .find(|&at| bit(x, at) != sign)
        .unwrap_or(LOW)
}

const SHIFTS: &[Form] = &[
    form("shl.b32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        shl(32, a, b & LOW)
    }),
    form("shl.b64 %q8, %q0, %r1;", Out::Q, |[a, b, ..]| {
        shl(64, a, b & LOW)
    }),
    form("shl.b16 %h8, %h0, %r1;", Out::H, |[a, b, ..]| {
        shl(16, a, b & LOW)
    }),
    form("shr.u32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        shr(32, a, b & LOW, 0)
    }),
    form("shr.b64 %q8, %q0, %r1;", Out::Q, |[a, b, ..]| {
        shr(64, a, b & LOW, 0)
    }),
    form("shr.u16 %h8, %h0, %r1;", Out::H, |[a, b, ..]| {
        shr(16, a, b & LOW, 0)
    }),
    form("shr.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        shr(32, a, b & LOW, bit(a, 31))
    }),
    form("shr.s64 %q8, %q0, %r1;", Out::Q, |[a, b, ..]| {
        shr(64, a, b & LOW, bit(a, 63))
    }),
    form("shr.s16 %h8, %h0, %r1;", Out::H, |[a, b, ..]| {
        shr(16, a, b & LOW, bit(a, 15))
    }),
    form(
        "shf.l.wrap.b32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| funnel(a, b) >> (32 - (c & 31)) & LOW,
    ),
    form(
        "shf.r.wrap.b32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| funnel(a, b) >> (c & 31) & LOW,
    ),
    form(
        "shf.l.clamp.b32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| funnel(a, b) >> (32 - (c & LOW).min(32)) & LOW,
    ),
    form(
        "shf.r.clamp.b32 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| funnel(a, b) >> (c & LOW).min(32) & LOW,
    ),
];

/// The second operand above the first.
fn funnel(a: u64, b: u64) -> u64 {
    (b & LOW) << 32 | a & LOW
}

/// `bfe`: the field's bits, then its sign, or bit `last` of the number where the field ends beyond it.
fn extract(width: u64, x: u64, start: u64, length: u64, signed: bool) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    let sign = if !signed || length == 0 {
        0
    } else {
        bit(x, (start + length - 1).min(width - 1))
    };
    of_bits(width, |at| {
        if at < length && start + at < width {
            bit(x, start + at)
        } else {
            sign
        }
    })
}

/// `bfi`: bits of `a` laid into `b`.
fn insert(width: u64, a: u64, b: u64, start: u64, length: u64) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    of_bits(width, |at| {
        if at >= start && at < start + length {
            bit(a, at - start)
        } else {
            bit(b, at)
        }
    })
}

const FIELDS: &[Form] = &[
    form("bfe.u32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        extract(32, a, b, c, false)
    }),
    form("bfe.s32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        extract(32, a, b, c, true)
    }),
    form("bfe.u64 %q8, %q0, %r1, %r2;", Out::Q, |[a, b, c, _]| {
        extract(64, a, b, c, false)
    }),
    form("bfe.s64 %q8, %q0, %r1, %r2;", Out::Q, |[a, b, c, _]| {
        extract(64, a, b, c, true)
    }),
    form(
        "bfi.b32 %r8, %r0, %r1, %r2, %r3;",
        Out::R,
        |[a, b, c, d]| insert(32, a, b, c, d),
    ),
    form(
        "bfi.b64 %q8, %q0, %q1, %r2, %r3;",
        Out::Q,
        |[a, b, c, d]| insert(64, a, b, c, d),
    ),
    form("szext.clamp.s32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        extract(32, a, 0, (b & LOW).min(32), true)
    }),
    form("bmsk.clamp.b32 %r8, %r0, %r1;", Out::R, |[a, b, ..]| {
        let (start, length) = ((a & LOW).min(32), (b & LOW).min(32));
        of_bits(32, |at| (at >= start && at < start + length).into())
    }),
];

/// The bytes that a selector can name.
fn eight(a: u64, b: u64) -> [u8; 8] {
    funnel(a, b).to_le_bytes()
}

fn permuted(bytes: [u8; 4]) -> u64 {
    u32::from_le_bytes(bytes).into()
}

const PERMUTATIONS: &[Form] = &[
    form("prmt.b32 %r8, %r0, %r1, %r2;", Out::R, |[a, b, c, _]| {
        permuted(std::array::from_fn(|at| {
            let nibble = c >> (4 * at) & 15;
            let byte = eight(a, b)[nibble as usize & 7];
            if nibble & 8 == 0 {
                byte
            } else {
                (byte as i8 >> 7) as u8
            }
        }))
    }),
    form(
        "prmt.b32.f4e %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| permuted(std::array::from_fn(|at| eight(a, b)[(c as usize & 3) + at])),
    ),
    form(
        "prmt.b32.b4e %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            permuted(std::array::from_fn(|at| {
                eight(a, b)[((c as usize & 3) + 8 - at) % 8]
            }))
        },
    ),
    form(
        "prmt.b32.rc8 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| permuted([eight(a, b)[c as usize & 3]; 4]),
    ),
    form(
        "prmt.b32.ecl %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            permuted(std::array::from_fn(|at| {
                eight(a, b)[at.max(c as usize & 3)]
            }))
        },
    ),
    form(
        "prmt.b32.ecr %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            permuted(std::array::from_fn(|at| {
                eight(a, b)[at.min(c as usize & 3)]
            }))
        },
    ),
    form(
        "prmt.b32.rc16 %r8, %r0, %r1, %r2;",
        Out::R,
        |[a, b, c, _]| {
            permuted(std::array::from_fn(|at| {
                eight(a, b)[2 * (c as usize & 1) + at % 2]
            }))
        },
    ),
];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn logic(operands in integers()) {
        check(LOGIC, &operands);
    }

    #[test]
    fn shifts(operands in integers()) {
        check(SHIFTS, &operands);
    }

    #[test]
    fn fields(operands in integers()) {
        check(FIELDS, &operands);
    }

    #[test]
    fn permutations(operands in integers()) {
        check(PERMUTATIONS, &operands);
    }

    #[test]
    fn any_function_of_three(table in any::<u8>(), operands in integers()) {
        let results = run(&format!("lop3.b32 %r8, %r0, %r1, %r2, {table};"), Out::R, &operands);
        for ([a, b, c, _], got) in operands.into_iter().zip(results) {
            let expected = of_bits(32, |at| {
                u64::from(table) >> (4 * bit(a, at) + 2 * bit(b, at) + bit(c, at))
            });
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn whether_any_function_of_three_is_zero(table in any::<u8>(), kept in 0u32..32, operands in integers()) {
        // Of one bit each, so that results are zero as often as not.
        let keep = 1 << kept;
        let f = |operands: Operands| {
            let [a, b, c, _] = operands.map(|word| word & keep);
            of_bits(32, |at| u64::from(table) >> (4 * bit(a, at) + 2 * bit(b, at) + bit(c, at)))
        };
        for (mnemonic, q, holds) in [
            ("lop3.or.b32", "%p1", [true, true]),
            ("lop3.or.b32", "!%p1", [false, true]),
            ("lop3.and.b32", "%p1", [false, true]),
            ("lop3.and.b32", "!%p1", [false, false]),
        ] {
            let both = format!(
                "and.b32 %r0, %r0, {keep}; and.b32 %r1, %r1, {keep}; and.b32 %r2, %r2, {keep};
                 setp.eq.b32 %p1, 0, 0;
                 {mnemonic} %r8|%p4, %r0, %r1, %r2, {table}, {q};"
            );
            for (&operands, got) in operands.iter().zip(run(&both, Out::R, &operands)) {
                prop_assert_eq!(got, f(operands), "{}", mnemonic);
            }
            let only = both.replace("%r8|", "_|");
            for (&operands, got) in operands.iter().zip(run(&only, Out::P, &operands)) {
                let is_set = holds[usize::from(f(operands) != 0)];
                prop_assert_eq!(got, u64::from(is_set), "{} with {}", mnemonic, q);
            }
        }
    }

    #[test]
    fn nth_set_bit(mask in any::<u32>(), base in 0u32..32, offset in -33i32..34) {
        let operands: [Operands; 1] = [[mask.into(), base.into(), offset as u32 as u64, 0]];
        let got = run("fns.b32 %r8, %r0, %r1, %r2;", Out::R, &operands)[0];
        let set = |at: &u32| mask >> at & 1 == 1;
        let nth = |n: i32| n.unsigned_abs() as usize - 1;
        let expected = match offset {
            0 => Some(base).filter(set),
            1.. => (base..32).filter(set).nth(nth(offset)),
            _ => (0..=base).rev().filter(set).nth(nth(offset)),
        };
        prop_assert_eq!(got, expected.map_or(LOW, u64::from));
    }
}
