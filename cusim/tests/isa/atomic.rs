//! Atomic operations on global and shared memory, one thread to a location and all to one.

use proptest::prelude::*;

use crate::harness::{Operands, Out, config, floats32, floats64, integers, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    operations_change_memory_and_return_what_was_there,
    tickets_are_unique,
];

/// An operation, its type, and what it leaves of the old value and up to two operands.
type Operation = (&'static str, &'static str, fn(u64, u64, u64) -> u64);

fn low(x: u64) -> u64 {
    x & 0xffff_ffff
}

const OPERATIONS: [Operation; 25] = [
    ("add", "u32", |a, b, _| low(a.wrapping_add(b))),
    ("add", "s32", |a, b, _| low(a.wrapping_add(b))),
    ("add", "u64", |a, b, _| a.wrapping_add(b)),
    ("min", "u32", |a, b, _| low(a).min(low(b))),
    ("max", "u32", |a, b, _| low(a).max(low(b))),
    ("min", "s32", |a, b, _| {
        (a as i32).min(b as i32) as u32 as u64
    }),
    ("max", "s32", |a, b, _| {
        (a as i32).max(b as i32) as u32 as u64
    }),
    ("min", "u64", |a, b, _| a.min(b)),
    ("max", "u64", |a, b, _| a.max(b)),
    ("min", "s64", |a, b, _| (a as i64).min(b as i64) as u64),
    ("max", "s64", |a, b, _| (a as i64).max(b as i64) as u64),
    ("and", "b32", |a, b, _| low(a & b)),
    ("or", "b32", |a, b, _| low(a | b)),
    ("xor", "b32", |a, b, _| low(a ^ b)),
    ("and", "b64", |a, b, _| a & b),
    ("or", "b64", |a, b, _| a | b),
    ("xor", "b64", |a, b, _| a ^ b),
    ("exch", "b32", |_, b, _| low(b)),
    ("exch", "b64", |_, b, _| b),
    (
        "cas",
        "b32",
        |a, b, c| if low(a) == low(b) { low(c) } else { low(a) },
    ),
    ("cas", "b64", |a, b, c| if a == b { c } else { a }),
    (
        "inc",
        "u32",
        |a, b, _| if low(a) >= low(b) { 0 } else { low(a) + 1 },
    ),
    ("dec", "u32", |a, b, _| match low(a) {
        0 => low(b),
        old if old > low(b) => low(b),
        old => old - 1,
    }),
    ("add", "f32", |a, b, _| {
        (f32::from_bits(a as u32) + f32::from_bits(b as u32))
            .to_bits()
            .into()
    }),
    ("add", "f64", |a, b, _| {
        (f64::from_bits(a) + f64::from_bits(b)).to_bits()
    }),
];

/// Lines that leave the address of this thread's eight bytes of shared memory in `%r31`, holding `%q0`.
const PLACE: &str = "shl.b32 %r31, %r30, 3; mov.b32 %r32, tile; add.u32 %r31, %r31, %r32; st.shared.b64 [%r31], %q0;";

fn same(ty: &str, a: u64, b: u64) -> bool {
    let both_nan = match ty {
        "f32" => f32::from_bits(a as u32).is_nan() && f32::from_bits(b as u32).is_nan(),
        "f64" => f64::from_bits(a).is_nan() && f64::from_bits(b).is_nan(),
        _ => false,
    };
    a == b || both_nan
}

fn check((name, ty, expected): Operation, operands: &[Operands]) {
    let wide = ty.ends_with("64");
    let (file, narrow) = match ty {
        "f32" => ('f', true),
        "f64" => ('d', false),
        _ if wide => ('q', false),
        _ => ('r', true),
    };
    let out = match file {
        'f' => Out::F,
        'd' => Out::D,
        'q' => Out::Q,
        _ => Out::R,
    };
    let cut = |x: u64| if narrow { low(x) } else { x };
    let third = if name == "cas" {
        format!(", %{file}2")
    } else {
        String::new()
    };
    let load = if narrow { "cvt.u64.u32 %q8, %r9;" } else { "" };
    let register = if narrow { "b32 %r9" } else { "b64 %q8" };
    for (space, place, address) in [("shared", PLACE, "%r31"), ("global", "", "%in")] {
        // What atom returns is what was there.
        let atom =
            format!("{place} atom.{space}.{name}.{ty} %{file}8, [{address}], %{file}1{third};");
        for ([a, ..], got) in operands.iter().zip(run(&atom, out, operands)) {
            assert_eq!(got, cut(*a), "{atom}");
        }
        let opcode = if matches!(name, "exch" | "cas") {
            "atom"
        } else {
            "red"
        };
        let dest = if opcode == "atom" {
            format!("%{file}10, ")
        } else {
            String::new()
        };
        let body = format!(
            "{place} {opcode}.{space}.{name}.{ty} {dest}[{address}], %{file}1{third};
             ld.{space}.{register}, [{address}]; {load}"
        );
        for ([a, b, c, _], got) in operands.iter().zip(run(&body, Out::Q, operands)) {
            let flush = |x: u64| match ty {
                // In global memory f32 are added without subnormal numbers.
                "f32" if space == "global" && f32::from_bits(x as u32).is_subnormal() => {
                    x & 0x8000_0000
                }
                _ => x,
            };
            let expected = match name {
                "add" => flush(expected(flush(*a), flush(*b), *c)),
                _ => expected(*a, *b, *c),
            };
            assert!(
                same(ty, got, expected),
                "{body} of {a:#x}, {b:#x}, {c:#x} is {got:#x}, not {expected:#x}"
            );
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn operations_change_memory_and_return_what_was_there(
        operands in integers(),
        singles in floats32(),
        doubles in floats64(),
    ) {
        for operation in OPERATIONS {
            let operands = match operation.1 {
                "f32" => &singles,
                "f64" => &doubles,
                _ => &operands,
            };
            check(operation, operands);
        }
    }

    /// Every thread gets another ticket, and the counter ends at their number.
    #[test]
    fn tickets_are_unique(operands in proptest::collection::vec(Just([0u64; 4]), 1..300)) {
        let body = "setp.eq.u32 %p4, %r30, 0; @%p4 st.shared.u32 [tile], 0; bar.sync 0;
                    atom.shared.add.u32 %r8, [tile], 1;";
        let mut tickets = run(body, Out::R, &operands);
        tickets.sort_unstable();
        prop_assert_eq!(tickets, (0..operands.len() as u64).collect::<Vec<_>>());
    }
}
