//! What lanes do together, against loops over the lanes of each warp.

use proptest::prelude::*;

use crate::harness::{Operands, Out, config, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    shuffles,
    votes,
    members_only,
    reductions,
    matches,
    elections,
];

/// Operands of whole warps.
fn warps() -> impl Strategy<Value = Vec<Operands>> {
    (1usize..4).prop_flat_map(|count| {
        let value = prop_oneof![any::<u64>(), 0u64..4];
        proptest::collection::vec(value.prop_map(|value| [value, 0, 0, 0]), 32 * count)
    })
}

/// The operands of a warp and what each of its lanes got.
fn by_warp<'a>(
    operands: &'a [Operands],
    results: &'a [u64],
) -> impl Iterator<Item = (&'a [Operands], &'a [u64])> {
    operands.chunks(32).zip(results.chunks(32))
}

/// PTX ISA, "shfl.sync": the source lane and whether it is in range.
fn source(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let highest = lane & segment | clamp & !segment;
    let lowest = lane & segment;
    let (from, inside) = match mode {
        "up" => {
            let from = lane as i32 - b as i32;
            (from as u32, from >= highest as i32)
        }
        "down" => (lane + b, lane + b <= highest),
        "bfly" => (lane ^ b, lane ^ b <= highest),
        _ => {
            let from = lowest | b & !segment;
            (from, from <= highest)
        }
    };
    (if inside { from } else { lane }, inside)
}

const FULL: u32 = u32::MAX;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn shuffles(
        operands in warps(),
        b in any::<u32>(),
        clamp in 0u32..32,
        segment in proptest::sample::select(vec![0u32, 16, 24, 28, 30, 31]),
    ) {
        for mode in ["up", "down", "bfly", "idx"] {
            // The hardware's own uses: clamp 0 for up, 31 for the others, and anything at all.
            for clamp in [clamp, if mode == "up" { 0 } else { 31 }] {
                let c = segment << 8 | clamp;
                let body = format!(
                    "mov.b32 %r9, {b}; shfl.sync.{mode}.b32 %r8|%p4, %r0, %r9, {c}, -1; cvt.u64.u32 %q8, %r8; @%p4 add.u64 %q8, %q8, 0x100000000;"
                );
                let results = run(&body, Out::Q, &operands);
                for (operands, results) in by_warp(&operands, &results) {
                    for lane in 0..32 {
                        let (from, inside) = source(mode, lane, b, c);
                        let expected = operands[from as usize & 31][0] & u64::from(FULL)
                            | u64::from(inside) << 32;
                        prop_assert_eq!(results[lane as usize], expected, "{} in lane {}", body, lane);
                    }
                }
            }
        }
    }

    #[test]
    fn votes(operands in warps(), weight in 0u64..3) {
        // Mostly true, mostly false, or mixed.
        let operands: Vec<Operands> = operands
            .into_iter()
            .map(|[a, b, c, d]| [match weight { 0 => u64::from(a == 0), 1 => u64::from(a != 0), _ => a }, b, c, d])
            .collect();
        for mode in ["all", "any", "uni"] {
            let results = run(&format!("vote.sync.{mode}.pred %p4, %p0, -1;"), Out::P, &operands);
            for (operands, results) in by_warp(&operands, &results) {
                let all = operands.iter().all(|x| x[0] & 1 == 1);
                let any = operands.iter().any(|x| x[0] & 1 == 1);
                let expected = match mode {
                    "all" => all,
                    "any" => any,
                    _ => all || !any,
                };
                prop_assert!(results.iter().all(|&x| x == u64::from(expected)), "{}", mode);
            }
        }
        let results = run("vote.sync.ballot.b32 %r8, !%p0, -1;", Out::R, &operands);
        for (operands, results) in by_warp(&operands, &results) {
            let expected = operands.iter().rev().fold(0, |all, x| all << 1 | (!x[0] & 1));
            prop_assert!(results.iter().all(|&x| x == expected));
        }
    }

    #[test]
    fn members_only(operands in warps(), members in 1u32..) {
        // The others go another way and take no part.
        let body = format!(
            "mov.u32 %r31, %laneid; mov.b32 %r32, {members}; shr.u32 %r33, %r32, %r31; and.b32 %r33, %r33, 1;
             setp.eq.u32 %p5, %r33, 0; mov.b32 %r8, 7; @%p5 bra done;
             redux.sync.add.u32 %r8, %r0, %r32; match.any.sync.b32 %r9, %r0, %r32; xor.b32 %r8, %r8, %r9;
             done:"
        );
        let results = run(&body, Out::R, &operands);
        for (operands, results) in by_warp(&operands, &results) {
            let is_member = |lane: usize| members >> lane & 1 == 1;
            let value = |lane: usize| operands[lane][0] as u32;
            let total = (0..32).filter(|&lane| is_member(lane)).map(value);
            let total = total.fold(0, u32::wrapping_add);
            for (lane, got) in results.iter().enumerate() {
                let equal = (0..32).filter(|&other| is_member(other) && value(other) == value(lane));
                let equal: u32 = equal.map(|other| 1 << other).sum();
                let expected = if is_member(lane) { total ^ equal } else { 7 };
                prop_assert_eq!(*got, u64::from(expected));
            }
        }
    }

    #[test]
    fn reductions(operands in warps()) {
        type Reduction = (&'static str, fn(u32, u32) -> u32);
        const REDUCTIONS: [Reduction; 9] = [
            ("add.u32", u32::wrapping_add),
            ("add.s32", u32::wrapping_add),
            ("min.u32", |a, b| a.min(b)),
            ("max.u32", |a, b| a.max(b)),
            ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
            ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
            ("and.b32", |a, b| a & b),
            ("or.b32", |a, b| a | b),
            ("xor.b32", |a, b| a ^ b),
        ];
        for (name, f) in REDUCTIONS {
            let results = run(&format!("redux.sync.{name} %r8, %r0, -1;"), Out::R, &operands);
            for (operands, results) in by_warp(&operands, &results) {
                let expected = operands.iter().map(|x| x[0] as u32).reduce(f).expect("lanes");
                prop_assert!(results.iter().all(|&x| x == u64::from(expected)), "{}", name);
            }
        }
    }

    #[test]
    fn matches(operands in warps(), alike in any::<bool>()) {
        let operands: Vec<Operands> = if alike {
            operands.iter().map(|_| operands[0]).collect()
        } else {
            operands
        };
        for (ty, file, cut) in [("b32", 'r', u64::from(u32::MAX)), ("b64", 'q', u64::MAX)] {
            let body = format!(
                "match.all.sync.{ty} %r8|%p4, %{file}0, -1; cvt.u64.u32 %q8, %r8; @%p4 add.u64 %q8, %q8, 0x100000000;"
            );
            let results = run(&body, Out::Q, &operands);
            for (operands, results) in by_warp(&operands, &results) {
                let all = operands.iter().all(|x| x[0] & cut == operands[0][0] & cut);
                let expected = if all { 0x1_ffff_ffff } else { 0 };
                prop_assert!(results.iter().all(|&x| x == expected), "{}", body);
            }
            let results = run(&format!("match.any.sync.{ty} %r8, %{file}0, -1;"), Out::R, &operands);
            for (operands, results) in by_warp(&operands, &results) {
                for (own, got) in operands.iter().zip(results) {
                    let alike = operands.iter().rev().map(|x| u64::from(x[0] & cut == own[0] & cut));
                    prop_assert_eq!(*got, alike.fold(0, |mask, bit| mask << 1 | bit));
                }
            }
        }
    }

    /// One of the members is elected, and all are told which: PTX ISA, "elect.sync".
    #[test]
    fn elections(operands in warps(), members in 1u32..) {
        let body = format!(
            "mov.u32 %r31, %laneid; mov.b32 %r32, {members}; shr.u32 %r33, %r32, %r31; and.b32 %r33, %r33, 1;
             setp.eq.u32 %p5, %r33, 0; mov.b32 %r8, 99; @%p5 bra done;
             elect.sync %r8|%p4, %r32; @%p4 add.u32 %r8, %r8, 0x100;
             done:"
        );
        let results = run(&body, Out::R, &operands);
        for results in results.chunks(32) {
            let is_member = |lane: &usize| members >> lane & 1 == 1;
            let leaders: Vec<usize> = (0..32).filter(|&lane| results[lane] & 0x100 != 0).collect();
            prop_assert_eq!(leaders.len(), 1);
            prop_assert!(is_member(&leaders[0]));
            for (lane, got) in results.iter().enumerate() {
                let expected = if is_member(&lane) { leaders[0] as u64 } else { 99 };
                prop_assert_eq!(got & 0xff, expected);
            }
        }
    }
}
