//! The interpreter's loop.

use super::access;
use super::cta::Env;
use super::warp::{Group, State, Warp, lanes_of};
use super::{lanes, tensor};
use crate::fault::{Fault, FaultKind};
use crate::program::op::{Decoded, Op, Reg, SetTo, Slot};

/// What an instruction does to the lanes that ran it.
pub(super) enum Flow {
    /// To the next instruction.
    Next,
    /// All to the same place.
    Jump(u32),
    /// These lanes jump, the others go on.
    Split(Vec<(u32, u32)>),
    /// It cannot run before other lanes of the warp come.
    Wait,
    /// These lanes exit, the others go on.
    Exit(u32),
    /// The warp waits at this barrier.
    Barrier(usize),
}

/// Runs a warp until it waits for others, is done, or has had its turn.
pub(super) fn run(warp: &mut Warp, env: &mut Env<'_>, turn: u32) -> Result<(), Box<Fault>> {
    let kernel = env.kernel;
    let mut left = turn;
    while let Some(index) = warp.pick(&kernel.ranks) {
        let mut index = index;
        loop {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            let Group { pc, mask, .. } = warp.groups[index];
            let flow = match kernel.code.get(pc as usize) {
                Some(decoded) => step(warp, env, decoded, pc as usize, mask)?,
                None => Flow::Exit(mask),
            };
            let alone = warp.groups.len() == 1;
            match flow {
                Flow::Next => warp.groups[index].pc = pc + 1,
                Flow::Jump(target) => warp.groups[index].pc = target,
                Flow::Split(parts) => {
                    warp.groups.swap_remove(index);
                    for (pc, mask) in parts {
                        warp.groups.push(Group {
                            pc,
                            mask,
                            waiting: false,
                        });
                        warp.merge(warp.groups.len() - 1);
                    }
                    break;
                }
                Flow::Wait => {
                    warp.groups[index].waiting = true;
                    break;
                }
                Flow::Exit(lanes) => {
                    warp.groups[index].pc = pc + 1;
                    // Copies of lanes that are gone land as if they had waited.
                    access::land(warp, env, lanes, None, pc as usize);
                    warp.exit(lanes);
                    break;
                }
                Flow::Barrier(id) => {
                    warp.groups[index].pc = pc + 1;
                    warp.state = State::Barrier(id, pc as usize);
                    return Ok(());
                }
            }
            if !alone {
                warp.merge(index);
                match warp.pick(&kernel.ranks) {
                    Some(next) => index = next,
                    None => break,
                }
            }
        }
        if warp.state == State::Done {
            return Ok(());
        }
    }
    if warp.state == State::Done {
        Ok(())
    } else {
        Err(env.stuck(warp))
    }
}

fn step(
    warp: &mut Warp,
    env: &mut Env<'_>,
    decoded: &Decoded,
    pc: usize,
    group: u32,
) -> Result<Flow, Box<Fault>> {
    let mask = match decoded.guard {
        Some(guard) => group & warp.predicate(guard),
        None => group,
    };
    env.counters.count(decoded.class);
    match &decoded.op {
        Op::Branch(target) => return Ok(branch(env, *target, pc as u32 + 1, mask, group)),
        Op::BranchTable(slot, targets) => {
            return branch_table(warp, env, *slot, targets, pc, mask, group);
        }
        Op::Exit => {
            return Ok(if mask == 0 {
                Flow::Next
            } else {
                Flow::Exit(mask)
            });
        }
        _ if mask == 0 => return Ok(Flow::Next),
        Op::Trap => return Err(env.fault(FaultKind::Trap, "the kernel trapped", warp, pc, mask)),
        Op::Barrier { id, count } => {
            let count = count.map(|slot| warp.w[slot as usize][mask.trailing_zeros() as usize]);
            let id = warp.w[*id as usize][mask.trailing_zeros() as usize];
            return barrier(warp, env, (id, count, true), pc, mask);
        }
        Op::Arrive { id, count } => {
            let count = warp.w[*count as usize][mask.trailing_zeros() as usize];
            let id = warp.w[*id as usize][mask.trailing_zeros() as usize];
            return barrier(warp, env, (id, Some(count), false), pc, mask);
        }
        Op::WarpBarrier(members) => return lanes::rendezvous(warp, env, *members, pc, mask, group),
        Op::Shuffle(shuffle) => {
            let flow = lanes::rendezvous(warp, env, shuffle.members, pc, mask, group)?;
            if matches!(flow, Flow::Next) {
                lanes::shuffle(warp, shuffle, mask);
            }
            return Ok(flow);
        }
        Op::Vote(_, _, _, members)
        | Op::Match(_, _, _, members, _)
        | Op::Redux(_, _, _, members) => {
            let flow = lanes::rendezvous(warp, env, *members, pc, mask, group)?;
            if matches!(flow, Flow::Next) {
                lanes::collective(warp, &decoded.op, mask);
            }
            return Ok(flow);
        }
        Op::Mma(mma) => {
            if mask != u32::MAX {
                return lanes::whole_warp(warp, env, pc, mask, group);
            }
            tensor::mma(warp, mma);
            env.counters.mma_flops += 2 * 16 * 8 * (mma.a.len() as u64 * 4);
        }
        Op::LoadMatrix(load) => {
            if mask != u32::MAX {
                return lanes::whole_warp(warp, env, pc, mask, group);
            }
            tensor::load_matrix(warp, env, load, pc)?;
        }
        Op::Load(load) => access::load(warp, env, load, pc, mask)?,
        Op::Store(store) => access::store(warp, env, store, pc, mask)?,
        Op::Atomic(atomic) => access::atomic(warp, env, atomic, pc, mask)?,
        Op::CopyAsync(copy) => access::copy_async(warp, env, copy, pc, mask)?,
        Op::CopyCommit => warp.copies.commit(lanes_of(mask)),
        Op::CopyWait(pending) => access::land(warp, env, mask, *pending, pc),
        Op::ActiveMask(slot) => warp.put_w(*slot, &[mask; 32], mask),
        Op::Clock(reg) => {
            let clock = env.counters.instructions;
            match reg {
                Reg::W(slot) => warp.put_w(*slot, &[clock as u32; 32], mask),
                Reg::D(slot) => warp.put_d(*slot, &[clock; 32], mask),
            }
        }
        Op::Nothing => {}
        op => arithmetic(warp, op, mask),
    }
    Ok(Flow::Next)
}

#[inline]
fn arithmetic(warp: &mut Warp, op: &Op, mask: u32) {
    let mut w = [0u32; 32];
    let mut d = [0u64; 32];
    let at = |slot: &Slot| *slot as usize;
    match op {
        Op::W1(f, to, a) => {
            f(&mut w, &warp.w[at(a)]);
            warp.put_w(*to, &w, mask);
        }
        Op::W2(f, to, a, b) => {
            f(&mut w, &warp.w[at(a)], &warp.w[at(b)]);
            warp.put_w(*to, &w, mask);
        }
        Op::W3(f, to, a, b, c) => {
            f(&mut w, &warp.w[at(a)], &warp.w[at(b)], &warp.w[at(c)]);
            warp.put_w(*to, &w, mask);
        }
        Op::D1(f, to, a) => {
            f(&mut d, &warp.d[at(a)]);
            warp.put_d(*to, &d, mask);
        }
        Op::D2(f, to, a, b) => {
            f(&mut d, &warp.d[at(a)], &warp.d[at(b)]);
            warp.put_d(*to, &d, mask);
        }
        Op::D3(f, to, a, b, c) => {
            f(&mut d, &warp.d[at(a)], &warp.d[at(b)], &warp.d[at(c)]);
            warp.put_d(*to, &d, mask);
        }
        Op::Narrow(f, to, a) => {
            f(&mut w, &warp.d[at(a)]);
            warp.put_w(*to, &w, mask);
        }
        Op::Widen(f, to, a) => {
            f(&mut d, &warp.w[at(a)]);
            warp.put_d(*to, &d, mask);
        }
        Op::Widen2(f, to, a, b) => {
            f(&mut d, &warp.w[at(a)], &warp.w[at(b)]);
            warp.put_d(*to, &d, mask);
        }
        Op::Widen2Add(f, to, a, b, c) => {
            f(&mut d, &warp.w[at(a)], &warp.w[at(b)], &warp.d[at(c)]);
            warp.put_d(*to, &d, mask);
        }
        Op::Shift64(f, to, a, b) => {
            f(&mut d, &warp.d[at(a)], &warp.w[at(b)]);
            warp.put_d(*to, &d, mask);
        }
        Op::Slow1(f, to, a) => {
            for lane in lanes_of(mask) {
                d[lane] = f(value(warp, *a, lane));
            }
            put(warp, *to, &d, mask);
        }
        Op::Slow(f, to, sources) => {
            for lane in lanes_of(mask) {
                let mut values = [0; 4];
                for (value_, source) in values.iter_mut().zip(sources) {
                    *value_ = value(warp, *source, lane);
                }
                d[lane] = f(&values);
            }
            put(warp, *to, &d, mask);
        }
        Op::SetW(f, a, b, to) => {
            let result = f(&warp.w[at(a)], &warp.w[at(b)]);
            set(warp, to, result, mask);
        }
        Op::SetD(f, a, b, to) => {
            let result = f(&warp.d[at(a)], &warp.d[at(b)]);
            set(warp, to, result, mask);
        }
        Op::SelectW(to, a, b, p) => {
            let chosen = warp.predicate(*p);
            let (a, b) = (&warp.w[at(a)], &warp.w[at(b)]);
            for (lane, to) in w.iter_mut().enumerate() {
                *to = if chosen >> lane & 1 == 1 {
                    a[lane]
                } else {
                    b[lane]
                };
            }
            warp.put_w(*to, &w, mask);
        }
        Op::SelectD(to, a, b, p) => {
            let chosen = warp.predicate(*p);
            let (a, b) = (&warp.d[at(a)], &warp.d[at(b)]);
            for (lane, to) in d.iter_mut().enumerate() {
                *to = if chosen >> lane & 1 == 1 {
                    a[lane]
                } else {
                    b[lane]
                };
            }
            warp.put_d(*to, &d, mask);
        }
        Op::P2(f, to, a, b) => {
            let result = f(warp.p[at(a)], warp.p[at(b)]);
            warp.put_p(*to, result, mask);
        }
        Op::Split64([lo, hi], a) => {
            let source = warp.d[at(a)];
            if let Some(lo) = lo {
                warp.put_w(*lo, &source.map(|x| x as u32), mask);
            }
            if let Some(hi) = hi {
                warp.put_w(*hi, &source.map(|x| (x >> 32) as u32), mask);
            }
        }
        Op::Split32([lo, hi], a) => {
            let source = warp.w[at(a)];
            if let Some(lo) = lo {
                warp.put_w(*lo, &source.map(|x| x & 0xffff), mask);
            }
            if let Some(hi) = hi {
                warp.put_w(*hi, &source.map(|x| x >> 16), mask);
            }
        }
        // `step` has taken every other operation.
        _ => {}
    }
}

/// The value of a register in one lane.
pub(super) fn value(warp: &Warp, reg: Reg, lane: usize) -> u64 {
    match reg {
        Reg::W(slot) => warp.w[slot as usize][lane].into(),
        Reg::D(slot) => warp.d[slot as usize][lane],
    }
}

/// Keeps results of active lanes, cut to the register.
pub(super) fn put(warp: &mut Warp, to: Reg, values: &[u64; 32], mask: u32) {
    match to {
        Reg::W(slot) => warp.put_w(slot, &values.map(|value| value as u32), mask),
        Reg::D(slot) => warp.put_d(slot, values, mask),
    }
}

fn set(warp: &mut Warp, to: &SetTo, result: u32, mask: u32) {
    let combined = |result: u32| match to.combine {
        Some((f, slot, negated)) => f(result, warp.predicate((slot, negated))),
        None => result,
    };
    let (dest, complement) = (combined(result), combined(!result));
    if let Some(slot) = to.dest {
        warp.put_p(slot, dest, mask);
    }
    if let Some(slot) = to.complement {
        warp.put_p(slot, complement, mask);
    }
}

fn branch(env: &mut Env<'_>, target: u32, next: u32, taken: u32, group: u32) -> Flow {
    match taken {
        0 => Flow::Next,
        _ if taken == group => Flow::Jump(target),
        _ => {
            env.counters.divergent_branches += 1;
            Flow::Split(vec![(target, taken), (next, group & !taken)])
        }
    }
}

fn branch_table(
    warp: &Warp,
    env: &mut Env<'_>,
    slot: Slot,
    targets: &[u32],
    pc: usize,
    taken: u32,
    group: u32,
) -> Result<Flow, Box<Fault>> {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    let mut add = |target: u32, lanes: u32| match parts.iter_mut().find(|part| part.0 == target) {
        Some(part) => part.1 |= lanes,
        None => parts.push((target, lanes)),
    };
    for lane in lanes_of(taken) {
        let index = warp.w[slot as usize][lane] as usize;
        let Some(&target) = targets.get(index) else {
            let message = format!("the index {index} is past the end of the branch table");
            return Err(env.fault(FaultKind::Undefined, message, warp, pc, 1 << lane));
        };
        add(target, 1 << lane);
    }
    if taken != group {
        add(pc as u32 + 1, group & !taken);
    }
    env.counters.divergent_branches += u64::from(parts.len() > 1);
    Ok(Flow::Split(parts))
}

/// All lanes of the warp that have not exited arrive together.
fn barrier(
    warp: &mut Warp,
    env: &mut Env<'_>,
    (id, count, waits): (u32, Option<u32>, bool),
    pc: usize,
    mask: u32,
) -> Result<Flow, Box<Fault>> {
    if mask != warp.live {
        return Ok(Flow::Wait);
    }
    let undefined = |env: &Env<'_>, message: String| {
        Err(env.fault(FaultKind::Undefined, message, warp, pc, mask))
    };
    if id as usize >= env.barriers.len() {
        return undefined(env, format!("there is no barrier {id}"));
    }
    if count.is_some_and(|count| count == 0 || count % 32 != 0) {
        let message = format!(
            "{} threads are no whole number of warps",
            count.unwrap_or(0)
        );
        return undefined(env, message);
    }
    let clocks = env.shared.shadow.clocks_of(warp.index);
    let barrier = &mut env.barriers[id as usize];
    barrier.arrive(warp.index, waits, count.map(|count| count / 32), clocks);
    if waits {
        return Ok(Flow::Barrier(id as usize));
    }
    env.shared.shadow.advance(warp.index);
    Ok(Flow::Next)
}
