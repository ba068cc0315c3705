//! Module directives, functions, calls and positions.

use super::*;

#[test]
fn the_header_is_read() {
    let module = module(".file 1 \"a/b.cu\", 12, 34\n.target sm_90\n.file 2 \"c\"");
    assert_eq!((module.version, module.address_size), ((9, 0), 64));
    assert_eq!(module.target, "sm_80", "the first");
    assert_eq!(module.files[&1].as_ref(), "a/b.cu");
    assert_eq!(module.files[&2].as_ref(), "c");
}

#[test]
fn a_module_without_its_header_is_refused() {
    for (text, message) in [
        ("", "expected `.version`, found the end of the text"),
        (".target sm_80", "expected `.version`, found `.target`"),
        (".version 9", "expected a version, found 9"),
        (
            ".version 9.0 .entry k() { ret; }",
            "expected `.target`, found `.entry`",
        ),
        (
            ".version 9.0 .target sm_80 .version 9.0",
            "the directive .version is not known here",
        ),
        ("not PTX at all", "expected `.version`, found `not`"),
    ] {
        assert_eq!(parse(text).expect_err(text).message, message);
    }
}

#[test]
fn parameters_keep_their_own_alignment() {
    let module = module(
        ".visible .entry k(.param .u64 .ptr .global .align 1 a, .param .align 8 .b8 b[136],\n\
         .param .align 4 .u64 .ptr .align 16 c, .param .f32 d)\n\
         .maxntid 128, 1, 1 .minnctapersm 2 .maxnreg 64 .pragma \"x\"; { ret; }",
    );
    let function = &module.functions[0];
    let sizes: Vec<_> = function.params.iter().map(|p| (p.align, p.size)).collect();
    assert_eq!(
        sizes,
        [(8, Some(8)), (8, Some(136)), (4, Some(8)), (4, Some(4))]
    );
    assert_eq!(function.maxntid, Some([128, 1, 1]));
    assert_eq!(
        (function.minnctapersm, function.maxnreg),
        (Some(2), Some(64))
    );
    assert_eq!(function.reqntid, None);
}

#[test]
fn every_tuning_directive_is_read() {
    let module = module(
        ".entry a() .reqntid 32, 2 .blocksareclusters .reqnctapercluster 2, 1, 1 { ret; }\n\
         .entry b .explicitcluster .maxclusterrank 4 { ret; }\n\
         .func c() .noreturn .abi_preserve 8 .abi_preserve_control 2 { exit; }\n\
         .func .attribute(.unified(0xAB, 0xCD)) d() { ret; }",
    );
    assert_eq!(module.functions[0].reqntid, Some([32, 2, 1]));
    assert_eq!(module.functions.len(), 4);
    assert_eq!(module.functions.iter().filter(|f| f.is_entry).count(), 2);
}

#[test]
fn a_declaration_and_its_definition_are_one_function() {
    let module = module(
        ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n\
         .func (.param .b32 r) f (.param .b32 a, .param .b64 _);\n\
         .func g() { .param .b32 x; call (x), f, (x, 1); ret; }\n\
         .visible .func (.param .b32 r) f (.param .b32 a, .param .b64 b) { st.param.b32 [r], 0; ret; }",
    );
    let shapes: Vec<_> = module
        .functions
        .iter()
        .map(|f| (&*f.name, f.returns.len(), f.params.len(), f.body.is_some()))
        .collect();
    assert_eq!(
        shapes,
        [
            ("vprintf", 1, 2, false),
            ("f", 1, 2, true),
            ("g", 0, 0, true)
        ]
    );
    let f = module.functions[1].body.as_ref().expect("a body");
    assert_eq!(
        f.instructions[0].operands[0],
        Operand::Address(AddressBase::Symbol(Symbol::Return(0)), 0)
    );
}

#[test]
fn register_parameters_are_the_first_registers() {
    let module = module(
        ".func (.reg .b32 r) f (.reg .b32 a, .reg .f64 b) { .reg .b32 t; add.s32 r, a, t; ret; }",
    );
    let body = module.functions[0].body.as_ref().expect("a body");
    let declared: Vec<_> = body.registers.iter().map(|r| &*r.name).collect();
    assert_eq!(declared, ["a", "b", "r", "t"]);
    let reg = |n| Operand::Register(RegId(n));
    assert_eq!(body.instructions[0].operands, [reg(2), reg(0), reg(3)]);
}

#[test]
fn calls_have_lists_of_anything() {
    let module = module(
        ".func (.param .b32 r) f (.param .b32 a, .param .b64 b) { ret; } .func g { ret; }\n\
         .entry k() { .reg .b64 %rd<2>; .param .b32 x; .param .b32 y;\n\
         call.uni (y), f, (x, 5);\n\
         call (_), f, (-1, 0d0000000000000000);\n\
         call g;\n\
         proto: .callprototype (.param .b32 _) _ (.param .b32 _, .param .align 8 .b8 _[16]) .noreturn;\n\
         call (y), %rd1, (x), proto;\n\
         some: .calltargets f, g;\n\
         call %rd1, (), some; }",
    );
    let body = module.functions[2].body.as_ref().expect("a body");
    let operands = |at: usize| &body.instructions[at].operands[..];
    let list = |items: &[Operand]| Operand::List(items.to_vec());
    let local = |n| Operand::Symbol(Symbol::Local(n), 0);
    let function = |n| Operand::Symbol(Symbol::Function(n), 0);
    assert_eq!(
        operands(0),
        [
            list(&[local(1)]),
            function(0),
            list(&[local(0), Operand::Int(5)])
        ]
    );
    assert_eq!(
        operands(1)[2],
        list(&[Operand::Int(u64::MAX), Operand::F64(0)])
    );
    assert_eq!(operands(2), [function(1)]);
    assert!(matches!(
        operands(3)[3],
        Operand::Symbol(Symbol::Label(_), 0)
    ));
    assert_eq!(operands(4)[1], list(&[]));
    let targets: Vec<_> = body.targets.values().collect();
    assert_eq!(targets, [&vec![Symbol::Function(0), Symbol::Function(1)]]);
}

#[test]
fn branch_tables_hold_labels() {
    let body = body(
        ".reg .b32 i; @i bra a; table: .branchtargets b, a;\n\
         brx.idx.uni i, table; a: exit; b: ret;",
    );
    let targets = body.targets.values().next().expect("a table");
    let places: Vec<_> = targets
        .iter()
        .map(|target| match target {
            Symbol::Label(id) => body.labels[id.0 as usize].target,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(places, [3, 2]);
}

#[test]
fn an_alias_is_its_function() {
    let module = module(
        ".visible .func h(); .visible .func g() { ret; }\n\
         .entry k() { call h; ret; } .alias h, g;",
    );
    let body = module.functions[2].body.as_ref().expect("a body");
    assert_eq!(
        body.instructions[0].operands[0],
        Operand::Symbol(Symbol::Function(1), 0)
    );
}

#[test]
fn an_extern_variable_and_its_definition_are_one() {
    for text in [
        ".extern .global .u32 a; .visible .global .u32 a = 4;",
        ".visible .global .u32 a = 4; .extern .global .u32 a;",
    ] {
        let module = module(text);
        assert_eq!(module.variables.len(), 1, "{text}");
        assert!(module.variables[0].init.is_some(), "{text}");
    }
}

#[test]
fn variables_of_functions_may_outlive_them() {
    let module = module(
        ".entry a() { .reg .b32 r; .global .b32 n = 1; ld.b32 r, [n]; }\n\
         .entry b() { .reg .b32 r; .global .b32 n = 2; ld.b32 r, [n]; }",
    );
    assert_eq!(module.variables.len(), 2);
    let b = module.functions[1].body.as_ref().expect("a body");
    assert_eq!(
        b.instructions[0].operands[1],
        Operand::Address(AddressBase::Symbol(Symbol::Module(1)), 0)
    );
}

#[test]
fn positions_follow_loc() {
    let body = body(
        "bar.sync 0; /* two\nlines */ .loc 1 7 5\nbar.sync 0;\n\
         .loc 2 9 1, function_name $L__info_string0 + 4, inlined_at 1 7 5\nret;",
    );
    let locs: Vec<_> = body
        .instructions
        .iter()
        .map(|i| (i.line, i.loc.map(|l| (l.file, l.line, l.column))))
        .collect();
    assert_eq!(
        locs,
        [(5, None), (7, Some((1, 7, 5))), (9, Some((2, 9, 1)))]
    );
}

#[test]
fn inlined_positions_lead_to_their_callers() {
    let module = module(
        ".entry k() { .loc 1 7 5\nbar.sync 0;\n\
         .loc 1 3 1, function_name $a, inlined_at 1 7 5\nbar.sync 0;\n\
         .loc 2 9 1, function_name $b, inlined_at 1 3 1\nbar.sync 0;\n\
         .loc 2 8 1, function_name $b, inlined_at 1 99 9\nret; }",
    );
    let body = module.functions[0].body.as_ref().expect("a body");
    let chain = |at: usize| -> Vec<(u32, u32)> {
        let caller = |loc: &Loc| module.callers.get(loc.caller? as usize).copied();
        let chain = std::iter::successors(body.instructions[at].loc, caller);
        chain.map(|loc| (loc.file, loc.line)).collect()
    };
    assert_eq!(chain(0), [(1, 7)]);
    assert_eq!(chain(1), [(1, 3), (1, 7)]);
    assert_eq!(chain(2), [(2, 9), (1, 3), (1, 7)]);
    assert_eq!(chain(3), [(2, 8), (1, 99)], "a position of its own");
}

#[test]
fn debugging_sections_are_skipped() {
    let module = module(
        ".section .debug_str { info: .b8 1,2 { } \n$L1:.b32 .debug_info+4\n.b64 $L1 }\n.global .u32 a;",
    );
    assert_eq!(module.variables.len(), 1);
}
