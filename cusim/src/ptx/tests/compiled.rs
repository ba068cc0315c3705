//! What nvcc wrote for the sources beside the fixtures.

use super::super::cfg;
use super::*;

pub(super) const SAMPLE: &str = include_str!("../../../tests/fixtures/sample.ptx");
const DEBUG: &str = include_str!("../../../tests/fixtures/debug.ptx");

fn function<'a>(module: &'a Module, name: &str) -> &'a Function {
    let mut functions = module.functions.iter();
    functions.find(|f| &*f.name == name).expect(name)
}

fn variable<'a>(module: &'a Module, name: &str) -> &'a Variable {
    let mut variables = module.variables.iter();
    variables.find(|v| &*v.name == name).expect(name)
}

fn relocations<'a>(module: &'a Module, name: &str) -> &'a [(u64, Symbol, i64, bool)] {
    &variable(module, name)
        .init
        .as_ref()
        .expect(name)
        .relocations
}

/// Instructions of an opcode in a function.
fn uses<'a>(module: &'a Module, name: &str, opcode: &str) -> Vec<&'a Instruction> {
    let body = function(module, name).body.as_ref().expect(name);
    let instructions = body.instructions.iter();
    instructions.filter(|i| &*i.opcode == opcode).collect()
}

#[test]
fn variables_and_their_addresses_are_those_of_the_source() {
    let module = parse(SAMPLE).expect("what nvcc wrote");
    let index = |name: &str| {
        let mut variables = module.variables.iter();
        Symbol::Module(variables.position(|v| &*v.name == name).expect(name) as u32)
    };
    let table = index("table");
    assert_eq!(
        relocations(&module, "pointers"),
        [(0, table.clone(), 0, true), (8, table.clone(), 8, true)]
    );
    assert_eq!(relocations(&module, "packed"), [(1, table, 4, true)]);
    assert_eq!(variable(&module, "packed").size, Some(9));
    let called: Vec<_> = relocations(&module, "functions")
        .iter()
        .map(|(at, symbol, ..)| match symbol {
            Symbol::Function(index) => (*at, &*module.functions[*index as usize].name),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(called, [(0, "_Z7half_offi"), (8, "_Z5twicefi")]);
    let coefficients = variable(&module, "coefficients");
    assert_eq!(coefficients.space, Space::Const);
    let bytes: Vec<u8> = [1.5f32, -2.0, 0.25]
        .iter()
        .flat_map(|c| c.to_le_bytes())
        .collect();
    assert_eq!(
        coefficients.init.as_ref().map(|init| &init.bytes),
        Some(&bytes)
    );
    let dynamic = variable(&module, "dynamic");
    assert!(dynamic.is_extern && dynamic.size.is_none() && dynamic.space == Space::Shared);
}

#[test]
fn functions_and_calls_are_those_of_the_source() {
    let module = parse(SAMPLE).expect("what nvcc wrote");
    let entries: Vec<_> = module
        .functions
        .iter()
        .filter(|f| f.is_entry)
        .map(|f| &*f.name)
        .collect();
    assert_eq!(
        entries,
        [
            "calls",
            "branches",
            "assembly",
            "tensor",
            "_Z6copiesILi5EEvPi"
        ]
    );
    let calls = function(&module, "calls");
    let params: Vec<_> = calls.params.iter().map(|p| p.size).collect();
    assert_eq!(params, [Some(8), Some(8), Some(136)]);
    assert_eq!(calls.maxntid, Some([128, 1, 1]));
    assert_eq!(calls.minnctapersm, Some(2));
    // printf, and the pointer.
    let targets: Vec<_> = uses(&module, "calls", "call")
        .iter()
        .map(|call| match &call.operands[1] {
            Operand::Symbol(Symbol::Function(index), 0) => &*module.functions[*index as usize].name,
            Operand::Register(_) => "a register",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(targets, ["a register", "vprintf"]);
    let itself = &uses(&module, "_Z7half_offi", "call")[0].operands[1];
    assert_eq!(*itself, Operand::Symbol(Symbol::Function(0), 0));
}

#[test]
fn blocks_of_inline_assembly_keep_their_labels_apart() {
    let module = parse(SAMPLE).expect("what nvcc wrote");
    let body = function(&module, "assembly").body.as_ref().expect("a body");
    let places = |name: &str| -> Vec<u32> {
        let named = body.labels.iter().filter(|label| &*label.name == name);
        named.map(|label| label.target).collect()
    };
    let (waits, dones) = (places("WAIT"), places("DONE"));
    assert_eq!((waits.len(), dones.len()), (2, 2));
    // In each block: back to its own beginning, out to its own end.
    for (wait, done) in waits.into_iter().zip(dones) {
        let inside = wait as usize..done as usize;
        let mut next: Vec<_> = inside
            .clone()
            .flat_map(|at| cfg::successors(body, at))
            .collect();
        next.retain(|next| !inside.contains(next));
        assert_eq!(next, [done as usize]);
    }
    let video = uses(&module, "assembly", "vadd")[0];
    assert!(matches!(&video.operands[1], Operand::Part(_, part) if &**part == "b0"));
}

#[test]
fn tensor_instructions_have_their_operands() {
    let module = parse(SAMPLE).expect("what nvcc wrote");
    let lengths = |opcode: &str| -> Vec<usize> {
        let operands = uses(&module, "tensor", opcode)[0].operands.iter();
        operands
            .map(|operand| match operand {
                Operand::Vector(list) => list.len(),
                _ => 1,
            })
            .collect()
    };
    assert_eq!(lengths("mma"), [4, 4, 2, 4]);
    assert_eq!(lengths("ldmatrix"), [4, 1]);
    assert_eq!(
        names(&uses(&module, "tensor", "cp")[0].modifiers),
        ["async", "cg", "shared", "global", "L2::128B"]
    );
}

#[test]
fn positions_lead_to_the_source() {
    let module = parse(SAMPLE).expect("what nvcc wrote");
    let loc = uses(&module, "tensor", "mma")[0].loc.expect("a position");
    assert_eq!(module.files[&loc.file].as_ref(), "sample.cu");
    let source = include_str!("../../../tests/fixtures/sample.cu");
    let line = source.lines().nth(loc.line as usize - 1).expect("the line");
    // Where the operands of the mma are.
    assert!(line.contains("\"r\"(a[0])"), "{line}");
}

#[test]
fn code_for_debugging_is_read() {
    let module = parse(DEBUG).expect("what nvcc wrote");
    let called: Vec<_> = ["debug", "_Z6chosenRK5Pointi"]
        .iter()
        .map(|name| match &uses(&module, name, "call")[0].operands[1] {
            Operand::Symbol(Symbol::Function(index), 0) => &*module.functions[*index as usize].name,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(called, ["_Z6chosenRK5Pointi", "_ZNK5Point3sumEv"]);
    let body = function(&module, "debug").body.as_ref().expect("a body");
    // `mine`, and a copy of `extra`.
    let mut local = body.variables.iter().filter(|v| v.space == Space::Local);
    assert_eq!(local.next().and_then(|both| both.size), Some(24));
}

#[test]
fn ranks_are_a_permutation() {
    for text in [SAMPLE, DEBUG] {
        let module = parse(text).expect("what nvcc wrote");
        for body in module.functions.iter().filter_map(|f| f.body.as_ref()) {
            let mut ranks = cfg::ranks(body);
            ranks.sort_unstable();
            assert!(ranks.into_iter().eq(0..body.instructions.len() as u32));
        }
    }
}
