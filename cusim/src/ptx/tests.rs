//! The traps of PTX syntax, and that no text makes the parser panic.

use proptest::prelude::*;

use super::ast::*;
use super::{ParseError, parse};

const HEADER: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

fn module(text: &str) -> Module {
    parse(&format!("{HEADER}{text}")).expect(text)
}

/// The body of an entry made of these statements.
fn body(statements: &str) -> Body {
    let text = format!(".visible .entry k(.param .u64 p) {{\n{statements}\n}}");
    module(&text).functions.remove(0).body.expect("a body")
}

fn error(text: &str) -> ParseError {
    parse(&format!("{HEADER}{text}")).expect_err(text)
}

#[test]
fn the_header_is_read() {
    let module = module(".file 1 \"a/b.cu\", 12, 34\n");
    assert_eq!((module.version, module.address_size), ((9, 0), 64));
    assert_eq!(module.target, "sm_80");
    assert_eq!(module.files[&1].as_ref(), "a/b.cu");
}

#[test]
fn parameters_keep_their_own_alignment() {
    let module = module(
        ".visible .entry k(.param .u64 .ptr .global .align 1 a, .param .align 8 .b8 b[136], .param .f32 c)\n\
         .maxntid 128, 1, 1 .minnctapersm 2 { ret; }",
    );
    let function = &module.functions[0];
    let sizes: Vec<_> = function.params.iter().map(|p| (p.align, p.size)).collect();
    assert_eq!(sizes, [(8, Some(8)), (8, Some(136)), (4, Some(4))]);
    assert_eq!(function.maxntid, Some([128, 1, 1]));
    assert_eq!(function.minnctapersm, Some(2));
}

#[test]
fn braces_scope_registers_and_labels() {
    let body = body(
        ".reg .b32 %r<3>; .reg .pred q;\n\
         { .reg .pred q; @q bra done; mov.b32 %r1, 1; done: }\n\
         { @q bra done; mov.b32 %r2, 2; done: }\n\
         @!q bra $end; $end: ret;",
    );
    let branch = |at: usize| match &body.instructions[at].operands[0] {
        Operand::Symbol(Symbol::Label(id), 0) => body.labels[id.0 as usize].target,
        other => panic!("{other:?}"),
    };
    assert_eq!([branch(0), branch(2), branch(4)], [2, 4, 5]);
    let guards: Vec<_> = body.instructions.iter().filter_map(|i| i.guard).collect();
    assert_ne!(guards[0].reg, guards[1].reg, "the inner q hides the outer");
    assert_eq!(guards[1].reg, guards[2].reg);
    assert!(guards[2].negated);
}

#[test]
fn register_ranges_name_their_members_only() {
    let declared = body(".reg .b32 %r<2>; mov.b32 %r0, %r1;");
    assert_eq!(declared.registers.len(), 2);
    let text = ".entry k() { .reg .b32 %r<2>; mov.b32 %r2, 0; }";
    assert!(error(text).message.contains("%r2 is not declared"));
    let text = ".entry k() { .reg .b32 %r<4000000000>; ret; }";
    assert!(error(text).message.contains("registers"));
}

#[test]
fn operands_of_every_shape() {
    let body = body(
        ".reg .b32 %r<9>; .reg .b64 %rd<3>; .reg .pred %p<3>; .shared .align 16 .b8 s[32];\n\
         ld.global.v4.u32 {%r0, %r1, _, %r3}, [%rd1+-16];\n\
         setp.lt.s32 %p1|%p2, %r1, -5;\n\
         mov.u32 %r2, %ctaid.y;\n\
         mov.u32 %r4, s+8;\n\
         ld.param.u64 %rd2, [p];\n\
         selp.f32 %r5, 0f3F800000, 0d3FF0000000000000, !%p1;\n\
         add.s32 %r6, %r1, (1 << 4) | 0x3;\n\
         shfl.sync.bfly.b32 %r7|_, %r1, 0b101, WARP_SZ - 1, 0xffffffff;",
    );
    let operands = |at: usize| &body.instructions[at].operands;
    let reg = |n| Operand::Register(RegId(n));
    assert_eq!(
        operands(0)[..],
        [
            Operand::Vector(vec![reg(0), reg(1), Operand::Sink, reg(3)]),
            Operand::Address(AddressBase::Register(RegId(10)), -16)
        ]
    );
    assert!(matches!(&operands(1)[0], Operand::Pair(..)));
    assert_eq!(operands(1)[2], Operand::Int(-5i64 as u64));
    assert_eq!(operands(2)[1], Operand::Special("%ctaid.y".into()));
    assert_eq!(operands(3)[1], Operand::Symbol(Symbol::Local(0), 8));
    let param = AddressBase::Symbol(Symbol::Param(0));
    assert_eq!(operands(4)[1], Operand::Address(param, 0));
    assert_eq!(operands(5)[1], Operand::F32(0x3f80_0000));
    assert_eq!(operands(5)[2], Operand::F64(1f64.to_bits()));
    assert!(matches!(operands(5)[3], Operand::NotRegister(_)));
    assert_eq!(operands(6)[2], Operand::Int(0x13));
    assert_eq!(operands(7)[2], Operand::Int(5));
    assert_eq!(operands(7)[3], Operand::Int(31));
}

#[test]
fn modifiers_keep_double_colons() {
    let body = body(
        ".reg .b32 %r<3>; .reg .b64 %rd<2>;\n\
         cp.async.cg.shared::cta.global.L2::128B [%r1], [%rd1], 16, %r2;",
    );
    let instruction = &body.instructions[0];
    assert_eq!(instruction.opcode.as_ref(), "cp");
    let modifiers: Vec<&str> = instruction.modifiers.iter().map(AsRef::as_ref).collect();
    assert_eq!(
        modifiers,
        ["async", "cg", "shared::cta", "global", "L2::128B"]
    );
}

#[test]
fn positions_follow_loc() {
    let body = body(
        ".loc 1 7 5\nbar.sync 0;\n.loc 2 9 1, function_name $L__info_string0 + 4, inlined_at 1 7 5\nret;",
    );
    let locs: Vec<_> = body
        .instructions
        .iter()
        .map(|i| i.loc.map(|l| (l.file, l.line)))
        .collect();
    assert_eq!(locs, [Some((1, 7)), Some((2, 9))]);
    assert_eq!(body.instructions[0].line, 6, "lines of the text count too");
}

#[test]
fn branch_tables_and_calls() {
    let module = module(
        ".func (.param .b32 r) f (.param .b32 a, .param .b64 _);\n\
         .func (.param .b32 r) f (.param .b32 a, .param .b64 _) { st.param.b32 [r], 0; ret; }\n\
         .entry k() { .reg .b32 %r<2>; .reg .b64 %rd<2>; .param .b32 x; .param .b32 y;\n\
         table: .branchtargets a, b;\n\
         brx.idx %r1, table;\n\
         a: call.uni (y), f, (x, x);\n\
         b: proto: .callprototype (.param .b32 _) _ (.param .b32 _);\n\
         call (y), %rd1, (x), proto; }",
    );
    assert_eq!(
        module.functions.len(),
        2,
        "the declaration and the definition are one function"
    );
    let body = module.functions[1].body.as_ref().expect("a body");
    assert_eq!(body.targets.values().next().map(Vec::len), Some(2));
    assert_eq!(
        body.instructions[1].operands[1],
        Operand::Symbol(Symbol::Function(0), 0)
    );
    assert!(matches!(&body.instructions[1].operands[2], Operand::List(list) if list.len() == 2));
}

#[test]
fn initialisers_become_bytes_and_relocations() {
    let module = module(
        ".global .align 4 .u32 a[3] = {1, -1};\n\
         .const .f32 f = 0f40000000;\n\
         .global .align 8 .u64 p[2] = {a, generic(a)+8};\n\
         .extern .shared .align 16 .b8 dyn[];\n\
         .global .b8 s[] = {104, 105};",
    );
    let bytes = |at: usize| {
        module.variables[at]
            .init
            .as_ref()
            .map(|init| init.bytes.as_slice())
    };
    assert_eq!(
        bytes(0),
        Some(&[1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0][..])
    );
    assert_eq!(bytes(1), Some(&2f32.to_le_bytes()[..]));
    let relocations = &module.variables[2]
        .init
        .as_ref()
        .expect("an initialiser")
        .relocations;
    let a = Symbol::Module(0);
    assert_eq!(relocations[..], [(0, a.clone(), 0, false), (8, a, 8, true)]);
    assert_eq!(
        (module.variables[3].size, module.variables[3].is_extern),
        (None, true)
    );
    assert_eq!(module.variables[4].size, Some(2));
}

#[test]
fn debugging_sections_are_skipped() {
    let module = module(".section .debug_str { info: .b8 1,2 { } \n}\n.global .u32 a;");
    assert_eq!(module.variables.len(), 1);
}

#[test]
fn errors_name_the_line() {
    for (text, line, message) in [
        (
            ".entry k() {\n bra nowhere;\n}",
            5,
            "nowhere is not declared",
        ),
        (".entry k() {\n ret\n}", 6, "expected an operand or ;"),
        (".entry k() {\n ret;", 5, "not closed"),
        (".entry k() {\n .reg .b31 %r<2>;\n}", 5, "not a type"),
        (".entry k() {\n a: a: ret;\n}", 5, "twice"),
        (".global .u32 a = 1/0;", 4, "division by zero"),
        (".global .u32 a[1 << 62];", 4, "too large"),
        ("/* comment", 4, "not closed"),
        (".global .f32 f = 0f123;", 4, "8 hexadecimal digits"),
        (".wrong", 4, "not known"),
    ] {
        let error = error(text);
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(5000), close.repeat(5000));
    assert!(
        error(&format!(".global .u32 a = {};", nested("(", ")")))
            .message
            .contains("deep")
    );
    assert!(
        error(&format!(".global .u32 a = {};", nested("{", "}")))
            .message
            .contains("deep")
    );
    assert!(
        error(&format!(".entry k() {}", nested("{", "}")))
            .message
            .contains("deep")
    );
    let text = format!(".entry k() {{ mov.b32 a, {}; }}", nested("{", "}"));
    assert!(error(&text).message.contains("deep"));
}

const SAMPLE: &str = include_str!("../../tests/fixtures/sample.ptx");

#[test]
fn compiler_output_is_read() {
    let module = parse(SAMPLE).expect("what nvcc wrote");
    assert!(
        module
            .functions
            .iter()
            .any(|f| f.is_entry && f.body.is_some())
    );
    for body in module.functions.iter().filter_map(|f| f.body.as_ref()) {
        let mut ranks = super::cfg::ranks(body);
        ranks.sort_unstable();
        assert!(
            ranks
                .iter()
                .enumerate()
                .all(|(at, &rank)| at == rank as usize),
            "a permutation"
        );
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_panics(cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..30usize, "[ .,;:{}()\\[\\]<>@!|+*/%&^~?=a-z0-9-]{0,6}"), 1..6)) {
        let mut text: Vec<char> = SAMPLE.chars().collect();
        for (at, length, insert) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let _ = parse(&text.into_iter().collect::<String>());
    }
}
