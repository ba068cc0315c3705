//! Which registers lead to addresses in shared memory.

use std::collections::HashSet;

use crate::ptx::ast::{AddressBase, Body, Instruction, Operand, RegId};

/// Instructions whose result is an address when an operand leads to one.
const ARITHMETIC: &[&str] = &[
    "mov", "add", "sub", "mul", "mul24", "mad", "mad24", "neg", "abs", "min", "max", "shl", "shr",
    "and", "or", "xor", "not", "selp", "cvt", "cvta", "lop3", "bfi", "bfe", "prmt", "shf",
];

/// The operand of an instruction that is an address in shared memory.
pub(super) fn shared_operand(instruction: &Instruction) -> Option<usize> {
    let modifiers = &instruction.modifiers;
    let is_shared = |name: &str| name == "shared" || name.starts_with("shared::");
    let of_space = modifiers.iter().any(|modifier| is_shared(modifier));
    match &*instruction.opcode {
        _ if !of_space => None,
        "ld" | "atom" | "ldmatrix" => Some(1),
        "st" | "red" | "stmatrix" => Some(0),
        "cp" if modifiers.first().is_some_and(|name| **name == *"async") => Some(0),
        _ => None,
    }
}

/// Every register whose value goes into a shared address, whichever way the program takes.
pub(super) fn shared_addresses(body: &Body) -> HashSet<RegId> {
    let mut found = HashSet::new();
    for instruction in &body.instructions {
        let operand = shared_operand(instruction).and_then(|at| instruction.operands.get(at));
        if let Some(Operand::Address(AddressBase::Register(reg), _)) = operand {
            found.insert(*reg);
        }
    }
    loop {
        let before = found.len();
        for instruction in &body.instructions {
            if leads_to(instruction, &found) {
                found.extend(registers(instruction.operands.iter().skip(1)));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Whether an instruction computes one of these registers from integers.
pub(super) fn leads_to(instruction: &Instruction, registers: &HashSet<RegId>) -> bool {
    let target = instruction.operands.first();
    let is_float = |name: &str| name.starts_with('f') || name.starts_with("bf");
    matches!(target, Some(Operand::Register(reg)) if registers.contains(reg))
        && ARITHMETIC.contains(&&*instruction.opcode)
        && !instruction.modifiers.iter().any(|name| is_float(name))
}

fn registers<'a>(operands: impl Iterator<Item = &'a Operand>) -> impl Iterator<Item = RegId> {
    operands.filter_map(|operand| match operand {
        Operand::Register(reg) => Some(*reg),
        _ => None,
    })
}
