use super::*;
use crate::exec::Options;
use crate::fault::FaultKind;
use crate::memory::GlobalMemory;
use crate::program::Program;
use crate::ptx;
use crate::record::{Allocated, Recording};

/// Two warps exchange numbers through shared memory; threads past the end have none.
const EXCHANGE: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.file 1 "/built/somewhere/src/exchange.cu"
.visible .entry other() { ret; }
.visible .entry exchange(.param .u64 numbers, .param .u32 count)
{
    .reg .pred %p<3>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    .shared .align 4 .b8 staged[256];
    .loc 1 3 1
    ld.param.u64 %rd1, [numbers];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    mov.u32 %r7, 0;
    setp.ge.s32 %p1, %r2, %r1;
    @%p1 bra skip;
    ld.global.u32 %r7, [%rd3];
skip:
    shl.b32 %r3, %r2, 2;
    mov.u32 %r4, staged;
    add.s32 %r5, %r4, %r3;
    st.shared.u32 [%r5], %r7;
    .loc 1 4 1
    bar.sync 0;
    xor.b32 %r6, %r5, 128;
    ld.shared.u32 %r7, [%r6];
    @!%p1 st.global.u32 [%rd3], %r7;
    ret;
}
"#;

fn recording(count: u32) -> Recording {
    let base = crate::memory::GLOBAL_BASE;
    let contents = (1..=count).flat_map(u32::to_le_bytes).collect();
    let mut params = base.to_le_bytes().to_vec();
    params.extend(count.to_le_bytes());
    Recording {
        module: EXCHANGE.into(),
        kernel: "exchange".to_owned(),
        grid: [1; 3],
        block: [64, 1, 1],
        dynamic_shared: 0,
        params,
        globals: Vec::new(),
        cooperative: false,
        sm: 80,
        allocations: vec![Allocated {
            base,
            len: 4 * u64::from(count),
            origin: "numbers".to_owned(),
            contents: vec![(0, contents)],
        }],
    }
}

fn subject() -> Subject {
    let mut subjects = Subject::all(vec![recording(40)], 2).expect("a kernel that runs");
    assert_eq!(subjects.len(), 1);
    subjects.remove(0)
}

fn mutant_of(subject: &Subject, kind: Kind, instruction: &str) -> Mutant {
    let mutants = subject.mutants().into_iter();
    let mut found =
        mutants.filter(|mutant| mutant.kind == kind && mutant.instruction.contains(instruction));
    let mutant = found.next().expect("such a mutant");
    assert_eq!(found.next(), None, "several such mutants");
    mutant
}

#[test]
fn every_place_that_can_be_broken_is_found() {
    let subject = subject();
    let all: Vec<_> = subject
        .mutants()
        .iter()
        .map(|mutant| format!("{} {}", mutant.kind.name(), mutant.instruction))
        .collect();
    assert_eq!(
        all,
        [
            "off-by-one setp.ge.s32 %p1, %r2, %r1",
            "never-taken @%p1 bra skip",
            "always-taken @%p1 bra skip",
            "scale shl.b32 %r3, %r2, 2",
            "shift-up st.shared.u32 [%r5], %r7",
            "shift-down st.shared.u32 [%r5], %r7",
            "remove bar.sync 0",
            "zero-mask xor.b32 %r6, %r5, 128",
            "shift-up ld.shared.u32 %r7, [%r6]",
            "shift-down ld.shared.u32 %r7, [%r6]",
            "unguard @!%p1 st.global.u32 [%rd3], %r7",
        ]
    );
}

#[test]
fn mutants_are_told_from_the_kernel() {
    let subject = subject();
    let verdict = |kind, instruction| {
        let mutant = mutant_of(&subject, kind, instruction);
        subject.judge(&mutant).verdict
    };
    let reported = Verdict::Reported;
    assert_eq!(
        verdict(Kind::Remove, "bar.sync"),
        reported(FaultKind::Uninitialized)
    );
    let out_of_bounds = reported(FaultKind::IllegalAddress);
    assert_eq!(verdict(Kind::Unguard, "st.global"), out_of_bounds);
    assert_eq!(verdict(Kind::NeverTaken, "bra"), out_of_bounds);
    assert_eq!(verdict(Kind::OffByOne, "setp"), out_of_bounds);
    assert_eq!(verdict(Kind::AlwaysTaken, "bra"), Verdict::Differs);
    assert_eq!(verdict(Kind::ShiftUp, "ld.shared"), out_of_bounds);
    assert_eq!(verdict(Kind::ZeroMask, "xor"), Verdict::Differs);
    let judged = judge_all(&subject, &subject.mutants(), 2, |_, _| ());
    assert!(judged.iter().all(|each| each.verdict.is_caught()));
}

#[test]
fn a_mutant_that_changes_nothing_survives() {
    let subject = subject();
    let mut mutant = mutant_of(&subject, Kind::Remove, "bar.sync");
    let module = ptx::parse(EXCHANGE).expect("PTX");
    let body = module.functions[mutant.at.0].body.as_ref().expect("a body");
    mutant.change = Some(body.instructions[mutant.at.1].clone());
    assert_eq!(mutant.apply(&module), module);
    assert_eq!(subject.judge(&mutant).verdict, Verdict::Survived);
}

#[test]
fn mutants_are_run_where_they_are_reached() {
    const FORK: &str = "\
        .version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry exchange(.param .u64 numbers, .param .u32 count)\n{\n\
        .reg .b32 %r<3>; .reg .pred %p<3>; .shared .align 16 .b8 s[64];\n\
        ld.param.u32 %r1, [count];\n\
        setp.eq.u32 %p1, %r1, 1;\n\
        @%p1 bra one;\n\
        st.shared.u32 [s], %r1;\n\
        ret;\n\
        one:\n\
        st.shared.u32 [s+60], %r1;\n\
        ret;\n\
        }\n";
    let launch = |count| Recording {
        module: FORK.into(),
        block: [1; 3],
        ..recording(count)
    };
    // Of launches that take the same way the one that executes less is made first: all of these execute as much.
    let launches = vec![launch(2), launch(3), launch(1)];
    let judged = |launches| {
        let mut subjects = Subject::all(launches, 1).expect("a kernel that runs");
        let subject = subjects.remove(0);
        let judge = |kind, instruction| subject.judge(&mutant_of(&subject, kind, instruction));
        let below = judge(Kind::ShiftDown, "[s], ");
        (below, judge(Kind::ShiftUp, "[s+60]"))
    };
    let out_of_bounds = |number| Judgement {
        verdict: Verdict::Reported(FaultKind::IllegalAddress),
        shown_by: Some((number, 0)),
    };
    let survived = Judgement {
        verdict: Verdict::Survived,
        shown_by: None,
    };
    assert_eq!(judged(launches), (out_of_bounds(0), out_of_bounds(2)));
    assert_eq!(judged(vec![launch(1)]), (survived, out_of_bounds(0)));
}

#[test]
fn a_mutant_that_does_not_end_is_stopped() {
    let subject = subject();
    let mut mutant = mutant_of(&subject, Kind::AlwaysTaken, "bra");
    let module = ptx::parse(EXCHANGE).expect("PTX");
    let body = module.functions[mutant.at.0].body.as_ref().expect("a body");
    // It jumps to itself.
    let at = mutant.at.1;
    let mut module = module.clone();
    module.functions[mutant.at.0]
        .body
        .as_mut()
        .expect("a body")
        .labels[0]
        .target = at as u32;
    mutant.change = Some(body.instructions[at].clone());
    let program = Program::load(&mutant.apply(&module)).expect("a program");
    let options = Options {
        max_instructions: Some(1000),
        ..Options::default()
    };
    let replay = recording(40).replay(&program, &options).expect("a launch");
    let fault = replay.outcome.expect_err("a loop without end");
    assert_eq!(fault.kind, FaultKind::Deadlock);
    assert!(fault.message.contains("beyond its limit"), "{fault}");
}

#[test]
fn waits_scopes_and_lanes_are_weakened() {
    let text = "\
        .version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry k(.param .u64 p)\n{\n\
        .reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .pred %p<2>; .shared .align 16 .b8 s[64];\n\
        ld.param.u64 %rd1, [p];\n\
        mov.u32 %r1, s;\n\
        cp.async.cg.shared.global [%r1], [%rd1], 16, %r2;\n\
        cp.async.cg.shared.global [%r1], [%rd1], 16;\n\
        cp.async.commit_group;\n\
        cp.async.wait_group 1;\n\
        bar.sync 1, 64;\n\
        fence.acq_rel.gpu;\n\
        ld.acquire.gpu.global.u32 %r2, [%rd1];\n\
        shfl.sync.bfly.b32 %r3, %r2, 4, 31, -1;\n\
        selp.b32 %r1, %r2, %r3, %p1;\n\
        ret;\n}\n";
    let module = ptx::parse(text).expect("PTX");
    let mutants = mutants(&module, "k");
    let all: Vec<_> = mutants
        .iter()
        .map(|mutant| {
            let change = mutant.change.as_ref();
            let after = change.map_or("nothing".to_owned(), |change| {
                format!("{} {:?}", change.modifiers.join("."), change.operands.len())
            });
            format!("{}: {after}", mutant.kind.name())
        })
        .collect();
    assert_eq!(
        all,
        [
            "copy-in-full: async.cg.shared.global 3",
            "shift-up: async.cg.shared.global 4",
            "shift-down: async.cg.shared.global 4",
            "shift-up: async.cg.shared.global 3",
            "shift-down: async.cg.shared.global 3",
            "remove: nothing",
            "remove: nothing",
            "wait-for-fewer: async.wait_group 1",
            "remove: nothing",
            "other-barrier: sync 2",
            "remove: nothing",
            "narrow-scope: acq_rel.cta 0",
            "relax: relaxed.gpu.global.u32 2",
            "narrow-scope: acquire.cta.global.u32 2",
            "other-lane: sync.bfly.b32 5",
            "swap-selection: b32 4",
        ]
    );
}

#[test]
fn recordings_come_back_as_they_were() {
    let recording = recording(7);
    let bytes = postcard::to_allocvec(&recording).expect("room");
    assert_eq!(postcard::from_bytes(&bytes), Ok(recording.clone()));
    let mut memory = GlobalMemory::new(1 << 20);
    let address = memory.alloc(28, "numbers").expect("room");
    assert_eq!(address, recording.allocations[0].base);
}

#[test]
fn survivors_are_explained_by_what_their_line_says() {
    let root = std::env::temp_dir().join(format!("cusim-explain-{}", std::process::id()));
    std::fs::create_dir_all(root.join("src")).expect("a directory");
    let source = "a\n\n  __syncthreads();\nlast\n";
    std::fs::write(root.join("src/exchange.cu"), source).expect("a file");
    let explanation = |kernels: &str, code: &str| Explanation {
        kernels: vec![kernels.to_owned()],
        kinds: vec![Kind::OffByOne],
        file: "exchange.cu".to_owned(),
        code: code.to_owned(),
        inlined_at: String::new(),
        instruction: "setp".to_owned(),
        why: "for a test".to_owned(),
    };
    let list = vec![
        explanation("*bla*", "__sync"),
        explanation("ex*nge", "last"),
        explanation("ex*nge", "__sync"),
        explanation("exchange", "__sync"),
    ];
    let mut explanations = Explanations::new(list.clone(), &root);
    let subject = subject();
    let mutant = mutant_of(&subject, Kind::OffByOne, "setp");
    let site = explanations.site(&mutant).to_string();
    assert_eq!(site, "src/exchange.cu:3: __syncthreads();");
    assert_eq!(explanations.explain(&mutant), Some(&list[2]));
    let barrier = mutant_of(&subject, Kind::Remove, "bar");
    assert_eq!(explanations.explain(&barrier), None);
    let stale: Vec<_> = explanations.stale().collect();
    assert_eq!(stale, [&list[0], &list[1], &list[3]]);

    let calls = [("bla", "a"), ("exchange", "gone"), ("exchange", "last")];
    let list = calls.map(|(kernels, caller)| Explanation {
        inlined_at: caller.to_owned(),
        ..explanation(kernels, "__sync")
    });
    let mut explanations = Explanations::new(list.to_vec(), &root);
    assert_eq!(explanations.explain(&mutant), None, "called by nothing");
    let (path, line) = mutant.source[0].clone();
    let source = [line, line + 1, 1]
        .map(|line| (path.clone(), line))
        .to_vec();
    let inlined = Mutant { source, ..mutant };
    assert_eq!(
        explanations.site(&inlined).to_string(),
        "src/exchange.cu:3: __syncthreads();\n      in src/exchange.cu:4: last\n      in src/exchange.cu:1: a"
    );
    assert_eq!(explanations.explain(&inlined), Some(&list[2]));
    std::fs::remove_dir_all(root).expect("it was there");
}
