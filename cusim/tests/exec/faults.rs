//! Kernels that do what they must not, and what the report says.

use cusim::exec::Checks;
use cusim::fault::{Fault, FaultKind};

use crate::machine::{Machine, kernel};

fn fault(body: &str, block: u32, params: &[u64]) -> Box<Fault> {
    Machine::of(params.len(), body)
        .launch(block, params)
        .expect_err(body)
}

const TID: &str = "mov.u32 %r0, %tid.x; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd1, %rd0, %p0;\n";

#[test]
fn a_read_past_the_end_names_lanes_and_allocation() {
    let mut machine = Machine::of(1, &format!("{TID}ld.global.u32 %r1, [%rd1];"));
    let short = machine.upload(&[1u32; 30], u32::to_le_bytes);
    let fault = machine
        .launch(32, &[short])
        .expect_err("two lanes too many");
    assert_eq!(fault.kind, FaultKind::IllegalAddress);
    assert_eq!(
        (fault.lanes, fault.address),
        (0b11 << 30, Some(short + 120))
    );
    let text = fault.to_string();
    for part in [
        "lanes 30-31",
        "4 bytes at",
        "0 bytes past the end of",
        "120 bytes",
        "cuMemAlloc",
        "ld.global.u32 %r1, [%rd1]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn freed_null_and_misaligned_addresses_are_told_apart() {
    let load = format!("{TID}ld.global.u32 %r1, [%rd1];");
    let mut machine = Machine::of(1, &load);
    let gone = machine.upload(&[1u32; 32], u32::to_le_bytes);
    machine.memory.free(gone).expect("an allocation");
    let freed = machine.launch(32, &[gone]).expect_err("freed");
    assert!(
        freed.kind == FaultKind::IllegalAddress && freed.to_string().contains("freed"),
        "{freed}"
    );
    let null = fault(&load.replace(".global", ""), 32, &[0]);
    assert!(
        null.kind == FaultKind::IllegalAddress && null.to_string().contains("null"),
        "{null}"
    );
    let mut machine = Machine::of(1, "ld.global.v2.u32 {%r1, %r2}, [%p0];");
    let odd = machine.upload(&[1u32; 32], u32::to_le_bytes) + 4;
    let odd = machine.launch(1, &[odd]).expect_err("four bytes off");
    assert_eq!((odd.kind, odd.lanes), (FaultKind::MisalignedAddress, 1));
}

#[test]
fn every_space_has_its_bounds() {
    for (body, space) in [
        (
            ".shared .b32 a[4]; mov.u32 %r1, a; st.shared.u32 [%r1+16], %r1;",
            "shared",
        ),
        (
            ".local .b32 a[4]; mov.u64 %rd1, a; st.local.u32 [%rd1+16], %r1;",
            "local",
        ),
        ("ld.param.u32 %r1, [p0+8];", "parameter"),
    ] {
        let fault = fault(body, 32, &[0]);
        assert_eq!(fault.kind, FaultKind::IllegalAddress, "{fault}");
        assert!(fault.to_string().contains(space), "{fault}");
    }
}

#[test]
fn reading_what_nobody_wrote_is_a_fault_in_every_memory() {
    for (body, space) in [
        (".shared .b32 a[4]; ld.shared.u32 %r1, [a+4];", "shared"),
        (
            ".local .b32 a[4]; st.local.u32 [a], 1; ld.local.u64 %rd1, [a];",
            "local",
        ),
        (
            "st.global.u16 [%p0], %h1; ld.global.u32 %r1, [%p0];",
            "global",
        ),
    ] {
        let run = |init: bool| {
            let checks = Checks {
                init,
                ..Checks::default()
            };
            let mut machine = Machine::of(1, body).checks(checks);
            let fresh = machine.alloc(64);
            machine.launch(1, &[fresh])
        };
        let fault = run(true).expect_err(space);
        assert_eq!(fault.kind, FaultKind::Uninitialized, "{fault}");
        assert!(fault.to_string().contains(space), "{fault}");
        run(false).unwrap_or_else(|fault| panic!("unchecked: {fault}"));
    }
}

#[test]
fn the_target_of_a_copy_is_untouchable_until_waited_for() {
    let body = |between: &str| {
        format!(
            ".shared .align 16 .b8 tile[512];\n\
             mov.u32 %r0, %laneid; mul.wide.u32 %rd0, %r0, 16; add.u64 %rd1, %rd0, %p0;\n\
             mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2;\n\
             cp.async.cg.shared.global [%r1], [%rd1], 16;\n{between}"
        )
    };
    let run = |between: &str| {
        let mut machine = Machine::of(1, &body(between));
        let source = machine.upload(&[7u32; 128], u32::to_le_bytes);
        machine.launch(32, &[source])
    };
    for between in [
        "ld.shared.u32 %r3, [%r1+4];",
        "cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r3, [%r1];",
        "cp.async.wait_group 0; ld.shared.u32 %r3, [%r1];",
        "cp.async.commit_group; st.shared.u32 [%r1], %r0;",
    ] {
        let fault = run(between).expect_err(between);
        assert_eq!(fault.kind, FaultKind::AsyncPending, "{between}: {fault}");
        let (copy, _) = fault.other.as_ref().expect("the copy");
        assert!(copy.instruction.starts_with("cp.async.cg"), "{fault}");
    }
    for between in [
        "cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r3, [%r1];",
        "cp.async.wait_all; ld.shared.u32 %r3, [%r1];",
        "cp.async.wait_all; bar.warp.sync -1; xor.b32 %r4, %r1, 16; ld.shared.u32 %r3, [%r4];",
    ] {
        run(between).unwrap_or_else(|fault| panic!("{between}: {fault}"));
    }
}

#[test]
fn a_race_names_both_accesses_with_their_sources() {
    let body = ".shared .b32 word;\n\
        mov.u32 %r0, %tid.x; setp.lt.u32 %q0, %r0, 32;\n\
        .loc 1 10 1\n@%q0 st.shared.u32 [word], 1;\n\
        .loc 1 12 1\n@!%q0 ld.shared.u32 %r1, [word];";
    let text = kernel(0, body).replace(".visible", ".file 1 \"race.cu\"\n.visible");
    let fault = Machine::new(&text).launch(64, &[]).expect_err("two warps");
    assert_eq!((fault.kind, fault.warp), (FaultKind::Race, 1));
    let text = fault.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(text.matches("race.cu:1").count() == 2, "{text}");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("against `@%q0 st.shared.u32 [word], 1` at race.cu:10")),
        "{text}"
    );
    assert!(text.contains("warp 0") && text.contains("warp 1"), "{text}");
}

/// A store of each lane of a warp to its own word, something, and a load of what its neighbour stored.
fn neighbours(between: &str) -> Result<(), Box<Fault>> {
    let body = format!(
        ".shared .b32 tile[32]; .shared .b64 bar; .shared .b32 flag;\n\
         mov.u32 %r0, %laneid; mov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.u32 %r2, %r1, %r2;\n\
         setp.eq.u32 %q0, %r0, 0; @%q0 mbarrier.init.shared.b64 [bar], 32;\n\
         @%q0 st.shared.u32 [flag], 0; bar.warp.sync -1;\n\
         st.shared.u32 [%r2], %r0;\n{between}\n\
         xor.b32 %r3, %r2, 4; ld.shared.u32 %r4, [%r3];"
    );
    Machine::of(0, &body).launch(32, &[]).map(|_| ())
}

#[test]
fn only_what_orders_memory_orders_lanes() {
    for between in [
        "bar.warp.sync -1;",
        "bar.sync 0;",
        "barrier.sync 0;",
        "bar.red.popc.u32 %r5, 0, %q0;",
        "membar.cta; atom.shared.add.u32 %r5, [flag], 1; membar.cta;",
        "mbarrier.arrive.shared.b64 %rd1, [bar];\n\
         L: mbarrier.test_wait.shared.b64 %q1, [bar], %rd1; @!%q1 bra L;",
        "and.b32 %r5, %r0, 2; setp.eq.u32 %q1, %r5, 0; @%q1 bra A;\n\
         bar.warp.sync 0xcccccccc; bra B;\nA: bar.warp.sync 0x33333333;\nB:",
    ] {
        neighbours(between).unwrap_or_else(|fault| panic!("{between}: {fault}"));
    }
    for between in [
        "",
        "shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1;",
        "vote.sync.any.pred %q1, %q0, -1;",
        "match.any.sync.b32 %r5, %r0, -1;",
        "redux.sync.add.u32 %r5, %r0, -1;",
        "activemask.b32 %r5;",
        "mov.u32 %r5, 0; st.volatile.shared.u32 [flag], %r5;",
        "and.b32 %r5, %r0, 1; setp.eq.u32 %q1, %r5, 0; @%q1 bra A;\n\
         bar.warp.sync 0xaaaaaaaa;\nA:",
    ] {
        let fault = neighbours(between).expect_err(between);
        assert_eq!(fault.kind, FaultKind::Race, "{between}: {fault}");
        assert!(fault.to_string().contains("warp 0, lane 1\n"), "{fault}");
    }
}

#[test]
fn traps_and_wrong_uses_are_reported() {
    assert_eq!(fault("trap;", 32, &[]).kind, FaultKind::Trap);
    let stray = fault(
        "mov.u32 %r0, %laneid; shfl.sync.idx.b32 %r1, %r0, 0, 31, 0xffff;",
        32,
        &[],
    );
    assert_eq!(
        (stray.kind, stray.lanes),
        (FaultKind::Undefined, 1 << 16),
        "{stray}"
    );
    let id = fault("mov.u32 %r0, 16; bar.sync %r0;", 32, &[]);
    assert_eq!(id.kind, FaultKind::Undefined, "{id}");
}

#[test]
fn spinning_for_ever_ends() {
    let text = fault("mov.u32 %r0, 0; L: add.u32 %r0, %r0, 1; bra L;", 32, &[]);
    assert_eq!(text.kind, FaultKind::Deadlock, "{text}");
}

#[test]
fn the_read_before_a_swap_does_not_race_with_swaps() {
    // Every thread adds one to a half of a word, as CUDA's headers do where there is no instruction for it.
    let add = "ld.global.u16 %h0, [%p0];\nL: add.u16 %h1, %h0, 1;\natom.global.cas.b16 %h2, [%p0], %h0, %h1;\n\
        setp.ne.s16 %q0, %h2, %h0; mov.u16 %h0, %h2; @%q0 bra L;";
    let mut machine = Machine::of(1, add);
    let sum = machine.upload(&[0u16; 1], u16::to_le_bytes);
    machine
        .launch(96, &[sum])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(machine.download(sum, 2), 96u16.to_le_bytes());

    // The same sum read through another register afterwards, with nothing that orders it.
    let read = format!("{add}\nadd.u64 %rd0, %p0, 0; ld.global.u16 %h3, [%rd0];");
    let mut machine = Machine::of(1, &read);
    let sum = machine.upload(&[0u16; 1], u16::to_le_bytes);
    let fault = machine.launch(96, &[sum]).expect_err("a race");
    assert_eq!(fault.kind, FaultKind::Race, "{fault}");
}
