//! Blocks of a launch: on any number of threads, handing work to each other, and all at once.

use cusim::exec::Counters;
use cusim::fault::{Fault, FaultKind};

use crate::machine::{Machine, kernel};

const BLOCKS: &str = include_str!("../fixtures/blocks.ptx");
const GRID: u32 = 8;

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A fixture with the result it must give.
struct Pattern {
    name: &'static str,
    run: fn(&mut Machine) -> Result<Counters, Box<Fault>>,
}

const PATTERNS: [Pattern; 4] = [
    Pattern {
        name: "last_block",
        run: |machine| {
            let input = machine.upload(&[0.5f32; 64 * GRID as usize], f32::to_le_bytes);
            let parts = machine.alloc(4 * u64::from(GRID));
            let count = machine.upload(&[0u32], u32::to_le_bytes);
            let out = machine.alloc(4);
            let params = bytes(&[input, parts, count, out]);
            let counters = machine.launch_named("last_block", (GRID, 64, 0), &params)?;
            let sum = f32::from_bits(machine.words(out, 1)[0]);
            assert_eq!(sum, 32.0 * GRID as f32);
            Ok(counters)
        },
    },
    Pattern {
        name: "semaphore",
        run: |machine| {
            let input = machine.upload(&[0.5f32; 64 * GRID as usize], f32::to_le_bytes);
            let out = machine.alloc(4 * 64);
            let turn = machine.upload(&[0u32], u32::to_le_bytes);
            let params = bytes(&[input, out, turn]);
            let counters = machine.launch_named("semaphore", (GRID, 64, 0), &params)?;
            assert_eq!(machine.words(out, 64), [(0.5 * GRID as f32).to_bits(); 64]);
            Ok(counters)
        },
    },
    Pattern {
        name: "look_back",
        run: |machine| {
            let input = machine.upload(&[1u32; 64 * GRID as usize], u32::to_le_bytes);
            let sums = machine.alloc(4 * u64::from(GRID));
            let ready = machine.upload(&[0u32; GRID as usize], u32::to_le_bytes);
            let out = machine.alloc(4 * 64 * u64::from(GRID));
            let params = bytes(&[input, sums, ready, out]);
            let counters = machine.launch_named("look_back", (GRID, 64, 0), &params)?;
            let sums: Vec<u32> = (1..=GRID).map(|block| 64 * block).collect();
            assert_eq!(machine.words(params_word(&params, 1), GRID as usize), sums);
            Ok(counters)
        },
    },
    Pattern {
        name: "all_meet",
        run: |machine| {
            machine.cooperative = true;
            let words = machine.alloc(4 * 64 * u64::from(GRID));
            let out = machine.alloc(4 * 64 * u64::from(GRID));
            let params = bytes(&[words, out]);
            let counters = machine.launch_named("all_meet", (GRID, 64, 0), &params)?;
            let count = 64 * GRID;
            let want: Vec<u32> = (0..count).map(|at| (at + 64) % count + 2).collect();
            assert_eq!(machine.words(out, count as usize), want);
            Ok(counters)
        },
    },
];

fn params_word(params: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(params[8 * at..8 * at + 8].try_into().expect("eight bytes"))
}

fn pattern(name: &str) -> &'static Pattern {
    let found = PATTERNS.iter().find(|pattern| pattern.name == name);
    found.expect("a pattern of this name")
}

fn run(text: &str, name: &str, seed: u64) -> Result<Counters, Box<Fault>> {
    (pattern(name).run)(&mut Machine::new(text).seed(seed))
}

/// The fixture with line number `at`, from 0, of those of a kernel that contain `find` changed.
fn changed(name: &str, find: &str, replace: &str, at: usize) -> String {
    let entry = format!(".entry {name}(");
    let (start, _) = BLOCKS.match_indices(&entry).next().expect("the kernel");
    let length = BLOCKS[start..].find("\n}\n").expect("its end");
    let mut found = BLOCKS[start..start + length].match_indices(find);
    let (offset, _) = found.nth(at).expect("a line with it");
    let (before, after) = BLOCKS.split_at(start + offset);
    format!("{before}{replace}{}", &after[find.len()..])
}

#[test]
fn blocks_that_order_their_accesses_are_clean() {
    for pattern in &PATTERNS {
        for seed in 0..4 {
            let outcome = run(BLOCKS, pattern.name, seed);
            outcome.unwrap_or_else(|fault| panic!("{}, seed {seed}: {fault}", pattern.name));
        }
    }
}

#[test]
fn every_fence_between_blocks_is_missed_where_it_is_not() {
    let cases = [
        ("last_block", "membar.gl;", "", 0),
        ("last_block", "membar.gl;", "membar.cta;", 0),
        ("last_block", "membar.gl;", "", 1),
        ("last_block", "membar.gl;", "membar.cta;", 1),
        ("semaphore", "ld.acquire.gpu", "ld.relaxed.gpu", 0),
        ("semaphore", "st.release.gpu", "st.relaxed.gpu", 0),
        ("semaphore", "ld.acquire.gpu", "ld.acquire.cta", 0),
        ("semaphore", "st.release.gpu", "st.release.cta", 0),
        ("look_back", "membar.gl;", "", 0),
        ("look_back", "membar.gl;", "", 1),
        ("look_back", "membar.gl;", "fence.acq_rel.cta;", 1),
        ("look_back", "ld.volatile.global", "ld.global", 0),
        ("look_back", "st.volatile.global", "st.global", 0),
        (
            "all_meet",
            "atom.add.release.gpu",
            "atom.add.relaxed.gpu",
            0,
        ),
        (
            "all_meet",
            "atom.add.release.gpu",
            "atom.add.release.cta",
            0,
        ),
        ("all_meet", "ld.acquire.gpu", "ld.relaxed.gpu", 1),
        ("all_meet", "ld.acquire.gpu", "ld.acquire.cta", 1),
    ];
    for (name, find, replace, at) in cases {
        for seed in 0..4 {
            let text = changed(name, find, replace, at);
            let fault = run(&text, name, seed).expect_err("a race");
            let what = format!("{name} with `{replace}` for `{find}`, seed {seed}: {fault}");
            assert_eq!(fault.kind, FaultKind::Race, "{what}");
            let (site, who) = fault.other.as_ref().expect("the other access");
            assert!(who.starts_with("CTA ("), "{what}");
            assert!(
                site.source.is_some() && fault.site.source.is_some(),
                "{what}"
            );
            assert!(what.contains("the allocation of"), "{what}");
        }
    }
}

#[test]
fn blocks_that_wait_for_later_ones_must_be_launched_together() {
    let mut machine = Machine::new(BLOCKS);
    let out = machine.alloc(4 * 64 * u64::from(GRID));
    let fault = machine
        .launch_named("all_meet", (GRID, 64, 0), &bytes(&[out, out]))
        .expect_err("no workspace");
    assert_eq!(fault.kind, FaultKind::Trap, "{fault}");
}

#[test]
fn atomics_race_with_plain_accesses_of_other_blocks_only() {
    let body = |second: &str| {
        let rest = format!(
            "mov.u32 %r0, %ctaid.x; setp.eq.u32 %q0, %r0, 0; mov.u32 %r1, 1;\n\
             @%q0 bra A;\n{second}\nbra B;\n\
             A: atom.global.add.u32 %r2, [%p0], %r1;\nB:"
        );
        let mut machine = Machine::new(&kernel(1, &rest));
        let word = machine.upload(&[0u32, 0], u32::to_le_bytes);
        machine.launch_named("k", (2, 1, 0), &bytes(&[word]))
    };
    body("atom.global.add.u32 %r2, [%p0], %r1;").expect("both atomic");
    body("ld.relaxed.gpu.global.u32 %r2, [%p0];").expect("both strong");
    body("st.global.u32 [%p0+4], %r1;").expect("the next word");
    for plain in ["st.global.u32 [%p0], %r1;", "ld.global.u32 %r2, [%p0];"] {
        let fault = body(plain).expect_err("a race");
        assert_eq!((fault.kind, fault.cta), (FaultKind::Race, [1, 0, 0]));
    }
}

/// Each block of 64 threads reads what it was given, goes around a loop as often as it likes, and writes.
const SCRAMBLE: &str = "mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; shl.b32 %r2, %r1, 6; add.u32 %r2, %r2, %r0;\n\
    .shared .b32 tile[64]; mul.wide.u32 %rd0, %r2, 4; add.u64 %rd1, %rd0, %p0; add.u64 %rd2, %rd0, %p1;\n\
    ld.global.u32 %r3, [%rd1]; and.b32 %r4, %r2, 15;\n\
    L: mad.lo.u32 %r3, %r3, 1664525, 1013904223; sub.u32 %r4, %r4, 1; setp.ge.s32 %q0, %r4, 0; @%q0 bra L;\n\
    mov.u32 %r5, tile; shl.b32 %r6, %r0, 2; add.u32 %r6, %r5, %r6; st.shared.u32 [%r6], %r3; bar.sync 0;\n\
    xor.b32 %r7, %r0, 33; shl.b32 %r7, %r7, 2; add.u32 %r7, %r5, %r7; ld.shared.u32 %r8, [%r7];\n\
    st.global.u32 [%rd2], %r8;";

fn scramble(seed: u64, threads: usize) -> (Vec<u32>, Counters) {
    let mut machine = Machine::of(2, SCRAMBLE).seed(seed);
    machine.options.threads = threads;
    let count = 64 * 100;
    let numbers: Vec<u32> = (0..count).collect();
    let input = machine.upload(&numbers, u32::to_le_bytes);
    let out = machine.alloc(4 * u64::from(count));
    let counters = machine.launch_named("k", (100, 64, 0), &bytes(&[input, out]));
    let counters = counters.unwrap_or_else(|fault| panic!("{fault}"));
    (machine.words(out, count as usize), counters)
}

#[test]
fn results_and_counters_do_not_depend_on_threads() {
    for seed in 0..4 {
        let alone = scramble(seed, 1);
        for threads in [2, 3, 8, 0] {
            assert_eq!(
                scramble(seed, threads),
                alone,
                "seed {seed}, {threads} threads"
            );
        }
    }
}

#[test]
fn the_lowest_block_that_fails_is_reported() {
    // Blocks from 40 on write past the end; every block takes its time, the first ones longest.
    let body = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, 400; sub.u32 %r2, %r2, %r1;\n\
        L: sub.u32 %r2, %r2, 1; setp.gt.s32 %q0, %r2, 0; @%q0 bra L;\n\
        mul.wide.u32 %rd0, %r1, 4; add.u64 %rd0, %rd0, %p0; st.global.u32 [%rd0], %r1;";
    let run = |threads: usize| {
        let mut machine = Machine::of(1, body);
        machine.options.threads = threads;
        let out = machine.alloc(4 * 40);
        let fault = machine.launch_named("k", (64, 32, 0), &bytes(&[out]));
        (*fault.expect_err("past the end"), machine.words(out, 40))
    };
    let alone = run(1);
    assert_eq!(
        (alone.0.kind, alone.0.cta),
        (FaultKind::IllegalAddress, [40, 0, 0])
    );
    assert_eq!(
        alone.1,
        (0..40).collect::<Vec<u32>>(),
        "the blocks before are done"
    );
    for threads in [2, 8] {
        for _ in 0..8 {
            assert_eq!(run(threads), alone, "{threads} threads");
        }
    }
}

#[test]
fn races_between_blocks_are_reported_alike_on_any_number_of_threads() {
    // Blocks 5 and 50 write the same word, and 20 and 30 another.
    let body = "mov.u32 %r1, %ctaid.x; mov.u32 %r3, %r1;\n\
        setp.eq.u32 %q0, %r1, 50; @%q0 mov.u32 %r3, 5; setp.eq.u32 %q0, %r1, 30; @%q0 mov.u32 %r3, 20;\n\
        mul.wide.u32 %rd0, %r3, 4; add.u64 %rd0, %rd0, %p0; st.global.u32 [%rd0], %r1;";
    let run = |threads: usize| {
        let mut machine = Machine::of(1, body);
        machine.options.threads = threads;
        let out = machine.upload(&[7u32; 64], u32::to_le_bytes);
        let fault = machine.launch_named("k", (64, 1, 0), &bytes(&[out]));
        (*fault.expect_err("a race"), machine.words(out, 64))
    };
    let alone = run(1);
    assert_eq!((alone.0.kind, alone.0.cta), (FaultKind::Race, [30, 0, 0]));
    for threads in [2, 8] {
        for _ in 0..20 {
            assert_eq!(run(threads), alone, "{threads} threads");
        }
    }
}

#[test]
fn operations_that_nothing_orders_race() {
    let body = "mov.u32 %r0, %tid.x; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd1, %rd0, %p0;\n\
        add.u64 %rd2, %rd0, %p1; ld.global.u32 %r1, [%rd1]; st.global.u32 [%rd2], %r1;";
    let mut machine = Machine::of(2, body);
    let [a, b, c] = [0, 1, 2].map(|_| machine.upload(&[1u32; 32], u32::to_le_bytes));
    let first = machine.memory.begin("a copy", Vec::new());
    machine.memory.write(a, &[2; 128]).expect("inside");
    machine.launch(32, &[a, b]).expect("after the copy");
    let launch = first + 1;
    machine.unordered = vec![first];
    let fault = machine.launch(32, &[a, c]).expect_err("beside the copy");
    assert_eq!(fault.kind, FaultKind::Race);
    assert!(fault.to_string().contains("a copy"), "{fault}");
    machine.unordered = vec![launch];
    machine.launch(32, &[a, c]).expect("both read a");
    let fault = machine
        .launch(32, &[b, c])
        .expect_err("the other launch writes b");
    assert_eq!((fault.kind, fault.address), (FaultKind::Race, Some(b)));
    machine.unordered = Vec::new();
    machine.launch(32, &[b, c]).expect("after all of them");
}

#[test]
fn memory_that_nobody_touches_costs_nothing() {
    let body = "mov.u32 %r0, 5; st.global.u32 [%p0], %r0; ld.global.u32 %r1, [%p0];";
    let mut machine = Machine::of(1, body);
    machine.memory = cusim::memory::GlobalMemory::new(80 << 30);
    let start = std::time::Instant::now();
    let base = machine.alloc(40 << 30);
    let last = base + (40 << 30) - 4;
    machine.launch(1, &[last]).expect("inside");
    assert_eq!(machine.words(last, 1), [5]);
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
}
