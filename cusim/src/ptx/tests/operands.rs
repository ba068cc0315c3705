//! Operands, registers and scopes.

use super::*;

fn reg(n: u32) -> Operand {
    Operand::Register(RegId(n))
}

/// The operands of the only instruction.
fn operands(statements: &str) -> Vec<Operand> {
    let mut body = body(statements);
    assert_eq!(body.instructions.len(), 1, "{statements}");
    body.instructions.remove(0).operands
}

/// As above, with registers %r0 to %r7 (0 to 7) and predicates %p0 and %p1 (8 and 9).
fn with_registers(instruction: &str) -> Vec<Operand> {
    operands(&format!(
        ".reg .b32 %r<8>; .reg .pred %p<2>;\n{instruction}"
    ))
}

#[test]
fn vectors_hold_registers_sinks_and_constants() {
    assert_eq!(
        with_registers("ld.global.v4.u32 {%r0, %r1, _, %r3}, [%r4];")[0],
        Operand::Vector(vec![reg(0), reg(1), Operand::Sink, reg(3)])
    );
    assert_eq!(
        with_registers("mov.b64 %r0, {1, 0f3F800000};")[1],
        Operand::Vector(vec![Operand::Int(1), Operand::F32(0x3f80_0000)])
    );
}

#[test]
fn pairs_have_two_destinations() {
    let pair = |a, b| Operand::Pair(Box::new(a), Box::new(b));
    let (p, q) = (reg(8), reg(9));
    let first = |text| with_registers(text).remove(0);
    assert_eq!(
        first("setp.lt.s32 %p0|%p1, %r1, 5;"),
        pair(p.clone(), q.clone())
    );
    assert_eq!(
        first("setp.lt.s32 _ | %p1, %r1, 5;"),
        pair(Operand::Sink, q.clone())
    );
    assert_eq!(
        first("shfl.sync.bfly.b32 %r7|_, %r1, 1, 31, -1;"),
        pair(reg(7), Operand::Sink)
    );
    let vector = Operand::Vector(vec![reg(0), reg(1)]);
    assert_eq!(
        first("tex.1d.v2.s32.s32 {%r0, %r1}|%p1, [p, {%r2}];"),
        pair(vector, q)
    );
}

#[test]
fn addresses_have_a_base_and_an_offset() {
    let address = |text: &str| {
        let text = format!(".shared .b32 s; .reg .b64 %rd<3>; ld.global.u32 %rd0, {text};");
        match operands(&text).remove(1) {
            Operand::Address(base, offset) => (base, offset),
            other => panic!("{other:?}"),
        }
    };
    let rd1 = || AddressBase::Register(RegId(1));
    let s = || AddressBase::Symbol(Symbol::Local(0));
    assert_eq!(address("[%rd1]"), (rd1(), 0));
    assert_eq!(address("[%rd1+16]"), (rd1(), 16));
    assert_eq!(address("[%rd1+-16]"), (rd1(), -16));
    assert_eq!(address("[%rd1 + (4+4)*2]"), (rd1(), 16));
    assert_eq!(address("[s]"), (s(), 0));
    assert_eq!(address("[s+4*2]"), (s(), 8));
    assert_eq!(address("[p+8]"), (AddressBase::Symbol(Symbol::Param(0)), 8));
    assert_eq!(address("[0x40]"), (AddressBase::Absolute, 64));
}

#[test]
fn tensor_coordinates_are_part_of_the_address() {
    let found = with_registers(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes \
         [%r0], [%r1, {%r2, %r3}], [%r4];",
    );
    let tuple = vec![reg(1), Operand::Vector(vec![reg(2), reg(3)])];
    assert_eq!(found[1], Operand::Address(AddressBase::Tuple(tuple), 0));
}

#[test]
fn predicates_can_be_negated() {
    assert_eq!(
        with_registers("selp.b32 %r1, %r2, %r3, ! %p1;")[3],
        Operand::NotRegister(RegId(9))
    );
}

#[test]
fn special_registers_keep_their_names() {
    let special = |name: &str| Operand::Special(name.into());
    for name in ["%ctaid.y", "%clusterid.x", "%laneid", "%envreg31", "%pm7"] {
        assert_eq!(
            with_registers(&format!("mov.u32 %r1, {name};"))[1],
            special(name)
        );
    }
    // Components have colours too, and all of them together are a vector.
    assert_eq!(with_registers("mov.u32 %r1, %tid.g;")[1], special("%tid.y"));
    let all = ["%tid.x", "%tid.y", "%tid.z", "%tid.w"].map(special);
    assert_eq!(
        operands(".reg .v4 .b32 v; mov.v4.u32 v, %tid;")[1],
        Operand::Vector(all.to_vec())
    );
}

#[test]
fn symbols_without_brackets_are_addresses() {
    let found = operands(".reg .b64 a; .shared .b8 s[32]; mov.u64 a, s+8;");
    assert_eq!(found[1], Operand::Symbol(Symbol::Local(0), 8));
}

#[test]
fn video_instructions_take_parts_of_registers() {
    let found = with_registers("vmad.s32.s32.s32 %r1.h0, %r2.b3210, -%r3, -%r4.b1;");
    let part = |n, part: &str| Operand::Part(RegId(n), part.into());
    assert_eq!(
        found,
        [
            part(1, "h0"),
            part(2, "b3210"),
            part(3, "-"),
            part(4, "-b1")
        ]
    );
}

#[test]
fn vector_registers_are_as_many_scalars() {
    let body = body(
        ".reg .v2 .f32 v, w<3>; .reg .v4 .b32 q;\n\
         mov.f32 v.y, w2.x;\n\
         ld.global.v4.b32 q, [p];\n\
         mov.b32 q.a, q.r;",
    );
    let declared: Vec<&str> = body.registers.iter().map(|r| &*r.name).collect();
    assert_eq!(
        declared,
        [
            "v.x", "v.y", "w0.x", "w0.y", "w1.x", "w1.y", "w2.x", "w2.y", "q.x", "q.y", "q.z",
            "q.w"
        ]
    );
    let operands = |at: usize| &body.instructions[at].operands[..];
    assert_eq!(operands(0), [reg(1), reg(6)]);
    assert_eq!(
        operands(1)[0],
        Operand::Vector(vec![reg(8), reg(9), reg(10), reg(11)])
    );
    assert_eq!(operands(2), [reg(11), reg(8)]);
}

#[test]
fn register_ranges_name_their_members_only() {
    let declared = body(".reg .b32 %r<2>; mov.b32 %r0, %r1;");
    assert_eq!(declared.registers.len(), 2);
    for (statements, message) in [
        (".reg .b32 %r<2>; mov.b32 %r2, 0;", "%r2 is not declared"),
        (".reg .b32 %r<2>; mov.b32 %r01, 0;", "%r01 is not declared"),
        (".reg .b32 %r<2>; mov.b32 %r, 0;", "%r is not declared"),
        (".reg .b32 %r<2>, %r<3>;", "%r<> is declared twice"),
        (".reg .b32 %r<4000000000>;", "a function has at most"),
        (
            ".reg .v4 .b32 %r<18446744073709551615>;",
            "a function has at most",
        ),
    ] {
        let refused = refusal(statements);
        assert!(refused.contains(message), "{statements}: {refused}");
    }
}

#[test]
fn a_module_cannot_ask_for_registers_without_end() {
    let greedy = ".entry k() { .reg .b32 %r<1000000>; }";
    let text: String = (0..9)
        .map(|n| greedy.replace("k()", &format!("k{n}()")))
        .collect();
    assert!(error(&text).message.contains("too many registers"));
}

#[test]
fn names_may_look_strange() {
    let found = operands(".reg .b32 %3, $3, _a, %_, a$b_1; mov.b32 {%3, $3, _a}, {%_, a$b_1};");
    assert_eq!(found[0], Operand::Vector(vec![reg(0), reg(1), reg(2)]));
    assert_eq!(found[1], Operand::Vector(vec![reg(3), reg(4)]));
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
    assert!(guards[2].negated && !guards[1].negated);
}

#[test]
fn a_label_is_the_innermost_one_even_if_it_comes_later() {
    let body = body("L: ret; { bra L; L: exit; }");
    let Operand::Symbol(Symbol::Label(id), 0) = body.instructions[1].operands[0] else {
        panic!("{body:?}")
    };
    assert_eq!(body.labels[id.0 as usize].target, 2);
}

#[test]
fn inner_variables_hide_outer_ones() {
    let module = module(
        ".global .b32 x;\n\
         .entry k() { .reg .b32 r; ld.b32 r, [x]; { .local .b32 x; ld.b32 r, [x]; } ld.b32 r, [x]; }",
    );
    let body = module.functions[0].body.as_ref().expect("a body");
    let bases: Vec<_> = body
        .instructions
        .iter()
        .map(|instruction| match &instruction.operands[1] {
            Operand::Address(AddressBase::Symbol(symbol), 0) => symbol.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    let outer = Symbol::Module(0);
    assert_eq!(bases, [outer.clone(), Symbol::Local(0), outer]);
}

#[test]
fn modifiers_keep_double_colons_and_digits() {
    let body = body(
        ".reg .b32 r; .reg .b64 a;\n\
         cp.async.cg.shared::cta.global.L2::128B [r], [a], 16, r;\n\
         tcgen05.cp.cta_group::1.128x256b.b8x16.b6x16_p32 [r], a;\n\
         ld.global.f32 r, [a].unified;",
    );
    let all: Vec<_> = body
        .instructions
        .iter()
        .map(|i| names(&i.modifiers))
        .collect();
    assert_eq!(all[0], ["async", "cg", "shared::cta", "global", "L2::128B"]);
    assert_eq!(
        all[1],
        ["cp", "cta_group::1", "128x256b", "b8x16", "b6x16_p32"]
    );
    assert_eq!(all[2], ["global", "f32", "unified"]);
    assert_eq!(&*body.instructions[0].opcode, "cp");
}
