//! The first read of a compare-and-swap loop.
//!
//! Such a loop reads a value, computes the next one and swaps where the value is still there; CUDA's headers add halves
//! atomically in this way, with a plain `ld`. It does not matter what that read finds, because the swap looks
//! again: it must not count as a race with the swaps of others.

use std::collections::HashSet;

use crate::program::op::{Decoded, Op, Order, Scope};
use crate::ptx::ast::{AddressBase, Instruction, Operand, RegId};

/// Lets every plain load take part that reads where a compare-and-swap of the same kernel goes.
pub(super) fn order(instructions: &[Instruction], code: &mut [Decoded]) {
    let is_swap = |instruction: &&Instruction| {
        &*instruction.opcode == "atom" && instruction.modifiers.iter().any(|word| &**word == "cas")
    };
    let swaps: HashSet<_> = instructions
        .iter()
        .filter(is_swap)
        .filter_map(address)
        .collect();
    if swaps.is_empty() {
        return;
    }
    for (instruction, decoded) in instructions.iter().zip(code) {
        if let Op::Load(load) = &mut decoded.op
            && load.order == Order::Weak
            && address(instruction).is_some_and(|address| swaps.contains(&address))
        {
            load.order = Order::Relaxed(Scope::Device);
        }
    }
}

/// The register and offset of the address an instruction accesses.
fn address(instruction: &Instruction) -> Option<(RegId, i64)> {
    instruction
        .operands
        .iter()
        .find_map(|operand| match operand {
            Operand::Address(AddressBase::Register(register), offset) => Some((*register, *offset)),
            _ => None,
        })
}
