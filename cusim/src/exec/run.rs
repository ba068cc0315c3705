//! The interpreter's loop.

use super::cta::Env;
use super::product::Operands;
use super::warp::{Group, Wait, Warp, lanes_of};
use super::{
    access, arithmetic, atomic, barrier, collective, copies, mbarrier, numeric, system, tensor,
};
use crate::fault::{Fault, FaultKind};
use crate::program::op::{Decoded, Element, Mma, Op, Reg, Slot};

/// What an instruction does to the lanes that ran it.
pub(super) enum Flow {
    /// To the next instruction.
    Next,
    /// All to the same place.
    Jump(u32),
    /// These lanes go to these places.
    Split(Vec<(u32, u32)>),
    /// It has not run, or is not over, before others come.
    Wait(Wait),
    /// These lanes exit, the others go on.
    Exit(u32),
}

/// Runs a warp until it waits for others, is done, or has had its turn.
pub(super) fn run(warp: &mut Warp, env: &mut Env<'_>, turn: u32) -> Result<(), Box<Fault>> {
    let kernel = env.kernel;
    let mut left = turn;
    while let Some(mut index) = warp.pick(&kernel.ranks) {
        // As long as the group stays as it is, nothing need be chosen.
        loop {
            if left == 0 {
                return Ok(());
            }
            left = left.saturating_sub(1 + std::mem::take(&mut env.penalty));
            let Group { pc, mask, .. } = warp.groups[index];
            let flow = match kernel.code.get(pc as usize) {
                Some(decoded) if env.details.is_some() => {
                    profiled_step(warp, env, decoded, pc as usize, mask)?
                }
                Some(decoded) => step(warp, env, decoded, pc as usize, mask)?,
                None => Flow::Exit(mask),
            };
            let alone = warp.groups.len() == 1;
            match flow {
                Flow::Next if alone => warp.groups[index].pc = pc + 1,
                Flow::Jump(target) if alone => warp.groups[index].pc = target,
                Flow::Next | Flow::Jump(_) => {
                    let target = if let Flow::Jump(target) = flow {
                        target
                    } else {
                        pc + 1
                    };
                    warp.groups.swap_remove(index);
                    warp.add(target, mask);
                    match warp.pick(&kernel.ranks) {
                        Some(next) => index = next,
                        None => break,
                    }
                }
                Flow::Split(parts) => {
                    warp.groups.swap_remove(index);
                    parts.iter().for_each(|&(pc, mask)| warp.add(pc, mask));
                    break;
                }
                Flow::Wait(wait) => {
                    warp.groups[index].wait = wait;
                    break;
                }
                Flow::Exit(lanes) => {
                    warp.groups[index].pc = pc + 1;
                    exit(warp, env, lanes);
                    break;
                }
            }
        }
    }
    if warp.is_done() || warp.is_at_barrier() {
        Ok(())
    } else {
        Err(env.stuck(warp))
    }
}

/// Copies of lanes that are gone land as if they had waited.
fn exit(warp: &mut Warp, env: &mut Env<'_>, lanes: u32) {
    copies::land(warp, env, lanes, None);
    env.shared.shadow.exit(warp.index, lanes);
    warp.exit(lanes);
    env.changed();
}

/// What an instruction adds to the counters is its own.
fn profiled_step(
    warp: &mut Warp,
    env: &mut Env<'_>,
    decoded: &Decoded,
    pc: usize,
    group: u32,
) -> Result<Flow, Box<Fault>> {
    let before = env.counters;
    let flow = step(warp, env, decoded, pc, group)?;
    let mut own = env.counters;
    own -= before;
    if let Some(details) = &mut env.details {
        details.instructions[pc] += own;
    }
    Ok(flow)
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
    env.counters.count(decoded.class, mask);
    if let Op::Branch(target) = decoded.op {
        return Ok(branch(env, target, pc as u32 + 1, mask, group));
    }
    if env.watches_numbers
        && mask != 0
        && let Some(numeric) = &decoded.numeric
    {
        return numeric::execute(warp, env, decoded, numeric, pc, mask).map(|()| Flow::Next);
    }
    if mask == 0 || arithmetic::execute(warp, &decoded.op, mask) {
        return Ok(Flow::Next);
    }
    match &decoded.op {
        Op::Load(load) => access::load(warp, env, load, pc, mask)?,
        Op::Store(store) => access::store(warp, env, store, pc, mask)?,
        Op::CopyAsync(copy) => copies::copy_async(warp, env, copy, pc, mask)?,
        Op::CopyCommit => warp.copies.commit(lanes_of(mask)),
        Op::CopyWait(pending) => copies::land(warp, env, mask, *pending),
        Op::Mma(products) => {
            if mask != u32::MAX {
                return collective::whole_warp(warp, env, pc, mask, group);
            }
            let mut watched = Vec::new();
            if env.config.options.checks.arithmetic {
                let floats = products
                    .iter()
                    .filter(|mma| !matches!(mma.element, Element::Int8(_)));
                watched.extend(floats.map(|mma| (mma, Operands::of(warp, mma))));
            }
            tensor::mma(warp, products, env.config.options.mma);
            for (mma, operands) in watched {
                numeric::check_product(warp, env, mma, &operands, pc)?;
            }
            env.counters.mma_flops += products.iter().map(Mma::flops).sum::<u64>();
        }
        Op::LoadFragment(access) | Op::StoreFragment(access) => {
            if mask != u32::MAX {
                return collective::whole_warp(warp, env, pc, mask, group);
            }
            let is_store = matches!(decoded.op, Op::StoreFragment(_));
            tensor::move_fragment(warp, env, access, is_store, pc)?;
        }
        Op::LoadMatrix(_) | Op::StoreMatrix(_) | Op::MoveMatrix(..) => {
            if mask != u32::MAX {
                return collective::whole_warp(warp, env, pc, mask, group);
            }
            tensor::move_matrices(warp, env, &decoded.op, pc)?;
        }
        op => return seldom(warp, env, op, pc, (mask, group)),
    }
    Ok(Flow::Next)
}

/// Instructions that do not stand in inner loops, or take long themselves.
fn seldom(
    warp: &mut Warp,
    env: &mut Env<'_>,
    op: &Op,
    pc: usize,
    (mask, group): (u32, u32),
) -> Result<Flow, Box<Fault>> {
    match op {
        Op::BranchTable(slot, targets) => {
            return branch_table(warp, env, *slot, targets, pc, mask, group);
        }
        Op::Exit => return Ok(Flow::Exit(mask)),
        Op::Trap => {
            return Err(env.fault(FaultKind::Trap, "the kernel trapped", warp.index, pc, mask));
        }
        Op::Barrier(op) => return barrier::barrier(warp, env, op, pc, mask, group),
        Op::WarpBarrier(members) => {
            let flow = collective::rendezvous(warp, env, *members, pc, mask, group)?;
            if matches!(flow, Flow::Next) {
                env.shared.shadow.meet(warp.index, mask);
            }
            return Ok(flow);
        }
        Op::Shuffle(shuffle) => {
            let flow = collective::rendezvous(warp, env, shuffle.members, pc, mask, group)?;
            if matches!(flow, Flow::Next) {
                collective::shuffle(warp, shuffle, mask);
            }
            return Ok(flow);
        }
        Op::Vote(_, _, _, members)
        | Op::Match(_, _, _, members, _)
        | Op::Redux(_, _, _, members)
        | Op::Elect(_, _, members) => {
            let flow = collective::rendezvous(warp, env, *members, pc, mask, group)?;
            if matches!(flow, Flow::Next) {
                collective::combine(warp, op, mask);
            }
            return Ok(flow);
        }
        Op::Atomic(op) => atomic::atomic(warp, env, op, pc, mask)?,
        Op::MBarrier(op) => mbarrier::execute(warp, env, op, pc, mask)?,
        Op::Fence(is_wide) => env.shared.shadow.fence(warp.index, mask, *is_wide),
        Op::System(call) => system::call(warp, env, call, pc, mask)?,
        Op::ActiveMask(slot) => warp.put_w(*slot, &[mask; 32], mask),
        Op::Clock(reg) => {
            let clock = env.counters.instructions;
            match reg {
                Reg::W(slot) => warp.put_w(*slot, &[clock as u32; 32], mask),
                Reg::D(slot) => warp.put_d(*slot, &[clock; 32], mask),
            }
        }
        // Hints; the rest has been executed before.
        _ => {}
    }
    Ok(Flow::Next)
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
            return Err(env.fault(FaultKind::Undefined, message, warp.index, pc, 1 << lane));
        };
        add(target, 1 << lane);
    }
    if taken != group {
        add(pc as u32 + 1, group & !taken);
    }
    env.counters.divergent_branches += u64::from(parts.len() > 1);
    Ok(Flow::Split(parts))
}
