//! The sixteen barriers of a block (PTX ISA, "bar, barrier") and what a warp does at them.
//!
//! A barrier counts warps: all lanes of a warp that have not exited come before the warp has arrived,
//! and a warp of which nothing is left is waited for no more.

use super::cta::Env;
use super::run::Flow;
use super::shadow::Clocks;
use super::warp::{Wait, Warp};
use crate::fault::{Fault, FaultKind};
use crate::program::Kernel;
use crate::program::op::{self, BarrierKind, Op, Reduction, Reg2};

/// Barriers of a block.
pub(super) const COUNT: usize = 16;

/// One barrier.
#[derive(Debug, Clone, Default)]
pub(super) struct Barrier {
    /// Warps that arrived, and of them those that wait.
    pub(super) arrived: u32,
    pub(super) waiting: Vec<usize>,
    /// Warps that must arrive, where the instruction says.
    expected: Option<u32>,
    /// What those that arrived hand over to those that leave.
    pub(super) clocks: Clocks,
    /// Of a reduction: threads, and those of them whose predicate held.
    threads: u32,
    held: u32,
}

/// All barriers of a block.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    all: [Barrier; COUNT],
    /// Barriers at which anyone has arrived.
    in_use: u32,
}

impl Barriers {
    /// True when nobody is at any barrier.
    pub(super) fn is_idle(&self) -> bool {
        self.in_use == 0
    }

    /// Takes away a barrier at which all have arrived; `unfinished` warps have not exited.
    pub(super) fn take_complete(&mut self, unfinished: u32) -> Option<(u8, Barrier)> {
        let complete = |barrier: &Barrier| {
            barrier.arrived > 0 && barrier.arrived >= barrier.expected.unwrap_or(unfinished)
        };
        let id = (0..COUNT).find(|&id| complete(&self.all[id]))?;
        self.in_use &= !(1 << id);
        Some((id as u8, std::mem::take(&mut self.all[id])))
    }

    /// The barriers at which somebody is, in words.
    pub(super) fn describe(&self) -> Vec<String> {
        let used = (0..COUNT).filter(|id| self.in_use >> id & 1 == 1);
        used.map(|id| {
            let barrier = &self.all[id];
            let expected = match barrier.expected {
                Some(warps) => format!("{} threads", warps * 32),
                None => "all threads".to_owned(),
            };
            let arrived = barrier.arrived * 32;
            format!("barrier {id} expects {expected}; {arrived} have arrived")
        })
        .collect()
    }
}

/// Lets a warp that waited at a barrier go on.
pub(super) fn leave(warp: &mut Warp, kernel: &Kernel, id: u8, barrier: &Barrier) {
    let mut gone = Vec::new();
    warp.groups.retain(|group| {
        let leaves = group.wait == Wait::Barrier(id);
        if leaves {
            gone.push(*group);
        }
        !leaves
    });
    for group in gone {
        if let Some(Op::Barrier(op)) = kernel.code.get(group.pc as usize).map(|code| &code.op)
            && let BarrierKind::Reduce(reduction, dest, _) = op.kind
        {
            let holds = match reduction {
                Reduction::And => barrier.held == barrier.threads,
                Reduction::Or => barrier.held != 0,
                Reduction::Count => false,
            };
            match dest {
                Reg2::P(slot) => {
                    warp.put_p(slot, if holds { u32::MAX } else { 0 }, group.mask);
                }
                Reg2::W(slot) => warp.put_w(slot, &[barrier.held; 32], group.mask),
            }
        }
        warp.add(group.pc + 1, group.mask);
    }
}

/// `bar` and `barrier`.
pub(super) fn barrier(
    warp: &mut Warp,
    env: &mut Env<'_>,
    op: &op::Barrier,
    pc: usize,
    mask: u32,
    group: u32,
) -> Result<Flow, Box<Fault>> {
    let undefined = |env: &Env<'_>, message: String, lanes: u32| {
        Err(env.fault(FaultKind::Undefined, message, warp.index, pc, lanes))
    };
    if mask != group {
        let message = "some lanes of a group come to a barrier and others pass it by: its guard must be the same for all";
        return undefined(env, message.to_owned(), group & !mask);
    }
    let lane = mask.trailing_zeros() as usize & 31;
    let id = warp.w[op.id as usize][lane];
    if id as usize >= COUNT {
        return undefined(env, format!("there is no barrier {id}"), mask);
    }
    let count = op.count.map(|slot| warp.w[slot as usize][lane]);
    let threads = env.config.block.iter().product::<u32>();
    if let Some(count) = count
        && (count == 0 || count % 32 != 0 || count > threads.next_multiple_of(32))
    {
        let message = format!("a barrier of {count} threads in a block of {threads}");
        return undefined(env, message, mask);
    }
    let id = id as u8;
    let is_arrival = op.kind == BarrierKind::Arrive;
    if mask != warp.live {
        if op.aligned || is_arrival {
            return Ok(Flow::Wait(Wait::Lanes));
        }
        let same = |other: &&super::warp::Group| other.wait == Wait::Warp(id);
        let here = warp.groups.iter().filter(same);
        if here.fold(mask, |all, group| all | group.mask) != warp.live {
            return Ok(Flow::Wait(Wait::Warp(id)));
        }
    }
    let expected = count.map(|count| count / 32);
    let (arrived, others) = {
        let barrier = &env.barriers.all[usize::from(id)];
        (barrier.arrived, barrier.expected)
    };
    if arrived > 0 && others != expected {
        let message = format!("warps came to barrier {id} with different counts of threads");
        return undefined(env, message, mask);
    }
    arrive(warp, env, op, id, expected);
    if is_arrival {
        return Ok(Flow::Next);
    }
    for group in &mut warp.groups {
        if group.wait == Wait::Warp(id) {
            group.wait = Wait::Barrier(id);
        }
    }
    Ok(Flow::Wait(Wait::Barrier(id)))
}

/// The warp has arrived.
fn arrive(warp: &Warp, env: &mut Env<'_>, op: &op::Barrier, id: u8, expected: Option<u32>) {
    env.shared.shadow.meet_all(warp.index);
    let clocks = env.shared.shadow.clocks_of(warp.index);
    env.barriers.in_use |= 1 << id;
    let barrier = &mut env.barriers.all[usize::from(id)];
    barrier.arrived += 1;
    barrier.expected = expected;
    barrier.clocks.join(&clocks);
    if let BarrierKind::Reduce(_, _, source) = op.kind {
        barrier.threads += warp.live.count_ones();
        barrier.held += (warp.predicate(source) & warp.live).count_ones();
    }
    if op.kind != BarrierKind::Arrive {
        barrier.waiting.push(warp.index);
    }
}
