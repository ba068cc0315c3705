//! `mbarrier` objects of shared memory (PTX ISA, "mbarrier").
//!
//! An object is 64 bits that only these instructions may look at. Here they are, from the lowest bit:
//! 20 bits of pending arrivals, 20 bits of expected arrivals, and the number of the phase.

use super::access::{self, Outcome};
use super::address::{self, Place, Targets};
use super::arithmetic::{put, value};
use super::cta::Env;
use super::report;
use super::warp::{Warp, lanes_of};
use crate::fault::FaultKind;
use crate::program::op::{MBarrier, MBarrierKind, Order, Scope};

const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// An object taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Object {
    pending: u64,
    expected: u64,
    phase: u64,
}

impl Object {
    fn unpack(bits: u64) -> Self {
        Self {
            pending: bits & COUNT,
            expected: bits >> COUNT_BITS & COUNT,
            phase: bits >> (2 * COUNT_BITS),
        }
    }

    fn pack(self) -> u64 {
        self.phase << (2 * COUNT_BITS) | self.expected << COUNT_BITS | self.pending
    }

    /// Takes `count` arrivals off; the last one ends the phase.
    fn arrive(&mut self, count: u64) {
        self.pending -= count;
        if self.pending == 0 {
            self.phase = self.phase.wrapping_add(1) & (u64::MAX >> (2 * COUNT_BITS));
            self.pending = self.expected;
        }
    }
}

/// Lanes take their turns in order.
pub(super) fn execute(
    warp: &mut Warp,
    env: &mut Env<'_>,
    op: &MBarrier,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let at = address::addresses(warp, op.address);
    let mut states = [0; 32];
    let mut holds = 0;
    let mut rest = mask;
    while rest != 0 {
        let targets = address::next_targets(op.space, &at, &mut rest);
        if targets.place != Place::Shared {
            let access = report::Access::new(warp, pc, &targets, 8);
            let what = "an mbarrier outside of shared memory";
            return Err(access.fault(env, FaultKind::IllegalAddress, what, targets.lanes));
        }
        let counters = env.counters;
        for lane in lanes_of(targets.lanes) {
            let one = targets.only(lane);
            let operand = op.operand.map(|reg| value(warp, reg, lane));
            let (state, passed) = one_lane(warp, env, op, (pc, lane), &one, operand)?;
            states[lane] = state;
            holds |= u32::from(passed) << lane;
        }
        env.counters = counters;
    }
    if let Some(reg) = op.dest {
        put(warp, reg, &states, mask);
    }
    if let Some(slot) = op.holds {
        warp.put_p(slot, holds, mask);
    }
    Ok(())
}

/// The state before, and whether a test holds.
fn one_lane(
    warp: &mut Warp,
    env: &mut Env<'_>,
    op: &MBarrier,
    (pc, lane): (usize, usize),
    target: &Targets,
    operand: Option<u64>,
) -> Outcome<(u64, bool)> {
    let access = report::Access::new(warp, pc, target, 8);
    let undefined = |env: &Env<'_>, what: String| {
        Err(access.fault(env, FaultKind::Undefined, what, target.lanes))
    };
    if op.kind == MBarrierKind::Init {
        let count = operand.unwrap_or(0);
        if count == 0 || count > COUNT {
            return undefined(env, format!("initialises an mbarrier for {count} arrivals"));
        }
        let object = Object {
            pending: count,
            expected: count,
            phase: 0,
        };
        return put_object(warp, env, (pc, lane), target, object, Order::Weak).map(|()| (0, false));
    }
    let order = match op.kind {
        MBarrierKind::Test | MBarrierKind::TestParity => Order::Acquire(Scope::Block),
        _ => Order::AcquireRelease(Scope::Block),
    };
    access::read(warp, env, target, 8, pc, order)?;
    env.looked();
    let bits = u64::from(env.words[1][lane]) << 32 | u64::from(env.words[0][lane]);
    let mut object = Object::unpack(bits);
    match op.kind {
        MBarrierKind::Test => {
            let phase = Object::unpack(operand.unwrap_or(0)).phase;
            return Ok((bits, object.phase != phase));
        }
        MBarrierKind::TestParity => {
            // The phase of this parity is over when the current one has the other.
            return Ok((bits, object.phase & 1 != operand.unwrap_or(0) & 1));
        }
        MBarrierKind::Invalidate => object = Object::unpack(0),
        MBarrierKind::Arrive { drop, no_complete } => {
            let count = operand.unwrap_or(1);
            if count == 0 || count > object.pending || no_complete && count == object.pending {
                let pending = object.pending;
                return undefined(env, format!("{count} arrivals where {pending} are pending"));
            }
            if drop {
                object.expected -= count;
            }
            object.arrive(count);
        }
        MBarrierKind::AfterCopies { no_increment } => {
            // The arrival follows the lane's copies; here they land first.
            super::copies::land(warp, env, 1 << lane, None);
            if no_increment {
                if object.pending == 0 {
                    return undefined(env, "an arrival where none is pending".to_owned());
                }
                object.arrive(1);
            }
        }
        MBarrierKind::Init => {}
    }
    put_object(warp, env, (pc, lane), target, object, order)?;
    env.changed();
    Ok((bits, false))
}

fn put_object(
    warp: &mut Warp,
    env: &mut Env<'_>,
    (pc, lane): (usize, usize),
    target: &Targets,
    object: Object,
    order: Order,
) -> Outcome<()> {
    let bits = object.pack();
    env.words[0][lane] = bits as u32;
    env.words[1][lane] = (bits >> 32) as u32;
    access::write(warp, env, target, 8, pc, order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_arrival_ends_the_phase() {
        let mut object = Object {
            pending: 3,
            expected: 3,
            phase: 0,
        };
        object.arrive(2);
        assert_eq!((object.pending, object.phase), (1, 0));
        object.arrive(1);
        assert_eq!((object.pending, object.phase), (3, 1));
        assert_eq!(Object::unpack(object.pack()), object);
    }
}
