//! Which register lives in which slot.
//!
//! PTX declares a register for every value. What is needed at a time is a small part of them, and a
//! warp whose files fit the CPU's caches runs several times faster. So registers share slots: two
//! registers of a class may have one slot when the stretches of the text in which they are live
//! (from the first to the last instruction, loops included) do not meet.

use std::collections::BTreeSet;

use crate::ptx::ast::{Body, Instruction, Operand, RegId, Type};
use crate::ptx::cfg;

/// A register file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    P,
    W,
    D,
}

/// The file of a type; `None` for types that no register of a file can hold.
pub(super) fn file_of(ty: Type) -> Option<File> {
    Some(match ty {
        Type::Pred => File::P,
        Type::B64 | Type::U64 | Type::S64 | Type::F64 => File::D,
        Type::B128 | Type::Opaque => return None,
        _ => File::W,
    })
}

/// The slots of a function's registers.
pub(super) struct Slots {
    /// By register.
    pub(super) slot: Vec<u32>,
    /// Slots of each file: P, W, D.
    pub(super) count: [u32; 3],
}

pub(super) fn allocate(body: &Body) -> Slots {
    let spans = live_spans(body);
    let mut order: Vec<usize> = (0..spans.len())
        .filter(|&reg| spans[reg].is_some())
        .collect();
    order.sort_by_key(|&reg| spans[reg].map(|(first, _)| first));
    let mut slot = vec![0; body.registers.len()];
    let mut count = [0; 3];
    // Slots in use by the last instruction that needs them, and free ones, for each file.
    let mut busy: [BTreeSet<(u32, u32)>; 3] = Default::default();
    let mut free: [BTreeSet<u32>; 3] = Default::default();
    for reg in order {
        let (Some((first, last)), Some(file)) = (spans[reg], file_of(body.registers[reg].ty))
        else {
            continue;
        };
        let file = file as usize;
        while let Some(&(until, old)) = busy[file].first() {
            if until >= first {
                break;
            }
            busy[file].remove(&(until, old));
            free[file].insert(old);
        }
        let chosen = free[file].pop_first().unwrap_or_else(|| {
            count[file] += 1;
            count[file] - 1
        });
        busy[file].insert((last, chosen));
        slot[reg] = chosen;
    }
    Slots { slot, count }
}

/// The first and last instruction at which each register holds a value that matters.
fn live_spans(body: &Body) -> Vec<Option<(u32, u32)>> {
    let mut spans: Vec<Option<(u32, u32)>> = vec![None; body.registers.len()];
    let mut extend = |reg: usize, at: usize| {
        let at = at as u32;
        let span = spans[reg].get_or_insert((at, at));
        span.0 = span.0.min(at);
        span.1 = span.1.max(at);
    };
    let blocks = blocks(body);
    let words = body.registers.len().div_ceil(64);
    let mut live_in = vec![vec![0u64; words]; blocks.len()];
    let block_at = |start: usize| blocks.binary_search_by_key(&start, |block| block.0).ok();
    let mut changed = true;
    while changed {
        changed = false;
        for (index, &(start, end)) in blocks.iter().enumerate().rev() {
            let mut live = live_out(body, &live_in, end, block_at, words);
            for at in (start..end).rev() {
                step(&body.instructions[at], &mut live);
            }
            if live != live_in[index] {
                live_in[index] = live;
                changed = true;
            }
        }
    }
    for (index, &(start, end)) in blocks.iter().enumerate() {
        for_bits(&live_in[index], |reg| extend(reg, start));
        for_bits(&live_out(body, &live_in, end, block_at, words), |reg| {
            extend(reg, end - 1)
        });
        for at in start..end {
            let (defs, uses) = defs_and_uses(&body.instructions[at]);
            defs.iter()
                .chain(&uses)
                .for_each(|reg| extend(reg.0 as usize, at));
        }
    }
    spans
}

fn live_out(
    body: &Body,
    live_in: &[Vec<u64>],
    end: usize,
    block_at: impl Fn(usize) -> Option<usize>,
    words: usize,
) -> Vec<u64> {
    let mut live = vec![0u64; words];
    for next in cfg::successors(body, end - 1) {
        if let Some(block) = block_at(next) {
            live.iter_mut()
                .zip(&live_in[block])
                .for_each(|(live, next)| *live |= next);
        }
    }
    live
}

/// Liveness before an instruction from that after it. A guarded write may leave the old value.
fn step(instruction: &Instruction, live: &mut [u64]) {
    let (defs, uses) = defs_and_uses(instruction);
    if instruction.guard.is_none() {
        for reg in defs {
            live[reg.0 as usize / 64] &= !(1 << (reg.0 % 64));
        }
    } else {
        for reg in defs {
            live[reg.0 as usize / 64] |= 1 << (reg.0 % 64);
        }
    }
    for reg in uses {
        live[reg.0 as usize / 64] |= 1 << (reg.0 % 64);
    }
}

fn for_bits(words: &[u64], mut each: impl FnMut(usize)) {
    for (at, &word) in words.iter().enumerate() {
        let mut rest = word;
        while rest != 0 {
            each(at * 64 + rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
    }
}

/// Basic blocks as [start, end) of instructions.
fn blocks(body: &Body) -> Vec<(usize, usize)> {
    let count = body.instructions.len();
    let mut starts: BTreeSet<usize> = body
        .labels
        .iter()
        .map(|label| label.target as usize)
        .collect();
    starts.insert(0);
    for (at, instruction) in body.instructions.iter().enumerate() {
        if matches!(
            &*instruction.opcode,
            "bra" | "brx" | "ret" | "exit" | "trap"
        ) {
            starts.insert(at + 1);
        }
    }
    let starts: Vec<usize> = starts.into_iter().filter(|&start| start < count).collect();
    let ends = starts.iter().skip(1).copied().chain([count]);
    starts.iter().copied().zip(ends).collect()
}

/// Instructions whose first operand is read, not written.
fn has_no_destination(opcode: &str) -> bool {
    matches!(
        opcode,
        "st" | "red"
            | "bra"
            | "brx"
            | "bar"
            | "barrier"
            | "cp"
            | "membar"
            | "fence"
            | "prefetch"
            | "prefetchu"
            | "exit"
            | "ret"
            | "trap"
            | "nanosleep"
            | "stmatrix"
            | "discard"
            | "applypriority"
            | "pmevent"
            | "brkpt"
            | "call"
    )
}

/// The registers an instruction writes, and those it reads.
fn defs_and_uses(instruction: &Instruction) -> (Vec<RegId>, Vec<RegId>) {
    let (mut defs, mut uses) = (Vec::new(), Vec::new());
    uses.extend(instruction.guard.map(|guard| guard.reg));
    // Of barriers, only a reduction gives a result.
    let reduces = instruction
        .modifiers
        .iter()
        .any(|modifier| &**modifier == "red");
    let no_destination = has_no_destination(&instruction.opcode) && !reduces;
    for (at, operand) in instruction.operands.iter().enumerate() {
        let written = at == 0 && !no_destination && !matches!(operand, Operand::Address(..));
        registers(operand, if written { &mut defs } else { &mut uses });
    }
    (defs, uses)
}

fn registers(operand: &Operand, found: &mut Vec<RegId>) {
    use crate::ptx::ast::AddressBase;
    match operand {
        Operand::Register(reg) | Operand::NotRegister(reg) => found.push(*reg),
        Operand::Address(AddressBase::Register(reg), _) => found.push(*reg),
        Operand::Address(AddressBase::Tuple(list), _)
        | Operand::Vector(list)
        | Operand::List(list) => list.iter().for_each(|operand| registers(operand, found)),
        Operand::Pair(a, b) => {
            registers(a, found);
            registers(b, found);
        }
        _ => {}
    }
}
