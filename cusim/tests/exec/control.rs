//! Lanes and warps: divergence, collectives, barriers, calls.

use cusim::fault::FaultKind;

use crate::machine::{Machine, kernel};

/// Runs a body of one warp in which each lane leaves a word in %r9.
fn lanes(body: &str, seed: u64) -> Vec<u32> {
    let text = format!(
        "mov.u32 %r0, %laneid;\n{body}\nmul.wide.u32 %rd0, %r0, 4; add.u64 %rd0, %rd0, %p0;\n\
         st.global.u32 [%rd0], %r9;"
    );
    let mut machine = Machine::of(1, &text).seed(seed);
    let out = machine.alloc(128);
    machine
        .launch(32, &[out])
        .unwrap_or_else(|fault| panic!("{fault}"));
    machine.words(out, 32)
}

/// What each lane must have.
fn each(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn divergent_lanes_join_where_their_ways_meet() {
    // After the branches, all lanes vote together, whatever the schedule.
    let body = "and.b32 %r1, %r0, 3; setp.eq.u32 %q0, %r1, 0; setp.eq.u32 %q1, %r1, 1;\n\
        mov.u32 %r2, 10;\n\
        @%q0 bra A; @%q1 bra B; add.u32 %r2, %r2, 1; bra C;\n\
        A: add.u32 %r2, %r2, 5; bra C;\n\
        B: add.u32 %r2, %r2, 7;\n\
        C: activemask.b32 %r3; setp.eq.u32 %q2, %r3, 0xffffffff;\n\
        selp.u32 %r9, %r2, 0, %q2;";
    let want = each(|lane| match lane & 3 {
        0 => 15,
        1 => 17,
        _ => 11,
    });
    assert_eq!(lanes(body, 0), want);
}

#[test]
fn loops_of_different_lengths_end_together() {
    let body = "mov.u32 %r2, 0; mov.u32 %r3, 0;\n\
        L: add.u32 %r2, %r2, %r3; add.u32 %r3, %r3, 1; setp.le.u32 %q0, %r3, %r0; @%q0 bra L;\n\
        activemask.b32 %r4; setp.eq.u32 %q1, %r4, 0xffffffff; selp.u32 %r9, %r2, 0, %q1;";
    assert_eq!(lanes(body, 0), each(|lane| lane * (lane + 1) / 2));
}

#[test]
fn shuffles_stay_in_their_segments() {
    let shuffle = |mode: &str, by: &str, clamp: u32| {
        format!(
            "shfl.sync.{mode}.b32 %r9|%q0, %r0, {by}, {clamp}, 0xffffffff; @!%q0 add.u32 %r9, %r9, 100;"
        )
    };
    let bfly = lanes(&shuffle("bfly", "5", 31), 0);
    assert_eq!(bfly, each(|lane| lane ^ 5));
    let down = lanes(&shuffle("down", "3", 31), 0);
    assert_eq!(
        down,
        each(|lane| if lane + 3 < 32 { lane + 3 } else { lane + 100 })
    );
    // Segments of eight lanes: clamp 0x1807 holds the mask in bits 8 to 12.
    let up = lanes(&shuffle("up", "2", 0x1800), 0);
    assert_eq!(
        up,
        each(|lane| if lane % 8 >= 2 { lane - 2 } else { lane + 100 })
    );
    let idx = lanes(&shuffle("idx", "%r0", 0x181f), 0);
    assert_eq!(idx, each(|lane| lane));
}

#[test]
fn votes_matches_and_reductions_take_all_members() {
    let parity = "and.b32 %r1, %r0, 1; setp.eq.u32 %q0, %r1, 1;\n";
    let vote = |rest: &str| lanes(&format!("{parity}{rest}"), 0);
    assert_eq!(
        vote("vote.sync.ballot.b32 %r9, %q0, -1;"),
        each(|_| 0xaaaa_aaaa)
    );
    assert_eq!(
        vote("vote.sync.any.pred %q1, %q0, -1; selp.u32 %r9, 1, 0, %q1;"),
        each(|_| 1)
    );
    assert_eq!(
        vote("vote.sync.uni.pred %q1, %q0, -1; selp.u32 %r9, 1, 0, %q1;"),
        each(|_| 0)
    );
    assert_eq!(
        vote("match.any.sync.b32 %r9, %r1, -1;"),
        each(|lane| if lane % 2 == 1 {
            0xaaaa_aaaa
        } else {
            0x5555_5555
        })
    );
    assert_eq!(vote("redux.sync.add.s32 %r9, %r0, -1;"), each(|_| 31 * 16));
    assert_eq!(vote("redux.sync.max.u32 %r9, %r1, -1;"), each(|_| 1));
    // Each half of the warp on its own, at the same instruction.
    let halves = "setp.lt.u32 %q2, %r0, 16; selp.b32 %r2, 0x0000ffff, 0xffff0000, %q2;\n\
        redux.sync.min.u32 %r9, %r0, %r2;";
    assert_eq!(vote(halves), each(|lane| if lane < 16 { 0 } else { 16 }));
}

#[test]
fn collectives_bring_divergent_lanes_together() {
    // Half of the lanes come to the shuffle by another way, and later.
    let body = "setp.lt.u32 %q0, %r0, 16; mov.u32 %r2, 0; @%q0 bra J;\n\
        W: add.u32 %r2, %r2, 1; setp.lt.u32 %q1, %r2, 50; @%q1 bra W;\n\
        J: shfl.sync.bfly.b32 %r9, %r0, 16, 31, -1;";
    for seed in 0..8 {
        assert_eq!(lanes(body, seed), each(|lane| lane ^ 16), "seed {seed}");
    }
}

#[test]
fn lanes_that_wait_for_each_other_for_ever_are_reported() {
    let body = "mov.u32 %r0, %laneid; setp.lt.u32 %q0, %r0, 16; @%q0 bra A;\n\
        bar.warp.sync 0xffffffff; bra B;\n\
        A: bar.warp.sync 0xffffffff;\n\
        B:";
    let fault = Machine::of(0, body)
        .launch(32, &[])
        .expect_err("a deadlock");
    assert_eq!(fault.kind, FaultKind::Deadlock);
    let text = fault.to_string();
    assert!(
        text.contains("lanes 0-15") && text.contains("lanes 16-31"),
        "{text}"
    );
}

#[test]
fn a_member_that_has_exited_is_reported() {
    let body = "mov.u32 %r0, %laneid; setp.eq.u32 %q0, %r0, 3; @%q0 exit;\n\
        shfl.sync.idx.b32 %r1, %r0, 0, 31, -1;";
    let fault = Machine::of(0, body)
        .launch(32, &[])
        .expect_err("lane 3 is gone");
    assert_eq!((fault.kind, fault.lanes), (FaultKind::Undefined, 1 << 3));
}

/// Each warp hands a word to the next through shared memory.
const RING: &str = ".shared .b32 ring[4];\n\
    mov.u32 %r0, %tid.x; shr.u32 %r1, %r0, 5; mov.u32 %r2, ring; shl.b32 %r3, %r1, 2;\n\
    add.u32 %r3, %r3, %r2; mul.lo.u32 %r4, %r1, 11; st.shared.u32 [%r3], %r4;\n\
    bar.sync 0;\n\
    add.u32 %r5, %r1, 1; and.b32 %r5, %r5, 3; shl.b32 %r5, %r5, 2; add.u32 %r5, %r5, %r2;\n\
    ld.shared.u32 %r6, [%r5]; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd0, %rd0, %p0;\n\
    st.global.u32 [%rd0], %r6;";

#[test]
fn warps_meet_at_barriers_whatever_the_schedule() {
    for seed in 0..6 {
        let mut machine = Machine::of(1, RING).seed(seed);
        let out = machine.alloc(512);
        machine
            .launch(128, &[out])
            .unwrap_or_else(|fault| panic!("{fault}"));
        let want: Vec<u32> = (0..128).map(|thread| (thread / 32 + 1) % 4 * 11).collect();
        assert_eq!(machine.words(out, 128), want, "seed {seed}");
    }
}

#[test]
fn a_missing_barrier_is_a_race_in_every_schedule() {
    let body = RING.replace("bar.sync 0;", "");
    for seed in 0..6 {
        let mut machine = Machine::of(1, &body).seed(seed);
        let out = machine.alloc(512);
        let fault = machine.launch(128, &[out]).expect_err("a race");
        // A schedule may also come upon the word before it is written.
        assert!(
            matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialized),
            "{fault}"
        );
        if seed == 0 {
            assert_eq!(
                fault.kind,
                FaultKind::Uninitialized,
                "warp 0 reads before warp 1 writes"
            );
        }
    }
}

#[test]
fn exited_warps_are_not_waited_for() {
    let body = "mov.u32 %r0, %tid.x; setp.ge.u32 %q0, %r0, 64; @%q0 exit; bar.sync 0;";
    Machine::of(0, body)
        .launch(128, &[])
        .unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn a_barrier_that_too_few_come_to_is_reported() {
    let body = "mov.u32 %r0, %tid.x; setp.ge.u32 %q0, %r0, 64; @%q0 bra E; bar.sync 1, 96; E:";
    let fault = Machine::of(0, body)
        .launch(128, &[])
        .expect_err("a deadlock");
    assert_eq!(fault.kind, FaultKind::Deadlock);
    let text = fault.to_string();
    assert!(
        text.contains("expects 96 threads; 64 have arrived"),
        "{text}"
    );
}

#[test]
fn producers_arrive_and_consumers_wait() {
    // Warp 0 fills; warps 1 to 3 read after `bar.sync` that warp 0 only arrives at.
    let body = ".shared .b32 word;\n\
        mov.u32 %r0, %tid.x; setp.lt.u32 %q0, %r0, 32; @!%q0 bra C;\n\
        st.shared.u32 [word], 77; bar.arrive 2, 128; bra E;\n\
        C: bar.sync 2, 128; ld.shared.u32 %r1, [word]; mul.wide.u32 %rd0, %r0, 4;\n\
        add.u64 %rd0, %rd0, %p0; st.global.u32 [%rd0], %r1;\nE:";
    for seed in 0..4 {
        let mut machine = Machine::of(1, body).seed(seed);
        let out = machine.alloc(512);
        machine
            .launch(128, &[out])
            .unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(machine.words(out + 128, 96), vec![77; 96]);
    }
}

#[test]
fn barriers_reduce() {
    let body = "mov.u32 %r0, %tid.x; setp.lt.u32 %q0, %r0, 50; bar.red.popc.u32 %r1, 0, %q0;\n\
        bar.red.and.pred %q1, 0, %q0; bar.red.or.pred %q2, 0, %q0;\n\
        selp.u32 %r2, 100, 0, %q1; selp.u32 %r3, 1000, 0, %q2; add.u32 %r1, %r1, %r2;\n\
        add.u32 %r1, %r1, %r3; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd0, %rd0, %p0;\n\
        st.global.u32 [%rd0], %r1;";
    let mut machine = Machine::of(1, body);
    let out = machine.alloc(256);
    machine
        .launch(64, &[out])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(machine.words(out, 64), vec![1050; 64]);
}

#[test]
fn spinning_lanes_let_others_run() {
    // Lane 0 of each warp spins until the last warp has set the flag.
    let body = ".shared .b32 flag;\n\
        mov.u32 %r0, %tid.x; setp.eq.u32 %q0, %r0, 0; @%q0 st.shared.u32 [flag], 0; bar.sync 0;\n\
        setp.eq.u32 %q1, %r0, 96; @!%q1 bra S; atom.shared.exch.b32 %r1, [flag], 1;\n\
        S: and.b32 %r2, %r0, 31; setp.ne.u32 %q2, %r2, 0; @%q2 bra E;\n\
        L: atom.shared.or.b32 %r3, [flag], 0; setp.eq.u32 %q3, %r3, 0; @%q3 bra L;\nE:";
    for seed in 0..3 {
        let result = Machine::of(0, body).seed(seed).launch(128, &[]);
        result.unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn a_lane_that_holds_a_lock_is_not_starved_by_those_that_want_it() {
    let body = ".shared .b32 lock; .shared .b32 sum;\n\
        mov.u32 %r0, %tid.x; setp.eq.u32 %q0, %r0, 0; @%q0 st.shared.u32 [lock], 0;\n\
        @%q0 st.shared.u32 [sum], 0; bar.sync 0;\n\
        L: atom.shared.acquire.cta.cas.b32 %r1, [lock], 0, 1; setp.ne.u32 %q1, %r1, 0; @%q1 bra L;\n\
        ld.shared.u32 %r2, [sum]; add.u32 %r2, %r2, %r0; st.shared.u32 [sum], %r2;\n\
        atom.shared.release.cta.exch.b32 %r3, [lock], 0;\n\
        bar.sync 0; ld.shared.u32 %r4, [sum]; @%q0 st.global.u32 [%p0], %r4;";
    for seed in 0..3 {
        let mut machine = Machine::of(1, body).seed(seed);
        let out = machine.alloc(4);
        machine
            .launch(64, &[out])
            .unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(machine.words(out, 1), [63 * 32]);
    }
}

#[test]
fn branch_tables_go_to_every_target() {
    let body = "T: .branchtargets A, B, C;\nand.b32 %r1, %r0, 1; mov.u32 %r9, 0;\n\
        setp.gt.u32 %q0, %r0, 20; @%q0 mov.u32 %r1, 2;\n\
        brx.idx %r1, T;\nA: mov.u32 %r9, 5; bra D;\nB: mov.u32 %r9, 6; bra D;\nC: mov.u32 %r9, 7;\nD:";
    let want = each(|lane| if lane > 20 { 7 } else { 5 + lane % 2 });
    assert_eq!(lanes(body, 0), want);
}

/// A function with a loop and two ways to return, called twice, once under a guard.
#[test]
fn calls_take_and_return_values() {
    let function = ".func (.param .b32 result) power(.param .b32 base, .param .b32 n)\n{\n\
        .reg .b32 %r<5>; .reg .pred %q;\n\
        ld.param.u32 %r0, [base]; ld.param.u32 %r1, [n]; mov.u32 %r2, 1;\n\
        L: setp.eq.u32 %q, %r1, 0; @%q bra E; mul.lo.u32 %r2, %r2, %r0; sub.u32 %r1, %r1, 1; bra L;\n\
        E: st.param.b32 [result], %r2; ret;\n}\n";
    let call = |to: &str, base: &str, n: &str, guard: &str| {
        format!(
            "{{ .param .b32 a; st.param.b32 [a], {base}; .param .b32 b; st.param.b32 [b], {n};\n\
             .param .b32 c; st.param.b32 [c], 0; {guard} call (c), power, (a, b);\n\
             ld.param.b32 {to}, [c]; }}\n"
        )
    };
    let body = format!(
        "mov.u32 %r0, %laneid; and.b32 %r1, %r0, 7; setp.lt.u32 %q0, %r0, 8;\n{}{}\
         add.u32 %r9, %r9, %r8; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd0, %rd0, %p0;\n\
         st.global.u32 [%rd0], %r9;",
        call("%r9", "3", "%r1", ""),
        call("%r8", "%r1", "2", "@%q0"),
    );
    let text = kernel(1, &body).replace(".visible .entry", &format!("{function}.visible .entry"));
    let mut machine = Machine::new(&text);
    let out = machine.alloc(128);
    machine
        .launch(32, &[out])
        .unwrap_or_else(|fault| panic!("{fault}"));
    let want = each(|lane| {
        let n = lane % 8;
        3u32.pow(n) + if lane < 8 { n * n } else { 0 }
    });
    assert_eq!(machine.words(out, 32), want);
}

/// Two functions through a table of their addresses.
#[test]
fn calls_go_through_pointers() {
    let function = |name: &str, operation: &str| {
        format!(
            ".func (.param .b32 result) {name}(.param .b32 x)\n{{ .reg .b32 %r<3>;\n\
             ld.param.u32 %r0, [x]; {operation} %r1, %r0, 5; st.param.b32 [result], %r1; ret; }}\n"
        )
    };
    let functions = function("plus", "add.u32") + &function("times", "mul.lo.u32");
    let table = ".global .align 8 .u64 table[2] = {plus, times};\n";
    let body = "mov.u32 %r0, %laneid; and.b32 %r1, %r0, 1; mul.wide.u32 %rd0, %r1, 8;\n\
        mov.u64 %rd1, table; add.u64 %rd1, %rd1, %rd0; ld.global.u64 %rd2, [%rd1];\n\
        { .param .b32 a; st.param.b32 [a], %r0; .param .b32 b;\n\
        P: .callprototype (.param .b32 _) _ (.param .b32 _);\n\
        call (b), %rd2, (a), P; ld.param.b32 %r9, [b]; }\n\
        mul.wide.u32 %rd3, %r0, 4; add.u64 %rd3, %rd3, %p0; st.global.u32 [%rd3], %r9;";
    let text = kernel(1, body).replace(
        ".visible .entry",
        &format!("{functions}{table}.visible .entry"),
    );
    let mut machine = Machine::new(&text);
    let out = machine.alloc(128);
    machine
        .launch(32, &[out])
        .unwrap_or_else(|fault| panic!("{fault}"));
    let want = each(|lane| if lane % 2 == 0 { lane + 5 } else { lane * 5 });
    assert_eq!(machine.words(out, 32), want);
}
