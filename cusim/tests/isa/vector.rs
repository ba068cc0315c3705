//! Vectors and parts of registers: moves, loads and stores of every width.

use proptest::prelude::*;

use crate::harness::{Form, Out, check, config, form, integers, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    moves_take_registers_apart,
    loads_extend_to_the_register,
    stores_write_their_bytes_only,
    vectors_are_loaded_and_stored_in_order,
];

const MOVES: &[Form] = &[
    form(
        "mov.b64 {%r10, %r11}, %q0; mov.b64 %q8, {%r11, %r10};",
        Out::Q,
        |[a, ..]| a.rotate_left(32),
    ),
    form(
        "mov.b32 {%h10, %h11}, %r0; mov.b32 %r8, {%h11, %h10};",
        Out::R,
        |[a, ..]| (a as u32).rotate_left(16).into(),
    ),
    form(
        "mov.b64 {%h10, %h11, %h12, %h13}, %q0; mov.b64 %q8, {%h13, %h12, %h11, %h10};",
        Out::Q,
        |[a, ..]| {
            (0..4).fold(0, |all, at| {
                all | (a >> (16 * at) & 0xffff) << (48 - 16 * at)
            })
        },
    ),
    form("mov.b64 {_, %r8}, %q0;", Out::R, |[a, ..]| a >> 32),
    form("mov.b32 %f8, %r0;", Out::F, |[a, ..]| a & 0xffff_ffff),
    form("mov.b64 %q8, %d1;", Out::Q, |[_, b, ..]| b),
    form("mov.pred %p4, %p1;", Out::P, |[_, b, ..]| b & 1),
];

/// The bytes of a number from `offset` on, as many as an element has.
fn element(x: u64, offset: u32, bytes: u32, signed: bool, register: u32) -> u64 {
    let unused = 64 - 8 * bytes;
    let moved = x >> (8 * offset) << unused;
    let value = if signed {
        (moved as i64 >> unused) as u64
    } else {
        moved >> unused
    };
    if register == 64 {
        value
    } else {
        value & ((1 << register) - 1)
    }
}

/// Types of loads and the registers they may be loaded to.
const LOADS: [(&str, u32, bool); 12] = [
    ("u8", 1, false),
    ("s8", 1, true),
    ("b8", 1, false),
    ("u16", 2, false),
    ("s16", 2, true),
    ("b16", 2, false),
    ("u32", 4, false),
    ("s32", 4, true),
    ("b32", 4, false),
    ("u64", 8, false),
    ("s64", 8, true),
    ("b64", 8, false),
];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn moves_take_registers_apart(operands in integers()) {
        check(MOVES, &operands);
    }

    #[test]
    fn loads_extend_to_the_register(operands in integers(), at in 0u32..8) {
        for (ty, bytes, signed) in LOADS {
            for (file, register, out) in [("h", 16, Out::H), ("r", 32, Out::R), ("q", 64, Out::Q)] {
                if register < 8 * bytes {
                    continue;
                }
                let offset = at / bytes * bytes;
                let body = format!("ld.global.{ty} %{file}8, [%in+{offset}];");
                for ([a, ..], got) in operands.iter().zip(run(&body, out, &operands)) {
                    prop_assert_eq!(
                        got,
                        element(*a, offset, bytes, signed, register),
                        "{} of {:#x}", body, a
                    );
                }
            }
        }
    }

    #[test]
    fn stores_write_their_bytes_only(operands in integers(), at in 0u32..8) {
        for (ty, bytes, _) in LOADS {
            for (file, register) in [("h", 16), ("r", 32), ("q", 64)] {
                if register < 8 * bytes {
                    continue;
                }
                let offset = at / bytes * bytes;
                let body = format!(
                    "shl.b32 %r31, %r30, 3; mov.b32 %r32, tile; add.u32 %r31, %r31, %r32;
                     st.shared.b64 [%r31], %q0; st.shared.{ty} [%r31+{offset}], %{file}1;
                     ld.shared.b64 %q8, [%r31];"
                );
                for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                    let mask = (u64::MAX >> (64 - 8 * bytes)) << (8 * offset);
                    prop_assert_eq!(got, a & !mask | b << (8 * offset) & mask, "{}", body);
                }
            }
        }
    }

    #[test]
    fn vectors_are_loaded_and_stored_in_order(operands in integers()) {
        for space in ["shared", "local"] {
            // Swaps pairs of 32 bits, then sums the four words with distinct weights.
            let place = if space == "shared" {
                "shl.b32 %r31, %r30, 4; mov.b32 %r32, tile; add.u32 %r31, %r31, %r32;"
            } else {
                ".local .align 16 .b8 stack[16]; mov.b32 %r31, stack;"
            };
            let body = format!(
                "{place}
                 st.{space}.v2.b64 [%r31], {{%q0, %q1}};
                 ld.{space}.v4.b32 {{%r10, %r11, %r12, %r13}}, [%r31];
                 st.{space}.v4.b32 [%r31], {{%r13, %r12, %r11, %r10}};
                 ld.{space}.v2.b64 {{%q9, %q10}}, [%r31];
                 ld.{space}.v4.u16 {{%h10, %h11, %h12, %h13}}, [%r31];
                 cvt.u64.u16 %q11, %h12; mul.lo.u64 %q9, %q9, 3; add.u64 %q8, %q9, %q10; xor.b64 %q8, %q8, %q11;"
            );
            for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                let (low, high) = (b.rotate_left(32), a.rotate_left(32));
                let expected = low.wrapping_mul(3).wrapping_add(high) ^ (low >> 32 & 0xffff);
                prop_assert_eq!(got, expected, "{}", space);
            }
        }
    }
}
