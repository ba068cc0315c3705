//! What can be changed in one instruction.

use std::collections::HashSet;
use std::sync::Arc;

use super::Kind;
use super::slice::{leads_to, shared_operand};
use crate::ptx::ast::{Instruction, Operand, RegId};

/// How far accesses are shifted: a multiple of every access's size, and less than a row of any tile.
const SHIFT: i64 = 16;

/// Every change of an instruction; `None` takes it out. `addresses` are the registers that lead to
/// addresses in shared memory.
pub(super) fn changes(
    instruction: &Instruction,
    addresses: &HashSet<RegId>,
) -> Vec<(Kind, Option<Instruction>)> {
    let mut all = Vec::new();
    synchronisation(instruction, &mut all);
    bounds(instruction, &mut all);
    shifts(instruction, &mut all);
    if leads_to(instruction, addresses) {
        arithmetic(instruction, &mut all);
    }
    lanes(instruction, &mut all);
    all
}

type Changes = Vec<(Kind, Option<Instruction>)>;

fn with(instruction: &Instruction, change: impl FnOnce(&mut Instruction)) -> Option<Instruction> {
    let mut changed = instruction.clone();
    change(&mut changed);
    Some(changed)
}

fn modifier(instruction: &Instruction, at: usize) -> &str {
    instruction.modifiers.get(at).map_or("", |name| name)
}

fn renamed(instruction: &Instruction, at: usize, name: &str) -> Option<Instruction> {
    with(instruction, |changed| {
        changed.modifiers[at] = Arc::from(name)
    })
}

fn synchronisation(instruction: &Instruction, all: &mut Changes) {
    let opcode = &*instruction.opcode;
    let first = modifier(instruction, 0);
    let of_copies = opcode == "cp" && first == "async";
    let waits = of_copies && matches!(modifier(instruction, 1), "wait_group" | "wait_all");
    let commits = of_copies && matches!(modifier(instruction, 1), "commit_group" | "mbarrier");
    let is_barrier = matches!(opcode, "bar" | "barrier");
    if waits || commits || is_barrier || matches!(opcode, "fence" | "membar" | "mbarrier") {
        all.push((Kind::Remove, None));
    }
    if let (true, Some(Operand::Int(groups))) = (waits, instruction.operands.first()) {
        let change = with(instruction, |changed| {
            changed.operands[0] = Operand::Int(groups + 1);
        });
        all.push((Kind::WaitForFewer, change));
    }
    // Without a number of threads every barrier is for all.
    if let (true, [Operand::Int(id), _, ..]) = (is_barrier, instruction.operands.as_slice())
        && first != "warp"
    {
        let change = with(instruction, |changed| {
            changed.operands[0] = Operand::Int(id ^ 1);
        });
        all.push((Kind::OtherBarrier, change));
    }
    let orders = matches!(
        opcode,
        "fence" | "membar" | "atom" | "red" | "ld" | "st" | "mbarrier"
    );
    for (at, name) in instruction.modifiers.iter().enumerate() {
        match &**name {
            "gpu" | "sys" if orders => {
                all.push((Kind::NarrowScope, renamed(instruction, at, "cta")));
            }
            "gl" if opcode == "membar" => {
                all.push((Kind::NarrowScope, renamed(instruction, at, "cta")));
            }
            "acquire" | "release" | "acq_rel" if orders && opcode != "fence" => {
                all.push((Kind::Relax, renamed(instruction, at, "relaxed")));
            }
            _ => {}
        }
    }
}

/// A comparison that differs from another only where both sides are equal.
fn neighbour(comparison: &str) -> Option<&'static str> {
    Some(match comparison {
        "lt" => "le",
        "le" => "lt",
        "gt" => "ge",
        "ge" => "gt",
        "lo" => "ls",
        "ls" => "lo",
        "hi" => "hs",
        "hs" => "hi",
        _ => return None,
    })
}

fn bounds(instruction: &Instruction, all: &mut Changes) {
    let opcode = &*instruction.opcode;
    let first = modifier(instruction, 0);
    if instruction.guard.is_some() {
        let unguarded = with(instruction, |changed| changed.guard = None);
        match opcode {
            "ld" | "st" | "atom" | "red" | "cp" => all.push((Kind::Unguard, unguarded)),
            "bra" | "ret" | "exit" => {
                all.push((Kind::NeverTaken, None));
                all.push((Kind::AlwaysTaken, unguarded));
            }
            _ => {}
        }
    }
    let integers = ["u16", "s16", "u32", "s32", "u64", "s64"];
    let of_integers = instruction.modifiers.last();
    let of_integers = of_integers.is_some_and(|name| integers.contains(&&**name));
    if let ("setp", true, Some(name)) = (opcode, of_integers, neighbour(first)) {
        all.push((Kind::OffByOne, renamed(instruction, 0, name)));
    }
    // [to], [from], bytes, bytes that are there.
    let is_copy = opcode == "cp" && first == "async" && shared_operand(instruction).is_some();
    if let (true, [_, _, bytes, there]) = (is_copy, instruction.operands.as_slice())
        && bytes != there
        && modifier(instruction, 1) != "bulk"
    {
        let change = with(instruction, |changed| changed.operands.truncate(3));
        all.push((Kind::CopyInFull, change));
    }
}

fn shifts(instruction: &Instruction, all: &mut Changes) {
    let Some(at) = shared_operand(instruction) else {
        return;
    };
    for (kind, by) in [(Kind::ShiftUp, SHIFT), (Kind::ShiftDown, -SHIFT)] {
        let mut changed = instruction.clone();
        if let Some(Operand::Address(_, offset)) = changed.operands.get_mut(at) {
            *offset += by;
            all.push((kind, Some(changed)));
        }
    }
}

/// Changes of the constants on the way to a shared address: of a pair of buffers, these take the other.
fn arithmetic(instruction: &Instruction, all: &mut Changes) {
    let opcode = &*instruction.opcode;
    if opcode == "selp" && instruction.operands.len() == 4 {
        let change = with(instruction, |changed| changed.operands.swap(1, 2));
        all.push((Kind::SwapSelection, change));
    }
    // Constants are last but in `mad`, whose last operand is added.
    let constant = match (opcode, instruction.operands.as_slice()) {
        (
            "and" | "xor" | "shl" | "shr" | "mul" | "mad" | "add" | "sub",
            [_, _, Operand::Int(x)],
        )
        | ("mad", [_, _, Operand::Int(x), _]) => *x,
        _ => return,
    };
    let (kind, value) = match opcode {
        "and" | "xor" => (Kind::ZeroMask, 0),
        "shl" | "shr" => (Kind::Scale, constant + 1),
        "mul" | "mad" => (Kind::Scale, constant.wrapping_mul(2)),
        _ => (Kind::Add, constant.wrapping_add(SHIFT as u64)),
    };
    if value != constant {
        let change = with(instruction, |changed| {
            changed.operands[2] = Operand::Int(value);
        });
        all.push((kind, change));
    }
}

fn lanes(instruction: &Instruction, all: &mut Changes) {
    if let ("shfl", [_, _, Operand::Int(lane), ..]) =
        (&*instruction.opcode, instruction.operands.as_slice())
    {
        // Half as far, and from the nearest the one behind it.
        let other = if *lane > 1 { lane / 2 } else { lane + 1 };
        let change = with(instruction, |changed| {
            changed.operands[2] = Operand::Int(other);
        });
        all.push((Kind::OtherLane, change));
    }
}
