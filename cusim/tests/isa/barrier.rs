//! Barriers of blocks, `mbarrier` objects and asynchronous copies.

use cusim::fault::FaultKind;
use cusim::program::opcodes;
use proptest::prelude::*;

use crate::harness::{Operands, Out, config, integers, run, try_run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    barriers_order_a_block,
    arrivals_are_waited_for,
    reductions_take_all_threads,
    objects_count_arrivals,
    objects_forget_who_drops_out,
    copies_land,
    copies_arrive,
    traps,
];

/// Every mnemonic of an opcode: plain, and with each of its options.
fn mnemonics(opcode: &str, second: &str) -> Vec<String> {
    let mut all = Vec::new();
    for form in opcodes() {
        let mut parts = form.name.split('.').skip(1);
        if form.name.split('.').next() != Some(opcode) || parts.next() != Some(second) {
            continue;
        }
        let rest = &form.name[opcode.len()..];
        all.push(form.name.clone());
        all.extend(
            form.options
                .iter()
                .map(|option| format!("{opcode}{rest}.{option}")),
        );
    }
    // Types stand last, as in the ISA.
    all.into_iter().map(|name| type_last(&name)).collect()
}

fn type_last(mnemonic: &str) -> String {
    let (types, others): (Vec<_>, Vec<_>) = mnemonic
        .split('.')
        .partition(|part| matches!(*part, "b64" | "u32" | "pred"));
    [others, types].concat().join(".")
}

/// Blocks of a few whole warps.
fn blocks() -> impl Strategy<Value = Vec<Operands>> {
    (1usize..4).prop_flat_map(|warps| proptest::collection::vec(any::<Operands>(), 32 * warps))
}

/// Lines that leave in `%r31` where this thread's 16 bytes of shared memory are, and in `%q10` the same as a generic
/// address; the 8 bytes at `%r33` and `%q11` are this thread's too.
const PLACE: &str =
    "shl.b32 %r31, %r30, 4; mov.b32 %r32, tile; add.u32 %r31, %r31, %r32; add.u32 %r33, %r31, 8192;
    cvt.u64.u32 %q10, %r31; cvta.shared.u64 %q10, %q10; add.u64 %q11, %q10, 8192;";

/// The register with the address of an `mbarrier` object, for a mnemonic.
fn object(mnemonic: &str) -> &'static str {
    if mnemonic.contains(".shared") {
        "%r33"
    } else {
        "%q11"
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn barriers_order_a_block(operands in blocks()) {
        for mnemonic in [mnemonics("bar", "sync"), mnemonics("barrier", "sync")].concat() {
            let last = operands.len() - 1;
            let body = format!(
                "{PLACE} st.shared.b64 [%r31], %q0; {mnemonic} 1;
                 sub.u32 %r34, {last}, %r30; shl.b32 %r34, %r34, 4; add.u32 %r34, %r34, %r32;
                 ld.shared.b64 %q8, [%r34];"
            );
            let results = run(&body, Out::Q, &operands);
            for (other, got) in operands.iter().rev().zip(results) {
                prop_assert_eq!(got, other[0], "{}", &mnemonic);
            }
        }
    }

    /// The first warp writes and goes on; the others wait for it.
    #[test]
    fn arrivals_are_waited_for(
        operands in (2usize..4)
            .prop_flat_map(|warps| proptest::collection::vec(any::<Operands>(), 32 * warps)),
    ) {
        for mnemonic in [mnemonics("bar", "arrive"), mnemonics("barrier", "arrive")].concat() {
            let count = operands.len();
            let wait = mnemonic.replace("arrive", "sync");
            let body = format!(
                "{PLACE} setp.lt.u32 %p5, %r30, 32; mov.b64 %q8, %q0; @!%p5 bra other;
                 setp.eq.u32 %p6, %r30, 0; @%p6 st.shared.b64 [tile], %q0; {mnemonic} 3, {count}; bra done;
                 other: {wait} 3, {count}; ld.shared.b64 %q8, [tile];
                 done:"
            );
            for (thread, got) in run(&body, Out::Q, &operands).into_iter().enumerate() {
                let from = if thread < 32 { thread } else { 0 };
                prop_assert_eq!(got, operands[from][0], "{}", &mnemonic);
            }
        }
    }

    #[test]
    fn reductions_take_all_threads(operands in blocks(), alike in any::<bool>()) {
        let operands: Vec<Operands> = operands
            .iter()
            .map(|own| if alike { operands[0] } else { *own })
            .collect();
        let holding = operands.iter().filter(|own| own[0] & 1 == 1).count();
        for mnemonic in [mnemonics("bar", "red"), mnemonics("barrier", "red")].concat() {
            let (dest, out, want) = match &mnemonic {
                name if name.contains("popc") => ("%r8", Out::R, holding),
                name if name.contains(".and") => ("%p4", Out::P, usize::from(holding == operands.len())),
                _ => ("%p4", Out::P, usize::from(holding > 0)),
            };
            let results = run(&format!("{mnemonic} {dest}, 2, %p0;"), out, &operands);
            prop_assert!(results.iter().all(|got| *got == want as u64), "{}", &mnemonic);
        }
    }

    /// An object of each thread's own goes through two phases: three arrivals each, of which it tells.
    #[test]
    fn objects_count_arrivals(operands in proptest::collection::vec(Just([0u64; 4]), 1..40)) {
        let inits = mnemonics("mbarrier", "init");
        let arrives = mnemonics("mbarrier", "arrive");
        let waits = [mnemonics("mbarrier", "test_wait"), mnemonics("mbarrier", "try_wait")].concat();
        let invals = mnemonics("mbarrier", "inval");
        let most = inits.len().max(arrives.len()).max(waits.len()).max(invals.len());
        for at in 0..most {
            let of = |all: &[String]| all[at % all.len()].clone();
            let (init, arrive, wait, inval) = (of(&inits), of(&arrives), of(&waits), of(&invals));
            // Of .noComplete, arrivals that end no phase, with their number.
            let one = if arrive.contains("noComplete") { ", 1" } else { "" };
            let [of_init, of_arrive, of_wait, of_inval] = [&init, &arrive, &wait, &inval].map(|name| object(name));
            let test = |state: &str, parity: u32, bit: u32| {
                let phase = if wait.contains("parity") { parity.to_string() } else { state.to_owned() };
                format!("{wait} %p4, [{of_wait}], {phase}; selp.b32 %r34, {}, 0, %p4; or.b32 %r8, %r8, %r34;\n", 1 << bit)
            };
            let body = format!(
                "{PLACE} mov.b32 %r8, 0;
                 {init} [{of_init}], 3;
                 {arrive} %q12, [{of_arrive}]{one};
                 mbarrier.pending_count.b64 %r35, %q12; shl.b32 %r35, %r35, 8; or.b32 %r8, %r8, %r35;
                 {} mbarrier.arrive.shared.b64 %q13, [%r33], 2;
                 mbarrier.pending_count.b64 %r35, %q13; shl.b32 %r35, %r35, 12; or.b32 %r8, %r8, %r35;
                 {} {} {inval} [{of_inval}]; {init} [{of_init}], 1;
                 mbarrier.arrive.shared.b64 %q14, [%r33]; {}",
                test("%q12", 0, 0), test("%q12", 0, 1), test("%q13", 1, 2), test("%q14", 0, 3)
            );
            // After one arrival the phase goes on; after three it is over, and the one before it was over from the start.
            let before = if wait.contains("parity") { 0 } else { 1 << 2 };
            let want = 2 | before | 1 << 3 | 3 << 8 | 2 << 12;
            for got in run(&body, Out::R, &operands) {
                prop_assert_eq!(got, want, "{} {} {} {}", &init, &arrive, &wait, &inval);
            }
        }
    }

    /// Who drops out is not expected in the next phase.
    #[test]
    fn objects_forget_who_drops_out(operands in proptest::collection::vec(Just([0u64; 4]), 1..40)) {
        for drop in mnemonics("mbarrier", "arrive_drop") {
            let one = if drop.contains("noComplete") { ", 1" } else { "" };
            let body = format!(
                "{PLACE} mbarrier.init.shared.b64 [%r33], 3; {drop} %q12, [{}]{one};
                 mbarrier.arrive.shared.b64 %q13, [%r33], 2; mbarrier.arrive.shared.b64 %q14, [%r33];
                 mbarrier.pending_count.b64 %r8, %q14;",
                object(&drop)
            );
            prop_assert!(run(&body, Out::R, &operands).iter().all(|got| *got == 2), "{}", &drop);
        }
    }

    #[test]
    fn copies_land(operands in proptest::collection::vec(any::<Operands>(), 1..40)) {
        let forms = opcodes().filter(|form| form.name.starts_with("cp.async.c"));
        let forms = forms.filter(|form| form.name.contains(".global"));
        for form in forms {
            let plain = std::iter::once(form.name.clone());
            let with = form.options.iter().map(|option| format!("{}.{option}", form.name));
            for mnemonic in plain.chain(with) {
                let hint = if mnemonic.contains("cache_hint") { ", %q9" } else { "" };
                for size in if mnemonic.contains(".cg.") { &[16][..] } else { &[4, 8, 16] } {
                    for kept in [*size, size / 2] {
                        let fewer = if kept == *size { String::new() } else { format!(", {kept}") };
                        let body = format!(
                            "{PLACE} mov.b64 %q9, 0; st.shared.v2.b64 [%r31], {{%q9, %q9}};
                             {mnemonic} [%r31], [%in], {size}{fewer}{hint}; cp.async.wait_all;
                             ld.shared.b64 %q8, [%r31];"
                        );
                        let bits = 8 * kept.min(8);
                        for ([a, ..], got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                            prop_assert_eq!(got, a & u64::MAX >> (64 - bits), "{}", &body);
                        }
                    }
                }
            }
        }
    }

    /// The arrival of a copy ends a phase, for which without .noinc it counts itself in.
    #[test]
    fn copies_arrive(operands in proptest::collection::vec(any::<Operands>(), 1..40)) {
        for mnemonic in mnemonics("cp", "async").iter().filter(|name| name.contains("mbarrier")) {
            let [init, further] = if mnemonic.contains("noinc") { [2, 1] } else { [1, 1] };
            let body = format!(
                "{PLACE} mbarrier.init.shared.b64 [%r33], {init};
                 cp.async.ca.shared.global [%r31], [%in], 8; {mnemonic} [{}];
                 mbarrier.test_wait.parity.shared.b64 %p5, [%r33], 0;
                 mbarrier.arrive.shared.b64 _, [%r33], {further};
                 mbarrier.test_wait.parity.shared.b64 %p6, [%r33], 0;
                 ld.shared.b64 %q8, [%r31]; @%p5 mov.b64 %q8, 0; @!%p6 mov.b64 %q8, 1;",
                object(mnemonic)
            );
            for ([a, ..], got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                prop_assert_eq!(got, *a, "{}", &body);
            }
        }
    }

    /// Without a debugger, a breakpoint ends the kernel as a trap does.
    #[test]
    fn traps(operands in integers()) {
        for mnemonic in ["trap", "brkpt"] {
            let fault = try_run(&format!("{mnemonic};"), Out::R, &operands);
            prop_assert_eq!(fault.expect_err("a trap").kind, FaultKind::Trap);
        }
    }
}
